//! The supported major versions of PostgreSQL, and the numbers by which their files are recognized.

use crate::error::{Error, Kind, Result};

/// A major version. The numbers are those of the servers' own files; a test compares them with the
/// files of every installed server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    /// `XLOG_PAGE_MAGIC` of `access/xlog_internal.h`.
    pub wal_magic: u16,
    /// `PG_CONTROL_VERSION` of `catalog/pg_control.h`.
    pub control_version: u32,
}

/// Every supported version, oldest first.
pub const VERSIONS: [Version; 5] = [
    Version { major: 15, wal_magic: 0xD110, control_version: 1300 },
    Version { major: 16, wal_magic: 0xD113, control_version: 1300 },
    Version { major: 17, wal_magic: 0xD116, control_version: 1700 },
    Version { major: 18, wal_magic: 0xD118, control_version: 1800 },
    // As of release candidate 1; the betas have other numbers and are refused.
    Version { major: 19, wal_magic: 0xD122, control_version: 1905 },
];

impl Version {
    /// Finds a version by its major number.
    ///
    /// # Errors
    ///
    /// `Refused` for a version that is not supported.
    pub fn of_major(major: u32) -> Result<Version> {
        find(|version| version.major == major).ok_or_else(|| refused(format!("PostgreSQL {major}")))
    }

    /// Finds a version by the magic number of its WAL pages.
    ///
    /// # Errors
    ///
    /// `Damage` for another number: the file may be no WAL at all.
    pub fn of_wal_magic(magic: u16) -> Result<Version> {
        let unknown = || {
            let what = format!("{magic:04X} is not the page magic of a supported PostgreSQL");
            Error::new(Kind::Damage, what).hint(supported())
        };
        find(|version| version.wal_magic == magic).ok_or_else(unknown)
    }
}

/// Refuses a version of `pg_control` that no supported PostgreSQL has: its fields may have other
/// places.
///
/// # Errors
///
/// `Refused`.
pub fn check_control_version(number: u32) -> Result<()> {
    find(|version| version.control_version == number)
        .map(|_| ())
        .ok_or_else(|| refused(format!("version {number} of pg_control")))
}

fn find(is_wanted: impl Fn(&Version) -> bool) -> Option<Version> {
    VERSIONS.into_iter().find(is_wanted)
}

fn refused(what: String) -> Error {
    Error::new(Kind::Refused, format!("{what} is not supported")).hint(supported())
}

/// The supported versions, as a hint.
fn supported() -> String {
    let [oldest, .., newest] = VERSIONS;
    format!("this version of walkeep supports PostgreSQL {} to {}", oldest.major, newest.major)
}
