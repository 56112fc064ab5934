//! The command lines of the three programs: arguments in, text and exit statuses out. Only this room
//! reads the environment and the clock, prints, and ends the process.

mod args;
mod backup;
mod check;
mod contents;
mod drill;
mod exit;
mod follow;
mod init;
mod interrupt;
mod list;
mod metrics;
mod moment;
mod notice;
mod output;
mod pin;
mod prune;
mod render;
mod report;
mod restore;
mod server;
mod setup;
mod status;
mod sync;
mod verify;
mod wal;
mod walkeep;
mod worker;

pub use wal::{walfetch, walpush};
pub use walkeep::walkeep;
