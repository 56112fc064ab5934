//! A real server, from the first segment in the bucket to its recovery from it.

use super::*;

/// A running server that archives into a bucket.
struct Live {
    server: Cluster,
    archive: Archive,
    bucket: Bucket,
}

impl Live {
    fn new() -> Live {
        let server = Cluster::build().wal_segsize(1).checksums().create();
        let bucket = Bucket::new();
        let archive = Archive::build(server.data()).remote(bucket.repository(PREFIX)).wal("timeout = \"3s\"");
        let archive = archive.for_server(&server);
        server.start();
        Live { server, archive, bucket }
    }
}

#[test]
fn a_table_that_was_dropped_comes_back_from_the_bucket() {
    let live = Live::new();
    let (server, archive) = (&live.server, &live.archive);
    archive.walkeep(&["check"]).ok();
    server.psql("create table t (i int primary key, filler text)");
    server.psql("insert into t select i, repeat(md5(i::text), 10) from generate_series(1, 20000) i");
    let backup = live::json(&live::backing_up(archive).go().ok());
    // More than the backup has, in WAL alone, over several segments.
    server.psql("insert into t select i, repeat(md5(i::text), 10) from generate_series(20001, 40000) i");
    let content = "select count(*), md5(string_agg(t::text, ',' order by i)) from t";
    let before = server.psql(content);
    let moment = server
        .psql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'");
    server.psql("drop table t");
    server.psql("create table u as select 1 as x");
    server.psql("select pg_create_restore_point('end')");
    let last = server.switch_wal();
    server.await_archived(&last);

    let listed = live::json(&archive.walkeep(&["list", "--json"]).ok());
    let found = &listed["repositories"][0];
    assert_eq!(found["url"], format!("s3://{}/{PREFIX}", live.bucket.name));
    assert_eq!(found["backups"][0]["id"], backup["id"], "{found}");
    assert_eq!(found["wal"]["last"], last.as_str(), "{found}");

    let restored = live::restore(archive, &["--time", &moment]).verified().recovered();
    assert_eq!(restored.psql(content), before);
    assert_eq!(restored.psql("select to_regclass('u') is null"), "t", "recovered too far");
    assert_eq!(restored.psql("show archive_mode"), "off");
    let checked = pg::tool("pg_amcheck").args([
        "--all",
        "--install-missing",
        "--heapallindexed",
        "-U",
        "postgres",
        "-h",
    ]);
    checked.arg(restored.socket()).go().ok();
    // And to the end: the table is gone.
    let restored = live::restore(archive, &[]).recovered();
    assert_eq!(restored.psql("select to_regclass('t') is null and to_regclass('u') is not null"), "t");
    assert!(server.is_up(), "the first server was not to be touched");
}

#[test]
fn an_outage_of_the_store_stops_neither_the_server_nor_its_recovery_for_good() {
    let live = Live::new();
    let (server, archive, proxy) = (&live.server, &live.archive, &live.bucket.proxy);
    server.psql("create table t as select generate_series(1, 1000) i");
    live::backing_up(archive).go().ok();
    // Archiving fails, is counted, and goes on where it stood.
    let outage = proxy.inject(Rule::on("", "").error(503, "SlowDown"));
    server.psql("insert into t select generate_series(1001, 2000)");
    let segment = server.switch_wal();
    server.await_sql("select failed_count > 0 from pg_stat_archiver", "t");
    assert!(outage.was_hit());
    proxy.clear();
    server.await_archived(&segment);
    server.psql("insert into t select generate_series(2001, 3000)");
    let last = server.switch_wal();
    server.await_archived(&last);
    // Recovery that meets an outage stops; it does not end early.
    let restored = live::restore(archive, &[]);
    let fault = proxy.inject(Rule::on("GET", &last).error(503, "SlowDown"));
    let server = restored.server();
    assert!(!live::recovers(&server), "it came up without its last segment");
    assert!(fault.was_hit(), "{}", server.log_text());
    proxy.clear();
    assert!(live::recovers(&server), "{}", server.log_text());
    assert_eq!(server.psql("select count(*) from t"), "3000");
}

#[test]
fn check_tries_the_store_out() {
    if !s3::is_own() {
        return;
    }
    let live = Live::new();
    let (archive, proxy) = (&live.archive, &live.bucket.proxy);
    let faults = [
        (Rule::on("", "").deaf(), "If-None-Match"),
        (Rule::on("GET", "/-probe/").error(403, "AccessDenied"), "s3:ListBucket"),
        (Rule::on("PUT", "/-probe/").error(403, "AccessDenied"), "s3:PutObject"),
    ];
    for (rule, word) in faults {
        // The probe of an earlier run shall not help.
        live.bucket
            .keys()
            .iter()
            .filter(|key| key.contains("/-probe/"))
            .for_each(|key| live.bucket.delete(key));
        let fault = proxy.inject(rule);
        let outcome = archive.walkeep(&["check", "--timeout", "2s"]).is(3);
        assert!(fault.was_hit());
        assert!(outcome.stderr.contains("FAILED") && outcome.stderr.contains(word), "{word}\n{outcome}");
        proxy.clear();
    }
    archive.walkeep(&["check"]).ok();
}
