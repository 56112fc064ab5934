//! walkeep
pub mod error;
pub mod event;
