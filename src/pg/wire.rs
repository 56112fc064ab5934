//! A byte stream to one server: a Unix socket, TCP, or TLS over TCP after PostgreSQL's SSLRequest.
//! Knows nothing of what is said on it.

use super::conninfo::Tcp;
use super::tls::{self, Setup};
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

/// A server's one address, ready to be connected to.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Socket(PathBuf),
    Tcp(SocketAddr, Tcp),
}

/// Whether the bytes are to be encrypted.
#[derive(Debug, Clone)]
pub(super) enum Encryption {
    Plain,
    /// Encrypted if the server can; what it says in the clear decides.
    IfOffered(Setup),
    Required(Setup),
}

/// An open stream.
pub(super) enum Wire {
    Socket(UnixStream),
    Tcp(TcpStream),
    /// With the `tls-server-end-point` of the server's certificate.
    Tls(Box<Rustls<TcpStream>>, Option<Vec<u8>>),
}

/// The idle time, the interval and the count after which the kernel gives a silent peer up, where the
/// connection string says nothing: about a minute. The system's own two hours would leave a backup
/// waiting for a machine that is long gone.
const IDLE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(10);
const COUNT: u32 = 3;

impl Wire {
    /// Connects. The caller bounds the time.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] where nobody answers; the kinds of a TLS failure otherwise.
    pub(super) async fn open(address: &Address, encryption: &Encryption) -> Result<Wire> {
        match address {
            Address::Socket(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Wire::Socket(stream)),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Error::io(
                    "connect", &error,
                )
                .hint("this user may not open the socket: see unix_socket_permissions and its directory")),
                Err(error) => Err(unreachable(&error)),
            },
            Address::Tcp(address, tcp) => {
                let stream = TcpStream::connect(address).await.map_err(|error| unreachable(&error))?;
                tune(&stream, tcp).doing(|| "socket options".into())?;
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

    /// Reads until the other end closes; what comes is thrown away.
    pub(super) async fn drain(&mut self) {
        let mut buffer = [0; 64];
        while matches!(self.read(&mut buffer).await, Ok(1..)) {}
    }
}

/// Nobody answered. A missing socket or a refusal of the kernel is the same news as a dead host.
fn unreachable(error: &io::Error) -> Error {
    Error::io("connect", error).with_kind(Kind::Unavailable)
}

fn tune(stream: &TcpStream, tcp: &Tcp) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    if tcp.keepalives {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, tcp.idle.unwrap_or(IDLE))?;
        sockopt::set_tcp_keepintvl(stream, tcp.interval.unwrap_or(INTERVAL))?;
        sockopt::set_tcp_keepcnt(stream, tcp.count.unwrap_or(COUNT))?;
    }
    if let Some(timeout) = tcp.user_timeout {
        sockopt::set_tcp_user_timeout(stream, timeout.as_millis().try_into().unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// Asks for TLS (protocol documentation, "SSL Session Encryption"). One byte is read and no more:
/// anything a man in the middle sends with it reaches the handshake, which fails (CVE-2021-23222).
async fn encrypt(mut stream: TcpStream, setup: &Setup, required: bool) -> Result<Wire> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let doing = || "ask for tls".to_string();
    stream.write_all(&SSL_REQUEST).await.doing(doing)?;
    match stream.read_u8().await.doing(doing)? {
        b'S' => {}
        b'N' if !required => return Ok(Wire::Tcp(stream)),
        b'N' => {
            return Err(Error::new(Kind::Refused, "the server does not offer TLS, and sslmode requires it")
                .hint("set ssl = on at the server, or choose a weaker sslmode"));
        }
        // What an error says at this point is not authenticated and not repeated (CVE-2024-10977).
        b'E' => {
            return Err(Error::new(
                Kind::Unavailable,
                "the server answers the request for TLS with an error",
            ));
        }
        _ => {
            return Err(Error::new(Kind::Failed, "what answers is not PostgreSQL")
                .hint("is another program listening on that port?"));
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

/// Tells tokio-postgres that the stream which it gets is as encrypted as it has to be.
pub(super) struct Opened;

impl<S: TlsStream + Unpin> TlsConnect<S> for Opened {
    type Stream = S;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<S>>;

    fn connect(self, stream: S) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}
