//! Large bodies of unknown length: in parts, each with its hash, made one object by the last request. Until then
//! nobody sees anything of it.

use super::body::{Sum, answered, answered_within, upload};
use super::failure::{Failure, Wish};
use super::{Bucket, Checksums};
use crate::error::{Error, Kind, Result};
use crate::storage::retry::RetryPolicy;
use crate::storage::{Mode, Put};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use std::io::Read;
use std::time::Duration;

/// Of a part; ten thousand are possible.
pub(super) const PART: usize = 16 << 20;

/// Stores may take their time to put the parts together.
const COMPLETE: Duration = Duration::from_secs(300);

/// Reads until the buffer holds a part, or the source ends.
pub(super) fn fill(source: &mut dyn Read, part: &mut Vec<u8>) -> Result<()> {
    part.clear();
    source
        .take(PART as u64)
        .read_to_end(part)
        .map(|_| ())
        .map_err(|e| Error::io("read what is to be stored", &e))
}

/// An upload that has begun.
pub(super) struct Multipart<'a> {
    bucket: &'a Bucket,
    key: &'a str,
    id: String,
    parts: Vec<CompletedPart>,
}

impl<'a> Multipart<'a> {
    /// Stores the first part and what the source still has.
    pub(super) fn put(
        bucket: &'a Bucket,
        key: &'a str,
        first: Vec<u8>,
        source: &mut dyn Read,
        mode: Mode,
    ) -> Result<Put> {
        let mut upload = Multipart::begin(bucket, key)?;
        match upload.send(first, source).and_then(|()| upload.complete(mode)) {
            Ok(Put::Stored) => Ok(Put::Stored),
            otherwise => {
                // What stays behind if this fails too is removed by `clean`.
                let _ = abort(bucket, key, &upload.id);
                otherwise
            }
        }
    }

    fn begin(bucket: &'a Bucket, key: &'a str) -> Result<Multipart<'a>> {
        let options = &bucket.options;
        let algorithm = (options.checksums == Checksums::Header).then_some(ChecksumAlgorithm::Sha256);
        let output = bucket.request(Wish::Write, async |client| {
            let request = client
                .create_multipart_upload()
                .bucket(bucket.name())
                .key(key)
                .set_checksum_algorithm(algorithm.clone())
                .set_storage_class(options.storage_class.as_deref().map(Into::into))
                .set_server_side_encryption(options.sse.as_deref().map(Into::into))
                .set_ssekms_key_id(options.sse_kms_key_id.clone());
            answered(async { request.send().await.map_err(Failure::of) }).await
        })?;
        let id = output.upload_id.ok_or_else(|| odd("names no upload"))?;
        Ok(Multipart { bucket, key, id, parts: Vec::new() })
    }

    fn send(&mut self, first: Vec<u8>, source: &mut dyn Read) -> Result<()> {
        let mut part = first;
        while !part.is_empty() {
            // Tried again here, since with it all others would have to be sent again.
            let done = RetryPolicy::default().again(|| true, |_| self.send_part(&part))?;
            self.parts.push(done);
            fill(source, &mut part)?;
        }
        Ok(())
    }

    fn send_part(&self, part: &[u8]) -> Result<CompletedPart> {
        let bucket = self.bucket;
        let number = i32::try_from(self.parts.len() + 1).unwrap_or(i32::MAX);
        let sum = Sum::of(part, bucket.options.checksums);
        let output = bucket.request(Wish::Write, async |client| {
            upload(part, async |body| {
                let request = client
                    .upload_part()
                    .bucket(bucket.name())
                    .key(self.key)
                    .upload_id(&self.id)
                    .part_number(number)
                    .content_length(i64::try_from(part.len()).unwrap_or(i64::MAX))
                    .set_checksum_sha256(sum.header.clone())
                    .body(body);
                request.customize().interceptor(sum.signed()).send().await.map_err(Failure::of)
            })
            .await
        })?;
        sum.check(output.checksum_sha256())?;
        let etag = output.e_tag.ok_or_else(|| odd("has no ETag"))?;
        let done = CompletedPart::builder().part_number(number).e_tag(etag);
        Ok(done.set_checksum_sha256(sum.header).build())
    }

    fn complete(&mut self, mode: Mode) -> Result<Put> {
        let bucket = self.bucket;
        let parts =
            CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.parts))).build();
        let output = bucket.request(Wish::Write, async |client| {
            let request = client
                .complete_multipart_upload()
                .bucket(bucket.name())
                .key(self.key)
                .upload_id(&self.id)
                .multipart_upload(parts.clone())
                .set_if_none_match((mode == Mode::Create).then(|| "*".to_owned()));
            answered_within(COMPLETE, async { request.send().await.map_err(Failure::of) }).await
        });
        match output {
            Ok(output) if output.e_tag.is_some() => Ok(Put::Stored),
            Ok(_) => Err(odd("has no ETag")),
            Err(failure) if mode == Mode::Create && failure.is_taken() => Ok(Put::Exists),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Throws an upload away; one that is not there is gone.
pub(super) fn abort(bucket: &Bucket, key: &str, id: &str) -> Result<()> {
    let aborted = bucket.request(Wish::Uploads, async |client| {
        let request = client.abort_multipart_upload().bucket(bucket.name()).key(key).upload_id(id);
        answered(async { request.send().await.map_err(Failure::of) }).await
    });
    match aborted {
        Err(failure) if !failure.is("NoSuchUpload") => Err(failure.into()),
        _ => Ok(()),
    }
}

fn odd(what: &str) -> Error {
    Error::new(Kind::Unavailable, format!("the store's answer {what}"))
}
