//! Faults, and the run of a command under each of them.

use crate::support::strace::{Call, Traced};
use crate::support::{Outcome, Run, Strace, is_whole_sweep};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of faults of each sweep in the default run.
pub const QUOTAS: &[(&str, usize)] = &[
    ("walpush", 90),
    ("walpush of a further segment", 30),
    ("walpush with push_ahead", 24),
    ("walfetch", 60),
    ("walfetch of a hole", 30),
    ("walfetch at the end", 24),
    ("list", 14),
    ("show", 10),
    ("status", 10),
    ("report", 10),
    ("metrics", 10),
    ("timelines", 8),
    ("verify", 14),
    ("verify --quick", 10),
    ("verify --wal", 10),
    ("pin", 14),
    ("unpin", 12),
    ("init", 16),
    ("prune", 10),
    ("sync", 10),
    ("restore", 10),
    ("restore --delta", 6),
    ("backup", 10),
    ("check", 4),
    ("drill", 3),
];

/// Sweeps whose directories hold nothing that another fault of the same sweep could meet run in two
/// threads.
const AT_ONCE: usize = 2;

/// What happens at a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Error(&'static str),
    Kill,
}

/// A system call that fails, or that the program does not survive: the `nth` of each thread.
pub struct Fault {
    call: String,
    how: How,
    nth: usize,
}

impl Fault {
    /// No fault at all.
    pub fn none() -> Fault {
        Fault { call: "none".to_owned(), how: How::Error("none"), nth: 0 }
    }

    pub fn is_kill(&self) -> bool {
        self.how == How::Kill
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::Error(error) => write!(f, "{}:error={error}:when={}", self.call, self.nth),
            How::Kill => write!(f, "{}:signal=KILL:when={}", self.call, self.nth),
        }
    }
}

/// The errors that a call may answer. None for calls whose errors the kernel never answers here or
/// on which the standard library aborts or panics: memory, signals, locks of threads, random bytes.
fn answers(call: &str) -> &'static [&'static str] {
    match call {
        "openat" | "openat2" => &["EIO", "EMFILE", "ENOSPC", "EINTR"],
        "read" | "pread64" | "readv" | "preadv" => &["EIO", "EINTR"],
        "write" | "pwrite64" | "writev" => &["EIO", "ENOSPC", "EINTR"],
        "fsync" | "fdatasync" | "syncfs" => &["EIO", "ENOSPC", "EINTR"],
        "ftruncate" | "fallocate" | "copy_file_range" => &["EIO", "ENOSPC", "EINTR"],
        "renameat2" | "renameat" | "rename" | "linkat" | "mkdirat" | "mkdir" | "symlinkat" | "mknodat" => {
            &["EIO", "ENOSPC"]
        }
        "unlinkat" | "unlink" | "rmdir" | "getdents64" | "statx" | "newfstatat" | "fstat" | "fstatfs"
        | "statfs" | "readlinkat" | "readlink" | "fchmod" | "fchown" | "fchownat" | "fchmodat"
        | "utimensat" | "lseek" => &["EIO"],
        "flock" => &["EINTR", "ENOLCK"],
        "clone3" | "clone" => &["EAGAIN"],
        "socket" | "pipe2" | "dup" | "epoll_create1" | "memfd_create" => &["EMFILE"],
        "connect" => &["ECONNREFUSED", "EINTR"],
        "sendto" | "recvfrom" => &["ECONNRESET", "EINTR"],
        _ => &[],
    }
}

/// All faults of a run, from the calls that it made without one.
fn faults(calls: &[Call]) -> Vec<Fault> {
    // The calls before this one are those of the loader, whose status is not ours.
    let ours = calls.iter().position(|call| call.name == "getrandom").unwrap_or(0);
    let mut counts: BTreeMap<(&str, u32), (usize, usize)> = BTreeMap::new();
    for (place, call) in calls.iter().enumerate() {
        let count = counts.entry((&call.name, call.pid)).or_default();
        count.1 += 1;
        count.0 += usize::from(place <= ours);
    }
    let mut ranges: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for ((call, _), (loader, all)) in counts {
        let range = ranges.entry(call).or_default();
        *range = (range.0.max(loader), range.1.max(all));
    }
    let mut faults = Vec::new();
    for (call, (loader, all)) in ranges {
        if matches!(call, "execve" | "exit_group" | "exit") {
            continue;
        }
        let how = answers(call).iter().map(|error| How::Error(error)).chain([How::Kill]);
        for how in how {
            faults.extend((loader + 1..=all).map(|nth| Fault { call: call.to_owned(), how, nth }));
        }
    }
    faults
}

/// A sample that is spread over the whole list, or all of it.
fn sample(mut faults: Vec<Fault>, quota: usize) -> Vec<Fault> {
    let all = faults.len();
    if is_whole_sweep() || all <= quota {
        return faults;
    }
    let mut number = 0;
    faults.retain(|_| {
        number += 1;
        number * quota / all != (number - 1) * quota / all
    });
    faults
}

#[derive(Default)]
struct Counts {
    done: usize,
    failed: usize,
    killed: usize,
    missed: usize,
}

/// A command, the fixture that it works on, and what has to hold after a fault.
pub struct Sweep<F, M, P, C> {
    pub name: &'static str,
    /// The statuses that it may end with.
    pub statuses: &'static [i32],
    /// Makes what one thread of the sweep works on.
    pub make: M,
    /// Prepares the next run.
    pub prepare: P,
    /// Checks what is left, with the outcome of the run.
    pub check: C,
    fixture: std::marker::PhantomData<fn() -> F>,
}

impl<F, M, P, C> Sweep<F, M, P, C>
where
    M: Fn() -> F + Sync,
    P: Fn(&mut F) -> Run + Sync,
    C: Fn(&mut F, &Fault, &Outcome) + Sync,
{
    pub fn new(name: &'static str, statuses: &'static [i32], make: M, prepare: P, check: C) -> Self {
        let fixture = std::marker::PhantomData;
        Sweep { name, statuses, make, prepare, check, fixture }
    }

    /// Runs the command once without a fault and then once for each fault.
    #[track_caller]
    pub fn go(&self) {
        let quota = QUOTAS.iter().find(|(name, _)| *name == self.name).expect("a quota").1;
        let Some(strace) = Strace::new() else {
            return;
        };
        let mut fixture = (self.make)();
        let clean = strace.go(&(self.prepare)(&mut fixture));
        assert!(self.statuses.contains(&clean.outcome.code().unwrap_or(-1)), "{}", clean.outcome);
        (self.check)(&mut fixture, &Fault::none(), &clean.outcome);
        drop(fixture);
        let all = faults(&clean.calls);
        let total = all.len();
        let sample = sample(all, quota);
        let (next, counts) = (AtomicUsize::new(0), Mutex::new(Counts::default()));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    let mut fixture = (self.make)();
                    while let Some(fault) = sample.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.one(&mut fixture, fault, &counts);
                    }
                });
            }
        });
        let Counts { done, failed, killed, missed } = counts.into_inner().expect("no panic");
        let tried = sample.len();
        assert_eq!(done + failed + killed, tried, "{}", self.name);
        assert!(tried >= quota.min(total));
        let _ = writeln!(
            std::io::stderr(),
            "SWEEP {}: {tried} of {total} faults: {done} ended with 0, {failed} failed, {killed} were killed; {missed} hit nothing",
            self.name
        );
    }

    fn one(&self, fixture: &mut F, fault: &Fault, counts: &Mutex<Counts>) {
        let strace = Strace::new().expect("it worked before").trace(&fault.call);
        let Traced { outcome, calls } = strace.inject(&fault.to_string()).go(&(self.prepare)(fixture));
        let what = || format!("{} at {fault}\n{outcome}", self.name);
        match outcome.code() {
            Some(code) => assert!(self.statuses.contains(&code), "not a status of ours: {}", what()),
            None => assert!(fault.is_kill(), "died by a signal: {}", what()),
        }
        {
            let mut counts = counts.lock().expect("no panic");
            match outcome.code() {
                Some(0) => counts.done += 1,
                Some(_) => counts.failed += 1,
                None => counts.killed += 1,
            }
            // A call that was killed is not always recorded.
            counts.missed += usize::from(!fault.is_kill() && !calls.iter().any(|call| call.injected));
        }
        (self.check)(fixture, fault, &outcome);
    }
}
