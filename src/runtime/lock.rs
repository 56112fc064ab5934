//! Locks that are held while another thread may run: across a request to a store, or a wait. A lock
//! that is not may be one of parking_lot.

use super::clock::MonotonicTime;
use super::{number_of, scheduler};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// A lock.
#[derive(Debug, Default)]
pub struct Mutex<T>(parking_lot::Mutex<T>);

/// The value of a lock, until it is dropped.
pub struct Guard<'a, T> {
    inner: parking_lot::MutexGuard<'a, T>,
    number: usize,
}

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(parking_lot::Mutex::new(value))
    }

    pub fn lock(&self) -> Guard<'_, T> {
        let number = number_of(self);
        let Some(scheduler) = scheduler() else {
            return Guard { inner: self.0.lock(), number };
        };
        loop {
            if let Some(inner) = self.0.try_lock() {
                return Guard { inner, number };
            }
            scheduler.park(number, None);
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Drop for Guard<'_, T> {
    /// Wakes the threads that wait for the lock. They run after the next wait of this thread, when
    /// the lock is free.
    fn drop(&mut self) {
        if let Some(scheduler) = scheduler() {
            scheduler.wake(self.number);
        }
    }
}

/// A condition that threads wait for.
#[derive(Debug, Default)]
pub struct Condition(parking_lot::Condvar);

impl Condition {
    pub fn new() -> Condition {
        Condition(parking_lot::Condvar::new())
    }

    /// Lets all threads that wait look again.
    pub fn notify_all(&self) {
        match scheduler() {
            None => drop(self.0.notify_all()),
            Some(scheduler) => scheduler.wake(number_of(self)),
        }
    }

    /// Waits while `is_waiting` is true, at most for `time`.
    pub fn wait_while<T>(
        &self,
        guard: &mut Guard<'_, T>,
        mut is_waiting: impl FnMut(&mut T) -> bool,
        time: Duration,
    ) {
        let Some(scheduler) = scheduler() else {
            self.0.wait_while_for(&mut guard.inner, is_waiting, time);
            return;
        };
        let end = MonotonicTime::now() + time;
        while is_waiting(&mut guard.inner) {
            let mutex = parking_lot::MutexGuard::mutex(&guard.inner);
            parking_lot::MutexGuard::unlocked(&mut guard.inner, || {
                scheduler.wake(guard.number);
                scheduler.park(number_of(self), Some(end.since_start()));
                // No other thread runs between the last look and the lock.
                while mutex.is_locked() {
                    scheduler.park(guard.number, None);
                }
            });
            if end.left().is_zero() {
                return;
            }
        }
    }
}
