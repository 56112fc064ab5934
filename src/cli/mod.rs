//! The command lines of the three programs: arguments in, text and exit statuses out. Only this
//! room reads the environment and the clock, prints, and ends the process.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "the only room that prints, reads the environment and the clock, and ends the process"
)]

mod account;
mod args;
mod contents;
mod exit;
mod histories;
mod interrupt;
mod log;
mod metrics;
mod moment;
mod notice;
mod output;
mod panics;
mod printable;
mod render;
mod restore_command;
mod server;
mod setup;
mod verbs;
mod wal;
mod walkeep;
mod worker;

pub use wal::{walfetch, walpush};
pub use walkeep::walkeep;
