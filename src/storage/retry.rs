//! Tries again what may succeed a moment later: lost connections, busy stores, answers that never came.
//!
//! A create whose answer was lost may have happened. So before one is sent again the key is looked at, and an
//! object with the very same bytes is taken for the one that was sent.

use super::{Body, Bytes, Key, ListedObject, Mode, Object, Page, Put, Storage};
use crate::error::{Error, Result};
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often, and how long to wait between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts at a request to a store that has not answered yet; at least one.
    pub attempts: u32,
    /// Attempts at a request to one that has: what worked a moment ago is worth waiting for.
    pub attempts_later: u32,
    /// The first wait, about; each is twice the one before.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts: 5,
            attempts_later: 7,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    /// Calls until something else than a passing failure comes of it, or patience is over. The attempts learn
    /// how many have failed before.
    pub(super) fn again<T>(
        &self,
        has_answered: impl Fn() -> bool,
        mut attempt: impl FnMut(u32) -> Result<T>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            let error = match attempt(failures) {
                Err(error) if error.kind().is_transient() => error,
                result => return result,
            };
            failures += 1;
            let most = if has_answered() { self.attempts_later } else { self.attempts };
            if failures >= most {
                return Err(match failures {
                    1 => error,
                    _ => error.doing(format!("after {failures} attempts")),
                });
            }
            std::thread::sleep(self.pause(failures));
        }
    }

    /// How long to wait after this many failures: somewhere between half of it and all of it, so that many
    /// clients of a busy store do not come back in step.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        let mut random = [0; 2];
        // Without randomness it is still a wait.
        let _ = getrandom::fill(&mut random);
        let share = 0.5 + f64::from(u16::from_ne_bytes(random)) / f64::from(u16::MAX) / 2.0;
        doubled.min(self.longest).mul_f64(share)
    }
}

/// A store whose passing failures are tried again.
pub struct Retry<S> {
    store: S,
    patience: RetryPolicy,
    /// Whether the store has answered anything.
    answered: AtomicBool,
}

impl<S: Storage> Retry<S> {
    pub fn new(store: S, patience: RetryPolicy) -> Retry<S> {
        Retry { store, patience, answered: AtomicBool::new(false) }
    }

    fn again<T>(&self, mut attempt: impl FnMut(u32) -> Result<T>) -> Result<T> {
        self.patience.again(
            || self.answered.load(Ordering::Relaxed),
            |failures| {
                let answer = attempt(failures)?;
                self.answered.store(true, Ordering::Relaxed);
                Ok(answer)
            },
        )
    }

    /// What is under the key of a create that failed: nothing, what was to be created, or something else.
    fn found(&self, key: &Key, body: &dyn Body) -> Result<Option<Put>> {
        match self.store.get(key, None)? {
            None => Ok(None),
            Some(object) => Ok(Some(if is_same(object, body)? { Put::Stored } else { Put::Exists })),
        }
    }
}

/// Whether an object has the bytes of a body.
fn is_same(mut object: Object, body: &dyn Body) -> Result<bool> {
    match body.open()? {
        Bytes::Whole(mut bytes) => same(&mut object, &mut bytes),
        Bytes::Stream(mut stream) => same(&mut object, &mut stream),
    }
}

fn same(theirs: &mut dyn Read, ours: &mut dyn Read) -> Result<bool> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        chunk(theirs, &mut left)?;
        chunk(ours, &mut right)?;
        if left != right || left.is_empty() {
            return Ok(left == right);
        }
    }
}

fn chunk(source: &mut dyn Read, chunk: &mut Vec<u8>) -> Result<()> {
    chunk.clear();
    let read = source.take(64 << 10).read_to_end(chunk);
    read.map(|_| ()).map_err(|e| Error::io("compare with what is stored", &e))
}

impl<S: Storage> Storage for Retry<S> {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        self.again(|failures| {
            if failures > 0
                && mode == Mode::Create
                && let Some(put) = self.found(key, body)?
            {
                return Ok(put);
            }
            self.store.put(key, body, mode)
        })
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.again(|_| self.store.get(key, range.clone()))
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        self.again(|_| self.store.head(key))
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.again(|_| self.store.list(folder, after, limit))
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        self.again(|_| self.store.delete(keys))
    }

    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        self.again(|_| self.store.clean(before))
    }

    fn url(&self) -> String {
        self.store.url()
    }

    fn prepare(&self) -> Result<()> {
        // Not through `again`: what has nothing to prepare has not answered.
        self.store.prepare()
    }

    fn prove(&self) -> Result<()> {
        self.again(|_| self.store.prove())
    }
}
