//! Keys to bytes, nothing else. Knows nothing of WAL, backups and configuration.
//!
//! Six promises, each held by every store:
//! 1. All or nothing: no reader ever sees part of an object.
//! 2. Ok means durable, also when the answer is that the object was there already.
//! 3. What was put is at once read and listed.
//! 4. [`Mode::Create`] never replaces, also in a race.
//! 5. Deleting what is not there is Ok; a deletion is durable.
//! 6. Listing is in the order of the keys' bytes, by whole path segments, in bounded pages.
//!
//! Behaviour is added by wrapping a store, never by a flag.

mod claims;
mod fs;
mod retry;
mod s3;

pub use claims::Claims;
pub use fs::Directory;
pub use retry::{Retry, RetryPolicy};
pub use s3::{Checksums, S3, S3Options, Variable};

use crate::error::{Error, Kind, Result};
use crate::fs::aligned::Aligned;
use std::fmt;
use std::io::Read;
use std::ops::Range;

/// Entries of one page of a listing.
pub const PAGE: usize = 1000;

/// The name of an object, or of a folder of objects: parts of letters, digits, `.`, `_` and `-` with
/// slashes between. No part is empty or begins with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    pub fn new(key: impl Into<String>) -> Result<Key> {
        let key = key.into();
        if key.len() <= 900 && key.split('/').all(is_part) {
            Ok(Key(key))
        } else {
            Err(Error::new(Kind::Failed, format!("`{}` is no key of an object", key.escape_debug())))
        }
    }

    /// The key of something in this folder.
    pub fn join(&self, rest: impl fmt::Display) -> Result<Key> {
        Key::new(format!("{}/{rest}", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

/// Whether it can stand between the slashes of a key.
fn is_part(part: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(fine)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to do when the key has an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Leave it and say so.
    Create,
    /// Put the new one in its place, in one step.
    Replace,
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Stored,
    /// [`Mode::Create`] met an object; it is durable, its content is not compared.
    Exists,
}

/// The bytes of an object to be. Opened only when they are needed, and again for another attempt or
/// another store.
pub trait Body: Sync {
    fn open(&self) -> Result<Bytes<'_>>;
}

/// An opened body.
pub enum Bytes<'a> {
    Whole(&'a [u8]),
    Stream(Box<dyn Read + 'a>),
}

impl Body for Vec<u8> {
    fn open(&self) -> Result<Bytes<'_>> {
        Ok(Bytes::Whole(self))
    }
}

impl Body for Aligned {
    fn open(&self) -> Result<Bytes<'_>> {
        Ok(Bytes::Whole(self))
    }
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub key: Key,
    /// Bytes as stored.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: jiff::Timestamp,
}

/// Part of a listing; with `more` it goes on after the last entry.
#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<ListedObject>,
    pub more: bool,
}

/// A reader of an object's bytes.
pub type Object = Box<dyn Read + Send>;

pub trait Storage: Send + Sync {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put>;

    /// The object, or the part of it that the range names; `None` when there is no such object.
    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>>;

    /// Whether there is such an object, and how large.
    fn head(&self, key: &Key) -> Result<Option<ListedObject>>;

    /// The objects below `folder` whose keys are greater than `after`, at most `limit` (and [`PAGE`]).
    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page>;

    fn delete(&self, keys: &[Key]) -> Result<()>;

    /// Removes what crashed writers left behind before this moment. Says how many files.
    fn clean(&self, before: jiff::Timestamp) -> Result<u64>;

    /// How it is named in messages: its URL.
    fn url(&self) -> String;

    /// Makes the place where objects go, durable, if it is this store's to make. Only `init` may do this.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Proves what a store may promise and not keep: that a missing object is told from one that may not be
    /// read, and that [`Mode::Create`] never replaces.
    fn prove(&self) -> Result<()> {
        Ok(())
    }
}

/// Every object below `folder`, page by page.
pub fn list_all(
    store: &dyn Storage,
    folder: &Key,
    mut each: impl FnMut(ListedObject) -> Result<()>,
) -> Result<()> {
    let mut after: Option<Key> = None;
    loop {
        let page = store.list(folder, after.as_ref(), PAGE)?;
        let last = page.entries.last().map(|entry| entry.key.clone());
        for entry in page.entries {
            each(entry)?;
        }
        if !page.more || last.is_none() {
            return Ok(());
        }
        after = last;
    }
}

/// Something that is stored to see what a store does with it. No cluster's name begins like this.
const PROBE: &str = "-probe/create";

/// Proves by trying that a store tells a missing object from a forbidden one, and never replaces one that it
/// was to create.
fn prove(store: &dyn Storage) -> Result<()> {
    let missing = Key::new(format!("-probe/{}", random_name()?))?;
    if store.get(&missing, None)?.is_some() {
        return Err(Error::new(
            Kind::Identity,
            format!("the store has an object under {missing}, a name just made up"),
        )
        .hint("is `endpoint` the address of an S3 server?"));
    }
    let probe = Key::new(PROBE)?;
    let body = b"walkeep stores this twice to see that the second time is refused\n".to_vec();
    // Whoever comes later finds it there, which is the proof already.
    if store.put(&probe, &body, Mode::Create)? == Put::Exists
        || store.put(&probe, &body, Mode::Create)? == Put::Exists
    {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "the store replaces objects that it was asked to create: it ignores `If-None-Match`, and two writers could lose data")
        .hint("set `conditional_create = false` for this repository, or use a store that knows conditional creates"))
}

/// Twenty-four hexadecimal digits that nobody else comes up with.
fn random_name() -> Result<String> {
    let mut random = [0; 12];
    getrandom::fill(&mut random).map_err(|e| Error::new(Kind::Failed, format!("read random bytes: {e}")))?;
    Ok(hex::encode(random))
}
