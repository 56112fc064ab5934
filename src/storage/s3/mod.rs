//! A bucket as a store.

use super::{Body, Entry, Key, Mode, Object, Page, Put, Storage};
use crate::error::{Error, Kind, Result};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Which bucket, and how to reach it. What is not set comes from the usual AWS sources.
#[derive(Clone)]
pub struct S3Options {
    pub bucket: String,
    /// In front of every key; empty, or without a first and a last slash.
    pub prefix: String,
    pub region: Option<String>,
    /// `https://…` or `http://…`, without credentials.
    pub endpoint: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// PEM certificates to trust instead of those of the system.
    pub ca_file: Option<PathBuf>,
    pub profile: Option<String>,
    pub storage_class: Option<String>,
    /// `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub sse: Option<String>,
    pub sse_kms_key_id: Option<String>,
    pub access_key_file: Option<PathBuf>,
    pub secret_key_file: Option<PathBuf>,
    pub checksums: Checksums,
    /// A variable of the environment: this room does not read it by itself.
    pub variable: Arc<dyn Fn(&str) -> Option<String> + Send + Sync>,
}

/// Which checksums go with what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksums {
    /// `x-amz-checksum-sha256`, a header, which the store keeps with the object.
    #[default]
    Header,
    /// None but the one in the signature, for stores that refuse that header.
    None,
}

impl S3Options {
    /// A bucket, with nothing else set.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> S3Options {
        S3Options {
            bucket: bucket.into(),
            prefix: prefix.into(),
            region: None,
            endpoint: None,
            path_style: false,
            ca_file: None,
            profile: None,
            storage_class: None,
            sse: None,
            sse_kms_key_id: None,
            access_key_file: None,
            secret_key_file: None,
            checksums: Checksums::default(),
            variable: Arc::new(|_| None),
        }
    }
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options").field("bucket", &self.bucket).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A prefix of a bucket that holds objects.
pub struct S3 {
    options: S3Options,
}

impl S3 {
    /// Touches nothing: runtime, certificates and credentials wait for the first request.
    pub fn new(options: S3Options) -> S3 {
        S3 { options }
    }
}

fn not_yet<T>() -> Result<T> {
    Err(Error::new(Kind::Failed, "not yet"))
}

impl Storage for S3 {
    fn put(&self, _key: &Key, _body: &dyn Body, _mode: Mode) -> Result<Put> {
        not_yet()
    }

    fn get(&self, _key: &Key, _range: Option<Range<u64>>) -> Result<Option<Object>> {
        not_yet()
    }

    fn head(&self, _key: &Key) -> Result<Option<Entry>> {
        not_yet()
    }

    fn list(&self, _folder: &Key, _after: Option<&Key>, _limit: usize) -> Result<Page> {
        not_yet()
    }

    fn delete(&self, _keys: &[Key]) -> Result<()> {
        not_yet()
    }

    fn clean(&self, _before: jiff::Timestamp) -> Result<u64> {
        not_yet()
    }

    fn url(&self) -> String {
        match self.options.prefix.as_str() {
            "" => format!("s3://{}", self.options.bucket),
            prefix => format!("s3://{}/{prefix}", self.options.bucket),
        }
    }

    fn prove(&self) -> Result<()> {
        not_yet()
    }
}
