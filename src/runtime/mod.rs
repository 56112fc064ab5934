//! Threads, waiting and the monotonic clock of the operations. Everything that waits for another
//! thread goes through this room, so that a simulation can decide the order of all steps: a
//! [`Scheduler`] is entered with [`enter`], is inherited by the threads that are started below, and
//! lets one of them run at a time. Without a scheduler each function is the one of std, parking_lot
//! or crossbeam that it wraps.

pub mod channel;
pub mod clock;
pub mod lock;
pub mod thread;

use crate::error::{Error, Kind, Result};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// Order and time of the steps of several threads, of which one runs at a time.
pub trait Scheduler: Send + Sync {
    /// Time of the monotonic clock, since a moment that does not change.
    fn now(&self) -> Duration;

    /// Lets other threads run until one of them calls [`Scheduler::wake`] with the same number, or
    /// until the clock shows `until`. May return earlier.
    fn park(&self, on: usize, until: Option<Duration>);

    /// Makes every thread that is parked on this number able to run.
    fn wake(&self, on: usize);

    /// Announces a thread that the current thread is about to start, and returns its scheduler. The
    /// new thread calls `begin` before its first step, and `end` after its last.
    fn starts(&self, name: &str) -> Arc<dyn Scheduler>;

    /// Waits for the first turn of the current thread.
    fn begin(&self);

    /// Ends the current thread.
    fn end(&self);

    /// The host and the process that the current thread belongs to.
    fn process(&self) -> SimulatedProcess;

    /// Whether a process of this host has ended.
    fn has_ended(&self, pid: u32) -> bool;

    /// Fills `bytes` with random bytes.
    fn random(&self, bytes: &mut [u8]);
}

/// A host and a process of it, as a simulation has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedProcess {
    pub host: String,
    pub pid: u32,
}

thread_local! {
    static SCHEDULER: RefCell<Option<Arc<dyn Scheduler>>> = const { RefCell::new(None) };
}

/// Returns the scheduler of the current thread; `None` outside of a simulation.
pub fn scheduler() -> Option<Arc<dyn Scheduler>> {
    SCHEDULER.with_borrow(Clone::clone)
}

/// Runs `work` as a thread of a scheduler, from its first turn to its end.
pub fn enter<T>(scheduler: Arc<dyn Scheduler>, work: impl FnOnce() -> T) -> T {
    struct Entered(Arc<dyn Scheduler>);
    impl Drop for Entered {
        fn drop(&mut self) {
            SCHEDULER.set(None);
            self.0.end();
        }
    }
    scheduler.begin();
    SCHEDULER.set(Some(Arc::clone(&scheduler)));
    let _entered = Entered(scheduler);
    work()
}

/// Fills `bytes` with random bytes.
///
/// # Errors
///
/// Those of the operating system.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    match scheduler() {
        None => getrandom::fill(bytes)
            .map_err(|error| Error::new(Kind::Failed, format!("read random bytes: {error}"))),
        Some(scheduler) => {
            scheduler.random(bytes);
            Ok(())
        }
    }
}

/// Number that threads park on for a value: its address.
fn number_of<T: ?Sized>(value: &T) -> usize {
    std::ptr::from_ref(value).cast::<()>().addr()
}
