//! Scratch directories: below the system's directory for temporary files, owned by the account,
//! reachable by it, removed when dropped. `WALKEEP_TEST_KEEP=1` leaves them for a look.

use super::{account, skipped};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A directory of one test.
pub struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    /// A new, empty one.
    pub fn new() -> Scratch {
        // A socket's path has 107 bytes, and a server's socket lies in here: no deep places.
        let temporary = std::env::temp_dir();
        let short = temporary.as_os_str().len() <= 40;
        Scratch::below(if short { temporary } else { PathBuf::from("/tmp") })
    }

    /// One whose files are on a disk and not in memory alone. None where there is no such place;
    /// then the test's output says that it was skipped.
    pub fn on_disk() -> Option<Scratch> {
        const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6]; // tmpfs and ramfs
        let places = [std::env::temp_dir(), PathBuf::from("/var/tmp")];
        let is_disk =
            |place: &PathBuf| rustix::fs::statfs(place).is_ok_and(|found| !IN_MEMORY.contains(&found.f_type));
        let found = places.into_iter().find(is_disk);
        if found.is_none() {
            skipped("disk", "directories for temporary files are in memory");
        }
        found.map(Scratch::below)
    }

    fn below(base: PathBuf) -> Scratch {
        let mut directory =
            tempfile::Builder::new().prefix("walkeep-").tempdir_in(base).expect("make a scratch directory");
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))
            .expect("open the scratch directory");
        account::give(directory.path());
        directory.disable_cleanup(std::env::var_os("WALKEEP_TEST_KEEP").is_some());
        Scratch { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The path of something in it, made or not.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// A new directory in it, of the account, with mode 0700 as data directories have it.
    pub fn mkdir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(&path).expect("make a directory");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("set its mode");
        account::give(&path);
        path
    }

    /// A file in it, of the account, with mode 0600.
    pub fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        write(&path, bytes);
        path
    }
}

/// Writes a file of the account with mode 0600.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("set its mode");
    account::give(path);
}

/// Copies a directory tree with owners and modes.
pub fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .args(["-a", "--reflink=auto", "-T"])
        .args([from, to])
        .status()
        .expect("start cp");
    assert!(status.success(), "copy {} to {}", from.display(), to.display());
}
