//! An object of the source repository as the body of a put: opened when the target needs the bytes,
//! checked while it is read, and never in memory as a whole. Does not know what is checked.

use crate::codec::hash::hash_all;
use crate::error::{Error, Kind, Result, part};
use crate::repo::{Body, Object, OpenBody};
use parking_lot::Mutex;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

/// A check of the bytes of an object, in order.
pub trait ContentCheck {
    /// Checks the next bytes; they are not empty.
    fn update(&mut self, bytes: &[u8]) -> Result<()>;

    /// Checks the properties that are known only at the end of the object.
    fn finish(&mut self) -> Result<()>;
}

/// Function that begins a check.
pub type BeginCheck<'a> = dyn Fn() -> Result<Box<dyn ContentCheck + 'a>> + Sync + 'a;

/// An object of the source. When its check fails, its put fails and stores nothing.
pub struct SourceObject<'o, 'c> {
    open: &'o (dyn Fn() -> Result<Option<Object>> + Sync),
    check: &'c BeginCheck<'c>,
    /// Failure of the last read of the object.
    failure: SourceFailure<'o>,
    /// Whether the object did not exist when it was opened last.
    is_removed: AtomicBool,
}

impl<'o, 'c> SourceObject<'o, 'c> {
    /// Creates the body of an object of `repository`. `open` returns `None` when the object does
    /// not exist.
    pub fn new(
        open: &'o (dyn Fn() -> Result<Option<Object>> + Sync),
        check: &'c BeginCheck<'c>,
        repository: &'o str,
    ) -> SourceObject<'o, 'c> {
        let failure = SourceFailure { repository, last: Mutex::new(None) };
        SourceObject { open, check, failure, is_removed: AtomicBool::new(false) }
    }

    /// Whether `other` has the same bytes. Checks the object while it is read.
    pub fn equals(&self, other: Option<Object>) -> Result<bool> {
        let OpenBody::Stream(own) = self.open()? else {
            return Err(Error::defect("an object of the source is not a stream"));
        };
        let own = hash_all(own).map_err(|e| self.cause(Error::from_io("read", e)))?;
        let other = other.map(|other| hash_all(other).map_err(|e| Error::from_io("read", e)));
        Ok(other.transpose()? == Some(own))
    }

    /// Whether the object did not exist when the target opened it.
    pub fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    /// Cause of a failed put: the failure of the source if it failed, else `error`. A reader can
    /// only return an I/O error, so the failure of the source is kept here.
    pub fn cause(&self, error: Error) -> Error {
        self.failure.last.lock().take().unwrap_or(error)
    }
}

impl Body for SourceObject<'_, '_> {
    fn open(&self) -> Result<OpenBody<'_>> {
        *self.failure.last.lock() = None;
        let opened = (self.open)();
        self.is_removed.store(matches!(opened, Ok(None)), Ordering::Relaxed);
        let opened = opened.and_then(|object| object.ok_or_else(removed));
        let opened = opened.and_then(|object| Ok((object, (self.check)()?)));
        let (object, check) = opened.inspect_err(|error| self.failure.set(error.clone()))?;
        Ok(OpenBody::Stream(Box::new(CheckedReader { object, check: Some(check), failure: &self.failure })))
    }
}

/// The last failure of a source.
struct SourceFailure<'a> {
    repository: &'a str,
    last: Mutex<Option<Error>>,
}

impl SourceFailure<'_> {
    fn set(&self, error: Error) {
        *self.last.lock() = Some(error.doing(format!("read it from repository {}", self.repository)));
    }
}

/// Error for an object that does not exist any more.
fn removed() -> Error {
    Error::new(Kind::Absent, "it was removed meanwhile")
}

/// A reader that checks what it reads.
struct CheckedReader<'a> {
    object: Object,
    /// `None` after the end.
    check: Option<Box<dyn ContentCheck + 'a>>,
    failure: &'a SourceFailure<'a>,
}

impl Read for CheckedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let length = match self.object.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            // Returned with its own kind, so that the put is retried after a transient error.
            read => read.inspect_err(|e| self.failure.set(Error::io("read", e)))?,
        };
        let checked = match &mut self.check {
            Some(check) if length > 0 => part(buffer, 0..length).and_then(|bytes| check.update(bytes)),
            Some(_) => self.check.take().map_or(Ok(()), |mut check| check.finish()),
            None => Ok(()),
        };
        checked.map(|()| length).map_err(|error| {
            let reason = io::Error::other(error.to_string());
            self.failure.set(error);
            reason
        })
    }
}
