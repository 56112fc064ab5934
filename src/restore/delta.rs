//! A restore over existing files: the directories that may be used, the files that are removed, and
//! the blocks that are in place already. Whether a block is in place is decided by its hash alone:
//! times and sizes of files prove nothing.

use super::empty::names;
use super::holes::{between, holes};
use super::job::RestoreJob;
use super::layout::Region;
use super::waldir::check_content;
use crate::codec::compress::FRAME;
use crate::codec::hash::block_hash;
use crate::error::{Doing, Error, Kind, Result, part};
use crate::fs::aligned::Aligned;
use crate::fs::{direct, durable, open_plain};
use crate::pg::control::Control;
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::{RESTORING, manifest};
use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Refuses directories that do not hold this cluster, or that contain a foreign directory.
pub(super) fn check(job: &RestoreJob<'_>) -> Result<()> {
    for root in job.roots() {
        for foreign in &job.options.foreign {
            if real(foreign)?.starts_with(real(root)?) {
                return Err(Error::new(
                    Kind::Refused,
                    format!(
                        "{} lies in {}, where files that the backup does not have are removed",
                        foreign.display(),
                        root.display()
                    ),
                )
                .hint("restore into another directory, or move the inner one away"));
            }
        }
    }
    check_data(job)?;
    job.tablespaces.values().try_for_each(|root| check_tablespace(root))?;
    job.waldir.iter().try_for_each(|waldir| check_content(waldir))?;
    job.roots().try_for_each(check_owned)
}

/// Resolves links; a path that does not exist stays as it is.
fn real(path: &Path) -> Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(path.to_owned()),
        real => real.doing(|| format!("look at {}", path.display())),
    }
}

fn check_data(job: &RestoreJob<'_>) -> Result<()> {
    let to = &job.options.to;
    let names = names(to)?;
    if names.iter().any(|name| name == RESTORING) || names.iter().all(|name| name == "lost+found") {
        return Ok(());
    }
    let record = &job.plan.record;
    let system = Control::read(to).map(|control| control.system_identifier());
    let lineage = job.plan.archive.lineage();
    let reason = match (system, crate::pg::major_version(to)) {
        (Ok(system), Ok(major)) if system == record.system_identifier && major == lineage.major => {
            return Ok(());
        }
        (Ok(system), Ok(major)) => format!("it belongs to the cluster {system}-{major}"),
        (Err(error), _) | (_, Err(error)) => error.to_string(),
    };
    let what = format!("{} is not a data directory of {lineage}: {reason}", to.display());
    Err(Error::new(Kind::Refused, what).hint(
        "--delta changes the data directory of the same cluster; restore into an empty directory without it",
    ))
}

/// Refuses a directory that holds anything else than directories of clusters, one for each version.
fn check_tablespace(root: &Path) -> Result<()> {
    let is_known = |name: &std::ffi::OsString| {
        name == RESTORING || name == "lost+found" || name.to_string_lossy().starts_with("PG_")
    };
    match names(root)?.into_iter().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Refused,
            format!(
                "{} is not the directory of a tablespace: it contains {}",
                root.display(),
                name.display()
            ),
        )
        .hint("a tablespace is moved with --tablespace OLD=NEW")),
    }
}

/// Returns the number of bytes that the files below a directory take. Files and directories that
/// cannot be read count as 0.
pub(super) fn used(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => used(&entry.path()),
        Ok(meta) if meta.is_file() => meta.blocks() * 512,
        _ => 0,
    };
    entries.map(of).sum()
}

/// Refuses a directory with files or directories of other users: only root could change them.
pub(super) fn check_owned(directory: &Path) -> Result<()> {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return Ok(());
    }
    for name in names(directory)? {
        let path = directory.join(name);
        let doing = || format!("look at {}", path.display());
        let meta = match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            meta => meta.doing(doing)?,
        };
        // A link, and a file with several links, is removed, which the directory decides.
        let is_changed = meta.is_dir() || meta.is_file() && meta.nlink() == 1;
        if is_changed && meta.uid() != user.as_raw() {
            let what = format!("{} belongs to another user (uid {})", path.display(), meta.uid());
            return Err(Error::new(Kind::Refused, what).hint("restore as root, or as the owner of all files"));
        }
        if meta.is_dir() {
            check_owned(&path)?;
        }
    }
    Ok(())
}

/// Removes the control file, so that no server can start from here on, and then all files and
/// directories that the backup does not have. Has the names of all files of the backup in memory.
pub(super) fn clear(job: &RestoreJob<'_>) -> Result<()> {
    durable::remove_file(&job.options.to.join("global/pg_control"))?;
    let mut expected: HashMap<PathBuf, bool> = HashMap::new();
    manifest::read(&job.plan.archive, &job.plan.record, |part| {
        for entry in &part.entries {
            match entry {
                Entry::Dir(dir) => drop(expected.insert(job.place(&dir.path.0), true)),
                Entry::File(file) if job.is_restored(&file.path.0) => {
                    expected.insert(job.place(&file.path.0), false);
                }
                Entry::File(_) | Entry::Tablespace(_) | Entry::Config(_) => {}
            }
        }
        Ok(())
    })?;
    let strays = Strays { job, expected };
    job.roots().try_for_each(|root| strays.remove_from(root))
}

/// Removes files and directories that the backup does not have.
struct Strays<'a> {
    job: &'a RestoreJob<'a>,
    /// Paths that the backup has, and whether each is a directory.
    expected: HashMap<PathBuf, bool>,
}

impl Strays<'_> {
    fn remove_from(&self, directory: &Path) -> Result<()> {
        for name in names(directory)? {
            let path = directory.join(&name);
            let doing = || format!("remove {}", path.display());
            let expected = self.expected.get(&path);
            let is_root = |directory: &Path| self.job.roots().any(|root| root == directory);
            let is_foreign =
                expected.is_none() && self.job.tablespaces.values().any(|root| root == directory);
            if is_root(directory) && (name == RESTORING || name == "lost+found" || is_foreign) {
                continue;
            }
            let meta = std::fs::symlink_metadata(&path).doing(doing)?;
            match expected {
                Some(true) if meta.is_dir() => self.remove_from(&path)?,
                // A file with several hard links is removed, so that it is not changed under its
                // other names.
                Some(false) if meta.is_file() && meta.nlink() == 1 => {}
                _ if meta.is_dir() => std::fs::remove_dir_all(&path).doing(doing)?,
                _ => {
                    if meta.is_symlink() && expected.is_some() {
                        let what = format!("{} was a link; its target stays as it is", path.display());
                        tracing::info!("{what}");
                    }
                    std::fs::remove_file(&path).doing(doing)?;
                }
            }
        }
        Ok(())
    }
}

/// Opens an existing file and gives it the length of the stored one. Returns the file and the
/// length that it had; `None` when it does not exist.
pub(super) fn open(path: &Path, stored: &FileEntry) -> Result<Option<(File, u64)>> {
    let doing = || format!("compare {}", path.display());
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        meta => {
            if !meta.doing(doing)?.is_file() {
                return Err(Error::new(Kind::Refused, "it is not a regular file").doing(doing()));
            }
        }
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).doing(doing)?;
    let file = open_plain(path, File::options().read(true).write(true)).doing(doing)?;
    let length = file.metadata().doing(doing)?.len();
    if length > stored.size {
        file.set_len(stored.size).doing(doing)?;
    } else if length < stored.size {
        direct::allocate(&file, path, stored.size, &between(&holes(stored), stored.size))?;
    }
    Ok(Some((file, length)))
}

/// Returns for each block of a region whether it is in place. `length` is the length of the file
/// before the restore. Leaves the region's bytes in the buffer.
pub(super) fn compare(
    path: &Path,
    file: &mut direct::DirectTarget<'_>,
    region: &Region,
    stored: &FileEntry,
    length: u64,
    buffer: &mut Aligned,
) -> Result<Vec<bool>> {
    let doing = || format!("compare {}", path.display());
    let begin = region.offset();
    let there = length.saturating_sub(begin).min(region.length() as u64);
    let size = usize::try_from(there).map_err(|_| Error::defect("a region that is too large"))?;
    let got = if size == 0 { 0 } else { file.read(buffer.slice(FRAME), size, begin).doing(doing)? };
    let blocks = buffer.bytes(got).chunks(stored.block.max(1) as usize);
    let expected = part(&stored.hashes, region.blocks())?;
    let mut same: Vec<bool> = blocks.zip(expected).map(|(block, hash)| block_hash(block) == *hash).collect();
    same.resize(expected.len(), false);
    Ok(same)
}
