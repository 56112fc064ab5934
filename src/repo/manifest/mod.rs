//! The manifest of a backup: directories, tablespaces and files, as lines of JSON in parts of
//! bounded size; see `FORMAT.md`.
//!
//! From one backup to the next most lines stay as they are. So a part is stored as a delta of a
//! part of an earlier manifest, its *base*, if the delta takes at most half of the bytes of the
//! base. A base has no base itself: reading a part takes two objects at most. Parts end where the
//! parts of the parent end, so that each has one base.

mod accepted;
mod check;
mod read;
mod write;

pub use accepted::LEFT_OUT;
pub use read::{Parts, read, unfinished, uses};
pub use write::{Bases, Writer, Written};

use super::entry::{Dir, Entry, Extent, FileEntry, Tablespace};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Maximum bytes of the text of a part. One line, which describes up to 1 GiB, may still follow
/// when a part is full.
pub const MAX_PART: u64 = 64 << 20;

/// Maximum number of lines of a part: a part of full size has less than a quarter of them.
const MAX_LINES: usize = 1 << 17;

/// Name of the hash of blocks, in the first line of a part.
const HASH: &str = "blake3-128";

/// A line of a manifest.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Part { backup: String, number: u32, hash: String },
    Pack { number: u32, key: String },
    Dir(Dir),
    Tablespace(Tablespace),
    File(FileEntry),
    Config(FileEntry),
    Use(Use),
    End(Totals),
}

/// The share of a pack that a backup needs. From it the next backup decides which packs are still
/// worth naming.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The key of the pack, relative to the archive.
    pub pack: String,
    #[serde(flatten)]
    pub stored: StoredPack,
    /// Bytes of the blocks in it that belong to the backup.
    pub live: u64,
}

/// A pack as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPack {
    /// Bytes of the object.
    pub size: u64,
    /// Bytes of all blocks in it.
    pub content: u64,
}

impl Use {
    /// Returns the bytes that the backup's blocks take in the pack: never more than its size.
    pub fn share(&self) -> u64 {
        let share = u128::from(self.stored.size) * u128::from(self.live)
            / u128::from(self.stored.content.max(self.live).max(1));
        u64::try_from(share).unwrap_or(self.stored.size)
    }
}

impl From<Entry> for Line {
    fn from(entry: Entry) -> Line {
        match entry {
            Entry::Dir(dir) => Line::Dir(dir),
            Entry::Tablespace(tablespace) => Line::Tablespace(tablespace),
            Entry::File(file) => Line::File(file),
            Entry::Config(file) => Line::Config(file),
        }
    }
}

/// The sums at the end of a manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub files: u64,
    pub dirs: u64,
    /// Bytes of all files when restored.
    pub bytes: u64,
}

impl Totals {
    /// Adds an entry.
    ///
    /// # Errors
    ///
    /// `Damage` when the bytes do not fit into 64 bits.
    fn count(&mut self, entry: &Entry) -> Result<()> {
        match entry {
            Entry::File(file) => {
                let too_many = || Error::new(Kind::Damage, "the sizes of its files do not add up");
                self.files += 1;
                self.bytes = self.bytes.checked_add(file.size).ok_or_else(too_many)?;
            }
            Entry::Dir(_) => self.dirs += 1,
            Entry::Tablespace(_) | Entry::Config(_) => {}
        }
        Ok(())
    }
}

/// Part of a manifest: entries, and the packs that their extents number.
pub struct Part {
    pub packs: Vec<String>,
    pub entries: Vec<Entry>,
    /// All packs of the backup; empty in all parts but the last.
    pub uses: Vec<Use>,
}

impl Part {
    /// Returns the key of the pack that an extent of this part lies in.
    pub fn pack(&self, extent: &Extent) -> Result<&str> {
        let key = self.packs.get(extent.pack as usize);
        key.map(String::as_str)
            .ok_or_else(|| Error::defect("an extent of a part that does not name its pack"))
    }

    /// Iterates over all extents: the key of the pack of each, and the bytes of its blocks.
    pub fn named(&self) -> impl Iterator<Item = Result<(&str, u64)>> {
        self.entries.iter().filter_map(Entry::any_file).flat_map(move |file| {
            file.extents().map(move |(blocks, extent)| {
                let Range { start, end } = file.bytes_of(&blocks);
                Ok((self.pack(extent)?, end - start))
            })
        })
    }
}
