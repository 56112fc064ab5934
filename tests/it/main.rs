//! The one integration binary: a module per feature, each through the binaries or public types.

mod client;
mod config;
mod conninfo;
