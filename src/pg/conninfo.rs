//! Connection parameters: libpq's connection strings, environment variables, service and password
//! files, resolved into one value. Does not read the environment of the process, and opens no
//! connection.
//!
//! The rules are those of libpq (PostgreSQL documentation, "Database Connection Control
//! Functions"). A keyword that is not supported is an error that names it: ignoring `requirepeer`,
//! for example, would weaken the requested protection. Values are never part of an error, since a
//! misplaced quote makes a part of a password look like any other word.

mod files;
mod resolve;
mod text;

pub use text::{Pair, mask, pairs_with_spans};

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Environment of the process, as far as libpq uses it.
pub struct Environment<'a> {
    /// Returns the value of an environment variable such as `PGHOST`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Home directory, for `.pgpass` and `.postgresql/`.
    pub home: Option<PathBuf>,
    /// Name of the operating system's user, the default of `user`.
    pub user: Option<String>,
}

/// Secret, whose `Debug` is `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<Vec<u8>>) -> Secret {
        Secret(secret.into())
    }

    /// Returns the secret itself.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Parameters of a connection. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// Servers to try, in order; at least one.
    pub targets: Vec<Endpoint>,
    /// Name of the role.
    pub user: String,
    /// Name of the database.
    pub dbname: String,
    /// Name in pg_stat_activity; `None` leaves it to the program.
    pub application_name: Option<String>,
    /// Command-line options of the server process: `-c name=value`.
    pub options: Option<String>,
    /// Time limit for each address; `None` if none is given, or libpq's "infinite".
    pub connect_timeout: Option<Duration>,
    /// Required kind of server.
    pub target_session_attrs: SessionAttrs,
    pub tcp: TcpOptions,
    pub tls: TlsOptions,
    /// Warnings for the administrator, such as a password file that is ignored.
    pub warnings: Vec<String>,
}

/// Server that a connection string names.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub host: Host,
    pub port: u16,
    /// Password for this server; `None` if none is given and the password file has none.
    pub password: Option<Secret>,
}

/// Host of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Directory of a Unix socket.
    Socket(PathBuf),
    /// Name that has to be resolved.
    Name(String),
    /// Address, and the name that the server's certificate must have.
    Address(IpAddr, Option<String>),
}

impl Endpoint {
    /// Path of the Unix socket, if the host is one.
    pub fn socket(&self) -> Option<PathBuf> {
        match &self.host {
            Host::Socket(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.socket()) {
            (_, Some(socket)) => write!(f, "socket {}", socket.display()),
            (Host::Address(address, Some(name)), _) if address.to_string() != *name => {
                write!(f, "host {name} ({address}) port {}", self.port)
            }
            (Host::Address(address, _), _) => write!(f, "host {address} port {}", self.port),
            (Host::Name(name), _) => write!(f, "host {name} port {}", self.port),
            (Host::Socket(directory), None) => write!(f, "socket in {}", directory.display()),
        }
    }
}

/// Kind of server that is required (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// Settings by which a TCP connection detects a peer that does not respond any more. `None` leaves
/// a value to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    pub keepalives: bool,
    /// Idle time before the first keepalive.
    pub idle: Option<Duration>,
    /// Interval of keepalives.
    pub interval: Option<Duration>,
    /// Number of lost keepalives after which the connection is closed.
    pub count: Option<u32>,
    /// Time limit for the acknowledgement of data (`TCP_USER_TIMEOUT`).
    pub user_timeout: Option<Duration>,
}

/// `sslmode`, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Use of channel binding in a SCRAM login (`channel_binding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// File that a connection string names, or that libpq uses if it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibpqFile {
    pub path: PathBuf,
    /// Whether it was named, and so has to exist.
    pub named: bool,
}

/// Trusted root certificates (`sslrootcert`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    None,
    File(LibpqFile),
    /// Trusted roots of the operating system.
    System,
}

/// TLS settings of a connection string; the files have not been opened yet.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    pub mode: SslMode,
    pub root: RootCert,
    /// Client's certificate.
    pub cert: Option<LibpqFile>,
    /// Private key of the client's certificate.
    pub key: Option<LibpqFile>,
    /// Certificate revocation list.
    pub crl: Option<LibpqFile>,
    /// Whether the host's name is sent in the handshake.
    pub sni: bool,
    /// Whether TLS 1.2 is allowed.
    pub tls12: bool,
    /// Whether TLS 1.3 is allowed.
    pub tls13: bool,
    pub channel_binding: ChannelBinding,
}

impl ConnInfo {
    /// Resolves a connection string: keywords and values, or a URI. Each value comes from the
    /// string, else from the entry of its service, else from the environment, else it is libpq's
    /// default. A password may also come from the password file.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`]; the message has the keyword, and never the value.
    pub fn parse(text: &str, environment: &Environment<'_>) -> Result<ConnInfo> {
        resolve::Keywords::collect(text, environment)
            .and_then(|settings| settings.resolve(environment))
            .map_err(|error| error.doing("connection string"))
    }
}

/// Creates an error about the configuration of a connection.
pub(super) fn config(message: impl Into<String>) -> Error {
    Error::new(Kind::Config, message)
}
