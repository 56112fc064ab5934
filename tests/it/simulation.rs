//! A simulation: processes of several hosts on repositories in memory, whose order a seed decides.
//! Every request to a store is a point at which another thread may go on, a process may be killed
//! or suspended for weeks, a request may fail or be done later, or hours may pass. A failure prints
//! its seed and the shortest schedule that was found to fail.
//!
//! The processes run the operations as the programs do, by the threads and the clock of
//! `walkeep::runtime`.

mod choices;
mod claims;
mod explore;
mod objects;
mod store;
mod world;

use crate::support::each_pack;
use explore::{Scenario, explore};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use walkeep::error::{Error, Kind, Result};
use walkeep::repo::active::{Announcement, Heartbeat, Operation, Staleness};
use walkeep::repo::branches::ServerTimeline;
use walkeep::repo::packset::PackSet;
use walkeep::repo::pin::Pin;
use walkeep::repo::{Archive, Lineage, ObjectName, Repository};
use walkeep::retention::{Options, Policy};
use world::{Chances, Program, World};

const LINEAGE: Lineage = Lineage { system_identifier: 7_312_345_678_901_234_567, major: 17 };

/// Time that is spent on a scenario; WALKEEP_TEST_SLOW takes ten times as long.
fn budget() -> Duration {
    let seconds = if std::env::var_os("WALKEEP_TEST_SLOW").is_some() { 20 } else { 2 };
    Duration::from_secs(seconds)
}

/// Explores at least `least` schedules of a scenario, and prints what was explored.
#[track_caller]
fn holds(scenario: Scenario<'_>, least: u64) {
    let first = std::env::var("WALKEEP_TEST_SEED").map_or(0, |seed| seed.parse().expect("a seed"));
    match explore(scenario, first, least, budget()) {
        Ok(explored) => println!("{} schedules, {} requests", explored.schedules, explored.steps),
        Err(failure) => panic!("seed {}: {}\n{}", failure.seed, failure.why, failure.trace),
    }
}

/// Whether a scenario with a planted defect fails within 2000 schedules.
fn is_found(scenario: Scenario<'_>) -> bool {
    explore(scenario, 0, 2000, Duration::ZERO).is_err()
}

/// Opens the repository of a store, which is registered at the first time.
fn open(store: &Store) -> Archive {
    let repository = Repository::new("first", "main", true, Arc::new(store.clone()));
    repository.register(LINEAGE, false, jiff::Timestamp::UNIX_EPOCH, &"0".repeat(32)).expect("register");
    repository.open(LINEAGE).expect("open")
}

/// What a backup does to a repository: it chooses a parent, names some of its packs, and adds one
/// of its own.
fn back_up(archive: &Archive, number: u64, shares: bool) -> Result<()> {
    let id = objects::id(number);
    let beat = Heartbeat { backup: Some(id.clone()), ..Heartbeat::new(Operation::Backup) };
    let announced = Announcement::begin(archive, beat, &format!("{number:012x}"))?;
    let mut packs = PackSet::default();
    if shares {
        for parent in archive.records()?.good.into_iter().rev() {
            announced.update(|heartbeat| heartbeat.needs = vec![parent.id.clone()])?;
            if archive.may_need(&parent.id)? {
                packs = archive.packs_of(&parent)?;
                break;
            }
        }
    }
    announced.update(|heartbeat| heartbeat.wal_from = Some(walkeep::pg::lsn::Lsn(number << 20)))?;
    archive.put_data(&format!("{id}/pack/000001"), &vec![7; 100])?;
    packs.insert(&ObjectName::Pack(id.clone(), 1).to_string())?;
    let manifest = objects::manifest(&id);
    archive.put_data(&format!("{id}/manifest/000001"), &manifest)?;
    announced.check()?;
    archive.put_record(&objects::record(&id, number, packs, &manifest))
}

fn prune(archive: &Archive, number: u64) -> Result<()> {
    let options = Options {
        policy: Policy { keep_last: Some(1), ..Policy::default() },
        discard: BTreeSet::new(),
        dry_run: false,
        now: jiff::Timestamp::MAX,
        server: ServerTimeline::Unknown,
        wait: Duration::ZERO,
        staleness: Staleness::default(),
        random: format!("{number:012x}"),
        garbage_before: jiff::Timestamp::UNIX_EPOCH,
    };
    walkeep::retention::prune(archive, &options).map(drop)
}

/// Pins the oldest backup. After an error the backup may be pinned or not, and may be removed.
fn pin(archive: &Archive, pinned: &Mutex<BTreeSet<String>>) -> Result<()> {
    let Some(record) = archive.records()?.good.into_iter().next() else { return Ok(()) };
    archive.pin(&record.id, &Pin { until: None, standalone: false })?;
    pinned.lock().insert(record.id);
    Ok(())
}

/// Every backup that is listed has all of its packs and manifest parts, and a pinned one is listed.
fn check(archive: &Archive, pinned: &BTreeSet<String>) -> std::result::Result<(), String> {
    let fail = |error: Error| format!("cannot be read: {error}");
    let data = archive.data().map_err(fail)?;
    let records = archive.records().map_err(fail)?.good;
    for record in &records {
        for (id, number) in each_pack(&archive.packs_of(record).map_err(fail)?) {
            if !data.get(id).is_some_and(|data| data.packs.contains_key(&number)) {
                return Err(format!("backup {} is listed, and pack {number} of {id} is gone", record.id));
            }
        }
        let own = data.get(&record.id);
        if !own.is_some_and(|data| data.manifests.contains_key(&1)) {
            return Err(format!("backup {} is listed, and its manifest is gone", record.id));
        }
    }
    match pinned.iter().find(|id| !records.iter().any(|record| record.id == **id)) {
        Some(id) => Err(format!("backup {id} was pinned, and is gone")),
        None => Ok(()),
    }
}

/// A program of the simulation.
fn program<'a>(
    name: impl Into<String>,
    host: u64,
    work: impl FnOnce() -> Result<()> + Send + 'a,
) -> Program<'a> {
    Program { name: name.into(), host, work: Box::new(work) }
}

/// Backups, prunes and a pin on two hosts, whatever happens to them.
fn backups_and_prunes(world: &Arc<World>) -> std::result::Result<(), String> {
    let archive = open(&Store::new(world));
    objects::store_wal(&archive, 8);
    for number in 1..=2 {
        back_up(&archive, number, true).expect("a first backup");
    }
    let pinned = Mutex::default();
    let (shared, pins) = (&archive, &pinned);
    let mut programs = Vec::new();
    for actor in 0..3 {
        programs.push(program(format!("backup {actor}"), actor % 2, move || {
            back_up(shared, 3 + actor, actor != 2)
        }));
    }
    for actor in 0..2 {
        programs.push(program(format!("prune {actor}"), actor, move || {
            prune(shared, 100 + actor)?;
            prune(shared, 200 + actor)
        }));
    }
    programs.push(program("pin", 0, || pin(shared, pins)));
    world.run(Chances { killed: 60, paused: 60, frozen: 2, later: 25, fails: 40 }, programs);
    let pinned = pinned.lock().clone();
    check(&archive, &pinned)?;
    // Whatever was killed, prunes that follow come to a state that stays. A fence is for ninety
    // days.
    world.pass(Duration::from_secs(3 * 3600));
    for number in 300..304 {
        let mut ended = Ok(());
        world.run(
            Chances::default(),
            vec![program("last prune", 0, || {
                ended = prune(shared, number).map_err(|error| format!("a prune after it all: {error}"));
                Ok(())
            })],
        );
        ended?;
        world.pass(Duration::from_secs(3 * 3600));
    }
    check(&archive, &pinned)?;
    let records = archive.records().expect("records").good;
    let mut needed: BTreeSet<String> = records.iter().map(|record| record.id.clone()).collect();
    if records.is_empty() {
        return Err("no backup is left".to_owned());
    }
    for record in &records {
        let packs = archive.packs_of(record).expect("packs");
        needed.extend(packs.runs().map(|(id, _)| id.to_owned()));
    }
    match archive.data().expect("data").into_keys().find(|id| !needed.contains(id)) {
        Some(id) => Err(format!("data of {id} are left, which no backup needs")),
        None => Ok(()),
    }
}

#[test]
fn whatever_the_order_of_backups_prunes_and_pins_a_listed_backup_is_whole() {
    holds(&backups_and_prunes, 100);
}

/// A backup that names packs of a backup without having announced that it needs it.
fn careless_backup(world: &Arc<World>) -> std::result::Result<(), String> {
    let archive = open(&Store::new(world));
    objects::store_wal(&archive, 8);
    for number in 1..=2 {
        back_up(&archive, number, false).expect("a first backup");
    }
    let back_up = || {
        let parent = archive.records()?.good.into_iter().next().ok_or_else(missing)?;
        let mut packs = archive.packs_of(&parent)?;
        let id = objects::id(3);
        let heartbeat = Heartbeat { backup: Some(id.clone()), ..Heartbeat::new(Operation::Backup) };
        let _announced = Announcement::begin(&archive, heartbeat, "000000000003")?;
        archive.put_data(&format!("{id}/pack/000001"), &vec![7; 100])?;
        packs.insert(&ObjectName::Pack(id.clone(), 1).to_string())?;
        let manifest = objects::manifest(&id);
        archive.put_data(&format!("{id}/manifest/000001"), &manifest)?;
        archive.put_record(&objects::record(&id, 3, packs, &manifest))
    };
    world.run(
        Chances::default(),
        vec![program("backup", 0, back_up), program("prune", 1, || prune(&archive, 100))],
    );
    check(&archive, &BTreeSet::new())
}

#[test]
fn the_simulation_finds_a_backup_that_relies_on_what_a_prune_removes() {
    assert!(is_found(&careless_backup), "a planted defect is not found");
}

fn missing() -> Error {
    Error::new(Kind::Absent, "no backup")
}
