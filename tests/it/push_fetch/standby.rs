//! In a server that runs as a standby an error must not shut it down; while it is being promoted,
//! it must.

use super::*;
use std::path::Path;

/// The fetches that fail in different ways; each has to answer with this status.
#[track_caller]
fn answers(site: &Site, options: &[&str], status: i32) {
    let names = site.pushed(&[2, 3, 5]);
    repo::damage(&site.archive.object(&names[1]), repo::Damage::Flip(-10));
    let fetch = |name: &str| {
        let run = site.archive.run("walfetch").args(options);
        run.args([name, "pg_wal/RECOVERYXLOG"]).go()
    };
    let damaged = fetch(&names[1]).is(status).told();
    damaged.says(&names[1]);
    fetch(&site.segment(4).name()).is(status).told();
    let away = site.archive.root().with_extension("away");
    std::fs::rename(site.archive.root(), &away).expect("move the repository away");
    fetch(&names[0]).is(status).told();
    fetch("00000002.history").is(status).told();
    std::fs::rename(&away, site.archive.root()).expect("bring the repository back");
    // What is clear stays clear in every mode.
    fetch(&names[0]).is(0);
    fetch(&site.segment(6).name()).is(1);
    fetch("00000002.history").is(1);
}

#[test]
fn without_a_signal_file_an_error_stops_the_recovery() {
    answers(&Site::new(), &[], 200);
}

#[test]
fn in_archive_recovery_an_error_stops_the_recovery() {
    let site = Site::new();
    site.touch("recovery.signal");
    answers(&site, &[], 200);
}

#[test]
fn in_a_standby_an_error_is_tried_again() {
    let site = Site::new();
    site.touch("standby.signal");
    answers(&site, &[], 1);
}

#[test]
fn a_standby_that_is_being_promoted_does_not_lose_the_rest_of_its_archive() {
    let site = Site::new();
    site.touch("standby.signal");
    site.touch("promote");
    answers(&site, &[], 200);
}

#[test]
fn an_option_overrides_the_mode() {
    let site = Site::new();
    answers(&site, &["--on-error", "retry"], 1);
    let site = Site::new();
    site.touch("standby.signal");
    answers(&site, &["--on-error", "abort"], 200);
    let site = Site::new();
    site.touch("standby.signal");
    site.touch("promote");
    answers(&site, &["--on-error=retry"], 1);
}

#[test]
fn a_configuration_that_cannot_be_read_does_not_shut_a_standby_down() {
    let site = Site::new();
    site.touch("standby.signal");
    std::fs::remove_file(site.archive.config()).expect("remove the configuration");
    site.archive.fetch("000000010000000000000002").is(1).told();
    site.touch("promote");
    site.archive.fetch("000000010000000000000002").is(200).told();
}

#[test]
fn a_promotion_that_begins_while_a_fetch_waits_does_not_lose_the_rest_of_its_archive() {
    let site = Site::build(|build| build.wal("timeout = \"3s\""));
    site.touch("standby.signal");
    let run = stuck::around(&site.archive.fetching("000000010000000000000002", "pg_wal/RECOVERYXLOG"));
    run.go().is(1).told();
    let child = run.spawn();
    until("it waits", || stuck::is_waiting(child.id()));
    site.touch("promote");
    run.finish(child).is(200).told();
}

#[test]
fn a_promotion_that_cannot_be_looked_for_counts_as_one() {
    let site = Site::new();
    site.touch("standby.signal");
    let names = site.pushed(&[2]);
    repo::damage(&site.archive.object(&names[0]), repo::Damage::Flip(-10));
    site.archive.fetch(&names[0]).is(1).told();
    let Some(strace) = Strace::new() else {
        return;
    };
    let strace =
        strace.only(Path::new("promote")).inject("statx,stat,newfstatat,access,faccessat2:error=EIO");
    let traced = strace.go(&site.archive.fetching(&names[0], "pg_wal/RECOVERYXLOG"));
    assert!(traced.was_hit(), "{}", traced.story());
    traced.outcome.is(200).told();
}

#[test]
fn a_promotion_that_waits_for_the_archive_is_told_the_way_out() {
    let site = Site::new();
    site.touch("standby.signal");
    site.touch("promote");
    let names = site.pushed(&[2]);
    std::fs::rename(site.archive.root(), site.archive.root().with_extension("away")).expect("move it away");
    let outcome = site.archive.fetch(&names[0]).is(200).told();
    outcome.says("a promotion is pending").says("restore_command = ''").says("is the disk mounted");
    let outcome = site.archive.fetching(&names[0], "pg_wal/RECOVERYXLOG").args(["--on-error", "abort"]).go();
    assert!(!outcome.is(200).stderr.contains("a promotion is pending"));
}

/// Primary and archive are gone at once, and the standby has everything.
#[test]
fn a_standby_is_promoted_without_its_archive_as_the_hint_says() {
    let pair = live::Pair::of(Live::new());
    let standby = &pair.standby;
    standby.set("restore_command", &pair.archive(false).restore_command().replace(" --cluster main", ""));
    standby.stop(Stop::Fast);
    standby.start();
    pair.live.server.psql("create table t as select 1 as i");
    pair.catch_up();
    pair.live.server.stop(Stop::Immediate);
    let root = pair.live.archive.root();
    std::fs::rename(root, root.with_extension("away")).expect("lose the archive");
    standby.touch("promote");
    run::signal(standby.pid().expect("it runs"), "USR1");
    until("the server has given up", || !standby.is_up());
    let log = standby.log_text();
    assert!(log.contains("hint: a promotion is pending"), "{log}");
    let _ = std::fs::remove_file(standby.data().join("promote"));
    standby.set("restore_command", "");
    standby.start();
    standby.promote();
    assert_eq!(standby.psql("select count(*) from t"), "1");
}
