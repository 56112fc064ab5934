//! Retries of requests that failed for a transient reason: a lost connection, a busy store, a
//! missing answer.
//!
//! A create whose answer was lost may have succeeded. So before the create is sent again, the key
//! is read, and an object with exactly the same bytes counts as stored.

use super::traced::ATTEMPT;
use super::{Body, ForeignEntry, Key, ListedObject, Mode, Object, OpenBody, Page, Put, Storage};
use crate::error::{Error, Result};
use crate::runtime::{self, thread};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Number of attempts, and pauses between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts at a request to a store that has not answered any request yet; at least one.
    pub max_attempts: u32,
    /// Attempts at a request to a store that has answered before, for which a longer wait is
    /// worthwhile.
    pub max_attempts_after_answer: u32,
    /// Upper limit of the first pause; each further limit is twice as long.
    pub first_pause: Duration,
    /// Upper limit of a pause.
    pub max_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            max_attempts: 5,
            max_attempts_after_answer: 7,
            first_pause: Duration::from_millis(100),
            max_pause: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    /// Calls `attempt` until it succeeds, fails with an error that is not transient, or has been
    /// called often enough. `attempt` takes the number of failures so far; `has_answered` selects
    /// the limit.
    pub(super) fn retry<T>(
        &self,
        has_answered: impl Fn() -> bool,
        attempt: impl FnMut(u32) -> Result<T>,
    ) -> Result<T> {
        self.retry_unless(has_answered, |_| false, attempt)
    }

    /// Like [`RetryPolicy::retry`], and gives up early when `is_hopeless` returns true, which takes
    /// the number of failures so far.
    fn retry_unless<T>(
        &self,
        has_answered: impl Fn() -> bool,
        is_hopeless: impl Fn(u32) -> bool,
        mut attempt: impl FnMut(u32) -> Result<T>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            let error = match attempt(failures) {
                Err(error) if error.kind().is_transient() => error,
                result => return result,
            };
            failures += 1;
            let most = if has_answered() { self.max_attempts_after_answer } else { self.max_attempts };
            if failures >= most || is_hopeless(failures) {
                return Err(match failures {
                    1 => error,
                    _ => error.doing(format!("after {failures} attempts")),
                });
            }
            thread::sleep(self.pause(failures));
        }
    }

    /// Pause after this many failures: a random duration between half of the limit and the limit,
    /// so that many clients of a busy store do not retry at the same time.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let doubled = self.first_pause.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        let mut random = [0; 2];
        // Without random bytes the pause is half of the limit.
        let _ = runtime::random(&mut random);
        let share = 0.5 + f64::from(u16::from_ne_bytes(random)) / f64::from(u16::MAX) / 2.0;
        doubled.min(self.max_pause).mul_f64(share)
    }
}

/// A store whose transient failures are retried.
pub struct Retry<S> {
    store: S,
    policy: RetryPolicy,
    /// See [`Retry::at_object`].
    max_attempts_at_object: Option<u32>,
    /// Whether the store has answered any request.
    has_answered: AtomicBool,
    /// Key that was read last.
    answered: Mutex<Option<Key>>,
    /// Keys of objects that could not be read while the store answered.
    hopeless: Mutex<BTreeSet<Key>>,
}

impl<S: Storage> Retry<S> {
    pub fn new(store: S, policy: RetryPolicy) -> Retry<S> {
        Retry {
            store,
            policy,
            max_attempts_at_object: None,
            has_answered: AtomicBool::new(false),
            answered: Mutex::default(),
            hopeless: Mutex::default(),
        }
    }

    /// Makes a read of an object that fails while the store answers other requests give up after
    /// this many attempts. Later requests for such an object get one attempt.
    #[must_use]
    pub fn at_object(self, max_attempts: Option<u32>) -> Retry<S> {
        Retry { max_attempts_at_object: max_attempts, ..self }
    }

    /// Retries the read of an object.
    fn read<T>(&self, key: &Key, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let Some(most) = self.max_attempts_at_object else {
            return self.retry(|_| attempt());
        };
        let is_hopeless = |failures: u32| {
            if self.hopeless.lock().contains(key) {
                return true;
            }
            let is_hopeless = failures >= most && self.answers_beside(key);
            if is_hopeless {
                self.hopeless.lock().insert(key.clone());
            }
            is_hopeless
        };
        let read = self.policy.retry_unless(
            || self.has_answered.load(Ordering::Relaxed),
            is_hopeless,
            |failures| {
                ATTEMPT.set(failures + 1);
                attempt()
            },
        )?;
        self.has_answered.store(true, Ordering::Relaxed);
        if read.is_some() {
            *self.answered.lock() = Some(key.clone());
        }
        Ok(read)
    }

    /// Whether the store answers a request for another object, which it has answered before.
    fn answers_beside(&self, key: &Key) -> bool {
        let other = self.answered.lock().clone().filter(|other| other != key);
        other.is_some_and(|other| self.store.head(&other).is_ok())
    }

    fn retry<T>(&self, mut attempt: impl FnMut(u32) -> Result<T>) -> Result<T> {
        self.policy.retry(
            || self.has_answered.load(Ordering::Relaxed),
            |failures| {
                ATTEMPT.set(failures + 1);
                let answer = attempt(failures)?;
                self.has_answered.store(true, Ordering::Relaxed);
                Ok(answer)
            },
        )
    }

    /// Outcome of an earlier attempt at a create: `None` when the key has no object, `Stored` when
    /// the object has the bytes of `body`, `Exists` when it has others.
    fn outcome(&self, key: &Key, body: &dyn Body) -> Result<Option<Put>> {
        match self.store.get(key, None)? {
            None => Ok(None),
            Some(object) => Ok(Some(if is_same(object, body)? { Put::Stored } else { Put::Exists })),
        }
    }
}

/// Number of bytes that are compared at a time.
const COMPARED_CHUNK: u64 = 64 << 10;

/// Whether an object has the bytes of a body.
fn is_same(mut object: Object, body: &dyn Body) -> Result<bool> {
    match body.open()? {
        OpenBody::Whole(mut bytes) => same(&mut object, &mut bytes),
        OpenBody::Stream(mut stream) => same(&mut object, &mut stream),
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

/// Replaces the content of `chunk` by the next bytes of `source`; `chunk` is empty at the end.
fn chunk(source: &mut dyn Read, chunk: &mut Vec<u8>) -> Result<()> {
    chunk.clear();
    let read = source.take(COMPARED_CHUNK).read_to_end(chunk);
    read.map(|_| ()).map_err(|e| Error::from_io("compare with the stored object", e))
}

impl<S: Storage> Storage for Retry<S> {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        self.retry(|failures| {
            if failures > 0
                && mode == Mode::Create
                && let Some(put) = self.outcome(key, body)?
            {
                return Ok(put);
            }
            self.store.put(key, body, mode)
        })
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.read(key, || self.store.get(key, range.clone()))
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        self.read(key, || self.store.head(key))
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.retry(|_| self.store.list(folder, after, limit))
    }

    fn foreign(&self, folder: &Key) -> Result<Vec<ForeignEntry>> {
        self.retry(|_| self.store.foreign(folder))
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        self.retry(|_| self.store.delete(keys))
    }

    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        self.retry(|_| self.store.clean(before))
    }

    fn url(&self) -> String {
        self.store.url()
    }

    fn prepare(&self) -> Result<()> {
        // Not retried: a store with nothing to prepare succeeds without having answered.
        self.store.prepare()
    }

    fn prove(&self) -> Result<()> {
        self.retry(|_| self.store.prove())
    }
}
