//! What cannot become a backup is refused before anything is copied, with what to do about it.

use super::*;

/// The backup is refused, and neither the repository nor the server's WAL archive changed.
#[track_caller]
fn refused(live: &Live) -> Outcome {
    let before = live.archive.snapshot();
    let outcome = live.backing_up().deadline(Duration::from_secs(40)).go().is(1).told();
    assert!(outcome.stderr.contains("hint:"), "no hint\n{outcome}");
    assert!(live.archive.snapshot() == before, "something changed\n{outcome}");
    outcome
}

#[test]
fn an_archive_command_that_stores_nothing_is_found_out_at_once() {
    for command in
        ["true", "true # walpush %p", "cp %p /dev/null", "", "walpush %p || true", "walpush %p; true"]
    {
        let live = Live::new();
        live.server.psql(&format!("alter system set archive_command = '{command}'"));
        live.server.psql("select pg_reload_conf()");
        live.server.await_sql("show archive_command", command);
        refused(&live);
    }
}

#[test]
fn wal_that_goes_into_another_repository_is_found_out() {
    let live = Live::new();
    let other = Archive::build(live.server.data()).connection(live.server.connection()).create();
    live.server.psql(&format!(
        "alter system set archive_command = '{}'",
        other.archive_command().replace('\'', "''")
    ));
    live.server.psql("select pg_reload_conf()");
    live.server
        .await_sql("select setting like '%walpush%' from pg_settings where name = 'archive_command'", "t");
    let before = live.archive.snapshot();
    let outcome = live.backing_up().go().is(1).told();
    assert!(outcome.stderr.contains("archive_command"), "{outcome}");
    assert!(live.archive.snapshot() == before, "{outcome}");
}

#[test]
fn a_server_that_does_not_archive_is_refused_with_the_setting() {
    for (settings, named) in [
        (vec![("archive_mode", "off")], "archive_mode"),
        (vec![("archive_mode", "off"), ("wal_level", "minimal"), ("max_wal_senders", "0")], "wal_level"),
    ] {
        let live = Live::with(Cluster::build().wal_segsize(1), |_| {});
        live.server.stop(Stop::Fast);
        for (name, value) in settings {
            live.server.set(name, value);
        }
        live.server.start();
        let outcome = refused(&live);
        assert!(outcome.stderr.contains(named), "{outcome}");
    }
}

#[test]
fn a_role_without_grants_is_told_the_lines_that_help() {
    let live = Live::new();
    live.server.psql("create role \"Backup user\" login");
    let connection = live.server.connection().replace("user=postgres", "user='Backup user'");
    let archive =
        Archive::build(live.server.data()).connection(connection).root(live.archive.root()).unregistered();
    let before = live.archive.snapshot();
    let mut granted = 0;
    // One after the other: each is missed as long as it is missing.
    loop {
        let outcome = live::backing_up(&archive).go();
        if outcome.code() == Some(0) {
            break;
        }
        let outcome = outcome.is(1).told();
        assert!(live.archive.snapshot() == before, "{outcome}");
        let grant = outcome.stderr.lines().find(|line| line.trim().starts_with("GRANT "));
        let grant = grant.unwrap_or_else(|| panic!("no line to type\n{outcome}")).trim().to_owned();
        live.server.psql(&grant);
        granted += 1;
        assert!(granted < 20, "granted {granted} times and still not enough\n{outcome}");
    }
    assert!(granted >= 4, "only {granted} grants were needed");
    assert_eq!(live.records().len(), 1);
    live.restore(&[]).verified();
}

#[test]
fn another_cluster_behind_the_connection_is_refused() {
    let live = Live::new();
    let other = Live::new();
    let crossed = Archive::build(live.server.data()).connection(other.server.connection());
    let crossed = crossed.root(live.archive.root()).unregistered();
    let before = (live.archive.snapshot(), other.archive.snapshot());
    let outcome = live::backing_up(&crossed).go().is(1).told();
    assert!(outcome.stderr.contains("hint:") && outcome.stderr.contains("connection"), "{outcome}");
    assert!((live.archive.snapshot(), other.archive.snapshot()) == before);
}

#[test]
fn a_copy_of_the_cluster_behind_the_connection_is_refused() {
    let live = Live::new();
    live.server.psql("checkpoint");
    live.server.stop(Stop::Fast);
    let copy = live.server.copied();
    live.server.start();
    copy.set("archive_mode", "off");
    copy.start();
    let crossed = Archive::build(copy.data()).connection(live.server.connection());
    let crossed = crossed.root(live.archive.root()).unregistered();
    let before = live.archive.snapshot();
    live::backing_up(&crossed).go().is(1).told().says("hint:");
    assert!(live.archive.snapshot() == before);
}

#[test]
fn a_server_that_cannot_be_reached_is_an_error_with_a_hint() {
    let live = Live::new();
    live.server.stop(Stop::Fast);
    refused(&live);
}

#[test]
fn a_cluster_that_is_not_registered_is_not_backed_up() {
    let live = Live::new();
    let root = live.archive.scratch().mkdir("unregistered");
    let archive = Archive::build(live.server.data()).connection(live.server.connection()).root(&root);
    let archive = archive.unregistered();
    live::backing_up(&archive).go().is(1).told().says("hint:");
    assert_eq!(repo::files(&root), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_repository_inside_the_data_directory_is_refused_at_init() {
    let live = Live::new();
    let space = live.server.scratch().mkdir("space");
    live.server.psql(&format!("create tablespace space location '{}'", space.display()));
    let inside = live.server.data().join("backups");
    let link = live.archive.scratch().join("link");
    std::os::unix::fs::symlink(live.server.data(), &link).expect("make a link");
    for root in [inside.clone(), link.join("backups"), space.join("backups")] {
        let archive = Archive::build(live.server.data()).root(&root).unregistered();
        archive.init().failed().says("hint:");
        assert!(!root.exists(), "{}", root.display());
    }
}

#[test]
fn a_timeline_whose_history_neither_the_repository_nor_the_server_has_is_refused() {
    let live = Live::new();
    live.server.stop(Stop::Fast);
    live.server.touch("standby.signal");
    live.server.start();
    live.server.promote();
    live.server.await_sql("select pg_is_in_recovery()", "f");
    live.flush_wal();
    until("the history is archived", || live.archive.find("00000002.history").is_some());
    let history = live.archive.object("00000002.history");
    let (own, away) = (live.server.wal().join("00000002.history"), live.archive.scratch().join("history"));
    std::fs::remove_file(&history).expect("lose the history");
    std::fs::rename(&own, &away).expect("and the file of the server");
    let outcome = live.backing_up().go().is(1).told();
    assert!(outcome.stderr.contains("00000002.history") && outcome.stderr.contains("hint:"), "{outcome}");
    std::fs::rename(&away, &own).expect("bring it back");
    let id = live.backup_id();
    assert!(history.exists(), "the backup archives the history of its server");
    live.restore(&[&id]).verified().recovered();
}
