//! Hashes: SHA-256 of contents, BLAKE3 of blocks.

pub use super::sha256::LANES;
use super::sha256::Sha256;
use std::fmt;

/// SHA-256 of a content. Its text form, also in JSON, is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Hashes a content that is in memory as a whole.
    pub fn of(bytes: &[u8]) -> ContentHash {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for ContentHash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ContentHash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<ContentHash, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let mut hash = [0; 32];
        hex::decode_to_slice(&*text, &mut hash).map_err(|_| serde::de::Error::custom("not a SHA-256"))?;
        Ok(ContentHash(hash))
    }
}

/// Running SHA-256 of a content that is read in pieces.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds a piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds one piece to each hash, which is faster than adding one after the other.
    pub fn update_together<'h>(pieces: impl IntoIterator<Item = (&'h mut Hasher, &'h [u8])>) {
        let mut pieces: Vec<_> = pieces.into_iter().map(|(hasher, piece)| (&mut hasher.0, piece)).collect();
        Sha256::update_together(&mut pieces);
    }

    /// Returns the hash of all pieces.
    #[must_use]
    pub fn finish(self) -> ContentHash {
        ContentHash(self.0.finish())
    }
}

/// Length of a [`BlockHash`], in bytes.
pub const BLOCK_HASH_SIZE: usize = 16;

/// First 16 bytes of the BLAKE3 hash of a block.
pub type BlockHash = [u8; BLOCK_HASH_SIZE];

/// Hashes all bytes of a reader, with the function of [`block_hash`].
///
/// # Errors
///
/// Those of the reader.
pub fn hash_all(reader: impl std::io::Read) -> std::io::Result<BlockHash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(reader)?;
    Ok(short(&hasher.finalize()))
}

/// Hashes a block.
pub fn block_hash(block: &[u8]) -> BlockHash {
    short(&blake3::hash(block))
}

fn short(hash: &blake3::Hash) -> BlockHash {
    let mut short = [0; BLOCK_HASH_SIZE];
    short.copy_from_slice(&hash.as_bytes()[..BLOCK_HASH_SIZE]);
    short
}
