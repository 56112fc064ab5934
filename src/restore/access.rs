//! Directories that a restore may write into. Reads the file system, and changes nothing.

use super::mapping::resolved;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::running;
use rustix::fs::{Access, AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Refuses a directory that this process cannot restore into: one that [`check_entries`] refuses,
/// or an existing one of another user.
pub(super) fn check_writable(path: &Path) -> Result<()> {
    check_entries(path)?;
    let Ok(meta) = path.metadata() else {
        return Ok(());
    };
    rustix::fs::access(path, Access::READ_OK).map_err(|errno| denied(path, errno))?;
    let user = nix::unistd::geteuid();
    if user.is_root() || meta.uid() == user.as_raw() {
        return Ok(());
    }
    let what = format!("{} belongs to another user (uid {})", path.display(), meta.uid());
    Err(Error::new(Kind::Refused, what)
        .hint("only the owner of a directory can set its mode: restore as root or as its owner"))
}

/// Refuses a directory in which this process cannot create files or, if it does not exist, one that
/// this process cannot create.
pub(super) fn check_entries(path: &Path) -> Result<()> {
    let there = nearest(path)?;
    let meta = there.metadata().doing(|| format!("look at {}", there.display()))?;
    if !meta.is_dir() {
        let what = format!("{} is not a directory", there.display());
        return Err(Error::new(Kind::Refused, what).hint("choose another directory"));
    }
    rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| denied(there, errno))?;
    let attributes = rustix::fs::statx(CWD, there, AtFlags::empty(), StatxFlags::empty());
    if attributes.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::IMMUTABLE)) {
        let what = format!("{} has the attribute `immutable`", there.display());
        return Err(Error::new(Kind::Refused, what).hint("remove it with `chattr -i`"));
    }
    Ok(())
}

fn denied(path: &Path, errno: Errno) -> Error {
    if errno == Errno::ROFS {
        let what = format!("{} is in a file system that is read-only", path.display());
        return Error::new(Kind::Refused, what).hint("mount it for writing, or choose another directory");
    }
    Error::io(format!("write into {}", path.display()), &errno.into())
        .hint("create the directory for this user first, or restore as root")
}

/// Returns the longest part of a path that exists. Refuses a path through a link that leads nowhere,
/// and one that cannot be looked at.
fn nearest(path: &Path) -> Result<&Path> {
    for part in path.ancestors() {
        let doing = || format!("look at {}", part.display());
        match std::fs::symlink_metadata(part) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => return Err(Error::io(doing(), &e).hint("choose another directory")),
            Ok(meta) if meta.is_symlink() => {
                return match part.metadata() {
                    Ok(_) => Ok(part),
                    Err(e) => Err(Error::new(
                        Kind::Refused,
                        format!("{} is a link that leads nowhere: {e}", part.display()),
                    )
                    .hint("remove the link, or create the directory that it leads to")),
                };
            }
            Ok(_) => return Ok(part),
        }
    }
    Ok(Path::new("/"))
}

/// Refuses a directory inside of the data directory of another cluster, or inside of a directory of
/// walkeep itself. `foreign` are directories that do not belong to the cluster.
pub(super) fn check_surroundings(path: &Path, foreign: &[PathBuf]) -> Result<()> {
    let real = resolved(path)?;
    let inside =
        |what: String| Err(Error::new(Kind::Refused, what).hint("restore into a directory of its own"));
    for foreign in foreign {
        if real.starts_with(resolved(foreign)?) {
            return inside(format!(
                "{} lies in {}, which is a repository or the spool of walkeep",
                path.display(),
                foreign.display()
            ));
        }
    }
    for around in real.ancestors().skip(1) {
        if running::is_data_directory(around) {
            return inside(format!(
                "{} lies in {}, which is the data directory of a cluster",
                path.display(),
                around.display()
            ));
        }
        if around.join(crate::repo::DRILL_MARKER).is_file() {
            return inside(format!(
                "{} lies in {}, the scratch directory of a drill, which removes it",
                path.display(),
                around.display()
            ));
        }
    }
    Ok(())
}

/// Refuses the directory of a tablespace that a data directory other than `to` links to.
/// `data_directories` are known data directories.
pub(super) fn check_unlinked(oid: u32, place: &Path, to: &Path, data_directories: &[PathBuf]) -> Result<()> {
    let Ok(place_meta) = place.metadata() else {
        return Ok(());
    };
    let is_same = |other: &Path, meta: &std::fs::Metadata| {
        other.metadata().is_ok_and(|other| (other.dev(), other.ino()) == (meta.dev(), meta.ino()))
    };
    let to = to.metadata().ok();
    for data in data_directories {
        if to.as_ref().is_some_and(|to| is_same(data, to)) {
            continue;
        }
        // A directory that cannot be read belongs to a user whose tablespaces this one cannot write.
        let links = std::fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten();
        let found = links.map(|link| link.path()).find(|link| is_same(link, &place_meta));
        if found.is_some() {
            return Err(Error::new(
                Kind::Refused,
                format!("{} is a tablespace of the cluster in {}", place.display(), data.display()),
            )
            .hint(format!("put the restored tablespace elsewhere: --tablespace {oid}=DIR")));
        }
    }
    Ok(())
}
