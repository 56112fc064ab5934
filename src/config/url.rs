//! Where a repository is.

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// The place of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Url {
    /// A directory; absolute.
    File(PathBuf),
    /// Objects under a prefix, which is empty or has neither a first nor a last slash.
    S3 { bucket: String, prefix: String },
}

impl Url {
    /// Reads `file:///directory` or `s3://bucket/prefix`. A directory is taken as it stands, without
    /// percent decoding. Errors are of [`Kind::Config`] and repeat nothing of the text, which may
    /// hold credentials by mistake.
    pub fn parse(text: &str) -> Result<Url> {
        let error = |message: &str, hint: &str| Err(Error::new(Kind::Config, message).hint(hint));
        if text.chars().any(char::is_control) {
            return error("a control character in it", "take the character out");
        }
        match text.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => {
                if Path::new(path).parent().is_none() {
                    return error("the root directory is no repository", "name a directory in it");
                }
                Ok(Url::File(path.into()))
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

fn s3(place: &str) -> Result<Url> {
    let error = |message: &str, hint: &str| Err(Error::new(Kind::Config, message).hint(hint));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if place.contains(['@', '?', '#']) {
        return error(
            "an s3 URL has no place for `@`, `?` and `#`",
            "write `s3://bucket/prefix`; credentials go into `access_key_file` and `secret_key_file`",
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
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return error("an empty, `.` or `..` part in the prefix", "write it as in `s3://bucket/prefix`");
    }
    Ok(Url::S3 { bucket: bucket.into(), prefix: prefix.into() })
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Url::File(path) => write!(f, "file://{}", path.display()),
            Url::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Url::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}
