//! The one integration binary: a module per feature, each through the binaries or public types.

// A test may fail by a panic, and does what only cli or fs may do in the programs.
#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::match_bool,
    clippy::panic,
    clippy::too_many_lines,
    clippy::unwrap_used
)]

mod ahead;
mod algebra;
mod architecture;
mod backup;
mod branches;
mod check;
mod cli;
mod client;
mod config;
mod conninfo;
mod crafted;
mod demo;
mod drill;
mod examples;
mod fixtures;
mod format;
mod histories;
mod holes;
mod log;
mod matrix;
mod nineteen;
mod notify;
mod observe;
mod properties;
mod push_fetch;
mod records;
mod report;
mod restore;
mod retention;
mod root;
mod s3;

mod seams;
mod shell;
mod simulation;
mod storage;
mod support;
mod sweep;
mod sync;
mod terminal;
mod threads;
mod timelines;
mod verify;
mod versions;
