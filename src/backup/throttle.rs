//! Lets bytes through no faster than was asked for.

use crate::error::Result;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one wait is, before it is asked again whether there is still something to wait for.
const SLICE: Duration = Duration::from_millis(500);

/// Shared by all readers.
pub struct Throttle {
    /// Bytes a second; none: as fast as can be.
    rate: Option<NonZeroU64>,
    /// When the next bytes may come.
    next: Mutex<Instant>,
}

impl Throttle {
    pub fn new(rate: Option<NonZeroU64>) -> Throttle {
        Throttle { rate, next: Mutex::new(Instant::now()) }
    }

    /// Waits until these bytes may be read; `check` ends the wait when it fails.
    pub fn pass(&self, bytes: usize, check: impl Fn() -> Result<()>) -> Result<()> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*next).max(Instant::now());
            *next = turn + Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
            turn
        };
        loop {
            let left = turn.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
            check()?;
        }
    }
}
