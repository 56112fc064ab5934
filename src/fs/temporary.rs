//! Temporary directories.

use super::folder::{Folder, Rights, random_name};
use super::named;
use crate::error::Result;
use std::path::Path;

/// Directory of a random name that only the user of the process can use; removed with everything in
/// it when it is dropped.
pub struct TemporaryFolder {
    parent: Folder,
    name: String,
    folder: Folder,
}

impl TemporaryFolder {
    /// Creates a directory in `parent`, whose name begins with `prefix`.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `Refused` when another user has taken its place.
    pub fn create(parent: &Path, prefix: &str) -> Result<TemporaryFolder> {
        let parent = Folder::root(parent)?.ok_or_else(|| named::missing(parent))?;
        let name = format!("{prefix}-{}", random_name()?);
        let folder = parent.make_folder(&name, &Rights::new(None, 0o600, 0o700))?;
        let made = TemporaryFolder { parent, name, folder };
        made.folder.check_private(rustix::process::geteuid().as_raw())?;
        Ok(made)
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // A failure is ignored: it lies among the temporary files.
        let _ = self.parent.remove_tree(&self.name);
    }
}
