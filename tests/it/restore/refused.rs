//! What cannot work is refused, says why and what to do, and changes nothing.

use super::repo::Damage;
use super::*;

#[test]
fn a_target_before_every_backup_is_refused_with_what_is_possible() {
    let story = Story::get();
    let archive = story.archive();
    let to = Scratch::new();
    for arguments in
        [["--time", &story.before.time], ["--lsn", &story.before.lsn], ["--time", "2000-01-01 00:00:00Z"]]
    {
        let outcome = restoring(&archive, &to.join("x"), &arguments).go().is(1).told();
        assert!(outcome.stderr.contains("hint:") && outcome.stderr.contains(&story.a), "{outcome}");
        assert!(!to.join("x").exists());
    }
}

#[test]
fn a_target_between_start_and_stop_of_a_backup_takes_the_one_before() {
    let story = Story::get();
    let archive = story.archive();
    let record = live::content(&live::record_of(archive.root(), &story.b));
    let record: serde_json::Value = serde_json::from_str(&record).expect("a record");
    let to = Scratch::new();
    for (option, name) in [("--time", "start_time"), ("--lsn", "start_lsn")] {
        let target = live::text(&record, name);
        let run = restoring(&archive, &to.join("x"), &[option, &target, "--dry-run", "--json"]);
        let plan = live::json(&run.go().ok());
        assert_eq!(live::text(&plan, "backup"), story.a, "{name}: {plan}");
        // And not the wrong one because it was named.
        let run = restoring(&archive, &to.join("x"), &[&story.b, option, &target]);
        run.go().is(1).told().says("hint:");
        assert!(!to.join("x").exists());
    }
}

#[test]
fn an_unknown_backup_is_refused_with_those_that_exist() {
    let story = Story::get();
    let archive = story.archive();
    let to = Scratch::new();
    let outcome = restoring(&archive, &to.join("x"), &["20200101T000000Z-000000"]).go().is(1).told();
    assert!(outcome.stderr.contains("hint:") && outcome.stderr.contains(&story.b), "{outcome}");
    restoring(&archive, &to.join("x"), &["../../etc/passwd"]).go().failed();
    assert!(!to.join("x").exists());
}

#[test]
fn without_any_backup_the_message_says_how_to_make_one() {
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, 7_300_000_000_000_000_001, 1);
    let archive = Archive::of(&data.path);
    restoring(&archive, &scratch.join("x"), &[]).go().is(1).told().says("walkeep backup");
    assert!(!scratch.join("x").exists());
}

#[test]
fn a_target_behind_a_hole_is_refused_and_what_is_reachable_is_named() {
    let story = Story::get();
    let archive = story.archive();
    // The hole lies between the backups: in the last segment before the second one begins.
    let record = live::content(&live::record_of(archive.root(), &story.b));
    let record: serde_json::Value = serde_json::from_str(&record).expect("a record");
    let first = live::text(&record["wal"], "first");
    let names: Vec<String> = archive.stored().into_iter().map(|(name, _)| name).collect();
    let names: Vec<&String> = names.iter().filter(|name| name.len() == 24).collect();
    let at = names.iter().position(|name| **name == first).expect("the first segment of the backup");
    let missing = names[at - 1].clone();
    repo::damage(&archive.object(&missing), Damage::Remove);
    let to = Scratch::new();
    let before = archive.snapshot();
    for target in [vec![], vec!["--time", &story.marks[3].time], vec!["--xid", "999999"]] {
        let arguments = [vec![story.a.as_str()], target].concat();
        let outcome = restoring(&archive, &to.join("x"), &arguments).go().is(1).told();
        assert!(outcome.stderr.contains(&missing), "{outcome}");
        assert!(outcome.stderr.contains("--lsn"), "{outcome}");
        assert!(!to.join("x").exists());
    }
    let plan = restoring(&archive, &to.join("x"), &[&story.a, "--immediate", "--dry-run", "--json"]);
    let plan = live::json(&plan.go().ok());
    assert_eq!(plan["gaps"][0]["first"].as_str(), Some(missing.as_str()), "{plan}");
    assert_eq!(archive.snapshot(), before);
    // The backup behind the hole is not touched by it.
    let server = restore(&archive, &[]).recovered();
    assert_eq!(rows(&server), ALL);
}

#[test]
fn an_lsn_behind_the_end_of_the_archive_is_refused() {
    let story = Story::get();
    let archive = story.archive();
    let to = Scratch::new();
    restoring(&archive, &to.join("x"), &["--lsn", "7/0"]).go().is(1).told().says("hint:");
    restoring(&archive, &to.join("x"), &["--lsn", "seven"]).go().is(2);
    assert!(!to.join("x").exists());
}

#[test]
fn two_targets_are_wrong_usage() {
    let story = Story::get();
    let archive = story.archive();
    let to = Scratch::new();
    for arguments in [
        vec!["--immediate", "--lsn", "0/3000000"],
        vec!["--standby", "--immediate"],
        vec!["--exclusive"],
        vec!["--action", "dance"],
        vec!["--tablespace", "nonsense"],
        vec!["--tablespace", "1=relative"],
    ] {
        restoring(&archive, &to.join("x"), &arguments).go().is(2);
        assert!(!to.join("x").exists());
    }
}

#[test]
fn a_directory_that_is_not_empty_is_left_as_it_is() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    for name in ["a file", ".hidden", "PG_VERSION"] {
        let to = scratch.mkdir(format!("to {name}"));
        scratch::write(&to.join(name), "mine");
        let before = Snapshot::of(&to);
        restoring(&archive, &to, &[]).go().is(1).told().says("hint:");
        assert_eq!(Snapshot::of(&to), before);
    }
    // A mount point has this one.
    let to = scratch.mkdir("mount");
    std::fs::create_dir(to.join("lost+found")).expect("make a directory");
    restoring(&archive, &to, &[]).go().ok();
    // A file is no directory.
    let file = scratch.write("file", "mine");
    restoring(&archive, &file, &[]).go().is(1).told();
    assert_eq!(read(&file), b"mine");
}

#[test]
fn the_data_directory_of_a_running_server_is_left_as_it_is() {
    let live = Live::new();
    live.server.psql("create table t (i serial primary key)");
    live.backup();
    let run = restoring(&live.archive, live.server.data(), &[]);
    run.go().is(1).told().says("hint:");
    assert_eq!(live.server.psql("select count(*) from t"), "0");
    live.server.stop(Stop::Fast);
    let before = Snapshot::of(live.server.data());
    restoring(&live.archive, live.server.data(), &[]).go().is(1).told().says("hint:");
    assert!(Snapshot::of(live.server.data()) == before);
    live.server.start();
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_anything_is_written() {
    let Some(tmpfs) = Tmpfs::mount("8m") else {
        return;
    };
    let story = Story::get();
    let archive = story.archive();
    let to = tmpfs.path().join("data");
    let outcome = restoring(&archive, &to, &[]).go().is(1).told();
    assert!(outcome.stderr.contains("hint:") && outcome.stderr.contains("free"), "{outcome}");
    assert_eq!(repo::files(tmpfs.path()), Vec::<std::path::PathBuf>::new());
    assert!(!to.exists());
}

#[test]
fn a_second_restore_of_the_cluster_ends_with_status_4_or_waits() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let Some(strace) = Strace::new() else {
        return;
    };
    let strace = strace.trace("symlinkat,symlink,syncfs").inject("syncfs:delay_enter=300000");
    let first = restoring(&archive, &scratch.join("first"), &[]);
    let child = strace.spawn(&first);
    strace.await_call();
    let second = restoring(&archive, &scratch.join("second"), &[]);
    let refused = second.go().is(4).told();
    assert!(refused.stderr.contains("--wait"), "{refused}");
    assert!(!scratch.join("second").exists());
    restoring(&archive, &scratch.join("second"), &["--wait"]).go().ok();
    first.finish(child).ok();
}

#[test]
fn what_may_have_held_a_cluster_is_not_emptied() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let to = scratch.mkdir("data");
    scratch::write(&to.join("mine"), "mine");
    // As root leaves it when a restore with --delta is broken off.
    let marker = to.join("walkeep.restoring");
    scratch::write(&marker, format!("{}\nover what was there\n", story.a));
    let chmod = |mode: &str| drop(Run::new("chmod").arg(mode).arg(&marker).go().ok());
    chmod("000");
    restoring(&archive, &to, &[]).go().is(1).told().says("walkeep.restoring");
    assert_eq!(read(to.join("mine")), b"mine");
    chmod("600");
    restoring(&archive, &to, &[]).go().is(1).told().says("--delta");
    assert_eq!(read(to.join("mine")), b"mine");
}
