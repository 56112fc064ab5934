//! Channels between threads.

use super::clock::MonotonicTime;
use super::{number_of, scheduler};
use crossbeam_channel::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use std::sync::Arc;
use std::time::Duration;

/// The end of a channel that values are sent to.
pub struct Sender<T> {
    inner: crossbeam_channel::Sender<T>,
    shared: Arc<ChannelState>,
}

/// The end of a channel that values are received from.
pub struct Receiver<T> {
    inner: crossbeam_channel::Receiver<T>,
    shared: Arc<ChannelState>,
}

struct ChannelState {
    /// True for a channel that holds no value: a value is sent only to a thread that receives.
    is_rendezvous: bool,
}

/// Creates a channel that holds at most `capacity` values. In a simulation, a channel without
/// capacity holds one: of two threads that would have to meet, only one runs.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let room = if scheduler().is_some() { capacity.max(1) } else { capacity };
    pair(crossbeam_channel::bounded(room), capacity == 0)
}

/// Creates a channel without a limit.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    pair(crossbeam_channel::unbounded(), false)
}

fn pair<T>(
    (sender, receiver): (crossbeam_channel::Sender<T>, crossbeam_channel::Receiver<T>),
    is_rendezvous: bool,
) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(ChannelState { is_rendezvous });
    (Sender { inner: sender, shared: Arc::clone(&shared) }, Receiver { inner: receiver, shared })
}

impl ChannelState {
    fn number(&self) -> usize {
        number_of(self)
    }

    /// Lets the threads at the other end look again.
    fn changed(&self) {
        if let Some(scheduler) = scheduler() {
            scheduler.wake(self.number());
        }
    }
}

impl<T> Sender<T> {
    /// Sends a value, and waits for room.
    ///
    /// # Errors
    ///
    /// When every receiver is gone; the error has the value.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        let Some(scheduler) = scheduler() else {
            return self.inner.send(value);
        };
        let mut value = value;
        loop {
            value = match self.inner.try_send(value) {
                Ok(()) => {
                    self.shared.changed();
                    return Ok(());
                }
                Err(TrySendError::Disconnected(value)) => return Err(SendError(value)),
                Err(TrySendError::Full(value)) => value,
            };
            scheduler.park(self.shared.number(), None);
        }
    }

    /// Sends a value if there is room, or if a receiver waits for it.
    ///
    /// # Errors
    ///
    /// When there is no room, or when every receiver is gone; the error has the value.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        if scheduler().is_some() && self.shared.is_rendezvous {
            return Err(TrySendError::Full(value));
        }
        let sent = self.inner.try_send(value);
        self.shared.changed();
        sent
    }
}

impl<T> Receiver<T> {
    /// Waits for a value.
    ///
    /// # Errors
    ///
    /// When no value is left and every sender is gone.
    pub fn recv(&self) -> Result<T, RecvError> {
        if scheduler().is_none() {
            return self.inner.recv();
        }
        self.recv_until(None).map_err(|_| RecvError)
    }

    /// Waits for a value, at most for `time`.
    ///
    /// # Errors
    ///
    /// When none came in time, or when none is left and every sender is gone.
    pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        if scheduler().is_none() {
            return self.inner.recv_timeout(time);
        }
        self.recv_until(Some(MonotonicTime::now() + time))
    }

    /// Returns a value that was sent.
    ///
    /// # Errors
    ///
    /// When no value waits.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let received = self.inner.try_recv();
        self.shared.changed();
        received
    }

    /// Waits for a value under a scheduler.
    fn recv_until(&self, end: Option<MonotonicTime>) -> Result<T, RecvTimeoutError> {
        let mut is_late = false;
        loop {
            match self.try_recv() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if is_late => return Err(RecvTimeoutError::Timeout),
                Err(TryRecvError::Empty) => {}
            }
            if let Some(scheduler) = scheduler() {
                scheduler.park(self.shared.number(), end.map(MonotonicTime::since_start));
            }
            is_late = end.is_some_and(|end| end.left().is_zero());
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

// The other end looks again after the next wait of this thread, when this end is gone.

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.changed();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.changed();
    }
}

/// The values of a channel, until none is left and every sender is gone.
pub struct Values<T>(Receiver<T>);

impl<T> Iterator for Values<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = Values<T>;

    fn into_iter(self) -> Values<T> {
        Values(self)
    }
}
