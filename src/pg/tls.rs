//! TLS with libpq's rules: the verification of the server by each `sslmode`, its files, and the
//! value that binds a SCRAM login to the server's certificate. Opens no connection.
//!
//! Follows fe-secure-openssl.c: an existing root certificate file is used in every mode; without
//! one, `require` and weaker modes accept any certificate; `verify-full` compares the host name,
//! with the common name as a fallback. Stricter than libpq in one respect: a file that was named
//! and does not exist is always an error, and never leads to a weaker verification.

use super::conninfo::{LibpqFile, RootCert, SslMode, TlsOptions, config};
use super::x509::{Certificate, SignatureHash};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::{named, read_limited};
use crate::net::tls::{Chain, is_authority, is_cause};
use rustix::fs::Stat;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use sha2::Digest;
use std::path::Path;
use std::sync::Arc;

/// Maximum size in bytes of a file of certificates or keys.
const MAX_FILE_SIZE: u64 = 16 << 20;
use tokio_rustls::rustls;

/// TLS settings for one server: the library's configuration, and the name that it sends.
#[derive(Debug, Clone)]
pub(super) struct TlsSetup {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

/// Reads the files for TLS to `host`.
///
/// # Errors
///
/// [`Kind::Config`] for a file that is missing, cannot be read or has another content;
/// [`Kind::Denied`] for a private key that other users may read.
pub(super) fn setup(tls: &TlsOptions, host: Option<&str>) -> Result<TlsSetup> {
    let name = host.and_then(|host| ServerName::try_from(host.to_string()).ok());
    if tls.mode == SslMode::VerifyFull && name.is_none() {
        return Err(config("sslmode=verify-full needs a host name to compare with the certificate")
            .hint("add host=…; hostaddr alone names no host"));
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = verifier(tls, &provider, host)?;
    let mut versions = Vec::new();
    if tls.tls13 {
        versions.push(&rustls::version::TLS13);
    }
    if tls.tls12 {
        versions.push(&rustls::version::TLS12);
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| config(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut client = match identity(tls)? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| config(format!("sslcert and sslkey: {error}")))?,
    };
    client.enable_sni = tls.sni;
    Ok(TlsSetup {
        config: Arc::new(client),
        // Without a name, an address takes its place: it is not sent to the server, and nothing
        // compares it, since verify-full always has a name.
        name: name.unwrap_or_else(|| std::net::IpAddr::from([0, 0, 0, 0]).into()),
    })
}

fn verifier(tls: &TlsOptions, provider: &Arc<CryptoProvider>, host: Option<&str>) -> Result<Verifier> {
    let full = tls.mode == SslMode::VerifyFull;
    let mut roots: Vec<CertificateDer<'static>> = Vec::new();
    match &tls.root {
        RootCert::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                return Err(config("the system has no trusted root certificates")
                    .hint("install ca-certificates, or name a file with sslrootcert"));
            }
            roots = found.certs;
        }
        RootCert::File(file) => {
            if let Some(path) = present(file, "sslrootcert")? {
                roots = certificates(path)?;
            }
        }
        RootCert::None => {}
    }
    if roots.is_empty() && tls.mode >= SslMode::VerifyCa {
        let missing = match &tls.root {
            RootCert::File(file) => format!("root certificate file {} does not exist", file.path.display()),
            _ => "no root certificate file is given".to_string(),
        };
        return Err(config(missing).hint(
            "sslmode verify-ca and verify-full need it: name it with sslrootcert, or use sslrootcert=system",
        ));
    }
    let chain = if roots.is_empty() { None } else { Some(chain(tls, provider, roots)?) };
    Ok(Verifier { chain, host: host.filter(|_| full).map(str::to_string), provider: provider.clone() })
}

/// Creates the verifier of chains to `roots`, with the lists of revoked certificates.
fn chain(
    tls: &TlsOptions,
    provider: &Arc<CryptoProvider>,
    roots: Vec<CertificateDer<'static>>,
) -> Result<Chain> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(roots.iter().cloned());
    if added == 0 {
        return Err(config("sslrootcert has no certificate that can be used"));
    }
    let mut revoked = Vec::new();
    if let Some(file) = &tls.crl
        && let Some(path) = present(file, "sslcrl")?
    {
        revoked = CertificateRevocationListDer::pem_slice_iter(&read(path)?.0)
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| unreadable(path, &error))?;
    }
    Chain::new(provider.clone(), store, roots, revoked)
}

/// Reads the client's certificate chain and key; `None` without a client certificate.
fn identity(tls: &TlsOptions) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
    let Some(cert) = &tls.cert else {
        return Ok(None);
    };
    let Some(cert) = present(cert, "sslcert")? else {
        return Ok(None);
    };
    let chain = certificates(cert)?;
    let Some(key) = &tls.key else {
        return Err(config("sslcert needs sslkey"));
    };
    let key = &key.path;
    let (text, stat) = read(key).doing("read the private key")?;
    // As in libpq: at most 0600 for a key of this user, 0640 for one of root.
    let forbidden = if stat.st_uid == 0 { 0o037 } else { 0o077 };
    if stat.st_mode & forbidden != 0 {
        let message = format!("private key file {} has group or world access", key.display());
        return Err(Error::new(Kind::Denied, message).hint(format!("chmod 0600 {}", key.display())));
    }
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        unreadable(key, &error)
            .hint("a key with a passphrase is not supported: openssl pkey -in KEY -out KEY")
    })?;
    Ok(Some((chain, key)))
}

/// Returns the path of a file that exists; `None` for a missing file that was not named. A missing
/// file that was named is an error.
fn present<'a>(file: &'a LibpqFile, keyword: &str) -> Result<Option<&'a Path>> {
    match named::stat(&file.path) {
        Ok(Some(_)) => Ok(Some(&file.path)),
        Ok(None) if !file.named => Ok(None),
        Ok(None) => Err(named::missing(&file.path).with_kind(Kind::Config).doing(keyword)),
        Err(error) => Err(error.with_kind(Kind::Config).doing(keyword)),
    }
}

/// Reads a file of certificates or keys, and returns its state too.
fn read(path: &Path) -> Result<(Vec<u8>, Stat)> {
    let read = || {
        let (file, stat) = named::open_with_stat(path)?.ok_or_else(|| named::missing(path))?;
        Ok((read_limited(&file, path, MAX_FILE_SIZE)?, stat))
    };
    read().map_err(|error: Error| error.with_kind(Kind::Config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?.0)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| unreadable(path, &error))?;
    if certificates.is_empty() {
        return Err(config(format!("{} has no certificate", path.display())));
    }
    Ok(certificates)
}

fn unreadable(path: &Path, error: &rustls_pki_types::pem::Error) -> Error {
    config(format!("{}: {error}", path.display()))
}

/// Whether this is an error of the TLS library, as opposed to the network.
pub(super) fn is_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Converts the error of a handshake, and describes the problem of the certificate.
pub(super) fn handshake_error(error: &std::io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let cause = match inner {
        Some(rustls::Error::InvalidCertificate(cause)) => cause,
        // In TLS 1.3 the alert arrives after the handshake, in place of the response to the login.
        Some(rustls::Error::AlertReceived(alert)) => {
            return Error::new(Kind::Denied, format!("the server aborted the TLS handshake: {alert:?}"))
                .hint("check that the certificate of sslcert is signed by an authority in the server's ssl_ca_file");
        }
        Some(_) => return Error::io("tls handshake", error).with_kind(Kind::Failed),
        None => return Error::io("tls handshake", error),
    };
    let root = "sslrootcert must contain the certificate of the authority that signed the server's";
    let (message, hint) = match cause {
        CertificateError::UnknownIssuer => {
            ("its certificate is not signed by a trusted root".to_string(), root)
        }
        CertificateError::NotValidForNameContext { presented, .. } => (
            format!("its certificate is for {}, not for this host", names(presented)),
            "use a name of the certificate as host, and hostaddr=… for the address of the server",
        ),
        CertificateError::Other(other) if is_authority(other) => {
            ("its certificate is that of an authority, and not a trusted one".to_string(), root)
        }
        CertificateError::Other(other) if is_cause(other, "UnsupportedCertVersion") => (
            "its certificate is of X.509 version 1".to_string(),
            "issue the server's certificate with a subjectAltName, which makes it version 3",
        ),
        other => (
            format!("its certificate is not accepted: {other}"),
            "look at it with: openssl s_client -starttls postgres -connect HOST:PORT",
        ),
    };
    Error::new(Kind::Identity, format!("the identity of the server is not proven: {message}")).hint(hint)
}

/// Formats the names of a certificate, which the library lists as `DnsName("db1")` and
/// `IpAddress(10.0.0.1)`.
fn names(presented: &[String]) -> String {
    let name = |text: &String| match text.split_once('(') {
        Some((_, inner)) => inner.trim_matches(['"', ')']).to_string(),
        None => text.clone(),
    };
    match presented {
        [] => "no name".into(),
        _ => presented.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

/// Computes the `tls-server-end-point` channel binding of a certificate (RFC 5929): the hash of the
/// certificate with the hash function of its signature. `None` where the RFC defines none; SCRAM
/// then works without channel binding.
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match Certificate::parse(certificate)?.signature_hash? {
        SignatureHash::Sha224 => sha2::Sha224::digest(certificate).to_vec(),
        SignatureHash::Sha256 => sha2::Sha256::digest(certificate).to_vec(),
        SignatureHash::Sha384 => sha2::Sha384::digest(certificate).to_vec(),
        SignatureHash::Sha512 => sha2::Sha512::digest(certificate).to_vec(),
    })
}

/// Verifier of the server's certificate.
#[derive(Debug)]
struct Verifier {
    /// Verifier of the chain; `None` accepts any certificate.
    chain: Option<Chain>,
    /// Name that the certificate must have; `None` below `verify-full`.
    host: Option<String>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Compares the host with the common name, as libpq does. `error` is the library's error about
    /// the name, which implies that the chain is valid.
    fn check_common_name(
        &self,
        certificate: &CertificateDer<'_>,
        error: rustls::Error,
    ) -> std::result::Result<(), rustls::Error> {
        let Some(host) = &self.host else {
            return Ok(());
        };
        match Certificate::parse(certificate) {
            Some(certificate) if certificate.common_name_matches(host) => Ok(()),
            Some(Certificate { common_name: Some(name), dns_names: false, addresses: false, .. }) => {
                Err(match error {
                    rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                        expected,
                        ..
                    }) => CertificateError::NotValidForNameContext {
                        expected,
                        presented: vec![name.to_string()],
                    }
                    .into(),
                    error => error,
                })
            }
            _ => Err(error),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                error @ (CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }),
            )) => self.check_common_name(end_entity, error.into())?,
            other => return other,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    /// Verifies that the server has the certificate's key, also if any certificate is accepted:
    /// channel binding relies on that. Reads the key from the certificate without the library,
    /// which rejects certificates of version 1; `openssl x509 -req` makes those.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match Certificate::parse(cert) {
            Some(certificate) => {
                let key = SubjectPublicKeyInfoDer::from(certificate.public_key);
                crypto::verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
            }
            None => crypto::verify_tls13_signature(message, cert, dss, algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
