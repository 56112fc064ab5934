//! The one integration binary: a module per feature, each through the binaries or public types.

mod architecture;
mod backup;
mod client;
mod config;
mod conninfo;
mod fixtures;
mod push_fetch;
mod restore;
mod support;
