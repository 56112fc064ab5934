//! What the WAL changes after the backup: settings, tablespaces. All of it is known before the first
//! byte is written.

use super::*;

/// A server whose settings were raised after its backup, in a way that only the WAL shows.
fn raised(programs: std::path::PathBuf) -> Live {
    let live = Live::with(Cluster::build().programs(programs).wal_segsize(1), |_| {});
    live.server.psql("create table t (i int)");
    live.backup();
    for setting in
        ["max_connections = 300", "max_prepared_transactions = 5", "max_locks_per_transaction = 200"]
    {
        live.server.psql(&format!("alter system set {setting}"));
    }
    live.server.stop(Stop::Fast);
    live.server.start();
    live.server.psql("begin; insert into t values (1); prepare transaction 'p'");
    live.server.psql("commit prepared 'p'");
    live.flush_wal();
    live
}

#[test]
fn settings_that_were_raised_after_the_backup_are_raised_in_the_copy() {
    for major in [15, 16, 17, 18, 19] {
        let Some(programs) = pg::version(major) else {
            continue;
        };
        let live = raised(programs);
        let scratch = Scratch::new();
        let plan = restoring(&live.archive, &scratch.join("x"), &["--dry-run", "--json"]).go().ok();
        assert_eq!(live::json(&plan)["raised_settings"]["max_connections"], 300, "{plan}");
        let restored = live.restore(&[]).verified();
        for text in [&plan.stderr, &restored.outcome.stderr] {
            assert!(text.contains("max_prepared_transactions is set to 5"), "{text}");
        }
        let copy = restored.recovered();
        assert_eq!(rows(&copy), "1", "{major}");
        assert_eq!(copy.psql("show max_connections"), "300");
        if major == 15 {
            let standby = live.restore(&["--standby"]).server();
            standby.start();
            standby.await_sql("select count(*) from t", "1");
        }
    }
}

#[test]
fn a_configuration_below_the_control_file_is_raised_and_one_above_stays() {
    let live = Live::with(Cluster::build().wal_segsize(1), |server| {
        server.set("max_connections", "150");
    });
    live.server.psql("create table t (i int)");
    // Not in force before a restart, which never comes.
    live.server.psql("alter system set max_connections = 20");
    live.server.psql("alter system set max_worker_processes = 30");
    live.backup();
    let restored = live.restore(&[]);
    assert!(restored.outcome.stderr.contains("max_connections is set to 150"), "{}", restored.outcome);
    let copy = restored.recovered();
    assert_eq!(copy.psql("show max_connections"), "150");
    assert_eq!(copy.psql("show max_worker_processes"), "30");
}

#[test]
fn settings_that_suffice_are_not_written() {
    let story = Story::get();
    let restored = restore(&story.archive(), &[]);
    let text = String::from_utf8(read(restored.data.join("postgresql.auto.conf"))).expect("text");
    assert!(!text.contains("max_connections"), "{text}");
}

#[test]
fn a_tablespace_that_the_wal_creates_never_leads_into_the_original() {
    let live = Live::new();
    live.backup();
    live.server.psql("create table t (i int)");
    live.server.psql("select pg_create_restore_point('before')");
    let location = live.server.scratch().mkdir("later");
    live.server.psql(&format!("create tablespace later location '{}'", location.display()));
    live.server.psql("create table s tablespace later as select 1 i");
    live.flush_wal();
    let scratch = Scratch::new();
    let to = scratch.join("data");
    let data = live.server.data().to_owned();
    let refused = |says: &str| {
        for arguments in [&["--dry-run"][..], &[]] {
            let outcome = restoring(&live.archive, &to, arguments).go().is(1).told();
            assert!(outcome.stderr.contains("later") && outcome.stderr.contains(says), "{outcome}");
            assert!(!to.exists());
        }
    };
    refused("tablespace of another data directory");
    // A target before it needs none of it.
    let copy = live.restore(&["--name", "before"]).recovered();
    assert_eq!(copy.psql("select count(*) from pg_tablespace where spcname = 'later'"), "0");
    drop(copy);
    // The original is stopped and moved away: its files must not be removed by the recovery.
    live.server.stop(Stop::Fast);
    std::fs::rename(&data, data.with_extension("away")).expect("move the data directory");
    refused("files of a tablespace");
    let before = Snapshot::of(&location);
    assert!(!before.paths().is_empty());
    // On another host it is created where the WAL wants it.
    std::fs::rename(&location, location.with_extension("away")).expect("move the tablespace");
    let plan = live::json(&restoring(&live.archive, &to, &["--dry-run", "--json"]).go().ok());
    assert_eq!(plan["new_tablespaces"][0]["location"], location.display().to_string(), "{plan}");
    assert!(!location.exists());
    let copy = live.restore(&[]).recovered();
    assert_eq!(copy.psql("select count(*) from s"), "1");
}

#[test]
fn wal_that_was_written_with_wal_level_minimal_is_not_recovered_over() {
    let live = Live::new();
    live.server.psql("create table t (i int)");
    let id = live.backup_id();
    live.server.stop(Stop::Fast);
    live.server.set("wal_level", "minimal");
    live.server.set("max_wal_senders", "0");
    live.server.set("archive_mode", "off");
    live.server.start();
    live.server.stop(Stop::Fast);
    live.server.set("wal_level", "replica");
    live.server.set("max_wal_senders", "10");
    live.server.set("archive_mode", "on");
    live.server.start();
    live.flush_wal();
    let scratch = Scratch::new();
    let to = scratch.join("data");
    for arguments in [&["--dry-run"][..], &[]] {
        let outcome = restoring(&live.archive, &to, arguments).go().is(1).told();
        assert!(outcome.stderr.contains("wal_level"), "{outcome}");
        assert!(!to.exists());
    }
    let copy = live.restore(&[&id, "--immediate"]).recovered();
    assert_eq!(rows(&copy), "0");
}

#[test]
fn damaged_wal_is_refused_before_the_restore_unless_another_repository_may_have_it() {
    let (live, roots) = Live::with_two(|_| {});
    live.server.psql("create table t (i int)");
    live.backup();
    live.server.psql("insert into t values (1)");
    let name = live.flush_wal();
    live.server.psql("insert into t values (2)");
    live.flush_wal();
    let damaged = |root: &Path| {
        let stored = repo::stored_in(root);
        let (_, path) = stored.into_iter().find(|(stored, _)| *stored == name).expect("the segment");
        // Behind the header of the object.
        repo::damage(&path, repo::Damage::Flip(520));
    };
    damaged(&roots[0]);
    let restored = live.restore(&[]);
    assert!(restored.outcome.stderr.contains(&name), "{}", restored.outcome);
    assert_eq!(rows(&restored.recovered()), "2");
    let scratch = Scratch::new();
    let one = Archive::build(live.server.data()).root(&roots[0]).unregistered();
    for arguments in [&["--dry-run"][..], &[]] {
        let outcome = restoring(&one, &scratch.join("data"), arguments).go().is(1).told();
        assert!(outcome.stderr.contains(&name), "{outcome}");
        assert!(!scratch.join("data").exists());
    }
    restoring(&one, &scratch.join("data"), &["--quick"]).go().ok();
}
