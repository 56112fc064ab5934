//! `walpush` and `walfetch`.

use super::*;
use crate::support::site::SYSTEM;

/// A data directory with an archive, whose next segment is in a folder of its own.
struct Pushes {
    site: Site,
    number: u64,
    /// Distance between two segments.
    step: u64,
    files: Vec<String>,
}

/// Number of segments of 1 MB in one folder of the archive.
const FOLDER: u64 = 4096;

impl Pushes {
    fn new(wal: &str, step: u64) -> Pushes {
        Pushes { site: Site::build(|build| build.wal(wal)), number: 2, step, files: Vec::new() }
    }

    /// Writes so many segments, the first of which is to be pushed, and declares all ready.
    fn ready(&mut self, count: u64) -> Run {
        self.number += self.step;
        let segments = (0..count).map(|distance| self.site.segment(self.number + distance));
        self.files.clear();
        for segment in segments {
            self.site.data.write_other(&format!("archive_status/{}.ready", segment.name()), "");
            self.files.push(self.site.data.write(&segment));
        }
        self.site.archive.pushing(&self.files[0])
    }

    /// What is stored is whole, 0 means stored, and every segment can be pushed then.
    fn check(&mut self, fault: &Fault, outcome: &Outcome) {
        let archive = &self.site.archive;
        is_clean(archive, fault);
        for (file, distance) in self.files.iter().zip(0..) {
            let segment = self.site.segment(self.number + distance);
            let (name, bytes) = (segment.name(), segment.bytes());
            if distance == 0 && outcome.code() == Some(0) {
                assert!(archive.find(&name).is_some(), "{fault}: 0 without an object");
            }
            if archive.find(&name).is_some() {
                assert!(archive.fetched(&name) == bytes, "{fault}: other bytes");
            }
            let again = archive.push(file);
            assert_eq!(again.code(), Some(0), "after {fault}\n{again}");
            assert!(archive.fetched(&name) == bytes, "{fault}: other bytes in the end");
            let status = format!("pg_wal/archive_status/{name}.ready");
            std::fs::remove_file(self.site.data.path.join(status)).expect("the archiver renames it");
            std::fs::remove_file(self.site.data.path.join(file)).expect("the server removes it");
        }
        assert!(archive.temporaries().is_empty(), "{fault}: {:?}", archive.temporaries());
    }
}

#[test]
fn walpush_stores_all_or_fails_at_every_call() {
    let make = || Pushes::new("push_ahead = 0", FOLDER);
    Sweep::new("walpush", &[0, 1], make, |pushes| pushes.ready(1), Pushes::check).go();
}

#[test]
fn walpush_of_a_further_segment_stores_all_or_fails_at_every_call() {
    let make = || Pushes::new("push_ahead = 0", 1);
    let name = "walpush of a further segment";
    Sweep::new(name, &[0, 1], make, |pushes| pushes.ready(1), Pushes::check).go();
}

#[test]
fn walpush_with_push_ahead_believes_nothing_that_is_not_stored() {
    let make = || Pushes::new("push_ahead = 4", FOLDER);
    let name = "walpush with push_ahead";
    Sweep::new(name, &[0, 1], make, |pushes| pushes.ready(3), Pushes::check).go();
}

/// An archive with segments, one of which is missing.
struct Fetches {
    site: Site,
}

impl Fetches {
    fn new(wal: &str) -> Fetches {
        let site = Site::build(|build| build.wal(wal));
        site.pushed(&[2, 3, 5]);
        Fetches { site }
    }

    fn run(&self, number: u64) -> Run {
        let archive = &self.site.archive;
        let _ = std::fs::remove_file(archive.destination());
        archive.fetching(&self.site.segment(number).name(), "pg_wal/RECOVERYXLOG")
    }

    /// What is at the destination is whole, and nothing else is in its directory.
    fn check(&self, number: u64, fault: &Fault, outcome: &Outcome) {
        let archive = &self.site.archive;
        let bytes = self.site.segment(number).bytes();
        match std::fs::read(archive.destination()) {
            Ok(found) => assert!(found == bytes, "{fault}: other bytes\n{outcome}"),
            Err(_) => assert_ne!(outcome.code(), Some(0), "{fault}: 0 without a file"),
        }
        // The incomplete file has a fixed name: the next call uses it.
        self.left(fault, 1);
        is_clean(archive, fault);
    }

    fn left(&self, fault: &Fault, most: usize) {
        let mut left = files(&self.site.data.path.join("pg_wal"));
        left.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("XLOG")));
        left.retain(|path| *path != self.site.archive.destination());
        assert!(left.len() <= most, "{fault} left {left:?}");
    }
}

#[test]
fn walfetch_delivers_all_or_fails_at_every_call_and_never_answers_the_end() {
    let check = |fetches: &mut Fetches, fault: &Fault, outcome: &Outcome| {
        fetches.check(3, fault, outcome);
        let segment = fetches.site.segment(3);
        fetches.site.holds(&segment.name(), &segment.bytes());
        fetches.left(fault, 0);
    };
    let make = || Fetches::new("fetch_ahead = 0");
    Sweep::new("walfetch", &[0, 200], make, |fetches| fetches.run(3), check).go();
}

#[test]
fn walfetch_of_a_hole_never_answers_the_end() {
    let check = |fetches: &mut Fetches, fault: &Fault, outcome: &Outcome| fetches.check(4, fault, outcome);
    let make = || Fetches::new("fetch_ahead = 0");
    Sweep::new("walfetch of a hole", &[200], make, |fetches| fetches.run(4), check).go();
}

#[test]
fn walfetch_at_the_end_of_the_archive_answers_the_end_or_an_error() {
    let check = |fetches: &mut Fetches, fault: &Fault, outcome: &Outcome| {
        fetches.check(6, fault, outcome);
        fetches.site.archive.fetch_ends(&fetches.site.segment(6).name());
    };
    let make = || Fetches::new("fetch_ahead = 0");
    Sweep::new("walfetch at the end", &[1, 200], make, |fetches| fetches.run(6), check).go();
}

#[test]
fn init_registers_or_fails_at_every_call() {
    struct Inits {
        data: DataDir,
        archive: Option<Archive>,
        scratch: Scratch,
    }
    let make = || {
        let scratch = Scratch::new();
        let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
        Inits { data, archive: None, scratch }
    };
    let prepare = |inits: &mut Inits| {
        let archive = inits.archive.insert(Archive::build(&inits.data.path).unregistered());
        archive.run("walkeep").arg("init")
    };
    let check = |inits: &mut Inits, fault: &Fault, outcome: &Outcome| {
        let archive = inits.archive.as_ref().expect("made before");
        is_clean(archive, fault);
        if outcome.code() == Some(0) {
            archive.identity();
        }
        let again = archive.init();
        assert_eq!(again.code(), Some(0), "after {fault}\n{again}");
        archive.identity();
        assert!(inits.scratch.path().exists());
    };
    Sweep::new("init", WALKEEP, make, prepare, check).go();
}
