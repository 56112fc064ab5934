//! Which certificate of a server a chain to trusted roots proves, for PostgreSQL and for S3 alike.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use tokio_rustls::rustls;

/// Proves certificates as the library does, and takes one more: a certificate that calls itself an authority and
/// is itself among the roots. `openssl req -x509` makes such self-signed certificates, and servers use them as their
/// own.
#[derive(Debug)]
pub struct Chain {
    library: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

impl Chain {
    /// `library` has been made from these `roots`.
    pub fn new(library: Arc<WebPkiServerVerifier>, roots: Vec<CertificateDer<'static>>) -> Chain {
        Chain { library, roots }
    }
}

/// Whether a certificate was refused because it calls itself an authority.
pub fn is_authority(other: &OtherError) -> bool {
    // The library has no variant of its own for it.
    is(other, "CaUsedAsEndEntity")
}

/// Causes for which the library has no variant of its own are known by their names alone.
pub fn is(other: &OtherError, name: &str) -> bool {
    format!("{other:?}").contains(name)
}

impl ServerCertVerifier for Chain {
    /// Fails for the name only when the chain is good.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.library.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // It is trusted byte by byte; its dates were checked before this answer.
            Err(Error::InvalidCertificate(CertificateError::Other(other)))
                if is_authority(&other) && self.roots.contains(end_entity) =>
            {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.library.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.library.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.library.supported_verify_schemes()
    }
}
