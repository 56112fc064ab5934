//! Reads of files whose content is small.

use crate::error::{Doing, Error, Kind, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Reads the rest of a file that is open at `path`.
///
/// # Errors
///
/// Those of the operating system; `Damage` for more than `limit` bytes.
pub fn read_limited(file: &File, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let doing = || format!("read {}", path.display());
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).doing(doing)?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Kind::Damage, format!("{} has more than {limit} bytes", path.display()))
            .hint("a file of this name is never that large: find out what wrote it"));
    }
    Ok(bytes)
}
