//! Every object is damaged in every way, one at a time: verify has to say so and name it, a restore
//! has to refuse, and when the object is back all is good again.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Copies of the repository that are worked on at once.
const AT_ONCE: usize = 3;

/// Does something with every object, each time with a copy of the repository that is whole before
/// and has to be whole behind it. `archive` makes copies.
fn with_each_object(
    archive: impl Fn() -> Archive + Sync,
    select: impl Fn(&str) -> bool,
    work: impl Fn(&Archive, &Path, &str) + Sync,
) {
    let count = objects(&archive()).len();
    let keys: Vec<usize> = {
        let one = archive();
        let all = objects(&one);
        (0..count).filter(|index| select(&saga::key(&one, &all[*index]))).collect()
    };
    assert!(!keys.is_empty());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let archive = archive();
                let all = objects(&archive);
                while let Some(index) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let object = &all[*index];
                    work(&archive, object, &saga::key(&archive, object));
                }
                verify(&archive, &[]);
            });
        }
    });
}

/// Puts an object back as it was.
fn put_back(object: &Path, original: &[u8]) {
    let _ = std::fs::remove_file(object);
    scratch::write(object, original);
}

/// Whether a restore can do without it: then nobody may miss it when it is gone.
fn is_dispensable(key: &str) -> bool {
    key.starts_with("verify/")
        || key.starts_with("pin/")
        || key.ends_with(".backup")
        || key.ends_with(".partial")
}

/// Whether what is damaged is of no use to anybody: bits of zstd that mean nothing, and blocks that
/// no backup names.
fn is_harmless(needed: &BTreeMap<String, BTreeSet<Needed>>, key: &str, original: &[u8], now: &[u8]) -> bool {
    if now.len() != original.len() || now[..512] != original[..512] {
        return false;
    }
    let Some(blocks) = needed.get(key) else {
        return zstd::decode_all(now).ok() == zstd::decode_all(original).ok();
    };
    blocks.iter().all(|(offset, length, skip, bytes)| {
        let place = *offset as usize..(offset + length) as usize;
        let content = |object: &[u8]| -> Option<Vec<u8>> {
            let content = zstd::decode_all(&object[place.clone()]).ok()?;
            Some(content.get(*skip..skip + bytes)?.to_vec())
        };
        now[place.clone()] == original[place.clone()] || content(now) == content(original)
    })
}

#[test]
fn every_object_damaged_in_every_way_is_found_and_named() {
    let saga = Saga::get();
    let needed = needed(&saga.archive());
    let (found, harmless) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let damage_all = |archive: &Archive, object: &Path, key: &str| {
        let original = read(object);
        let size = original.len() as i64;
        // Other places in each object, so that all of a kind together are damaged all over.
        let mixed = key.bytes().fold(7_i64, |mixed, byte| (mixed * 31 + i64::from(byte)) % 1_000_003);
        let mut damages = vec![
            Damage::Flip(3),
            Damage::Flip(30),
            Damage::Flip(512 + (mixed * 7919) % (size - 512)),
            Damage::Flip(size / 2),
            Damage::Flip(-1),
            Damage::Truncate(size / 2),
            Damage::Truncate(-1),
            Damage::Grow,
            Damage::Empty,
        ];
        if !is_dispensable(key) {
            damages.push(Damage::Remove);
        }
        for kind in damages {
            repo::damage(object, kind);
            let outcome = archive.run("walkeep").args(["verify", "--json"]).go();
            let is_note = key.starts_with("verify/");
            if outcome.code() == Some(0) && object.exists() {
                let is_harmless = is_note || is_harmless(&needed, key, &original, &read(object));
                assert!(is_harmless, "{key}, {kind:?}: not found\n{outcome}");
                harmless.fetch_add(1, Ordering::Relaxed);
            } else {
                assert_eq!(outcome.code(), Some(3), "{key}, {kind:?}: not found\n{outcome}");
                let report = live::json(&outcome);
                let objects = problems(&report);
                let is_named = objects.iter().any(|(object, _)| *object == key);
                assert!(is_named, "{key}, {kind:?}: not named\n{report}");
                assert_eq!(report["unknown"], serde_json::json!([]), "{key}, {kind:?}");
                found.fetch_add(1, Ordering::Relaxed);
            }
            put_back(object, &original);
        }
        verify(archive, &[]);
    };
    with_each_object(|| saga.archive(), |_| true, damage_all);
    let (found, harmless) = (found.into_inner(), harmless.into_inner());
    assert!(found > 300 && harmless * 20 < found, "{found} found, {harmless} harmless");
}

#[test]
fn objects_that_were_exchanged_are_both_named() {
    let saga = Saga::get();
    let archive = saga.archive();
    let kind = |path: &Path| path.parent().map(Path::to_owned);
    let everything = objects(&archive);
    let mut exchanged = 0;
    for pair in everything.windows(2) {
        let [one, other] = pair else {
            continue;
        };
        let is_note = saga::key(&archive, one).starts_with("verify/");
        let related = kind(one) == kind(other) || saga::key(&archive, one).starts_with("data/");
        if !related || is_note || read(one) == read(other) {
            continue;
        }
        repo::swap(one, other);
        let report = verify_is(&archive, 3, &[]);
        let found = problems(&report);
        for object in [one, other] {
            let key = saga::key(&archive, object);
            assert!(found.iter().any(|(object, _)| *object == key), "{key}: not named\n{report}");
        }
        repo::swap(one, other);
        exchanged += 1;
    }
    assert!(exchanged > 10, "{exchanged}");
    verify(&archive, &[]);
}

#[test]
fn a_restore_refuses_exactly_what_verify_says_is_hurt() {
    let saga = Saga::get();
    let is_of_a_backup = |key: &str| key.starts_with("data/") || key.starts_with("backup/");
    let work = |archive: &Archive, object: &Path, key: &str| {
        let original = read(object);
        for kind in [Damage::Flip(original.len() as i64 / 2), Damage::Truncate(600), Damage::Remove] {
            repo::damage(object, kind);
            let hurt = hurt(&verify_is(archive, 3, &[]));
            assert!(!hurt.is_empty(), "{key}, {kind:?}");
            for (id, _) in saga.backups() {
                let scratch = Scratch::new();
                let outcome = restoring(archive, &scratch.join("data"), &[id, "--immediate"]).go();
                let expected = if hurt.contains(id) { 1 } else { 0 };
                assert_eq!(outcome.code(), Some(expected), "{key}, {kind:?}, backup {id}\n{outcome}");
            }
            put_back(object, &original);
        }
    };
    with_each_object(|| saga.archive(), is_of_a_backup, work);
    let archive = saga.archive();
    for (id, rows) in saga.backups() {
        let server = live::restore(&archive, &[id, "--immediate"]).verified().recovered();
        assert_eq!(server.psql("select count(*) from t"), rows, "backup {id}");
    }
}

#[test]
fn wal_that_verify_calls_bad_is_never_delivered() {
    let saga = Saga::get();
    let work = |archive: &Archive, object: &Path, key: &str| {
        let original = read(object);
        for kind in [Damage::Flip(original.len() as i64 / 2), Damage::Truncate(-1), Damage::Empty] {
            repo::damage(object, kind);
            if archive.run("walkeep").args(["verify", "--wal", "--json"]).go().code() == Some(0) {
                assert!(is_harmless(&BTreeMap::new(), key, &original, &read(object)), "{key}, {kind:?}");
                continue;
            }
            let scratch = Scratch::new();
            let destination = scratch.join("fetched");
            let name = object.file_name().and_then(|name| name.to_str()).expect("a name");
            archive.fetching(name, &destination).go().fatal();
            assert!(!destination.exists(), "{key}, {kind:?}: handed over");
            put_back(object, &original);
        }
        put_back(object, &original);
    };
    with_each_object(|| saga.archive(), |key| key.starts_with("wal/"), work);
}

#[test]
fn what_was_moved_away_comes_back_from_another_repository() {
    let saga = Saga::get();
    let of_sync = |key: &str| ["data/", "backup/", "wal/"].iter().any(|folder| key.starts_with(folder));
    let work = |archive: &Archive, object: &Path, key: &str| {
        let original = read(object);
        repo::damage(object, Damage::Flip(40));
        let first = ["--repository", "first"];
        verify_is(archive, 3, &first);
        verify(archive, &["--repository", "second"]);
        std::fs::remove_file(object).expect("move it away");
        archive.walkeep(&["sync", "--from", "second", "--to", "first"]).ok();
        assert!(read(object) == original, "{key}");
        verify(archive, &first);
    };
    with_each_object(|| saga.twins(), of_sync, work);
}
