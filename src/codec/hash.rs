//! SHA-256 of contents, BLAKE3 of blocks.

pub use super::sha256::LANES;
use super::sha256::Sha256;
use std::fmt;

/// SHA-256 of a content; prints and reads as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    pub fn of(bytes: &[u8]) -> ContentHash {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
        let digits = text.as_bytes();
        let nibble = |digit: u8| (digit as char).to_digit(16).map(|n| n as u8);
        let valid = digits.len() == 64
            && hash.iter_mut().zip(digits.chunks_exact(2)).all(|(byte, pair)| {
                match (nibble(pair[0]), nibble(pair[1])) {
                    (Some(high), Some(low)) => {
                        *byte = high << 4 | low;
                        true
                    }
                    _ => false,
                }
            });
        valid.then_some(ContentHash(hash)).ok_or_else(|| serde::de::Error::custom("not a SHA-256"))
    }
}

/// SHA-256 of a content that comes in pieces.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds to each hash its piece: faster than one after the other.
    pub fn update_together<'h>(pieces: impl IntoIterator<Item = (&'h mut Hasher, &'h [u8])>) {
        let mut pieces: Vec<_> = pieces.into_iter().map(|(hasher, piece)| (&mut hasher.0, piece)).collect();
        Sha256::update_together(&mut pieces);
    }

    pub fn finish(self) -> ContentHash {
        ContentHash(self.0.finish())
    }
}

/// Bytes of a [`BlockHash`].
pub const BLOCK_HASH_SIZE: usize = 16;

/// The first 16 bytes of BLAKE3 of a block.
pub type BlockHash = [u8; BLOCK_HASH_SIZE];

/// The same of everything that a reader gives.
pub fn hash_all(reader: impl std::io::Read) -> std::io::Result<BlockHash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(reader)?;
    Ok(short(&hasher.finalize()))
}

pub fn block_hash(block: &[u8]) -> BlockHash {
    short(&blake3::hash(block))
}

fn short(hash: &blake3::Hash) -> BlockHash {
    let mut short = [0; BLOCK_HASH_SIZE];
    short.copy_from_slice(&hash.as_bytes()[..BLOCK_HASH_SIZE]);
    short
}
