//! WAL ahead of PostgreSQL's requests: [`push`] archives segments before the archiver calls for
//! them, and the rest fetches segments before recovery calls for them. Between the calls both use
//! the [`spool`], and nothing in it is needed: a call without it does its work alone. Knows nothing
//! of the configuration.
//!
//! # The life of a kept segment
//!
//! 1. A call of `walfetch` delivers segment n, and sends a [`DeliveredSegment`] to the worker
//!    through the FIFO in the spool. If the FIFO has no reader, no worker is running, and the call
//!    starts one with that message.
//! 2. The worker ([`FetchWorker`]) moves its window to the segments after n, forwards, backwards or
//!    onto another timeline, and removes the kept files outside of it. It fetches the missing ones
//!    as any call does ([`Fetch`](crate::wal::fetch::Fetch)), so each is verified, and holds a lock
//!    on each for that time.
//! 3. It marks each file with its stamp and hash, the cluster, the repositories and the boot of the
//!    machine.
//! 4. The call for segment n+1 ([`hand_over`]) waits for that lock while the file grows, checks the
//!    mark, the header and the hash of the whole file, and renames the file to its destination. A
//!    file that does not fit its mark exactly (written to since, torn by a crash, from an earlier
//!    life of the directory) counts as missing, and the call fetches by itself. It never answers
//!    "absent" because of the spool, so the worker may be killed at any moment.
//! 5. The worker ends, and removes everything, when the next segment is not archived yet, when no
//!    message has arrived for a while, or when the server does not recover any more.

mod handover;
mod kept;
pub mod push;
pub mod spool;
mod worker;

pub use handover::hand_over;
pub use kept::DeliveredSegment;
pub use worker::{FetchWorker, StillWanted, detach};
