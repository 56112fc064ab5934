//! Hints about a remote store, kept in the spool of this machine. One says that the store has shown
//! its identity, so that the next push sends its file while it reads the identity; the other that
//! the store failed a moment ago. Hints expire, may be deleted at any moment, and prove nothing.

use super::Lineage;
use crate::error::Kind;
use crate::storage::{Directory, Key, Mode, Storage};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// Lifetime of a hint about the identity of a store.
const MAX_KNOWN_AGE: SignedDuration = SignedDuration::from_hours(1);

/// Duration for which an optional store that failed is not tried again.
const MAX_DOWN_AGE: SignedDuration = SignedDuration::from_secs(60);

/// Hints about one remote store.
#[derive(Clone)]
pub struct RemoteHints {
    spool: Arc<Directory>,
    place: String,
    now: Timestamp,
}

impl RemoteHints {
    /// Hints about the store `place`: a part of a key that differs between any two stores, even
    /// when the configuration gives both the same name.
    pub fn new(spool: Arc<Directory>, place: String, now: Timestamp) -> RemoteHints {
        RemoteHints { spool, place, now }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Whether the store has recently shown the identity of this cluster's repository.
    pub fn is_known(&self, lineage: Lineage) -> bool {
        self.is_noted(&known(lineage), MAX_KNOWN_AGE)
    }

    /// Records that the store has shown the identity of this cluster's repository.
    pub fn write_known(&self, lineage: Lineage) {
        self.write(&known(lineage), "it has shown its identity\n");
    }

    /// Removes the hint about the identity.
    pub fn forget_known(&self, lineage: Lineage) {
        if let Some(key) = self.key(&known(lineage)) {
            // A hint that cannot be removed only costs a failed attempt at every push until it
            // expires.
            let _ = self.spool.delete(&[key]);
        }
    }

    /// Whether the store failed a moment ago.
    pub fn is_down(&self) -> bool {
        self.is_noted("down", MAX_DOWN_AGE)
    }

    /// Records that the store failed, and why.
    pub fn write_down(&self, why: &str) {
        self.write("down", why);
    }

    fn key(&self, name: &str) -> Option<Key> {
        Key::new(format!("notes/{}/{name}", self.place)).ok()
    }

    fn is_noted(&self, name: &str, max_age: SignedDuration) -> bool {
        let written = self.key(name).and_then(|key| self.spool.head(&key).ok()?);
        // The absolute value, so that a clock that was set back does not prolong a hint.
        written.is_some_and(|entry| self.now.duration_since(entry.modified).abs() <= max_age)
    }

    fn write(&self, name: &str, content: &str) {
        let Some(key) = self.key(name) else {
            return;
        };
        let content = content.as_bytes().to_vec();
        let put = || self.spool.put(&key, &content, Mode::Replace);
        // The spool may not exist yet. One that cannot be created only costs a wait at every call.
        if put().is_err_and(|error| error.kind() == Kind::Absent) && self.spool.prepare().is_ok() {
            let _ = put();
        }
    }
}

fn known(lineage: Lineage) -> String {
    format!("known/{lineage}")
}
