//! A restore of some databases, for rescue work. Files of the other databases become sparse files
//! of the right size, which take no space. These databases cannot be read afterwards, only dropped.
//! `postgres` and the templates are always restored.
//!
//! Recovery meets pages of zeros in the sparse files: not every record has a full image of its page
//! (the record of a page that VACUUM has found all-visible has none without `wal_log_hints`). With
//! `ignore_invalid_pages` a server skips such a page with a warning, instead of ending with PANIC
//! (`log_invalid_page` in PostgreSQL's `xlogutils.c`). The setting would also hide damage of the
//! restored databases after recovery, so `recovery_end_command` removes it.

use super::layout::TargetFile;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::relation::{FIRST_OF_USERS, RelationDirectory};
use crate::repo::record::{Database, Record};
use std::collections::BTreeSet;

const IGNORE_INVALID_PAGES: &str = "ignore_invalid_pages";
const RECOVERY_END_COMMAND: &str = "recovery_end_command";

/// OIDs of the databases that are restored; `None` for all.
pub(super) struct ChosenDatabases(Option<BTreeSet<u32>>);

impl ChosenDatabases {
    /// Finds databases by names or OIDs; all when `wanted` is empty.
    pub fn new(wanted: &[String], record: &Record) -> Result<ChosenDatabases> {
        if wanted.is_empty() {
            return Ok(ChosenDatabases(None));
        }
        let find = |wanted: &String| {
            let known = record.databases.iter().find(|database| database.name == *wanted);
            let oid =
                || wanted.parse().ok().filter(|oid| record.databases.iter().any(|known| known.oid == *oid));
            known.map(|database| database.oid).or_else(oid).ok_or_else(|| {
                let names: Vec<&str> =
                    record.databases.iter().map(|database| database.name.as_str()).collect();
                Error::new(Kind::Refused, format!("backup {} has no database {wanted:?}", record.id)).hint(
                    if names.is_empty() {
                        "the backup was taken by a version that did not record its databases".to_owned()
                    } else {
                        format!("it has {}", names.join(", "))
                    },
                )
            })
        };
        wanted.iter().map(find).collect::<Result<_>>().map(|oids| ChosenDatabases(Some(oids)))
    }

    /// Whether a file of the manifest becomes a sparse file, because its database is not restored.
    pub fn leaves_out(&self, path: &[u8]) -> bool {
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else {
            return false;
        };
        let (directory, name) = path.split_at(slash);
        let place = RelationDirectory::parse(directory);
        // A server does not accept a database directory without PG_VERSION.
        place.is_some_and(|place| self.is_left_out(place.database)) && name != b"/PG_VERSION"
    }

    /// Whether a database is not restored.
    pub fn is_left_out(&self, oid: u32) -> bool {
        oid >= FIRST_OF_USERS && self.0.as_ref().is_some_and(|oids| !oids.contains(&oid))
    }

    /// Settings with which a server recovers without the databases that are left out.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        if self.0.is_none() {
            return Vec::new();
        }
        // The server runs the command in the data directory.
        let names = [IGNORE_INVALID_PAGES, RECOVERY_END_COMMAND];
        let removals: String = names.iter().map(|name| format!(" -e \"/^{name} /d\"")).collect();
        let command = format!("sed -i{removals} postgresql.auto.conf");
        vec![(IGNORE_INVALID_PAGES, "on".to_owned()), (RECOVERY_END_COMMAND, command)]
    }

    /// Returns the databases that are not restored.
    pub fn left_out(&self, record: &Record) -> Vec<Database> {
        record.databases.iter().filter(|database| self.is_left_out(database.oid)).cloned().collect()
    }
}

/// Creates a sparse file of the size of the stored one, in place of any file that exists.
pub(super) fn make_empty(target: &TargetFile<'_>) -> Result<()> {
    target.remove()?;
    let size = target.stored.size;
    target.create()?.set_len(size).doing(|| format!("give {} its size", target.path.display()))
}
