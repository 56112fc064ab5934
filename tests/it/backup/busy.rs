//! Servers that write, create, drop and truncate while they are backed up.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs these statements again and again beside `work`; each may fail.
fn beside<T>(server: &Cluster, statements: &[&str], work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for sql in statements {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Statements one by one: some cannot run in a transaction.
                    for one in sql.split(';') {
                        server.try_psql(one);
                    }
                }
            });
        }
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn backups_under_load_are_complete_and_sound() {
    let live = Live::new();
    let pgbench = Pgbench::on(&live.server);
    let mut ids = Vec::new();
    for round in 0..4 {
        let backup = match round {
            // One of them takes long, so that its files are of very different moments.
            0 => match Slow::begin(&live, &[]) {
                Some(slow) => live::json(&slow.finish().ok()),
                None => live.backup(),
            },
            _ => live.backup(),
        };
        assert_eq!(live::text(&backup, "state"), "complete", "{backup}");
        ids.push(live::text(&backup, "id"));
    }
    drop(pgbench);
    live.flush_wal();
    let expected = live.server.psql("select count(*), sum(delta) from pgbench_history");
    for id in [&ids[0], &ids[3]] {
        let server = live.restore(&[id]).verified().recovered();
        assert_eq!(server.psql("select count(*), sum(delta) from pgbench_history"), expected);
        let balances =
            "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)";
        assert_eq!(server.psql(balances), "t");
        assert_sound(&server);
    }
    // To its own end a backup is consistent as well.
    let server = live.restore(&[&ids[0], "--immediate"]).recovered();
    let sums =
        "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)";
    assert_eq!(server.psql(sums), "t");
    assert_sound(&server);
}

#[test]
fn tables_and_databases_that_come_and_go_do_no_harm() {
    let live = Live::new();
    live.server.psql("create table kept as select generate_series(1, 10000) as i");
    let statements = [
        "create table a as select generate_series(1, 1000) as i; create index on a (i); vacuum full a; truncate a; drop table a",
        "create database d template template0 strategy file_copy; drop database d",
        "create table b (i int); insert into b select generate_series(1, 20000); delete from b where i > 10; vacuum b; drop table b",
    ];
    let backup = beside(&live.server, &statements, || {
        let Some(slow) = Slow::begin(&live, &[]) else {
            return live.backup();
        };
        live::json(&slow.finish().ok())
    });
    assert_eq!(live::text(&backup, "state"), "complete");
    live.flush_wal();
    for arguments in [vec!["--immediate"], vec![]] {
        let server = live.restore(&arguments).verified().recovered();
        assert_eq!(server.psql("select count(*), sum(i) from kept"), "10000|50005000");
        assert_sound(&server);
    }
}

#[test]
fn files_that_grow_and_shrink_while_they_are_read_do_no_harm() {
    let live = Live::new();
    live.server.psql("create table t (i int primary key, filler text)");
    let grow = "insert into t select i, repeat('x', 500) from generate_series((select coalesce(max(i), 0) + 1 from t), (select coalesce(max(i), 0) + 3000 from t)) i";
    live.server.psql(grow);
    let shrink = "delete from t where i > 1000; vacuum t";
    beside(&live.server, &[&format!("{grow}; {grow}; {shrink}")], || {
        for _ in 0..3 {
            let backup = live.backup();
            assert_eq!(live::text(&backup, "state"), "complete");
        }
        if let Some(slow) = Slow::begin(&live, &[]) {
            slow.finish().ok();
        }
    });
    let expected = live.server.psql("select count(*), sum(i) from t");
    live.flush_wal();
    for id in live.records() {
        let server = live.restore(&[&id]).verified().recovered();
        assert_eq!(server.psql("select count(*), sum(i) from t"), expected);
        assert_sound(&server);
    }
}

#[test]
fn a_role_with_short_timeouts_takes_a_long_backup() {
    let live = Live::new();
    live.server.psql(
        "alter role postgres set statement_timeout = '700ms'; alter role postgres set lock_timeout = '300ms'; \
         alter role postgres set idle_session_timeout = '700ms'; \
         alter role postgres set idle_in_transaction_session_timeout = '300ms'",
    );
    match Slow::begin(&live, &[]) {
        Some(slow) => slow.finish().ok(),
        None => live.backing_up().go().ok(),
    };
}

#[test]
fn no_transaction_stays_open_while_copying() {
    let live = Live::new();
    let Some(slow) = Slow::begin(&live, &[]) else {
        return;
    };
    live.server.await_sql(
        "select count(*) from pg_stat_activity where backend_type = 'client backend' \
         and pid <> pg_backend_pid() and (xact_start is null or state = 'idle')",
        "1",
    );
    slow.finish().ok();
}

#[test]
fn functions_and_tables_of_the_database_cannot_get_between() {
    let live = Live::new();
    live.server.psql(
        "create function public.pg_backup_start(text, boolean) returns pg_lsn language plpgsql as \
         $$ begin raise exception 'hijacked'; end $$; \
         create function public.pg_backup_stop(wait_for_archive boolean) returns pg_lsn language plpgsql as \
         $$ begin raise exception 'hijacked'; end $$; \
         create function public.pg_switch_wal() returns pg_lsn language plpgsql as \
         $$ begin raise exception 'hijacked'; end $$; \
         create view public.pg_settings as select 'wal_segment_size' as name, '7' as setting, null as reset_val; \
         create view public.pg_stat_archiver as select 1 as x; \
         alter role postgres set search_path = public, pg_catalog",
    );
    live.backup();
    live.restore(&[]).verified();
}

#[test]
fn a_tablespace_made_while_copying_does_not_fail_the_backup() {
    let live = Live::new();
    let Some(slow) = Slow::begin(&live, &[]) else {
        return;
    };
    let space = live.server.scratch().mkdir("late");
    live.server.psql(&format!("create tablespace late location '{}'", space.display()));
    live.server.psql("create table t (i int) tablespace late");
    live.server.psql("insert into t select generate_series(1, 100)");
    slow.finish().ok();
}
