//! Random schedules of a prune, backups, pins and killed processes on one repository in memory.
//! Every request to the store is a point at which another actor may go on, an actor may be killed,
//! or hours may pass on the store's clock. A failure names its seed and shows the schedule.
//!
//! The actors use what the programs use: announcements, the check of what a prune removes, records,
//! pins, and the whole of `retention::prune`. What is left out is the copying of files: a pack is a
//! few bytes.

mod claims;
mod world;

use crate::support::each_pack;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walkeep::error::{Error, Kind, Result};
use walkeep::repo::active::{Announcement, Heartbeat, Operation, Staleness};
use walkeep::repo::branches::ServerTimeline;
use walkeep::repo::packset::PackSet;
use walkeep::repo::pin::Pin;
use walkeep::repo::{Archive, Lineage, ObjectName, Repository};
use walkeep::retention::{Options, Policy};
use world::{Chances, Schedule, World};

const LINEAGE: Lineage = Lineage { system_identifier: 7_312_345_678_901_234_567, major: 17 };

/// Time that is spent on schedules; WALKEEP_TEST_SLOW takes ten times as long.
fn budget() -> Duration {
    let seconds = if std::env::var_os("WALKEEP_TEST_SLOW").is_some() { 20 } else { 2 };
    Duration::from_secs(seconds)
}

/// Opens the repository of a world, which is registered at the first time.
fn open(world: &Arc<World>) -> Archive {
    let repository = Repository::new("first", "main", true, Arc::new(world.store()));
    repository.register(LINEAGE, false, jiff::Timestamp::UNIX_EPOCH, &"0".repeat(32)).expect("register");
    repository.open(LINEAGE).expect("open")
}

/// An announcement of a host of which nothing but its heartbeat is known.
fn heartbeat(operation: Operation) -> Heartbeat {
    Heartbeat { host: "elsewhere".into(), process: None, ..Heartbeat::new(operation) }
}

/// What a backup does to a repository: it chooses a parent, names some of its packs, and adds one
/// of its own.
fn back_up(archive: &Archive, number: u64, shares: bool) -> Result<()> {
    let id = world::id(number);
    let beat = Heartbeat { backup: Some(id.clone()), ..heartbeat(Operation::Backup) };
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
    let manifest = world::manifest(&id);
    archive.put_data(&format!("{id}/manifest/000001"), &manifest)?;
    announced.check()?;
    archive.put_record(&world::record(&id, number, packs, &manifest))
}

fn prune(archive: &Archive, number: u64) -> Result<()> {
    let options = Options {
        policy: Policy { keep_last: Some(1), ..Policy::default() },
        discard: BTreeSet::new(),
        dry_run: false,
        now: jiff::Timestamp::MAX,
        server: ServerTimeline::Unknown,
        wait: Duration::ZERO,
        staleness: Staleness { watch: Duration::ZERO, ..Staleness::default() },
        random: format!("{number:012x}"),
        garbage_before: jiff::Timestamp::UNIX_EPOCH,
    };
    walkeep::retention::prune(archive, &options).map(drop)
}

fn pin(archive: &Archive) -> Result<()> {
    let Some(record) = archive.records()?.good.into_iter().next() else { return Ok(()) };
    archive.pin(&record.id, &Pin { until: None, standalone: false })
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

/// Runs one schedule. The answer says how many requests were made.
fn explore(seed: u64) -> u64 {
    let world = World::new(seed);
    let archive = open(&world);
    world::store_wal(&archive, 8);
    for number in 1..=2 {
        back_up(&archive, number, true).expect("a first backup");
    }
    // Two prunes that are killed before they have decided wait for each other in real time.
    let (prunes, killed) = if seed.is_multiple_of(8) { (2, 0) } else { (1, 60) };
    let schedule = Schedule::new(&world, Chances { killed, later: 25 });
    std::thread::scope(|scope| {
        let archive = &archive;
        for actor in 0..3 {
            schedule
                .spawn(scope, &format!("backup {actor}"), move || back_up(archive, 3 + actor, actor != 2));
        }
        for actor in 0..prunes {
            schedule.spawn(scope, &format!("prune {actor}"), move || {
                prune(archive, 100 + actor)?;
                prune(archive, 200 + actor)
            });
        }
        schedule.spawn(scope, "pin", || pin(archive));
        schedule.run();
    });
    let steps = schedule.finish();
    let pinned: BTreeSet<String> = archive.pins().expect("pins").into_keys().collect();
    let fail = |why: String| -> ! { panic!("seed {seed}: {why}\n{}", world.trace()) };
    if let Err(why) = check(&archive, &pinned) {
        fail(why);
    }
    // Whatever was killed, prunes that follow come to a state that stays. A fence is for ninety
    // days.
    world.pass(Duration::from_secs(3 * 3600));
    for number in 300..304 {
        if let Err(error) = prune(&archive, number) {
            fail(format!("a prune after it all: {error}"));
        }
        world.pass(Duration::from_secs(3 * 3600));
    }
    if let Err(why) = check(&archive, &pinned) {
        fail(why);
    }
    let records: BTreeSet<String> =
        archive.records().expect("records").good.into_iter().map(|record| record.id).collect();
    let named = archive.records().expect("records").good.into_iter();
    let mut needed: BTreeSet<String> = records.clone();
    for record in named {
        let packs = archive.packs_of(&record).expect("packs");
        needed.extend(packs.runs().map(|(id, _)| id.to_owned()));
    }
    if let Some(id) = archive.data().expect("data").into_keys().find(|id| !needed.contains(id)) {
        fail(format!("data of {id} are left, which no backup needs"));
    }
    if records.is_empty() {
        fail("no backup is left".to_owned());
    }
    steps
}

#[test]
fn whatever_the_order_of_backups_prunes_and_pins_a_listed_backup_is_whole() {
    let begun = Instant::now();
    let (mut seed, mut steps) = (0, 0);
    while begun.elapsed() < budget() {
        steps += explore(seed);
        seed += 1;
    }
    assert!(seed >= 20, "only {seed} schedules in {:?}", begun.elapsed());
    println!("{seed} schedules, {steps} requests");
}

/// A prune that does not look again after it has announced what goes is the defect that the
/// protocol is made against.
#[test]
fn the_explorer_finds_a_backup_that_relies_on_what_a_prune_removes() {
    let careless = |seed: u64| {
        let world = World::new(seed);
        let archive = open(&world);
        world::store_wal(&archive, 8);
        for number in 1..=2 {
            back_up(&archive, number, false).expect("a first backup");
        }
        let schedule = Schedule::new(&world, Chances { killed: 0, later: 0 });
        std::thread::scope(|scope| {
            schedule.spawn(scope, "backup", || {
                // It names packs of a backup without having announced that it needs it.
                let parent = archive.records()?.good.into_iter().next().ok_or_else(missing)?;
                let mut packs = archive.packs_of(&parent)?;
                let id = world::id(3);
                let heartbeat = Heartbeat { backup: Some(id.clone()), ..heartbeat(Operation::Backup) };
                let _announced = Announcement::begin(&archive, heartbeat, "000000000003")?;
                archive.put_data(&format!("{id}/pack/000001"), &vec![7; 100])?;
                packs.insert(&ObjectName::Pack(id.clone(), 1).to_string())?;
                let manifest = world::manifest(&id);
                archive.put_data(&format!("{id}/manifest/000001"), &manifest)?;
                archive.put_record(&world::record(&id, 3, packs, &manifest))
            });
            schedule.spawn(scope, "prune", || prune(&archive, 100));
            schedule.run();
        });
        schedule.finish();
        check(&archive, &BTreeSet::new()).is_err()
    };
    assert!((0..200).any(careless), "a defect that was planted is not found by 200 schedules");
}

fn missing() -> Error {
    Error::new(Kind::Absent, "no backup")
}
