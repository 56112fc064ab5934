//! How a cluster is: what its server, its `pg_wal` and its repositories show now, and what that means.
//!
//! [`look`] gathers [`Facts`] and changes nothing. [`judge`] turns them into [`Finding`]s and asks nobody, so that
//! every judgement can be tried on facts that were made up. A [`Health`] is both. What cannot be known is unknown and
//! never green by silence; nothing is waited for longer than the caller allows.

mod facts;
mod judge;
mod look;
mod queue;
mod stock;
mod textfile;

pub use facts::{
    Archiver, Backup, Disk, Drilled, Facts, Gathered, Queue, Rates, Ready, Repository, Server, Stock, Trouble,
};
pub use judge::{Finding, Health, Light, Limits, judge, size_text, span};
pub use look::{Look, look};
pub use queue::queue;
pub use textfile::write as write_textfile;
