//! Backups that read only what the server's WAL summaries name (PostgreSQL 17 and later):
//! everything that changed is in them, and when that cannot be known, everything is read.

use super::shared::{number, sum, with_table};
use super::*;
use serde_json::Value;
use std::os::unix::fs::FileExt;

/// The versions that write summaries.
const MAJORS: [u32; 3] = [17, 18, 19];

/// A server of this version that writes summaries, with the table of [`with_table`] and a backup.
fn summarizing(major: u32) -> Option<Live> {
    let build = Cluster::build().programs(pg::version(major)?).wal_segsize(1).checksums();
    let live = Live::with(build, |server| {
        server.set("summarize_wal", "on");
        server.set("autovacuum", "off");
    });
    with_table(&live);
    live.backup();
    Some(live)
}

fn newest() -> Option<Live> {
    summarizing(18)
}

/// A backup that had to read everything; gives what it says.
#[track_caller]
fn reads_all(live: &Live) -> (Value, Outcome) {
    let outcome = live.backing_up().go().ok();
    let backup = live::json(&outcome);
    assert!(number(&backup, "read_bytes") > number(&backup, "size") / 10 * 9, "{outcome}");
    (backup, outcome)
}

/// A backup that had to read little.
#[track_caller]
fn reads_little(live: &Live) -> Value {
    let outcome = live.backing_up().go().ok();
    let backup = live::json(&outcome);
    assert!(number(&backup, "read_bytes") < number(&backup, "size") / 2, "{outcome}");
    backup
}

/// What `--rehash` says: everything is as the summaries promised.
#[track_caller]
fn assert_no_surprise(live: &Live) {
    let backup = live::json(&live.backing_up().arg("--rehash").go().ok());
    assert_eq!(backup["unpromised"], serde_json::json!([]), "{backup}");
}

#[test]
fn only_what_the_summaries_name_is_read() {
    for major in MAJORS {
        let Some(live) = summarizing(major) else {
            continue;
        };
        live.server.psql("update t set filler = 'changed' where i in (10000, 30000, 50000)");
        let backup = reads_little(&live);
        assert!(number(&backup, "new_bytes") < 1 << 20, "{backup}");
        let again = reads_little(&live);
        assert_eq!(again["parent"], backup["id"]);
        for id in live.records() {
            let copy = live.restore(&[&id]).verified().recovered();
            assert_eq!(sum(&copy), sum(&live.server));
        }
        assert_no_surprise(&live);
    }
}

#[test]
fn a_delta_restore_of_what_was_not_read_as_a_whole_is_verified() {
    let Some(live) = newest() else {
        return;
    };
    live.server.psql("update t set filler = 'changed' where i in (10000, 30000, 50000)");
    let id = live::text(&reads_little(&live), "id");
    let restored = live.restore(&[&id]);
    // Another time over it: what is in its place has its share in the sums.
    let to = restored.data.clone();
    live::restoring(&live.archive, &to, &[&id, "--delta"]).go().ok();
    restored.verified();
}

/// Changes of every kind, each with what has to be equal afterwards.
const CHANGES: [&str; 14] = [
    "insert into t select i, md5(i::text) from generate_series(60001, 90000) i",
    "delete from t where i > 20000; vacuum (truncate) t",
    "insert into t select i, md5(i::text) from generate_series(20001, 50000) i",
    "vacuum full t",
    "truncate t; insert into t select i, md5((i * 7)::text) from generate_series(1, 40000) i",
    "create table n as select * from t; create index on n (filler)",
    "drop table n; create table n (i int primary key, filler text); insert into n select * from t where i < 9000",
    "alter table n set unlogged; insert into n select * from t where i > 30000; alter table n set logged",
    "create database copied template template0 strategy file_copy",
    "drop database copied; create database copied template postgres strategy wal_log; drop table n",
    "begin; create table gone as select * from t; rollback",
    "cluster t using t_pkey; create index on t (filler)",
    "delete from t where i % 2 = 0",
    "reindex table t; vacuum t; create sequence s; select nextval('s') from generate_series(1, 100)",
];

#[test]
fn every_kind_of_change_is_in_the_next_backup() {
    for major in MAJORS {
        let Some(live) = summarizing(major) else {
            continue;
        };
        let databases = "select string_agg(datname, ',' order by datname) from pg_database";
        for change in CHANGES {
            for one in change.split("; ") {
                // In a session each: some cannot run in a transaction.
                match one {
                    "begin" => live.server.psql(change),
                    _ => live.server.psql(one),
                };
                if one == "begin" {
                    break;
                }
            }
            let backup = live.backup();
            assert!(backup["parent"].is_string(), "{backup}");
        }
        live.flush_wal();
        let ids = live.records();
        for id in ids.iter().skip(ids.len() - 4) {
            let copy = live.restore(&[id]).verified().recovered();
            assert_eq!(sum(&copy), sum(&live.server), "PostgreSQL {major}");
            assert_eq!(copy.psql(databases), live.server.psql(databases));
            // By an index alone, which believes the visibility map.
            let by_index = "set enable_seqscan = off; select count(*) from t where i > 0";
            assert_eq!(copy.psql(by_index), live.server.psql(by_index));
        }
        assert_no_surprise(&live);
    }
}

#[test]
fn backups_under_load_read_little_and_restore_each() {
    let Some(live) = newest() else {
        return;
    };
    let load = Pgbench::on(&live.server);
    live.backup();
    for _ in 0..4 {
        live.backup();
    }
    let last = live::json(&live.backing_up().arg("--rehash").go().ok());
    assert_eq!(last["unpromised"], serde_json::json!([]), "{last}");
    drop(load);
    live.flush_wal();
    let balance = "select count(*), sum(abalance) from pgbench_accounts";
    for id in live.records().iter().skip(2) {
        let copy = live.restore(&[id]).verified().recovered();
        assert_eq!(copy.psql(balance), live.server.psql(balance));
        assert_eq!(sum(&copy), sum(&live.server));
    }
}

/// Turns a bit of a table's page while the server is down; gives the path of the table.
fn flip(live: &Live, page: u64) -> String {
    live.server.psql("checkpoint");
    let path = live.server.psql("select pg_relation_filepath('t')");
    live.server.stop(Stop::Fast);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(live.server.data().join(&path));
    let file = file.expect("open the table");
    let mut byte = [0];
    file.read_exact_at(&mut byte, page * 8192 + 5000).expect("read");
    file.write_all_at(&[byte[0] ^ 1], page * 8192 + 5000).expect("write");
    live.server.start();
    path
}

#[test]
fn what_changed_without_wal_is_reported_when_everything_is_read() {
    for option in ["--rehash", "--full"] {
        let Some(live) = newest() else {
            return;
        };
        let path = flip(&live, 90);
        // Believed, since nothing in the WAL says otherwise.
        assert_eq!(reads_little(&live)["unpromised"], serde_json::json!([]));
        let outcome = live.backing_up().arg(option).go().is(3);
        let backup = live::json(&outcome);
        assert_eq!(backup["unpromised"], serde_json::json!([{"path": path, "blocks": [90]}]), "{outcome}");
        assert!(outcome.stderr.contains(&path), "{outcome}");
    }
}

#[test]
fn summaries_can_be_left_out_of_it() {
    let Some(mut live) = newest() else {
        return;
    };
    live.archive.set_backup("wal_summaries = false");
    reads_all(&live);
}

#[test]
fn a_hole_in_the_summaries_lets_everything_be_read() {
    let Some(live) = newest() else {
        return;
    };
    // For a while none are written.
    let set = |value: &str| {
        live.server.psql(&format!("alter system set summarize_wal = {value}"));
        live.server.psql("select pg_reload_conf()");
        live.server.await_sql("show summarize_wal", value);
    };
    set("off");
    live.server.psql("update t set filler = reverse(filler) where i < 1000");
    let _ = reads_all(&live);
    set("on");
    live.server.psql("update t set filler = reverse(filler) where i < 2000");
    let (_, outcome) = reads_all_or_little(&live);
    let copy = live.restore(&[]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server), "{outcome}");
    // One that is lost.
    live.server.psql("update t set filler = reverse(filler) where i between 30000 and 31000");
    live.server.psql("checkpoint");
    live.server.psql("update t set filler = reverse(filler) where i between 40000 and 41000");
    live.server.psql("checkpoint");
    let redo = live.server.psql("select redo_lsn from pg_control_checkpoint()");
    live.server.await_sql(&format!("select max(end_lsn) >= '{redo}' from pg_available_wal_summaries()"), "t");
    let summaries = live.server.wal().join("summaries");
    let mut files = repo::files(&summaries);
    files.sort();
    std::fs::remove_file(files.pop().expect("a summary")).expect("lose a summary");
    let (_, outcome) = reads_all(&live);
    assert!(outcome.stderr.contains("not complete"), "{outcome}");
    let copy = live.restore(&[]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
    reads_little(&live);
}

/// A backup, however much it read: the server may have summarized what it had missed.
fn reads_all_or_little(live: &Live) -> (Value, Outcome) {
    let outcome = live.backing_up().go().ok();
    (live::json(&outcome), outcome)
}

#[test]
fn a_backup_with_bad_pages_is_no_base_for_what_is_not_read() {
    let Some(live) = newest() else {
        return;
    };
    let path = flip(&live, 90);
    let damaged = live::json(&live.backing_up().arg("--rehash").go().is(3));
    assert_eq!(damaged["state"], "damaged");
    let outcome = live.backing_up().go().is(3);
    assert_eq!(live::json(&outcome)["state"], "damaged", "{outcome}");
    assert!(outcome.stderr.contains(&path), "{outcome}");
}

#[test]
fn another_timeline_lets_everything_be_read() {
    let Some(live) = newest() else {
        return;
    };
    live.server.stop(Stop::Fast);
    live.server.touch("standby.signal");
    live.server.start();
    live.server.promote();
    live.server.await_sql("select pg_is_in_recovery()", "f");
    live.flush_wal();
    live.server.psql("update t set filler = reverse(filler) where i < 1000");
    let (_, outcome) = reads_all(&live);
    assert!(outcome.stderr.contains("another timeline"), "{outcome}");
    reads_little(&live);
    let copy = live.restore(&[]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
}

#[test]
fn checksums_that_were_turned_on_let_everything_be_read() {
    let Some(bin) = pg::version(18) else {
        return;
    };
    let live = Live::with(Cluster::build().programs(bin).wal_segsize(1), |server| {
        server.set("summarize_wal", "on");
    });
    with_table(&live);
    live.backup();
    reads_little(&live);
    live.server.stop(Stop::Fast);
    let checksums = pg::tool_for(live.server.data(), "pg_checksums").expect("pg_checksums");
    checksums.args(["--enable", "-D"]).arg(live.server.data()).go().ok();
    live.server.start();
    reads_all(&live);
    let copy = live.restore(&[]).verified();
    let checksums = pg::tool_for(&copy.data, "pg_checksums").expect("pg_checksums");
    let copy = copy.recovered();
    copy.stop(Stop::Fast);
    checksums.args(["--check", "-D"]).arg(copy.data()).go().ok();
}
