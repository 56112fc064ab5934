//! WAL ahead of PostgreSQL's requests: [`push`] archives segments before the archiver requests
//! that, and the other files fetch segments before recovery requests them. Both keep their state in
//! the [`spool`], which is optional: a call without it does its work alone. Does not know the
//! configuration.
//!
//! # Life cycle of a kept segment
//!
//! 1. A call of `walfetch` delivers segment n, and sends a [`DeliveredSegment`] to the worker
//!    through the FIFO in the spool. If the FIFO has no reader, no worker is running, and the call
//!    starts one with that message.
//! 2. The worker ([`FetchWorker`]) moves its window to the segments after n, forwards, backwards or
//!    onto another timeline, and removes the kept files outside of the window. It fetches the
//!    missing segments as a call would ([`Fetch`](crate::wal::fetch::Fetch)), so each is verified,
//!    and holds a lock on each segment that it is fetching.
//! 3. The worker writes a mark for each file: its stamp and hash, the cluster, the repositories and
//!    the boot of the machine.
//! 4. The call for segment n+1 ([`hand_over`]) waits for the lock while the file grows, checks the
//!    mark, the header and the hash of the whole file, and renames the file to its destination. A
//!    file that does not fit its mark exactly (written to since, torn by a crash, left by an
//!    earlier cluster in the directory) counts as missing, and the call fetches the segment itself.
//!    The spool never leads to the answer "absent", so the worker may be killed at any moment.
//! 5. The worker ends, and removes everything, when the next segment is not archived yet, when no
//!    message arrives for a minute, or when the server has ended recovery.

mod handover;
mod kept;
pub mod push;
pub mod spool;
mod worker;

pub use handover::hand_over;
pub use kept::DeliveredSegment;
pub use worker::{FetchWorker, StillWanted, detach};
