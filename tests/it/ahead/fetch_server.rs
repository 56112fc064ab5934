//! A real recovery with a worker: all 6 000 rows, or the server did not come up.

use super::*;
use crate::support::oracle::{ALL, Oracle, rows};
use crate::support::repo::{Damage, damage};

/// A copy of the oracle's server with a worker.
fn copy(
    oracle: &Oracle,
    signal: &str,
    change: impl FnOnce(repo::Build) -> repo::Build,
) -> (Cluster, Archive) {
    oracle.copy(signal, |build| change(build.wal("fetch_ahead = 4")))
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
    let oracle = Oracle::new(10);
    let (server, archive) = copy(&oracle, "recovery.signal", |build| build);
    assert_eq!(rows(&server).as_deref(), Some(ALL), "{}", server.log_text());
    assert_nothing_is_left(&server, &archive);
}

#[test]
fn damage_ahead_of_recovery_gives_all_rows_or_no_server() {
    let oracle = Oracle::new(10);
    for kind in [Damage::Flip(600), Damage::Truncate(-50), Damage::Remove] {
        let (server, archive) = copy(&oracle, "recovery.signal", |build| build);
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
    let oracle = Oracle::new(10);
    let (server, archive) = copy(&oracle, "standby.signal", |build| build);
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
    let oracle = Oracle::new(10);
    let shared = Scratch::new();
    let line = format!("spool = {:?}", shared.mkdir("spool"));
    let both = [(), ()].map(|()| copy(&oracle, "recovery.signal", |build| build.wal(&line)));
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
    let oracle = Oracle::new(10);
    let (server, archive) = copy(&oracle, "standby.signal", |build| build);
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

/// A running primary requests no WAL: what an administrator fetches there is one file.
#[test]
fn a_fetch_by_hand_beside_a_running_primary_starts_no_worker() {
    let mut live = Live::new();
    let names: Vec<String> = (0..4).map(|_| live.flush_wal()).collect();
    live.archive.set_wal("fetch_ahead = 4");
    live.archive.write_config();
    live.archive.fetching(&names[0], live.archive.scratch().join("by-hand")).go().ok();
    assert!(workers(&live.archive).is_empty(), "a worker was started");
    assert_eq!(spooled(&live.archive), Vec::<PathBuf>::new());
}
