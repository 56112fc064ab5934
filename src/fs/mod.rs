//! Files: durable writes, and reads and writes that bypass the page cache. Knows nothing of what the files mean.

pub mod direct;
pub mod durable;
