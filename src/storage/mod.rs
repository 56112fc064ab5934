//! Stores of objects: keys to bytes. Does not know WAL, backups and configuration.
//!
//! Every store keeps six promises:
//! 1. All or nothing: no reader ever sees part of an object.
//! 2. Ok means durable, also for [`Put::Exists`].
//! 3. An object can be read and is listed as soon as its put has returned.
//! 4. [`Mode::Create`] never replaces an object, also in a race.
//! 5. Deleting an object that does not exist is Ok; a deletion is durable.
//! 6. A listing is in the order of the keys' bytes, by whole path segments, in bounded pages.
//!
//! Behaviour is added by wrapping a store, never by a flag.

mod claims;
mod fs;
mod retry;
mod s3;
mod traced;

pub use claims::Claims;
pub use fs::Directory;
pub use retry::{Retry, RetryPolicy};
pub use s3::{Checksums, S3, S3Options, Variable};
pub use traced::Traced;

use crate::error::{Error, Kind, Result, part};
use crate::fs::aligned::Aligned;
use crate::fs::folder::random_name;
use std::fmt;
use std::io::Read;
use std::ops::Range;

/// Maximum number of objects on one page of a listing.
pub const PAGE: usize = 1000;

/// Maximum length of a key in bytes. S3 allows 1024, including the prefix of the repository.
const MAX_KEY_LENGTH: usize = 900;

/// Name of an object, or of a folder of objects: parts of letters, digits, `.`, `_` and `-`,
/// separated by slashes. No part is empty or begins with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks and wraps a key.
    ///
    /// # Errors
    ///
    /// `Failed` when `key` is too long, or when one of its parts is not valid.
    pub fn new(key: impl Into<String>) -> Result<Key> {
        let key = key.into();
        if key.len() <= MAX_KEY_LENGTH && key.split('/').all(is_part) {
            Ok(Key(key))
        } else {
            Err(Error::new(Kind::Failed, format!("`{}` is not a valid object key", key.escape_debug())))
        }
    }

    /// The key `rest` in this folder.
    ///
    /// # Errors
    ///
    /// Those of [`Key::new`].
    pub fn join(&self, rest: impl fmt::Display) -> Result<Key> {
        Key::new(format!("{}/{rest}", self.0))
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }
}

/// Whether `part` can stand between the slashes of a key.
fn is_part(part: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_allowed)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Action of a put whose key has an object already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Keep the existing object and answer [`Put::Exists`].
    Create,
    /// Replace the existing object, in one step.
    Replace,
}

/// Outcome of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an object that exists may have other content"]
pub enum Put {
    Stored,
    /// [`Mode::Create`] found an object under the key. That object is durable; its content was not
    /// compared.
    Exists,
}

/// Content of an object to be stored. A store opens it only when it needs the bytes, and once more
/// for every further attempt; several stores may open the same body at once.
pub trait Body: Sync {
    /// Opens the content from its beginning.
    ///
    /// # Errors
    ///
    /// Those of the source of the content. The put that opened the body then fails with the same
    /// error, and stores nothing.
    fn open(&self) -> Result<OpenBody<'_>>;
}

/// An opened body.
pub enum OpenBody<'a> {
    Whole(&'a [u8]),
    Stream(Box<dyn Read + 'a>),
}

impl OpenBody<'_> {
    /// Calls `each` with each piece of the content, in order.
    fn for_each(self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut stream = match self {
            OpenBody::Whole(bytes) => return each(bytes),
            OpenBody::Stream(stream) => stream,
        };
        let mut chunk = vec![0; CHUNK];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(length) => each(part(&chunk, 0..length)?)?,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::from_io(READ_SOURCE, e)),
            }
        }
    }
}

/// Number of bytes of a streamed body that are read at once.
const CHUNK: usize = 256 << 10;

/// The step of a put that reads the body.
const READ_SOURCE: &str = "read the content to be stored";

impl Body for Vec<u8> {
    fn open(&self) -> Result<OpenBody<'_>> {
        Ok(OpenBody::Whole(self))
    }
}

impl Body for Aligned {
    fn open(&self) -> Result<OpenBody<'_>> {
        Ok(OpenBody::Whole(self))
    }
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub key: Key,
    /// Size of the stored object in bytes.
    pub size: u64,
    /// Time of the put, by the store's clock.
    pub modified: jiff::Timestamp,
}

/// An entry of a store that cannot be an object: a folder, a symbolic link, a FIFO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignEntry {
    /// Path below the root of the store.
    pub path: String,
    /// Its type, with the article.
    pub what: &'static str,
}

/// Part of a listing.
#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<ListedObject>,
    /// Whether the listing continues after the last entry, which then exists.
    pub more: bool,
}

/// A reader of an object's bytes.
pub type Object = Box<dyn Read + Send>;

/// A store of objects, which keeps the six promises of this module.
///
/// # Errors
///
/// Every method can fail with `Unavailable` or `Timeout` (another attempt may succeed), `Denied`
/// (permissions), `Identity` (the bucket does not exist, or the server's certificate is not
/// accepted) and `Failed` (an I/O error, or an answer that is not one of a store). The methods
/// document further kinds, and the state of the objects after an error.
pub trait Storage: Send + Sync {
    /// Stores an object.
    ///
    /// # Errors
    ///
    /// `Full` when there is no space, and the errors of the body. After `Unavailable` and `Timeout`
    /// the object may be stored nevertheless, also later; after any other error it is not.
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put>;

    /// Opens an object for reading; with a `range`, only the bytes in it, fewer when the object
    /// ends before. `None` when the object does not exist.
    ///
    /// # Errors
    ///
    /// Never `Absent`. When the store cannot be reached, the result is an error and not `None`.
    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>>;

    /// Returns size and time of an object; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// Those of [`Storage::get`]; `Failed` when the store reports no size or no time.
    fn head(&self, key: &Key) -> Result<Option<ListedObject>>;

    /// Lists the objects below `folder` whose keys are greater than `after`: at most `limit`, and
    /// at most [`PAGE`].
    ///
    /// # Errors
    ///
    /// `Failed` when the store lists an object without its size or its time, or out of order. A
    /// folder that does not exist is not an error: its listing is empty.
    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page>;

    /// Returns everything below `folder` that is not an object, and that a listing does not have.
    ///
    /// # Errors
    ///
    /// Those of [`Storage::list`].
    fn foreign(&self, folder: &Key) -> Result<Vec<ForeignEntry>>;

    /// Deletes objects.
    ///
    /// # Errors
    ///
    /// Never `Absent`. After an error, any of the objects may have been deleted.
    fn delete(&self, keys: &[Key]) -> Result<()>;

    /// Removes the leftovers of crashed writers that are older than `before`. Returns their number.
    ///
    /// # Errors
    ///
    /// After an error, any of the leftovers may have been removed.
    fn clean(&self, before: jiff::Timestamp) -> Result<u64>;

    /// URL of the store, which names it in messages.
    fn url(&self) -> String;

    /// Creates the directory of a store that is a directory, durably; other stores need no
    /// preparation. Only `init` may call this.
    ///
    /// # Errors
    ///
    /// Those of creating directories.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Tests the promises that some servers break: that a missing object is distinguished from a
    /// forbidden one, and that [`Mode::Create`] never replaces an object.
    ///
    /// # Errors
    ///
    /// `Refused` when the store replaces objects, `Identity` when it returns an object that was
    /// never stored.
    fn prove(&self) -> Result<()> {
        Ok(())
    }
}

/// Calls `each` for every object below `folder`, in order, page by page.
///
/// # Errors
///
/// Those of [`Storage::list`] and of `each`; the first one ends the listing. `Defect` for an empty
/// page that is not the last.
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
        if !page.more {
            return Ok(());
        }
        after = Some(last.ok_or_else(|| Error::defect("an empty page of a listing that continues"))?);
    }
}

/// Key of the object that tests the store. No cluster's name begins with a dash.
const PROBE: &str = "-probe/create";

/// Tests that a store distinguishes a missing object from a forbidden one, and that it does not
/// replace an object on [`Mode::Create`].
fn prove(store: &dyn Storage) -> Result<()> {
    let missing = Key::new(format!("-probe/{}", random_name()?))?;
    if store.get(&missing, None)?.is_some() {
        return Err(Error::new(
            Kind::Identity,
            format!("the store has an object under {missing}, a random name that was never stored"),
        )
        .hint("is `endpoint` the address of an S3 server?"));
    }
    let probe = Key::new(PROBE)?;
    let body = b"walkeep stores this twice to see that the second time is refused\n".to_vec();
    // In a later call the first put is refused, which proves the same promise.
    if store.put(&probe, &body, Mode::Create)? == Put::Exists
        || store.put(&probe, &body, Mode::Create)? == Put::Exists
    {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "the store replaces existing objects on create: it ignores `If-None-Match`, and two writers could lose data")
        .hint("set `conditional_create = false` for this repository, or use a store that supports conditional creates"))
}
