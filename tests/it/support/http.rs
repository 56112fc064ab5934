//! HTTP/1.1, as much of it as the fault proxy and the small fake services need: heads, bodies,
//! connections, TLS for whoever serves. Every piece can be changed or cut on its way.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_rustls::rustls;

/// Longer than any program under test waits by itself.
const IDLE: Duration = Duration::from_secs(120);

/// A request line or a status line, and the headers as they were written.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads one; none at the end of the connection.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Head>> {
        let mut head = Head::default();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                return Ok(Some(head));
            }
            match line.split_once(':') {
                _ if head.line.is_empty() => head.line = line.to_owned(),
                Some((name, value)) => head.headers.push((name.to_owned(), value.trim().to_owned())),
                None => return Err(io::Error::other(format!("no header: {line:?}"))),
            }
        }
    }

    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        to.write_all((text + "\r\n").as_bytes())
    }

    /// A header's value, whatever the case of its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.into()));
    }

    /// The word at this place of the first line.
    fn word(&self, at: usize) -> &str {
        self.line.split(' ').nth(at).unwrap_or_default()
    }

    pub fn method(&self) -> &str {
        self.word(0)
    }

    /// Path and query, as they were written.
    pub fn target(&self) -> &str {
        self.word(1)
    }

    pub fn path(&self) -> String {
        decoded(self.target().split('?').next().unwrap_or_default())
    }

    pub fn query(&self) -> String {
        decoded(self.target().split_once('?').map_or("", |(_, query)| query))
    }

    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or(0)
    }

    /// How the body behind this head ends, when a body may follow.
    pub fn framing(&self, end_of_connection: bool) -> Framing {
        let chunked = self.get("transfer-encoding").is_some_and(|value| value.contains("chunked"));
        let length = self.get("content-length").and_then(|value| value.parse().ok());
        match length {
            _ if chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None if end_of_connection => Framing::Connection,
            None => Framing::Length(0),
        }
    }
}

/// Percent decoding.
pub fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) if byte == b'%' => {
                bytes.push(code);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent encoding, of everything that has a meaning in a query.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// At the end of the connection.
    Connection,
}

/// The content of a body, without its framing.
pub struct Content<'a, R> {
    from: &'a mut R,
    framing: Framing,
    /// Of the piece at hand.
    left: u64,
    ended: bool,
}

impl<'a, R: BufRead> Content<'a, R> {
    pub fn new(from: &'a mut R, framing: Framing) -> Content<'a, R> {
        let left = match framing {
            Framing::Length(length) => length,
            Framing::Chunked => 0,
            Framing::Connection => u64::MAX,
        };
        Content { from, framing, left, ended: left == 0 && framing != Framing::Chunked }
    }

    /// The next chunk's length; behind the last one are trailers.
    fn chunk(&mut self) -> io::Result<()> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let length = line.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(length, 16).map_err(io::Error::other)?;
        while self.left == 0 && !self.ended {
            line.clear();
            self.ended = self.from.read_line(&mut line)? == 0 || line.trim().is_empty();
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            self.chunk()?;
        }
        if self.ended || into.is_empty() {
            return Ok(0);
        }
        let most = self.left.min(into.len() as u64) as usize;
        let got = self.from.read(&mut into[..most])?;
        match (got, self.framing) {
            (0, Framing::Connection) => self.ended = true,
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (got, Framing::Connection) => return Ok(got),
            (got, _) => self.left -= got as u64,
        }
        if self.left == 0 {
            match self.framing {
                Framing::Chunked => {
                    let mut end = String::new();
                    self.from.read_line(&mut end)?;
                }
                _ => self.ended = true,
            }
        }
        Ok(got)
    }
}

/// Writes a piece of a body.
pub fn write_piece(to: &mut impl Write, framing: Framing, piece: &[u8]) -> io::Result<()> {
    match framing {
        Framing::Chunked => {
            to.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
            to.write_all(piece)?;
            to.write_all(b"\r\n")
        }
        _ => to.write_all(piece),
    }
}

/// Ends a body.
pub fn write_end(to: &mut impl Write, framing: Framing) -> io::Result<()> {
    if framing == Framing::Chunked {
        to.write_all(b"0\r\n\r\n")?;
    }
    to.flush()
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into() }
    }

    /// An error as S3 words it.
    pub fn error(status: u16, code: &str) -> Reply {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>for a test</Message>\
             <RequestId>4442587FB7D0A2F9</RequestId></Error>"
        );
        Reply::new(status, body).header("Content-Type", "application/xml")
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Reads one, after a request that is no HEAD.
    pub fn read(from: &mut impl BufRead) -> io::Result<Reply> {
        let head = Head::read(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut body = Vec::new();
        Content::new(from, head.framing(true)).read_to_end(&mut body)?;
        Ok(Reply { status: head.status(), headers: head.headers, body })
    }

    /// The head; without a reason phrase, as HTTP allows it.
    pub fn head(&self) -> Head {
        let mut head = Head { line: format!("HTTP/1.1 {} ", self.status), headers: self.headers.clone() };
        if head.get("content-length").is_none() {
            head.set("Content-Length", self.body.len().to_string());
        }
        head
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection, encrypted or not.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// One connection of a client.
pub struct Connection {
    pub wire: BufReader<Box<dyn Wire>>,
    socket: TcpStream,
}

impl Connection {
    pub fn writer(&mut self) -> &mut dyn Wire {
        self.wire.get_mut()
    }

    /// Ends it as a crash of the other side would: with a reset.
    pub fn reset(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// The body of a request whose head was read, all of it.
    pub fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        self.invite(head)?;
        let mut body = Vec::new();
        Content::new(&mut self.wire, head.framing(false)).read_to_end(&mut body)?;
        Ok(body)
    }

    /// Asks for the body where the client waits to be asked.
    pub fn invite(&mut self, head: &Head) -> io::Result<()> {
        if head.get("expect").is_some() {
            self.writer().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    pub fn answer(&mut self, reply: &Reply, to: &Head) -> io::Result<()> {
        let mut bytes = Vec::new();
        reply.head().write(&mut bytes)?;
        if to.method() != "HEAD" {
            bytes.extend_from_slice(&reply.body);
        }
        self.writer().write_all(&bytes)?;
        self.writer().flush()
    }
}

/// A certificate with its key, as PEM files, to serve HTTPS with.
pub fn certificate(certificate: &Path, key: &Path) -> Arc<rustls::ServerConfig> {
    use rustls_pki_types::pem::PemObject;
    let chain: Vec<_> = rustls_pki_types::CertificateDer::pem_file_iter(certificate)
        .expect("open a certificate")
        .map(|certificate| certificate.expect("a certificate"))
        .collect();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_file(key).expect("read a private key");
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key);
    Arc::new(config.expect("a certificate that fits its key"))
}

/// A server on a free port of the loopback interface: a thread for each connection, gone when
/// dropped.
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// `serve` is called for each connection, with a thread of its own.
    pub fn start(
        host: &str,
        tls: Option<Arc<rustls::ServerConfig>>,
        serve: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(format!("{host}:0")).expect("listen on the loopback interface");
        let address = listener.local_addr().expect("the address of a listener");
        let stopped = Arc::new(AtomicBool::new(false));
        let (until, serve) = (stopped.clone(), Arc::new(serve));
        let scheme = if tls.is_some() { "https" } else { "http" };
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if until.load(Ordering::SeqCst) {
                    return;
                }
                let (serve, tls) = (serve.clone(), tls.clone());
                std::thread::spawn(move || {
                    // What a client or a fault broke off is what the test is about; it looks at the
                    // client.
                    if let Ok(mut connection) = socket.and_then(|socket| accept(socket, tls)) {
                        let _ = serve(&mut connection);
                    }
                });
            }
        });
        Server { address, scheme, stopped }
    }

    /// Where it is: `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(socket: TcpStream, tls: Option<Arc<rustls::ServerConfig>>) -> io::Result<Connection> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(IDLE))?;
    let wire: Box<dyn Wire> = match tls {
        None => Box::new(socket.try_clone()?),
        Some(config) => {
            let session = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(rustls::StreamOwned::new(session, socket.try_clone()?))
        }
    };
    Ok(Connection { wire: BufReader::with_capacity(128 << 10, wire), socket })
}

/// A fake service that answers each request with what the function says.
pub fn service(answer: impl Fn(&Head, &[u8]) -> Reply + Send + Sync + 'static) -> Server {
    Server::start("127.0.0.1", None, move |connection| {
        while let Some(head) = Head::read(&mut connection.wire)? {
            let body = connection.body(&head)?;
            connection.answer(&answer(&head, &body), &head)?;
        }
        Ok(())
    })
}
