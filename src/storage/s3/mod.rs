//! A bucket as a store. A put is one request that takes effect as a whole, and `If-None-Match: *`
//! makes it exclusive. Only answers of an S3 server are accepted: an object is missing if the
//! answer is a 404 with the code `NoSuchKey`; a 404 without that code is an error.
//!
//! Every request has its own timeouts. [`Retry`](super::Retry) retries failed operations; this
//! module retries only where less than the whole operation has to be repeated: a request once for a
//! wrong clock, for expired credentials and for a wrong region, the rest of an object whose
//! transfer broke off, and one part of a multipart upload. Runtime, certificates and credentials
//! are loaded by the first request.

mod body;
mod client;
mod credentials;
mod failure;
mod http;
mod multipart;
mod options;
mod reader;

pub use options::{Checksums, S3Options, Variable};

use super::{Body, ForeignEntry, Key, ListedObject, Mode, Object, OpenBody, PAGE, Page, Put, Storage, prove};
use crate::error::{Error, Kind, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use body::{ContentMd5, STALL_TIMEOUT, Sum, length, upload, with_timeout};
use client::Engine;
use failure::{RequestKind, S3Failure, unexpected_answer};
use multipart::{Multipart, PART_SIZE, fill};
use once_cell::sync::OnceCell;
use percent_encoding::percent_decode_str;
use reader::OpenedObject;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum number of objects that one request may delete, a limit of S3.
const MAX_DELETED_AT_ONCE: usize = 1000;

/// A bucket, or a prefix of it, that holds objects.
pub struct S3 {
    bucket: Arc<SharedBucket>,
}

/// State that a store shares with the readers of its objects.
struct SharedBucket {
    options: S3Options,
    /// Started by the first request.
    engine: OnceCell<Engine>,
    /// Whether the store has refused to delete several objects by one request.
    deletes_one_by_one: AtomicBool,
}

impl SharedBucket {
    fn name(&self) -> &str {
        &self.options.bucket
    }

    /// Name of an object in the bucket: the prefix and the key.
    fn full(&self, key: &Key) -> String {
        match self.options.prefix.as_str() {
            "" => key.to_string(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    /// Key of an object of the bucket; `None` when the object does not belong to this store.
    fn own(&self, full: &str) -> Option<Key> {
        let key = match self.options.prefix.as_str() {
            "" => full,
            prefix => full.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        Key::new(key).ok()
    }

    fn engine(&self) -> Result<&Engine> {
        self.engine.get_or_try_init(|| Engine::start(&self.options))
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.engine()?.wait(future)
    }

    fn request<T>(
        &self,
        kind: RequestKind,
        attempt: impl AsyncFn(&Client) -> std::result::Result<T, S3Failure>,
    ) -> std::result::Result<T, S3Failure> {
        self.engine()?.request(kind, attempt)
    }
}

impl S3 {
    /// Creates the store of a bucket. Sends no request and reads no file.
    pub fn new(options: S3Options) -> S3 {
        let deletes_one_by_one = AtomicBool::new(false);
        S3 { bucket: Arc::new(SharedBucket { options, engine: OnceCell::new(), deletes_one_by_one }) }
    }

    /// Formats the step `what` on an object, for an error.
    fn doing(&self, what: &str, key: &Key) -> String {
        format!("{what} s3://{}/{}", self.bucket.name(), self.bucket.full(key))
    }

    /// Stores an object by one request.
    fn put_whole(&self, key: &str, bytes: &[u8], mode: Mode) -> Result<Put> {
        let bucket = &*self.bucket;
        let options = &bucket.options;
        let sum = Sum::of(bytes, options.checksums);
        let length = length(bytes)?;
        let stored = bucket.request(RequestKind::Write, async |client| {
            upload(bytes, async |body| {
                let request = client
                    .put_object()
                    .bucket(bucket.name())
                    .key(key)
                    .content_length(length)
                    .set_if_none_match((mode == Mode::Create).then(|| "*".to_owned()))
                    .set_checksum_sha256(sum.header.clone())
                    .set_storage_class(options.storage_class.as_deref().map(Into::into))
                    .set_server_side_encryption(options.sse.as_deref().map(Into::into))
                    .set_ssekms_key_id(options.sse_kms_key_id.clone())
                    .body(body);
                request.customize().interceptor(sum.signed()).send().await.map_err(S3Failure::of)
            })
            .await
        });
        match stored {
            Ok(answer) if answer.e_tag().is_some() => {
                sum.check(answer.checksum_sha256())?;
                Ok(Put::Stored)
            }
            Ok(_) => Err(unexpected_answer(Kind::Failed, "has no ETag")
                .hint("is `endpoint` the address of an S3 server?")),
            Err(failure) if mode == Mode::Create && failure.is_taken() => Ok(Put::Exists),
            Err(failure) => Err(failure.into()),
        }
    }

    fn put_opened(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        let full = self.bucket.full(key);
        match body.open()? {
            OpenBody::Whole(bytes) => self.put_whole(&full, bytes, mode),
            OpenBody::Stream(mut stream) => {
                let mut first = Vec::new();
                fill(&mut stream, &mut first)?;
                if first.len() < PART_SIZE {
                    return self.put_whole(&full, &first, mode);
                }
                // Checked first, so that a large object is not sent in vain.
                if mode == Mode::Create && self.look(key)?.is_some() {
                    return Ok(Put::Exists);
                }
                Multipart::put(&self.bucket, &full, first, &mut stream, mode)
            }
        }
    }

    /// Returns size and time of an object, by a GET of its first byte. A HEAD does not suffice: its
    /// answer has no body, so a missing bucket cannot be distinguished from a missing object.
    fn look(&self, key: &Key) -> Result<Option<ListedObject>> {
        let full = self.bucket.full(key);
        let entry = |size, modified: Option<DateTime>| {
            let modified = timestamp(modified.as_ref())?;
            Ok(Some(ListedObject { key: key.clone(), size, modified }))
        };
        match OpenedObject::get(&self.bucket, &full, Some(&(0..1)), None) {
            Ok(opened) => {
                let (size, modified) = (opened.size, opened.modified);
                opened.finish(&self.bucket)?;
                entry(size, modified)
            }
            Err(failure) if failure.is_absent() => Ok(None),
            // The object exists, but is empty or archived: a HEAD suffices.
            Err(failure) if failure.is_beyond_end() || failure.is("InvalidObjectState") => {
                let head = self.bucket.request(RequestKind::Read, async |client| {
                    let request = client.head_object().bucket(self.bucket.name()).key(&full);
                    with_timeout(STALL_TIMEOUT, request.send()).await
                })?;
                entry(size(head.content_length)?, head.last_modified)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Opens an object, or the bytes of it in `range`.
    fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let full = self.bucket.full(key);
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(self.look(key)?.map(|_| Box::new(std::io::empty()) as Object));
        }
        match OpenedObject::get(&self.bucket, &full, range.as_ref(), None) {
            Ok(opened) => Ok(Some(Box::new(opened.reader(self.bucket.clone(), full)))),
            Err(failure) if failure.is_absent() => Ok(None),
            Err(failure) if range.is_some() && failure.is_beyond_end() => {
                Ok(Some(Box::new(std::io::empty())))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    fn list_page(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let bucket = &*self.bucket;
        let prefix = format!("{}/", bucket.full(folder));
        // Some tools store an object under the name of the folder itself, which is skipped.
        let mut after = after.map_or_else(|| prefix.clone(), |after| bucket.full(after)).max(prefix.clone());
        let mut page = Page { entries: Vec::new(), more: true };
        while page.more && page.entries.len() < limit {
            let wanted = i32::try_from(limit - page.entries.len())
                .map_err(|_| Error::defect(format!("a page of {limit} objects")))?;
            let answer = bucket.request(RequestKind::List, async |client| {
                let request = client.list_objects_v2().bucket(bucket.name()).prefix(&prefix);
                let request = request.start_after(&after).max_keys(wanted).encoding_type(EncodingType::Url);
                with_timeout(STALL_TIMEOUT, request.send()).await
            })?;
            // An answer that is not a list must not look like an empty one.
            page.more = answer.is_truncated().ok_or_else(|| {
                unexpected_answer(Kind::Failed, "is not a list").hint("is `endpoint` an S3 server?")
            })?;
            let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
            let before = after.clone();
            for object in answer.contents() {
                let full = object.key().map(|key| decoded(key, is_encoded));
                let full = full.ok_or_else(|| missing_attribute("key"))?;
                if full <= after || !full.starts_with(&prefix) {
                    return Err(Error::new(Kind::Failed, format!("the store lists {full:?} after {after:?}")).hint(
                        "walkeep needs a store that lists in the order of names; directory buckets (S3 Express) do not",
                    ));
                }
                // An object whose name cannot be a key does not belong to the store and is skipped.
                if let Some(key) = bucket.own(&full) {
                    if page.entries.len() == limit {
                        page.more = true;
                        break;
                    }
                    let (size, modified) = (size(object.size())?, timestamp(object.last_modified())?);
                    page.entries.push(ListedObject { key, size, modified });
                }
                after = full;
            }
            if page.more && before == after {
                return Err(unexpected_answer(Kind::Failed, "is a list that continues with nothing"));
            }
        }
        Ok(page)
    }

    /// Deletes at most [`MAX_DELETED_AT_ONCE`] objects, by one request if the store supports that.
    fn delete_some(&self, keys: &[Key]) -> Result<()> {
        let one_by_one = &self.bucket.deletes_one_by_one;
        if keys.len() > 1 && !one_by_one.load(Ordering::Relaxed) {
            match self.delete_batch(keys) {
                Err(failure) if failure.is_unknown_request() => one_by_one.store(true, Ordering::Relaxed),
                deleted => return Ok(deleted?),
            }
        }
        keys.iter().try_for_each(|key| self.delete_one(key))
    }

    fn delete_one(&self, key: &Key) -> Result<()> {
        let bucket = &*self.bucket;
        let deleted = bucket.request(RequestKind::Delete, async |client| {
            let request = client.delete_object().bucket(bucket.name()).key(bucket.full(key));
            with_timeout(STALL_TIMEOUT, request.send()).await
        });
        match deleted {
            Err(failure) if !failure.is_absent() => {
                Err(Error::from(failure).doing(self.doing("delete", key)))
            }
            _ => Ok(()),
        }
    }

    fn delete_batch(&self, keys: &[Key]) -> std::result::Result<(), S3Failure> {
        let bucket = &*self.bucket;
        let named = keys.iter().map(|key| ObjectIdentifier::builder().key(bucket.full(key)).build());
        let defect = |e: aws_sdk_s3::error::BuildError| Error::defect(e.to_string());
        let objects = named.collect::<std::result::Result<Vec<_>, _>>().map_err(defect)?;
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(defect)?;
        let answer = bucket.request(RequestKind::Delete, async |client| {
            let request = client.delete_objects().bucket(bucket.name()).delete(delete.clone());
            let request = request.customize().interceptor(ContentMd5(bucket.options.checksums));
            with_timeout(STALL_TIMEOUT, request.send()).await
        })?;
        // The request succeeded; each object may still have failed.
        let failed = || answer.errors().iter().filter(|error| error.code() != Some("NoSuchKey"));
        let Some(first) = failed().next() else {
            return Ok(());
        };
        let what = format!(
            "{} of {} objects were not deleted, the first {:?}",
            failed().count(),
            keys.len(),
            first.key().unwrap_or("unnamed"),
        );
        Err(S3Failure::of_object(first.code(), first.message(), &what)
            .with_permission_hint(RequestKind::Delete))
    }

    /// Aborts the unfinished multipart uploads that were begun before `before`. Returns their
    /// number.
    fn abort_uploads(&self, before: jiff::Timestamp) -> Result<u64> {
        let bucket = &*self.bucket;
        let prefix = match bucket.options.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let (mut key_marker, mut id_marker, mut aborted) = (None, None, 0);
        loop {
            let page = bucket.request(RequestKind::Uploads, async |client| {
                let request = client.list_multipart_uploads().bucket(bucket.name()).prefix(&prefix);
                let request =
                    request.set_key_marker(key_marker.clone()).set_upload_id_marker(id_marker.clone());
                with_timeout(STALL_TIMEOUT, request.send()).await
            });
            let page = match page {
                // A store that cannot list uploads has to remove them by a lifecycle rule.
                Err(failure) if failure.is_unknown_request() => return Ok(aborted),
                page => page?,
            };
            for upload in page.uploads() {
                // An upload without a time is not aborted: it may be in progress.
                let begun = upload.initiated().map(|begun| timestamp(Some(begun))).transpose()?;
                if let (Some(begun), Some(key), Some(id)) = (begun, upload.key(), upload.upload_id())
                    && begun < before
                    && bucket.own(key).is_some()
                {
                    multipart::abort(bucket, key, id)?;
                    aborted += 1;
                }
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || next == (key_marker, id_marker) {
                return Ok(aborted);
            }
            (key_marker, id_marker) = next;
        }
    }
}

impl Storage for S3 {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        self.put_opened(key, body, mode).map_err(|error| error.doing(self.doing("put", key)))
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.read(key, range).map_err(|error| error.doing(self.doing("get", key)))
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        self.look(key).map_err(|error| error.doing(self.doing("look at", key)))
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let page = self.list_page(folder, after, limit.min(PAGE));
        page.map_err(|error| error.doing(self.doing("list", folder)))
    }

    /// A bucket holds nothing but objects.
    fn foreign(&self, _folder: &Key) -> Result<Vec<ForeignEntry>> {
        Ok(Vec::new())
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        keys.chunks(MAX_DELETED_AT_ONCE).try_for_each(|keys| self.delete_some(keys))
    }

    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        self.abort_uploads(before)
            .map_err(|error| error.doing(format!("look for unfinished uploads in {}", self.url())))
    }

    fn url(&self) -> String {
        match self.bucket.options.prefix.as_str() {
            "" => format!("s3://{}", self.bucket.name()),
            prefix => format!("s3://{}/{prefix}", self.bucket.name()),
        }
    }

    fn prove(&self) -> Result<()> {
        prove(self)
    }
}

/// Converts the time of an object. An answer without it is an error: with a default, current claims
/// and heartbeats would look stale, or stale ones current.
fn timestamp(time: Option<&DateTime>) -> Result<jiff::Timestamp> {
    let time = time.and_then(|time| jiff::Timestamp::from_nanosecond(time.as_nanos()).ok());
    time.ok_or_else(|| missing_attribute("time"))
}

/// Converts the size of an object. An answer without it is an error.
fn size(size: Option<i64>) -> Result<u64> {
    size.and_then(|size| u64::try_from(size).ok()).ok_or_else(|| missing_attribute("size"))
}

fn missing_attribute(what: &str) -> Error {
    Error::new(Kind::Failed, format!("the store listed an object without its {what}"))
        .hint("walkeep needs a store that gives key, size and time (`Last-Modified`) of every object: look for a proxy or a gateway in between that removes them")
}

/// Decodes a name in a listing, where characters that XML cannot hold are percent-encoded.
fn decoded(text: &str, is_encoded: bool) -> String {
    if !is_encoded {
        return text.to_owned();
    }
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}
