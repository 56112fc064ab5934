//! Download of an object: a stream that resumes where it broke off, as long as the object has not
//! been replaced.

use super::SharedBucket;
use super::body::{STALL_TIMEOUT, with_timeout};
use super::failure::{RequestKind, S3Failure, innermost, unexpected_answer};
use crate::error::{Error, Kind, Result};
use crate::storage::retry::RetryPolicy;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use bytes::{Buf, Bytes};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use tokio::time::timeout;

/// Maximum number of requests for the rest of one object.
const MAX_RESUMES: u32 = 64;

/// An object whose transfer has begun.
pub(super) struct OpenedObject {
    body: ByteStream,
    etag: Option<String>,
    /// Bytes of the object that are transferred.
    range: Range<u64>,
    /// Size of the whole object in bytes.
    pub(super) size: u64,
    pub(super) modified: Option<DateTime>,
}

impl OpenedObject {
    /// Requests an object, or the bytes in `range`, which is not empty. With an `etag`, requests
    /// only that version of the object.
    pub(super) fn get(
        bucket: &SharedBucket,
        key: &str,
        range: Option<&Range<u64>>,
        etag: Option<&str>,
    ) -> std::result::Result<OpenedObject, S3Failure> {
        let header = range.map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        let output = bucket.request(RequestKind::Read, async |client| {
            let request = client.get_object().bucket(bucket.name()).key(key);
            let request = request.set_range(header.clone()).set_if_match(etag.map(str::to_owned));
            with_timeout(STALL_TIMEOUT, request.send()).await
        })?;
        Ok(OpenedObject::parse(output, range)?)
    }

    fn parse(output: GetObjectOutput, wanted: Option<&Range<u64>>) -> Result<OpenedObject> {
        let unexpected = |what| unexpected_answer(Kind::Failed, what);
        let length = output.content_length.and_then(|length| u64::try_from(length).ok());
        let length = length.ok_or_else(|| unexpected("has no length"))?;
        let (range, size) = match (wanted, &output.content_range) {
            (None, _) => (0..length, length),
            (Some(wanted), Some(given)) => {
                let (range, size) =
                    content_range(given).ok_or_else(|| unexpected("has an invalid Content-Range"))?;
                if range.start != wanted.start || range.end > wanted.end || range.end - range.start != length
                {
                    return Err(unexpected("is another part of the object than the requested one"));
                }
                (range, size)
            }
            // The whole object is accepted when the part is its beginning.
            (Some(wanted), None) if wanted.start == 0 => (0..wanted.end.min(length), length),
            (Some(_), None) => return Err(unexpected("is the whole object, not the requested part")),
        };
        Ok(OpenedObject {
            body: output.body,
            etag: output.e_tag,
            range,
            size,
            modified: output.last_modified,
        })
    }

    /// Reads one piece, so that the connection can be reused.
    pub(super) fn finish(mut self, bucket: &SharedBucket) -> Result<()> {
        bucket.wait(async {
            // Neither the content of the piece nor a failure matters.
            let _ = timeout(STALL_TIMEOUT, self.body.next()).await;
            Ok(())
        })
    }

    pub(super) fn reader(self, bucket: Arc<SharedBucket>, key: String) -> ObjectReader {
        let OpenedObject { body, etag, range, .. } = self;
        ObjectReader {
            bucket,
            key,
            etag,
            rest: range,
            body: Some(body),
            piece: Bytes::new(),
            failures: 0,
            resumes: 0,
        }
    }
}

/// Parses `bytes 0-511/4096`: the range, and the size of the whole object.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then_some((first..last + 1, size))
}

/// A reader of the bytes of an object.
pub(super) struct ObjectReader {
    bucket: Arc<SharedBucket>,
    /// Name in the bucket, with the prefix.
    key: String,
    etag: Option<String>,
    /// Bytes of the object that were not received yet.
    rest: Range<u64>,
    /// Stream of the rest; `None` after a failure.
    body: Option<ByteStream>,
    /// Received bytes that were not read yet.
    piece: Bytes,
    /// Failures since the last piece.
    failures: u32,
    resumes: u32,
}

impl ObjectReader {
    /// Receives the next piece. `rest` must not be empty.
    fn advance(&mut self) -> Result<()> {
        loop {
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.resume()?,
            };
            let next =
                self.bucket.wait(async { Ok::<_, Error>(timeout(STALL_TIMEOUT, body.next()).await) })?;
            let why = match next {
                Ok(Some(Ok(piece))) if piece.is_empty() => {
                    self.body = Some(body);
                    continue;
                }
                Ok(Some(Ok(piece))) => {
                    let wanted = usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX);
                    self.piece = piece.slice(..piece.len().min(wanted));
                    self.rest.start += self.piece.len() as u64;
                    self.body = Some(body);
                    self.failures = 0;
                    return Ok(());
                }
                Ok(Some(Err(error))) => Error::new(Kind::Unavailable, innermost(&error)),
                Ok(None) => Error::new(Kind::Unavailable, "the connection ended early"),
                Err(_) => Error::new(Kind::Timeout, format!("no data for {STALL_TIMEOUT:?}")),
            };
            self.pause(why)?;
        }
    }

    /// Requests the rest of the object.
    fn resume(&mut self) -> Result<ByteStream> {
        loop {
            match OpenedObject::get(&self.bucket, &self.key, Some(&self.rest), self.etag.as_deref()) {
                Ok(opened) if opened.range == self.rest => return Ok(opened.body),
                Ok(_) => return Err(Error::new(Kind::Failed, "the object became shorter while it was read")),
                Err(failure) if failure.is_taken() || failure.is_absent() => {
                    return Err(Error::new(Kind::Unavailable, "the object was replaced while it was read"));
                }
                Err(failure) => self.pause(failure.into())?,
            }
        }
    }

    /// Waits before the next attempt; fails with `why` when no further attempt is made.
    fn pause(&mut self, why: Error) -> Result<()> {
        let policy = RetryPolicy::default();
        self.failures += 1;
        self.resumes += 1;
        let is_over = self.failures >= policy.max_attempts || self.resumes >= MAX_RESUMES;
        if is_over || self.etag.is_none() || !why.kind().is_transient() {
            let left = self.rest.end - self.rest.start;
            return Err(why.doing(format!("read the last {left} bytes")));
        }
        std::thread::sleep(policy.pause(self.failures));
        Ok(())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.rest.is_empty() && !buffer.is_empty() {
            self.advance().map_err(into_io)?;
        }
        (&mut self.piece).reader().read(buffer)
    }
}

/// Converts a failure for a reader of a stream, so that [`Error::io`] restores its kind.
fn into_io(error: Error) -> io::Error {
    let kind = match error.kind() {
        Kind::Timeout => io::ErrorKind::TimedOut,
        Kind::Unavailable => io::ErrorKind::ConnectionReset,
        Kind::Denied => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}
