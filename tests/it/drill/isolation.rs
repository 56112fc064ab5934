//! A drill touches nothing but its scratch directory: no command, library, address, slot or
//! tablespace of the cluster.

use super::*;
use std::time::SystemTime;

#[test]
fn no_command_of_the_restored_configuration_runs_and_no_address_is_opened() {
    let scratch = Scratch::new();
    let ran = scratch.mkdir("ran");
    let touch = |name: &str| format!("touch {}", ran.join(name).display());
    let live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
        server.set("log_directory", &ran.join("log").display().to_string());
        for name in ["recovery_end_command", "archive_cleanup_command"] {
            server.set(name, &touch(name));
        }
    });
    let server = &live.server;
    let script = format!(
        "#!/bin/sh\n{}\nexec {} \"$@\"\n",
        touch("archive_command"),
        run::program("walpush").display()
    );
    let script = scratch.write("walpush", script);
    Run::new("chmod").arg("0755").arg(&script).go().ok();
    let config = live.archive.config().display().to_string();
    let archive_command = format!("{} --config {config} --cluster main %p", script.display());
    server.psql(&format!("alter system set archive_command = '{archive_command}'"));
    for name in ["restore_command", "ssl_passphrase_command"] {
        server.psql(&format!("alter system set {name} = '{}'", touch(name)));
    }
    server.psql("select pg_reload_conf()");
    for sql in [
        "alter system set listen_addresses = '127.0.0.1'",
        "alter system set ssl = on",
        "alter system set shared_preload_libraries = 'missing_library'",
        "alter system set logging_collector = on",
        &format!("alter system set external_pid_file = '{}'", ran.join("pid").display()),
        &format!("alter system set unix_socket_directories = '{}'", ran.display()),
        "alter database template1 set session_preload_libraries = 'missing_library'",
        "create table t (i int)",
        &format!(
            "create function shout() returns event_trigger language plpgsql as $$ begin \
             execute 'copy (select 1) to program ''{}'''; end $$",
            touch("event_trigger")
        ),
    ] {
        server.psql(sql);
    }
    server.psql("create event trigger shout on ddl_command_end execute function shout()");
    live.backup();
    live.flush_wal();
    server.stop(Stop::Fast);
    assert!(ran.join("archive_command").exists(), "the server itself did not run it");
    for entry in std::fs::read_dir(&ran).expect("list").flatten() {
        std::fs::remove_file(entry.path())
            .or_else(|_| std::fs::remove_dir_all(entry.path()))
            .expect("remove");
    }
    let directory = scratch.mkdir("drills");
    let calls = scratch.join("calls");
    let mut run = drilling(&live.archive, &directory, &[]);
    let traces = Path::new("/usr/bin/strace").exists();
    if traces {
        let calls = calls.display().to_string();
        run = run.under([
            "strace",
            "-f",
            "-qq",
            "--signal=none",
            "-e",
            "trace=bind,connect,execve",
            "-o",
            &calls,
        ]);
    }
    let before = live.archive.stored();
    run.go().ok();
    assert_empty(&ran);
    assert_empty(&directory);
    assert_eq!(live.archive.stored(), before, "something was archived");
    if traces {
        let calls = std::fs::read_to_string(&calls).expect("the calls");
        let inet: Vec<&str> = calls.lines().filter(|line| line.contains("AF_INET")).collect();
        assert!(inet.is_empty(), "{inet:#?}");
        // It has to see what there is to see.
        assert!(calls.contains("AF_UNIX") && calls.contains("walfetch"), "{calls}");
    } else {
        skipped("strace", "without strace nothing is known of addresses");
    }
}

#[test]
fn a_subscription_does_not_connect() {
    let publisher = Cluster::build().create();
    publisher.set("wal_level", "logical");
    publisher.set("log_connections", "on");
    publisher.set("log_replication_commands", "on");
    publisher.start();
    publisher.psql("create table t (i int primary key)");
    publisher.psql("create publication p for table t");
    let live = Live::new();
    live.server.psql("create table t (i int primary key)");
    live.server.psql(&format!("create subscription s connection '{}' publication p", publisher.connection()));
    publisher.psql("insert into t select generate_series(1, 10)");
    live.server.await_sql("select count(*) from t", "10");
    live.backup();
    live.flush_wal();
    live.server.stop(Stop::Fast);
    publisher.psql("insert into t select generate_series(11, 50)");
    publisher.await_sql("select active from pg_replication_slots", "f");
    let slot = "select slot_name, confirmed_flush_lsn from pg_replication_slots";
    let before = publisher.psql(slot);
    let seen = publisher.log_text().len();
    drill(&live.archive, &[], 0);
    assert_eq!(publisher.psql(slot), before);
    let log = publisher.log_text();
    let came = log[seen..].lines().filter(|line| line.contains("application_name=s")).count();
    assert_eq!(came, 0, "{}", &log[seen..]);
    live.server.start();
    live.server.await_sql("select count(*) from t", "50");
}

#[test]
fn tablespaces_lie_in_the_scratch_directory_and_the_originals_are_left_alone() {
    let live = Live::new();
    let place = live.server.scratch().mkdir("space");
    live.server.psql(&format!("create tablespace ts location '{}'", place.display()));
    live.server.psql("create table t tablespace ts as select generate_series(1, 1000) i");
    live.backup();
    live.server.psql("insert into t select generate_series(1, 500)");
    live.flush_wal();
    live.server.stop(Stop::Fast);
    let before = repo::Snapshot::of(&place);
    let times = modified(&place);
    let mut archive = live.archive;
    archive.set_tail(&rows_are("1500"));
    drill(&archive, &[], 0);
    assert_eq!(repo::Snapshot::of(&place), before);
    assert_eq!(modified(&place), times);
}

/// T188: replaying its creation would write into the original's directory.
#[test]
fn a_tablespace_that_was_created_after_the_backup_is_not_replayed() {
    let live = Live::new();
    live.backup();
    let place = live.server.scratch().mkdir("space");
    live.server.psql(&format!("create tablespace ts location '{}'", place.display()));
    live.server.psql("create table t tablespace ts as select generate_series(1, 1000) i");
    live.flush_wal();
    live.server.stop(Stop::Fast);
    let times = modified(&place);
    let report = drill(&live.archive, &[], 1);
    assert!(text(&report, "error").contains("was created after backup"), "{report:#}");
    assert_eq!(modified(&place), times);
    assert_eq!(report["recovery_seconds"], Value::Null);
}

/// The times of all files and directories.
fn modified(directory: &Path) -> Vec<(std::path::PathBuf, SystemTime)> {
    let mut all = vec![directory.to_owned()];
    all.extend(repo::Snapshot::of(directory).paths().into_iter().map(Path::to_owned));
    let time = |path: &std::path::PathBuf| path.metadata().and_then(|meta| meta.modified()).expect("a time");
    all.into_iter().map(|path| (path.clone(), time(&path))).collect()
}

#[test]
fn wal_of_another_repository_proves_nothing() {
    let story = Story::get();
    let (good, bad) = (story.archive(), story.archive());
    let both = Archive::build(story.server.data()).root(bad.root()).root(good.root());
    let both = both.connection(story.server.connection()).unregistered();
    let (_, last) = bad.stored().pop().expect("WAL");
    damage(&last, Damage::Flip(-9));
    drill(&both, &[], 3);
    drill(&both, &["--repository", "second"], 0);
}

#[test]
fn no_part_of_a_path_reaches_a_shell() {
    let story = Story::get();
    let scratch = Scratch::new();
    let place = scratch.mkdir("place");
    let name = "a$(touch pwned)`touch pwned`\"'";
    let directory = scratch.mkdir(name);
    let mut archive = story.archive();
    // What a shell did in the working directory would be removed with it.
    drilling(&archive, &directory, &["--keep"]).cwd(&place).go().ok();
    // Programs of PostgreSQL start others by their path.
    let programs = scratch.mkdir("c$(touch pwned)");
    for entry in std::fs::read_dir(pg::bin()).expect("list").flatten() {
        std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name())).expect("link");
    }
    archive.set_tail(&format!("\n[drill]\nbin = {programs:?}\n"));
    drilling(&archive, &directory, &["--keep"]).cwd(&place).go().ok();
    let pwned = repo::files(scratch.path()).into_iter().find(|path| path.ends_with("pwned"));
    assert_eq!(pwned, None);
}
