//! The one integration binary: a module per feature, each through the binaries or public types.
mod architecture;
mod config;
mod fixtures;
mod push_fetch;
mod support;
