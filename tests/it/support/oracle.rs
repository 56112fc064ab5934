//! A base backup with an archive behind it, and the question that every recovery of it has to
//! answer: all 6 000 rows, or no server. Never another number.

use super::{Archive, Cluster, Scratch, Stop, repo, scratch, until};
use std::path::PathBuf;

/// The rows after all of the archive.
pub const ALL: &str = "6000";

/// A base backup with 1 000 rows, and an archive whose segments bring the other 5 000 in equal
/// parts.
pub struct Oracle {
    pub base: PathBuf,
    pub repository: PathBuf,
    pub segments: Vec<String>,
    pub scratch: Scratch,
}

impl Oracle {
    /// With this number of segments.
    pub fn new(segments: usize) -> Oracle {
        let server = Cluster::build().wal_segsize(1).create();
        let archive = Archive::of_server(&server);
        server.start();
        server.psql("create table t as select generate_series(1, 1000) as i");
        let scratch = Scratch::new();
        let base = scratch.join("base");
        server.base_backup(&base);
        let insert = format!("insert into t select generate_series(1, {})", 5000 / segments);
        let fill = |_| {
            server.psql(&insert);
            server.switch_wal()
        };
        let segments: Vec<String> = (0..segments).map(fill).collect();
        server.await_archived(&segments[segments.len() - 1]);
        server.stop(Stop::Immediate);
        let repository = scratch.join("repository");
        scratch::copy_tree(archive.root(), &repository);
        Oracle { base, repository, segments, scratch }
    }

    /// A copy of the backup in recovery mode (`recovery.signal`, `standby.signal`), with its own
    /// copy of the archive.
    pub fn copy(&self, signal: &str, change: impl FnOnce(repo::Build) -> repo::Build) -> (Cluster, Archive) {
        let scratch = Scratch::new();
        let data = scratch.join("data");
        scratch::copy_tree(&self.base, &data);
        let repository = scratch.join("repository");
        scratch::copy_tree(&self.repository, &repository);
        let server = Cluster::over(scratch, data);
        let archive = change(Archive::build(server.data()).root(&repository)).unregistered();
        server.set("archive_mode", "off");
        server.set("restore_command", &archive.restore_command());
        server.set("wal_retrieve_retry_interval", "200ms");
        server.touch(signal);
        (server, archive)
    }
}

/// Starts the server; the rows it shows once it is out of recovery, or none when it did not come
/// up.
pub fn rows(server: &Cluster) -> Option<String> {
    if !server.try_start() {
        return None;
    }
    until("recovery ends in one way or the other", || {
        let recovered = server.try_psql("select pg_is_in_recovery()");
        !server.is_up() || (recovered.code() == Some(0) && recovered.stdout.trim() == "f")
    });
    server.is_up().then(|| server.psql("select count(*) from t"))
}
