//! The one integration binary: a module per feature, each through the binaries or public types.

mod ahead;
mod architecture;
mod backup;
mod check;
mod cli;
mod client;
mod config;
mod conninfo;
mod demo;
mod drill;
mod examples;
mod fixtures;
mod format;
mod matrix;
mod notify;
mod observe;
mod push_fetch;
mod report;
mod restore;
mod retention;
mod s3;
mod storage;
mod support;
mod sync;
mod verify;
