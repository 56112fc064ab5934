//! Notes of verifications beside prunes, when either is killed at any step: a backup that a prune
//! removed is not a lost one, and a lost one is.

use super::*;
use crate::support::run::signal;
use crate::support::saga::Saga;

/// Calls that create, replace and remove objects.
const STEPS: [&str; 3] = ["renameat2", "renameat", "unlinkat"];

/// A program that stops right behind a call.
struct Stopped {
    strace: Strace,
    run: Run,
    child: std::process::Child,
}

impl Stopped {
    /// Starts it, and waits until it has stopped behind the `nth` of these calls of one thread.
    /// None when it ended before.
    fn behind(call: &str, nth: usize, run: Run) -> Option<Stopped> {
        let strace = Strace::new()?.trace(call).inject(&format!("{call}:signal=STOP:when={nth}"));
        let mut child = strace.spawn(&run);
        let mut has_ended = false;
        until("it has stopped or ended", || {
            has_ended = child.try_wait().expect("look at it").is_some();
            has_ended || strace.text().contains("stopped by SIGSTOP")
        });
        (!has_ended).then_some(Stopped { strace, run, child })
    }

    /// The process of the thread that was stopped.
    fn pid(&self) -> u32 {
        let text = self.strace.text();
        let stopped = text.lines().find(|line| line.contains("stopped by SIGSTOP")).expect("it has stopped");
        let thread = stopped.split_whitespace().next().expect("a thread");
        let status = String::from_utf8(read(format!("/proc/{thread}/status"))).expect("text");
        let pid = status.lines().find_map(|line| line.strip_prefix("Tgid:")).expect("a process");
        pid.trim().parse().expect("a number")
    }

    fn kill(self) {
        signal(self.pid(), "KILL");
        self.run.finish(self.child);
    }

    fn go_on(self) -> Outcome {
        // Every call that is still to come may stop it again.
        let pid = self.pid();
        let mut child = self.child;
        until("it has ended", || {
            signal(pid, "CONT");
            child.try_wait().expect("look at it").is_some()
        });
        self.run.finish(child)
    }
}

/// The copy of a story whose backup `a` no verification has seen, or all have.
fn story(saga: &Saga, is_noted: bool) -> Archive {
    let archive = saga.archive();
    if !is_noted {
        std::fs::remove_dir_all(lineage(&archive).join("verify")).expect("forget the verifications");
    }
    archive
}

#[test]
fn a_backup_that_is_pruned_beside_a_killed_verification_is_not_lost() {
    let saga = Saga::get();
    let mut stopped = 0;
    for (call, nth) in STEPS.iter().flat_map(|call| (1..6).map(move |nth| (call, nth))) {
        let archive = story(&saga, false);
        let verifying = archive.run("walkeep").args(["verify", "--quiet"]);
        let Some(verification) = Stopped::behind(call, nth, verifying) else {
            continue;
        };
        stopped += 1;
        prune(&archive, &["--remove", &saga.a]);
        verification.kill();
        archive.walkeep(&["verify"]).ok();
        prune(&archive, &["--remove", &saga.c]);
        archive.walkeep(&["verify"]).ok();
        prune(&archive, &[]);
        let left = files(&lineage(&archive).join("active"));
        assert!(left.is_empty(), "{call} {nth}: {left:?}");
        let notes = files(&lineage(&archive).join("verify/backup"));
        assert!(!notes.iter().any(|note| note.ends_with(&saga.a)), "{call} {nth}: {notes:?}");
    }
    // The announcement, four backups, packs and WAL at least.
    assert!(stopped >= 6, "it stopped at {stopped} calls");
}

#[test]
fn a_verification_that_was_suspended_beside_a_prune_removes_its_notes() {
    let saga = Saga::get();
    for nth in [1, 2, 3] {
        let archive = story(&saga, false);
        let verifying = archive.run("walkeep").args(["verify", "--quiet"]);
        let verification = Stopped::behind("renameat", nth, verifying).expect("it writes notes");
        prune(&archive, &["--remove", &saga.a]);
        verification.go_on().ok();
        let notes = files(&lineage(&archive).join("verify/backup"));
        assert_eq!(notes.len(), 3, "renameat {nth}: {notes:?}");
        assert!(files(&lineage(&archive).join("active")).is_empty());
        archive.walkeep(&["verify"]).ok();
    }
}

#[test]
fn a_prune_that_is_killed_beside_a_killed_verification_loses_nothing() {
    let saga = Saga::get();
    let mut stopped = 0;
    for (call, nth) in STEPS.iter().flat_map(|call| (1..8).map(move |nth| (call, nth))) {
        let archive = story(&saga, true);
        let note = read(lineage(&archive).join("verify/backup").join(&saga.a));
        let pruning = archive.run("walkeep").args(["prune", "--quiet", "--remove", &saga.a]);
        let Some(pruning) = Stopped::behind(call, nth, pruning) else {
            continue;
        };
        stopped += 1;
        let late = lineage(&archive).join("verify/backup").join(&saga.a);
        // It began before the record was removed, or found it removed.
        archive.walkeep(&["verify"]).ok();
        if !late.exists() {
            std::fs::write(&late, &note).expect("write the note at the last moment");
            account::give(&late);
        }
        pruning.kill();
        archive.walkeep(&["verify"]).ok();
        prune(&archive, &[]);
        archive.walkeep(&["verify"]).ok();
        assert!(files(&lineage(&archive).join("active")).is_empty(), "{call} {nth}");
    }
    assert!(stopped >= 6, "it stopped at {stopped} calls");
}

#[test]
fn a_record_that_is_lost_is_found_whatever_was_killed_before() {
    let saga = Saga::get();
    let archive = story(&saga, false);
    let verifying = archive.run("walkeep").args(["verify", "--quiet"]);
    let last_note = 4;
    Stopped::behind("renameat", last_note, verifying).expect("it writes notes").kill();
    assert!(!files(&lineage(&archive).join("active")).is_empty());
    std::fs::remove_file(live::record_of(archive.root(), &saga.d)).expect("lose a record");
    let lost = format!("backup/{}: the record is missing", saga.d);
    let verified = archive.walkeep(&["verify"]).is(3);
    assert!(verified.stdout.contains(&lost), "{verified}");
    let report = prune_is(&archive, 3, &[]);
    assert_eq!(report["remove"]["objects"], 0, "{report}");
    let verified = archive.walkeep(&["verify"]).is(3);
    assert!(verified.stdout.contains(&lost), "{verified}");
}

#[test]
fn a_backup_that_ends_while_a_prune_lists_the_repository_is_not_damaged() {
    let (mut live, ids) = with_backups(1);
    live.archive.set_retention(0, &["keep_last = 1"]);
    let mut made = ids;
    for nth in (1..).step_by(4) {
        let pruning = live.archive.run("walkeep").args(["prune", "--json", "--dry-run"]);
        let Some(pruning) = Stopped::behind("getdents64", nth, pruning) else {
            break;
        };
        made.push(live.backup_id());
        let outcome = pruning.go_on();
        assert_eq!(outcome.code(), Some(0), "getdents64 {nth}\n{outcome}");
        // And one that another prune removes meanwhile.
        let pruning = live.archive.run("walkeep").args(["prune", "--json", "--dry-run"]);
        let pruning = Stopped::behind("getdents64", nth, pruning).expect("it stopped there before");
        prune(&live.archive, &[]);
        let outcome = pruning.go_on();
        assert_eq!(outcome.code(), Some(0), "getdents64 {nth}, beside a prune\n{outcome}");
    }
    assert!(made.len() > 3, "{made:?}");
}
