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
