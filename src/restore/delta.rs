//! A restore over existing files: the directories that may be used, the files that are removed, and
//! the blocks that are in place already. Whether a block is in place is decided by its hash alone:
//! times and sizes of files prove nothing.

use super::access::resolved;
use super::create::{MAX_DEPTH, is_too_deep};
use super::holes::{between, holes};
use super::job::RestoreJob;
use super::layout::{Region, TargetFile};
use super::owner::Ownership;
use super::target::{MAX_CONTROL_SIZE, Place, Role, Target, is_nothing, names};
use super::waldir::check_content as check_wal;
use crate::codec::compress::FRAME;
use crate::codec::hash::block_hash;
use crate::error::{Doing, Error, Kind, Result, part};
use crate::fs::aligned::Aligned;
use crate::fs::direct;
use crate::fs::folder::{Folder, kind, set_rights};
use crate::pg::control::Control;
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::{Lineage, RESTORING, manifest};
use rustix::fs::FileType;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

/// Refuses directories that do not hold this cluster, or that contain a foreign directory.
pub(super) fn check(job: &RestoreJob<'_>) -> Result<()> {
    for root in job.roots() {
        for foreign in &job.options.foreign {
            if resolved(foreign)?.starts_with(root.real()?) {
                return Err(Error::new(
                    Kind::Refused,
                    format!(
                        "{} lies in {}, where files that the backup does not have are removed",
                        foreign.display(),
                        root.path.display()
                    ),
                )
                .hint("restore into another directory, or move the inner one away"));
            }
        }
    }
    check_content(job)?;
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    job.roots().filter_map(Target::existing).try_for_each(|folder| check_owned(folder, MAX_DEPTH))
}

/// Refuses directories that do not hold this cluster.
pub(super) fn check_content(job: &RestoreJob<'_>) -> Result<()> {
    check_data(job)?;
    job.tablespaces.iter().try_for_each(|(oid, root)| check_tablespace(job, *oid, root))?;
    job.waldir.iter().try_for_each(check_wal)
}

fn check_data(job: &RestoreJob<'_>) -> Result<()> {
    let to = &job.options.to;
    let names = names(&job.data)?;
    if names.iter().any(|name| name == RESTORING) || names.iter().all(|name| is_nothing(name)) {
        return Ok(());
    }
    let (record, lineage) = (&job.plan.record, job.plan.archive.lineage());
    let reason = match found_lineage(job.data.folder()?) {
        Ok(found) if found == (Lineage { system_identifier: record.system_identifier, ..lineage }) => {
            return Ok(());
        }
        Ok(found) => format!("it belongs to the cluster {found}"),
        Err(error) => error.to_string(),
    };
    let what = format!("{} is not a data directory of {lineage}: {reason}", to.display());
    Err(Error::new(Kind::Refused, what).hint(
        "--delta changes the data directory of the same cluster; restore into an empty directory without it",
    ))
}

/// Reads the lineage of a data directory.
fn found_lineage(data: &Folder) -> Result<Lineage> {
    let read = |name: &str| {
        let missing = || Error::new(Kind::Absent, format!("it has no {name}"));
        data.read(Path::new(name), MAX_CONTROL_SIZE)?.ok_or_else(missing)
    };
    let system_identifier = Control::parse(read("global/pg_control")?)?.system_identifier();
    let version = read("PG_VERSION")?;
    let version = String::from_utf8_lossy(&version);
    let major = version.trim().parse();
    let major =
        major.map_err(|_| Error::new(Kind::Damage, format!("`{}` is not a version", version.trim())))?;
    Ok(Lineage { system_identifier, major })
}

/// Refuses a directory that holds anything else than directories of clusters, one for each version,
/// and one that neither an option names nor the data directory links to.
fn check_tablespace(job: &RestoreJob<'_>, oid: u32, root: &Target) -> Result<()> {
    let names = names(root)?;
    let is_known =
        |name: &OsString| name == RESTORING || is_nothing(name) || name.to_string_lossy().starts_with("PG_");
    if let Some(name) = names.iter().find(|name| !is_known(name)) {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "{} is not the directory of a tablespace: it contains {}",
                root.path.display(),
                name.display()
            ),
        )
        .hint("a tablespace is moved with --tablespace OLD=NEW"));
    }
    let is_ours = root.is_named || names.iter().any(|name| name == RESTORING);
    if is_ours || names.iter().all(|name| is_nothing(name)) {
        return Ok(());
    }
    let link =
        job.data.existing().map(|data| data.link_target(&Path::new("pg_tblspc").join(oid.to_string())));
    if link.transpose()?.flatten().as_ref() == Some(&root.path) {
        return Ok(());
    }
    let what = format!(
        "{} has the files of a tablespace, and {} has no link to it in pg_tblspc",
        root.path.display(),
        job.options.to.display()
    );
    let place = crate::pg::shell::quoted(&root.path.to_string_lossy());
    Err(Error::new(Kind::Refused, what)
        .hint(format!("if it belongs to this cluster: --tablespace {oid}={place}")))
}

/// Returns the number of bytes that the files below a directory take. Files and directories that
/// cannot be read count as 0.
pub(super) fn used(folder: &Folder, depth: u32) -> u64 {
    let names = folder.names().unwrap_or_default();
    let of = |(name, _): (OsString, FileType)| {
        let below = Path::new(&name);
        let Ok(Some(stat)) = folder.entry(below) else {
            return 0;
        };
        match kind(&stat) {
            FileType::RegularFile => {
                u64::try_from(stat.st_blocks).map_or(0, |blocks| blocks.saturating_mul(512))
            }
            FileType::Directory if depth > 0 => {
                folder.folder(below).ok().flatten().map_or(0, |inner| used(&inner, depth - 1))
            }
            _ => 0,
        }
    };
    names.into_iter().map(of).fold(0, u64::saturating_add)
}

/// Refuses a directory with files or directories of other users: only root could change them.
fn check_owned(folder: &Folder, depth: u32) -> Result<()> {
    let user = rustix::process::geteuid().as_raw();
    for (name, _) in folder.names()? {
        let below = Path::new(&name);
        let Some(stat) = folder.entry(below)? else {
            continue;
        };
        let is_directory = kind(&stat) == FileType::Directory;
        // A link, and a file with several links, is removed, which the directory decides.
        let is_changed = is_directory || kind(&stat) == FileType::RegularFile && stat.st_nlink == 1;
        if is_changed && stat.st_uid != user {
            let path = folder.path().join(below);
            let what = format!("{} belongs to another user (uid {})", path.display(), stat.st_uid);
            return Err(Error::new(Kind::Refused, what).hint("restore as root, or as the owner of all files"));
        }
        if is_directory && let Some(inner) = folder.folder(below)? {
            let left = depth.checked_sub(1).ok_or_else(|| is_too_deep(&inner))?;
            check_owned(&inner, left)?;
        }
    }
    Ok(())
}

/// Removes the control file, so that no server can start from here on, and then all files and
/// directories that the backup does not have. Has the names of all files of the backup in memory.
pub(super) fn clear(job: &RestoreJob<'_>) -> Result<()> {
    let data = job.data.folder()?;
    if let Some(global) = data.folder(Path::new("global"))?
        && global.remove("pg_control")?
    {
        global.sync()?;
    }
    let mut expected: HashMap<Place, bool> = HashMap::new();
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
    let strays = Strays { expected };
    job.roots().try_for_each(|root| {
        let place = Place { role: root.role, below: Path::new("").to_owned() };
        strays.remove_from(root.folder()?, &place, MAX_DEPTH)
    })
}

/// Removes files and directories that the backup does not have.
struct Strays {
    /// Places that the backup has, and whether each is a directory.
    expected: HashMap<Place, bool>,
}

impl Strays {
    fn remove_from(&self, folder: &Folder, directory: &Place, depth: u32) -> Result<()> {
        for (name, _) in folder.names()? {
            let below = Path::new(&name);
            let place = Place { role: directory.role, below: directory.below.join(below) };
            let expected = self.expected.get(&place).copied();
            if directory.below.as_os_str().is_empty() {
                // The directory of another version in a tablespace belongs to another cluster.
                let is_foreign = expected.is_none() && matches!(directory.role, Role::Tablespace(_));
                if name == RESTORING || name == "lost+found" || is_foreign {
                    continue;
                }
            }
            let Some(stat) = folder.entry(below)? else {
                continue;
            };
            match (expected, kind(&stat)) {
                (Some(true), FileType::Directory) => {
                    if let Some(inner) = folder.folder(below)? {
                        let left = depth.checked_sub(1).ok_or_else(|| is_too_deep(&inner))?;
                        self.remove_from(&inner, &place, left)?;
                    }
                }
                // A file with several hard links is removed, so that it is not changed under its
                // other names.
                (Some(false), FileType::RegularFile) if stat.st_nlink == 1 => {}
                (_, kind) => {
                    if kind == FileType::Symlink && expected.is_some() {
                        let path = folder.path().join(below);
                        tracing::info!("{} was a link; its target stays as it is", path.display());
                    }
                    folder.remove_tree(&name)?;
                }
            }
        }
        Ok(())
    }
}

/// Opens an existing file, and gives it the length, owner and mode of the stored one. Returns the
/// file and the length that it had; `None` when it does not exist. What is in its place and may not
/// be changed is removed.
pub(super) fn open(target: &TargetFile<'_>, ownership: &Ownership) -> Result<Option<(File, u64)>> {
    let (path, stored) = (&target.path, target.stored);
    let doing = || format!("compare {}", path.display());
    let Some(file) = target.open(ownership)? else {
        target.remove()?;
        return Ok(None);
    };
    set_rights(&file, target.rights.file, &target.rights).doing(doing)?;
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
