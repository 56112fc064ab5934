//! How bytes come in: a stream that begins again where it broke off, as long as the object is still the same.

use super::Bucket;
use super::body::{STALLED, answered};
use super::failure::{Failure, Wish, innermost};
use crate::error::{Error, Kind, Result};
use crate::storage::retry::RetryPolicy;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use bytes::{Buf, Bytes};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use tokio::time::timeout;

/// Times that one object is begun again.
const MOST_RESUMES: u32 = 64;

/// An object that a store has begun to give.
pub(super) struct Opened {
    body: ByteStream,
    etag: Option<String>,
    /// The bytes that come, of `size`.
    range: Range<u64>,
    pub(super) size: u64,
    pub(super) modified: Option<DateTime>,
}

impl Opened {
    /// Asks for an object, or for a part of it that is not empty; with an `etag` for that version alone.
    pub(super) fn get(
        bucket: &Bucket,
        key: &str,
        range: Option<&Range<u64>>,
        etag: Option<&str>,
    ) -> std::result::Result<Opened, Failure> {
        let header = range.map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        let output = bucket.request(Wish::Read, async |client| {
            let request = client.get_object().bucket(bucket.name()).key(key);
            let request = request.set_range(header.clone()).set_if_match(etag.map(str::to_owned));
            answered(async { request.send().await.map_err(Failure::of) }).await
        })?;
        Ok(Opened::understand(output, range)?)
    }

    fn understand(output: GetObjectOutput, wanted: Option<&Range<u64>>) -> Result<Opened> {
        let odd = |what: &str| Error::new(Kind::Failed, format!("the store's answer {what}"));
        let length = output.content_length.and_then(|length| u64::try_from(length).ok());
        let length = length.ok_or_else(|| odd("does not say how long it is"))?;
        let (range, size) = match (wanted, &output.content_range) {
            (None, _) => (0..length, length),
            (Some(wanted), Some(given)) => {
                let (range, size) =
                    content_range(given).ok_or_else(|| odd("has a Content-Range that is none"))?;
                if range.start != wanted.start || range.end > wanted.end || range.end - range.start != length
                {
                    return Err(odd("is another part of the object than was asked for"));
                }
                (range, size)
            }
            // It may give all of it, when that begins where it should.
            (Some(wanted), None) if wanted.start == 0 => (0..wanted.end.min(length), length),
            (Some(_), None) => return Err(odd("is the whole object, not the part that was asked for")),
        };
        Ok(Opened { body: output.body, etag: output.e_tag, range, size, modified: output.last_modified })
    }

    /// Reads what one piece can hold, so that the connection can be used again.
    pub(super) fn finish(mut self, bucket: &Bucket) -> Result<()> {
        bucket.wait(async {
            // It does not matter what it is, nor whether it comes.
            let _ = timeout(STALLED, self.body.next()).await;
            Ok(())
        })
    }

    pub(super) fn reader(self, bucket: Arc<Bucket>, key: String) -> Reader {
        let Opened { body, etag, range, .. } = self;
        Reader {
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

/// `bytes 0-511/4096`: what comes, and of how much.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then_some((first..last + 1, size))
}

/// The bytes of an object.
pub(super) struct Reader {
    bucket: Arc<Bucket>,
    /// With the prefix.
    key: String,
    etag: Option<String>,
    /// What nobody has got yet.
    rest: Range<u64>,
    body: Option<ByteStream>,
    piece: Bytes,
    /// In a row, without a byte between.
    failures: u32,
    resumes: u32,
}

impl Reader {
    /// Gets the next piece. `rest` is not empty.
    fn advance(&mut self) -> Result<()> {
        loop {
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.resume()?,
            };
            let next = self.bucket.wait(async { Ok::<_, Error>(timeout(STALLED, body.next()).await) })?;
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
                Err(_) => Error::new(Kind::Timeout, format!("nothing came for {STALLED:?}")),
            };
            self.pause(why)?;
        }
    }

    /// Asks for the rest.
    fn resume(&mut self) -> Result<ByteStream> {
        loop {
            match Opened::get(&self.bucket, &self.key, Some(&self.rest), self.etag.as_deref()) {
                Ok(opened) if opened.range == self.rest => return Ok(opened.body),
                Ok(_) => return Err(Error::new(Kind::Failed, "the object became shorter while it was read")),
                Err(failure) if failure.is_taken() || failure.is_absent() => {
                    return Err(Error::new(Kind::Unavailable, "the object was replaced while it was read"));
                }
                Err(failure) => self.pause(failure.into())?,
            }
        }
    }

    /// Waits before the next attempt, if there is to be one.
    fn pause(&mut self, why: Error) -> Result<()> {
        let patience = RetryPolicy::default();
        self.failures += 1;
        self.resumes += 1;
        let is_over = self.failures >= patience.attempts || self.resumes >= MOST_RESUMES;
        if is_over || self.etag.is_none() || !why.kind().is_transient() {
            let left = self.rest.end - self.rest.start;
            return Err(why.doing(format!("read the last {left} bytes")));
        }
        std::thread::sleep(patience.pause(self.failures));
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.rest.is_empty() && !buffer.is_empty() {
            self.advance().map_err(into_io)?;
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// The same failure for who reads it as a stream.
fn into_io(error: Error) -> io::Error {
    let kind = match error.kind() {
        Kind::Timeout => io::ErrorKind::TimedOut,
        Kind::Unavailable => io::ErrorKind::ConnectionReset,
        Kind::Denied => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}
