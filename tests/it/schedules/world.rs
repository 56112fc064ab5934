//! A store in memory whose every request waits for its turn, and the dice that give the turns.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;
use std::thread::Scope;
use std::time::Duration;
use walkeep::codec::compress::{Compression, Compressor};
use walkeep::codec::envelope::{ObjectKind, seal};
use walkeep::codec::hash::ContentHash;
use walkeep::error::{Error, Kind, Result};
use walkeep::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use walkeep::repo::Archive;
use walkeep::repo::packset::PackSet;
use walkeep::repo::record::Record;
use walkeep::storage::{Body, ForeignEntry, Key, ListedObject, Mode, Object, OpenBody, Page, Put, Storage};

/// Chances of what happens at a request, as one in so many; 0 is never.
#[derive(Clone, Copy)]
pub struct Chances {
    /// The actor is killed: this and all of its later requests fail, and do nothing.
    pub killed: u64,
    /// Hours pass on the clock of the store.
    pub later: u64,
}

/// Objects, the clock that dates them, and who waits to make a request.
pub struct World {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    objects: BTreeMap<Key, (Vec<u8>, jiff::Timestamp)>,
    clock: jiff::Timestamp,
    dice: u64,
    chances: Chances,
    /// Actors that have not ended.
    alive: BTreeSet<String>,
    /// Actors that wait for their turn.
    waiting: BTreeSet<String>,
    turn: Option<String>,
    /// The actor that most turns are given to at present.
    favourite: String,
    killed: BTreeSet<String>,
    steps: u64,
    trace: Vec<String>,
}

thread_local! {
    /// The actor that this thread is, if any. Threads that only renew heartbeats are none.
    static ACTOR: RefCell<Option<String>> = const { RefCell::new(None) };
}

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        Arc::new(World {
            state: Mutex::new(State {
                objects: BTreeMap::new(),
                clock: jiff::Timestamp::from_second(1_700_000_000).expect("a time"),
                dice: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
                chances: Chances { killed: 0, later: 0 },
                alive: BTreeSet::new(),
                waiting: BTreeSet::new(),
                turn: None,
                favourite: String::new(),
                killed: BTreeSet::new(),
                steps: 0,
                trace: Vec::new(),
            }),
            changed: Condvar::new(),
        })
    }

    pub fn store(self: &Arc<World>) -> Scheduled {
        Scheduled(Arc::clone(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Lets time pass on the clock of the store.
    pub fn pass(&self, time: Duration) {
        let mut state = self.state();
        state.clock += time;
    }

    /// The requests of the schedule, in order.
    pub fn trace(&self) -> String {
        self.state().trace.join("\n")
    }

    /// Waits for the turn of this actor, and keeps the world until the request is done.
    fn request(&self, what: impl FnOnce() -> String) -> Result<MutexGuard<'_, State>> {
        let Some(actor) = ACTOR.with_borrow(Clone::clone) else {
            let mut state = self.state();
            state.clock += Duration::from_millis(10);
            return Ok(state);
        };
        let mut state = self.state();
        state.waiting.insert(actor.clone());
        self.changed.notify_all();
        while state.turn.as_ref() != Some(&actor) {
            self.changed.wait(&mut state);
        }
        state.turn = None;
        state.steps += 1;
        let Chances { killed, later } = state.chances;
        let passed = if state.one_in(later) { 2 * 3600 } else { 1 };
        state.clock += Duration::from_secs(passed);
        // A prune shows its process, which in truth is that of all actors and does not end.
        if !actor.starts_with("prune") && state.one_in(killed) {
            state.killed.insert(actor.clone());
        }
        let is_killed = state.killed.contains(&actor);
        let line = format!("{actor}{}: {}", if is_killed { " (killed)" } else { "" }, what());
        state.trace.push(line);
        if is_killed { Err(Error::new(Kind::Failed, "killed")) } else { Ok(state) }
    }
}

impl State {
    fn below(&mut self, limit: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) % limit
    }

    fn any_waiting(&mut self) -> String {
        let waiting = self.waiting.len() as u64;
        let chosen = self.below(waiting) as usize;
        self.waiting.iter().nth(chosen).cloned().expect("an actor that waits")
    }

    fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }
}

/// Actors that take turns by the dice.
pub struct Schedule<'w> {
    world: &'w Arc<World>,
}

impl<'w> Schedule<'w> {
    pub fn new(world: &'w Arc<World>, chances: Chances) -> Schedule<'w> {
        world.state().chances = chances;
        Schedule { world }
    }

    /// Adds an actor. It begins when [`Schedule::run`] gives it a turn. An actor may fail; it must
    /// not panic.
    pub fn spawn<'s>(
        &self,
        scope: &'s Scope<'s, '_>,
        name: &str,
        work: impl FnOnce() -> Result<()> + Send + 's,
    ) where
        'w: 's,
    {
        let (world, name) = (self.world, name.to_owned());
        world.state().alive.insert(name.clone());
        scope.spawn(move || {
            ACTOR.set(Some(name.clone()));
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let mut state = world.state();
            state.alive.remove(&name);
            state.trace.push(match &done {
                Ok(Ok(())) => format!("{name}: done"),
                Ok(Err(error)) => format!("{name}: {error}"),
                Err(_) => format!("{name}: panicked"),
            });
            world.changed.notify_all();
            drop(state);
            done.map(drop).expect("an actor that does not panic");
        });
    }

    /// Gives turns until all actors have ended.
    pub fn run(&self) {
        let mut state = self.world.state();
        loop {
            while state.turn.is_some() || state.waiting.len() < state.alive.len() {
                self.world.changed.wait(&mut state);
            }
            if state.alive.is_empty() {
                return;
            }
            // One actor goes on for a while, so that the others stand still between two of their
            // requests for long.
            if state.one_in(12) || !state.waiting.contains(&state.favourite) {
                state.favourite = state.any_waiting();
            }
            let is_other = state.one_in(4);
            let actor = if is_other { state.any_waiting() } else { state.favourite.clone() };
            state.waiting.remove(&actor);
            state.turn = Some(actor);
            self.world.changed.notify_all();
        }
    }

    /// Ends the schedule: from here on requests are made at once. Returns the number of requests.
    pub fn finish(&self) -> u64 {
        let mut state = self.world.state();
        state.chances = Chances { killed: 0, later: 0 };
        state.steps
    }
}

/// The store of a [`World`].
pub struct Scheduled(Arc<World>);

impl Storage for Scheduled {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        let bytes = match body.open()? {
            OpenBody::Whole(bytes) => bytes.to_vec(),
            OpenBody::Stream(mut stream) => {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut stream, &mut bytes).expect("read a body");
                bytes
            }
        };
        let mut state = self.0.request(|| format!("put {key}"))?;
        if mode == Mode::Create && state.objects.contains_key(key) {
            return Ok(Put::Exists);
        }
        let now = state.clock;
        state.objects.insert(key.clone(), (bytes, now));
        Ok(Put::Stored)
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let state = self.0.request(|| format!("get {key}"))?;
        let Some((bytes, _)) = state.objects.get(key) else { return Ok(None) };
        let end = bytes.len() as u64;
        let range = range.map_or(0..end, |range| range.start.min(end)..range.end.min(end));
        let range = range.start as usize..range.end as usize;
        Ok(Some(Box::new(Cursor::new(bytes[range].to_vec()))))
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        let state = self.0.request(|| format!("head {key}"))?;
        Ok(state.objects.get(key).map(|object| listed(key, object)))
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let state = self.0.request(|| format!("list {folder}"))?;
        let below = format!("{folder}/");
        let inside = state.objects.iter().filter(|(key, _)| key.as_str().starts_with(&below));
        let mut entries: Vec<ListedObject> = inside
            .filter(|(key, _)| after.is_none_or(|after| *key > after))
            .map(|(key, object)| listed(key, object))
            .collect();
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { entries, more })
    }

    fn foreign(&self, _: &Key) -> Result<Vec<ForeignEntry>> {
        Ok(Vec::new())
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        // One request a key, as the objects of a batch go one after the other.
        for key in keys {
            self.0.request(|| format!("delete {key}"))?.objects.remove(key);
        }
        Ok(())
    }

    fn clean(&self, _: jiff::Timestamp) -> Result<u64> {
        Ok(0)
    }

    fn url(&self) -> String {
        "memory:".to_owned()
    }
}

fn listed(key: &Key, (bytes, at): &(Vec<u8>, jiff::Timestamp)) -> ListedObject {
    ListedObject { key: key.clone(), size: bytes.len() as u64, modified: *at }
}

/// The name of a backup by its number.
pub fn id(number: u64) -> String {
    format!("20260101T000000Z-{number:06x}")
}

fn segment_size() -> SegmentSize {
    SegmentSize::try_from(1 << 20).expect("a segment size")
}

fn segment(number: u64) -> SegmentName {
    SegmentName::of_number(TimelineId(1), number, segment_size())
}

/// Stores segments 1 to `last`.
pub fn store_wal(archive: &Archive, last: u64) {
    for number in 1..=last {
        let name = WalName::Segment(segment(number));
        let header = archive.header(ObjectKind::Wal, name.to_string());
        let mut compressor = Compressor::new(Compression::Stored).expect("a compressor");
        let object = seal(header, b"a segment", &mut compressor).expect("an object");
        let _ = archive.put_wal(name, &object).expect("store a segment");
    }
}

/// The one manifest part of a backup: nothing reads it here, its presence and size are what counts.
pub fn manifest(id: &str) -> Vec<u8> {
    format!("the manifest of {id}\n").into_bytes()
}

/// The record of backup `number`, which begins and ends in the segment of that number.
pub fn record(id: &str, number: u64, packs: PackSet, manifest: &[u8]) -> Record {
    let wal = segment(number);
    let start = wal.start(segment_size()).0;
    let mut record: Record = serde_json::from_value(serde_json::json!({
        "id": id,
        "state": "complete",
        "start_time": "2026-01-01T00:00:00Z",
        "stop_time": "2026-01-01T00:00:01Z",
        "start_lsn": walkeep::pg::lsn::Lsn(start + 40),
        "stop_lsn": walkeep::pg::lsn::Lsn(start + 4000),
        "timeline": 1,
        "system_identifier": super::LINEAGE.system_identifier.to_string(),
        "pg_version": "17.0",
        "size": 0, "stored": 0, "new_bytes": 0, "files": 0,
        "parent": null,
        "manifest": [{
            "key": format!("data/{id}/manifest/000001"),
            "size": manifest.len(),
            "sha256": ContentHash::of(manifest),
        }],
        "segment_size": 1 << 20,
        "wal": {"first": wal, "last": wal},
        "settings": {
            "time_zone": "UTC", "block_size": 8192, "data_checksums": true,
            "data_directory": "/d", "config_file": "/d/postgresql.conf", "from_standby": false,
        },
    }))
    .expect("a record");
    record.packs = Some(packs);
    record
}
