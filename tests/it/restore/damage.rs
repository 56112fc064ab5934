//! Damage in the repository: the restore refuses, and nothing that could be started is left.

use super::repo::{Damage, damage, resealed, swap};
use super::*;

/// A restore that has to fail with status 1 and a hint, and leave nothing that starts.
#[track_caller]
fn refuses(archive: &Archive, id: &str, what: &str) {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let outcome = restoring(archive, &data, &[id]).go();
    assert_eq!(outcome.code(), Some(1), "{what}\n{outcome}");
    assert!(outcome.clone().told().stderr.contains("hint:"), "{what}: no hint\n{outcome}");
    assert!(!data.join("global/pg_control").exists(), "{what}");
    assert_not_startable(scratch, &data);
}

#[test]
fn a_damaged_pack_is_found_while_restoring() {
    let story = Story::get();
    let size = {
        let archive = story.archive();
        let pack = live::parts_of(archive.root(), &story.b, "pack").remove(0);
        pack.metadata().expect("look at the pack").len() as i64
    };
    for kind in [
        Damage::Flip(600),
        Damage::Flip(size / 2),
        Damage::Flip(size / 3),
        Damage::Flip(-9),
        Damage::Truncate(size / 2),
        Damage::Truncate(-50),
        Damage::ZeroTail(5000),
        Damage::Empty,
        Damage::Remove,
    ] {
        let archive = story.archive();
        damage(&live::parts_of(archive.root(), &story.b, "pack")[0], kind);
        refuses(&archive, &story.b, &format!("pack: {kind:?}"));
    }
}

#[test]
fn packs_of_two_backups_that_were_exchanged_are_found_out() {
    let story = Story::get();
    let archive = story.archive();
    let pack = |id: &str| live::parts_of(archive.root(), id, "pack").remove(0);
    swap(&pack(&story.a), &pack(&story.b));
    refuses(&archive, &story.a, "exchanged packs");
    refuses(&archive, &story.b, "exchanged packs");
}

#[test]
fn a_damaged_manifest_or_record_is_found_before_anything_is_written() {
    let story = Story::get();
    for kind in [
        Damage::Flip(40),
        Damage::Flip(700),
        Damage::Flip(-9),
        Damage::Truncate(-50),
        Damage::Truncate(100),
        Damage::Empty,
        Damage::Remove,
    ] {
        let archive = story.archive();
        damage(&live::parts_of(archive.root(), &story.b, "manifest")[0], kind);
        refuses(&archive, &story.b, &format!("manifest: {kind:?}"));
        if !matches!(kind, Damage::Remove) {
            let archive = story.archive();
            damage(&live::record_of(archive.root(), &story.b), kind);
            refuses(&archive, &story.b, &format!("record: {kind:?}"));
        }
    }
}

#[test]
fn damage_to_one_backup_does_not_touch_another() {
    let story = Story::get();
    let archive = story.archive();
    damage(&live::parts_of(archive.root(), &story.b, "pack")[0], Damage::Remove);
    let server = restore(&archive, &[&story.a]).recovered();
    assert_eq!(rows(&server), ALL);
}

#[test]
fn a_damaged_record_of_one_backup_does_not_keep_another_from_being_restored() {
    let story = Story::get();
    let archive = story.archive();
    damage(&live::record_of(archive.root(), &story.b), Damage::Flip(-9));
    let server = restore(&archive, &[&story.a]).recovered();
    assert_eq!(rows(&server), ALL);
}

#[test]
fn damaged_wal_of_the_backup_itself_is_found_while_restoring() {
    let story = Story::get();
    for kind in [Damage::Flip(600), Damage::Truncate(-20), Damage::Remove] {
        let archive = story.archive();
        let record = live::content(&live::record_of(archive.root(), &story.b));
        let record: serde_json::Value = serde_json::from_str(&record).expect("a record");
        damage(&archive.object(&live::text(&record["wal"], "first")), kind);
        refuses(&archive, &story.b, &format!("first segment: {kind:?}"));
    }
}

#[test]
fn a_repository_that_is_gone_is_an_error_and_no_end_of_the_archive() {
    let story = Story::get();
    let archive = story.archive();
    let root = archive.root().to_owned();
    let away = root.with_extension("away");
    std::fs::rename(&root, &away).expect("move the repository away");
    refuses(&archive, &story.b, "no repository");
    std::fs::create_dir(&root).expect("make an empty directory");
    refuses(&archive, &story.b, "an empty directory in its place");
}

#[test]
fn a_manifest_that_points_out_of_the_target_is_refused() {
    let story = Story::get();
    let scratch = Scratch::new();
    let victim = scratch.join("victim");
    let absolute = victim.display().to_string();
    for path in ["../../victim", "base/../../../victim", &absolute, "base//1", "./base/1/x", ""] {
        let archive = story.archive();
        forge(archive.root(), &story.b, |text| {
            let old = "\"path\":\"base/1/PG_VERSION\"";
            assert!(text.contains(old), "no such line");
            text.replacen(old, &format!("\"path\":{path:?}"), 1)
        });
        let to = scratch.mkdir("nested").join(format!("data{}", path.len()));
        let outcome = restoring(&archive, &to, &[&story.b]).go().is(1).told();
        assert!(outcome.stderr.contains("outside"), "refused for another reason\n{outcome}");
        assert!(!victim.exists() && !scratch.join("nested/victim").exists(), "{path}");
        assert!(!to.join("global/pg_control").exists(), "{path}");
    }
}

/// Rewrites the manifest of a backup and everything that vouches for it, as somebody with access to
/// the repository could.
fn forge(root: &Path, id: &str, change: impl Fn(String) -> String) {
    let part = live::parts_of(root, id, "manifest").remove(0);
    let text = change(live::content(&part));
    let bytes = resealed(&part, text.as_bytes());
    let record = live::record_of(root, id);
    let mut fields: serde_json::Value = serde_json::from_str(&live::content(&record)).expect("a record");
    fields["manifest"][0]["size"] = bytes.len().into();
    fields["manifest"][0]["sha256"] = sha256(&bytes).into();
    std::fs::remove_file(&part).expect("remove the manifest");
    scratch::write(&part, bytes);
    let bytes = resealed(&record, fields.to_string().as_bytes());
    std::fs::remove_file(&record).expect("remove the record");
    scratch::write(&record, bytes);
}

#[test]
fn a_data_directory_that_cannot_be_read_stops_nobody_and_is_told() {
    let story = Story::get();
    let mut archive = story.archive();
    let scratch = Scratch::new();
    let broken = DataDir::create(&scratch, "broken", 15, story.server.system_identifier(), 1);
    archive.set_pgdata(&broken.path);
    let control = broken.path.join("global/pg_control");
    archive.walkeep(&["list"]).ok();
    Run::new("chmod").arg("000").arg(&control).go().ok();
    for verb in ["list", "verify"] {
        archive.walkeep(&[verb]).ok().says("pg_control").says("newest");
    }
    restoring(&archive, &scratch.join("data"), &[]).go().ok().says("pg_control");
    // Without one nothing is to be told.
    std::fs::remove_file(&control).expect("remove it");
    let outcome = archive.walkeep(&["list"]).ok();
    assert!(!outcome.stderr.contains("pg_control"), "{outcome}");
}
