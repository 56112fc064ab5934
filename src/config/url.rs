//! The place of a repository.

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// The place of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryUrl {
    /// An absolute directory.
    File(PathBuf),
    /// Objects under a prefix, which is empty or neither begins nor ends with a slash.
    S3 { bucket: String, prefix: String },
}

impl RepositoryUrl {
    /// Parses `file:///directory` or `s3://bucket/prefix`. A directory is used as written, without
    /// percent decoding.
    ///
    /// # Errors
    ///
    /// `Config`, without any of the text, which may contain credentials by mistake.
    pub fn parse(text: &str) -> Result<RepositoryUrl> {
        let error = |message: &str, hint: &str| Err(Error::new(Kind::Config, message).hint(hint));
        if text.chars().any(char::is_control) {
            return error("contains a control character", "remove the character");
        }
        match text.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => {
                if Path::new(path).parent().is_none() {
                    return error("the root directory cannot be a repository", "name a directory in it");
                }
                Ok(RepositoryUrl::File(path.into()))
            }
            Some(("file", _)) => {
                error("not an absolute path", "write three slashes, as in `file:///var/lib/walkeep`")
            }
            Some(("s3", place)) => s3(place),
            _ => error(
                "neither a `file://` nor an `s3://` URL",
                "write it as in `file:///var/lib/walkeep` or `s3://bucket/prefix`",
            ),
        }
    }
}

fn s3(place: &str) -> Result<RepositoryUrl> {
    let error = |message: &str, hint: &str| Err(Error::new(Kind::Config, message).hint(hint));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if place.contains(['@', '?', '#']) {
        return error(
            "an s3 URL cannot contain `@`, `?` or `#`",
            "write `s3://bucket/prefix`; put credentials into `access_key_file` and `secret_key_file`",
        );
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(allowed) {
        return error(
            "not a bucket name: 3 to 63 lower-case letters, digits, `-` and `.`",
            "write it as in `s3://bucket/prefix`",
        );
    }
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() && prefix.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return error(
            "the prefix has an empty, `.` or `..` component",
            "write it as in `s3://bucket/prefix`",
        );
    }
    Ok(RepositoryUrl::S3 { bucket: bucket.into(), prefix: prefix.into() })
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepositoryUrl::File(path) => write!(f, "file://{}", path.display()),
            RepositoryUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            RepositoryUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}
