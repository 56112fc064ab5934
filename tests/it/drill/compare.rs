//! `drill --compare`: the primary goes on where the archive ends, or it does not, or that cannot be
//! told.

use super::*;

/// A server with a backup, and WAL that is archived; what comes behind it is not.
fn running() -> Live {
    let live = Live::new();
    live.server.psql("create table t as select generate_series(1, 1000) i");
    live.backup();
    live.flush_wal();
    live.server.psql("insert into t select generate_series(1001, 2000)");
    live
}

#[test]
fn the_primary_is_followed_from_the_end_of_the_archive_on_and_nothing_stays_there() {
    let mut live = running();
    // What has not been archived is there too.
    live.archive.set_tail(&rows_are("2000"));
    let report = drill(&live.archive, &["--compare"], 0);
    let (ok, detail) = check(&report, "compare");
    assert!(ok == Some(true) && detail.contains("streamed from"), "{report:#}");
    assert_eq!(check(&report, "log of recovery").0, Some(true), "{report:#}");
    assert_eq!(check(&report, "recovery").0, Some(true), "{report:#}");
    assert!(report["recovery_seconds"].as_f64().is_some(), "{report:#}");
    let server = &live.server;
    server.await_sql("select count(*) from pg_stat_replication", "0");
    assert_eq!(server.psql("select count(*) from pg_replication_slots"), "0");
    // Without it the drill ends where the archive does.
    live.archive.set_tail(&rows_are("1000"));
    drill(&live.archive, &[], 0);
}

#[test]
fn a_kept_directory_holds_no_password() {
    let live = running();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let config = String::from_utf8(read(live.archive.config())).expect("text");
    let config = config.replace("dbname=postgres\"", "dbname=postgres password=verysecret\"");
    assert!(config.contains("verysecret"));
    let config = live.archive.scratch().write("secret.toml", config);
    let run = Run::of("walkeep").arg("--config").arg(config).args(["drill", "--json", "--compare", "--keep"]);
    let outcome = run.arg("--directory").arg(&directory).deadline(PATIENCE).go().ok();
    assert!(!outcome.to_string().contains("verysecret"), "{outcome}");
    for file in repo::files(&directory) {
        let bytes = read(&file);
        assert!(!bytes.windows(10).any(|word| word == b"verysecret"), "{}", file.display());
    }
}

#[test]
fn a_primary_that_is_down_leaves_it_open_and_the_backup_is_tried_all_the_same() {
    let live = running();
    live.server.stop(Stop::Fast);
    let report = drill(&live.archive, &["--compare"], 1);
    assert_eq!(report["outcome"], "unknown");
    assert_eq!(check(&report, "compare").0, None);
    for name in ["recovery", "read", "amcheck"] {
        assert_eq!(check(&report, name).0, Some(true), "{report:#}");
    }
    drill(&live.archive, &[], 0);
}

#[test]
fn a_primary_that_does_not_let_it_stream_leaves_it_open_in_time() {
    let live = running();
    let hba = live.server.data().join("pg_hba.conf");
    scratch::write(&hba, "local postgres all trust\nlocal replication all reject\n");
    live.server.psql("select pg_reload_conf()");
    let report = drill(&live.archive, &["--compare=20s"], 1);
    assert_eq!(report["outcome"], "unknown");
    assert!(text(&report, "error").contains("pg_hba.conf rejects"), "{report:#}");
    assert_eq!(check(&report, "recovery").0, Some(true), "{report:#}");
}

#[test]
fn an_archive_that_went_on_without_the_primary_is_refuted() {
    let live = running();
    // Somebody promoted a copy that archives into the same repository.
    let copy = live.restore(&["--as-primary"]).recovered();
    copy.psql("insert into t values (0)");
    let segment = copy.switch_wal();
    copy.await_archived(&segment);
    copy.stop(Stop::Fast);
    let report = drill(&live.archive, &["--compare"], 3);
    assert_eq!(report["outcome"], "refuted");
    let (ok, detail) = check(&report, "compare");
    assert!(ok == Some(false) && detail.contains("diverged"), "{report:#}");
}

#[test]
fn a_primary_that_left_the_archive_s_timeline_too_early_is_refuted() {
    let live = running();
    let copy = live.restore(&[]).recovered();
    copy.psql("insert into t select generate_series(1, 100)");
    // The archive goes on along the old timeline.
    live.flush_wal();
    live.server.psql("insert into t values (0)");
    live.flush_wal();
    live.server.stop(Stop::Fast);
    let archive = Archive::build(live.server.data()).connection(copy.connection());
    let archive = archive.root(live.archive.root()).unregistered();
    let report = drill(&archive, &["--compare"], 3);
    let (ok, detail) = check(&report, "compare");
    assert!(ok == Some(false) && detail.contains("diverged"), "{report:#}");
    assert!(detail.contains("timeline"), "{report:#}");
}

#[test]
fn no_commit_waits_for_the_server_of_a_drill() {
    let live = running();
    live.server.psql("alter system set synchronous_standby_names = 'first 1 (*)'");
    live.server.psql("alter system set synchronous_commit = local");
    live.server.psql("select pg_reload_conf()");
    live.server.await_sql("show synchronous_standby_names", "first 1 (*)");
    let report = drill(&live.archive, &["--compare"], 1);
    assert!(text(&report, "error").contains("synchronous_standby_names"), "{report:#}");
    live.server.psql("alter system set synchronous_standby_names = 'other'");
    live.server.psql("select pg_reload_conf()");
    drill(&live.archive, &["--compare"], 0);
}

#[test]
fn tablespaces_that_the_backup_does_not_know_are_not_replayed() {
    let live = running();
    let place = live.server.scratch().mkdir("space");
    live.server.psql(&format!("create tablespace ts location '{}'", place.display()));
    let report = drill(&live.archive, &["--compare"], 1);
    assert!(text(&report, "error").contains("has tablespace"), "{report:#}");
}

#[test]
fn another_cluster_or_a_standby_is_no_primary() {
    let (live, other) = (running(), Live::new());
    let archive = Archive::build(live.server.data()).connection(other.server.connection());
    let archive = archive.root(live.archive.root()).unregistered();
    let report = drill(&archive, &["--compare"], 1);
    assert!(text(&report, "error").contains("leads to another cluster"), "{report:#}");
}

/// T227: what the primary streams does not hide what the archive lacks.
#[test]
fn wal_that_is_damaged_in_the_archive_is_refuted_although_the_primary_has_it() {
    let live = Live::new();
    live.server.psql("create table t as select generate_series(1, 1000) i");
    live.backup();
    live.server.set("wal_keep_size", "100MB");
    live.server.psql("select pg_reload_conf()");
    let mut names = Vec::new();
    for _ in 0..3 {
        live.server.psql("insert into t select generate_series(1, 2000)");
        names.push(live.flush_wal());
    }
    let object = live.archive.object(&names[1]);
    let output = std::process::Command::new("zstd").arg("-dc").arg(&object).output().expect("start zstd");
    let mut segment = output.stdout;
    segment[8192 + 60..8192 + 160].fill(0x5a);
    repo::reseal(&object, &segment);
    let report = drill(&live.archive, &["--compare"], 3);
    assert_eq!(report["outcome"], "refuted", "{report:#}");
}
