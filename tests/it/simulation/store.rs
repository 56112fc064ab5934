//! Stores in memory whose every request waits for its turn and may fail as a store may fail.

use super::world::{Fate, State, World};
use parking_lot::MutexGuard;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::time::Duration;
use walkeep::error::{Error, Kind, Result};
use walkeep::storage::{Body, ForeignEntry, Key, ListedObject, Mode, Object, OpenBody, Page, Put, Storage};

/// The objects of a store.
#[derive(Default)]
pub struct Shelf {
    objects: parking_lot::Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    stored: BTreeMap<String, StoredObject>,
    /// Puts that arrive later, after their writers were answered with an error.
    late: Vec<(Duration, String, Arc<[u8]>, Mode)>,
}

#[derive(Clone)]
struct StoredObject {
    bytes: Arc<[u8]>,
    at: Duration,
}

/// A store, as the processes of a world have it.
#[derive(Clone)]
pub struct Store {
    world: Arc<World>,
    shelf: Arc<Shelf>,
    /// False for a store that replaces what it was asked to create.
    creates: bool,
}

/// Time for which a store that checks no condition accepts a signed request.
const SIGNATURE_TIMEOUT: Duration = Duration::from_secs(900);

/// Time of the beginning of every world, in seconds.
const BEGINNING: i64 = 1_700_000_000;

impl Objects {
    fn put(&mut self, key: &str, bytes: Arc<[u8]>, mode: Mode, at: Duration) -> Put {
        if mode == Mode::Create && self.stored.contains_key(key) {
            return Put::Exists;
        }
        self.stored.insert(key.to_owned(), StoredObject { bytes, at });
        Put::Stored
    }

    fn arrive(&mut self, now: Duration) {
        let (arrived, late) = std::mem::take(&mut self.late).into_iter().partition(|(at, ..)| *at <= now);
        self.late = late;
        let arrived: Vec<_> = arrived;
        for (at, key, bytes, mode) in arrived {
            let _ = self.put(&key, bytes, mode, at);
        }
    }
}

fn listed(key: &str, object: &StoredObject) -> ListedObject {
    let at = jiff::Timestamp::from_second(BEGINNING).expect("a time") + object.at;
    ListedObject { key: Key::new(key).expect("a key"), size: object.bytes.len() as u64, modified: at }
}

fn unavailable() -> Error {
    Error::new(Kind::Unavailable, "the store does not answer")
}

impl Store {
    pub fn new(world: &Arc<World>) -> Store {
        Store { world: Arc::clone(world), shelf: Arc::default(), creates: true }
    }

    /// A store that replaces what it was asked to create.
    pub fn replacing(world: &Arc<World>) -> Store {
        Store { creates: false, ..Store::new(world) }
    }

    fn request(
        &self,
        what: impl FnOnce() -> String,
    ) -> Result<(MutexGuard<'_, State>, MutexGuard<'_, Objects>, Fate)> {
        let (state, fate) = self.world.request(what, (!self.creates).then_some(SIGNATURE_TIMEOUT))?;
        let mut objects = self.shelf.objects.lock();
        objects.arrive(state.clock);
        Ok((state, objects, fate))
    }

    /// A request that changes nothing: whatever fails, it has no answer.
    fn look(
        &self,
        what: impl FnOnce() -> String,
    ) -> Result<(MutexGuard<'_, State>, MutexGuard<'_, Objects>)> {
        match self.request(what)? {
            (state, objects, Fate::Done) => Ok((state, objects)),
            _ => Err(unavailable()),
        }
    }
}

impl Storage for Store {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        let bytes: Arc<[u8]> = match body.open()? {
            OpenBody::Whole(bytes) => bytes.into(),
            OpenBody::Stream(mut stream) => {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).map_err(|error| Error::from_io("read a body", error))?;
                bytes.into()
            }
        };
        let mode = if self.creates { mode } else { Mode::Replace };
        let (state, mut objects, fate) = self.request(|| format!("put {key}"))?;
        match fate {
            Fate::Done => Ok(objects.put(key.as_str(), bytes, mode, state.clock)),
            Fate::Refused => Err(unavailable()),
            Fate::AnswerLost => {
                let _ = objects.put(key.as_str(), bytes, mode, state.clock);
                Err(unavailable())
            }
            Fate::Late(after) => {
                objects.late.push((state.clock + after, key.as_str().to_owned(), bytes, mode));
                Err(unavailable())
            }
        }
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let (_, objects) = self.look(|| format!("get {key}"))?;
        let Some(StoredObject { bytes, .. }) = objects.stored.get(key.as_str()) else { return Ok(None) };
        let end = bytes.len() as u64;
        let range = range.map_or(0..end, |range| range.start.min(end)..range.end.min(end));
        let part = bytes[range.start as usize..range.end as usize].to_vec();
        Ok(Some(Box::new(Cursor::new(part))))
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        let (_, objects) = self.look(|| format!("head {key}"))?;
        Ok(objects.stored.get(key.as_str()).map(|object| listed(key.as_str(), object)))
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let (mut state, objects) = self.look(|| format!("list {folder}"))?;
        // A page may have fewer entries than were asked for.
        let limit = if state.choices.one_in(8) { 1 + state.choices.below(4) as usize } else { limit };
        let below = format!("{folder}/");
        let start = after.map_or(below.as_str(), Key::as_str);
        let mut entries: Vec<ListedObject> = objects
            .stored
            .range::<str, _>((Bound::Excluded(start), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&below))
            .take(limit + 1)
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
        // One request a key: the objects of a batch go one after the other.
        for key in keys {
            let (_, mut objects, fate) = self.request(|| format!("delete {key}"))?;
            if matches!(fate, Fate::Done | Fate::AnswerLost) {
                objects.stored.remove(key.as_str());
            }
            if fate != Fate::Done {
                return Err(unavailable());
            }
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
