//! Faults at every system call of every verb. After each: the status is one of the contract, 0 only
//! with everything done, nothing half under a final name, nothing left behind by an error; and the
//! same command without a fault then reaches the state of a run that met none.
//!
//! The default run takes a sample of the faults, spread over all calls. `WALKEEP_TEST_SWEEP=all`
//! tries each of them.

mod change;
mod fault;
mod read;
mod server;
mod wal;

use crate::support::live::{self, restoring};
use crate::support::repo::files;
use crate::support::saga::{Saga, key, lineage};
use crate::support::*;
use fault::{Fault, Sweep};
use std::collections::BTreeSet;
use std::path::Path;

/// Statuses of `walkeep`.
const WALKEEP: &[i32] = &[0, 1, 2, 3, 4];

/// The keys of all objects but notes and announcements.
fn keys(archive: &Archive) -> BTreeSet<String> {
    let root = lineage(archive);
    let all = files(&root).into_iter().map(|path| key(archive, &path));
    all.filter(|key| !key.starts_with("verify/") && !key.starts_with("active/")).collect()
}

/// Nothing was left in the places for temporary files, and no announcement: by an error nothing at
/// all, by a kill one file of each thread at most, which is removed here as time would.
#[track_caller]
fn is_clean(archive: &Archive, fault: &Fault) {
    let temporaries = archive.temporaries();
    if fault.is_kill() {
        assert!(temporaries.len() <= 4, "{fault} left {temporaries:?}");
        temporaries.iter().for_each(|path| drop(std::fs::remove_file(path)));
        return;
    }
    assert!(temporaries.is_empty(), "{fault} left {temporaries:?}");
}

#[test]
fn the_default_sweep_tries_hundreds_of_faults() {
    let sampled: usize = fault::QUOTAS.iter().map(|(_, quota)| quota).sum();
    assert!(sampled >= 400, "{sampled}");
}
