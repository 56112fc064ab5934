//! PostgreSQL 19: a drill, a restore that follows recovery, and a standby.

use crate::support::live::json;
use crate::support::*;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(180);

/// The programs of PostgreSQL 19, and a cluster of it that archives.
fn nineteen() -> Option<(PathBuf, Live)> {
    let programs = pg::version(19)?;
    let build = Cluster::build().programs(programs.clone()).wal_segsize(1).checksums();
    let mut live = Live::with(build, |server| {
        // 19 counts locks in another way than its predecessors.
        server.set("max_locks_per_transaction", "1000");
        server.set("max_connections", "200");
    });
    live.archive.set_tail(&format!("[drill]\nbin = {programs:?}\n"));
    Some((programs, live))
}

fn drilling(live: &Live, arguments: &[&str]) -> Outcome {
    let scratch = Scratch::new();
    let run = Run::of("walkeep").arg("--config").arg(live.archive.config());
    let run = run.args(["drill", "--json", "--directory"]).arg(scratch.path());
    run.args(arguments).deadline(PATIENCE).go()
}

#[test]
fn a_cluster_of_postgresql_19_is_drilled() {
    let Some((_, live)) = nineteen() else {
        return;
    };
    let server = &live.server;
    server.psql("create table t (i int, g int generated always as (i * 2))");
    server.psql("insert into t select generate_series(1, 1000)");
    server.psql("create function f(i int) returns int language sql immutable as 'select i'");
    server.psql("create index t_f_idx on t (f(i))");
    server.psql("create materialized view v as select * from t");
    server.psql(
        "create function no() returns event_trigger language plpgsql as 'begin raise exception ''no''; end'",
    );
    live.backup();
    server.psql("create database strict");
    server.psql("create event trigger no on login execute function no(); alter event trigger no disable");
    server.psql("alter database postgres set event_triggers = on");
    server.psql("alter system set max_prepared_transactions = 10; ");
    server.stop(Stop::Fast);
    server.start();
    let locks = "select count(pg_advisory_xact_lock(g)) from generate_series(1, 100000) g";
    server.psql(&format!("begin; {locks}; insert into t values (0); lock table t; prepare transaction 'p'"));
    let name = server.switch_wal();
    server.await_archived(&name);
    let proved = json(&drilling(&live, &[]).ok());
    assert_eq!(proved["outcome"], "proved", "{proved:#}");
    assert!(
        proved["checks"].to_string().contains("prepared transaction p of database postgres"),
        "{proved:#}"
    );
    drilling(&live, &["--compare"]).ok();
    server.psql("rollback prepared 'p'");
    server.psql("create or replace function f(i int) returns int language sql immutable as 'select -i'");
    server.psql("drop index t_f_idx; create index t_f_idx on t (f(i))");
    server.psql("create or replace function f(i int) returns int language sql immutable as 'select i'");
    live.flush_wal();
    let refuted = json(&drilling(&live, &[]).is(3));
    assert!(refuted["checks"].to_string().contains("t_f_idx"), "{refuted:#}");
}

#[test]
fn a_cluster_of_postgresql_19_is_restored_followed_and_kept_as_a_standby() {
    let Some((_, live)) = nineteen() else {
        return;
    };
    let server = &live.server;
    server.psql("create table t (i serial primary key)");
    server.psql("insert into t select from generate_series(1, 1000)");
    live.backup();
    server.psql("insert into t select from generate_series(1, 1000)");
    live.flush_wal();
    let standby = live.restore(&["--standby"]).server();
    standby.set("wal_retrieve_retry_interval", "200ms");
    // With both files a server is a standby, and removes both when it is promoted.
    standby.touch("recovery.signal");
    standby.start();
    standby.await_sql("select count(*) from t", "2000");
    server.psql("insert into t select from generate_series(1, 1000)");
    live.flush_wal();
    standby.await_sql("select count(*) from t", "3000");
    assert_eq!(standby.psql("select pg_is_in_recovery()"), "t");
    standby.promote();
    standby.psql("insert into t select from generate_series(1, 10)");
    for name in ["standby.signal", "recovery.signal"] {
        assert!(!standby.data().join(name).exists(), "{name}");
    }
    standby.stop(Stop::Fast);
    standby.start();
    assert_eq!(standby.psql("select count(*), pg_is_in_recovery() from t"), "3010|f");
    standby.stop(Stop::Fast);
    // A copy has the socket of the original.
    server.stop(Stop::Fast);
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let outcome = live::restoring(&live.archive, &data, &["--follow", "--json"]).go();
    let copy = Cluster::over_if_there(scratch, &data).expect("a copy");
    let report = json(&outcome.ok());
    assert!(report["reached_lsn"].is_string(), "{report:#}");
    assert!(copy.is_up());
}
