//! The formats and protocols of PostgreSQL. Does not know archives, repositories and terminals.
//!
//! Formats are parsed into values here and nowhere else. Bytes of a file or a network may be cut,
//! damaged or hostile: they lead to an error, never to a panic.

mod bytes;
pub mod checksums;
pub mod client;
pub mod conninfo;
pub mod control;
pub mod history;
pub mod label;
pub mod lsn;
pub mod manifest;
pub mod names;
pub mod page;
pub mod programs;
pub mod record;
pub mod relation;
pub mod running;
pub mod segment;
pub mod shell;
mod tls;
pub mod version;
pub mod wal;
mod wire;
mod x509;

use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use std::path::Path;
use version::Version;

/// Maximum size of `PG_VERSION` in bytes.
const MAX_VERSION_SIZE: u64 = 1 << 10;

/// Reads the major version of a data directory from its file `PG_VERSION`.
///
/// # Errors
///
/// `Refused` for a version that is not supported, `Damage` for a file of another form; those of the
/// operating system.
pub fn major_version(pgdata: &Path) -> Result<u32> {
    let path = pgdata.join("PG_VERSION");
    let doing = || format!("read {}", path.display());
    let text = named::read_text(&path, MAX_VERSION_SIZE)?.ok_or_else(|| named::missing(&path))?;
    let major = text.trim().parse().map_err(|_| {
        Error::new(Kind::Damage, format!("`{}` is not a version", text.trim())).doing(doing())
    })?;
    Version::of_major(major).doing(doing)?;
    Ok(major)
}
