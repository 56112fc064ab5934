//! walkeep
pub mod cli;
pub mod codec;
pub mod config;
mod durable;
pub mod error;
pub mod event;
pub mod pg;
pub mod repo;
pub mod storage;
pub mod wal;
