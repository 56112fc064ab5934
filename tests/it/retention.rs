//! What stays and what goes: the plan against a brute-force model, and `walkeep prune` on real
//! repositories, with everything that may happen beside it.

mod beside;
mod killed;
mod notes;
mod plan;
mod prune;
mod world;

use crate::support::live::{self, restoring};
use crate::support::repo::files;
use crate::support::saga::lineage;
use crate::support::*;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A server with so many backups, a thousand rows more before each, and a segment behind the last
/// one.
fn with_backups(count: usize) -> (Live, Vec<String>) {
    let live = Live::new();
    live.server.psql("create table t (i serial primary key)");
    let ids = (0..count).map(|_| add_and_back_up(&live)).collect();
    live.flush_wal();
    (live, ids)
}

/// The backup shares nothing with another, so that what it stored goes with it.
fn add_and_back_up(live: &Live) -> String {
    live.server.psql("insert into t select from generate_series(1, 1000)");
    live::text(&live::json(&live.backing_up().arg("--full").go().ok()), "id")
}

/// `walkeep prune --json …`, which has to end with this status.
#[track_caller]
fn prune_is(archive: &Archive, code: i32, arguments: &[&str]) -> Value {
    live::json(&archive.run("walkeep").args(["prune", "--json"]).args(arguments).go().is(code))
}

#[track_caller]
fn prune(archive: &Archive, arguments: &[&str]) -> Value {
    prune_is(archive, 0, arguments)
}

/// The ids that `walkeep list` shows.
fn listed(archive: &Archive) -> Vec<String> {
    let list = live::json(&archive.walkeep(&["list", "--json"]).ok());
    let backups = list["repositories"][0]["backups"].as_array().expect("a list");
    backups.iter().map(|backup| live::text(backup, "id")).collect()
}

/// The ids among what was kept, and why.
fn kept(report: &Value) -> Vec<(String, Vec<String>)> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    let kept = report["kept"].as_array().expect("a list");
    kept.iter().map(|kept| (live::text(kept, "id"), texts(&kept["because"]))).collect()
}

/// The keys of all objects.
fn objects(root: &Path) -> Vec<PathBuf> {
    files(root).into_iter().filter(|path| !path.starts_with(root.join(".tmp"))).collect()
}

/// Restores a backup to its end; so many rows are there.
#[track_caller]
fn assert_restores(archive: &Archive, id: &str, rows: &str) {
    let server = live::restore(archive, &[id, "--immediate"]).verified().recovered();
    assert_eq!(server.psql("select count(*) from t"), rows, "backup {id}");
}
