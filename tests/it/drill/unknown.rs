//! What says nothing about the backup: status 1, and never green.

use super::*;

#[test]
fn no_server_programs() {
    let story = Story::get();
    let mut archive = story.archive();
    archive.set_tail("[drill]\nbin = \"/nonexistent\"\n");
    let report = drill(&archive, &[], 1);
    assert_eq!(report["outcome"], "unknown");
    assert!(
        text(&report, "error").contains("no server of PostgreSQL 15 found in /nonexistent"),
        "{report:#}"
    );
}

#[test]
fn no_backup() {
    let live = Live::new();
    let report = drill(&live.archive, &[], 1);
    assert_eq!(report["outcome"], "unknown");
}

#[test]
fn no_space() {
    let Some(tmpfs) = Tmpfs::mount("20m") else {
        return;
    };
    let story = Story::get();
    let archive = story.archive();
    let outcome = drilling(&archive, tmpfs.path(), &[]).go().is(1).told();
    assert!(outcome.stderr.contains("bytes free"), "{outcome}");
    assert_empty(tmpfs.path());
}

#[test]
fn no_time() {
    let story = Story::get();
    let report = drill(&story.archive(), &["--timeout", "1ms"], 1);
    assert_eq!(report["outcome"], "unknown");
    assert!(text(&report, "error").contains("the drill timed out"), "{report:#}");
}

#[test]
fn a_repository_that_is_out_of_reach() {
    let story = Story::get();
    let archive = story.archive();
    std::fs::rename(archive.root(), archive.root().with_extension("away")).expect("move it away");
    let scratch = Scratch::new();
    let outcome = drilling(&archive, scratch.path(), &[]).go().is(1).told();
    assert!(outcome.stderr.contains("hint:"), "{outcome}");
}

#[test]
fn a_scratch_directory_in_the_data_directory_or_the_repository_is_refused() {
    let story = Story::get();
    let archive = story.archive();
    for place in [story.server.data(), archive.root()] {
        drilling(&archive, &place.join("drills"), &[]).go().is(2).told().says("lies in");
    }
}

#[test]
fn a_log_of_the_server_that_cannot_be_read() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let run = drilling(&archive, &directory, &[]);
    let child = run.spawn();
    let log = || repo::files(&directory).into_iter().find(|path| path.ends_with("server.log"));
    until("the server has a log", || log().is_some());
    // It can still be written to.
    Run::new("chmod").arg("200").arg(log().expect("the log")).go().ok();
    let outcome = run.finish(child).is(1).told();
    assert_eq!(json(&outcome)["outcome"], "unknown", "{outcome}");
    assert!(outcome.stderr.contains("server.log"), "{outcome}");
    assert_empty(&directory);
}

#[test]
fn a_locale_that_the_host_lacks_leaves_only_its_database_unread() {
    let live = Live::new();
    live.server.psql("create table t as select generate_series(1, 1000) i");
    live.server.psql("create database away");
    live.backup();
    live.server.psql("update pg_database set datcollate = 'de_DE.missing' where datname = 'away'");
    live.flush_wal();
    let report = drill(&live.archive, &[], 1);
    assert_eq!(report["outcome"], "unknown");
    let (ok, detail) = check(&report, "read");
    assert!(ok.is_none() && detail.contains("database away"), "{report:#}");
    assert_eq!(check(&report, "amcheck").0, Some(true), "{report:#}");
    assert!(text(&report, "error").contains("locale"), "{report:#}");
}

#[test]
fn an_assertion_that_is_no_sql() {
    let story = Story::get();
    let mut archive = story.archive();
    archive.set_tail(&rows_are("17").replace("select count(*)", "selekt count(*)"));
    let report = drill(&archive, &[], 1);
    assert_eq!(check(&report, "assert rows").0, None, "{report:#}");
    assert_eq!(check(&report, "log").0, Some(true), "{report:#}");
}

#[test]
fn a_library_for_the_wal_that_the_host_lacks() {
    let story = Story::get();
    let mut archive = story.archive();
    archive.set_tail("[drill]\npreload = \"missing_library\"\n");
    let report = drill(&archive, &[], 1);
    assert_eq!(report["outcome"], "unknown");
    assert!(text(&report, "error").contains("missing_library"), "{report:#}");
}
