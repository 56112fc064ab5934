//! Repositories as years would make them: records and drills written by the library beside real
//! ones.

use super::*;
use crate::support::saga::Saga;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use walkeep::repo::drills::{Check, Chosen, Drill, Outcome};
use walkeep::repo::record::{Record, State};
use walkeep::repo::{Archive as Stored, Repository};
use walkeep::storage::Directory;

/// What is no name but markup, and what breaks out of an attribute.
pub const HOSTILE: [&str; 3] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(2)>",
    "'--></style><h1>\u{202e}\u{1b}[31m&amp;",
];

/// The first repository of an archive, opened by the library.
pub fn open(archive: &Archive) -> Stored {
    let store = Arc::new(Directory::new(archive.root()));
    Repository::new("first", "main", true, store).open_newest().expect("open the repository")
}

/// Gives what this process has written to the account of the programs.
pub fn give(archive: &Archive) {
    account::give_all(archive.root());
}

/// A year and more: so many backups, one a day, the last of them yesterday. Each seventh is full,
/// the fifth is damaged, each fiftieth is pinned; and the drills of a hundred days.
pub fn years(backups: u32) -> Archive {
    let saga = Saga::get();
    let archive = saga.archive();
    let stored = open(&archive);
    let real = stored.record(&saga.d).expect("read a record").expect("a record");
    let now = Timestamp::now();
    for number in 0..backups {
        let ended = now - SignedDuration::from_hours(24 * i64::from(backups - number));
        stored.put_record(&backup(&real, number, ended)).expect("put a record");
        if number % 50 == 10 {
            let pin = walkeep::repo::pin::Pin { until: None, standalone: false };
            stored.pin(&name(number), &pin).expect("pin a backup");
        }
    }
    for number in 0..backups.min(100) {
        let ended = now - SignedDuration::from_hours(24 * i64::from(backups.min(100) - number) - 2);
        stored
            .remember_drill(&drill(&name(backups - backups.min(100) + number), number, ended))
            .expect("remember");
    }
    give(&archive);
    archive
}

/// As a backup is called.
pub fn name(number: u32) -> String {
    format!("20200101T{number:06}Z-abcdef")
}

fn backup(real: &Record, number: u32, ended: Timestamp) -> Record {
    let is_full = number.is_multiple_of(7);
    let size = (3 << 30) + (u64::from(number) << 20);
    let mut labels = std::collections::BTreeMap::new();
    if number % 30 == 3 {
        labels.insert("reason".to_owned(), HOSTILE[number as usize % 3].to_owned());
    }
    let mut manifest = real.manifest.clone();
    for (part, order) in manifest.iter_mut().zip(1..) {
        part.key = format!("data/{}/manifest/{order:06}", name(number));
    }
    Record {
        id: name(number),
        manifest,
        start_time: ended - SignedDuration::from_mins(9),
        stop_time: ended,
        state: if number == 4 { State::Damaged } else { State::Complete },
        parent: (!is_full).then(|| name(number - 1)),
        size,
        stored: size / 4,
        new_bytes: if is_full { size / 4 } else { (40 << 20) + (u64::from(number * 7919 % 60) << 20) },
        labels,
        ..real.clone()
    }
}

fn drill(backup: &str, number: u32, ended: Timestamp) -> Drill {
    let outcome = match number % 17 {
        9 => Outcome::Refuted,
        13 => Outcome::Unknown,
        _ => Outcome::Proved,
    };
    let got_far = (outcome != Outcome::Unknown).then_some(f64::from(number));
    let ok = Some(outcome == Outcome::Proved);
    let detail = format!("expected 17, found 18 {}", HOSTILE[1]);
    Drill {
        backup: Some(backup.to_owned()),
        chosen: Chosen::Newest,
        target: "end".into(),
        outcome,
        host: HOSTILE[0].into(),
        begun: ended - SignedDuration::from_mins(30),
        ended,
        bytes: 3 << 30,
        segments: 20,
        expected_lsn: None,
        reached_lsn: None,
        restore_seconds: got_far.map(|far| 240.0 + far),
        recovery_seconds: got_far.map(|far| 100.0 - far / 2.0),
        check_seconds: got_far.map(|far| 60.0 + far),
        checks: vec![Check { name: "rows".into(), ok, detail }],
    }
}
