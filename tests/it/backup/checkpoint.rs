//! The checkpoint that a backup begins with: at once, or spread as the server does it.

use super::*;
use crate::support::run::signal;
use std::time::Instant;

/// How many sessions there are beside the one that asks.
const OTHERS: &str = "select count(*) - 1 from pg_stat_activity where backend_type = 'client backend'";

/// Makes something for a checkpoint to write.
fn dirty(live: &Live, rows: u32) {
    live.server.psql("drop table if exists dirt");
    let rows = format!("select i, repeat(md5(i::text), 30) from generate_series(1, {rows}) i");
    live.server.psql(&format!("create table dirt as {rows}"));
}

#[test]
fn a_spread_checkpoint_is_announced_and_waited_for_and_a_fast_one_is_not() {
    let mut live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
        server.set("checkpoint_timeout", "30s");
        server.set("checkpoint_completion_target", "0.1");
    });
    // The wait is longer than what the role has patience for.
    live.server.psql("alter role postgres set statement_timeout = '700ms'");
    let took = |live: &Live, arguments: &[&str]| {
        dirty(live, 2000);
        let begun = Instant::now();
        let outcome = live.backing_up().args(arguments).go().ok();
        (begun.elapsed(), outcome)
    };
    let (fast, outcome) = took(&live, &[]);
    assert!(!outcome.stderr.contains("spread"), "{outcome}");
    let (spread, outcome) = took(&live, &["--checkpoint", "spread"]);
    assert!(outcome.stderr.contains("spread") && outcome.stderr.contains("minutes"), "{outcome}");
    assert!(spread > Duration::from_secs(2), "{spread:?} for a spread one, {fast:?} for a fast one");
    live.archive.set_backup("checkpoint = \"spread\"");
    let (_, outcome) = took(&live, &[]);
    assert!(outcome.stderr.contains("spread"), "{outcome}");
    let (_, outcome) = took(&live, &["--checkpoint", "fast"]);
    assert!(!outcome.stderr.contains("spread"), "{outcome}");
    live.restore(&[]).verified().recovered();
}

#[test]
fn a_backup_that_waits_for_its_checkpoint_is_stopped_at_once_and_leaves_nothing() {
    let live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
        server.set("checkpoint_timeout", "1h");
    });
    for name in ["INT", "TERM", "KILL"] {
        dirty(&live, 2000);
        let run = live.backing_up().args(["--checkpoint", "spread"]);
        let child = run.spawn();
        let waits = "select count(*) from pg_stat_activity where wait_event like 'Checkpoint%' \
                     and backend_type = 'client backend'";
        live.server.await_sql(waits, "1");
        let begun = Instant::now();
        signal(child.id(), name);
        let outcome = run.finish(child);
        assert_ne!(outcome.code(), Some(0), "{outcome}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}: {:?}", begun.elapsed());
        // The server notices that nobody waits, and leaves backup mode.
        live.server.await_sql(OTHERS, "0");
        let stored = repo::files(&saga::lineage(&live.archive));
        let folders = ["backup", "data"].map(|name| saga::lineage(&live.archive).join(name));
        assert!(
            !stored.iter().any(|path| folders.iter().any(|folder| path.starts_with(folder))),
            "{stored:?}"
        );
        // Whoever wants a fast one does not wait for the spread one that is under way.
        let begun = Instant::now();
        live.backing_up().args(["--checkpoint", "fast"]).go().ok();
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}: {:?}", begun.elapsed());
        let id = live.records().remove(0);
        live.archive.walkeep(&["show", &id]).ok();
        std::fs::remove_dir_all(saga::lineage(&live.archive).join("backup")).expect("begin anew");
        std::fs::remove_dir_all(saga::lineage(&live.archive).join("data")).expect("begin anew");
    }
}
