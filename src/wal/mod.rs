//! One WAL file from the server into every repository, and back. Knows nothing of base backups, of the
//! configuration, and of how PostgreSQL is told.

mod encode;
pub mod fetch;
pub mod push;
