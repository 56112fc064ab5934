//! Bytes to bytes: hashes, compression, and the envelope of objects. Does not know sources and
//! destinations of bytes. `src/repo/FORMAT.md` describes the formats.

pub mod compress;
pub mod envelope;
pub mod hash;
pub(crate) mod pair;
mod sha256;
