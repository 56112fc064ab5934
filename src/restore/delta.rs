//! A restore over what is there: which directories may be taken for it, what in them has to go, and which blocks
//! are in their place already. That is decided by the blocks' hashes alone: times and sizes prove nothing.

use super::layout::Region;
use super::run::Run;
use crate::codec::compress::FRAME;
use crate::codec::hash::block_hash;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::aligned::Aligned;
use crate::fs::{direct, durable, open_plain};
use crate::pg::control::Control;
use crate::repo::entry::{Entry, FileEntry as Stored};
use crate::repo::{RESTORING, manifest};
use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What the marker says in a directory that held a cluster before: it is not ours to empty.
pub const OVER: &str = "over what was there";

/// Refuses directories that do not hold this cluster, or that something else lives in.
pub fn check(run: &Run<'_>) -> Result<()> {
    for root in run.roots() {
        for foreign in &run.options.foreign {
            if real(foreign)?.starts_with(real(root)?) {
                return Err(Error::new(
                    Kind::Refused,
                    format!("{} lies in {}, where strays are removed", foreign.display(), root.display()),
                )
                .hint("restore into another directory, or move it away"));
            }
        }
    }
    check_data(run)?;
    run.tablespaces.values().try_for_each(|root| check_tablespace(root))
}

/// A path without links; one that leads nowhere as it is.
fn real(path: &Path) -> Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(path.to_owned()),
        real => real.doing(|| format!("look at {}", path.display())),
    }
}

fn check_data(run: &Run<'_>) -> Result<()> {
    let to = &run.options.to;
    let names = names(to)?;
    if names.iter().any(|name| name == "postmaster.pid") {
        return Err(Error::new(
            Kind::Refused,
            format!("{} is the data directory of a server that runs, or was killed", to.display()),
        )
        .hint("stop the server; if it was killed, make sure that none of its processes is left and remove postmaster.pid"));
    }
    if names.iter().any(|name| name == RESTORING) || names.iter().all(|name| name == "lost+found") {
        return Ok(());
    }
    let record = &run.plan.record;
    let of = Control::read(to).map(|control| control.system_identifier());
    let major = crate::pg::major_version(to);
    let of_this = match (of, major) {
        (Ok(system), Ok(major))
            if system == record.system_identifier && major == run.plan.archive.lineage().major =>
        {
            Ok(())
        }
        (Ok(system), Ok(major)) => Err(format!("it belongs to the cluster {system}-{major}")),
        (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
    };
    of_this.map_err(|why| {
        Error::new(
            Kind::Refused,
            format!("{} is no data directory of {}: {why}", to.display(), run.plan.archive.lineage()),
        )
        .hint("--delta changes the data directory of the same cluster; restore into an empty directory without it")
    })
}

/// The directory of a tablespace holds directories of clusters, one for each version, and nothing else.
fn check_tablespace(root: &Path) -> Result<()> {
    let is_known = |name: &std::ffi::OsString| {
        name == RESTORING || name == "lost+found" || name.to_string_lossy().starts_with("PG_")
    };
    match names(root)?.into_iter().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Refused,
            format!("{} is no directory of a tablespace: there is {}", root.display(), name.display()),
        )
        .hint("a tablespace is moved with --tablespace OLD=NEW")),
    }
}

fn names(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    let doing = || format!("look at {}", directory.display());
    match std::fs::read_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.doing(doing)?.map(|entry| Ok(entry.doing(doing)?.file_name())).collect(),
    }
}

/// Bytes that the files below a directory take.
pub fn used(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => used(&entry.path()),
        Ok(meta) if meta.is_file() => meta.blocks() * 512,
        _ => 0,
    };
    entries.map(of).sum()
}

/// Makes room: the control file goes first, so that no server starts from here on, then everything that the
/// backup does not have. The names of all its files are in memory meanwhile.
pub fn clear(run: &Run<'_>) -> Result<()> {
    durable::remove_file(&run.options.to.join("global/pg_control"))?;
    let mut expected: HashMap<PathBuf, bool> = HashMap::new();
    manifest::read(&run.plan.archive, &run.plan.record, |part| {
        for entry in &part.entries {
            match entry {
                Entry::Dir(dir) => drop(expected.insert(run.place(&dir.path.0), true)),
                Entry::File(file) if run.is_restored(&file.path.0) => {
                    expected.insert(run.place(&file.path.0), false);
                }
                Entry::File(_) | Entry::Tablespace(_) | Entry::Config(_) => {}
            }
        }
        Ok(())
    })?;
    let strays = Strays { run, expected };
    run.roots().try_for_each(|root| strays.remove_from(root))
}

struct Strays<'a> {
    run: &'a Run<'a>,
    /// What the backup has, and whether it is a directory.
    expected: HashMap<PathBuf, bool>,
}

impl Strays<'_> {
    fn remove_from(&self, directory: &Path) -> Result<()> {
        for name in names(directory)? {
            let path = directory.join(&name);
            let doing = || format!("remove {}", path.display());
            let expected = self.expected.get(&path);
            let is_root = |directory: &Path| self.run.roots().any(|root| root == directory);
            let is_of_others =
                expected.is_none() && self.run.tablespaces.values().any(|root| root == directory);
            if is_root(directory) && (name == RESTORING || name == "lost+found" || is_of_others) {
                continue;
            }
            let meta = std::fs::symlink_metadata(&path).doing(doing)?;
            match expected {
                Some(true) if meta.is_dir() => self.remove_from(&path)?,
                // What has another name too is not written to.
                Some(false) if meta.is_file() && meta.nlink() == 1 => {}
                _ if meta.is_dir() => std::fs::remove_dir_all(&path).doing(doing)?,
                _ => {
                    if meta.is_symlink() && expected.is_some() {
                        let what = format!("{} was a link; what it leads to stays as it is", path.display());
                        tracing::info!("{what}");
                    }
                    std::fs::remove_file(&path).doing(doing)?;
                }
            }
        }
        Ok(())
    }
}

/// Opens a file that is there and gives it the length that it is to have. With the length that it had; `None`: there
/// is no such file.
pub fn open(path: &Path, stored: &Stored) -> Result<Option<(File, u64)>> {
    let doing = || format!("compare {}", path.display());
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        meta => {
            if !meta.doing(doing)?.is_file() {
                return Err(Error::new(Kind::Refused, "it is no file").doing(doing()));
            }
        }
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).doing(doing)?;
    let file = open_plain(path, File::options().read(true).write(true)).doing(doing)?;
    let length = file.metadata().doing(doing)?.len();
    if length > stored.size {
        file.set_len(stored.size).doing(doing)?;
    } else if length < stored.size {
        direct::allocate(&file, path, stored.size)?;
    }
    Ok(Some((file, length)))
}

/// Which blocks of a region are in their place, in a file that had this length. The region's bytes are in the buffer
/// then.
pub fn compare(
    file: &mut direct::DirectTarget<'_>,
    region: &Region,
    stored: &Stored,
    length: u64,
    buffer: &mut Aligned,
) -> std::io::Result<Vec<bool>> {
    let begin = region.offset();
    let size = length.saturating_sub(begin).min(region.length() as u64) as usize;
    let got = if size == 0 { 0 } else { file.read(buffer.slice(FRAME), size, begin)? };
    let blocks = buffer.bytes(got).chunks(stored.block.max(1) as usize);
    let expected = stored.hashes.get(region.blocks()).unwrap_or_default();
    let mut same: Vec<bool> = blocks.zip(expected).map(|(block, hash)| block_hash(block) == *hash).collect();
    same.resize(expected.len(), false);
    Ok(same)
}
