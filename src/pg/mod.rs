//! What PostgreSQL's files and protocols mean. Knows nothing of archives, repositories and terminals.
//!
//! Formats are parsed once, here, into values; whatever comes from a file or a network may be cut, damaged
//! or hostile, and is answered with an error, never with a panic.

pub mod client;
pub mod conninfo;
pub mod control;
pub mod history;
pub mod label;
pub mod lsn;
pub mod manifest;
pub mod page;
pub mod programs;
pub mod record;
pub mod relation;
pub mod segment;
mod tls;
pub mod wal;
mod wire;
mod x509;

use crate::error::{Doing, Error, Kind, Result};
use std::path::Path;

/// The oldest and newest major version that walkeep knows the files of.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 15..=18;

/// The major version that a data directory says it belongs to, from its file `PG_VERSION`.
pub fn major_version(pgdata: &Path) -> Result<u32> {
    let path = pgdata.join("PG_VERSION");
    let doing = || format!("read {}", path.display());
    let text = std::fs::read_to_string(&path).doing(doing)?;
    let major = text
        .trim()
        .parse()
        .map_err(|_| Error::new(Kind::Damage, format!("`{}` is no version", text.trim())).doing(doing()))?;
    if !SUPPORTED.contains(&major) {
        return Err(Error::new(Kind::Refused, format!("PostgreSQL {major} is not supported"))
            .doing(doing())
            .hint(format!("this walkeep knows PostgreSQL {} to {}", SUPPORTED.start(), SUPPORTED.end())));
    }
    Ok(major)
}
