//! A real archiver with a backlog.

use super::*;

const SEGMENTS: usize = 20;

/// A server whose archive was away while it wrote, and is back: everything is ready at once.
fn backlog() -> (Cluster, Archive, Vec<String>) {
    let server = Cluster::build().wal_segsize(1).create();
    server.set("wal_keep_size", "1GB");
    let archive = Archive::build(server.data()).wal("push_ahead = 8").for_server(&server);
    let away = archive.root().with_extension("away");
    std::fs::rename(archive.root(), &away).expect("move the repository away");
    server.start();
    server.psql("create table t (i int)");
    let mut names = Vec::new();
    for _ in 0..SEGMENTS {
        server.psql("insert into t select generate_series(1, 100)");
        names.push(server.switch_wal());
    }
    std::fs::rename(&away, archive.root()).expect("bring the repository back");
    // Wakes the archiver, which may be pausing after its failures.
    server.psql("insert into t select generate_series(1, 100)");
    names.push(server.switch_wal());
    (server, archive, names)
}

fn assert_all_is_archived(server: &Cluster, archive: &Archive, names: &[String]) {
    for name in names {
        assert!(archive.fetched(name) == read(server.wal().join(name)), "{name}");
    }
}

#[test]
fn a_backlog_is_archived_whole_and_no_mark_stays() {
    let (server, archive, names) = backlog();
    let failed = server.psql("select failed_count from pg_stat_archiver");
    server.await_archived(&names[SEGMENTS]);
    assert_all_is_archived(&server, &archive, &names);
    let later = server.psql("select failed_count from pg_stat_archiver");
    assert!(
        later.parse::<u32>().unwrap_or(99) <= failed.parse::<u32>().unwrap_or(0) + 1,
        "{failed}, then {later}"
    );
    assert_eq!(spooled_names(&archive), Vec::<String>::new());
    // PostgreSQL itself has done all the bookkeeping.
    let status = server.wal().join("archive_status");
    assert!(names.iter().all(|name| status.join(format!("{name}.done")).exists()));
}

#[test]
fn servers_that_are_killed_during_a_backlog_lose_and_confuse_nothing() {
    let (server, archive, names) = backlog();
    for stop in [Stop::Immediate, Stop::Fast, Stop::Immediate] {
        until("something is archived", || !archive.stored().is_empty());
        server.stop(stop);
        server.start();
    }
    server.kill();
    server.start();
    let last = server.switch_wal();
    server.await_archived(&last);
    assert_all_is_archived(&server, &archive, &names);
    assert!(!server.log_text().contains("another file is archived"), "{}", server.log_text());
}
