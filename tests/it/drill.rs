//! `walkeep drill`: proved, refuted or unknown, cut off from everything else, and nothing left
//! behind.

mod compare;
mod damaged;
mod history;
mod isolation;
mod left;
mod proved;
mod refuted;
mod unknown;
mod unusual;

use crate::support::live::{self, json, text};
use crate::support::repo::{self, Damage, damage};
use crate::support::*;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// How long a drill may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A start of `walkeep drill --json` with its scratch directory in here.
fn drilling(archive: &Archive, directory: &Path, arguments: &[&str]) -> Run {
    let run =
        Run::of("walkeep").arg("--config").arg(archive.config()).args(["drill", "--json", "--directory"]);
    run.arg(directory).args(arguments).deadline(PATIENCE)
}

/// A drill with this status, which leaves nothing behind; what it reports.
#[track_caller]
fn drill(archive: &Archive, arguments: &[&str], status: i32) -> Value {
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let outcome = drilling(archive, &directory, arguments).go();
    assert_eq!(outcome.code(), Some(status), "{outcome}");
    assert_empty(&directory);
    let report = json(&outcome);
    assert_eq!(report["proved"], status == 0, "{outcome}");
    report
}

#[track_caller]
fn assert_empty(directory: &Path) {
    let left: Vec<_> =
        std::fs::read_dir(directory).expect("list").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// One of the checks: whether it was passed, and its words.
#[track_caller]
fn check(report: &Value, name: &str) -> (Option<bool>, String) {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| check["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no check {name} in {report:#}"));
    (found["ok"].as_bool(), text(found, "detail"))
}

/// A line of `[[drill.assert]]` tables that counts the rows of the story.
fn rows_are(rows: &str) -> String {
    format!(
        "[[drill.assert]]\nname = \"rows\"\ndatabase = \"postgres\"\nsql = \"select count(*) from t\"\nexpected = {rows:?}\n"
    )
}
