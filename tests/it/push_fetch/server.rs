//! A real server that archives.

use super::*;

/// A server whose next segments cross the end of a log.
fn server(megabytes: u32) -> (Cluster, Archive) {
    let server = Cluster::build().wal_segsize(megabytes).create();
    let last = 4096 / megabytes - 1;
    let reset = pg::tool("pg_resetwal").arg("-l").arg(format!("00000001{:08X}{last:08X}", 0));
    reset.arg("-D").arg(server.data()).go().ok();
    server.set("wal_keep_size", "8GB");
    let archive = Archive::of_server(&server);
    server.start();
    (server, archive)
}

fn round_trip(megabytes: u32) {
    let (server, archive) = server(megabytes);
    server.psql("create table t (i int)");
    let mut names = Vec::new();
    for _ in 0..3 {
        server.psql("insert into t select generate_series(1, 1000)");
        names.push(server.switch_wal());
    }
    server.await_archived(&names[2]);
    let logs: Vec<&str> = names.iter().map(|name| &name[8..16]).collect();
    assert_eq!(logs, ["00000000", "00000001", "00000001"], "{names:?}");
    for name in &names {
        assert!(archive.fetched(name) == read(server.wal().join(name)), "{name}");
    }
    assert_eq!(server.psql("select failed_count from pg_stat_archiver"), "0");
    assert_eq!(archive.stored().len(), 3);
}

#[test]
fn a_server_with_segments_of_1_mb_archives_across_the_end_of_a_log() {
    round_trip(1);
}

#[test]
fn a_server_with_segments_of_16_mb_archives_across_the_end_of_a_log() {
    round_trip(16);
}

#[test]
fn a_server_with_segments_of_64_mb_archives_across_the_end_of_a_log() {
    round_trip(64);
}

#[test]
fn an_outage_is_counted_by_the_server_and_ends_by_itself() {
    let server = Cluster::build().wal_segsize(1).create();
    let archive = Archive::of_server(&server);
    let away = archive.root().with_extension("away");
    std::fs::rename(archive.root(), &away).expect("move the repository away");
    server.start();
    let name = server.switch_wal();
    server.await_sql("select failed_count >= 1 from pg_stat_archiver", "t");
    let log = server.log_text();
    let status = log
        .lines()
        .find_map(|line| line.split_once("archive command failed with exit code "))
        .and_then(|(_, status)| status.trim().parse::<i32>().ok());
    assert!(matches!(status, Some(1..=125)), "{log}");
    assert!(log.contains("hint:"), "{log}");
    assert!(!archive.root().exists());
    std::fs::rename(&away, archive.root()).expect("bring the repository back");
    server.await_archived(&name);
    assert!(archive.fetched(&name) == read(server.wal().join(&name)));
}

#[test]
fn a_backup_by_hand_ends_because_its_label_is_archived() {
    let server = Cluster::build().wal_segsize(1).create();
    let archive = Archive::of_server(&server);
    server.start();
    server.base_backup(&server.scratch().join("copy"));
    let labels: Vec<String> = archive.stored().into_iter().map(|(name, _)| name).collect();
    assert!(labels.iter().any(|name| name.ends_with(".backup")), "{labels:?}");
}

#[test]
fn promotions_go_through_to_the_archive() {
    let server = Cluster::build().wal_segsize(1).create();
    let archive = Archive::of_server(&server);
    server.set("restore_command", &archive.restore_command());
    server.start();
    server.psql("create table t as select generate_series(1, 1000)");
    server.switch_wal();
    server.psql("insert into t select generate_series(1, 1000)");
    server.stop(Stop::Fast);
    for timeline in 2..4 {
        server.touch("recovery.signal");
        server.start();
        server.await_sql("select pg_is_in_recovery()", "f");
        assert_eq!(server.psql("select count(*) from t"), "2000");
        server.psql("checkpoint");
        let name = server.switch_wal();
        assert!(name.starts_with(&format!("{timeline:08X}")), "{name}");
        server.await_archived(&name);
        assert!(archive.find(&format!("{timeline:08X}.history")).is_some());
        server.stop(Stop::Fast);
    }
    let names: Vec<String> = archive.stored().into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().any(|name| name.ends_with(".partial")), "{names:?}");
    for (name, _) in archive.stored() {
        archive.fetched(&name);
    }
}

#[test]
fn a_server_that_is_archived_again_after_a_crash_finds_its_files_there() {
    let server = Cluster::build().wal_segsize(1).create();
    let archive = Archive::of_server(&server);
    server.start();
    let name = server.switch_wal();
    server.await_archived(&name);
    server.kill();
    // What a crash right after the archiving leaves: the server does not know that it was done.
    let status = server.wal().join("archive_status");
    std::fs::rename(status.join(format!("{name}.done")), status.join(format!("{name}.ready")))
        .expect("forget that it was archived");
    server.start();
    until("it was archived again", || status.join(format!("{name}.done")).exists());
    assert_eq!(archive.stored().iter().filter(|(stored, _)| *stored == name).count(), 1);
}

#[test]
fn a_server_stops_although_its_archive_hangs() {
    let server = Cluster::build().wal_segsize(1).create();
    let archive = Archive::build(server.data()).connection(server.connection());
    let archive = archive.wal("timeout = \"2s\"").create();
    server.set("archive_mode", "on");
    server.set("archive_command", &archive.archive_command());
    server.start();
    let stuck =
        stuck::prefix().iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect::<Vec<_>>();
    server.set(
        "archive_command",
        &format!("{} {}", stuck.join(" ").replace('%', "%%"), archive.archive_command()),
    );
    server.psql("select pg_reload_conf()");
    let name = server.switch_wal();
    until("an attempt ran out of time", || {
        server.log_text().contains("archive command failed with exit code 1")
    });
    // A last attempt is made during the shutdown; `stop` waits for it, and for no more than that.
    server.stop(Stop::Fast);
    server.set("archive_command", &archive.archive_command());
    server.start();
    server.await_archived(&name);
}

#[test]
fn a_standby_that_archives_too_agrees_with_its_primary() {
    let primary = Cluster::build().wal_segsize(1).create();
    let archive = Archive::of_server(&primary);
    primary.start();
    primary.psql("create table t as select generate_series(1, 1000) as i");
    let scratch = Scratch::new();
    let data = scratch.join("data");
    primary.base_backup(&data);
    let standby = Cluster::over(scratch, data);
    standby.set("archive_mode", "always");
    standby.set("primary_conninfo", &format!("host={} user=postgres", primary.socket().display()));
    standby.touch("standby.signal");
    standby.start();
    for _ in 0..4 {
        primary.psql("insert into t select generate_series(1, 1000)");
        let name = primary.switch_wal();
        primary.await_archived(&name);
        standby.await_archived(&name);
        assert!(archive.fetched(&name) == read(primary.wal().join(&name)), "{name}");
    }
    for server in [&primary, &standby] {
        assert_eq!(server.psql("select failed_count from pg_stat_archiver"), "0", "{}", server.log_text());
    }
}
