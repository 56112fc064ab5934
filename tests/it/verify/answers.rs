//! The three answers, what they say, and what is read.

use super::*;

fn bytes(report: &Value) -> u64 {
    report["checked"]["bytes"].as_u64().expect("a number")
}

#[test]
fn a_whole_repository_is_good_and_everything_in_it_was_read() {
    let saga = Saga::get();
    let archive = saga.archive();
    let report = verify(&archive, &[]);
    assert_eq!(report["checked"]["backups"], 4, "{report}");
    // Every frame that a backup needs, every manifest, all WAL.
    let frames: u64 = needed(&archive)
        .values()
        .flat_map(|blocks| {
            blocks.iter().map(|(offset, length, ..)| (*offset, *length)).collect::<BTreeSet<_>>()
        })
        .map(|(_, length)| length)
        .sum();
    let others: u64 = objects(&archive)
        .iter()
        .filter(|path| {
            let key = saga::key(&archive, path);
            key.starts_with("wal/") || key.contains("/manifest/")
        })
        .map(|path| path.metadata().expect("look").len())
        .sum();
    assert!(bytes(&report) >= frames + others, "{} of {}", bytes(&report), frames + others);
    // And what several backups share once.
    let all: u64 = objects(&archive).iter().map(|path| path.metadata().expect("look").len()).sum();
    assert!(bytes(&report) < all * 5 / 4, "{} of {all}", bytes(&report));
    let outcome = archive.walkeep(&["verify"]).ok();
    assert!(outcome.stdout.contains("good: every backup restores"), "{outcome}");
}

#[test]
fn quick_sees_what_is_missing_or_of_a_wrong_size_and_reads_nothing() {
    let saga = Saga::get();
    let archive = saga.archive();
    assert_eq!(bytes(&verify(&archive, &["--quick"])), 0);
    for object in objects(&archive) {
        let key = saga::key(&archive, &object);
        if !key.starts_with("data/") && !key.starts_with("wal/0000000") {
            continue;
        }
        let original = read(&object);
        let mut kinds = vec![Damage::Empty];
        if !key.ends_with(".backup") && !key.ends_with(".partial") {
            kinds.push(Damage::Remove);
        }
        kinds.extend([Damage::Truncate(-1), Damage::Grow]);
        for kind in kinds {
            repo::damage(&object, kind);
            let outcome = archive.run("walkeep").args(["verify", "--quick", "--json"]).go();
            assert_eq!(outcome.code(), Some(3), "{key}, {kind:?}\n{outcome}");
            let report = live::json(&outcome);
            assert!(problems(&report).iter().any(|(object, _)| *object == key), "{key}, {kind:?}\n{report}");
            let _ = std::fs::remove_file(&object);
            scratch::write(&object, &original);
        }
    }
    verify(&archive, &["--quick"]);
    verify(&archive, &[]);
}

#[test]
fn what_was_read_not_long_ago_is_not_read_again() {
    let saga = Saga::get();
    let archive = saga.archive();
    let all = bytes(&verify(&archive, &[]));
    let again = verify(&archive, &["--since-last"]);
    assert!(bytes(&again) < all / 4, "{again}");
    assert!(again["trusted_bytes"].as_u64().expect("a number") > all / 2, "{again}");
    // What is missing is seen all the same, and damage when its time has come. At the end are the
    // files that are always read.
    let pack = live::parts_of(archive.root(), &saga.d, "pack").remove(0);
    repo::damage(&pack, Damage::Flip(600));
    verify(&archive, &["--since-last"]);
    let report = verify_is(&archive, 3, &["--since-last", "--every", "1ms"]);
    assert_eq!(problems(&report), [(saga::key(&archive, &pack), "damaged".to_owned())]);
    // What was found bad is read again the next time.
    verify_is(&archive, 3, &["--since-last"]);
    repo::damage(&pack, Damage::Flip(600));
    verify(&archive, &["--since-last"]);
    verify(&archive, &["--since-last"]);
    std::fs::remove_file(&pack).expect("remove a pack");
    verify_is(&archive, 3, &["--since-last"]);
    archive.walkeep(&["verify", "--every", "1d"]).is(2);
}

#[test]
fn one_backup_or_the_wal_alone() {
    let saga = Saga::get();
    let archive = saga.archive();
    // Nobody shares what only the last one has.
    let pack = live::parts_of(archive.root(), &saga.d, "pack").remove(0);
    repo::damage(&pack, Damage::Flip(600));
    let one = verify(&archive, &["--backup", &saga.a]);
    assert_eq!(one["checked"]["backups"], 1);
    assert_eq!(hurt(&verify_is(&archive, 3, &["--backup", &saga.d])), [saga.d.clone()].into());
    assert_eq!(hurt(&verify_is(&archive, 3, &[])), [saga.d.clone()].into());
    let wal = verify(&archive, &["--wal"]);
    assert!(wal["checked"]["segments"].as_u64().expect("a number") > 5, "{wal}");
    verify_is(&archive, 1, &["--wal", "--lineage", "1-15"]);
    archive.walkeep(&["verify", "--backup", "20200101T000000Z-abcdef"]).is(1).says("does not exist");
}

#[test]
fn a_hole_names_the_backups_and_the_window_that_it_costs() {
    let saga = Saga::get();
    let archive = saga.archive();
    let list = live::json(&archive.walkeep(&["list", "--json"]).ok());
    let windows = list["repositories"][0]["windows"].as_array().expect("windows").clone();
    assert_eq!(windows.len(), 2, "one for each timeline: {list}");
    // A segment of timeline 2 behind backup c.
    let shown = live::json(&archive.walkeep(&["show", &saga.c, "--json"]).ok());
    let last = live::text(&shown["wal"], "last");
    let number = u64::from_str_radix(&last[16..], 16).expect("a number") + 1;
    let missing = format!("{}{number:08X}", &last[..16]);
    std::fs::remove_file(archive.object(&missing)).expect("remove a segment");
    let report = verify_is(&archive, 3, &[]);
    let problem = &report["problems"][0];
    assert_eq!(problem["kind"], "gap", "{report}");
    assert!(live::text(problem, "object").ends_with(&missing), "{report}");
    let affected = problem["backups"].as_array().expect("a list");
    assert!(
        affected.contains(&saga.c.as_str().into()) && !affected.contains(&saga.d.as_str().into()),
        "{report}"
    );
    assert_eq!(problem["window"][0]["timeline"], 2, "{report}");
    let list = live::json(&archive.walkeep(&["list", "--json"]).is(3));
    let now = list["repositories"][0]["windows"].as_array().expect("windows").len();
    assert_eq!(now, 3, "the gap is cut out: {list}");
    let gap = &list["repositories"][0]["wal"]["gaps"][0];
    assert_eq!(gap["first"].as_str(), Some(missing.as_str()), "{list}");
}

#[test]
fn what_cannot_be_read_is_neither_good_nor_bad() {
    let saga = Saga::get();
    let archive = saga.archive();
    let pack = live::parts_of(archive.root(), &saga.d, "pack").remove(0);
    let close = |mode: &str| drop(Run::new("chmod").arg(mode).arg(&pack).go().ok());
    close("000");
    let report = verify_is(&archive, 1, &[]);
    assert_eq!(
        report["unknown"][0]["object"].as_str(),
        Some(saga::key(&archive, &pack).as_str()),
        "{report}"
    );
    assert_eq!(report["problems"], serde_json::json!([]));
    // Damage elsewhere is certain.
    let other = live::parts_of(archive.root(), &saga.a, "pack").remove(0);
    repo::damage(&other, Damage::Flip(600));
    verify_is(&archive, 3, &[]);
    close("640");
    repo::damage(&other, Damage::Flip(600));
    verify(&archive, &[]);
    let away = archive.root().with_extension("away");
    std::fs::rename(archive.root(), &away).expect("unmount");
    archive.walkeep(&["verify"]).is(1).told();
    std::fs::create_dir(archive.root()).expect("an empty mount point");
    archive.walkeep(&["verify"]).is(1).told();
}

#[test]
fn a_read_error_of_the_disk_is_no_damage_and_not_passed_over() {
    let saga = Saga::get();
    let archive = saga.archive();
    let Some(strace) = Strace::new() else {
        return;
    };
    let pack = live::parts_of(archive.root(), &saga.d, "pack").remove(0);
    let strace = strace.trace("read,pread64").only(&pack).inject("read,pread64:error=EIO:when=1+");
    let fails = |arguments: &[&str]| {
        let traced = strace.go(&archive.run("walkeep").args(["verify", "--json"]).args(arguments));
        assert!(traced.was_hit(), "{}", traced.story());
        let report = live::json(&traced.outcome.is(1));
        assert_eq!(report["problems"], serde_json::json!([]), "{report}");
        assert_eq!(report["unknown"][0]["object"], saga::key(&archive, &pack), "{report}");
    };
    fails(&[]);
    // Of packs that are not read again, only the files are without which no server starts.
    verify(&archive, &[]);
    fails(&["--since-last"]);
}

#[test]
fn a_backup_that_cannot_be_asked_what_it_needs_of_what_is_bad_is_told() {
    let live = Live::new();
    let id = live.backup_id();
    let pack = live::parts_of(live.archive.root(), &id, "pack").remove(0);
    // In the middle, away from the files that are looked into.
    let middle = std::fs::metadata(&pack).expect("the pack").len() as i64 / 2;
    repo::damage(&pack, Damage::Flip(middle));
    let manifest = live::parts_of(live.archive.root(), &id, "manifest").remove(0);
    let Some(strace) = Strace::new() else {
        return;
    };
    // Read once to be verified, and once more to find out whom the damage hurts.
    let manifest = manifest.strip_prefix(live.archive.root()).expect("below the root");
    let strace = strace.trace("openat2").only(manifest).inject("openat2:error=EIO:when=2+");
    let traced = strace.go(&live.archive.run("walkeep").args(["verify", "--json"]));
    assert!(traced.was_hit(), "{}", traced.story());
    let report = live::json(&traced.outcome.is(3));
    assert_eq!(hurt(&report), BTreeSet::new(), "{report}");
    assert_eq!(report["unknown"][0]["object"], format!("backup/{id}"), "{report}");
    assert_eq!(hurt(&verify_is(&live.archive, 3, &[])), [id].into());
}

#[test]
fn the_files_without_which_no_server_starts_are_read_each_time() {
    let saga = Saga::get();
    let archive = saga.archive();
    verify(&archive, &[]);
    let pack = live::parts_of(archive.root(), &saga.d, "pack").remove(0);
    // They are read last.
    repo::damage(&pack, Damage::Flip(-100));
    let report = verify_is(&archive, 3, &["--since-last"]);
    assert_eq!(problems(&report), [(saga::key(&archive, &pack), "damaged".to_owned())]);
    assert_eq!(hurt(&report), [saga.d.clone()].into());
}

#[test]
fn without_a_backup_nothing_is_good() {
    let live = Live::new();
    live.flush_wal();
    let report = verify_is(&live.archive, 3, &[]);
    assert_eq!(problems(&report), [("backup".to_owned(), "no_backup".to_owned())]);
    verify(&live.archive, &["--wal"]);
}

#[test]
fn a_repository_that_cannot_be_written_is_verified_too() {
    let saga = Saga::get();
    let archive = saga.archive();
    Run::new("chmod").args(["-R", "a-w"]).arg(archive.root()).go().ok();
    archive.walkeep(&["verify"]).ok().says("cannot be remembered");
    Run::new("chmod").args(["-R", "u+w"]).arg(archive.root()).go().ok();
}

#[test]
fn what_a_verification_found_bad_does_not_count_when_pruning() {
    let saga = Saga::get();
    let mut archive = saga.archive();
    archive.set_retention(0, &["keep_last = 1"]);
    let pack = live::parts_of(archive.root(), &saga.d, "pack").remove(0);
    repo::damage(&pack, Damage::Flip(600));
    verify_is(&archive, 3, &[]);
    archive.walkeep(&["prune"]).is(3).says("damaged");
    let kept = live::records(archive.root());
    assert!(kept.contains(&saga.c), "the last whole one: {kept:?}");
    assert!(lineage(&archive).join("verify/damaged").join(&saga.d).exists());
}

#[test]
fn a_backup_that_was_found_damaged_is_nobodys_parent() {
    let live = Live::new();
    live.server.psql("create table t as select generate_series(1, 100000) i");
    let ids = [live.backup_id(), live.backup_id()];
    let parent = |backup: &Value| backup["parent"].as_str().map(str::to_owned);
    let manifest = live::parts_of(live.archive.root(), &ids[1], "manifest").remove(0);
    let original = read(&manifest);
    repo::damage(&manifest, Damage::Flip(-1));
    assert_eq!(hurt(&verify_is(&live.archive, 3, &[])), [ids[1].clone()].into());
    scratch::write(&manifest, &original);
    let made = live.backup();
    assert_eq!(parent(&made), Some(ids[0].clone()), "it was not verified again");
    verify(&live.archive, &[]);
    assert_eq!(parent(&live.backup()), Some(live::text(&made, "id")));
}
