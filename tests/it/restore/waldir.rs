//! A `pg_wal` on a disk of its own.

use super::*;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A server whose `pg_wal` is a link, and the target of the link.
fn linked() -> (Live, PathBuf) {
    let mut place = PathBuf::new();
    let live = Live::with(Cluster::build().wal_segsize(1), |server| {
        place = server.scratch().mkdir("disk").join("wal");
        std::fs::rename(server.wal(), &place).expect("move pg_wal");
        symlink(&place, server.wal()).expect("link pg_wal");
    });
    live.server.psql("create table t (i int)");
    live.backup();
    live.server.psql("insert into t values (1)");
    live.flush_wal();
    (live, place)
}

#[test]
fn a_pg_wal_on_its_own_disk_comes_back_as_one() {
    let (live, place) = linked();
    let restored = live.restore(&[]);
    assert!(restored.outcome.stderr.contains(&place.display().to_string()), "{}", restored.outcome);
    assert!(restored.outcome.stderr.contains("--waldir"), "{}", restored.outcome);
    assert!(!restored.data.join("pg_wal").is_symlink());
    let scratch = Scratch::new();
    let wal = scratch.join("disk/wal");
    let restored = live.restore(&["--waldir", wal.to_str().expect("a path")]).verified();
    assert_eq!(std::fs::read_link(restored.data.join("pg_wal")).expect("a link"), wal);
    assert!(!wal.join("walkeep.restoring").exists());
    let copy = restored.recovered();
    assert_eq!(rows(&copy), "1");
}

#[test]
fn a_restore_over_the_original_keeps_the_link() {
    let (live, place) = linked();
    live.server.stop(Stop::Fast);
    let segment = repo::files(&place).into_iter().find(|path| path.extension().is_none()).expect("a segment");
    scratch::write(&segment, "spoiled");
    restoring(&live.archive, live.server.data(), &["--delta"]).go().ok();
    assert_eq!(std::fs::read_link(live.server.wal()).expect("a link"), place);
    pg::tool("pg_verifybackup").arg(live.server.data()).go().ok();
    assert!(recovers(&live.server), "{}", live.server.log_text());
    assert_eq!(rows(&live.server), "1");
}

#[test]
fn a_directory_that_is_used_does_not_become_that_of_the_wal() {
    let (live, place) = linked();
    let scratch = Scratch::new();
    let full = scratch.mkdir("full");
    scratch::write(&full.join("mine"), "mine");
    let to = scratch.join("data");
    let inside = to.join("wal");
    for (waldir, says) in
        [(&full, "is not empty"), (&place, "has the WAL of the cluster"), (&inside, "contain")]
    {
        for dry_run in [true, false] {
            let run = restoring(&live.archive, &to, &["--waldir", waldir.to_str().expect("a path")]);
            let run = if dry_run { run.arg("--dry-run") } else { run };
            let outcome = run.go().is(1).told();
            assert!(outcome.stderr.contains(says), "{outcome}");
            assert!(!to.exists());
        }
    }
    let other = Cluster::build().wal_segsize(1).create();
    std::fs::remove_dir_all(other.wal()).expect("remove it");
    symlink(&full, other.wal()).expect("link");
    live.server.stop(Stop::Fast);
    // A link that leads to something else than WAL.
    std::fs::remove_file(live.server.wal()).expect("remove the link");
    symlink(&full, live.server.wal()).expect("link");
    let outcome = restoring(&live.archive, live.server.data(), &["--delta"]).go().is(1).told();
    assert!(outcome.stderr.contains("is not a directory of WAL"), "{outcome}");
    assert_eq!(read(full.join("mine")), b"mine");
}
