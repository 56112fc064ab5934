//! Which file of a data directory is what. Source: PostgreSQL's `relpath.c`, `basebackup.c` and `fd.c`.

/// Blocks of 8 KiB in a segment of a relation (`RELSEG_SIZE`): 1 GiB.
pub const BLOCKS_PER_SEGMENT: u32 = 131_072;

/// A relation's file: `16384`, `16384.1`, `16384_fsm`, `16384_init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile<'a> {
    /// The file number, as written.
    pub node: &'a str,
    pub fork: Fork,
    pub segment: u32,
}

impl RelationFile<'_> {
    /// The number of the first block of this file in its relation.
    pub fn first_block(&self) -> Option<u32> {
        self.segment.checked_mul(BLOCKS_PER_SEGMENT)
    }
}

/// A directory in which relations live, by its OIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub tablespace: u32,
    /// 0: shared by all databases.
    pub database: u32,
}

impl Place {
    /// Understands a path relative to the data directory: `global`, `base/5`,
    /// `pg_tblspc/16396/PG_15_202209061/5`.
    pub fn parse(directory: &[u8]) -> Option<Place> {
        let parts: Vec<&str> = std::str::from_utf8(directory).ok()?.split('/').collect();
        let (tablespace, database) = match parts[..] {
            ["global"] => return Some(Place { tablespace: GLOBAL, database: 0 }),
            ["base", database] => (DEFAULT, database),
            ["pg_tblspc", tablespace, _, database] => (number(tablespace)?, database),
            _ => return None,
        };
        Some(Place { tablespace, database: number(database)? })
    }
}

/// Databases below this OID come with every cluster (`FirstNormalObjectId`): `postgres` and the templates.
pub const FIRST_OF_USERS: u32 = 16_384;

/// The OIDs of the tablespaces that every cluster has (`pg_tablespace.dat`): `base` and `global`.
const DEFAULT: u32 = 1663;
const GLOBAL: u32 = 1664;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    Main,
    FreeSpaceMap,
    VisibilityMap,
    Init,
}

impl<'a> RelationFile<'a> {
    /// Understands a file name (without its directory) of `global` or of a database's directory.
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

/// A temporary relation of a session: `t3_16384`, `t3_16384_fsm.1`.
pub fn is_temporary_relation(name: &str) -> bool {
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(backend, rest)| number(backend).is_some() && RelationFile::parse(rest).is_some())
}

fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    plain.then(|| digits.parse().ok()).flatten()
}
