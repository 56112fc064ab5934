//! From a running server into a repository: packs of compressed frames, a manifest, a record. Knows
//! nothing of the configuration, and of WAL only that it has to be in the repository.
//!
//! `run.rs` has the phases of a backup, `pipeline.rs` the way of a file through its threads.

mod compress;
mod connect;
mod copy;
mod earlier;
mod failure;
mod finish;
mod frame;
mod known;
mod options;
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
