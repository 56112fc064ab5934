//! Progress, cancellation and reports of an operation: two counters, a flag, and the events of
//! `tracing` that have fixed fields. Knows nothing of terminals, files and formats.

use crate::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tracing::{debug, error, info, warn};

/// Target of the events that name the steps of an operation.
pub const STEP: &str = "walkeep::step";

/// Counters of the work of one operation, in bytes. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Number of bytes that are done, never more than [`Progress::total`].
    pub fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed).min(self.total())
    }

    /// Number of bytes to do, as far as it is known; 0 at first.
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// Adds to the number of bytes that are done.
    pub fn add_done(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the number of bytes to do.
    pub fn add_total(&self, bytes: u64) {
        self.0.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Replaces both counters.
    pub fn set(&self, done: u64, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
        self.0.done.store(done, Ordering::Relaxed);
    }
}

/// A request to end an operation early. Clones share it. Operations that can end without leaving
/// anything behind check it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Makes the request.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the request was made.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reports the start of a step, for instance `waiting for the checkpoint`.
pub fn step(text: &str) {
    info!(target: STEP, "{text}");
}

/// Reports an error that does not end the operation.
pub fn warn(error: &Error) {
    warn!(kind = error.kind().as_str(), hint = error.advice(), "{error}");
}

/// Reports an error that needs no action, because the work is done again in another way.
pub fn debug(error: &Error) {
    debug!(kind = error.kind().as_str(), hint = error.advice(), "{error}");
}

/// Reports an error that ends the operation, or a part of it.
pub fn error(error: &Error) {
    error!(kind = error.kind().as_str(), hint = error.advice(), "{error}");
}
