//! From a [`ConnInfo`] to one logged-in connection: which server, which address, with TLS or without, in
//! libpq's order. Every attempt has a bound.

use super::super::conninfo::{self, ConnInfo, Host, SessionAttrs, SslMode, Target};
use super::super::tls;
use super::super::wire::{Address, Encryption, Opened, Wire};
use super::Options;
use super::error;
use crate::error::{Error, Kind, Result};
use std::future::poll_fn;
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, Config, SslMode as Negotiate, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Connection, SimpleQueryMessage};

/// Run at once after the login. Role, database and command-line settings may hold time-outs that end a
/// long session and a search_path that puts somebody's function before the server's; nothing is called
/// before search_path is safe. Servers before 14 and 17 do not know the last two time-outs. The answer
/// of the last statement describes the session. `client_min_messages` keeps notices coming.
const SETUP: &str = "\
    SET search_path = pg_catalog; SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; \
    SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET client_min_messages = notice; \
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SELECT set_config(name, '0', false) FROM pg_settings \
     WHERE name IN ('idle_session_timeout', 'transaction_timeout'); \
    SELECT pg_backend_pid(), current_setting('server_version_num'), pg_is_in_recovery(), \
           current_setting('transaction_read_only')";

/// A connection that is ready for statements.
pub(super) struct Connected {
    pub client: Client,
    pub connection: Connection<Wire, Wire>,
    /// How to reach the same server again, to cancel a statement.
    pub address: Address,
    pub encryption: Encryption,
    /// The server in words.
    pub place: String,
    pub tls: bool,
    pub backend_pid: i32,
    pub version: u32,
    /// What the server said while the session was set up.
    pub messages: Vec<AsyncMessage>,
    in_recovery: bool,
    read_only: bool,
}

/// How far an attempt came; it decides what may be tried next.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Nobody answered, or not in time, or not yet: another server may.
    Reach,
    Tls,
    /// The server said no, on an encrypted connection or another.
    Login {
        tls: bool,
    },
}

struct Failure {
    stage: Stage,
    error: Error,
}

/// Tries the servers in order. As with libpq, one that answers and refuses the login ends the search.
pub(super) async fn connect(info: &ConnInfo, options: &Options) -> Result<Connected> {
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

/// One error of many: the texts of all, the kind and the hint of the last.
fn all(mut failures: Vec<Error>) -> Error {
    let Some(last) = failures.pop() else {
        return Error::new(Kind::Config, "no server is named");
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
    options: &Options,
    target: &Target,
    wanted: SessionAttrs,
) -> std::result::Result<Connected, Failure> {
    let bound = info.connect_timeout.unwrap_or(options.connect_timeout);
    let reach = |error: Error| Failure { stage: Stage::Reach, error: error.hint(how_to_check(target)) };
    let mut failures = Vec::new();
    for address in addresses(info, target, bound).await.map_err(reach)? {
        match login_encrypted_or_not(info, options, target, &address, bound).await {
            Ok(connected) => match unwanted(&connected, wanted) {
                None => return Ok(connected),
                Some(error) => failures.push(error),
            },
            Err(Failure { stage: Stage::Reach, error }) => failures.push(error),
            Err(failure) => return Err(failure),
        }
    }
    Err(reach(all(failures)))
}

async fn addresses(info: &ConnInfo, target: &Target, bound: Duration) -> Result<Vec<Address>> {
    let name = match &target.host {
        Host::Socket(_) => return Ok(target.socket().map(Address::Socket).into_iter().collect()),
        Host::Address(address, _) => {
            return Ok(vec![Address::Tcp((*address, target.port).into(), info.tcp)]);
        }
        Host::Name(name) => name,
    };
    let found = timeout(bound, tokio::net::lookup_host((name.as_str(), target.port)))
        .await
        .map_err(|_| late(bound))?
        .map_err(|error| Error::io("look up the host name", &error).with_kind(Kind::Unavailable))?;
    let addresses: Vec<Address> = found.map(|address| Address::Tcp(address, info.tcp)).collect();
    match addresses.is_empty() {
        true => Err(Error::new(Kind::Unavailable, "the host name has no address")),
        false => Ok(addresses),
    }
}

/// The order in which `sslmode` tries: `allow` first without TLS, `prefer` first with it, both once
/// more the other way when that fails at a server that answers (PQconnectPoll). The others never change.
async fn login_encrypted_or_not(
    info: &ConnInfo,
    options: &Options,
    target: &Target,
    address: &Address,
    bound: Duration,
) -> std::result::Result<Connected, Failure> {
    let attempt = async |encryption: std::result::Result<Encryption, Failure>| {
        let encryption = encryption?;
        timeout(bound, login(info, options, target, address, encryption))
            .await
            .unwrap_or_else(|_| Err(Failure { stage: Stage::Reach, error: late(bound) }))
    };
    let host = match &target.host {
        Host::Name(name) | Host::Address(_, Some(name)) => Some(name.as_str()),
        _ => None,
    };
    let setup = || tls::setup(&info.tls, host).map_err(|error| Failure { stage: Stage::Tls, error });
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
        // It cannot do the other at all, or says the same again: nothing new.
        Stage::Tls => first,
        _ if second.error.to_string() == first.error.to_string() => second,
        stage => {
            let way = |tls| if tls { "with TLS" } else { "without TLS" };
            let prefer = mode == SslMode::Prefer;
            let (one, other) = (first.error.doing(way(prefer)), second.error.doing(way(!prefer)));
            Failure { stage, error: all(vec![one, other]) }
        }
    })
}

/// One attempt: stream, login, setup.
async fn login(
    info: &ConnInfo,
    options: &Options,
    target: &Target,
    address: &Address,
    encryption: Encryption,
) -> std::result::Result<Connected, Failure> {
    let wire = Wire::open(address, &encryption).await.map_err(|error| Failure {
        stage: match error.kind() {
            Kind::Unavailable | Kind::Timeout => Stage::Reach,
            _ if matches!(address, Address::Socket(_)) => Stage::Reach,
            _ => Stage::Tls,
        },
        error,
    })?;
    let tls = wire.is_tls();
    let mut config = Config::new();
    config
        .user(&info.user)
        .dbname(&info.dbname)
        .application_name(info.application_name.as_ref().unwrap_or(&options.application_name))
        .ssl_mode(if tls { Negotiate::Require } else { Negotiate::Disable })
        // The stream is encrypted already; tokio-postgres is not to ask for it again.
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
    let (client, mut connection) =
        config.connect_raw(wire, Opened).await.map_err(|cause| refused(&cause, tls))?;
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
        .map_err(|cause| Failure {
            stage: Stage::Login { tls },
            error: error::of(&cause).doing("set up the session"),
        })?
    };
    let row = answer.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let field = |index| row.and_then(|row| row.try_get(index).ok().flatten()).unwrap_or_default();
    let (Ok(backend_pid), Ok(version)) = (field(0).parse(), field(1).parse()) else {
        let error = Error::new(Kind::Failed, "the server does not say its version");
        return Err(Failure { stage: Stage::Login { tls }, error });
    };
    Ok(Connected {
        backend_pid,
        version,
        in_recovery: field(2) == "t",
        read_only: field(3) == "on",
        address: address.clone(),
        encryption: match encryption {
            // A request to cancel is as secret as the session that it is for.
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

fn refused(cause: &tokio_postgres::Error, tls: bool) -> Failure {
    let error = error::of_login(cause);
    // libpq goes on to the next server when this one is starting up or shutting down.
    let stage = match cause.code() {
        Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => Stage::Reach,
        Some(_) => Stage::Login { tls },
        None if error.kind() == Kind::Unavailable => Stage::Reach,
        None => Stage::Login { tls },
    };
    Failure { stage, error }
}

/// Why a server is not the one that target_session_attrs asks for.
fn unwanted(connected: &Connected, wanted: SessionAttrs) -> Option<Error> {
    let why = match wanted {
        SessionAttrs::ReadWrite if connected.read_only => "the session is read-only",
        SessionAttrs::ReadOnly if !connected.read_only => "the session is not read-only",
        SessionAttrs::Primary if connected.in_recovery => "the server is a standby",
        SessionAttrs::Standby if !connected.in_recovery => "the server is not a standby",
        _ => return None,
    };
    Some(Error::new(Kind::Unavailable, why).hint("target_session_attrs asks for another server"))
}

fn late(bound: Duration) -> Error {
    Error::new(Kind::Unavailable, format!("no answer within {} s", bound.as_secs_f64()))
}

fn how_to_check(target: &Target) -> String {
    match (&target.host, target.socket()) {
        (Host::Socket(directory), Some(_)) => format!(
            "is the server running, with {} in unix_socket_directories and port = {}? host and port of the connection string say where to look",
            directory.display(),
            target.port
        ),
        _ => format!(
            "is the server running and listening on port {} (listen_addresses, firewall)? host and port of the connection string say where to look",
            target.port
        ),
    }
}
