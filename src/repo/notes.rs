//! What a machine writes down about a distant store, in the spool, so that it need not be asked every time:
//! that it has shown its identity, that it did not answer. Notes may be deleted at any moment, and what cannot be
//! written down is asked again. They grow old soon.

use crate::error::Kind;
use crate::storage::{Directory, Key, Mode, Storage};
use jiff::{SignedDuration, Timestamp};
use std::io::Read;
use std::sync::Arc;

/// How long a store is believed to be the one that it showed itself to be.
const KNOWN: SignedDuration = SignedDuration::from_hours(1);

/// How long a store that failed is left in peace by those who can do without it.
const DOWN: SignedDuration = SignedDuration::from_secs(60);

const LARGEST: u64 = 64 << 10;

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

    /// What was written down about an identity, if that is not long ago.
    pub(super) fn identity(&self, key: &Key) -> Option<Vec<u8>> {
        self.read(key.as_str(), KNOWN)
    }

    pub(super) fn write_identity(&self, key: &Key, content: Vec<u8>) {
        self.write(key.as_str(), content);
    }

    /// Whether the store failed a moment ago.
    pub fn is_down(&self) -> bool {
        self.read("down", DOWN).is_some()
    }

    pub fn write_down(&self, why: &str) {
        self.write("down", why.as_bytes().to_vec());
    }

    fn key(&self, name: &str) -> Option<Key> {
        Key::new(format!("notes/{}/{name}", self.place)).ok()
    }

    fn read(&self, name: &str, age: SignedDuration) -> Option<Vec<u8>> {
        let key = self.key(name)?;
        let written = self.spool.head(&key).ok()??.modified;
        // A clock that was set back makes a note no younger.
        if self.now.duration_since(written).abs() > age {
            return None;
        }
        let mut content = Vec::new();
        self.spool.get(&key, None).ok()??.take(LARGEST).read_to_end(&mut content).ok()?;
        Some(content)
    }

    fn write(&self, name: &str, content: Vec<u8>) {
        let Some(key) = self.key(name) else {
            return;
        };
        let put = || self.spool.put(&key, &content, Mode::Replace);
        // The first time there may be no spool. One that cannot be made costs a request every time, no more.
        if put().is_err_and(|error| error.kind() == Kind::Absent) && self.spool.prepare().is_ok() {
            let _ = put();
        }
    }
}
