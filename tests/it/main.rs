//! The one integration binary: a module per feature, each through the binaries or public types.

mod architecture;
mod client;
mod config;
mod conninfo;
mod demo;
mod examples;
mod fixtures;
mod push_fetch;
mod support;
