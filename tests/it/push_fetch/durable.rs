//! Status 0 means durable: the order of the system calls, and each of them failing.

use super::*;
use crate::support::strace::{Call, Traced};
use std::path::Path;

const WRITES: &[&str] =
    &["write", "pwrite64", "writev", "pwritev", "copy_file_range", "sendfile", "ftruncate"];
const CALLS: &str = "openat,open,creat,write,pwrite64,writev,pwritev,copy_file_range,sendfile,ftruncate,fsync,\
                     fdatasync,syncfs,rename,renameat,renameat2,link,linkat,mkdir,mkdirat,close,unlink,unlinkat";
const SYNCS: &str = "fsync,fdatasync,syncfs";
const RENAMES: &str = "rename,renameat,renameat2,link,linkat";

/// A sync that covers this path and begins after the given place in the record.
fn synced(calls: &[Call], path: &Path, after: usize) -> Option<Call> {
    let covers =
        |call: &&Call| call.is_sync() && (call.name == "syncfs" || call.descriptor_path() == Some(path));
    calls.iter().filter(covers).find(|call| call.began > after).cloned()
}

/// The object was written, synced, given its name, and its directory was synced, in this order.
#[track_caller]
fn assert_published_durably(traced: &Traced, object: &Path) {
    let calls = &traced.calls;
    let publish = calls
        .iter()
        .find(|call| call.is_publish() && call.succeeded() && call.paths().iter().any(|path| path == object))
        .unwrap_or_else(|| panic!("the object never got its name {}\n{}", object.display(), traced.story()));
    let repository = |call: &&Call| {
        let path = call.descriptor_path();
        path.is_some_and(|path| path.components().any(|part| part.as_os_str() == "repository"))
    };
    let last = calls
        .iter()
        .filter(|call| WRITES.contains(&call.name.as_str()) && call.ended < publish.began)
        .rfind(repository)
        .unwrap_or_else(|| panic!("nothing was written\n{}", traced.story()));
    let temporary = last.descriptor_path().expect("a path");
    let sync = synced(calls, temporary, last.ended);
    assert!(
        sync.is_some_and(|sync| sync.ended < publish.began),
        "the content was not synced before it got its name\n{}",
        traced.story()
    );
    let directory = object.parent().expect("a directory");
    assert!(
        synced(calls, directory, publish.ended).is_some(),
        "{} was not synced after the object got its name\n{}",
        directory.display(),
        traced.story()
    );
}

#[test]
fn success_means_that_file_and_directory_were_synced_in_order() {
    let site = Site::new();
    site.pushed(&[2]);
    let files = [
        site.data.write(&site.segment(3).noise()),
        site.data.write_other("00000002.history", "1\t0/3000000\tx\n"),
        site.data.write_other("000000010000000000000002.00000028.backup", LABEL),
    ];
    for file in files {
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = strace.trace(CALLS).go(&site.archive.pushing(&file));
        traced.outcome.clone().ok();
        let name = Path::new(&file).file_name().expect("a name").to_string_lossy().into_owned();
        assert_published_durably(&traced, &site.archive.object(&name));
    }
}

#[test]
fn the_first_push_syncs_the_parent_of_every_directory_it_makes() {
    let Some(strace) = Strace::new() else {
        return;
    };
    let site = Site::new();
    let segment = site.segment(2);
    let traced = strace.trace(CALLS).go(&site.archive.pushing(site.data.write(&segment)));
    traced.outcome.clone().ok();
    let object = site.archive.object(&segment.name());
    assert_published_durably(&traced, &object);
    for call in &traced.calls {
        if !call.name.starts_with("mkdir") || !call.succeeded() {
            continue;
        }
        for made in call.paths() {
            let parent = made.parent().expect("a parent");
            assert!(
                !object.starts_with(&made) || synced(&traced.calls, parent, call.ended).is_some(),
                "{} was made and {} not synced\n{}",
                made.display(),
                parent.display(),
                traced.story()
            );
        }
    }
}

#[test]
fn a_file_that_is_there_already_is_synced_before_success_is_answered() {
    let Some(strace) = Strace::new() else {
        return;
    };
    let site = Site::new();
    let segment = site.segment(2);
    let file = site.data.write(&segment);
    site.archive.push(&file).ok();
    let object = site.archive.object(&segment.name());
    let traced = strace.trace(CALLS).go(&site.archive.pushing(&file));
    traced.outcome.clone().ok();
    for path in [object.as_path(), object.parent().expect("a directory")] {
        assert!(
            synced(&traced.calls, path, 0).is_some(),
            "{} was not synced\n{}",
            path.display(),
            traced.story()
        );
    }
}

/// Pushes under a fault. Whatever happens: a 0 is true, a failure has a status that PostgreSQL
/// counts, and the next push without the fault succeeds.
#[track_caller]
fn survives(site: &Site, segment: &Segment, strace: Strace) -> Traced {
    let file = site.data.write(segment);
    let traced = strace.trace(CALLS).go(&site.archive.pushing(&file));
    match traced.outcome.code() {
        Some(0) => site.holds(&segment.name(), &segment.bytes()),
        Some(1..=125) => {}
        _ => panic!("a status that PostgreSQL would not count\n{}", traced.story()),
    }
    let again = site.archive.push(&file);
    assert_eq!(again.code(), Some(0), "{again}\n--- after\n{}", traced.story());
    site.holds(&segment.name(), &segment.bytes());
    traced
}

#[test]
fn a_sync_that_fails_is_never_answered_by_syncing_again() {
    for nth in 1..40 {
        let site = Site::new();
        let segment = site.segment(2).noise();
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = survives(&site, &segment, strace.inject(&format!("{SYNCS}:error=EIO:when={nth}")));
        if !traced.was_hit() {
            assert!(nth > 1, "no sync at all\n{}", traced.story());
            return;
        }
        // After a failed sync the pages count as clean: a second one succeeds and proves nothing.
        let failed = traced.calls.iter().find(|call| call.injected).expect("the fault");
        let again = failed.descriptor_path().and_then(|path| synced(&traced.calls, path, failed.ended));
        assert!(
            traced.outcome.code() != Some(0) || again.is_none(),
            "success after syncing the same file again\n{}",
            traced.story()
        );
    }
    panic!("no end to the syncs");
}

#[test]
fn file_systems_that_cannot_sync_directories_are_tolerated_and_failing_ones_are_not() {
    for (error, tolerated) in [("EINVAL", true), ("EOPNOTSUPP", true), ("EIO", false)] {
        let site = Site::new();
        site.pushed(&[2]);
        let directory = site.archive.object(&site.segment(2).name());
        let directory = directory.parent().expect("a directory");
        let segment = site.segment(3);
        let file = site.data.write(&segment);
        let Some(strace) = Strace::new() else {
            return;
        };
        let strace = strace.trace(CALLS).only(directory).inject(&format!("{SYNCS}:error={error}"));
        let traced = strace.go(&site.archive.pushing(&file));
        assert!(traced.was_hit(), "{error}\n{}", traced.story());
        if tolerated {
            assert_eq!(traced.outcome.code(), Some(0), "{error}\n{}", traced.story());
            site.holds(&segment.name(), &segment.bytes());
        } else {
            traced.outcome.refused();
            site.archive.push(&file).ok();
        }
    }
}

#[test]
fn a_store_without_links_or_exclusive_renames_never_overwrites() {
    let faults: [&[&str]; 4] = [
        &["renameat2:error=EINVAL"],
        &["link,linkat:error=EPERM"],
        &["renameat2:error=EINVAL", "link,linkat:error=EPERM"],
        &["renameat2:error=ENOSYS", "link,linkat:error=EOPNOTSUPP"],
    ];
    for fault in faults {
        let site = Site::new();
        let inject = |strace: Strace| fault.iter().fold(strace, |strace, fault| strace.inject(fault));
        let Some(strace) = Strace::new() else {
            return;
        };
        let segment = site.segment(2);
        survives(&site, &segment, inject(strace));
        let Some(strace) = Strace::new() else {
            return;
        };
        let file = site.data.write(&site.segment(2).mark("different"));
        let traced = inject(strace).trace(CALLS).go(&site.archive.pushing(&file));
        traced.outcome.refused();
        site.holds(&segment.name(), &segment.bytes());
    }
}

#[test]
fn a_name_that_is_said_to_exist_is_looked_at_before_it_is_believed() {
    let site = Site::new();
    let Some(strace) = Strace::new() else {
        return;
    };
    survives(&site, &site.segment(2), strace.inject(&format!("{RENAMES}:error=EEXIST:when=1")));
}

#[test]
fn an_error_on_closing_never_hides_an_unsynced_file() {
    for nth in 1..80 {
        let site = Site::new();
        let segment = site.segment(2).noise();
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = survives_any(&site, &segment, strace.inject(&format!("close:error=ENOSPC:when={nth}")));
        if !traced.was_hit() {
            return;
        }
        // Some file systems report a failed write only when the file is closed. Where the program
        // does not listen to that, it must have heard of it before: by a sync.
        let failed = traced.calls.iter().find(|call| call.injected).expect("the fault");
        let Some(path) = failed.descriptor_path() else {
            continue;
        };
        let written = |call: &&Call| {
            WRITES.contains(&call.name.as_str())
                && call.descriptor_path() == Some(path)
                && call.ended < failed.began
        };
        let Some(last) = traced.calls.iter().rfind(written) else {
            continue;
        };
        assert!(
            traced.outcome.code() != Some(0)
                || !path.starts_with(site.archive.root())
                || synced(&traced.calls, path, last.ended).is_some(),
            "{} was written, not synced, and the error on closing it not noticed\n{}",
            path.display(),
            traced.story()
        );
    }
    panic!("no end to the closes");
}

#[test]
fn any_failing_call_leaves_a_true_answer_and_a_next_push_that_succeeds() {
    for (calls, error) in [
        ("write,pwrite64,writev,copy_file_range", "ENOSPC"),
        ("write,pwrite64,writev,copy_file_range", "EDQUOT"),
        (RENAMES, "EIO"),
        ("mkdir,mkdirat", "EACCES"),
        ("unlink,unlinkat", "EIO"),
        ("read,pread64,readv", "EIO"),
    ] {
        for nth in 1..200 {
            let site = Site::new();
            let Some(strace) = Strace::new() else {
                return;
            };
            let fault = format!("{calls}:error={error}:when={nth}");
            if !survives_any(&site, &site.segment(2).noise(), strace.inject(&fault)).was_hit() {
                break;
            }
            assert!(nth < 199, "no end to {calls}");
        }
    }
}

/// Like [`survives`], for faults that also hit the start of the program, where no status is
/// promised.
#[track_caller]
fn survives_any(site: &Site, segment: &Segment, strace: Strace) -> Traced {
    let file = site.data.write(segment);
    let traced = strace.go(&site.archive.pushing(&file));
    if traced.outcome.code() == Some(0) {
        site.holds(&segment.name(), &segment.bytes());
    }
    assert_ne!(traced.outcome.code(), Some(101), "a panic\n{}", traced.story());
    let again = site.archive.push(&file);
    assert_eq!(again.code(), Some(0), "{again}\n--- after\n{}", traced.story());
    site.holds(&segment.name(), &segment.bytes());
    traced
}

#[test]
fn a_push_removes_nothing_but_its_own_temporary_file() {
    let site = Site::new();
    let segment = site.segment(2);
    let file = site.data.write(&segment);
    for _ in 0..2 {
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = strace.trace(CALLS).go(&site.archive.pushing(&file));
        traced.outcome.clone().ok();
        for call in traced.calls.iter().filter(|call| call.name.starts_with("unlink")) {
            for path in call.paths() {
                assert!(
                    !path.starts_with(site.archive.root())
                        || path.starts_with(site.archive.root().join(".tmp")),
                    "{} was removed\n{}",
                    path.display(),
                    traced.story()
                );
            }
        }
    }
}

#[test]
fn a_fetch_writes_nothing_into_the_repository() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let before = site.archive.snapshot();
    for name in [names[0].as_str(), "000000010000000000000003", "00000002.history"] {
        let Some(strace) = Strace::new() else {
            return;
        };
        let calls = format!("{CALLS},flock,chmod,fchmod,fchmodat,utimensat");
        let traced = strace.trace(&calls).go(&site.archive.fetching(name, "pg_wal/RECOVERYXLOG"));
        for call in &traced.calls {
            let opens = call.name.starts_with("open");
            let writes = !matches!(call.name.as_str(), "close") && !opens
                || ["O_WRONLY", "O_RDWR", "O_CREAT"]
                    .iter()
                    .any(|flag| opens && call.arguments.contains(flag));
            let inside = |path: &Path| path.starts_with(site.archive.root());
            let touched =
                call.paths().iter().any(|path| inside(path)) || call.descriptor_path().is_some_and(inside);
            assert!(!(writes && touched), "{call:?}\n{}", traced.story());
        }
    }
    assert_eq!(site.archive.snapshot(), before);
}
