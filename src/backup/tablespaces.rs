//! Whether the tablespaces of the server were there while their files were read. A file that is gone may have been dropped
//! meanwhile, so its absence is no failure; but where a file system was unmounted, or a directory moved away, all of them are
//! gone, and only the server knows that they should not be.

use super::scan::found;
use super::source::{SOON, Server};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::column;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What DROP TABLESPACE removes it removes just before it commits: until then the server has a tablespace without files.
const ATTEMPTS: u32 = 50;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

/// The tablespaces that a server had at a moment.
pub struct Tablespaces {
    /// Where this server's files in each are, and which directory that was, if there was one.
    known: BTreeMap<u32, (PathBuf, Option<Place>)>,
}

/// Device and inode.
type Place = (u64, u64);

impl Tablespaces {
    /// Those that there are once a backup has begun: what is made later is in the WAL. `version`: the directory that each
    /// has for this server's version.
    pub fn of(server: &Server, pgdata: &Path, version: &str) -> Result<Tablespaces> {
        let path = |oid: u32| pgdata.join("pg_tblspc").join(oid.to_string()).join(version);
        let known = |oid| {
            let path = path(oid);
            let place = place(&path)?;
            Ok((oid, (path, place)))
        };
        Ok(Tablespaces { known: oids(server)?.into_iter().map(known).collect::<Result<_>>()? })
    }

    /// Fails when one that the server still has was not there from then until now.
    pub fn check(&self, server: &Server) -> Result<()> {
        let mut attempt = 1;
        while let Some((oid, path)) = self.missing(server)? {
            if attempt == ATTEMPTS {
                return Err(Error::new(
                    Kind::Failed,
                    format!("the directory {} of tablespace {oid} was not there while it was copied", path.display()),
                )
                .hint("is its file system mounted? take the backup again when the server can read the tablespace"));
            }
            attempt += 1;
            std::thread::sleep(BETWEEN_ATTEMPTS);
        }
        Ok(())
    }

    fn missing(&self, server: &Server) -> Result<Option<(u32, &PathBuf)>> {
        for oid in oids(server)? {
            if let Some((path, then)) = self.known.get(&oid)
                && (then.is_none() || place(path)? != *then)
            {
                return Ok(Some((oid, path)));
            }
        }
        Ok(None)
    }
}

/// The tablespaces that have a directory of their own.
fn oids(server: &Server) -> Result<Vec<u32>> {
    let sql = "SELECT oid FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')";
    let rows = server.session.query(sql, &[], SOON).doing(|| "ask for the tablespaces".to_owned())?;
    rows.iter().map(|row| column(row, 0)).collect()
}

fn place(path: &Path) -> Result<Option<Place>> {
    Ok(found(path, path.metadata())?.map(|meta| (meta.dev(), meta.ino())))
}
