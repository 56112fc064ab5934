//! Creates files, and sets their modes.

use crate::error::{Doing, Result};
use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Creates a file that must not exist: nothing is written through a link, nothing is replaced.
pub(super) fn create(path: &Path) -> Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .doing(|| format!("create {}", path.display()))
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .doing(|| format!("set the mode of {}", path.display()))
}
