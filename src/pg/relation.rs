//! Meaning of the names of files in a data directory. Source: PostgreSQL's `relpath.c`,
//! `basebackup.c` and `fd.c`.

/// Number of blocks of 8 KiB in a segment of a relation (`RELSEG_SIZE`): 1 GiB.
pub const BLOCKS_PER_SEGMENT: u32 = 131_072;

/// File of a relation: `16384`, `16384.1`, `16384_fsm`, `16384_init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile<'a> {
    /// File number, as written.
    pub node: &'a str,
    pub fork: Fork,
    /// Number of the segment of 1 GiB, from 0.
    pub segment: u32,
}

impl RelationFile<'_> {
    /// Number of this file's first block in its relation; `None` above 32 bits.
    pub fn first_block(&self) -> Option<u32> {
        self.segment.checked_mul(BLOCKS_PER_SEGMENT)
    }
}

/// Directory of relations, by its OIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelationDirectory {
    pub tablespace: u32,
    /// Database; 0 for relations that all databases share.
    pub database: u32,
}

impl RelationDirectory {
    /// Parses a path relative to the data directory: `global`, `base/5`,
    /// `pg_tblspc/16396/PG_15_202209061/5`. `None` for other directories.
    pub fn parse(directory: &[u8]) -> Option<RelationDirectory> {
        let parts: Vec<&str> = std::str::from_utf8(directory).ok()?.split('/').collect();
        let (tablespace, database) = match parts[..] {
            ["global"] => return Some(RelationDirectory { tablespace: GLOBAL, database: 0 }),
            ["base", database] => (DEFAULT, database),
            ["pg_tblspc", tablespace, _, database] => (number(tablespace)?, database),
            _ => return None,
        };
        Some(RelationDirectory { tablespace, database: number(database)? })
    }
}

/// First OID of objects of users (`FirstNormalObjectId`); databases with lower OIDs are `postgres`
/// and the templates.
pub const FIRST_OF_USERS: u32 = 16_384;

/// OIDs of the tablespaces that every cluster has (`pg_tablespace.dat`): those of `base` and
/// `global`.
const DEFAULT: u32 = 1663;
const GLOBAL: u32 = 1664;

/// Fork of a relation (`forkNames`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    Main,
    FreeSpaceMap,
    VisibilityMap,
    Init,
}

impl<'a> RelationFile<'a> {
    /// Parses a file name (without its directory) of `global` or of a database's directory. `None`
    /// for files of other kinds.
    pub fn parse(name: &'a str) -> Option<RelationFile<'a>> {
        let (stem, segment) = match name.split_once('.') {
            Some((stem, segment)) => (stem, number(segment).filter(|&n| n > 0)?),
            None => (name, 0),
        };
        let (node, fork) = match stem.split_once('_') {
            None => (stem, Fork::Main),
            Some((node, "fsm")) => (node, Fork::FreeSpaceMap),
            Some((node, "vm")) => (node, Fork::VisibilityMap),
            Some((node, "init")) => (node, Fork::Init),
            Some(_) => return None,
        };
        number(node).filter(|&n| n > 0)?;
        Some(RelationFile { node, fork, segment })
    }
}

/// Whether this is a file of a temporary relation: `t3_16384`, `t3_16384_fsm.1`.
pub fn is_temporary_relation(name: &str) -> bool {
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(backend, rest)| number(backend).is_some() && RelationFile::parse(rest).is_some())
}

fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    plain.then(|| digits.parse().ok()).flatten()
}
