//! The one integration binary: a module per feature, each through the binaries or public types.
mod fixtures;
mod support;
