//! Byte stream to one server: a Unix socket, TCP, or TLS over TCP after PostgreSQL's SSLRequest.
//! Does not know the protocol on it.

use super::conninfo::TcpOptions;
use super::tls::{self, TlsSetup};
use crate::error::{Doing, Error, Kind, Result};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Rustls;

/// Resolved address of a server.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Socket(PathBuf),
    Tcp(SocketAddr, TcpOptions),
}

/// Encryption of a stream.
#[derive(Debug, Clone)]
pub(super) enum Encryption {
    Plain,
    /// Encrypted if the server offers TLS; it sends the offer in clear text.
    IfOffered(TlsSetup),
    Required(TlsSetup),
}

/// Open stream.
pub(super) enum Wire {
    Socket(UnixStream),
    Tcp(TcpStream),
    /// TLS, with the `tls-server-end-point` of the server's certificate.
    Tls(Box<Rustls<TcpStream>>, Option<Vec<u8>>),
}

/// Default settings of keepalives: the kernel drops a peer that does not respond after about a
/// minute. With the system's default of two hours, a backup would wait for a machine that is down.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const MAX_LOST_KEEPALIVES: u32 = 3;

impl Wire {
    /// Connects. The caller limits the time.
    ///
    /// # Errors
    ///
    /// [`Kind::Unavailable`] when no server accepts the connection; the kinds of a TLS failure
    /// otherwise.
    pub(super) async fn open(address: &Address, encryption: &Encryption) -> Result<Wire> {
        match address {
            Address::Socket(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Wire::Socket(stream)),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Error::io(
                    "connect", &error,
                )
                .hint("this user may not open the socket: check unix_socket_permissions and the mode of its directory")),
                Err(error) => Err(unreachable(&error)),
            },
            Address::Tcp(address, tcp) => {
                let stream = TcpStream::connect(address).await.map_err(|error| unreachable(&error))?;
                tune(&stream, tcp).doing("set socket options")?;
                match encryption {
                    Encryption::Plain => Ok(Wire::Tcp(stream)),
                    Encryption::IfOffered(setup) => encrypt(stream, setup, false).await,
                    Encryption::Required(setup) => encrypt(stream, setup, true).await,
                }
            }
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Wire::Tls(..))
    }

    /// Reads and discards everything until the peer closes the stream.
    pub(super) async fn drain(&mut self) {
        let mut buffer = [0; 64];
        while matches!(self.read(&mut buffer).await, Ok(1..)) {}
    }
}

/// Error for a failed connection. A missing socket and a connection that the kernel refuses count
/// as an unreachable host.
fn unreachable(error: &io::Error) -> Error {
    Error::io("connect", error).with_kind(Kind::Unavailable)
}

fn tune(stream: &TcpStream, tcp: &TcpOptions) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    if tcp.keepalives {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, tcp.idle.unwrap_or(KEEPALIVE_IDLE))?;
        sockopt::set_tcp_keepintvl(stream, tcp.interval.unwrap_or(KEEPALIVE_INTERVAL))?;
        sockopt::set_tcp_keepcnt(stream, tcp.count.unwrap_or(MAX_LOST_KEEPALIVES))?;
    }
    if let Some(timeout) = tcp.user_timeout {
        // A limit above 49 days, the maximum, is as good as 49 days.
        sockopt::set_tcp_user_timeout(stream, timeout.as_millis().try_into().unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// Requests TLS (protocol documentation, "SSL Session Encryption"). Reads a single byte: further
/// bytes of a man in the middle become part of the handshake, which then fails (CVE-2021-23222).
async fn encrypt(mut stream: TcpStream, setup: &TlsSetup, required: bool) -> Result<Wire> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let doing = "request tls";
    stream.write_all(&SSL_REQUEST).await.doing(doing)?;
    match stream.read_u8().await.doing(doing)? {
        b'S' => {}
        b'N' if !required => return Ok(Wire::Tcp(stream)),
        b'N' => {
            return Err(Error::new(Kind::Refused, "the server does not offer TLS, and sslmode requires it")
                .hint("set ssl = on at the server, or choose a weaker sslmode"));
        }
        // The text of an error at this point is not authenticated, so it is not shown
        // (CVE-2024-10977).
        b'E' => {
            return Err(Error::new(
                Kind::Unavailable,
                "the server responded to the request for TLS with an error",
            ));
        }
        _ => {
            return Err(Error::new(Kind::Failed, "the peer is not a PostgreSQL server")
                .hint("check whether another program listens on that port"));
        }
    }
    let connector = TlsConnector::from(setup.config.clone());
    let stream =
        connector.connect(setup.name.clone(), stream).await.map_err(|error| tls::handshake_error(&error))?;
    let (_, session) = stream.get_ref();
    let end_point = session.peer_certificates().and_then(<[_]>::first).and_then(|c| tls::end_point(c));
    Ok(Wire::Tls(Box::new(stream), end_point))
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Socket(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Tls(stream, _) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Socket(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Tls(stream, _) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Socket(stream) => Pin::new(stream).poll_flush(context),
            Wire::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Wire::Tls(stream, _) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Socket(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Tls(stream, _) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        match self {
            Wire::Tls(_, Some(end_point)) => ChannelBinding::tls_server_end_point(end_point.clone()),
            _ => ChannelBinding::none(),
        }
    }
}

impl TlsStream for &mut Wire {
    fn channel_binding(&self) -> ChannelBinding {
        (**self).channel_binding()
    }
}

/// TLS connector for tokio-postgres that does nothing: a stream that has to be encrypted is already
/// encrypted.
pub(super) struct NoHandshake;

impl<S: TlsStream + Unpin> TlsConnect<S> for NoHandshake {
    type Stream = S;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<S>>;

    fn connect(self, stream: S) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}
