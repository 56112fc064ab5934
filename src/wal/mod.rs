//! One WAL file from the server into every repository, and back; and the next files before the
//! server requests them, with a spool between the calls. Knows nothing of base backups, of the
//! configuration, and of exit statuses.

pub mod ahead;
mod encode;
pub mod fetch;
mod permits;
pub mod push;
mod racing;
mod stamp;
