//! Locations of the data directory and of tablespaces. Reads the file system, and changes nothing.

use super::options::Options;
use crate::error::{Doing, Error, Kind, Result};
use crate::repo::record::Record;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Returns the location of each tablespace by OID. Refuses a mapping of a tablespace that the
/// backup does not have, and locations that contain each other.
pub(super) fn map_tablespaces(
    options: &Options,
    record: &Record,
    waldir: Option<&PathBuf>,
) -> Result<BTreeMap<u32, PathBuf>> {
    let refused = |what: String| {
        Err(Error::new(Kind::Refused, what).hint("use --tablespace OLD=NEW, once for each tablespace"))
    };
    let mut unused: Vec<&(OsString, PathBuf)> = options.tablespaces.iter().collect();
    let mut map: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for tablespace in &record.tablespaces {
        let Some(old) = &tablespace.tablespace.location else {
            continue;
        };
        let old = PathBuf::from(OsString::from_vec(old.0.clone()));
        let oid = tablespace.tablespace.oid;
        let is_it = |what: &OsStr| what == oid.to_string().as_str() || Path::new(what) == old;
        let mut wanted = options.tablespaces.iter().filter(|(what, _)| is_it(what)).map(|(_, new)| new);
        let new = wanted.next();
        if wanted.any(|other| Some(other) != new) {
            return refused(format!("tablespace {oid} is mapped to two locations"));
        }
        unused.retain(|(what, _)| !is_it(what));
        if new.is_none() && old.starts_with(&record.settings.data_directory) {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "tablespace {oid} was inside of the data directory ({}), where it cannot be restored",
                    old.display()
                ),
            )
            .hint(format!("put it outside of the new data directory: --tablespace {oid}=DIR")));
        }
        map.insert(oid, new.cloned().unwrap_or(old));
    }
    if let Some((what, _)) = unused.first() {
        return refused(format!("the backup has no tablespace {}", Path::new(what).display()));
    }
    let mut places: Vec<PathBuf> = Vec::new();
    for place in std::iter::once(&options.to).chain(map.values()).chain(waldir) {
        if !place.is_absolute() || place.components().any(|part| part == Component::ParentDir) {
            return refused(format!("{} is not a path from the root without `..`", place.display()));
        }
        let real = resolved(place)?;
        if let Some(other) = places.iter().find(|other| real.starts_with(other) || other.starts_with(&real)) {
            return refused(format!("{} and {} contain each other", real.display(), other.display()));
        }
        places.push(real);
    }
    Ok(map)
}

/// Returns a path with the links of its existing part resolved.
pub(super) fn resolved(path: &Path) -> Result<PathBuf> {
    let there = existing(path);
    let real = std::fs::canonicalize(there).doing(|| format!("look at {}", there.display()))?;
    let rest = path.strip_prefix(there).map_err(|_| Error::defect("a path outside of its own ancestor"))?;
    // Joining an empty path would add a slash.
    Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
}

/// Returns the path itself, or the nearest directory above it that exists.
pub(super) fn existing(path: &Path) -> &Path {
    // The root always exists.
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// Returns the device number of the file system of a path.
pub(super) fn device_of(path: &Path) -> Result<u64> {
    Ok(path.metadata().doing(|| format!("look at {}", path.display()))?.dev())
}
