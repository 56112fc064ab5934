//! The identity of a process. With it another process of the same host finds out whether the
//! process still runs, without a clock.

use crate::fs::named;
use crate::runtime::{SimulatedProcess, scheduler};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Maximum size in bytes of a file of the kernel about a process.
const MAX_SIZE: u64 = 64 << 10;

/// A process of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The kernel's random id of this boot.
    pub boot: String,
    /// The namespace of `pid`: a container has one of its own.
    pub namespace: String,
    pub pid: u32,
    /// Start of the process, in ticks since the boot: process numbers are reused.
    pub started: u64,
}

impl Process {
    /// Returns this process; `None` where `/proc` does not show it.
    pub fn this() -> Option<Process> {
        if let Some(scheduler) = scheduler() {
            return Some(Process::simulated(scheduler.process()));
        }
        let pid = std::process::id();
        Some(Process { boot: boot()?, namespace: namespace()?, pid, started: look_up(pid)?.0 })
    }

    /// Returns true when the process has ended, false when it runs; `None` when it belongs to
    /// another host, boot or namespace, or `/proc` does not show it.
    pub fn is_over(&self) -> Option<bool> {
        if let Some(scheduler) = scheduler() {
            let own = Process::simulated(scheduler.process());
            return (own.boot == self.boot).then(|| scheduler.has_ended(self.pid));
        }
        if boot()? != self.boot || namespace()? != self.namespace {
            return None;
        }
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        // /proc may hide processes of other users; that no process has this number is certain.
        if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return Some(true);
        }
        let (started, ended) = look_up(self.pid)?;
        Some(ended || started != self.started)
    }

    fn simulated(process: SimulatedProcess) -> Process {
        Process { boot: process.host, namespace: String::new(), pid: process.pid, started: 0 }
    }
}

/// Name of this host, as `uname -n` shows it.
pub fn host() -> String {
    if let Some(scheduler) = scheduler() {
        return scheduler.process().host;
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot() -> Option<String> {
    let id = named::read_text(Path::new("/proc/sys/kernel/random/boot_id"), MAX_SIZE).ok()??;
    Some(id.trim().to_owned())
}

fn namespace() -> Option<String> {
    Some(named::link_target(Path::new("/proc/self/ns/pid")).ok()??.to_string_lossy().into_owned())
}

/// Returns the start time of a process in ticks since the boot, and true when it is a zombie.
fn look_up(pid: u32) -> Option<(u64, bool)> {
    let stat = named::read_text(Path::new(&format!("/proc/{pid}/stat")), MAX_SIZE).ok()??;
    // The name of the program, in front, may contain anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((started, matches!(state, "Z" | "X")))
}
