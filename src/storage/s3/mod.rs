//! A bucket as a store. A put is one request that takes effect as a whole, and `If-None-Match: *` makes it
//! exclusive. What a store answers is believed only when it is an S3 answer: a missing object is a 404 that says
//! `NoSuchKey`, and nothing else is.
//!
//! Every request has its own limits of time. [`Retry`](super::Retry) tries again what fails; here that is done only
//! where less than all has to be repeated: once for a wrong clock, for expired credentials and for a wrong region, for
//! the rest of an object that broke off, and for one part of an upload in parts. Nothing is touched before the
//! first request.

mod body;
mod client;
mod credentials;
mod failure;
mod http;
mod multipart;
mod options;
mod reader;

pub use options::{Checksums, S3Options, Variable};

use super::{Body, Bytes, Key, ListedObject, Mode, Object, PAGE, Page, Put, Storage, prove};
use crate::error::{Error, Kind, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use body::{ContentMd5, Sum, answered, upload};
use client::Engine;
use failure::{Failure, Wish};
use multipart::{Multipart, PART, fill};
use reader::Opened;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A prefix of a bucket that holds objects.
pub struct S3 {
    bucket: Arc<Bucket>,
}

/// What a store and the objects read from it share.
struct Bucket {
    options: S3Options,
    engine: Mutex<Option<Arc<Engine>>>,
    /// Found out by trying.
    deletes_one_by_one: AtomicBool,
}

impl Bucket {
    fn name(&self) -> &str {
        &self.options.bucket
    }

    /// The name of an object in the bucket.
    fn full(&self, key: &Key) -> String {
        match self.options.prefix.as_str() {
            "" => key.to_string(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    /// The key of an object in the bucket, if it is one of ours.
    fn own(&self, full: &str) -> Option<Key> {
        let key = match self.options.prefix.as_str() {
            "" => full,
            prefix => full.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        Key::new(key).ok()
    }

    fn engine(&self) -> Result<Arc<Engine>> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*engine {
            return Ok(engine.clone());
        }
        Ok(engine.insert(Arc::new(Engine::start(&self.options)?)).clone())
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.engine()?.wait(future)
    }

    fn request<T>(
        &self,
        wish: Wish,
        attempt: impl AsyncFn(&Client) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        self.engine()?.request(wish, attempt)
    }
}

impl S3 {
    /// Touches nothing: runtime, certificates and credentials wait for the first request.
    pub fn new(options: S3Options) -> S3 {
        S3 {
            bucket: Arc::new(Bucket {
                options,
                engine: Mutex::new(None),
                deletes_one_by_one: AtomicBool::new(false),
            }),
        }
    }

    fn doing(&self, what: &str, key: &Key) -> String {
        format!("{what} s3://{}/{}", self.bucket.name(), self.bucket.full(key))
    }

    fn put_whole(&self, key: &str, bytes: &[u8], mode: Mode) -> Result<Put> {
        let bucket = &*self.bucket;
        let options = &bucket.options;
        let sum = Sum::of(bytes, options.checksums);
        let stored = bucket.request(Wish::Write, async |client| {
            upload(bytes, async |body| {
                let request = client
                    .put_object()
                    .bucket(bucket.name())
                    .key(key)
                    .content_length(i64::try_from(bytes.len()).unwrap_or(i64::MAX))
                    .set_if_none_match((mode == Mode::Create).then(|| "*".to_owned()))
                    .set_checksum_sha256(sum.header.clone())
                    .set_storage_class(options.storage_class.as_deref().map(Into::into))
                    .set_server_side_encryption(options.sse.as_deref().map(Into::into))
                    .set_ssekms_key_id(options.sse_kms_key_id.clone())
                    .body(body);
                request.customize().interceptor(sum.signed()).send().await.map_err(Failure::of)
            })
            .await
        });
        match stored {
            Ok(answer) if answer.e_tag().is_some() => {
                sum.check(answer.checksum_sha256())?;
                Ok(Put::Stored)
            }
            Ok(_) => Err(Error::new(Kind::Failed, "the store's answer has no ETag")
                .hint("is `endpoint` the address of an S3 server?")),
            Err(failure) if mode == Mode::Create && failure.is_taken() => Ok(Put::Exists),
            Err(failure) => Err(failure.into()),
        }
    }

    fn put_opened(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        let full = self.bucket.full(key);
        match body.open()? {
            Bytes::Whole(bytes) => self.put_whole(&full, bytes, mode),
            Bytes::Stream(mut stream) => {
                let mut first = Vec::new();
                fill(&mut stream, &mut first)?;
                if first.len() < PART {
                    return self.put_whole(&full, &first, mode);
                }
                // A large object is not sent to learn that it is not wanted.
                if mode == Mode::Create && self.look(key)?.is_some() {
                    return Ok(Put::Exists);
                }
                Multipart::put(&self.bucket, &full, first, &mut stream, mode)
            }
        }
    }

    /// Not a HEAD: its answer has no body, and says of a missing bucket what it says of a missing object.
    fn look(&self, key: &Key) -> Result<Option<ListedObject>> {
        let full = self.bucket.full(key);
        let entry = |size, modified: Option<DateTime>| {
            Ok(Some(ListedObject { key: key.clone(), size, modified: timestamp(modified.as_ref()) }))
        };
        match Opened::get(&self.bucket, &full, Some(&(0..1)), None) {
            Ok(opened) => {
                let (size, modified) = (opened.size, opened.modified);
                opened.finish(&self.bucket)?;
                entry(size, modified)
            }
            Err(failure) if failure.is_absent() => Ok(None),
            // It is there and no byte of it can be read; what it is can still be asked.
            Err(failure) if failure.is_beyond_end() || failure.is("InvalidObjectState") => {
                let head = self.bucket.request(Wish::Read, async |client| {
                    let request = client.head_object().bucket(self.bucket.name()).key(&full);
                    answered(async { request.send().await.map_err(Failure::of) }).await
                })?;
                let size = head.content_length.and_then(|size| u64::try_from(size).ok());
                entry(size.unwrap_or_default(), head.last_modified)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let full = self.bucket.full(key);
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(self.look(key)?.map(|_| Box::new(std::io::empty()) as Object));
        }
        match Opened::get(&self.bucket, &full, range.as_ref(), None) {
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
        // Behind the folder's own name, which some tools make an object of.
        let mut after = after.map_or_else(|| prefix.clone(), |after| bucket.full(after)).max(prefix.clone());
        let mut page = Page { entries: Vec::new(), more: true };
        while page.more && page.entries.len() < limit {
            let wanted = i32::try_from(limit - page.entries.len()).unwrap_or(i32::MAX);
            let answer = bucket.request(Wish::List, async |client| {
                let request = client.list_objects_v2().bucket(bucket.name()).prefix(&prefix);
                let request = request.start_after(&after).max_keys(wanted).encoding_type(EncodingType::Url);
                answered(async { request.send().await.map_err(Failure::of) }).await
            })?;
            // An answer that is no list must not look like an empty one.
            page.more = answer.is_truncated().ok_or_else(|| {
                Error::new(Kind::Failed, "the store's answer is no list").hint("is `endpoint` an S3 server?")
            })?;
            let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
            let before = after.clone();
            for object in answer.contents() {
                let Some(full) = object.key().map(|key| decoded(key, is_encoded)) else {
                    continue;
                };
                if full <= after || !full.starts_with(&prefix) {
                    return Err(Error::new(Kind::Failed, format!("the store lists {full:?} behind {after:?}")).hint(
                        "walkeep needs a store that lists in the order of names; directory buckets (S3 Express) do not",
                    ));
                }
                // What is no key is not ours, and stays unseen.
                if let Some(key) = bucket.own(&full) {
                    if page.entries.len() == limit {
                        page.more = true;
                        break;
                    }
                    let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
                    page.entries.push(ListedObject {
                        key,
                        size,
                        modified: timestamp(object.last_modified()),
                    });
                }
                after = full;
            }
            if page.more && before == after {
                return Err(Error::new(
                    Kind::Failed,
                    "the store says that its list goes on, and gives nothing more",
                ));
            }
        }
        Ok(page)
    }

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
        let deleted = bucket.request(Wish::Delete, async |client| {
            let request = client.delete_object().bucket(bucket.name()).key(bucket.full(key));
            answered(async { request.send().await.map_err(Failure::of) }).await
        });
        match deleted {
            Err(failure) if !failure.is_absent() => {
                Err(Error::from(failure).doing(self.doing("delete", key)))
            }
            _ => Ok(()),
        }
    }

    fn delete_batch(&self, keys: &[Key]) -> std::result::Result<(), Failure> {
        let bucket = &*self.bucket;
        let named = keys.iter().map(|key| ObjectIdentifier::builder().key(bucket.full(key)).build());
        let odd = |e: aws_sdk_s3::error::BuildError| Error::new(Kind::Failed, e.to_string());
        let objects = named.collect::<std::result::Result<Vec<_>, _>>().map_err(odd)?;
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(odd)?;
        let answer = bucket.request(Wish::Delete, async |client| {
            let request = client.delete_objects().bucket(bucket.name()).delete(delete.clone());
            let request = request.customize().interceptor(ContentMd5(bucket.options.checksums));
            answered(async { request.send().await.map_err(Failure::of) }).await
        })?;
        // The request succeeded, and each object may have failed.
        let failed = || answer.errors().iter().filter(|error| error.code() != Some("NoSuchKey"));
        match failed().next() {
            None => Ok(()),
            Some(first) => {
                let (code, message) = (first.code().unwrap_or_default(), first.message().unwrap_or_default());
                let key = first.key().unwrap_or_default();
                let story = format!(
                    "{} of {} objects were not deleted, the first {key:?}",
                    failed().count(),
                    keys.len()
                );
                Err(Failure::of_one(code, message, &story).wished(Wish::Delete))
            }
        }
    }

    /// Aborts what crashed writers began to upload.
    fn abort_uploads(&self, before: jiff::Timestamp) -> Result<u64> {
        let bucket = &*self.bucket;
        let prefix = match bucket.options.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let (mut key_marker, mut id_marker, mut aborted) = (None, None, 0);
        loop {
            let page = bucket.request(Wish::Uploads, async |client| {
                let request = client.list_multipart_uploads().bucket(bucket.name()).prefix(&prefix);
                let request =
                    request.set_key_marker(key_marker.clone()).set_upload_id_marker(id_marker.clone());
                answered(async { request.send().await.map_err(Failure::of) }).await
            });
            let page = match page {
                // A store that cannot list them has to be told to forget them by a rule of its own.
                Err(failure) if failure.is_unknown_request() => return Ok(aborted),
                page => page?,
            };
            for upload in page.uploads() {
                let is_old = upload.initiated().is_some_and(|begun| timestamp(Some(begun)) < before);
                if let (true, Some(key), Some(id)) = (is_old, upload.key(), upload.upload_id())
                    && bucket.own(key).is_some()
                {
                    multipart::abort(bucket, key, id)?;
                    aborted += 1;
                }
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if !page.is_truncated.unwrap_or(false) || next == (key_marker, id_marker) {
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

    fn delete(&self, keys: &[Key]) -> Result<()> {
        // As many as one request may name.
        keys.chunks(1000).try_for_each(|keys| self.delete_some(keys))
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

fn timestamp(time: Option<&DateTime>) -> jiff::Timestamp {
    let time = time.and_then(|time| jiff::Timestamp::from_nanosecond(time.as_nanos()).ok());
    time.unwrap_or_default()
}

/// A name in a listing, in which what XML cannot hold is percent-encoded.
fn decoded(text: &str, is_encoded: bool) -> String {
    if !is_encoded {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = behind;
            }
            _ => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
