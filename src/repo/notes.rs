//! What a machine writes down about a distant store, in the spool: that it has shown its identity, so that the
//! next push need not wait for that again before it sends; that it failed. Notes may be deleted at any moment, grow
//! old soon, and prove nothing.

use super::Lineage;
use crate::error::Kind;
use crate::storage::{Directory, Key, Mode, Storage};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// How long a store is believed to be the one that it showed itself to be.
const KNOWN: SignedDuration = SignedDuration::from_hours(1);

/// How long a store that failed is left in peace by those who can do without it.
const DOWN: SignedDuration = SignedDuration::from_secs(60);

#[derive(Clone)]
pub struct Notes {
    spool: Arc<Directory>,
    place: String,
    now: Timestamp,
}

impl Notes {
    /// `place` tells one store from another, also when the configuration gives its name to another one; it is
    /// part of a key.
    pub fn new(spool: Arc<Directory>, place: String, now: Timestamp) -> Notes {
        Notes { spool, place, now }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Whether the store has shown not long ago that it is the one of this cluster.
    pub fn is_known(&self, lineage: Lineage) -> bool {
        self.is_noted(&format!("known/{lineage}"), KNOWN)
    }

    pub fn write_known(&self, lineage: Lineage) {
        self.write(&format!("known/{lineage}"), "it has shown its identity\n");
    }

    pub fn forget_known(&self, lineage: Lineage) {
        if let Some(key) = self.key(&format!("known/{lineage}")) {
            // What cannot be forgotten is believed for a while longer, and proved wrong every time.
            let _ = self.spool.delete(&[key]);
        }
    }

    /// Whether the store failed a moment ago.
    pub fn is_down(&self) -> bool {
        self.is_noted("down", DOWN)
    }

    pub fn write_down(&self, why: &str) {
        self.write("down", why);
    }

    fn key(&self, name: &str) -> Option<Key> {
        Key::new(format!("notes/{}/{name}", self.place)).ok()
    }

    fn is_noted(&self, name: &str, age: SignedDuration) -> bool {
        let written = self.key(name).and_then(|key| self.spool.head(&key).ok()?);
        // A clock that was set back makes a note no younger.
        written.is_some_and(|entry| self.now.duration_since(entry.modified).abs() <= age)
    }

    fn write(&self, name: &str, content: &str) {
        let Some(key) = self.key(name) else {
            return;
        };
        let content = content.as_bytes().to_vec();
        let put = || self.spool.put(&key, &content, Mode::Replace);
        // The first time there may be no spool. One that cannot be made costs a wait every time, no more.
        if put().is_err_and(|error| error.kind() == Kind::Absent) && self.spool.prepare().is_ok() {
            let _ = put();
        }
    }
}
