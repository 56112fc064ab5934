//! A repository with a past: a pruned backup, several that are left, a recovery to an earlier
//! moment and so a second timeline, a pin, and a verification. Made once, copied by each test.

use super::live::{self, Live, recovers};
use super::repo::Archive;
use super::scratch::{self, Scratch};
use super::{Cluster, Stop};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

/// Table `t` has 1000 rows at the end of backup `a`, 2000 at that of `b`, both on timeline 1; then
/// 3000. A recovery from `a` to 1000 rows began timeline 2; there it has 1500 rows at the end of
/// `c`, 2000 at that of `d`, and 2500 in the end.
pub struct Saga {
    archive: Archive,
    /// Kept alive: the configuration names their data directories.
    servers: [Cluster; 2],
    pub a: String,
    pub b: String,
    pub c: String,
    pub d: String,
}

impl Saga {
    /// The one of this moment: made when the first test asks, removed when the last one is done.
    pub fn get() -> Arc<Saga> {
        static TOLD: Mutex<Weak<Saga>> = Mutex::new(Weak::new());
        let mut told = TOLD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(saga) = told.upgrade() {
            return saga;
        }
        let saga = Arc::new(Saga::tell());
        *told = Arc::downgrade(&saga);
        saga
    }

    fn tell() -> Saga {
        let live = Live::new();
        let add = |server: &Cluster, rows: u32| {
            server.psql(&format!("insert into t select from generate_series(1, {rows})"));
        };
        live.server.psql("create table t (i serial primary key)");
        let past = live.backup_id();
        add(&live.server, 1000);
        let a = live.backup_id();
        live.archive.walkeep(&["prune", "--remove", &past]).ok();
        let then = live.server.psql("select pg_current_wal_insert_lsn()");
        add(&live.server, 1000);
        live.server.switch_wal();
        let b = live.backup_id();
        add(&live.server, 1000);
        live.flush_wal();
        live.server.stop(Stop::Fast);

        let restored = live.restore(&[&a, "--lsn", &then, "--as-primary"]);
        let server = restored.server();
        let archive = Archive::build(server.data())
            .connection(server.connection())
            .root(live.archive.root())
            .unregistered();
        server.set("archive_command", &archive.archive_command());
        assert!(recovers(&server), "{}", server.log_text());
        assert_eq!(server.psql("select count(*) from t"), "1000");
        add(&server, 500);
        server.switch_wal();
        let back_up = || live::text(&live::json(&live::backing_up(&archive).go().ok()), "id");
        let c = back_up();
        add(&server, 500);
        server.switch_wal();
        let d = back_up();
        add(&server, 500);
        let last = server.switch_wal();
        server.await_archived(&last);
        server.stop(Stop::Fast);
        archive.walkeep(&["pin", &b]).ok();
        for lease in super::repo::files(&super::saga::lineage(&archive).join("active")) {
            std::fs::remove_file(lease).expect("end the lease of the restore");
        }
        archive.walkeep(&["verify"]).ok();
        let Live { server: first, archive: of_first } = live;
        archive.keep_archive(of_first);
        Saga { archive, servers: [first, server], a, b, c, d }
    }

    /// A copy of the repository, with a configuration for it.
    pub fn archive(&self) -> Archive {
        self.copies(&["repository"])
    }

    /// Two copies, the first of which can be mended from the second.
    pub fn twins(&self) -> Archive {
        self.copies(&["first", "second"])
    }

    fn copies(&self, names: &[&str]) -> Archive {
        let scratch = Scratch::new();
        let mut build = Archive::build(self.servers[1].data());
        for name in names {
            let root = scratch.join(name);
            scratch::copy_tree(self.archive.root(), &root);
            build = build.root(root);
        }
        let archive = build.unregistered();
        archive.keep(scratch);
        archive
    }

    /// Each backup, and the rows that it has.
    pub fn backups(&self) -> [(&str, &'static str); 4] {
        [(&self.a, "1000"), (&self.b, "2000"), (&self.c, "1500"), (&self.d, "2000")]
    }
}

/// The folder of a cluster's only life in the first repository.
pub fn lineage(archive: &Archive) -> PathBuf {
    let system = archive.identity().file_name().expect("a name").to_owned();
    archive.root().join("main").join(system)
}

/// The problems that a verification reports, as objects and kinds.
pub fn problems(report: &Value) -> Vec<(String, String)> {
    let problems = report["problems"].as_array().expect("a list");
    problems.iter().map(|problem| (live::text(problem, "object"), live::text(problem, "kind"))).collect()
}

/// The key of an object, as verify names it: relative to its archive.
pub fn key(archive: &Archive, path: &Path) -> String {
    let relative =
        path.strip_prefix(lineage(archive)).or_else(|_| path.strip_prefix(archive.root().join("main")));
    relative.expect("an object of the cluster").display().to_string()
}
