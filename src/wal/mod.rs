//! One WAL file from the server into every repository, and back. Knows nothing of base backups, of the
//! configuration, and of how PostgreSQL is told.

mod encode;
pub mod fetch;
pub mod push;

/// Bytes of content in one zstd frame of a stored WAL file, and moved at a time.
const FRAME: usize = 1 << 20;
