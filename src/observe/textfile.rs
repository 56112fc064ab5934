//! A file that a collector may read at any moment: it has the complete new text or the complete old
//! text.

use crate::error::Result;
use crate::fs::folder;
use std::path::Path;

/// Mode of the file: readable for all users, since the collector runs as another one.
const MODE: u32 = 0o644;

/// Writes a file by a rename. One that root writes belongs to the owner of its directory.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let (folder, name) = folder::parent_of(path)?;
    folder.put(name, text.as_bytes(), &folder.rights()?.with_modes(MODE, MODE))
}
