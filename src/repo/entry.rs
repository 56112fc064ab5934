//! The entries of a manifest: directories, tablespaces, files, and where the blocks of files are.

use crate::codec::hash::{BLOCK_HASH_SIZE, BlockHash};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// An entry of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Dir(Dir),
    Tablespace(Tablespace),
    File(FileEntry),
    /// A configuration file from outside the data directory; its path is absolute.
    Config(FileEntry),
}

impl Entry {
    /// Returns the file, if this entry is a file of the data directory.
    pub fn file(&self) -> Option<&FileEntry> {
        match self {
            Entry::File(file) => Some(file),
            Entry::Config(_) | Entry::Dir(_) | Entry::Tablespace(_) => None,
        }
    }

    /// Converts into the file, if this entry is a file of the data directory.
    pub fn into_file(self) -> Option<FileEntry> {
        match self {
            Entry::File(file) => Some(file),
            Entry::Config(_) | Entry::Dir(_) | Entry::Tablespace(_) => None,
        }
    }

    /// Returns the file, if this entry is a file of the data directory or a configuration file from
    /// outside.
    pub fn any_file(&self) -> Option<&FileEntry> {
        match self {
            Entry::File(file) | Entry::Config(file) => Some(file),
            Entry::Dir(_) | Entry::Tablespace(_) => None,
        }
    }

    /// Converts into the file, if this entry is a file of the data directory or a configuration
    /// file from outside.
    pub fn into_any_file(self) -> Option<FileEntry> {
        match self {
            Entry::File(file) | Entry::Config(file) => Some(file),
            Entry::Dir(_) | Entry::Tablespace(_) => None,
        }
    }
}

/// A directory of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dir {
    #[serde(flatten)]
    pub path: StoredPath,
    pub mode: u32,
    #[serde(flatten)]
    pub owner: Owner,
}

/// A tablespace of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TablespaceForm", into = "TablespaceForm")]
pub struct Tablespace {
    pub oid: u32,
    /// Target of its link; `None` when the tablespace is a directory in `pg_tblspc`.
    pub location: Option<StoredPath>,
}

#[derive(Clone, Serialize, Deserialize)]
struct TablespaceForm {
    oid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location_bytes: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    in_place: bool,
}

impl From<Tablespace> for TablespaceForm {
    fn from(tablespace: Tablespace) -> TablespaceForm {
        let in_place = tablespace.location.is_none();
        let location = tablespace.location.map(PathForm::from);
        let (location, location_bytes) = location.map_or((None, None), |form| (form.path, form.path_bytes));
        TablespaceForm { oid: tablespace.oid, location, location_bytes, in_place }
    }
}

impl TryFrom<TablespaceForm> for Tablespace {
    type Error = String;

    fn try_from(form: TablespaceForm) -> std::result::Result<Tablespace, String> {
        let path = PathForm { path: form.location, path_bytes: form.location_bytes };
        let location = if form.in_place { None } else { Some(StoredPath::try_from(path)?) };
        Ok(Tablespace { oid: form.oid, location })
    }
}

/// Owner and group: names, or numbers where a name does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    pub owner: String,
    pub group: String,
}

/// A file, with the hashes and the places of its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    #[serde(flatten)]
    pub path: StoredPath,
    pub size: u64,
    pub mode: u32,
    #[serde(flatten)]
    pub owner: Owner,
    /// Seconds since 1970.
    pub modified: i64,
    /// CRC-32C of the whole file; `None` when only part of it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<u32>,
    /// Bytes of a block.
    pub block: u32,
    #[serde(with = "hashes")]
    pub hashes: Vec<BlockHash>,
    /// The extents, in order. Together they hold all blocks.
    #[serde(deserialize_with = "extents")]
    pub at: Vec<Extent>,
}

impl FileEntry {
    /// Returns the byte range of blocks in the file. The last block of the file may be short.
    pub fn bytes_of(&self, blocks: &Range<usize>) -> Range<u64> {
        let at = |block: usize| (block as u64).saturating_mul(u64::from(self.block)).min(self.size);
        at(blocks.start)..at(blocks.end)
    }

    /// Iterates over the extents in order, each with the numbers of its blocks in the file.
    pub fn extents(&self) -> impl Iterator<Item = (Range<usize>, &Extent)> {
        let mut end = 0;
        self.at.iter().map(move |extent| {
            let first = end;
            end += extent.blocks as usize;
            (first..end, extent)
        })
    }

    /// Appends an extent. If its blocks directly follow the last extent in the same frame, the last
    /// extent is extended instead.
    pub fn add(&mut self, extent: Extent) {
        let block = self.block;
        match self.at.last_mut() {
            Some(last)
                if (last.pack, last.offset) == (extent.pack, extent.offset)
                    && last.skip + last.blocks * block == extent.skip =>
            {
                last.blocks += extent.blocks;
            }
            _ => self.at.push(extent),
        }
    }
}

/// Maximum number of extents of a file, and of all files of a part of a manifest. A backup makes at
/// most 16 of them for each MiB of a file.
pub const MAX_EXTENTS: usize = 1 << 19;

/// Reads extents, and not more than [`MAX_EXTENTS`] of them.
fn extents<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Vec<Extent>, D::Error> {
    struct Bounded;
    impl<'de> serde::de::Visitor<'de> for Bounded {
        type Value = Vec<Extent>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {MAX_EXTENTS} extents")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut seq: A,
        ) -> std::result::Result<Vec<Extent>, A::Error> {
            let mut found = Vec::new();
            while let Some(extent) = seq.next_element()? {
                if found.len() == MAX_EXTENTS {
                    return Err(serde::de::Error::invalid_length(found.len() + 1, &self));
                }
                found.push(extent);
            }
            Ok(found)
        }
    }
    d.deserialize_seq(Bounded)
}

/// Consecutive blocks in one frame. As JSON `[pack, offset, length, skip, blocks]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u32, u32, u32)", into = "(u32, u64, u32, u32, u32)")]
pub struct Extent {
    /// Number of the pack in the part of the manifest.
    pub pack: u32,
    /// Position of the frame in the pack.
    pub offset: u64,
    /// Bytes of the compressed frame.
    pub length: u32,
    /// Bytes of the decompressed frame before the first block.
    pub skip: u32,
    pub blocks: u32,
}

impl Extent {
    /// Returns the number of bytes in its blocks, and subtracts it from `left`, the bytes of the
    /// file from here on: the last block may be short.
    pub(super) fn take_bytes(&self, block: u32, left: &mut u64) -> u64 {
        let bytes = (u64::from(self.blocks) * u64::from(block)).min(*left);
        *left -= bytes;
        bytes
    }
}

impl From<(u32, u64, u32, u32, u32)> for Extent {
    fn from((pack, offset, length, skip, blocks): (u32, u64, u32, u32, u32)) -> Extent {
        Extent { pack, offset, length, skip, blocks }
    }
}

impl From<Extent> for (u32, u64, u32, u32, u32) {
    fn from(e: Extent) -> Self {
        (e.pack, e.offset, e.length, e.skip, e.blocks)
    }
}

/// A path as bytes: text where it is UTF-8, base64 otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "PathForm", into = "PathForm")]
pub struct StoredPath(pub Vec<u8>);

#[derive(Clone, Serialize, Deserialize)]
struct PathForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
}

impl From<StoredPath> for PathForm {
    fn from(path: StoredPath) -> PathForm {
        match String::from_utf8(path.0) {
            Ok(path) => PathForm { path: Some(path), path_bytes: None },
            Err(e) => PathForm { path: None, path_bytes: Some(BASE64.encode(e.as_bytes())) },
        }
    }
}

impl TryFrom<PathForm> for StoredPath {
    type Error = String;

    fn try_from(form: PathForm) -> std::result::Result<StoredPath, String> {
        match (form.path, form.path_bytes) {
            (Some(path), None) => Ok(StoredPath(path.into_bytes())),
            (None, Some(bytes)) => BASE64.decode(bytes).map(StoredPath).map_err(|e| e.to_string()),
            _ => Err("not exactly one of `path` and `path_bytes`".to_owned()),
        }
    }
}

impl StoredPath {
    pub fn as_path(&self) -> &std::path::Path {
        use std::os::unix::ffi::OsStrExt;
        std::path::Path::new(std::ffi::OsStr::from_bytes(&self.0))
    }

    /// Returns the path for messages and records, with replacement characters where it is not
    /// UTF-8.
    pub fn display(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Compares paths in the order of a manifest: a slash is lower than every other byte, so the
    /// content of a directory follows its name.
    pub fn order(&self, other: &StoredPath) -> std::cmp::Ordering {
        let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
        self.0.iter().map(rank).cmp(other.0.iter().map(rank))
    }

    /// Returns true when the path stays below the directory that it is relative to.
    pub fn is_inside(&self) -> bool {
        !self.0.is_empty()
            && !self.0.contains(&0)
            && self.0.split(|&b| b == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
    }
}

mod hashes {
    use super::*;

    pub fn serialize<S: serde::Serializer>(
        hashes: &[BlockHash],
        s: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        s.serialize_str(&BASE64.encode(hashes.as_flattened()))
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> std::result::Result<Vec<BlockHash>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let bytes = BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        let (hashes, rest) = bytes.as_chunks::<BLOCK_HASH_SIZE>();
        match rest {
            [] => Ok(hashes.to_vec()),
            _ => Err(serde::de::Error::custom("block hashes of a wrong length")),
        }
    }
}
