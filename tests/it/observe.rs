//! `walkeep status` and `walkeep metrics`: what is wrong is seen, named and judged, and nothing is
//! green by silence.

mod away;
mod judged;
mod many;
mod metrics;
mod seen;
mod windows;

use crate::support::*;
use serde_json::Value;

/// `walkeep status --json`, which has to end with this status.
#[track_caller]
fn status_is(archive: &Archive, code: i32, arguments: &[&str]) -> Value {
    live::json(&archive.run("walkeep").args(["status", "--json"]).args(arguments).go().is(code))
}

/// The check of this name; of the first repository that has one.
#[track_caller]
fn check<'v>(report: &'v Value, name: &str) -> &'v Value {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name} in {report:#}"))
}

/// That a check has this light; what it says.
#[track_caller]
fn shows(report: &Value, name: &str, light: &str) -> String {
    let check = check(report, name);
    assert_eq!(check["light"], light, "{name} in {report:#}");
    if light != "green" {
        assert!(check["hint"].is_string(), "no hint for {check:#}");
    }
    live::text(check, "detail")
}

/// A server that archives, with a backup, and nothing left to be archived.
fn healthy() -> Live {
    let live = Live::new();
    live.backup();
    settled(&live);
    live
}

/// Awaits that nothing waits to be archived.
fn settled(live: &Live) {
    live.flush_wal();
    until("nothing is ready", || ready(live).is_empty());
}

/// The files of `archive_status` that wait.
fn ready(live: &Live) -> Vec<std::path::PathBuf> {
    let mut found = repo::files(&live.server.wal().join("archive_status"));
    found.retain(|path| path.extension().is_some_and(|extension| extension == "ready"));
    found
}
