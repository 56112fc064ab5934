//! Push of a WAL file from the server to every repository, and fetch of a WAL file from the
//! repositories; both also process the next files ahead of the server's requests, with a spool
//! between the calls. Does not know base backups, the configuration and exit statuses.

pub mod ahead;
mod encode;
pub mod fetch;
pub mod part;
mod permits;
pub mod push;
mod racing;
mod stamp;
