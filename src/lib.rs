//! walkeep
pub mod error;
pub mod event;
pub mod pg;
