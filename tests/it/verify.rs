//! `walkeep verify`: good, bad, or could not tell; and proof by damage, object by object.

mod answers;
mod bucket;
mod damage;
mod foreign;

use crate::support::live::{self, restoring};
use crate::support::repo::{self, Damage, files};
use crate::support::saga::{self, Saga, lineage, problems};
use crate::support::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `walkeep verify --json …`, which has to end with this status.
#[track_caller]
fn verify_is(archive: &Archive, code: i32, arguments: &[&str]) -> Value {
    live::json(&archive.run("walkeep").args(["verify", "--json"]).args(arguments).go().is(code))
}

/// It says that all is good.
#[track_caller]
fn verify(archive: &Archive, arguments: &[&str]) -> Value {
    let report = verify_is(archive, 0, arguments);
    assert_eq!(report["problems"], serde_json::json!([]), "{report}");
    report
}

/// Every object of the cluster, in order.
fn objects(archive: &Archive) -> Vec<PathBuf> {
    files(&archive.root().join("main"))
}

/// What a report says is hurt by its problems.
fn hurt(report: &Value) -> BTreeSet<String> {
    let problems = report["problems"].as_array().expect("a list");
    let backups = problems.iter().flat_map(|problem| problem["backups"].as_array().expect("a list"));
    backups.map(|id| id.as_str().expect("an id").to_owned()).collect()
}

/// Blocks that a backup needs: the frame's place and length in its pack, and bytes of its content.
type Needed = (u64, u64, usize, usize);

/// What the listed backups need of each pack, by its key.
fn needed(archive: &Archive) -> BTreeMap<String, BTreeSet<Needed>> {
    let mut needed: BTreeMap<String, BTreeSet<Needed>> = BTreeMap::new();
    for id in live::records(archive.root()) {
        let mut packs = Vec::new();
        for line in live::manifest(archive.root(), &id) {
            if line.get("part").is_some() {
                packs.clear();
            }
            if let Some(pack) = line.get("pack") {
                packs.push(live::text(pack, "key"));
            }
            let Some(file) = line.get("file").or_else(|| line.get("config")) else {
                continue;
            };
            let number = |value: &Value| value.as_u64().expect("a number");
            let mut left = number(&file["size"]);
            for extent in file["at"].as_array().expect("extents") {
                let at = |index: usize| number(&extent[index]);
                let bytes = left.min(at(4) * number(&file["block"]));
                left -= bytes;
                let pack = &packs[at(0) as usize];
                let blocks = (at(1), at(2), at(3) as usize, bytes as usize);
                needed.entry(pack.clone()).or_default().insert(blocks);
            }
        }
    }
    needed
}
