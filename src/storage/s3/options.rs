//! Settings of a bucket: plain values. The environment is passed in as a function.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Function that returns the value of an environment variable: this room does not read the
/// environment by itself.
pub type Variable = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Settings of a bucket. `None` leaves a setting to the usual AWS sources, or to the store.
#[derive(Clone)]
pub struct S3Options {
    pub bucket: String,
    /// Prefix of every key; empty, or without a slash at either end.
    pub prefix: String,
    pub region: Option<String>,
    /// `https://…` or `http://…`, without credentials.
    pub endpoint: Option<String>,
    /// Whether the URL of an object is `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// PEM file of the certificates to trust instead of those of the system.
    pub ca_file: Option<PathBuf>,
    pub profile: Option<String>,
    pub storage_class: Option<String>,
    /// `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub sse: Option<String>,
    pub sse_kms_key_id: Option<String>,
    pub access_key_file: Option<PathBuf>,
    pub secret_key_file: Option<PathBuf>,
    pub checksums: Checksums,
    pub variable: Variable,
}

/// Checksums that are sent with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksums {
    /// The header `x-amz-checksum-sha256`, which the store keeps with the object.
    #[default]
    Header,
    /// Only the checksum in the signature, for stores that refuse the header.
    None,
}

impl S3Options {
    /// Settings with a bucket and a prefix only.
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
        f.debug_struct("S3Options")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
