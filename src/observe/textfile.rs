//! A file that a collector may read at any moment: it has the whole new text or the whole old one.

use crate::error::Result;
use crate::fs::durable;
use std::path::Path;

/// Readable for everybody: the collector runs as another user.
const MODE: u32 = 0o644;

/// Writes a file by a rename.
pub fn write(path: &Path, text: &str) -> Result<()> {
    durable::write_replacing(path, text.as_bytes(), MODE)
}
