//! One WAL file from the server into every repository, and back; and, ahead of the server's asking, the next ones,
//! with a spool between the calls. Knows nothing of base backups, of the configuration, and of how PostgreSQL is
//! told.

pub mod ahead;
mod budget;
mod encode;
pub mod fetch;
pub mod push;
