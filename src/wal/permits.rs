//! A semaphore that limits the segments that are pushed at once: by bytes of memory, or by uploads.

use crate::error::{Error, Kind, Result};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// A limited number of permits.
pub struct Permits {
    total: u64,
    taken: Mutex<u64>,
    returned: Condvar,
}

/// A number of permits that are taken, and returned on drop.
pub struct Permit {
    permits: Arc<Permits>,
    count: u64,
}

impl Permits {
    pub fn new(total: u64) -> Arc<Permits> {
        Arc::new(Permits { total, taken: Mutex::new(0), returned: Condvar::new() })
    }

    /// Waits until `count` permits are free, and takes them. A `count` above the total takes all.
    /// The caller must not hold a permit, or two callers could wait for each other.
    ///
    /// # Errors
    ///
    /// `Timeout` when the permits are not free within `patience`.
    pub fn take(self: &Arc<Permits>, count: u64, patience: Duration) -> Result<Permit> {
        let count = count.min(self.total);
        let has_too_few = |taken: &mut u64| *taken + count > self.total;
        let mut taken = self.taken.lock();
        self.returned.wait_while_for(&mut taken, has_too_few, patience);
        if has_too_few(&mut taken) {
            return Err(Error::new(Kind::Timeout, "timed out waiting for memory that other pushes hold"));
        }
        *taken += count;
        Ok(Permit { permits: Arc::clone(self), count })
    }
}

impl Permit {
    /// Splits the permit into permits of `count` each, and returns the remainder to the total.
    pub fn split(mut self, count: u64) -> Vec<Permit> {
        let mut parts = Vec::new();
        while count > 0 && self.count >= count {
            self.count -= count;
            parts.push(Permit { permits: Arc::clone(&self.permits), count });
        }
        parts
    }

    /// Grows the permit, by a multiple of `step`, to at least `count`. Returns false, and takes
    /// nothing, when that many are not free now.
    #[must_use]
    pub fn grow(&mut self, count: u64, step: u64) -> bool {
        if count > self.count {
            let more = (count - self.count).next_multiple_of(step);
            let mut taken = self.permits.taken.lock();
            if *taken + more > self.permits.total {
                return false;
            }
            *taken += more;
            self.count += more;
        }
        true
    }

    /// Returns all permits but `count`.
    pub fn shrink(&mut self, count: u64) {
        let spare = self.count.saturating_sub(count);
        self.count -= spare;
        *self.permits.taken.lock() -= spare;
        self.permits.returned.notify_all();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
