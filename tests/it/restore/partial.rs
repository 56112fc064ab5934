//! One database out of a backup; of the others nothing but their sizes.

use super::*;
use std::os::unix::fs::MetadataExt;

/// A server with two databases and a table of the same content in each.
fn with_databases() -> Live {
    let live = Live::new();
    live.server.psql("create database wanted");
    live.server.psql("create database other");
    for database in ["wanted", "other"] {
        sql(
            &live.server,
            database,
            "create table t as select i, repeat(md5(i::text), 9) x from generate_series(1, 20000) i",
        );
    }
    live.server.psql("checkpoint");
    live
}

fn sql(server: &Cluster, database: &str, sql: &str) -> Outcome {
    let psql = pg::tool("psql").args(["-X", "-A", "-t", "-U", "postgres", "-h"]).arg(server.socket());
    psql.args(["-d", database, "-c", sql]).go()
}

fn bytes_on_disk(directory: &std::path::Path) -> u64 {
    repo::files(directory).iter().map(|path| path.metadata().expect("look").blocks() * 512).sum()
}

#[test]
fn one_database_is_restored_and_the_others_take_no_space() {
    let live = with_databases();
    live.backup();
    for database in ["wanted", "other"] {
        sql(&live.server, database, "insert into t values (0, 'behind the backup')").ok();
    }
    live.flush_wal();
    let oid = live.server.psql("select oid from pg_database where datname = 'other'");
    let restored = live.restore(&["--database", "wanted"]).verified();
    let place = format!("base/{oid}");
    assert!(bytes_on_disk(&restored.data.join(&place)) < 1 << 18);
    let size = |root: &std::path::Path| -> u64 {
        repo::files(&root.join(&place)).iter().map(|path| path.metadata().expect("look").len()).sum()
    };
    assert!(size(&restored.data) > 1 << 22 && size(live.server.data()) >= size(&restored.data));
    let copy = restored.recovered();
    assert_eq!(sql(&copy, "wanted", "select count(*) from t").ok().stdout.trim(), "20001");
    assert_ne!(sql(&copy, "other", "select count(*) from t").code(), Some(0));
    copy.psql("drop database other");
    assert_eq!(copy.psql("select count(*) from pg_database where datname = 'other'"), "0");
}

#[test]
fn over_a_whole_one_the_rest_is_emptied_and_comes_back() {
    let live = with_databases();
    live.backup();
    let restored = live.restore(&[]);
    let to = restored.data.clone();
    live::restoring(&live.archive, &to, &["--delta", "--database", "wanted", "--database", "postgres"])
        .go()
        .ok();
    let oid = live.server.psql("select oid from pg_database where datname = 'other'");
    assert!(bytes_on_disk(&to.join(format!("base/{oid}"))) < 1 << 18);
    live::restoring(&live.archive, &to, &["--delta"]).go().ok();
    let copy = restored.verified().recovered();
    assert_eq!(sql(&copy, "other", "select count(*) from t").ok().stdout.trim(), "20000");
}

#[test]
fn a_database_that_the_backup_does_not_have_is_refused_with_those_it_has() {
    let live = with_databases();
    live.backup();
    let to = Scratch::new();
    let outcome = live::restoring(&live.archive, &to.join("x"), &["--database", "wantde"]).go().is(1).told();
    assert!(outcome.stderr.contains("wanted, other"), "{outcome}");
    assert!(!to.join("x").exists());
}

/// A server of a version without page checksums, so that not every change has a page image, with
/// something of everything that happens in the databases that are left out.
fn with_bystanders(programs: std::path::PathBuf) -> (Live, String) {
    let live = Live::with(Cluster::build().programs(programs).wal_segsize(1), |server| {
        server.set("autovacuum", "off");
        server.set("full_page_writes", "off");
        server.set("max_prepared_transactions", "2");
    });
    for database in ["wanted", "other"] {
        live.server.psql(&format!("create database {database}"));
        for table in ["t", "cut", "gone"] {
            sql(
                &live.server,
                database,
                &format!("create table {table} (i int primary key, x text); insert into {table} select i, repeat('x', 90) from generate_series(1, 3000) i"),
            )
            .ok();
        }
    }
    live.server.psql("checkpoint");
    live.backup();
    for statement in [
        "vacuum t",
        "update t set x = 'y' where i % 3 = 0",
        "delete from t where i between 1000 and 2000",
        "vacuum t",
        "truncate cut",
        "delete from cut",
        "drop table gone",
        "create index on t using hash (i)",
        "create index on t using gin (to_tsvector('simple', x))",
        "insert into t select i, 'new' from generate_series(5001, 6000) i",
        "vacuum full t",
        "vacuum freeze t",
    ] {
        sql(&live.server, "other", statement).ok();
    }
    live.server.psql("create database copied template other strategy file_copy");
    sql(&live.server, "copied", "delete from t where i % 2 = 0").ok();
    sql(&live.server, "copied", "vacuum t").ok();
    sql(&live.server, "wanted", "vacuum t").ok();
    sql(&live.server, "wanted", "delete from t where i = 1").ok();
    let time = live
        .server
        .psql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'");
    live.server.psql("select txid_current()");
    live.flush_wal();
    (live, time)
}

#[test]
fn a_database_recovers_over_everything_that_happened_in_the_others() {
    for major in [15, 16, 17, 18, 19] {
        let Some(programs) = pg::version(major) else {
            continue;
        };
        let (live, time) = with_bystanders(programs);
        let targets: [&[&str]; 4] = [&[], &["--time", &time], &["--immediate"], &["--standby"]];
        for target in targets.into_iter().take(if major == 15 { 4 } else { 1 }) {
            let restored = live.restore(&[&["--database", "wanted"], target].concat()).verified();
            if target.is_empty() {
                assert!(
                    restored.outcome.stderr.contains("out of the files of a database"),
                    "{}",
                    restored.outcome
                );
            }
            let copy = restored.server();
            copy.start();
            if target == ["--standby"] {
                copy.await_sql("select pg_last_wal_replay_lsn() > '0/1'", "t");
                copy.promote();
            }
            copy.await_sql("select pg_is_in_recovery()", "f");
            let log = copy.log_text();
            assert!(!log.contains("PANIC") && !log.contains("FATAL:  could"), "{major} {target:?}\n{log}");
            let rows = if target == ["--immediate"] { "3000" } else { "2999" };
            let count = "set enable_seqscan = off; select count(*) from t where i > 0";
            assert_eq!(
                sql(&copy, "wanted", count).ok().stdout.trim(),
                format!("SET\n{rows}"),
                "{major} {target:?}"
            );
            // Damage must not be hidden any longer.
            let settings = String::from_utf8(read(copy.data().join("postgresql.auto.conf"))).expect("text");
            assert!(!settings.contains("ignore_invalid_pages"), "{settings}");
            copy.psql("drop database other");
            copy.stop(Stop::Fast);
            copy.start();
            assert_eq!(copy.psql("show ignore_invalid_pages"), "off");
        }
    }
}

#[test]
fn follow_does_not_take_the_others_for_damage() {
    let (live, _) = with_bystanders(pg::bin());
    live.server.stop(Stop::Fast);
    let scratch = Scratch::new();
    let arguments = ["--database", "wanted", "--follow", "--port", "5496"];
    let outcome = live::restoring(&live.archive, &scratch.join("data"), &arguments).go();
    let _server = Cluster::over_if_there(Scratch::new(), &scratch.join("data"));
    outcome.ok();
}

#[test]
fn damage_of_the_restored_database_is_not_hidden_from_follow() {
    let live = Live::with(Cluster::build().wal_segsize(1), |server| server.set("autovacuum", "off"));
    for database in ["wanted", "other"] {
        live.server.psql(&format!("create database {database}"));
        sql(&live.server, database, "create table t as select i from generate_series(1, 5000) i").ok();
    }
    let path = sql(&live.server, "wanted", "select pg_relation_filepath('t')").ok().stdout.trim().to_owned();
    // The backup reads pages of zeros, which a cluster without checksums cannot detect.
    live.server.psql("checkpoint");
    live.server.stop(Stop::Fast);
    let file = live.server.data().join(&path);
    let good = read(&file);
    scratch::write(&file, vec![0; good.len()]);
    live.server.start();
    live.backup();
    live.server.stop(Stop::Fast);
    scratch::write(&file, good);
    live.server.start();
    for database in ["wanted", "other"] {
        sql(&live.server, database, "vacuum t").ok();
    }
    live.flush_wal();
    live.server.stop(Stop::Fast);
    let scratch = Scratch::new();
    let arguments = ["--database", "wanted", "--follow", "--port", "5498"];
    let outcome = live::restoring(&live.archive, &scratch.join("data"), &arguments).go();
    let _server = Cluster::over_if_there(Scratch::new(), &scratch.join("data"));
    let outcome = outcome.is(3).told();
    assert!(outcome.stderr.contains(&path), "{outcome}");
}
