//! Bytes to bytes: hashes, compression, and the envelope that every object has. Knows nothing of where
//! bytes come from or go to. The formats are those of `src/repo/FORMAT.md`.

pub mod compress;
pub mod envelope;
pub mod hash;
pub(crate) mod pair;
mod sha256;
