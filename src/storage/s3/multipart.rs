//! Multipart uploads, for large bodies of unknown length: parts, each with its hash, which the last
//! request combines to one object. No reader sees any part of the object before that.

use super::body::{STALL_TIMEOUT, Sum, length, upload, with_timeout};
use super::failure::{RequestKind, S3Failure, unexpected_answer};
use super::{Checksums, SharedBucket};
use crate::error::{Error, Kind, Result};
use crate::storage::retry::RetryPolicy;
use crate::storage::{Mode, Put, READ_SOURCE};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use std::io::Read;
use std::time::Duration;

/// Size of a part in bytes; the last part may be smaller.
pub(super) const PART_SIZE: usize = 16 << 20;

/// Maximum number of parts of an upload, a limit of S3.
const MAX_PARTS: usize = 10_000;

/// Time limit of the last request, during which the store combines the parts.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(300);

/// Replaces the content of `part` by the next part of `source`; `part` is empty at the end.
pub(super) fn fill(source: &mut dyn Read, part: &mut Vec<u8>) -> Result<()> {
    part.clear();
    source.take(PART_SIZE as u64).read_to_end(part).map(|_| ()).map_err(|e| Error::from_io(READ_SOURCE, e))
}

/// An upload that has begun.
pub(super) struct Multipart<'a> {
    bucket: &'a SharedBucket,
    key: &'a str,
    id: String,
    parts: Vec<CompletedPart>,
}

impl<'a> Multipart<'a> {
    /// Stores an object: `first`, its first part, and the rest of `source`.
    pub(super) fn put(
        bucket: &'a SharedBucket,
        key: &'a str,
        first: Vec<u8>,
        source: &mut dyn Read,
        mode: Mode,
    ) -> Result<Put> {
        let mut upload = Multipart::begin(bucket, key)?;
        match upload.send(first, source).and_then(|()| upload.complete(mode)) {
            Ok(Put::Stored) => Ok(Put::Stored),
            otherwise => {
                // If this fails too, `clean` removes the parts later.
                let _ = abort(bucket, key, &upload.id);
                otherwise
            }
        }
    }

    fn begin(bucket: &'a SharedBucket, key: &'a str) -> Result<Multipart<'a>> {
        let options = &bucket.options;
        let algorithm = (options.checksums == Checksums::Header).then_some(ChecksumAlgorithm::Sha256);
        let output = bucket.request(RequestKind::Write, async |client| {
            let request = client
                .create_multipart_upload()
                .bucket(bucket.name())
                .key(key)
                .set_checksum_algorithm(algorithm.clone())
                .set_storage_class(options.storage_class.as_deref().map(Into::into))
                .set_server_side_encryption(options.sse.as_deref().map(Into::into))
                .set_ssekms_key_id(options.sse_kms_key_id.clone());
            with_timeout(STALL_TIMEOUT, request.send()).await
        })?;
        let id = output.upload_id.ok_or_else(|| unexpected_answer(Kind::Unavailable, "has no upload id"))?;
        Ok(Multipart { bucket, key, id, parts: Vec::new() })
    }

    fn send(&mut self, first: Vec<u8>, source: &mut dyn Read) -> Result<()> {
        let mut part = first;
        while !part.is_empty() {
            // Retried here, since a retry of the whole put would send all parts again.
            let done = RetryPolicy::default().retry(|| true, |_| self.send_part(&part))?;
            self.parts.push(done);
            fill(source, &mut part)?;
        }
        Ok(())
    }

    fn send_part(&self, part: &[u8]) -> Result<CompletedPart> {
        let bucket = self.bucket;
        let number = self.parts.len() + 1;
        let number = i32::try_from(number).ok().filter(|_| number <= MAX_PARTS).ok_or_else(|| {
            Error::new(Kind::Refused, format!("more than {MAX_PARTS} parts of {PART_SIZE} bytes"))
        })?;
        let length = length(part)?;
        let sum = Sum::of(part, bucket.options.checksums);
        let output = bucket.request(RequestKind::Write, async |client| {
            upload(part, async |body| {
                let request = client
                    .upload_part()
                    .bucket(bucket.name())
                    .key(self.key)
                    .upload_id(&self.id)
                    .part_number(number)
                    .content_length(length)
                    .set_checksum_sha256(sum.header.clone())
                    .body(body);
                request.customize().interceptor(sum.signed()).send().await.map_err(S3Failure::of)
            })
            .await
        })?;
        sum.check(output.checksum_sha256())?;
        let etag = output.e_tag.ok_or_else(|| unexpected_answer(Kind::Unavailable, "has no ETag"))?;
        let done = CompletedPart::builder().part_number(number).e_tag(etag);
        Ok(done.set_checksum_sha256(sum.header).build())
    }

    fn complete(&mut self, mode: Mode) -> Result<Put> {
        let bucket = self.bucket;
        let parts =
            CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.parts))).build();
        let output = bucket.request(RequestKind::Write, async |client| {
            let request = client
                .complete_multipart_upload()
                .bucket(bucket.name())
                .key(self.key)
                .upload_id(&self.id)
                .multipart_upload(parts.clone())
                .set_if_none_match((mode == Mode::Create).then(|| "*".to_owned()));
            with_timeout(COMPLETE_TIMEOUT, request.send()).await
        });
        match output {
            Ok(output) if output.e_tag.is_some() => Ok(Put::Stored),
            Ok(_) => Err(unexpected_answer(Kind::Unavailable, "has no ETag")),
            Err(failure) if mode == Mode::Create && failure.is_taken() => Ok(Put::Exists),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Aborts an upload. An upload that does not exist is not an error.
pub(super) fn abort(bucket: &SharedBucket, key: &str, id: &str) -> Result<()> {
    let aborted = bucket.request(RequestKind::Uploads, async |client| {
        let request = client.abort_multipart_upload().bucket(bucket.name()).key(key).upload_id(id);
        with_timeout(STALL_TIMEOUT, request.send()).await
    });
    match aborted {
        Err(failure) if !failure.is("NoSuchUpload") => Err(failure.into()),
        _ => Ok(()),
    }
}
