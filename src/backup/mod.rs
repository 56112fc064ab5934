//! Takes base backups: reads a running server, and writes packs of compressed frames, a manifest
//! and a record into a repository. Does not read the configuration. Does not archive WAL: waits
//! until it is in the repository.
//!
//! `run.rs` describes the phases of a backup, `pipeline.rs` the path of a file through the threads.

mod archiver;
mod compress;
mod connect;
mod copy;
mod earlier;
mod failure;
mod finish;
mod found;
mod frame;
mod known;
mod options;
mod outside;
mod own;
mod pack;
mod pages;
mod pipeline;
mod pooler;
mod prepare;
mod queue;
mod run;
mod scan;
mod session;
mod source;
mod standby;
mod start;
mod summaries;
mod tablespaces;
mod throttle;

pub use options::{Options, Taken};
pub use run::run;
pub use source::{BackupServer, ServerFacts};
