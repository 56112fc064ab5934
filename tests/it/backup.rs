//! `walkeep backup` of a real server: what is in it, and what never becomes a backup.

mod busy;
mod cache;
mod checkpoint;
mod checksums;
mod clock;
mod content;
mod faults;
mod foreign;
mod interrupted;
mod many;
mod planted;
mod pooler;
mod refused;
mod report;
mod shared;
mod standby;
mod summaries;
mod tablespaces;

use crate::support::live;
use crate::support::repo::{self, Snapshot};
use crate::support::*;
use std::process::Child;
use std::time::Duration;

/// A backup that takes seconds: every file is opened late.
struct Slow {
    /// Its record lies in a scratch directory that has to stay.
    _strace: Strace,
    run: Run,
    child: Child,
}

impl Slow {
    /// Starts it and waits until it copies. None where strace does not work.
    fn begin(live: &Live, arguments: &[&str]) -> Option<Slow> {
        Slow::of(live.backing_up().args(arguments))
    }

    fn of(run: Run) -> Option<Slow> {
        let strace = Strace::new()?.detached().trace("openat2").inject("openat2:delay_enter=9000");
        let child = strace.spawn(&run);
        until("the backup copies", || strace.text().contains("base/1/1"));
        Some(Slow { _strace: strace, run, child })
    }

    #[track_caller]
    fn finish(self) -> Outcome {
        self.run.finish(self.child)
    }
}

/// A backup that must fail: status 1 with an error, and what is listed is what was listed.
#[track_caller]
fn assert_failed(live: &Live, before: &[String], outcome: Outcome) -> Outcome {
    let outcome = outcome.is(1).told();
    assert_eq!(live.records(), before, "{outcome}");
    outcome
}

/// As [`assert_failed`], and the next one works.
#[track_caller]
fn assert_failed_once(live: &Live, before: &[String], outcome: Outcome) -> Outcome {
    let outcome = assert_failed(live, before, outcome);
    let id = live.backup_id();
    assert!(live.records().contains(&id));
    assert_eq!(live.records().len(), before.len() + 1);
    live.restore(&[&id, "--immediate"]).verified();
    outcome
}

/// Clients that write until they are dropped.
struct Pgbench<'a>(Child, &'a Cluster);

impl Pgbench<'_> {
    fn on(server: &Cluster) -> Pgbench<'_> {
        let pgbench = pg::tool("pgbench").args(["-U", "postgres", "-h"]).arg(server.socket());
        pgbench.clone().args(["-i", "-q", "-s", "2", "postgres"]).go().ok();
        let run = pgbench.args(["-n", "-c", "2", "-T", "300", "postgres"]);
        let child = run.spawn();
        server.await_sql("select count(*) > 50 from pgbench_history", "t");
        Pgbench(child, server)
    }
}

impl Drop for Pgbench<'_> {
    fn drop(&mut self) {
        run::signal(self.0.id(), "KILL");
        let _ = self.0.wait();
        // What its sessions have begun may still commit.
        let sessions = "select count(*) from pg_stat_activity where application_name = 'pgbench'";
        wait::within(wait::LONG, || self.1.try_psql(sessions).stdout.trim() == "0");
    }
}

/// Everything that amcheck looks at is sound.
#[track_caller]
fn assert_sound(server: &Cluster) {
    server.psql("create extension if not exists amcheck");
    let indexes = "select count(bt_index_check(indexrelid, true)::text) from pg_index \
                   join pg_class on oid = indexrelid where relam = 403 and relpersistence = 'p'";
    server.psql(indexes);
    let heaps = "select count(*) from pg_class, lateral verify_heapam(oid) where relkind in ('r', 't') \
                 and relpersistence = 'p'";
    assert_eq!(server.psql(heaps), "0");
}
