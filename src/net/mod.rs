//! Network connections: host names, HTTP over TLS, and the verification of servers' certificates.

pub mod https;
pub mod names;
pub mod tls;
