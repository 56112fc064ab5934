//! What the restored server is told, and what it is kept from.

use super::*;

/// Settings that a former recovery, or a standby, may have left in both files.
const STALE: [(&str, &str); 11] = [
    ("restore_command", "false"),
    ("recovery_target_xid", "12345"),
    ("recovery_target_action", "shutdown"),
    ("recovery_target_inclusive", "off"),
    ("recovery_target_timeline", "1"),
    ("recovery_end_command", "touch recovery_end_command_ran"),
    ("archive_cleanup_command", "touch archive_cleanup_command_ran"),
    ("primary_conninfo", "host=/nowhere"),
    ("primary_slot_name", "stale"),
    ("recovery_min_apply_delay", "1h"),
    ("synchronous_standby_names", "nobody"),
];

#[test]
fn stale_recovery_settings_of_the_old_server_do_no_harm() {
    for in_auto_conf in [true, false] {
        let live = Live::with(Cluster::build().wal_segsize(1), |server| {
            for (name, value) in STALE {
                // Set while it runs it would make its own commits wait.
                if name != "synchronous_standby_names" && !in_auto_conf {
                    server.set(name, value);
                }
            }
        });
        live.server.psql("create table t (i serial primary key)");
        live.server.psql("insert into t select from generate_series(1, 1000)");
        if in_auto_conf {
            for (name, value) in STALE {
                live.server.psql(&format!("alter system set {name} = '{value}'"));
            }
        }
        live.backup();
        live.server.psql("insert into t select from generate_series(1, 1000)");
        let target = live.server.psql("select pg_current_wal_insert_lsn()");
        live.server.psql("insert into t select from generate_series(1, 1000)");
        live.flush_wal();
        for (arguments, expected) in
            [(vec!["--lsn", &target], "2000"), (vec!["--immediate"], "1000"), (vec![], "3000")]
        {
            let server = live.restore(&arguments).recovered();
            assert_eq!(rows(&server), expected, "{arguments:?}, in postgresql.auto.conf: {in_auto_conf}");
            server.psql("insert into t values (default)");
            assert!(!server.data().join("recovery_end_command_ran").exists());
            assert!(!server.data().join("archive_cleanup_command_ran").exists());
            server.stop(Stop::Fast);
            server.start();
        }
    }
}

#[test]
fn a_restored_server_pushes_nothing_into_the_archive() {
    let live = Live::new();
    live.server.psql("create table t (i serial primary key)");
    live.server.psql("insert into t select from generate_series(1, 1000)");
    live.backup();
    live.flush_wal();
    let restored = live.restore(&[]);
    let before = live.archive.snapshot();
    let copy = restored.recovered();
    assert_eq!(copy.psql("show archive_mode"), "off");
    copy.psql("insert into t select from generate_series(1, 1000)");
    copy.psql("checkpoint");
    copy.switch_wal();
    copy.psql("insert into t select from generate_series(1, 1000)");
    copy.switch_wal();
    copy.stop(Stop::Fast);
    assert_eq!(live.archive.snapshot(), before);
    // So a later restore follows the true server.
    live.server.psql("insert into t select from generate_series(1, 500)");
    live.flush_wal();
    let again = live.restore(&[]).recovered();
    assert_eq!(rows(&again), "1500");
}

#[test]
fn a_copy_that_replaces_the_primary_archives_again() {
    let live = Live::new();
    live.server.psql("create table t (i serial primary key)");
    live.backup();
    live.flush_wal();
    live.server.stop(Stop::Immediate);
    let primary = live.restore(&["--as-primary"]).recovered();
    assert_eq!(primary.psql("show archive_mode"), "on");
    primary.psql("insert into t select from generate_series(1, 1000)");
    let name = primary.switch_wal();
    primary.await_archived(&name);
    assert!(live.archive.find("00000002.history").is_some());
    assert!(live.archive.find(&name).is_some());
}

#[test]
fn signal_files_of_the_old_server_are_not_restored() {
    let live = Live::new();
    live.server.touch("standby.signal");
    live.server.touch("recovery.signal");
    live.backup();
    let restored = live.restore(&[]);
    assert!(!restored.data.join("standby.signal").exists());
    let restored = restored.verified();
    restored.recovered();
    let standby = live.restore(&["--standby"]);
    assert!(!standby.data.join("recovery.signal").exists());
    assert!(standby.data.join("standby.signal").exists());
}

#[test]
fn a_server_without_its_backup_label_does_not_start() {
    let story = Story::get();
    let archive = story.archive();
    for signal in [true, false] {
        let restored = restore(&archive, &[]);
        std::fs::remove_file(restored.data.join("backup_label")).expect("remove the label");
        if !signal {
            std::fs::remove_file(restored.data.join("recovery.signal")).expect("remove the signal file");
        }
        let server = restored.server();
        assert!(!server.try_start(), "it started without its label\n{}", server.log_text());
    }
}

#[test]
fn nothing_of_this_project_resets_the_wal() {
    for name in ["walkeep", "walpush", "walfetch"] {
        let program = read(run::program(name));
        assert!(!program.windows(12).any(|word| word == b"pg_resetwal\0" || word == b"pg_resetxlog"));
    }
}

#[test]
fn strange_characters_in_the_path_of_the_configuration_do_no_harm() {
    let story = Story::get();
    let archive = story.archive_named("it's 100% \"my\" $(touch x) walkeep.toml");
    let server = restore(&archive, &[]).recovered();
    assert_eq!(rows(&server), ALL);
}

#[test]
fn modes_and_owners_are_as_they_were() {
    use std::os::unix::fs::MetadataExt;
    let live = Live::with(Cluster::build().wal_segsize(1).group_access(), |_| {});
    live.server.psql("create table t (i serial primary key)");
    live.backup();
    let restored = live.restore(&[]);
    let mode = |path: &str| {
        let meta = std::fs::metadata(restored.data.join(path)).expect("look at what is restored");
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    let account = account::account();
    for (path, expected) in [
        ("", 0o750),
        ("base", 0o750),
        ("base/1/PG_VERSION", 0o640),
        ("global/pg_control", 0o640),
        ("pg_wal", 0o750),
        ("PG_VERSION", 0o640),
    ] {
        assert_eq!(mode(path), (expected, account.uid, account.gid), "{path}");
    }
    restored.verified().recovered();
}

#[test]
fn root_restores_for_the_user_who_runs_the_server() {
    use std::os::unix::fs::MetadataExt;
    let account = account::account();
    if !account.root {
        skipped("root", "only root can restore as root");
        return;
    }
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let output = std::process::Command::new(run::program("walkeep"))
        .arg("--config")
        .arg(archive.config())
        .args(["restore", "--to"])
        .arg(&data)
        .output()
        .expect("start walkeep");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut all = vec![data.clone()];
    while let Some(path) = all.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("look at what is restored");
        assert_eq!((meta.uid(), meta.gid()), (account.uid, account.gid), "{}", path.display());
        if meta.is_dir() {
            all.extend(std::fs::read_dir(&path).expect("list").map(|entry| entry.expect("list").path()));
        } else {
            assert_eq!(meta.mode() & 0o077, 0, "{}", path.display());
        }
    }
    let server = Cluster::over(scratch, data);
    assert!(recovers(&server), "{}", server.log_text());
    assert_eq!(rows(&server), ALL);
}
