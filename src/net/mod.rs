//! Network connections: HTTP over TLS, and the verification of servers' certificates.

pub mod https;
pub mod tls;
