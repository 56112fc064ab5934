//! Backups that are killed, and two at once.

use super::*;
use crate::support::run::signal;

#[test]
fn a_killed_backup_is_never_listed_and_does_not_hinder_the_next() {
    let live = Live::new();
    let add = "insert into t select from generate_series(1, 1000)";
    live.server.psql("create table t (i serial primary key)");
    let calls =
        "write,pwrite64,writev,fsync,fdatasync,syncfs,renameat2,renameat,rename,link,linkat,mkdir,mkdirat";
    let mut listed = Vec::new();
    let mut killed = 0;
    for (fault, nth) in [
        (calls, 1),
        (calls, 9),
        (calls, 30),
        ("fsync,fdatasync,syncfs", 2),
        ("fsync,fdatasync,syncfs", 4),
        ("renameat2,renameat,rename,link,linkat", 1),
        ("renameat2,renameat,rename,link,linkat", 2),
    ] {
        let Some(strace) = Strace::new() else {
            return;
        };
        live.server.psql(add);
        let strace = strace.trace(fault).inject(&format!("{fault}:signal=KILL:when={nth}"));
        let traced = strace.go(&live.backing_up());
        if traced.outcome.code() == Some(0) {
            listed = live.records();
            continue;
        }
        killed += 1;
        // One that is killed behind its last step is complete, and restores.
        let now = live.records();
        if now.len() > listed.len() {
            live.restore(&[&now[now.len() - 1], "--immediate"]).verified();
        }
        assert!(now.starts_with(&listed), "{fault} {nth}");
        listed = now;
        live.server
            .await_sql("select count(*) from pg_stat_activity where backend_type = 'client backend'", "1");
    }
    assert!(killed >= 4, "only {killed} backups were killed");
    // What the killed ones copied is never used: the data changed since.
    live.server.psql("update t set i = i + 1000000");
    live.server.psql("checkpoint");
    let id = live.backup_id();
    let server = live.restore(&[&id]).verified().recovered();
    assert_eq!(
        server.psql("select count(*) from t where i > 1000000"),
        live.server.psql("select count(*) from t")
    );
    assert_sound(&server);
}

#[test]
fn a_backup_stopped_by_hand_is_never_listed() {
    let live = Live::new();
    for name in ["TERM", "INT", "KILL"] {
        let Some(slow) = Slow::begin(&live, &[]) else {
            return;
        };
        signal(slow.child.id(), name);
        let outcome = slow.finish();
        assert_ne!(outcome.code(), Some(0), "{outcome}");
        assert_eq!(live.records(), Vec::<String>::new());
    }
    live.backup();
}

#[test]
fn a_second_backup_at_once_ends_with_status_4_or_waits() {
    let live = Live::new();
    let Some(slow) = Slow::begin(&live, &[]) else {
        return;
    };
    let second = live.backing_up().deadline(Duration::from_secs(20)).go().is(4).told();
    assert!(second.stderr.contains("--wait"), "{second}");
    live.backing_up().arg("--wait=100ms").go().is(4);
    let waiting = live.backing_up().arg("--wait");
    let child = waiting.spawn();
    slow.finish().ok();
    waiting.finish(child).ok();
    assert_eq!(live.records().len(), 2);
    // Two backups of one moment have names of their own.
    let ids = [live.backup_id(), live.backup_id()];
    assert_ne!(ids[0], ids[1]);
}
