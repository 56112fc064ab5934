//! A restore that is killed, or whose disk fails: no server starts on what it left, and the next
//! one completes.

use super::*;
use crate::support::run::signal;
use crate::support::wait::is_running;

const STEPS: &str = "openat,openat2,write,pwrite64,mkdir,mkdirat,symlink,symlinkat,ftruncate,fsync,fdatasync,syncfs,rename,\
                     renameat,renameat2,unlink,unlinkat,fchmod,fchmodat,chmod,fchown";

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

/// The directories of a restore that uses all kinds of them.
struct Places {
    scratch: Scratch,
    mapping: String,
    waldir: String,
    config: String,
}

impl Places {
    fn new(oid: &str) -> Places {
        let scratch = Scratch::new();
        let text = |name: &str| scratch.join(name).display().to_string();
        let (mapping, waldir, config) = (format!("{oid}={}", text("space")), text("wal"), text("config"));
        Places { scratch, mapping, waldir, config }
    }

    fn data(&self) -> std::path::PathBuf {
        self.scratch.join("data")
    }

    fn restoring(&self, archive: &Archive, more: &[&str]) -> Run {
        let Places { mapping, waldir, config, .. } = self;
        let places = ["--tablespace", mapping, "--waldir", waldir, "--config-dir", config];
        let arguments = [&places[..], &["--quick", "--jobs", "1"], more].concat();
        restoring(archive, &self.data(), &arguments)
    }

    /// Whether nothing marks the restore as unfinished.
    fn is_complete(&self) -> bool {
        self.data().join("global/pg_control").exists() && !self.data().join("walkeep.restoring").exists()
    }

    /// Files that only an unfinished restore has.
    fn leftovers(&self) -> Vec<std::path::PathBuf> {
        let mut left = repo::files(self.scratch.path());
        left.retain(|path| {
            path.to_string_lossy().contains("/.walkeep-tmp-") || path.ends_with("walkeep.restoring")
        });
        left
    }
}

#[test]
fn the_same_command_completes_a_restore_that_was_killed_at_any_step() {
    let etc = Scratch::new();
    let live = super::places::debian(&etc);
    let location = live.server.scratch().mkdir("space");
    live.server.psql(&format!("create tablespace space location '{}'", location.display()));
    live.server.psql("create table t tablespace space as select 1 i");
    let oid = live.server.psql("select oid from pg_tablespace where spcname = 'space'");
    live.backup();
    let finished = Places::new(&oid);
    finished.restoring(&live.archive, &[]).go().ok();
    let (mut killed, mut complete) = (0, 0);
    for steps in ["rename,renameat,renameat2", "unlinkat", "mkdirat", "fsync,syncfs", "openat", "openat2"] {
        for more in [&[][..], &["--delta"]] {
            let mut nth = 1;
            loop {
                let Some(strace) = Strace::new() else {
                    return;
                };
                let places = Places::new(&oid);
                if !more.is_empty() {
                    for name in ["data", "space", "wal", "config"] {
                        scratch::copy_tree(&finished.scratch.join(name), &places.scratch.join(name));
                    }
                    let link = |link: &str, target: &str| {
                        let link = places.data().join(link);
                        std::fs::remove_file(&link).expect("remove the link");
                        std::os::unix::fs::symlink(places.scratch.join(target), link).expect("link");
                    };
                    link("pg_wal", "wal");
                    link(&format!("pg_tblspc/{oid}"), "space");
                }
                let strace = strace.trace(steps).inject(&format!("{steps}:signal=KILL:when={nth}"));
                let run = places.restoring(&live.archive, more);
                let traced = strace.go(&run);
                if traced.outcome.code() == Some(0) {
                    break;
                }
                killed += 1;
                if more.is_empty() && places.is_complete() {
                    complete += 1;
                } else {
                    let again = run.go();
                    assert_eq!(again.code(), Some(0), "after the kill at {steps} {nth} {more:?}\n{again}");
                }
                assert_eq!(places.leftovers(), Vec::<std::path::PathBuf>::new(), "{steps} {nth} {more:?}");
                pg::tool("pg_verifybackup").arg(places.data()).go().ok();
                // The last renames and removals one by one, of the others fewer and fewer.
                nth = if steps.starts_with("rename") || steps == "unlinkat" { nth + 1 } else { nth * 3 + 1 };
            }
        }
    }
    assert!(killed > 30 && complete < killed / 2, "{killed} killed, {complete} of them complete");
}

#[test]
fn fetched_files_that_a_killed_restore_has_left_are_removed_by_a_later_one() {
    let archive = Story::get().archive();
    let scratch = Scratch::new();
    let temporary = scratch.mkdir("tmp");
    let (old, new) = ("tmp/walkeep-fetch-0011223344556677", "tmp/walkeep-fetch-8899aabbccddeeff");
    for name in [old, new, "tmp/of_another_program"] {
        scratch.mkdir(name);
        scratch.write(format!("{name}/file"), "content");
    }
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 86_400);
    for name in [old, "tmp/of_another_program"] {
        let directory = std::fs::File::open(scratch.join(name)).expect("open");
        directory.set_modified(long_ago).expect("set its time");
    }
    let run = restoring(&archive, &scratch.join("data"), &[]);
    run.env("TMPDIR", &temporary).go().ok();
    let mut left: Vec<_> =
        std::fs::read_dir(&temporary).expect("list").flatten().map(|e| e.file_name()).collect();
    left.sort();
    assert_eq!(left, ["of_another_program", "walkeep-fetch-8899aabbccddeeff"]);
}
