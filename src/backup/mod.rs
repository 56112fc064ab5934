//! From a running server into a repository: packs of compressed frames, a manifest, a record. Knows
//! nothing of the configuration, and nothing of how WAL gets into the repository: only that it has to be there.
//!
//! The walker finds files, workers read them, as far as WAL summaries do not promise what is in them, hash their blocks, verify
//! pages and compress what no earlier backup stored, the packer puts frames into packs and lines into the manifest, and one thread
//! stores full packs. Every queue is bounded; memory is two packs and about a frame a thread.

mod compress;
mod earlier;
mod failure;
mod pack;
mod pages;
mod pipeline;
mod pooler;
mod run;
mod scan;
mod source;
mod standby;
mod summaries;
mod tablespaces;
mod throttle;

pub use run::{Options, Taken, run};
pub use source::{Found, Server};
