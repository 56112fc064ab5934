//! What PostgreSQL's files and protocols mean. Knows nothing of archives, repositories and terminals.
//!
//! Formats are parsed once, here, into values; whatever comes from a file or a network may be cut, damaged
//! or hostile, and is answered with an error, never with a panic.

pub mod client;
pub mod conninfo;
mod tls;
mod wire;
mod x509;
