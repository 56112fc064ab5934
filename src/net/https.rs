//! Connections to servers of HTTP, with TLS that is set up when the first `https` address is met. Knows nothing of what
//! is asked over them.

use crate::error::{Doing, Error, Kind, Result};
use crate::net::tls::Chain;
use http::Uri;
use http_body::Body;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tower_service::Service;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// For the name, the connection and the handshake together.
pub const CONNECT: Duration = Duration::from_secs(5);

/// Servers close connections that nobody uses; one that is older than this is not tried.
const IDLE: Duration = Duration::from_secs(15);

/// The first of these that is there holds the certificates of the system, all in one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom to trust.
#[derive(Debug, Clone)]
pub enum Roots {
    /// The certificates in this file alone.
    File(PathBuf),
    System,
}

/// A client with connections of its own, which are used again.
pub fn client<B>(roots: Roots) -> Client<Connect, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut tcp = Tcp::new();
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    tcp.enforce_http(false);
    let connect = Connect { tcp, tls: Arc::new(LazyTls { roots, config: OnceLock::new() }) };
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(connect)
}

/// An error and what is below it; an I/O error hides what it was made from, so that is looked for too.
pub fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.map(|inner| inner as _).or_else(|| error.source())
    })
}

/// There was no connection in time.
#[derive(Debug)]
pub struct Late;

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection within {CONNECT:?}")
    }
}

impl std::error::Error for Late {}

/// Makes connections.
#[derive(Clone)]
pub struct Connect {
    tcp: Tcp,
    tls: Arc<LazyTls>,
}

pub type HttpConnection = MaybeHttpsStream<TokioIo<TcpStream>>;

impl Service<Uri> for Connect {
    type Response = HttpConnection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<HttpConnection, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let Connect { mut tcp, tls } = self.clone();
        Box::pin(async move {
            let connecting = async {
                match address.scheme_str() {
                    Some("https") => HttpsConnector::from((tcp, tls.config()?)).call(address).await,
                    _ => Ok(MaybeHttpsStream::Http(tcp.call(address).await?)),
                }
            };
            timeout(CONNECT, connecting).await.map_err(|_| Late)?
        })
    }
}

/// The settings of TLS, made once.
struct LazyTls {
    roots: Roots,
    config: OnceLock<Arc<ClientConfig>>,
}

impl LazyTls {
    fn config(&self) -> Result<Arc<ClientConfig>> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let failed = |error: String| Error::new(Kind::Failed, error);
        let provider = Arc::new(crypto::ring::default_provider());
        let (store, own) = self.roots.read()?;
        let library = WebPkiServerVerifier::builder_with_provider(store.into(), provider.clone())
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Chain::new(library, own)))
            .with_no_client_auth();
        Ok(self.config.get_or_init(|| Arc::new(config)).clone())
    }
}

impl Roots {
    /// All that are trusted, and those among them that a user named.
    fn read(&self) -> Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
        let mut store = RootCertStore::empty();
        let mut own = Vec::new();
        match self {
            Roots::File(path) => {
                let doing = || format!("read certificates from {}", path.display());
                own = certificates(path).doing(doing).map_err(|error| error.with_kind(Kind::Config))?;
                store.add_parsable_certificates(own.iter().cloned());
                if store.is_empty() {
                    let error = Error::new(Kind::Config, "it holds no certificate that can be used");
                    return Err(error.doing(doing()));
                }
            }
            Roots::System => {
                // A folder with hundreds of files is read only where there is no bundle.
                let bundles = BUNDLES.iter().filter_map(|path| certificates(Path::new(path)).ok());
                let bundle = bundles.into_iter().find(|bundle| !bundle.is_empty());
                store.add_parsable_certificates(
                    bundle.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs),
                );
                if store.is_empty() {
                    return Err(Error::new(Kind::Config, "the system has no trusted root certificates")
                        .hint("install ca-certificates, or name a file with `ca_file`"));
                }
            }
        }
        Ok((store, own))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path).doing(|| "open".to_owned())?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<std::result::Result<_, _>>();
    certificates.map_err(|error| Error::new(Kind::Config, error.to_string()))
}
