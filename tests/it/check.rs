//! `walkeep check`: what is wrong on the way from the server into the repositories and back is
//! named, with the line to type.

mod archiving;
mod backups;
mod clocks;
mod settings;
mod standby;
mod wal;

use crate::support::*;
use serde_json::Value;

/// `walkeep check --json`, which has to end with this status.
#[track_caller]
fn check(archive: &Archive, status: i32) -> Value {
    let report = live::json(&archive.walkeep(&["check", "--json", "--timeout", "20s"]).is(status));
    assert_eq!(report["ok"], status == 0, "{report:#}");
    report
}

/// What a check of this name says, where one has this result and these words. There is something to
/// do about what is not right.
#[track_caller]
fn shows<'v>(report: &'v Value, name: &str, result: &str, words: &str) -> &'v Value {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| {
        check["name"] == name && check["result"] == result && live::text(check, "detail").contains(words)
    });
    let found = found.unwrap_or_else(|| panic!("no {result} {name} with {words:?} in {report:#}"));
    assert_eq!(found["ok"], result != "failed", "{found:#}");
    assert!(result == "ok" || found["hint"].is_string(), "no hint for {found:#}");
    found
}

/// That everything is right.
#[track_caller]
fn all_is_ok(report: &Value) {
    for check in report["checks"].as_array().expect("checks") {
        assert_eq!(check["result"], "ok", "{report:#}");
    }
}

/// Changes a setting of a running server.
#[track_caller]
fn alter(server: &Cluster, name: &str, value: &str) {
    server.psql(&format!("alter system set {name} = '{}'", value.replace('\'', "''")));
    server.psql("select pg_reload_conf()");
    server.await_sql(&format!("select setting from pg_settings where name = '{name}'"), value);
}

/// A server with a backup, of which nothing is to be said.
fn healthy() -> Live {
    let live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
        server.set("archive_timeout", "1min");
    });
    live.backup();
    live
}
