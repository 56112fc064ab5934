//! Files: those of other users, durable writes, and reads and writes that bypass the page cache. Does not know what the
//! files mean.

#![allow(dead_code, reason = "rooms are converted one after the other")]

pub mod acting;
pub mod aligned;
pub mod direct;
pub mod durable;
pub mod folder;
mod limited;
pub mod named;
pub mod trail;
