//! A real recovery with a worker: all 6 000 rows, or the server did not come up.

use super::*;
use crate::support::repo::{Damage, damage};

const ALL: &str = "6000";

/// A base backup with 1 000 rows, and an archive with ten segments that bring 500 rows each.
struct Oracle {
    base: PathBuf,
    repository: PathBuf,
    segments: Vec<String>,
    _scratch: Scratch,
}

impl Oracle {
    fn new() -> Oracle {
        let server = Cluster::build().wal_segsize(1).create();
        let archive = Archive::of_server(&server);
        server.start();
        server.psql("create table t as select generate_series(1, 1000) as i");
        let scratch = Scratch::new();
        let base = scratch.join("base");
        server.base_backup(&base);
        let mut segments = Vec::new();
        for _ in 0..10 {
            server.psql("insert into t select generate_series(1, 500)");
            segments.push(server.switch_wal());
        }
        server.await_archived(&segments[9]);
        server.stop(Stop::Immediate);
        let repository = scratch.join("repository");
        scratch::copy_tree(archive.root(), &repository);
        Oracle { base, repository, segments, _scratch: scratch }
    }

    fn copy(&self, signal: &str, change: impl FnOnce(repo::Build) -> repo::Build) -> (Cluster, Archive) {
        let scratch = Scratch::new();
        let data = scratch.join("data");
        scratch::copy_tree(&self.base, &data);
        let repository = scratch.join("repository");
        scratch::copy_tree(&self.repository, &repository);
        let server = Cluster::over(scratch, data);
        let build = Archive::build(server.data()).root(&repository).wal("fetch_ahead = 4");
        let archive = change(build).unregistered();
        server.set("archive_mode", "off");
        server.set("restore_command", &archive.restore_command());
        server.set("wal_retrieve_retry_interval", "200ms");
        server.touch(signal);
        (server, archive)
    }
}

/// Starts the server; the rows it shows once it is out of recovery, or none when it did not come up.
fn rows(server: &Cluster) -> Option<String> {
    if !server.try_start() {
        return None;
    }
    until("recovery ends in one way or the other", || {
        let recovered = server.try_psql("select pg_is_in_recovery()");
        !server.is_up() || (recovered.code() == Some(0) && recovered.stdout.trim() == "f")
    });
    server.is_up().then(|| server.psql("select count(*) from t"))
}

fn assert_nothing_is_left(server: &Cluster, archive: &Archive) {
    assert!(wait::within(Duration::from_secs(10), || workers(archive).is_empty()), "a worker is left");
    assert_eq!(spooled(archive), Vec::<PathBuf>::new());
    for path in repo::files(&server.wal()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(!name.contains("walfetch") && !name.contains("mark"), "{name} is left in pg_wal");
    }
}

#[test]
fn recovery_gives_all_rows_and_nothing_is_left_after_the_promotion() {
    let oracle = Oracle::new();
    let (server, archive) = oracle.copy("recovery.signal", |build| build);
    assert_eq!(rows(&server).as_deref(), Some(ALL), "{}", server.log_text());
    assert_nothing_is_left(&server, &archive);
}

#[test]
fn damage_ahead_of_recovery_gives_all_rows_or_no_server() {
    let oracle = Oracle::new();
    for kind in [Damage::Flip(600), Damage::Truncate(-50), Damage::Remove] {
        let (server, archive) = oracle.copy("recovery.signal", |build| build);
        damage(&archive.object(&oracle.segments[6]), kind);
        assert_eq!(rows(&server), None, "{}", server.log_text());
        assert!(server.log_text().contains("exit code 200"), "{}", server.log_text());
        assert_nothing_is_left(&server, &archive);
        std::fs::remove_dir_all(archive.root()).expect("remove the repository");
        scratch::copy_tree(&oracle.repository, archive.root());
        assert_eq!(rows(&server).as_deref(), Some(ALL), "{}", server.log_text());
    }
}

#[test]
fn a_killed_server_recovers_all_rows_with_what_its_worker_left() {
    let oracle = Oracle::new();
    let (server, archive) = oracle.copy("standby.signal", |build| build);
    server.set("hot_standby", "on");
    for _ in 0..3 {
        server.start();
        until("something is replayed", || server.log_text().contains("restored log file"));
        server.kill();
        for pid in workers(&archive) {
            run::signal(pid, "KILL");
        }
    }
    server.start();
    server.await_sql("select count(*) from t", ALL);
    server.promote();
    assert_eq!(server.psql("select count(*) from t"), ALL);
    assert_nothing_is_left(&server, &archive);
}

#[test]
fn two_recoveries_share_a_spool() {
    let oracle = Oracle::new();
    let shared = Scratch::new();
    let line = format!("spool = {:?}", shared.mkdir("spool"));
    let both = [(), ()].map(|()| oracle.copy("recovery.signal", |build| build.wal(&line)));
    std::thread::scope(|scope| {
        for (server, _) in &both {
            scope.spawn(|| assert_eq!(rows(server).as_deref(), Some(ALL), "{}", server.log_text()));
        }
    });
    for (server, archive) in &both {
        assert_nothing_is_left(server, archive);
    }
}

#[test]
fn a_standby_that_has_caught_up_has_no_worker_and_follows_what_is_archived() {
    let oracle = Oracle::new();
    let (server, archive) = oracle.copy("standby.signal", |build| build);
    let last = archive.object(&oracle.segments[9]);
    let held_back = read(&last);
    std::fs::remove_file(&last).expect("hold the last segment back");
    server.start();
    server.await_sql("select count(*) from t", "5500");
    until("the worker has ended", || workers(&archive).is_empty());
    let seen = server.log_text().len();
    let copy = archive.scratch().write("copy", held_back);
    std::fs::rename(copy, &last).expect("let the last segment arrive");
    server.await_sql("select count(*) from t", ALL);
    assert!(!server.log_text()[seen..].contains("walfetch:"), "{}", server.log_text());
    server.stop(Stop::Fast);
    assert_nothing_is_left(&server, &archive);
}
