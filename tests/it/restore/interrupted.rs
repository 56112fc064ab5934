//! A restore that is killed, or whose disk fails: no server starts on what it left, and the next
//! one completes.

use super::*;
use crate::support::run::signal;
use crate::support::wait::is_running;

const STEPS: &str = "openat,write,pwrite64,mkdir,mkdirat,symlink,symlinkat,ftruncate,fsync,fdatasync,syncfs,rename,\
                     renameat,renameat2,unlink,unlinkat,fchmod,fchmodat,chmod";

#[test]
fn a_killed_restore_cannot_be_started_and_is_completed_by_the_next() {
    let story = Story::get();
    let archive = story.archive();
    let mut killed = 0;
    let mut nth = 12;
    loop {
        let Some(strace) = Strace::new() else {
            return;
        };
        let scratch = Scratch::new();
        let data = scratch.join("data");
        let strace = strace.trace(STEPS).inject(&format!("{STEPS}:signal=KILL:when={nth}"));
        let traced = strace.go(&restoring(&archive, &data, &["--jobs", "1"]));
        if traced.outcome.code() == Some(0) {
            break;
        }
        killed += 1;
        let copy = scratch.join("copy");
        if data.exists() {
            scratch::copy_tree(&data, &copy);
        }
        assert_not_startable(Scratch::new(), &copy);
        let again = restoring(&archive, &data, &[]).go();
        assert_eq!(again.code(), Some(0), "after the kill at step {nth}\n{again}");
        let mut left = repo::files(&data);
        left.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("walkeep")));
        assert_eq!(left, Vec::<std::path::PathBuf>::new());
        pg::tool("pg_verifybackup").arg(&data).go().ok();
        nth = nth * 2 + 1;
        if nth > 100_000 {
            panic!("no end to the steps of a restore");
        }
    }
    assert!(killed >= 4, "only {killed} restores were killed");
}

#[test]
fn a_restore_killed_in_its_last_steps_cannot_be_started_or_is_complete() {
    let story = Story::get();
    let archive = story.archive();
    // The main thread alone syncs parents and renames: the last steps one by one.
    for fault in ["rename,renameat,renameat2", "unlink,unlinkat", "fsync,fdatasync"] {
        for nth in 1..40 {
            let Some(strace) = Strace::new() else {
                return;
            };
            let scratch = Scratch::new();
            let data = scratch.join("data");
            let strace = strace.trace(fault).inject(&format!("{fault}:signal=KILL:when={nth}"));
            let traced = strace.go(&restoring(&archive, &data, &["--immediate"]));
            if traced.outcome.code() == Some(0) {
                break;
            }
            let finished = data.join("global/pg_control").exists();
            let server = Cluster::over_if_there(scratch, &data);
            match server {
                Some(server) if finished => {
                    // Everything was written and synced when the control file came.
                    assert!(recovers(&server), "{}", server.log_text());
                    assert_eq!(rows(&server), "4000");
                }
                Some(server) => assert!(!server.try_start(), "{fault} {nth}"),
                None => {}
            }
        }
    }
}

#[test]
fn a_terminated_restore_can_be_done_again() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let data = scratch.join("data");
    for name in ["TERM", "INT", "KILL"] {
        // What the one before has left is removed first: the directory is made anew.
        let base = data.join("base");
        let before = std::time::SystemTime::now();
        let run = restoring(&archive, &data, &[]);
        let child = run.spawn();
        let made = || base.metadata().and_then(|meta| meta.created());
        let begun = || made().is_ok_and(|made| made > before);
        until("files are being restored", || begun() || !is_running(child.id()));
        signal(child.id(), name);
        let outcome = run.finish(child);
        assert!(data.join("base").exists(), "{outcome}");
        if outcome.code() == Some(0) {
            std::fs::remove_dir_all(&data).expect("remove it");
        }
    }
    restoring(&archive, &data, &[]).go().ok();
    pg::tool("pg_verifybackup").arg(&data).go().ok();
}

#[test]
fn a_disk_that_fails_while_restoring_is_reported_and_nothing_can_be_started() {
    let story = Story::get();
    let archive = story.archive();
    for fault in [
        "pwrite64,write:error=ENOSPC:when=40",
        "pwrite64:error=EIO:when=30",
        "syncfs:error=EIO",
        "mkdir,mkdirat:error=ENOSPC:when=5",
        "rename,renameat,renameat2:error=EIO",
    ] {
        let Some(strace) = Strace::new() else {
            return;
        };
        let scratch = Scratch::new();
        let data = scratch.join("data");
        let traced = strace.inject(fault).go(&restoring(&archive, &data, &[]));
        assert!(traced.was_hit(), "{fault} hit nothing\n{}", traced.outcome);
        let outcome = traced.outcome.is(1).told();
        assert!(outcome.stderr.contains("error:"), "{fault}\n{outcome}");
        assert!(!data.join("global/pg_control").exists(), "{fault}\n{outcome}");
        assert_not_startable(scratch, &data);
    }
}

/// The kernel tells a failure to write what it had taken once, to whoever asks first.
#[test]
fn a_disk_that_fails_behind_the_restore_ends_it_and_is_not_asked_until_it_says_otherwise() {
    let story = Story::get();
    let archive = story.archive();
    let Some(strace) = Strace::new() else {
        return;
    };
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let strace = strace.trace("syncfs,pwrite64").inject("syncfs:error=EIO");
    let strace = strace.inject("pwrite64:delay_enter=600000:when=1");
    let traced = strace.go(&restoring(&archive, &data, &[]));
    let asked = traced.calls.iter().filter(|call| call.name == "syncfs").count();
    assert_eq!(asked, 1, "{}", traced.story());
    traced.outcome.is(1).told().says("sync the file system");
    assert!(!data.join("global/pg_control").exists());
}

#[test]
fn everything_is_on_disk_before_the_control_file_and_that_before_success() {
    let story = Story::get();
    let archive = story.archive();
    let Some(strace) = Strace::new() else {
        return;
    };
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let strace =
        strace.trace("openat,write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,exit_group");
    let traced = strace.go(&restoring(&archive, &data, &[]));
    traced.outcome.clone().ok();
    let calls = &traced.calls;
    let control = data.join("global/pg_control");
    let place = |what: &str, found: Option<usize>| found.unwrap_or_else(|| panic!("no {what}"));
    let published = place(
        "publication of pg_control",
        calls.iter().rposition(|call| {
            call.paths().contains(&control) && (call.is_publish() || call.arguments.contains("O_CREAT"))
        }),
    );
    let written = place(
        "write before it",
        calls[..published].iter().rposition(|call| {
            matches!(call.name.as_str(), "write" | "pwrite64")
                && call.descriptor_path().is_some_and(|path| {
                    path.starts_with(&data) && !path.to_string_lossy().contains(".walkeep-tmp-")
                })
        }),
    );
    assert!(
        calls[written..published].iter().any(|call| call.name == "syncfs" && call.succeeded()),
        "nothing synced the file system before pg_control came"
    );
    let after = &calls[published..];
    assert!(
        after.iter().any(|call| call.is_sync()
            && call.descriptor_path().is_some_and(|path| path.ends_with("global"))),
        "the directory of pg_control was not synced"
    );
    // And the directory that the data directory is an entry of.
    assert!(
        calls.iter().any(|call| call.is_sync() && call.descriptor_path() == Some(scratch.path())),
        "the parent was not synced"
    );
}
