//! Awaiting an event. A test never sleeps for a fixed time: it looks until what it waits for is
//! there, and gives up loudly after a time that no machine should need.

use std::time::{Duration, Instant};

/// Far beyond what anything in the tests takes.
pub const LONG: Duration = Duration::from_secs(60);

/// Looks until `there` answers true; panics with `what` after [`LONG`].
#[track_caller]
pub fn until(what: &str, mut there: impl FnMut() -> bool) {
    assert!(within(LONG, &mut there), "waited {LONG:?} in vain until {what}");
}

/// Looks until `there` answers true, at most for `limit`; says whether it did.
pub fn within(limit: Duration, mut there: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if there() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there and not a zombie.
pub fn is_running(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with(['Z', 'X']),
        Err(_) => false,
    }
}
