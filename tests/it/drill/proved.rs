//! What a drill proves.

use super::*;
use crate::support::live::ALL;

#[test]
fn the_newest_backup_is_proved_to_the_end_of_the_archive_and_nothing_is_left() {
    let story = Story::get();
    let mut archive = story.archive();
    archive.set_tail(&rows_are(ALL));
    let before = archive.snapshot();
    let report = drill(&archive, &[], 0);
    assert_eq!(report["backup"], story.b.as_str());
    assert_eq!(report["outcome"], "proved");
    assert_eq!(report["reached_lsn"], report["expected_lsn"]);
    for name in
        ["restore", "pg_verifybackup", "recovery", "log of recovery", "read", "amcheck", "assert rows", "log"]
    {
        assert_eq!(check(&report, name).0, Some(true), "{name}: {report:#}");
    }
    for name in ["restore_seconds", "recovery_seconds", "check_seconds"] {
        assert!(report[name].as_f64().expect("a time") > 0.0, "{name}");
    }
    // All that is new in the repository is the history.
    let after = archive.snapshot();
    let new: Vec<_> = after.paths().into_iter().filter(|path| !before.paths().contains(path)).collect();
    assert!(new.iter().all(|path| path.display().to_string().contains("/drill")), "{new:?}");
}

#[test]
fn a_moment_is_reached_exactly_and_no_further() {
    let story = Story::get();
    for mark in &story.marks {
        let mut archive = story.archive();
        archive.set_tail(&rows_are(&mark.rows.to_string()));
        let report = drill(&archive, &["--time", &mark.time], 0);
        assert_eq!(check(&report, "recovery").0, Some(true), "{report:#}");
        let report = drill(&archive, &["--lsn", &mark.lsn], 0);
        assert_eq!(report["reached_lsn"], report["expected_lsn"], "{report:#}");
    }
    let mut archive = story.archive();
    archive.set_tail(&rows_are("1000"));
    let report = drill(&archive, &[&story.a, "--immediate"], 0);
    assert_eq!(report["backup"], story.a.as_str());
}

#[test]
fn rotation_goes_round_and_takes_the_pinned_one_to_its_own_end() {
    let story = Story::get();
    let archive = story.archive();
    archive.walkeep(&["pin", &story.a, "--standalone"]).ok();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let report = drill(&archive, &["--rotate"], 0);
        seen.push((text(&report, "chosen"), text(&report, "backup"), text(&report, "target")));
    }
    let (a, b) = (story.a.clone(), story.b.clone());
    let of =
        |chosen: &str, backup: &str, target: &str| (chosen.to_owned(), backup.to_owned(), target.to_owned());
    assert_eq!(seen[0], of("newest", &b, "end"));
    // The older one leads no further than to its own end now.
    assert_eq!(seen[1], of("oldest", &b, "end"));
    assert_eq!(seen[2], of("pinned", &a, "immediate"));
    assert_eq!(seen[3].0, "moment");
    assert_eq!(seen[4], of("newest", &b, "end"));
}

#[test]
fn recovery_is_followed_onto_the_timeline_that_the_archive_ends_on() {
    let live = Live::new();
    live.server.psql("create table t (i serial primary key)");
    live.backup();
    live.server.psql("insert into t select from generate_series(1, 1000)");
    live.flush_wal();
    live.server.stop(Stop::Immediate);
    let primary = live.restore(&["--as-primary"]).recovered();
    primary.psql("insert into t select from generate_series(1, 500)");
    let name = primary.switch_wal();
    primary.await_archived(&name);
    primary.stop(Stop::Fast);
    let mut archive = live.archive;
    archive.set_tail(&rows_are("1500"));
    let report = drill(&archive, &[], 0);
    assert_eq!(check(&report, "assert rows").0, Some(true), "{report:#}");
}

#[test]
fn every_database_is_read_also_one_that_nobody_may_connect_to() {
    let live = Live::new();
    live.server.psql("create database closed");
    live.server.psql("alter database closed allow_connections false");
    live.backup();
    live.flush_wal();
    let report = drill(&live.archive, &[], 0);
    let (ok, detail) = check(&report, "read");
    assert_eq!(ok, Some(true));
    assert!(detail.contains("of 4 databases"), "{detail}");
}

#[test]
fn the_least_settings_are_those_that_postgres_itself_shows() {
    let server = Cluster::build().create();
    for (name, value) in [
        ("max_connections", "123"),
        ("max_worker_processes", "13"),
        ("max_wal_senders", "14"),
        ("max_prepared_transactions", "15"),
        ("max_locks_per_transaction", "77"),
    ] {
        server.set(name, value);
    }
    server.start();
    server.stop(Stop::Fast);
    let control = walkeep::pg::control::Control::read(server.data()).expect("pg_control");
    let shown = pg::tool("pg_controldata").arg(server.data()).go().ok().stdout;
    for (name, value) in control.least_settings() {
        // Some are written `max_prepared_xacts`, `max_locks_per_xact`.
        let name = name.replace("transactions", "xacts").replace("transaction", "xact");
        let line = shown.lines().find(|line| line.starts_with(&format!("{name} setting:")));
        let line = line.unwrap_or_else(|| panic!("no {name} in {shown}"));
        assert_eq!(line.split_whitespace().last(), Some(value.to_string().as_str()), "{name}");
    }
}
