//! Two writers of one name on a store that ignores `If-None-Match`, in every order that the dice
//! give.

use super::world::{Chances, Schedule, Scheduled, World};
use super::*;
use parking_lot::Mutex;
use std::io::Read;
use std::ops::Range;
use walkeep::storage::{Body, Claims, ForeignEntry, Key, ListedObject, Mode, Object, Page, Put, Storage};

/// A store that replaces what it was asked to create.
struct Replacing(Scheduled);

impl Storage for Replacing {
    fn put(&self, key: &Key, body: &dyn Body, _: Mode) -> Result<Put> {
        self.0.put(key, body, Mode::Replace)
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.0.get(key, range)
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        self.0.head(key)
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.0.list(folder, after, limit)
    }

    fn foreign(&self, folder: &Key) -> Result<Vec<ForeignEntry>> {
        self.0.foreign(folder)
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        self.0.delete(keys)
    }

    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        self.0.clean(before)
    }

    fn url(&self) -> String {
        self.0.url()
    }
}

/// Contents whose writers were told that theirs is stored, or was there and equal.
fn write(seed: u64, store: &dyn Fn(Scheduled) -> Box<dyn Storage>) -> BTreeSet<Vec<u8>> {
    let world = World::new(seed);
    let key = Key::new("main/wal/1").expect("a key");
    let stored = Mutex::new(BTreeSet::new());
    let schedule = Schedule::new(&world, Chances { killed: 40, later: 0 });
    std::thread::scope(|scope| {
        for (writer, content) in [b"one".to_vec(), b"other".to_vec(), b"one".to_vec()].into_iter().enumerate()
        {
            let (store, key, stored) = (store(world.store()), &key, &stored);
            schedule.spawn(scope, &format!("writer {writer}"), move || {
                let mut there = Vec::new();
                match store.put(key, &content, Mode::Create)? {
                    Put::Stored => there.clone_from(&content),
                    Put::Exists => {
                        let object = store.get(key, None)?.ok_or_else(missing)?;
                        object.take(100).read_to_end(&mut there).expect("read from memory");
                    }
                }
                if there == content {
                    stored.lock().insert(content);
                }
                Ok(())
            });
        }
        schedule.run();
    });
    schedule.finish();
    stored.into_inner()
}

#[test]
fn of_two_contents_for_one_name_at_most_one_is_acknowledged_whatever_the_order() {
    let begun = Instant::now();
    let mut seed = 0;
    while begun.elapsed() < budget() {
        let stored = write(seed, &|store| Box::new(Claims::new(Replacing(store))));
        assert!(stored.len() <= 1, "seed {seed}: {stored:?}");
        seed += 1;
    }
    assert!(seed >= 100, "only {seed} schedules");
}

#[test]
fn the_explorer_finds_that_both_are_acknowledged_without_claims() {
    let both = |seed| write(seed, &|store| Box::new(Replacing(store))).len() > 1;
    assert!((0..200).any(both), "a defect that was planted is not found by 200 schedules");
}
