//! Directories that a restore may write into. Reads the file system, and changes nothing.

use super::owner::Ownership;
use super::target::{Role, Target};
use crate::error::{Error, Kind, Result};
use crate::fs::folder::Folder;
use crate::fs::named;
use crate::pg::running;
use crate::pg::shell::quoted;
use rustix::fs::{Access, FileType, Stat};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Refuses a directory that this process cannot restore into: one that [`check_entries`] refuses,
/// or an existing one of another user.
pub(super) fn check_writable(target: &Target) -> Result<()> {
    check_entries(target.nearest()).map_err(|error| explain(error, target))?;
    let Some(folder) = target.existing() else {
        return Ok(());
    };
    folder.access(Access::READ_OK).map_err(|errno| denied(folder.path(), errno))?;
    let (user, owner) = (rustix::process::geteuid(), folder.own_stat()?.st_uid);
    if user.is_root() || owner == user.as_raw() {
        return Ok(());
    }
    let what = format!("{} belongs to another user (uid {owner})", target.path.display());
    Err(Error::new(Kind::Refused, what)
        .hint("only the owner of a directory can set its mode: restore as root or as its owner"))
}

/// Names the option that puts a tablespace elsewhere.
fn explain(error: Error, target: &Target) -> Error {
    let Role::Tablespace(oid) = target.role else {
        return error;
    };
    let is_denied = error.kind() == Kind::Denied;
    let error = error.doing(format!("create {} for tablespace {oid}", target.path.display()));
    if is_denied {
        let hint =
            format!("create the directory for this user first, or put it elsewhere: --tablespace {oid}=DIR");
        return error.with_hint(hint);
    }
    error
}

/// Refuses a directory in which this process cannot create files.
pub(super) fn check_entries(folder: &Folder) -> Result<()> {
    let path = folder.path();
    folder.access(Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| denied(path, errno))?;
    if folder.is_immutable() {
        let what = format!("{} has the attribute `immutable`", path.display());
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

/// Refuses for root a directory that no option names, unless it belongs to the user that the
/// restored files get. One that does not exist has to be an entry of such a directory, in which no
/// other user can create files. Otherwise the repository would choose what root changes.
pub(super) fn check_unnamed(target: &Target, ownership: &Ownership) -> Result<()> {
    if target.is_named || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let nearest = target.nearest();
    let stat = nearest.own_stat()?;
    let is_allowed = match target.existing() {
        Some(_) if ownership.may_change(&stat) => true,
        // A restore that was killed may have created it.
        Some(folder) => folder.is_empty()? && is_private(&folder.parent()?.own_stat()?, ownership),
        None => target.lacks_one() && is_private(&stat, ownership),
    };
    if is_allowed {
        return Ok(());
    }
    let path = target.path.display();
    let place = quoted(&path.to_string());
    let (what, hint) = match target.role {
        Role::Tablespace(oid) => (
            format!("{path}, the location of tablespace {oid} in the backup, "),
            format!("if that is the right place: --tablespace {oid}={place}"),
        ),
        _ => (
            format!("{path}, to which pg_wal is a link, "),
            format!("if that is the right place: --waldir {place}"),
        ),
    };
    let reason = if target.existing().is_some() {
        format!("belongs to uid {}, and not to {}", stat.st_uid, ownership.recorded())
    } else if !target.lacks_one() {
        "does not exist, like the directory above it".to_owned()
    } else {
        format!(
            "does not exist, and {} is not a directory of {} alone",
            nearest.path().display(),
            ownership.recorded()
        )
    };
    Err(Error::new(Kind::Refused, what + &reason).hint(hint))
}

/// Whether a directory belongs to the owner of the restored files, and no other user can create
/// files in it.
fn is_private(directory: &Stat, ownership: &Ownership) -> bool {
    let is_of_group = directory.st_gid == ownership.ids().1;
    let is_shared = directory.st_mode & 0o002 != 0 || directory.st_mode & 0o020 != 0 && !is_of_group;
    ownership.may_change(directory) && !is_shared
}

/// Returns a path with the links of its existing part resolved.
pub(super) fn resolved(path: &Path) -> Result<PathBuf> {
    for part in path.ancestors() {
        if let (Some(real), Ok(rest)) = (named::real(part)?, path.strip_prefix(part)) {
            // Joining an empty path would add a slash.
            return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
        }
    }
    Ok(path.to_owned())
}

/// Refuses a directory inside of the data directory of another cluster, or inside of a directory of
/// walkeep itself. `foreign` are directories that do not belong to the cluster.
pub(super) fn check_surroundings(target: &Target, foreign: &[PathBuf]) -> Result<()> {
    let (path, real) = (&target.path, target.real()?);
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
        if named::kind_at(&around.join(crate::repo::DRILL_MARKER))? == Some(FileType::RegularFile) {
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
pub(super) fn check_unlinked(
    oid: u32,
    place: &Target,
    to: &Target,
    data_directories: &[PathBuf],
) -> Result<()> {
    let Some(place_identity) = place.identity()? else {
        return Ok(());
    };
    let to = to.identity()?;
    for data in data_directories {
        if to.is_some() && identity(data) == to {
            continue;
        }
        // A directory that cannot be read belongs to a user whose tablespaces this one cannot write.
        let directory = data.join("pg_tblspc");
        let links = named::list(&directory).ok().flatten().unwrap_or_default();
        if links.iter().any(|(name, _)| identity(&directory.join(name)) == Some(place_identity)) {
            return Err(Error::new(
                Kind::Refused,
                format!("{} is a tablespace of the cluster in {}", place.path.display(), data.display()),
            )
            .hint(format!("put the restored tablespace elsewhere: --tablespace {oid}=DIR")));
        }
    }
    Ok(())
}

/// Device and inode of what is at a path; `None` when that cannot be found out.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    let stat = named::stat(path).ok().flatten()?;
    Some((stat.st_dev, stat.st_ino))
}
