//! Bytes to bytes: hashes, compression, and the envelope that every object has. Does not know where
//! bytes come from or go to. `src/repo/FORMAT.md` describes the formats.

pub mod compress;
pub mod envelope;
pub mod hash;
pub(crate) mod pair;
mod sha256;
