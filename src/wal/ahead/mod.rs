//! Fetches what recovery is going to ask for while PostgreSQL replays what it has, and hands it over.
//!
//! A worker of its own, one for a data directory, keeps the next segments of the timeline in the spool. It fetches
//! as [`Fetch`] does, so what it keeps was verified, and marks each file with its [`Stamp`] and hash, the cluster,
//! the repositories and the boot of the machine. A file whose mark does not fit exactly (written to since, torn by a
//! crash, from another life of the directory) is not there, and all of it is hashed once more before it is handed
//! over. A call takes what is kept by renaming it, and else fetches by itself: it never takes anything from the worker
//! but whole files, waits for one only while it grows, and never answers "absent" because of it. So the worker may be
//! stopped or killed at any moment.
//!
//! Calls tell the worker what they have delivered through a FIFO. One that has no reader says that there is no
//! worker, and whoever has delivered a segment then starts one. What the worker keeps follows what was delivered
//! last, forwards, backwards and onto another timeline. It ends, and leaves nothing, when the next segment is not
//! archived yet, when nobody has asked for a while, or when its caller says that the server is gone.

mod handover;
mod kept;
pub mod push;
pub mod spool;
mod worker;

pub use handover::hand_over;
pub use kept::Asked;
pub use worker::Worker;
