//! A prune that is killed at each step that changes the repository: what is listed then restores,
//! and the next one finishes its work.

use super::*;
use crate::support::saga::{Saga, key};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls after which a repository is another one; between two of them it does not matter when a
/// prune dies.
const STEPS: &str = "unlink,unlinkat,rmdir,rename,renameat,renameat2,link,linkat,mkdir,mkdirat";

/// Repositories that are worked on at once.
const AT_ONCE: usize = 3;

/// A copy of the story, of which three backups and the WAL of two timelines are to go.
fn doomed(saga: &Saga) -> Archive {
    let mut archive = saga.archive();
    archive.set_retention(0, &["keep_last = 1"]);
    archive.walkeep(&["unpin", &saga.b]).ok();
    archive
}

/// The keys of all objects but notes.
fn keys(archive: &Archive) -> BTreeSet<String> {
    let all = objects(&lineage(archive)).into_iter().map(|path| key(archive, &path));
    all.filter(|key| !key.starts_with("verify/")).collect()
}

#[test]
fn a_prune_that_is_killed_anywhere_leaves_every_listed_backup_whole() {
    let saga = Saga::get();
    let Some(strace) = Strace::new() else {
        return;
    };
    let archive = doomed(&saga);
    let whole = keys(&archive);
    let traced = strace.trace(STEPS).go(&archive.run("walkeep").args(["prune", "--quiet"]));
    traced.outcome.clone().ok();
    let pruned = keys(&archive);
    assert!(whole.len() > pruned.len() + 10, "{} of {} are left", pruned.len(), whole.len());
    // Calls are counted for each thread and each name.
    let mut counts: BTreeMap<String, BTreeMap<u32, usize>> = BTreeMap::new();
    for call in &traced.calls {
        *counts.entry(call.name.clone()).or_default().entry(call.pid).or_default() += 1;
    }
    let most = |(name, counts): (&String, &BTreeMap<u32, usize>)| {
        let most = counts.values().max().copied().unwrap_or_default();
        (1..=most).map(|nth| (name.clone(), nth)).collect::<Vec<_>>()
    };
    let moments: Vec<(String, usize)> = counts.iter().flat_map(most).collect();
    assert!(moments.len() > 20, "{moments:?}");
    let next = AtomicUsize::new(0);
    let killed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((call, nth)) = moments.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let archive = doomed(&saga);
                    let strace = Strace::new().expect("it worked before");
                    let strace = strace.trace(call).inject(&format!("{call}:signal=KILL:when={nth}"));
                    let traced = strace.go(&archive.run("walkeep").args(["prune", "--quiet"]));
                    killed.fetch_add(usize::from(traced.outcome.code().is_none()), Ordering::Relaxed);
                    let what = format!("killed at {call} {nth}");
                    let verified = archive.walkeep(&["verify"]);
                    assert_eq!(verified.code(), Some(0), "{what}\n{verified}\n{}", traced.story());
                    let listed = listed(&archive);
                    assert!(listed.contains(&saga.d), "{what}: {listed:?}");
                    for id in listed {
                        let scratch = Scratch::new();
                        let run = restoring(&archive, &scratch.join("data"), &[&id, "--immediate"]);
                        let outcome = run.go();
                        assert_eq!(outcome.code(), Some(0), "{what}\n{outcome}");
                    }
                    for announced in files(&lineage(&archive).join("active")) {
                        let name = announced.file_name().and_then(|name| name.to_str()).expect("a name");
                        if name.starts_with("restore") {
                            std::fs::remove_file(&announced).expect("end the lease of a restore");
                        }
                    }
                    archive.walkeep(&["prune"]).ok();
                    assert_eq!(keys(&archive), pruned, "{what}");
                }
            });
        }
    });
    assert!(killed.into_inner() * 10 > moments.len() * 9, "hardly any was killed");
}
