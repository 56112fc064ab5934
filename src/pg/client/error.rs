//! Conversion of the SQL library's errors: kind, message of the server, and hint.

use super::super::tls;
use crate::error::{Error, Kind};
use std::error::Error as _;
use std::io;
use tokio_postgres::error::{DbError, Severity, SqlState};

/// Converts an error of a session or of its login. The result never contains statements or
/// parameters.
pub(super) fn of(error: &tokio_postgres::Error) -> Error {
    if let Some(error) = error.as_db_error() {
        return server(error);
    }
    if error.is_closed() {
        return closed();
    }
    let Some(source) = error.source() else {
        return Error::new(Kind::Failed, error.to_string());
    };
    match source.downcast_ref::<io::Error>() {
        Some(io) if io.kind() == io::ErrorKind::UnexpectedEof => closed(),
        Some(io) if tls::is_tls(io) => tls::handshake_error(io),
        Some(io) if !matches!(io.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            let mapped = Error::io(error.to_string(), io);
            match mapped.kind() {
                Kind::Timeout => mapped.with_kind(Kind::Unavailable), // keepalives or TCP_USER_TIMEOUT of the kernel
                _ => mapped,
            }
        }
        _ => Error::new(Kind::Failed, format!("{error}: {source}")),
    }
}

/// Converts an error of the login. An error that comes from neither the server nor the network
/// concerns the authentication.
pub(super) fn of_login(error: &tokio_postgres::Error) -> Error {
    let local = error.source().is_some_and(|source| !source.is::<DbError>() && !source.is::<io::Error>());
    if !local {
        return of(error);
    }
    let source = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    match source.as_str() {
        "password missing" => {
            Error::new(Kind::Denied, "the server requires a password, and none is given").hint(PASSWORD)
        }
        _ => Error::new(Kind::Denied, format!("login failed: {source}")),
    }
}

const PASSWORD: &str =
    "put a line host:port:database:user:password into ~/.pgpass (mode 0600), or name a passfile";

/// Whether the server ended the session with this error.
pub(super) fn is_fatal(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|error| matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic)))
}

/// Error of a connection that was closed without a message.
pub(super) fn closed() -> Error {
    Error::new(Kind::Unavailable, "the server closed the connection")
        .hint("look for the reason in the server's log: a crash, a restart or pg_terminate_backend")
}

/// Converts an error of the server: its message and detail, its hint, and the kind by SQLSTATE
/// (PostgreSQL documentation, "PostgreSQL Error Codes").
fn server(reported: &DbError) -> Error {
    let code = reported.code();
    let kind = match code.code().get(..2) {
        Some("28") => Kind::Denied,      // invalid authorization
        Some("08") => Kind::Unavailable, // connection exception
        _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => Kind::Denied,
        _ if *code == SqlState::DISK_FULL => Kind::Full,
        _ if *code == SqlState::TOO_MANY_CONNECTIONS => Kind::Unavailable,
        // Shutdown, crash, startup, the time limits that end a session.
        Some("57") if *code != SqlState::QUERY_CANCELED => Kind::Unavailable,
        _ => Kind::Failed,
    };
    let mut message = one_line(reported.message());
    if let Some(detail) = reported.detail() {
        message = format!("{message}: {}", one_line(detail));
    }
    let error = Error::new(kind, message).with_sqlstate(code.code());
    if let Some(hint) = reported.hint() {
        return error.hint(one_line(hint));
    }
    match code {
        code if *code == SqlState::INVALID_PASSWORD => error.hint(PASSWORD),
        code if code.code().starts_with("28") => {
            error.hint("pg_hba.conf of the server decides who may log in, from where and how")
        }
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => error.hint("the role needs a GRANT for it"),
        // Names of statements are unique in a session, so a pooler has distributed the session over
        // several server processes, or shares one process between sessions.
        code if [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(code) => {
            error.hint("a connection pooler may be in between; set `connection` to the server itself")
        }
        code if *code == SqlState::INVALID_CATALOG_NAME => {
            error.hint("set dbname=…; the default is the user's name")
        }
        _ => error,
    }
}

/// Joins lines into one without a full stop at its end, the form of all errors.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_string()
}
