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
