//! Connects and logs in with a [`ConnInfo`]: tries servers, addresses and TLS in libpq's order.
//! Each attempt has a time limit.

use super::super::conninfo::{self, ConnInfo, Endpoint, Host, SessionAttrs, SslMode};
use super::super::tls;
use super::super::wire::{Address, Encryption, NoHandshake, Wire};
use super::SessionOptions;
use super::error;
use crate::error::{Error, Kind, Result};
use crate::net::names::resolve;
use std::future::poll_fn;
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, Config, SslMode as Negotiate, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Connection, SimpleQueryMessage};

/// Statements that are run after the login. Settings of a role, a database or the command line may
/// include time limits that end a long session, and a search_path with a user's function before the
/// server's; no function is called before search_path is safe. Servers before 14 and 17 do not have
/// the last two time limits. The result of the last statement describes the session.
/// `client_min_messages` enables notices.
const SETUP: &str = "\
    SET search_path = pg_catalog; SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; \
    SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET client_min_messages = notice; \
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SELECT set_config(name, '0', false) FROM pg_settings \
     WHERE name IN ('idle_session_timeout', 'transaction_timeout'); \
    SELECT pg_backend_pid(), current_setting('server_version_num'), pg_is_in_recovery(), \
           current_setting('transaction_read_only')";

/// Connection that is ready for statements.
pub(super) struct Connected {
    pub client: Client,
    pub connection: Connection<Wire, Wire>,
    /// Address of the server, to cancel a statement there.
    pub address: Address,
    pub encryption: Encryption,
    /// Description of the server.
    pub place: String,
    pub tls: bool,
    pub backend_pid: i32,
    pub version: u32,
    /// Messages of the server from before the session was ready.
    pub messages: Vec<AsyncMessage>,
    in_recovery: bool,
    read_only: bool,
}

/// Stage at which an attempt failed, which decides what may be tried next.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// The server did not accept the connection, or not in time: another server may.
    Reach,
    Tls,
    /// The server rejected the login; `tls`: the connection was encrypted.
    Login {
        tls: bool,
    },
}

/// Failed attempt.
struct FailedAttempt {
    stage: Stage,
    error: Error,
}

/// Tries the servers in order. As in libpq, a server that rejects the login ends the search.
pub(super) async fn connect(info: &ConnInfo, options: &SessionOptions) -> Result<Connected> {
    let passes: &[SessionAttrs] = match info.target_session_attrs {
        SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
        ref other => std::slice::from_ref(other),
    };
    let mut failures = Vec::new();
    for wanted in passes {
        failures.clear();
        for target in &info.targets {
            match server(info, options, target, *wanted).await {
                Ok(connected) => return Ok(connected),
                Err(failure) => {
                    let last = failure.stage != Stage::Reach;
                    failures.push(failure.error.doing(format!("connect to {target}")));
                    if last {
                        return Err(all(failures));
                    }
                }
            }
        }
    }
    Err(all(failures))
}

/// Combines errors: the messages of all errors, the kind and the hint of the last one.
fn all(mut failures: Vec<Error>) -> Error {
    let Some(last) = failures.pop() else {
        return Error::new(Kind::Config, "no server is given");
    };
    if failures.is_empty() {
        return last;
    }
    let mut texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    texts.push(last.to_string());
    let error = Error::new(last.kind(), texts.join("; "));
    match last.advice() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Tries every address of a server.
async fn server(
    info: &ConnInfo,
    options: &SessionOptions,
    target: &Endpoint,
    wanted: SessionAttrs,
) -> std::result::Result<Connected, FailedAttempt> {
    let bound = info.connect_timeout.unwrap_or(options.connect_timeout);
    let reach = |error: Error| FailedAttempt { stage: Stage::Reach, error: error.hint(how_to_check(target)) };
    let mut failures = Vec::new();
    for address in addresses(info, target, bound).await.map_err(reach)? {
        match login_encrypted_or_not(info, options, target, &address, bound).await {
            Ok(connected) => match unwanted(&connected, wanted) {
                None => return Ok(connected),
                Some(error) => failures.push(error),
            },
            Err(FailedAttempt { stage: Stage::Reach, error }) => failures.push(error),
            Err(failure) => return Err(failure),
        }
    }
    Err(reach(all(failures)))
}

async fn addresses(info: &ConnInfo, target: &Endpoint, bound: Duration) -> Result<Vec<Address>> {
    let name = match &target.host {
        Host::Socket(_) => return Ok(target.socket().map(Address::Socket).into_iter().collect()),
        Host::Address(address, _) => {
            return Ok(vec![Address::Tcp((*address, target.port).into(), info.tcp)]);
        }
        Host::Name(name) => name,
    };
    let found = timeout(bound, resolve(name, target.port)).await.map_err(|_| late(bound))??;
    let addresses: Vec<Address> = found.into_iter().map(|address| Address::Tcp(address, info.tcp)).collect();
    if addresses.is_empty() {
        return Err(Error::new(Kind::Unavailable, "the host name has no address"));
    }
    Ok(addresses)
}

/// Logs in with or without TLS, depending on `sslmode`: `allow` tries without TLS first, `prefer`
/// with TLS first, and both try the other way once when the first attempt is rejected
/// (`PQconnectPoll`). The other modes allow one way only.
async fn login_encrypted_or_not(
    info: &ConnInfo,
    options: &SessionOptions,
    target: &Endpoint,
    address: &Address,
    bound: Duration,
) -> std::result::Result<Connected, FailedAttempt> {
    let attempt = async |encryption: std::result::Result<Encryption, FailedAttempt>| {
        let encryption = encryption?;
        timeout(bound, login(info, options, target, address, encryption))
            .await
            .unwrap_or_else(|_| Err(FailedAttempt { stage: Stage::Reach, error: late(bound) }))
    };
    let host = match &target.host {
        Host::Name(name) | Host::Address(_, Some(name)) => Some(name.as_str()),
        _ => None,
    };
    let setup = || tls::setup(&info.tls, host).map_err(|error| FailedAttempt { stage: Stage::Tls, error });
    let required = || setup().map(Encryption::Required);
    let mode = match address {
        Address::Socket(_) => SslMode::Disable, // libpq: sslmode is ignored on sockets
        Address::Tcp(..) => info.tls.mode,
    };
    let first = match mode {
        SslMode::Disable | SslMode::Allow => attempt(Ok(Encryption::Plain)).await,
        SslMode::Prefer => attempt(setup().map(Encryption::IfOffered)).await,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => attempt(required()).await,
    };
    let Err(first) = first else { return first };
    let second = match (mode, first.stage) {
        (SslMode::Allow, Stage::Login { .. }) => attempt(required()).await,
        (SslMode::Prefer, Stage::Tls | Stage::Login { tls: true }) => attempt(Ok(Encryption::Plain)).await,
        _ => return Err(first),
    };
    second.map_err(|second| match second.stage {
        // One error suffices when the other way is impossible or fails with the same message.
        Stage::Tls => first,
        _ if second.error.to_string() == first.error.to_string() => second,
        stage => {
            let way = |tls| if tls { "with TLS" } else { "without TLS" };
            let prefer = mode == SslMode::Prefer;
            let (one, other) = (first.error.doing(way(prefer)), second.error.doing(way(!prefer)));
            FailedAttempt { stage, error: all(vec![one, other]) }
        }
    })
}

/// One attempt: stream, login, setup.
async fn login(
    info: &ConnInfo,
    options: &SessionOptions,
    target: &Endpoint,
    address: &Address,
    encryption: Encryption,
) -> std::result::Result<Connected, FailedAttempt> {
    let wire = Wire::open(address, &encryption).await.map_err(|error| FailedAttempt {
        stage: match error.kind() {
            Kind::Unavailable | Kind::Timeout => Stage::Reach,
            _ if matches!(address, Address::Socket(_)) => Stage::Reach,
            _ => Stage::Tls,
        },
        error,
    })?;
    let tls = wire.is_tls();
    let config = config(info, options, target, tls);
    let (client, mut connection) =
        config.connect_raw(wire, NoHandshake).await.map_err(|cause| refused(&cause, tls))?;
    let mut messages = Vec::new();
    let answer = {
        let mut setup = std::pin::pin!(client.simple_query(SETUP));
        poll_fn(|context| {
            while let std::task::Poll::Ready(Some(Ok(message))) = connection.poll_message(context) {
                messages.push(message);
            }
            setup.as_mut().poll(context)
        })
        .await
        .map_err(|cause| FailedAttempt {
            stage: Stage::Login { tls },
            error: error::of(&cause).doing("set up the session"),
        })?
    };
    let Some((backend_pid, version, in_recovery, read_only)) = description(&answer) else {
        let error = Error::new(Kind::Failed, "the server did not report its version and state");
        return Err(FailedAttempt { stage: Stage::Login { tls }, error });
    };
    Ok(Connected {
        backend_pid,
        version,
        in_recovery,
        read_only,
        address: address.clone(),
        encryption: match encryption {
            // A cancel request is encrypted if and only if the session is.
            Encryption::IfOffered(setup) if tls => Encryption::Required(setup),
            Encryption::IfOffered(_) => Encryption::Plain,
            other => other,
        },
        place: target.to_string(),
        tls,
        messages,
        client,
        connection,
    })
}

/// Settings of the SQL library for a stream that is encrypted (`tls`) or not.
fn config(info: &ConnInfo, options: &SessionOptions, target: &Endpoint, tls: bool) -> Config {
    let mut config = Config::new();
    config
        .user(&info.user)
        .dbname(&info.dbname)
        .application_name(info.application_name.as_ref().unwrap_or(&options.application_name))
        .ssl_mode(if tls { Negotiate::Require } else { Negotiate::Disable })
        // The stream is already encrypted; tokio-postgres must not request TLS again.
        .ssl_negotiation(SslNegotiation::Direct)
        .channel_binding(match info.tls.channel_binding {
            conninfo::ChannelBinding::Disable => ChannelBinding::Disable,
            conninfo::ChannelBinding::Prefer => ChannelBinding::Prefer,
            conninfo::ChannelBinding::Require => ChannelBinding::Require,
        });
    if let Some(options) = &info.options {
        config.options(options);
    }
    if let Some(password) = &target.password {
        config.password(password.reveal());
    }
    config
}

/// Process id, version, recovery and read-only state from the result of [`SETUP`].
fn description(answer: &[SimpleQueryMessage]) -> Option<(i32, u32, bool, bool)> {
    let row = answer.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })?;
    let field = |index| row.try_get(index).ok().flatten();
    let (pid, version) = (field(0)?.parse().ok()?, field(1)?.parse().ok()?);
    Some((pid, version, field(2)? == "t", field(3)? == "on"))
}

fn refused(cause: &tokio_postgres::Error, tls: bool) -> FailedAttempt {
    let error = error::of_login(cause);
    // libpq continues with the next server when this one is starting up or shutting down.
    let stage = match cause.code() {
        Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => Stage::Reach,
        Some(_) => Stage::Login { tls },
        None if error.kind() == Kind::Unavailable => Stage::Reach,
        None => Stage::Login { tls },
    };
    FailedAttempt { stage, error }
}

/// Returns an error if the server does not meet target_session_attrs, else `None`.
fn unwanted(connected: &Connected, wanted: SessionAttrs) -> Option<Error> {
    let why = match wanted {
        SessionAttrs::ReadWrite if connected.read_only => "the session is read-only",
        SessionAttrs::ReadOnly if !connected.read_only => "the session is not read-only",
        SessionAttrs::Primary if connected.in_recovery => "the server is a standby",
        SessionAttrs::Standby if !connected.in_recovery => "the server is not a standby",
        _ => return None,
    };
    Some(Error::new(Kind::Unavailable, why).hint("target_session_attrs requires another server"))
}

fn late(bound: Duration) -> Error {
    Error::new(Kind::Unavailable, format!("no answer within {} s", bound.as_secs_f64()))
}

fn how_to_check(target: &Endpoint) -> String {
    match (&target.host, target.socket()) {
        (Host::Socket(directory), Some(_)) => format!(
            "check that the server runs with {} in unix_socket_directories and port = {}, or correct host and port of the connection string",
            directory.display(),
            target.port
        ),
        _ => format!(
            "check that the server runs and listens on port {} (listen_addresses, firewall), or correct host and port of the connection string",
            target.port
        ),
    }
}
