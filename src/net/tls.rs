//! Verification of servers' certificates against trusted roots, for PostgreSQL and for S3 alike.

use crate::error::Kind;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use std::sync::Arc;
use tokio_rustls::rustls;

/// Verifier that accepts what the library accepts, and also a CA certificate that is itself one of
/// the roots: `openssl req -x509` makes such self-signed certificates, and servers present them as
/// their own.
#[derive(Debug)]
pub struct Chain {
    library: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

impl Chain {
    /// Creates a verifier. `trusted` are all roots, `named` are the roots that the user named,
    /// `revoked` are the lists of revoked certificates, if any.
    ///
    /// # Errors
    ///
    /// `Config` for roots or lists that the library cannot use.
    pub fn new(
        provider: Arc<CryptoProvider>,
        trusted: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        revoked: Vec<CertificateRevocationListDer<'static>>,
    ) -> crate::error::Result<Chain> {
        let library =
            WebPkiServerVerifier::builder_with_provider(trusted.into(), provider).with_crls(revoked);
        let unusable =
            |error: VerifierBuilderError| crate::error::Error::new(Kind::Config, error.to_string());
        Ok(Chain { library: library.build().map_err(unusable)?, roots: named })
    }
}

/// Whether a certificate was refused because it is a CA certificate (`CaUsedAsEndEntity` of
/// webpki).
pub fn is_authority(other: &OtherError) -> bool {
    is_cause(other, "CaUsedAsEndEntity")
}

/// Whether `name` is the name of this cause. Causes without a variant in the library can be
/// recognized by their names only; tests of the PostgreSQL client (`client/tls.rs`) fail when an
/// update of the library changes a name.
pub fn is_cause(other: &OtherError, name: &str) -> bool {
    format!("{other:?}").contains(name)
}

impl ServerCertVerifier for Chain {
    /// Verifies the chain first: an error about the name implies that the chain is valid.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.library.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The certificate equals a root byte for byte. The library checks the dates of a
            // certificate before it returns this error.
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
