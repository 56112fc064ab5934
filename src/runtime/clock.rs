//! The monotonic clock.

use super::scheduler;
use std::ops::Add;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A moment of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Moment {
    pub fn now() -> Moment {
        Moment(scheduler().map_or_else(|| START.elapsed(), |scheduler| scheduler.now()))
    }

    /// Time since this moment.
    pub fn elapsed(self) -> Duration {
        Moment::now().0.saturating_sub(self.0)
    }

    /// Time until this moment; zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_sub(Moment::now().0)
    }

    /// Time since the start of the clock.
    pub(super) fn since_start(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(time))
    }
}
