//! Locations of the data directory and of tablespaces. Reads the file system, and changes nothing.

use super::options::Options;
use super::target::{Role, Target};
use crate::error::{Error, Kind, Result};
use crate::repo::record::Record;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

fn refused<T>(what: String) -> Result<T> {
    Err(Error::new(Kind::Refused, what).hint("use --tablespace OLD=NEW, once for each tablespace"))
}

/// Opens the location of each tablespace, by OID. Refuses a mapping of a tablespace that the backup
/// does not have.
pub(super) fn map_tablespaces(options: &Options, record: &Record) -> Result<BTreeMap<u32, Target>> {
    let mut unused: Vec<&(OsString, PathBuf)> = options.tablespaces.iter().collect();
    let mut map: BTreeMap<u32, Target> = BTreeMap::new();
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
        map.insert(oid, open(Role::Tablespace(oid), new.unwrap_or(&old), new.is_some())?);
    }
    match unused.first() {
        Some((what, _)) => refused(format!("the backup has no tablespace {}", Path::new(what).display())),
        None => Ok(map),
    }
}

/// Opens a directory whose path must be absolute and have no `..`. `is_named` as in
/// [`Target::is_named`].
pub(super) fn open(role: Role, path: &Path, is_named: bool) -> Result<Target> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return refused(format!("{} is not a path from the root without `..`", path.display()));
    }
    Target::open(role, path, is_named)
}

/// Refuses directories that contain each other.
pub(super) fn check_apart<'t>(targets: impl Iterator<Item = &'t Target>) -> Result<()> {
    let mut places: Vec<PathBuf> = Vec::new();
    for target in targets {
        let real = target.real()?;
        if let Some(other) = places.iter().find(|other| real.starts_with(other) || other.starts_with(&real)) {
            return refused(format!("{} and {} contain each other", real.display(), other.display()));
        }
        places.push(real);
    }
    Ok(())
}
