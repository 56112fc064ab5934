//! Exclusive creates on a store that ignores the condition.

use super::{Body, Entry, Key, Mode, Object, Page, Put, Storage};
use crate::error::Result;
use std::ops::Range;

/// A store on which writers announce themselves before they create.
pub struct Claims<S> {
    store: S,
}

impl<S: Storage> Claims<S> {
    pub fn new(store: S) -> Claims<S> {
        Claims { store }
    }
}

impl<S: Storage> Storage for Claims<S> {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        self.store.put(key, body, mode)
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.store.get(key, range)
    }

    fn head(&self, key: &Key) -> Result<Option<Entry>> {
        self.store.head(key)
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.store.list(folder, after, limit)
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        self.store.delete(keys)
    }

    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        self.store.clean(before)
    }

    fn url(&self) -> String {
        self.store.url()
    }

    fn prepare(&self) -> Result<()> {
        self.store.prepare()
    }

    fn prove(&self) -> Result<()> {
        self.store.prove()
    }
}
