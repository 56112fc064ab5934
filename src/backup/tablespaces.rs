//! Checks that the tablespaces of the server existed while their files were read. A missing file
//! may have been dropped meanwhile, which is not a failure. But when a file system was unmounted,
//! or a directory moved away, all files are missing, and only the server knows that they should
//! exist.

use super::session::STATEMENT_TIMEOUT;
use super::source::BackupServer;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use crate::pg::client::column;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Number of times that the tablespaces are compared. DROP TABLESPACE removes the directory just
/// before it commits: until then the server lists a tablespace without files.
const MAX_ATTEMPTS: u32 = 50;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(100);

/// Tablespaces that the server had when the backup was started.
pub(super) struct Tablespaces {
    /// Directory of this server in each tablespace, by OID, and its inode, if it existed.
    known: BTreeMap<u32, (PathBuf, Option<Inode>)>,
}

/// Device and inode.
type Inode = (u64, u64);

impl Tablespaces {
    /// Reads the tablespaces. Called after the start of the backup: tablespaces that are created
    /// later are in the WAL. `version` is the name of this server's directory in each.
    pub fn read(server: &BackupServer, pgdata: &Path, version: &str) -> Result<Tablespaces> {
        let path = |oid: u32| pgdata.join("pg_tblspc").join(oid.to_string()).join(version);
        let known = |oid| {
            let path = path(oid);
            let inode = inode(&path)?;
            Ok((oid, (path, inode)))
        };
        Ok(Tablespaces { known: oids(server)?.into_iter().map(known).collect::<Result<_>>()? })
    }

    /// Fails when the directory of a tablespace that the server still has was missing when the
    /// tablespaces were read, or has been replaced since.
    pub fn check(&self, server: &BackupServer) -> Result<()> {
        let mut attempt = 1;
        while let Some((oid, path)) = self.missing(server)? {
            if attempt == MAX_ATTEMPTS {
                return Err(Error::new(
                    Kind::Failed,
                    format!("the directory {} of tablespace {oid} was missing while it was copied", path.display()),
                )
                .hint("check that its file system is mounted; take the backup again when the server can read the tablespace"));
            }
            attempt += 1;
            std::thread::sleep(ATTEMPT_INTERVAL);
        }
        Ok(())
    }

    fn missing(&self, server: &BackupServer) -> Result<Option<(u32, &PathBuf)>> {
        for oid in oids(server)? {
            if let Some((path, then)) = self.known.get(&oid)
                && (then.is_none() || inode(path)? != *then)
            {
                return Ok(Some((oid, path)));
            }
        }
        Ok(None)
    }
}

/// OIDs of the tablespaces that have a directory of their own.
fn oids(server: &BackupServer) -> Result<Vec<u32>> {
    let sql = "SELECT oid FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')";
    let rows = server.session.query(sql, &[], STATEMENT_TIMEOUT).doing("read the list of tablespaces")?;
    rows.iter().map(|row| column(row, 0)).collect()
}

fn inode(path: &Path) -> Result<Option<Inode>> {
    Ok(named::stat(path)?.map(|stat| (stat.st_dev, stat.st_ino)))
}
