//! A process by what the kernel knows of it, so that another process of the same host can tell whether it
//! still runs, whatever the clocks say.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The kernel's random id of this boot.
    pub boot: String,
    /// The namespace in which `pid` counts: a container has one of its own.
    pub namespace: String,
    pub pid: u32,
    /// When it started, in ticks since the boot: numbers are used again.
    pub started: u64,
}

impl Process {
    /// This one; `None` where the kernel does not say.
    pub fn this() -> Option<Process> {
        let pid = std::process::id();
        Some(Process { boot: boot()?, namespace: namespace()?, pid, started: look_up(pid)?.0 })
    }

    /// Whether it has ended; `None` when it is not of this host, boot and namespace, or nothing is known of it.
    pub fn is_over(&self) -> Option<bool> {
        if boot()? != self.boot || namespace()? != self.namespace {
            return None;
        }
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        // What /proc shows may be hidden from other users; that there is nobody to signal is certain.
        if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return Some(true);
        }
        let (started, ended) = look_up(self.pid)?;
        Some(ended || started != self.started)
    }
}

/// Name of this host, as `uname -n` shows it.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

fn namespace() -> Option<String> {
    Some(std::fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned())
}

/// When a process started, and whether it only waits to be collected.
fn look_up(pid: u32) -> Option<(u64, bool)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((started, matches!(state, "Z" | "X")))
}
