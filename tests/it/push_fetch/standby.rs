//! In a server that runs as a standby an error must not shut it down; while it is being promoted, it must.

use super::*;

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
