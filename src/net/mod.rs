//! Network connections: HTTP over TLS, and which certificate of a server is accepted.

pub mod https;
pub mod tls;
