//! What a failure of the SQL library means: its kind, the server's own words, and what to do.

use super::super::tls;
use crate::error::{Error, Kind};
use std::error::Error as _;
use std::io;
use tokio_postgres::error::{DbError, Severity, SqlState};

/// An error of a session or of its beginning. Statements and parameters are never part of it.
pub(super) fn of(error: &tokio_postgres::Error) -> Error {
    if let Some(said) = error.as_db_error() {
        return server(said);
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
                Kind::Timeout => mapped.with_kind(Kind::Unavailable), // the kernel gave the peer up
                _ => mapped,
            }
        }
        _ => Error::new(Kind::Failed, format!("{error}: {source}")),
    }
}

/// An error before the server is ready: what is neither of the server nor of the network is about the login.
pub(super) fn of_login(error: &tokio_postgres::Error) -> Error {
    let local = error.source().is_some_and(|source| !source.is::<DbError>() && !source.is::<io::Error>());
    if !local {
        return of(error);
    }
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    match source.as_str() {
        "password missing" => {
            Error::new(Kind::Denied, "the server asks for a password and there is none").hint(PASSWORD)
        }
        _ => Error::new(Kind::Denied, format!("login failed: {source}")),
    }
}

const PASSWORD: &str =
    "put a line host:port:database:user:password into ~/.pgpass (mode 0600), or name a passfile";

/// Whether the server ends the session with this.
pub(super) fn is_fatal(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|said| matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic)))
}

pub(super) fn closed() -> Error {
    Error::new(Kind::Unavailable, "the server closed the connection")
        .hint("the server's log says why: a crash, a restart or pg_terminate_backend")
}

/// The server's message and detail, its hint, and the kind by SQLSTATE (PostgreSQL documentation,
/// "PostgreSQL Error Codes").
fn server(said: &DbError) -> Error {
    let code = said.code();
    let kind = match code.code().get(..2) {
        Some("28") => Kind::Denied,      // invalid authorization
        Some("08") => Kind::Unavailable, // connection exception
        _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => Kind::Denied,
        _ if *code == SqlState::DISK_FULL => Kind::Full,
        _ if *code == SqlState::TOO_MANY_CONNECTIONS => Kind::Unavailable,
        // Shutdown, crash, starting up, the time-outs that end a session.
        Some("57") if *code != SqlState::QUERY_CANCELED => Kind::Unavailable,
        _ => Kind::Failed,
    };
    let mut message = one_line(said.message());
    if let Some(detail) = said.detail() {
        message = format!("{message}: {}", one_line(detail));
    }
    let error = Error::new(kind, message);
    if let Some(hint) = said.hint() {
        return error.hint(one_line(hint));
    }
    match code {
        code if *code == SqlState::INVALID_PASSWORD => error.hint(PASSWORD),
        code if code.code().starts_with("28") => {
            error.hint("pg_hba.conf of the server decides who may log in, from where and how")
        }
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => error.hint("the role needs a GRANT for it"),
        // Nobody else names statements in a session: this one's went to two server processes, or two sessions to one.
        code if [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(code) => {
            error.hint("is there a connection pooler in between? let `connection` lead to the server itself")
        }
        code if *code == SqlState::INVALID_CATALOG_NAME => {
            error.hint("dbname=… names the database; without it the user's name is taken")
        }
        _ => error,
    }
}

/// One line without a full stop at its end, as all errors are.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_string()
}
