//! Files: those of other users, durable writes, and reads and writes that bypass the page cache. Does
//! not know what the files mean.

#![allow(clippy::disallowed_methods, reason = "this room alone reaches files by paths, renames and syncs")]

pub mod acting;
pub mod aligned;
pub mod direct;
pub mod durable;
pub mod folder;
mod limited;
pub mod named;
pub mod read_as;
pub mod temporary;
pub mod trail;

pub use limited::read_limited;
