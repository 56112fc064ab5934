//! The monotonic clock. It goes on while the machine is suspended (`CLOCK_BOOTTIME`), unlike the one
//! of std: a writer must know that it slept while others counted the time.

use super::scheduler;
use rustix::time::{ClockId, clock_gettime};
use std::ops::Add;
use std::time::Duration;

/// A moment of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MonotonicTime(Duration);

impl MonotonicTime {
    pub fn now() -> MonotonicTime {
        MonotonicTime(scheduler().map_or_else(since_boot, |scheduler| scheduler.now()))
    }

    /// Time since this moment.
    pub fn elapsed(self) -> Duration {
        MonotonicTime::now().0.saturating_sub(self.0)
    }

    /// Time until this moment; zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_sub(MonotonicTime::now().0)
    }

    /// Time since the start of the clock.
    pub(super) fn since_start(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for MonotonicTime {
    type Output = MonotonicTime;

    fn add(self, time: Duration) -> MonotonicTime {
        MonotonicTime(self.0.saturating_add(time))
    }
}

fn since_boot() -> Duration {
    // The kernel's answer is never negative.
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}
