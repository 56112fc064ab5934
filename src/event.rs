//! What an operation says while it works. Operations tell an [`Observer`]; terminals, logs and metrics
//! are made of what it hears. Knows nothing of how anything is shown.

use crate::error::Error;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(20);

/// One thing that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A new step of the work begins: `waiting for the checkpoint`.
    Step(&'a str),
    /// How far the work with a known size is, in bytes; `done` never exceeds `total`.
    Progress { done: u64, total: u64 },
    /// Worth telling, needs no action.
    Note(&'a str),
    /// Something is not as it should be, and the work goes on.
    Warning(&'a Error),
}

/// Hears events, from any thread.
pub trait Observer: Sync {
    fn event(&self, event: Event<'_>);

    /// Whether somebody wants the operation to end early. Those that leave nothing behind ask now and then.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Hears and forgets.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// Tells again and again how much is done, and of how much, until the channel is closed.
pub fn progress(observer: &dyn Observer, over: &Receiver<()>, done: impl Fn() -> (u64, u64)) {
    loop {
        let (done, total) = done();
        observer.event(Event::Progress { done: done.min(total), total });
        if over.recv_timeout(PROGRESS) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
