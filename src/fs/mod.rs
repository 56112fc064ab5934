//! Files: durable writes, and reads and writes that bypass the page cache. Does not know what the
//! files mean.

pub mod aligned;
pub mod direct;
pub mod durable;
pub mod folder;
mod plain;

pub use plain::open_plain;
