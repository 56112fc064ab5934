//! Connections to HTTP servers. TLS is set up when the first `https` address is used. Does not know
//! what is requested over a connection.

use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use crate::net::names::Resolver;
use crate::net::tls::Chain;
use http::Uri;
use http_body::Body;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use once_cell::sync::OnceCell;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tower_service::Service;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Time limit of name resolution, connection and handshake together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum idle time of a connection that may be reused: servers close idle connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Interval of TCP keepalives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Files that hold all certificates of the system; the first that exists is used.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Trusted root certificates.
#[derive(Debug, Clone)]
pub enum Roots {
    /// Only the certificates in this file.
    File(PathBuf),
    /// The certificates of the operating system.
    System,
}

/// Creates a client with its own pool of connections.
pub fn client<B>(roots: Roots) -> Client<Connect, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut tcp = Tcp::new_with_resolver(Resolver);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE_INTERVAL));
    tcp.enforce_http(false);
    let connect = Connect { tcp, tls: Arc::new(LazyTls { roots, config: OnceCell::new() }) };
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(connect)
}

/// Iterates over an error and its sources, including the errors that I/O errors wrap:
/// `std::io::Error::source` skips those.
pub fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.map(|inner| inner as _).or_else(|| error.source())
    })
}

/// Error of a connection that was not established in time.
#[derive(Debug)]
pub struct Late;

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection within {CONNECT_TIMEOUT:?}")
    }
}

impl std::error::Error for Late {}

/// Connector of the client.
#[derive(Clone)]
pub struct Connect {
    tcp: Tcp<Resolver>,
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
            timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| Late)?
        })
    }
}

/// TLS settings, created at their first use.
struct LazyTls {
    roots: Roots,
    config: OnceCell<Arc<ClientConfig>>,
}

impl LazyTls {
    fn config(&self) -> Result<Arc<ClientConfig>> {
        let make = || -> Result<_> {
            let provider = Arc::new(crypto::ring::default_provider());
            let (store, named) = self.roots.read()?;
            let chain = Chain::new(provider.clone(), store, named, Vec::new())?;
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| Error::new(Kind::Failed, error.to_string()))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(chain))
                .with_no_client_auth();
            Ok(Arc::new(config))
        };
        self.config.get_or_try_init(make).cloned()
    }
}

impl Roots {
    /// Returns all trusted certificates, and a list of those that come from a file named by the
    /// user.
    fn read(&self) -> Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
        let mut store = RootCertStore::empty();
        let mut own = Vec::new();
        match self {
            Roots::File(path) => {
                let doing = || format!("read certificates from {}", path.display());
                own = certificates(path).doing(doing).map_err(|error| error.with_kind(Kind::Config))?;
                store.add_parsable_certificates(own.iter().cloned());
                if store.is_empty() {
                    let error = Error::new(Kind::Config, "the file has no certificate that can be used");
                    return Err(error.doing(doing()));
                }
            }
            Roots::System => {
                // The folder with hundreds of files is read only if no bundle exists.
                let mut bundles = BUNDLES.iter().filter_map(|path| certificates(Path::new(path)).ok());
                let bundle = bundles.find(|bundle| !bundle.is_empty());
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

/// Maximum size in bytes of a file of certificates.
const MAX_BUNDLE_SIZE: u64 = 16 << 20;

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = named::read(path, MAX_BUNDLE_SIZE)?.ok_or_else(|| named::missing(path))?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<std::result::Result<_, _>>();
    certificates.map_err(|error| Error::new(Kind::Config, error.to_string()))
}
