//! A file that a collector may read at any moment: all of it is there, or what was there before.

use crate::error::Result;
use crate::fs::durable;
use std::path::Path;

/// Readable for everybody: the collector is another user.
const MODE: u32 = 0o644;

pub fn write(path: &Path, text: &str) -> Result<()> {
    durable::write_replacing(path, text.as_bytes(), MODE)
}
