//! A bound on what segments that are pushed at once may take together: memory, or threads.

use crate::error::{Error, Kind, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that may be held together.
pub struct Budget {
    total: u64,
    held: Mutex<u64>,
    freed: Condvar,
}

/// A part of the budget, given back when it is dropped.
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub fn new(total: u64) -> Arc<Budget> {
        Arc::new(Budget { total, held: Mutex::new(0), freed: Condvar::new() })
    }

    /// Waits until so much is free; what is larger than the whole budget gets all of it. Nobody may hold a share
    /// while asking for another one.
    pub fn take(self: &Arc<Budget>, bytes: u64, patience: Duration) -> Result<Share> {
        let bytes = bytes.min(self.total);
        let full = |held: &mut u64| *held + bytes > self.total;
        let waited = self.freed.wait_timeout_while(self.held(), patience, full);
        let (mut held, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Error::new(Kind::Timeout, "no memory was given back in time"));
        }
        *held += bytes;
        Ok(Share { budget: Arc::clone(self), bytes })
    }

    fn held(&self) -> MutexGuard<'_, u64> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Divides it, as far as it goes.
    pub fn split(mut self, bytes: u64) -> Vec<Share> {
        let mut shares = Vec::new();
        while bytes > 0 && self.bytes >= bytes {
            self.bytes -= bytes;
            shares.push(Share { budget: Arc::clone(&self.budget), bytes });
        }
        shares
    }

    /// Grows by steps until it has so much; false when that is not free at this moment.
    pub fn hold(&mut self, bytes: u64, step: u64) -> bool {
        if bytes > self.bytes {
            let more = (bytes - self.bytes).next_multiple_of(step);
            let mut held = self.budget.held();
            if *held + more > self.budget.total {
                return false;
            }
            *held += more;
            self.bytes += more;
        }
        true
    }

    /// Gives back what is not needed.
    pub fn shrink(&mut self, bytes: u64) {
        let spare = self.bytes.saturating_sub(bytes);
        self.bytes -= spare;
        *self.budget.held() -= spare;
        self.budget.freed.notify_all();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
