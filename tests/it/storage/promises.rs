//! The promises of a store, as functions of any store.

use super::stores::Site;
use crate::support::s3::in_an_hour;
use crate::support::{segment, sha256};
use std::io::Read;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use walkeep::error::{Error, Kind, Result};
use walkeep::storage::{Body, Key, ListedObject, Mode, OpenBody, PAGE, Page, Put, Storage, list_all};

const MIB: usize = 1 << 20;

fn key(text: &str) -> Key {
    Key::new(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Bytes that no codec and no accident makes twice.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    segment::noise(&mut bytes, seed);
    bytes
}

/// A body that is read piece by piece, as often as it is opened.
struct Stream {
    bytes: Vec<u8>,
    /// Where it ends with an error.
    breaks_at: Option<usize>,
}

impl Stream {
    fn new(bytes: Vec<u8>) -> Stream {
        Stream { bytes, breaks_at: None }
    }
}

impl Body for Stream {
    fn open(&self) -> Result<OpenBody<'_>> {
        let end = self.breaks_at.unwrap_or(self.bytes.len());
        let pieces = Pieces { left: &self.bytes[..end], breaks: self.breaks_at.is_some() };
        Ok(OpenBody::Stream(Box::new(pieces)))
    }
}

struct Pieces<'a> {
    left: &'a [u8],
    breaks: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left.is_empty() && self.breaks {
            return Err(std::io::Error::other("the disk broke"));
        }
        // No round number: pieces and parts are not to fit by accident.
        let got = self.left.len().min(into.len()).min(100_003);
        into[..got].copy_from_slice(&self.left[..got]);
        self.left = &self.left[got..];
        Ok(got)
    }
}

#[track_caller]
fn ok<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error} ({:?})", error.kind()))
}

/// All of an object, or of a part of it; none when there is none.
#[track_caller]
fn read_part(store: &dyn Storage, name: &Key, range: Option<Range<u64>>) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    let mut object = ok(store.get(name, range))?;
    object.read_to_end(&mut read).unwrap_or_else(|error| panic!("read {name}: {error}"));
    Some(read)
}

#[track_caller]
fn read(store: &dyn Storage, name: &Key) -> Option<Vec<u8>> {
    read_part(store, name, None)
}

#[track_caller]
fn holds(store: &dyn Storage, name: &Key, expected: &[u8]) {
    let found = read(store, name).unwrap_or_else(|| panic!("{name} is not there"));
    assert_eq!(found.len(), expected.len(), "the size of {name}");
    assert_eq!(sha256(&found), sha256(expected), "the bytes of {name}");
    let entry = ok(store.head(name)).unwrap_or_else(|| panic!("head does not see {name}"));
    assert_eq!((&entry.key, entry.size), (name, expected.len() as u64));
}

#[track_caller]
fn is_not_there(store: &dyn Storage, name: &Key) {
    assert_eq!(read(store, name), None);
    assert_eq!(ok(store.head(name)), None);
    let folder = name.as_str().rsplit_once('/').map_or(name.as_str(), |(folder, _)| folder);
    assert!(!names(&ok(store.list(&key(folder), None, PAGE))).contains(&name.to_string()));
}

fn names(page: &Page) -> Vec<String> {
    page.entries.iter().map(|entry| entry.key.to_string()).collect()
}

#[track_caller]
fn listed(store: &dyn Storage, folder: &str) -> Vec<ListedObject> {
    let mut all = Vec::new();
    ok(list_all(store, &key(folder), |entry| {
        all.push(entry);
        Ok(())
    }));
    all
}

pub fn no_reader_ever_sees_part_of_an_object(site: &Site) {
    const ROUNDS: usize = 12;
    let name = key("folder/object");
    let bodies = [bytes(300_000, 1), bytes(70_000, 2)];
    let whole = bodies.each_ref().map(|body| sha256(body));
    let done = AtomicBool::new(false);
    /// Readers end with the writer, however that ends.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let store = site.open();
                let (mut seen, mut last) = (0, None);
                while !done.load(Ordering::SeqCst) {
                    let Some(found) = read(&*store, &name) else {
                        assert_eq!(last, None, "it was there and is gone");
                        continue;
                    };
                    last = Some(sha256(&found));
                    assert!(last.as_ref().is_some_and(|last| whole.contains(last)), "{} bytes", found.len());
                    let entries = listed(&*store, "folder");
                    assert_eq!(entries.len(), 1);
                    assert!(bodies.iter().any(|body| body.len() as u64 == entries[0].size));
                    seen += 1;
                }
                assert!(seen > 0, "nothing was read");
            });
        }
        let done = Done(&done);
        let store = site.open();
        for round in 0..ROUNDS {
            let body = &bodies[round % 2];
            let mode = if round == 0 { Mode::Create } else { Mode::Replace };
            assert_eq!(ok(store.put(&name, body, mode)), Put::Stored);
            holds(&*store, &name, body);
        }
        drop(done);
    });
}

pub fn a_body_that_ends_with_an_error_leaves_nothing(site: &Site) {
    let store = site.open();
    // Within the first piece, and far behind the first part of an upload in parts.
    for (length, breaks_at) in [(1000, 0), (1000, 500), (30 * MIB, 20 * MIB)] {
        let name = key("folder/object");
        let body = Stream { bytes: bytes(length, 3), breaks_at: Some(breaks_at) };
        let error = store.put(&name, &body, Mode::Create).expect_err("a broken body was stored");
        assert!(error.to_string().contains("the disk broke"), "{error}");
        assert_eq!(error.kind(), Kind::Failed, "no other attempt would help: {error}");
        is_not_there(&*store, &name);
    }
    struct Unreadable;
    impl Body for Unreadable {
        fn open(&self) -> Result<OpenBody<'_>> {
            Err(Error::new(Kind::Denied, "closed to you"))
        }
    }
    let error = store.put(&key("folder/object"), &Unreadable, Mode::Create).expect_err("nothing was stored");
    assert_eq!(error.kind(), Kind::Denied);
    is_not_there(&*store, &key("folder/object"));
    // A name that is taken stays what it is.
    let (taken, body) = (key("folder/taken"), bytes(100, 4));
    assert_eq!(ok(store.put(&taken, &body, Mode::Create)), Put::Stored);
    let broken = Stream { bytes: bytes(1000, 5), breaks_at: Some(500) };
    assert!(store.put(&taken, &broken, Mode::Replace).is_err());
    holds(&*store, &taken, &body);
}

pub fn what_was_acknowledged_is_there_for_everybody(site: &Site) {
    let (first, second) = (key("a/b/c/first"), key("a/b/second"));
    let body = bytes(5000, 6);
    assert_eq!(ok(site.open().put(&first, &body, Mode::Create)), Put::Stored);
    holds(&*site.open(), &first, &body);
    assert_eq!(ok(site.open().put(&first, &bytes(10, 7), Mode::Create)), Put::Exists);
    holds(&*site.open(), &first, &body);
    assert_eq!(ok(site.open().put(&second, &body, Mode::Replace)), Put::Stored);
    holds(&*site.open(), &second, &body);
    ok(site.open().delete(std::slice::from_ref(&first)));
    is_not_there(&*site.open(), &first);
    holds(&*site.open(), &second, &body);
}

pub fn what_was_put_is_at_once_read_and_listed(site: &Site) {
    let store = site.open();
    let name = key("folder/Object_1.2-3");
    is_not_there(&*store, &name);
    let begun = jiff::Timestamp::now();
    for round in 0..4 {
        let body = bytes(1000 + round, round as u64);
        let mode = if round == 0 { Mode::Create } else { Mode::Replace };
        assert_eq!(ok(store.put(&name, &body, mode)), Put::Stored);
        holds(&*store, &name, &body);
        let entries = listed(&*store, "folder");
        assert_eq!(entries.len(), 1);
        assert_eq!((&entries[0].key, entries[0].size), (&name, body.len() as u64));
        let head = ok(store.head(&name)).expect("it is there");
        // A store may know whole seconds alone.
        let (early, late) = (begun - std::time::Duration::from_secs(2), in_an_hour());
        for entry in [&entries[0], &head] {
            assert!(early < entry.modified && entry.modified < late, "{entry:?}, begun {begun}");
        }
        ok(store.delete(std::slice::from_ref(&name)));
        is_not_there(&*store, &name);
    }
    assert!(listed(&*store, "folder").is_empty());
}

pub fn create_never_replaces(site: &Site) {
    let store = site.open();
    let (small, large) = (bytes(100, 8), bytes(20 * MIB, 9));
    for (name, body) in [(key("folder/small"), &small), (key("folder/large"), &large)] {
        assert_eq!(ok(store.put(&name, body, Mode::Create)), Put::Stored);
        for other in [bytes(200, 10), bytes(20 * MIB, 11)] {
            assert_eq!(ok(store.put(&name, &other, Mode::Create)), Put::Exists);
            assert_eq!(ok(store.put(&name, &Stream::new(other), Mode::Create)), Put::Exists);
            holds(&*store, &name, body);
        }
        // A writer that stores the same again may have met its own first attempt: either answer is
        // right.
        let _ = ok(store.put(&name, body, Mode::Create));
        holds(&*store, &name, body);
        ok(store.delete(std::slice::from_ref(&name)));
        // A name whose object was deleted is free again.
        assert_eq!(ok(store.put(&name, &small, Mode::Create)), Put::Stored);
        holds(&*store, &name, &small);
    }
}

pub fn of_sixteen_who_create_one_name_exactly_one_does(site: &Site) {
    const WRITERS: u64 = 16;
    for round in 0..2 {
        let name = key(&format!("race/{round}"));
        let start = Barrier::new(WRITERS as usize);
        let put = |writer: u64| {
            let store = site.open();
            let body = bytes(20_000 + writer as usize, round * WRITERS + writer + 100);
            start.wait();
            (ok(store.put(&name, &body, Mode::Create)), body)
        };
        let results: Vec<(Put, Vec<u8>)> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || put(writer))).collect();
            writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
        });
        let winners: Vec<_> = results.iter().filter(|(put, _)| *put == Put::Stored).collect();
        assert_eq!(winners.len(), 1, "{} of {WRITERS} stored {name}", winners.len());
        holds(&*site.open(), &name, &winners[0].1);
    }
}

pub fn writers_of_the_same_bytes_are_all_content(site: &Site) {
    const WRITERS: usize = 6;
    for round in 0..3 {
        let name = key(&format!("race/{round}"));
        let body = bytes(20_000, round + 1);
        let start = Barrier::new(WRITERS);
        let put = || {
            let store = site.open();
            start.wait();
            ok(store.put(&name, &body, Mode::Create))
        };
        let results: Vec<Put> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(put)).collect();
            writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
        });
        assert!(results.contains(&Put::Stored), "{results:?}");
        holds(&*site.open(), &name, &body);
    }
}

pub fn deleting_what_is_not_there_is_ok(site: &Site) {
    let store = site.open();
    ok(store.delete(&[]));
    ok(store.delete(&[key("nothing/here")]));
    let all: Vec<Key> = (0..5).map(|number| key(&format!("folder/{number}"))).collect();
    for name in &all[..3] {
        assert_eq!(ok(store.put(name, &bytes(10, 1), Mode::Create)), Put::Stored);
    }
    // There, not there, and named twice.
    let batch = [&all[1..], &all[2..3], &[key("elsewhere/0")]].concat();
    ok(store.delete(&batch));
    ok(store.delete(&batch));
    assert_eq!(names(&ok(store.list(&key("folder"), None, PAGE))), ["folder/0"]);
}

pub fn listing_is_in_order_by_whole_segments_in_bounded_pages(site: &Site) {
    // In the order of their bytes: `-` `.` `/` `0` … `Z` `_` `a`.
    let all = [
        "db-1/a",
        "db.x/a",
        "db/a",
        "db/a-b",
        "db/a.b",
        "db/a/b",
        "db/a/b/c",
        "db/a/b0",
        "db/a0",
        "db/aZ",
        "db/a_",
        "db/b/a",
        "db/c",
        "db/d/e/f/g",
        "db2/a",
        "db2/a/b",
    ];
    let all: Vec<&str> = all.to_vec();
    let keys: Vec<String> = all.iter().rev().map(|name| name.to_string()).collect();
    // A directory has no room for a file and a folder of one name.
    let clash = ["db/a", "db/a/b", "db2/a"];
    let keys: Vec<String> = keys.into_iter().filter(|name| !clash.contains(&name.as_str())).collect();
    site.fill(&keys);
    let all: Vec<&str> = all.into_iter().filter(|name| !clash.contains(name)).collect();
    let store = site.open();
    let within = |folder: &str| -> Vec<&str> {
        let below = format!("{folder}/");
        all.iter().copied().filter(|name| name.starts_with(&below)).collect()
    };
    for folder in ["db", "db2", "db-1", "db.x", "db/a", "db/d/e", "db/b"] {
        let expected = within(folder);
        assert!(!expected.is_empty());
        for limit in [1, 2, 3, expected.len(), expected.len() + 1, PAGE, PAGE + 1] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = ok(store.list(&key(folder), after.as_ref(), limit));
                assert!(
                    page.entries.len() <= limit && (!page.more || page.entries.len() == limit),
                    "{page:?}"
                );
                after = page.entries.last().map(|entry| entry.key.clone());
                found.extend(names(&page));
                if !page.more {
                    break;
                }
            }
            assert_eq!(found, expected, "{folder} by {limit}");
        }
    }
    for folder in ["d", "none", "db/none"] {
        assert!(names(&ok(store.list(&key(folder), None, PAGE))).is_empty(), "{folder}");
    }
    // Behind any key, be it there or not, or above or below everything.
    for after in [
        "a", "db", "db/a", "db/a-b", "db/a.b", "db/a/b", "db/a/b/c", "db/a/zz", "db/b", "db/c", "db/zz", "zz",
    ] {
        let page = ok(store.list(&key("db"), Some(&key(after)), PAGE));
        let expected: Vec<&str> = within("db").into_iter().filter(|name| *name > after).collect();
        assert_eq!(names(&page), expected, "behind {after}");
    }
}

pub fn thousands_of_objects_are_listed_and_deleted(site: &Site) {
    let store = site.open();
    let all: Vec<String> = (0..2500).map(|number| format!("many/{:02}/{number:06}", number / 100)).collect();
    site.fill(&all);
    let page = ok(store.list(&key("many"), None, usize::MAX));
    assert_eq!((page.entries.len(), page.more), (PAGE, true));
    let found: Vec<String> = listed(&*store, "many").iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(found, all);
    let keys: Vec<Key> = all.iter().map(|name| key(name)).collect();
    ok(store.delete(&keys[..2300]));
    let found: Vec<String> = listed(&*store, "many").iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(found, all[2300..]);
}

pub fn a_neighbour_with_a_longer_name_is_another_place(site: &Site) {
    let (here, there) = (site.open(), site.neighbour());
    let (name, body) = (key("db/object"), bytes(10, 1));
    assert_eq!(ok(there.put(&name, &body, Mode::Create)), Put::Stored);
    is_not_there(&*here, &name);
    ok(here.delete(std::slice::from_ref(&name)));
    ok(here.clean(in_an_hour()));
    holds(&*there, &name, &body);
    assert_eq!(ok(here.put(&name, &bytes(20, 2), Mode::Create)), Put::Stored);
    ok(there.delete(std::slice::from_ref(&name)));
    holds(&*here, &name, &bytes(20, 2));
    assert_ne!(here.url(), there.url());
}

pub fn parts_of_an_object_are_read(site: &Site) {
    let store = site.open();
    let (name, body) = (key("folder/object"), bytes(3 * MIB + 17, 1));
    assert_eq!(ok(store.put(&name, &body, Mode::Create)), Put::Stored);
    let size = body.len() as u64;
    let ranges =
        [0..size, 0..1, 1..2, 0..100_000, 1_000_000..2_500_001, size - 1..size, size - 5..size, 7..7, 0..0];
    for range in ranges {
        let part = read_part(&*store, &name, Some(range.clone())).expect("it is there");
        let expected = &body[range.start as usize..range.end as usize];
        assert!(part == expected, "{range:?}: {} bytes", part.len());
    }
    // As far as there is something.
    for range in [0..size + 1, size - 10..size + 10, size..size + 10, size + 10..size + 20] {
        let part = read_part(&*store, &name, Some(range.clone())).expect("it is there");
        let from = range.start.min(size) as usize;
        assert!(part == body[from..], "{range:?}: {} bytes", part.len());
    }
    for range in [0..0, 0..10, 5..6] {
        assert_eq!(read_part(&*store, &key("folder/none"), Some(range)), None);
    }
    let empty = key("folder/empty");
    assert_eq!(ok(store.put(&empty, &Vec::new(), Mode::Create)), Put::Stored);
    for range in [0..0, 0..10, 5..6] {
        assert_eq!(read_part(&*store, &empty, Some(range)), Some(Vec::new()));
    }
    // Part of an object is taken and the rest is not: the next one must be the whole next one.
    for _ in 0..3 {
        let mut object = ok(store.get(&name, None)).expect("it is there");
        let mut beginning = [0; 1000];
        object.read_exact(&mut beginning).expect("the beginning");
        assert!(beginning == body[..1000]);
    }
    holds(&*store, &name, &body);
}

pub fn bodies_of_every_size_come_back_as_they_were(site: &Site) {
    let store = site.open();
    for (number, length) in [0, 1, 511, 64 << 10, 5 * MIB, 5 * MIB + 1, 33 * MIB].into_iter().enumerate() {
        let body = bytes(length, number as u64 + 1);
        let (whole, stream) = (key(&format!("whole/{number}")), key(&format!("stream/{number}")));
        assert_eq!(ok(store.put(&whole, &body, Mode::Create)), Put::Stored);
        holds(&*store, &whole, &body);
        // Once is enough for the largest.
        if length <= 5 * MIB {
            let body = Stream::new(body);
            assert_eq!(ok(store.put(&stream, &body, Mode::Create)), Put::Stored);
            holds(&*store, &stream, &body.bytes);
        }
    }
}

pub fn a_stream_of_seventy_mebibytes_is_stored_once(site: &Site) {
    let store = site.open();
    let name = key("folder/large");
    let body = Stream::new(bytes(70 * MIB + 1, 1));
    assert_eq!(ok(store.put(&name, &body, Mode::Create)), Put::Stored);
    holds(&*store, &name, &body.bytes);
    assert_eq!(ok(store.put(&name, &Stream::new(bytes(MIB, 2)), Mode::Create)), Put::Exists);
    assert_eq!(listed(&*store, "folder").len(), 1);
    assert_eq!(ok(store.clean(in_an_hour())), 0, "something was left behind");
}

pub fn cleaning_takes_no_object(site: &Site) {
    let store = site.open();
    let name = key("folder/object");
    assert_eq!(ok(store.put(&name, &bytes(10, 1), Mode::Create)), Put::Stored);
    for before in [jiff::Timestamp::UNIX_EPOCH, in_an_hour()] {
        assert_eq!(ok(store.clean(before)), 0);
        holds(&*store, &name, &bytes(10, 1));
    }
    assert_eq!(listed(&*store, "folder").len(), 1);
}
