//! Where a server is and how to get in: libpq's connection strings, environment variables, service and
//! password files, resolved into one value. Reads no process environment and opens no connection.
//!
//! Rules are those of libpq (PostgreSQL documentation, "Database Connection Control Functions"). Where it
//! offers something that is not built here, a connection string that asks for it is refused by name:
//! leaving out, say, `requirepeer` would be weaker than what was asked for. Values are never part of an
//! error text, since a misplaced quote makes a piece of a password look like any other word.

mod files;
mod resolve;
mod text;

pub use text::{Pair, mask, pairs_with_spans};

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What the process knows of its surroundings, as far as libpq looks at it.
pub struct Environment<'a> {
    /// The value of an environment variable such as `PGHOST`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The home directory, for `.pgpass` and `.postgresql/`.
    pub home: Option<PathBuf>,
    /// The name of the operating system's user, the default of `user`.
    pub user: Option<String>,
}

/// A secret; shows itself as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(secret: impl Into<Vec<u8>>) -> Secret {
        Secret(secret.into())
    }

    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Everything needed to open a connection. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The servers to try, in order; at least one.
    pub targets: Vec<Target>,
    pub user: String,
    pub dbname: String,
    pub application_name: Option<String>,
    /// Command-line options for the server process: `-c name=value`.
    pub options: Option<String>,
    /// For each address that is tried; `None` where nothing, or libpq's "for ever", was asked for.
    pub connect_timeout: Option<Duration>,
    pub target_session_attrs: SessionAttrs,
    pub tcp: Tcp,
    pub tls: Tls,
    /// What the administrator should hear of: a password file that was passed over.
    pub warnings: Vec<String>,
}

/// One server.
#[derive(Debug, Clone)]
pub struct Target {
    pub host: Host,
    pub port: u16,
    pub password: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The directory of a Unix socket.
    Socket(PathBuf),
    /// A name that is looked up.
    Name(String),
    /// An address that is used as it is, and the name that its certificate has to show.
    Address(IpAddr, Option<String>),
}

impl Target {
    /// The path of the Unix socket, if it is one.
    pub fn socket(&self) -> Option<PathBuf> {
        match &self.host {
            Host::Socket(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
            _ => None,
        }
    }
}

impl fmt::Display for Target {
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

/// What the server must be for the connection to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// How a TCP connection notices that its other end is gone. `None` leaves it to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    pub keepalives: bool,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// A file that was named, or one that libpq looks for in `~/.postgresql` and does without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub path: PathBuf,
    pub named: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    None,
    File(File),
    /// The trusted roots of the operating system.
    System,
}

/// Everything that TLS needs to know; no file has been looked at yet.
#[derive(Debug, Clone)]
pub struct Tls {
    pub mode: SslMode,
    pub root: RootCert,
    pub cert: Option<File>,
    pub key: Option<File>,
    pub crl: Option<File>,
    pub sni: bool,
    /// Whether TLS 1.2 is good enough.
    pub tls12: bool,
    /// Whether TLS 1.3 may be used.
    pub tls13: bool,
    pub channel_binding: ChannelBinding,
}

impl ConnInfo {
    /// Resolves a connection string, keywords and values or a URI: what it says, then its service's
    /// entry, then the environment, then libpq's defaults; passwords last from the password file.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the keyword and never the value.
    pub fn parse(text: &str, environment: &Environment<'_>) -> Result<ConnInfo> {
        resolve::Settings::collect(text, environment)
            .and_then(|settings| settings.resolve(environment))
            .map_err(|error| error.doing("connection string"))
    }
}

fn config(message: impl Into<String>) -> Error {
    Error::new(Kind::Config, message)
}
