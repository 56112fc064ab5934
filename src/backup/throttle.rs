//! Limits the bytes that are read in a second.

use crate::error::Result;
use parking_lot::Mutex;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Longest time between two calls of `check` during a wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The limit, shared by all threads that read.
pub(super) struct Throttle {
    /// Bytes a second; `None`: no limit.
    rate: Option<NonZeroU64>,
    /// Time from which on the next bytes may be read.
    next: Mutex<Instant>,
}

impl Throttle {
    pub fn new(rate: Option<NonZeroU64>) -> Throttle {
        Throttle { rate, next: Mutex::new(Instant::now()) }
    }

    /// Waits until these bytes may be read; an error of `check` ends the wait.
    pub fn pass(&self, bytes: usize, check: impl Fn() -> Result<()>) -> Result<()> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let turn = {
            let mut next = self.next.lock();
            let turn = (*next).max(Instant::now());
            *next = turn + Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
            turn
        };
        loop {
            let left = turn.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(CHECK_INTERVAL));
            check()?;
        }
    }
}
