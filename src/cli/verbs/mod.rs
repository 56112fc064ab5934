//! One file for each verb of `walkeep`: each computes a value from its arguments and reports it.

#![allow(
    clippy::indexing_slicing,
    reason = "fields are added to JSON objects that were made just before; the verbs index no slices"
)]

pub mod backup;
pub mod check;
pub mod drill;
mod follow;
pub mod init;
pub mod list;
pub mod pin;
pub mod prune;
pub mod report;
pub mod restore;
pub mod status;
pub mod sync;
pub mod timelines;
pub mod verify;
