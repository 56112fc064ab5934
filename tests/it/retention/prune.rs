//! `walkeep prune`, `pin` and `unpin` on a real repository.

use super::*;

#[test]
fn what_no_rule_keeps_goes_and_every_kept_backup_restores() {
    let (mut live, ids) = with_backups(4);
    live.archive.set_retention(0, &["keep_last = 2"]);
    let archive = &live.archive;
    let base = lineage(archive);
    let foreign = [
        base.join("notes.txt"),
        base.join("wal/00000001/00000000/readme"),
        base.join("backup/mine"),
        base.join(format!("data/{}/pack/old", ids[0])),
        base.join("wal/00000001/00000007/000000010000000000000001"),
    ];
    for path in &foreign {
        Run::new("mkdir").arg("-p").arg(path.parent().expect("a folder")).go().ok();
        scratch::write(path, "mine");
    }
    let before = archive.snapshot();
    let dry = archive.walkeep(&["prune", "--dry-run", "--verbose"]).ok();
    assert!(archive.snapshot() == before, "a dry run changes nothing");
    let real = archive.walkeep(&["prune", "--verbose"]).ok();
    assert_eq!(dry.stdout, real.stdout, "the dry run says what the real one does");
    assert_eq!(listed(archive), ids[2..]);
    for path in &foreign {
        assert_eq!(read(path), b"mine", "{}", path.display());
    }
    // Nothing of the removed ones is left, not even a folder.
    assert!(live::parts_of(archive.root(), &ids[0], "manifest").is_empty());
    assert!(!base.join("data").join(&ids[1]).exists());
    let first = live::json(&archive.walkeep(&["show", &ids[2], "--json"]).ok());
    let first = live::text(&first["wal"], "first");
    for path in &foreign {
        std::fs::remove_file(path).expect("remove what is not ours");
    }
    let segments: Vec<String> =
        archive.stored().into_iter().map(|(name, _)| name).filter(|name| name.len() == 24).collect();
    assert_eq!(segments[0], first, "{segments:?}");
    let again = prune(archive, &[]);
    assert_eq!(again["remove"]["objects"], 0, "{again}");
    assert_restores(archive, &ids[2], "3000");
    assert_restores(archive, &ids[3], "4000");
    let server = live.restore(&[&ids[2]]).recovered();
    assert_eq!(server.psql("select count(*) from t"), "4000");
}

#[test]
fn without_a_rule_nothing_is_removed() {
    let (live, ids) = with_backups(2);
    let before = objects(live.archive.root());
    let report = prune(&live.archive, &[]);
    assert_eq!(objects(live.archive.root()), before);
    assert_eq!(report["remove"]["objects"], 0);
    let because = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
    let expected = [
        (ids[0].clone(), because(&["no_retention"])),
        (ids[1].clone(), because(&["no_retention", "last_complete"])),
    ];
    assert_eq!(kept(&report), expected);
}

#[test]
fn a_pinned_backup_stays_with_its_own_wal_and_leads_no_further() {
    let (mut live, ids) = with_backups(3);
    live.archive.set_retention(0, &["keep_last = 1"]);
    let archive = &live.archive;
    archive.walkeep(&["pin", &ids[0], "--standalone"]).ok();
    let shown = live::json(&archive.walkeep(&["show", &ids[0], "--json"]).ok());
    assert_eq!(shown["pinned"], true, "{shown}");
    assert_eq!(shown["pin"]["standalone"], true);
    let report = prune(archive, &[]);
    assert_eq!(report["remove"]["backups"], serde_json::json!([ids[1]]));
    assert_eq!(kept(&report)[0], (ids[0].clone(), vec!["pin_standalone".to_owned()]));
    let scratch = Scratch::new();
    restoring(archive, &scratch.join("data"), &[&ids[0]]).go().is(1).says("missing");
    assert_restores(archive, &ids[0], "1000");
    // What lies between the pinned one and the others is missed by nobody.
    archive.walkeep(&["list"]).ok();
    archive.walkeep(&["prune", "--remove", &ids[0]]).is(1).says("pinned");
    archive.walkeep(&["unpin", &ids[0]]).ok().says("no longer pinned");
    archive.walkeep(&["unpin", &ids[0]]).ok().says("was not pinned");
    prune(archive, &[]);
    assert_eq!(listed(&live.archive), [ids[2].clone()]);
    archive.walkeep(&["pin", &ids[1]]).is(1).says("does not exist");
}

#[test]
fn a_pin_holds_until_its_day_is_over() {
    let (mut live, ids) = with_backups(2);
    live.archive.set_retention(0, &["keep_last = 1"]);
    let archive = &live.archive;
    archive.walkeep(&["pin", &ids[0], "--until", "2020-01-01"]).is(2).says("past");
    archive.walkeep(&["pin", &ids[0], "--until", "2300-01-01"]).ok();
    assert_eq!(kept(&prune(archive, &[])).len(), 2);
    let until = jiff_in(2);
    archive.walkeep(&["pin", &ids[0], "--until", &until]).ok();
    until_past(&until);
    prune(archive, &[]);
    assert_eq!(listed(&live.archive), ids[1..]);
    assert!(!lineage(archive).join("pin").exists(), "its pin went with it");
}

fn jiff_in(seconds: i64) -> String {
    let time = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    time.to_string()
}

fn until_past(time: &str) {
    let time: jiff::Timestamp = time.parse().expect("a time");
    until("the pin's time is over", || jiff::Timestamp::now() > time);
}

#[test]
fn a_backup_is_removed_by_name_and_never_the_last_one() {
    let (live, ids) = with_backups(2);
    let archive = &live.archive;
    archive
        .walkeep(&["prune", "--remove", &ids[0], "--remove", &ids[1]])
        .is(1)
        .says("no complete backup would be left");
    archive.walkeep(&["prune", "--remove", "20200101T000000Z-abcdef"]).is(1).says("does not exist");
    assert_eq!(listed(&live.archive).len(), 2);
    let report = prune(archive, &["--remove", &ids[0]]);
    assert_eq!(report["remove"]["backups"], serde_json::json!([ids[0]]));
    archive.walkeep(&["prune", "--remove", &ids[1]]).is(1);
    assert_restores(archive, &ids[1], "2000");
}

#[test]
fn each_repository_has_a_retention_of_its_own() {
    let server = Cluster::build().wal_segsize(1).create();
    let scratch = Scratch::new();
    let roots = [scratch.mkdir("a"), scratch.mkdir("b")];
    let mut archive = Archive::build(server.data())
        .connection(server.connection())
        .root(&roots[0])
        .root(&roots[1])
        .create();
    server.set("archive_mode", "on");
    server.set("archive_command", &archive.archive_command());
    server.start();
    archive.set_retention(0, &["keep_last = 1"]);
    let backing_up = live::backing_up(&archive);
    backing_up.go().ok();
    backing_up.arg("--prune").go().ok();
    assert_eq!(live::records(&roots[0]).len(), 1, "pruned after the backup");
    assert_eq!(live::records(&roots[1]).len(), 2);
    for (name, root) in [("first", &roots[0]), ("second", &roots[1])] {
        let data = scratch.join(format!("restored-{name}"));
        let id = live::records(root).remove(0);
        restoring(&archive, &data, &[&id, "--repository", name, "--immediate"]).go().ok();
    }
    let report = prune(&archive, &["--repository", "second"]);
    assert_eq!(report["repositories"].as_array().map(Vec::len), Some(1));
}

#[test]
fn every_life_of_a_cluster_is_pruned_for_itself() {
    let (mut live, ids) = with_backups(2);
    live.archive.set_retention(0, &["keep_last = 1"]);
    live.server.stop(Stop::Fast);
    let new = Cluster::build().wal_segsize(1).create();
    live.archive.set_pgdata(new.data());
    live.archive.walkeep(&["init", "--upgrade"]).ok();
    let report = prune(&live.archive, &[]);
    assert_eq!(report["remove"]["backups"], serde_json::json!([ids[0]]));
    assert_eq!(live.records(), ids[1..], "the last one of the old life stays");
}

#[test]
fn what_cannot_be_removed_is_named_and_nothing_listed_is_broken() {
    let (mut live, ids) = with_backups(3);
    live.archive.set_retention(0, &["keep_last = 1"]);
    let archive = &live.archive;
    let base = lineage(archive);
    let mode = |path: &Path, mode: &str| drop(Run::new("chmod").arg(mode).arg(path).go().ok());
    // The records cannot be removed: so nothing that they need goes.
    mode(&base.join("backup"), "a-w");
    let report = prune_is(archive, 1, &[]);
    assert_eq!(report["repositories"][0]["left"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(listed(&live.archive), ids);
    assert_restores(archive, &ids[0], "1000");
    mode(&base.join("backup"), "u+w");
    // A pack cannot: it is garbage from then on, and named.
    let packs = base.join("data").join(&ids[0]).join("pack");
    mode(&packs, "a-w");
    let outcome = archive.walkeep(&["prune"]).is(1).told();
    assert!(outcome.stderr.contains(&format!("{}/pack/000001", ids[0])), "{outcome}");
    assert_eq!(listed(&live.archive), ids[2..]);
    mode(&packs, "u+w");
    prune(archive, &[]);
    assert!(!packs.exists());
    assert_restores(archive, &ids[2], "3000");
}

#[test]
fn a_backup_whose_record_is_lost_is_no_garbage() {
    let (mut live, ids) = with_backups(2);
    live.archive.set_retention(0, &["keep_last = 5"]);
    let archive = &live.archive;
    archive.walkeep(&["verify"]).ok();
    let record = live::record_of(archive.root(), &ids[0]);
    let bytes = read(&record);
    std::fs::remove_file(&record).expect("lose the record");
    let report = prune_is(archive, 3, &[]);
    assert!(report["repositories"][0]["problems"].to_string().contains(&ids[0]), "{report}");
    assert!(!live::parts_of(archive.root(), &ids[0], "pack").is_empty());
    scratch::write(&record, bytes);
    prune(archive, &[]);
    assert_restores(archive, &ids[0], "1000");
    // One that is given up goes.
    std::fs::remove_file(&record).expect("lose the record");
    prune(archive, &["--remove", &ids[0]]);
    assert!(live::parts_of(archive.root(), &ids[0], "pack").is_empty());
}

/// A repository whose newest timeline is the second, and where its history is stored.
fn with_history() -> (Live, PathBuf) {
    let (mut live, _) = with_backups(2);
    live.archive.set_retention(0, &["keep_within = \"14d\""]);
    let scratch = Scratch::new();
    let history = scratch.write("00000002.history", "1\t0/3000000\tno recovery target specified\n");
    live.archive.push(&history).ok();
    let object = live.archive.object("00000002.history");
    (live, object)
}

#[test]
fn a_history_that_cannot_be_read_now_is_no_reason_to_remove_what_it_leads_from() {
    let (live, history) = with_history();
    let Some(strace) = Strace::new() else {
        return;
    };
    let strace = strace.only(&history).inject("openat,read,pread64:error=EIO");
    for arguments in [&["prune"][..], &["prune", "--dry-run"]] {
        let traced = strace.go(&live.archive.run("walkeep").args(arguments));
        assert!(traced.was_hit(), "{}", traced.story());
        traced.outcome.is(1).told().says("00000002.history");
    }
    prune(&live.archive, &[]);
}

#[test]
fn a_history_that_is_damaged_or_missing_lets_the_window_keep_everything() {
    let (mut live, history) = with_history();
    let scratch = Scratch::new();
    let segment = Segment::new(live.server.system_identifier(), 15).at(2, 3);
    live.archive.push(segment.write_into(scratch.path())).ok();
    let keeps_everything = || {
        let before = objects(live.archive.root());
        live.archive.walkeep(&["prune"]).is(3).told().says("00000002.history");
        assert_eq!(objects(live.archive.root()), before);
    };
    repo::damage(&history, repo::Damage::Flip(-3));
    keeps_everything();
    std::fs::remove_file(&history).expect("remove the history");
    keeps_everything();
    // Rules that do not ask for it do without it.
    live.archive.set_retention(0, &["keep_last = 1"]);
    prune(&live.archive, &[]);
    assert_eq!(live.records().len(), 1);
}
