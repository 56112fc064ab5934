//! What `walfetch` delivers, where, and what its answers mean.

use super::*;
use std::path::PathBuf;
use std::time::Duration;

#[test]
fn a_file_arrives_under_any_destination_name_absolute_or_relative() {
    let site = Site::new();
    let segment = site.segment(2);
    site.push(&segment).ok();
    site.archive.push(site.data.write_other("00000002.history", "1\t0/3000000\tx\n")).ok();
    let history = b"1\t0/3000000\tx\n".to_vec();
    for (name, place, bytes) in [
        (segment.name(), "RECOVERYXLOG", segment.bytes()),
        ("00000002.history".to_owned(), "RECOVERYHISTORY", history),
    ] {
        let relative = PathBuf::from("pg_wal").join(place);
        for destination in [relative.clone(), site.data.path.join(&relative)] {
            site.archive.fetching(&name, &destination).go().ok();
            assert!(read(site.data.path.join(&relative)) == bytes);
            // PostgreSQL removes the file first; whoever does not gets the new one all the same.
            scratch::write(&site.data.path.join(&relative), "something old");
            site.archive.fetching(&name, &destination).go().ok();
            assert!(read(site.data.path.join(&relative)) == bytes);
        }
    }
}

#[test]
fn a_destination_that_cannot_be_written_is_no_end_of_the_archive() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    site.scratch.mkdir(site.data.path.join("pg_wal/directory"));
    scratch::write(&site.data.path.join("pg_wal/file"), "");
    for destination in ["nowhere/RECOVERYXLOG", "pg_wal/directory", "pg_wal/file/x", "/proc/RECOVERYXLOG"] {
        site.archive.fetching(&names[0], destination).go().fatal();
    }
}

#[test]
fn a_symlink_at_the_destination_is_replaced_and_not_followed() {
    let site = Site::new();
    let segment = site.segment(2);
    site.push(&segment).ok();
    let victim = site.scratch.write("victim", "precious");
    std::os::unix::fs::symlink(&victim, site.archive.destination()).expect("make a symlink");
    site.archive.fetching(&segment.name(), "pg_wal/RECOVERYXLOG").go().ok();
    assert_eq!(read(&victim), b"precious");
    assert!(!site.archive.destination().is_symlink());
    assert!(read(site.archive.destination()) == segment.bytes());
}

#[test]
fn the_first_timeline_has_no_history_and_that_is_a_plain_no() {
    let site = Site::new();
    site.archive.fetch_ends("00000001.history");
    site.archive.push(site.data.write_other("00000003.history", "1\t0/3000000\tx\n")).ok();
    site.archive.fetch_ends("00000001.history");
}

#[test]
fn the_probe_for_the_next_timeline_is_a_quick_and_quiet_no() {
    let site = Site::new();
    site.pushed(&[2]);
    for name in ["00000002.history", "00000009.history", "FFFFFFFF.history"] {
        let outcome = site.archive.fetching(name, "pg_wal/RECOVERYHISTORY");
        let outcome = outcome.deadline(Duration::from_secs(10)).go().absent();
        assert!(!outcome.stderr.to_lowercase().contains("error"), "{outcome}");
    }
}

#[test]
fn requests_may_go_backwards_and_repeat() {
    let site = Site::new();
    let names = site.pushed(&[2, 3, 4]);
    let before = site.archive.snapshot();
    for number in [4, 3, 2, 2, 4, 2] {
        let segment = site.segment(number);
        assert!(names.contains(&segment.name()));
        site.holds(&segment.name(), &segment.bytes());
    }
    assert_eq!(site.archive.snapshot(), before);
}

#[test]
fn names_that_are_no_wal_fetch_nothing_from_anywhere() {
    let site = Site::new();
    site.pushed(&[2]);
    let identity = "../../../identity.json";
    for name in [
        "../../etc/passwd",
        "/etc/passwd",
        identity,
        "",
        ".",
        "..",
        "00000001000000000000000a",
        "00000001000000000000002",
        "000000010000000000000002.gz",
        "000000010000000000000002/../000000010000000000000002",
        "000000010000000000000002\n",
        "000000010000000000000002.tmp",
        "RECOVERYXLOG",
    ] {
        site.archive.fetch_fails(name);
    }
}

#[test]
fn wrong_use_and_wrong_configuration_are_no_end_of_the_archive() {
    let site = Site::new();
    site.pushed(&[2]);
    let name = "000000010000000000000003";
    for arguments in [&[][..], &[name], &[name, "a", "b"], &["--nosuch", name, "a"], &["--config"]] {
        Run::of("walfetch").args(arguments).cwd(&site.data.path).go().is(200);
    }
    let both = [name, "pg_wal/RECOVERYXLOG"];
    Run::of("walfetch").args(both).cwd(&site.data.path).go().is(200);
    let fetch = || site.archive.run("walfetch");
    fetch().args(["--cluster", "nosuch"]).args(both).go().fatal().says("nosuch");
    fetch().args(["--on-error", "nosuch"]).args(both).go().is(200);
    fetch().args(["000000010000000000000002", "pg_wal/RECOVERYXLOG"]).cwd("/").go().fatal();
    let text = std::fs::read_to_string(site.archive.config()).expect("read the configuration");
    for wrong in [text.replace("fetch_ahead", "fetch_ahaed"), format!("{text}\n[["), String::new()] {
        scratch::write(site.archive.config(), wrong);
        site.archive.fetch_fails(name);
    }
    std::fs::remove_file(site.archive.config()).expect("remove the configuration");
    site.archive.fetch_fails(name).says("walkeep.toml");
}

#[test]
fn wal_of_another_cluster_is_never_handed_over() {
    // A file from elsewhere, put into the right place of the archive by hand.
    let (site, foreign) = (Site::new(), Site::with(15, 42, 1));
    site.pushed(&[2, 3]);
    let name = foreign.pushed(&[2]).remove(0);
    let object = site.archive.object(&name);
    std::fs::copy(foreign.archive.object(&name), &object).expect("plant an object");
    site.archive.fetch_fails(&name);
    // And a server that is not the one that was registered.
    let other = site.other(15, 42);
    for name in [site.segment(3).name().as_str(), "00000002.history"] {
        let run = Run::of("walfetch").arg("--config").arg(site.archive.config());
        let run = run.args(["--cluster", "main", name, "pg_wal/RECOVERYXLOG"]);
        run.cwd(&other.path).go().fatal();
        assert!(!other.path.join("pg_wal/RECOVERYXLOG").exists());
    }
}

#[test]
fn a_destination_directory_without_a_server_uses_the_configured_one() {
    let site = Site::new();
    let segment = site.segment(2);
    site.push(&segment).ok();
    let destination = site.scratch.mkdir("anywhere").join("file");
    let run = site.archive.run("walfetch").args(["--cluster", "main", &segment.name()]);
    run.arg(&destination).cwd("/").go().ok();
    assert!(read(destination) == segment.bytes());
}

#[test]
fn the_end_of_the_archive_is_told_to_people_and_not_to_servers() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let absent = site.segment(3).name();
    let outcome = site.archive.fetching(&absent, "/tmp/by-hand").go().absent();
    outcome.says(&absent).says("is not in the archive");
    let outcome = site.archive.fetch(&absent).absent();
    assert_eq!(outcome.stderr, "");
    let outcome = site.archive.fetching(&names[0], "-").go().is(200).told();
    outcome.says("standard output").says("hint:");
    assert!(!site.data.path.join("-").exists());
}
