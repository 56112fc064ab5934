//! What does not answer: never green, and never waited for without end.

use super::*;
use std::time::{Duration, Instant};

#[test]
fn a_repository_that_is_away_is_red_and_an_optional_one_yellow() {
    let (live, roots) = Live::with_two(|_| {});
    let away = live.archive.scratch().join("away");
    live.backup();
    settled(&live);
    std::fs::rename(&roots[1], &away).expect("take a repository away");
    let report = status_is(&live.archive, 0, &[]);
    assert_eq!(report["light"], "yellow", "{report:#}");
    std::fs::rename(&away, &roots[1]).expect("bring it back");
    std::fs::rename(&roots[0], &away).expect("take a repository away");
    let report = status_is(&live.archive, 3, &[]);
    shows(&report, "repository", "red");
    assert_eq!(report["clusters"][0]["repositories"][0]["reachable"], false, "{report:#}");
}

#[test]
fn a_repository_that_hangs_is_red_in_time() {
    let live = healthy();
    let begun = Instant::now();
    let status = live.archive.run("walkeep").args(["status", "--json", "--timeout", "2s"]);
    let report = live::json(&stuck::around(&status).go().is(3));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(shows(&report, "repository", "red").contains("no answer within 2 s"), "{report:#}");
}

#[test]
fn a_server_that_is_down_is_yellow_and_one_that_hangs_is_red_in_time() {
    let live = healthy();
    let pid = live.server.pid().expect("a server");
    run::signal(pid, "STOP");
    let begun = Instant::now();
    let outcome = live.archive.run("walkeep").args(["status", "--json", "--timeout", "3s"]).go();
    run::signal(pid, "CONT");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let report = live::json(&outcome.is(3));
    shows(&report, "server", "red");
    // What does not need the server is known all the same.
    shows(&report, "backup", "green");
    shows(&report, "backlog", "green");

    live.server.stop(Stop::Fast);
    let report = status_is(&live.archive, 0, &[]);
    shows(&report, "server", "yellow");
}

#[test]
fn each_cluster_of_the_configuration_is_shown_unless_one_is_named() {
    let live = healthy();
    let text = String::from_utf8(read(live.archive.config())).expect("text");
    let both = live
        .archive
        .scratch()
        .write("both.toml", format!("{text}\n[cluster.other]\npgdata = \"/nowhere\"\n"));
    let run = |arguments: &[&str]| Run::of("walkeep").arg("--config").arg(&both).args(arguments).go();
    let report = live::json(&run(&["status", "--json"]).is(3));
    let names: Vec<&str> = report["clusters"]
        .as_array()
        .expect("clusters")
        .iter()
        .filter_map(|cluster| cluster["name"].as_str())
        .collect();
    assert_eq!(names, ["main", "other"]);
    assert_eq!(report["clusters"][0]["light"], "green", "{report:#}");
    run(&["status", "--cluster", "main"]).ok();
    run(&["status", "--cluster", "third"]).is(2);
}

#[test]
fn what_waits_and_cannot_be_looked_at_is_not_nothing() {
    let live = healthy();
    live.server.stop(Stop::Fast);
    let directory = live.server.wal().join("archive_status");
    let chmod = |mode: &str| drop(Run::new("chmod").arg(mode).arg(&directory).go().ok());
    // Its names can be read, and nothing else.
    chmod("400");
    let report = status_is(&live.archive, 3, &[]);
    chmod("700");
    assert!(shows(&report, "backlog", "yellow").contains("archive_status"), "{report:#}");
}
