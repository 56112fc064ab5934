//! The state of a cluster — its server, its `pg_wal` and its repositories — and its judgement.
//!
//! [`look`] gathers [`Facts`] and changes nothing. [`judge`] turns them into [`Finding`]s and reads
//! nothing else, so that every judgement can be tested with made-up facts. A [`Health`] has both. A
//! fact that cannot be known is reported as unknown, never as green, and gathering takes no longer
//! than the caller allows.

mod facts;
mod judge;
mod look;
mod queue;
mod stock;
mod text;
mod textfile;

pub use facts::{
    ArchiveQueue, ArchiverStats, Disk, Facts, Gathered, LastDrill, ObservedBackup, ObservedServer, Rates,
    Ready, RepositoryFacts, RepositoryStock, Trouble,
};
pub use judge::{Finding, Health, Light, Limits, judge};
pub use look::{Expiry, Look, look, server_timeline};
pub use queue::queue;
pub use text::{size_text, span};
pub use textfile::write as write_textfile;
