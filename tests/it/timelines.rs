//! The timeline that is alive: what restore, drill, prune and status follow when a branch with a
//! higher number is in the archive, and how a dead branch is retired.

mod followed;
mod retired;
mod unclear;

use crate::support::live::{self, Live, Pair, json, restoring, text};
use crate::support::*;
use serde_json::Value;
use std::path::Path;

fn add(server: &Cluster, rows: u32) {
    server.psql(&format!("insert into t select from generate_series(1, {rows})"));
}

/// Ends the current segment and awaits that it is stored.
fn flush(server: &Cluster) {
    server.psql("select pg_create_restore_point('flush')");
    let name = server.switch_wal();
    server.await_archived(&name);
}

fn rows(server: &Cluster) -> u32 {
    server.psql("select count(*) from t").parse().expect("a number")
}

/// A primary on timeline 1 that goes on, and a standby that was promoted by mistake, archived as
/// timeline 2, and is gone.
struct Accident {
    live: Live,
    /// Kept, since the configuration of the branch names its data directory.
    dead: Cluster,
    /// Configuration of the host of the dead branch.
    archive: Archive,
    /// Backup before the accident.
    before: String,
}

impl Accident {
    /// Table `t` has 10 rows in the first backup and 20 at the promotion; the dead branch has 22.
    fn happens() -> Accident {
        let live = Live::with(Cluster::build().wal_segsize(1), |_| {});
        live.server.psql("create table t (i serial primary key)");
        add(&live.server, 10);
        let before = live.backup_id();
        let pair = Pair::of(live);
        add(&pair.live.server, 10);
        pair.catch_up();
        let archive = pair.archive(false);
        let Pair { live, standby } = pair;
        standby.set("archive_command", &archive.archive_command());
        standby.psql("select pg_reload_conf()");
        standby.promote();
        for _ in 0..2 {
            add(&standby, 1);
            flush(&standby);
        }
        Accident { live, dead: standby, archive, before }
    }

    fn ends(&self) {
        self.dead.stop(Stop::Immediate);
    }

    /// The primary goes on: two segments, a backup, one segment more.
    fn goes_on(&self) -> String {
        let server = &self.live.server;
        for _ in 0..2 {
            add(server, 100);
            flush(server);
        }
        let id = self.live.backup_id();
        add(server, 100);
        flush(server);
        id
    }
}

/// A plan, by its dry run.
#[track_caller]
fn plan(archive: &Archive, arguments: &[&str]) -> Value {
    let to = archive.scratch().join("planned");
    json(&restoring(archive, &to, arguments).args(["--dry-run", "--json"]).go().ok())
}

/// A timeline in the first repository, as `walkeep timelines` shows it.
#[track_caller]
fn shown(archive: &Archive, timeline: u32) -> Value {
    let report = json(&archive.walkeep(&["timelines", "--json"]).ok());
    let all = report["repositories"][0]["timelines"].as_array().expect("timelines").clone();
    let found = all.into_iter().find(|branch| branch["timeline"] == timeline);
    found.unwrap_or_else(|| panic!("no timeline {timeline} in {report:#}"))
}

#[track_caller]
fn checks(archive: &Archive, code: i32, name: &str) -> Vec<Value> {
    let report = json(&archive.walkeep(&["status", "--json"]).is(code));
    let all = report["checks"].as_array().expect("checks").iter();
    all.filter(|check| check["name"] == name).cloned().collect()
}

/// The number in the name of the newest history of a data directory.
fn own_timeline(data: &Path) -> u32 {
    let names = std::fs::read_dir(data.join("pg_wal")).expect("list pg_wal").flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let numbers = names.filter_map(|name| u32::from_str_radix(name.strip_suffix(".history")?, 16).ok());
    numbers.max().expect("a history")
}
