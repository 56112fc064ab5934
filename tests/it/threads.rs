//! What a user meets when the system has no further thread, and when a program panics.

use crate::support::live::restoring;
use crate::support::saga::Saga;
use crate::support::{Live, Outcome, Run, Scratch, Site, Strace};
use walkeep::error::{Error, Kind};
use walkeep::runtime::thread;

/// Statuses of `walkeep`.
const WALKEEP: &[i32] = &[0, 1, 2, 3, 4];

/// No thread, of whatever program: an error of ours, and no panic.
#[track_caller]
fn is_told(outcome: &Outcome, statuses: &[i32]) {
    assert!(outcome.code().is_some_and(|code| statuses.contains(&code)), "not a status of ours\n{outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    assert!(!outcome.stderr.contains("defect"), "{outcome}");
    if outcome.code() != Some(0) {
        assert!(outcome.stderr.contains("resource temporarily unavailable"), "{outcome}");
        // A process that cannot be started has a hint of its own.
        let is_thread = outcome.stderr.contains("start a thread");
        assert!(!is_thread || outcome.stderr.contains("ulimit -u"), "{outcome}");
    }
}

/// Runs it again and again, each time with fewer threads, and returns how many ended with 0.
fn with_fewer_threads(run: impl Fn() -> Run, statuses: &[i32], most: usize) -> usize {
    let mut done = 0;
    for allowed in 0..=most {
        let Some(strace) = Strace::new() else {
            return usize::MAX;
        };
        let fault = format!("clone3:error=EAGAIN:when={}+", allowed + 1);
        let traced = strace.trace("clone3").inject(&fault).go(&run());
        is_told(&traced.outcome, statuses);
        done += usize::from(traced.outcome.code() == Some(0));
        if !traced.was_hit() {
            break;
        }
    }
    done
}

#[test]
fn without_a_further_thread_a_push_and_a_fetch_say_so() {
    let site = Site::new();
    let segment = site.segment(1);
    let file = site.data.write(&segment);
    let limited = |run: Run| run.under(["prlimit", "--nproc=1:1", "--"]).go();
    is_told(&limited(site.archive.pushing(&file)), &[1]);
    site.archive.push(&file).ok();
    is_told(&limited(site.archive.fetching(&segment.name(), site.archive.destination())), &[0, 200]);
    with_fewer_threads(|| site.archive.pushing(&file), &[0, 1], 12);
    let fetch = || site.archive.fetching(&segment.name(), site.archive.destination());
    with_fewer_threads(fetch, &[0, 200], 12);
    assert_eq!(site.archive.fetched(&segment.name()), segment.bytes());
}

#[test]
fn without_a_further_thread_a_repository_is_read_by_fewer_or_the_verb_says_so() {
    let saga = Saga::get();
    let archive = saga.archive();
    let verb = |words: &[&str]| archive.run("walkeep").args(words);
    assert!(with_fewer_threads(|| verb(&["verify", "--json"]), WALKEEP, 8) > 0);
    assert!(with_fewer_threads(|| verb(&["prune", "--remove", &saga.a, "--dry-run"]), WALKEEP, 8) > 0);
    let scratch = Scratch::new();
    let restore = || {
        let _ = std::fs::remove_dir_all(scratch.join("data"));
        restoring(&archive, &scratch.join("data"), &[&saga.b, "--immediate"])
    };
    assert!(with_fewer_threads(restore, WALKEEP, 12) > 0);
    let twins = saga.twins();
    let sync = || twins.run("walkeep").args(["sync", "--from", "first", "--to", "second"]);
    assert!(with_fewer_threads(sync, WALKEEP, 8) > 0);
}

#[test]
fn without_a_further_thread_a_backup_says_so_and_the_next_one_works() {
    let live = Live::new();
    assert!(with_fewer_threads(|| live.backing_up().args(["--archive-timeout", "20s"]), WALKEEP, 14) > 0);
    live.backup();
    live.archive.walkeep(&["verify"]).ok();
}

#[test]
fn a_panic_of_a_thread_is_an_error_of_the_operation_that_waits_for_it() {
    let work = |number| if number == 2 { panic!("in a thread of a test") } else { Ok(()) };
    let error = thread::share(4, "test", work).expect_err("one thread panicked");
    assert_eq!(error.kind(), Kind::Defect);
    let first = |number| Err(Error::new(Kind::Failed, format!("thread {number}")));
    assert_eq!(thread::share(3, "test", first).expect_err("all failed").to_string(), "thread 0");
    let joined = thread::spawn("test", || panic!("in a thread of a test")).expect("a thread").join();
    assert_eq!(joined.expect_err("it panicked").kind(), Kind::Defect);
}

/// A panic that a user can meet: the standard library panics when the kernel has no random bytes
/// for the first hash map of a thread.
#[test]
fn a_panic_ends_each_program_with_its_status_of_a_failure_and_one_error() {
    let mut site = Site::new();
    site.archive.set_tail(&format!("[log]\nfile = \"{}\"\n", site.scratch.join("log").display()));
    let segment = site.segment(1);
    let file = site.data.write(&segment);
    site.archive.push(&file).ok();
    let list = site.archive.run("walkeep").arg("list");
    let fetch = site.archive.fetching(&segment.name(), site.archive.destination());
    for (run, status) in [(site.archive.pushing(&file), 1), (fetch, 200), (list, 1)] {
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = strace.trace("getrandom").inject("getrandom:error=EIO:when=2+").go(&run);
        assert!(traced.was_hit(), "{}", traced.story());
        let outcome = traced.outcome.is(status);
        assert_eq!(outcome.stderr.matches("error:").count(), 1, "{outcome}");
        assert!(outcome.stderr.contains(".rs:"), "no place\n{outcome}");
        assert!(outcome.stderr.contains("please report it"), "{outcome}");
        assert!(!outcome.stderr.contains("RUST_BACKTRACE"), "{outcome}");
    }
}
