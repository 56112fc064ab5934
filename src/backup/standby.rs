//! A standby as the server that is backed up: start and stop happen there, its files are read, and
//! its promotion ends the backup. Its WAL is archived by the primary. The backup ends in a segment
//! that only the primary can complete: a session with the primary does so where `primary` names it,
//! otherwise the backup waits for that segment.
//!
//! The start is the last restartpoint of the standby, which may lie far back. Until that is known,
//! the announcement of the backup claims the WAL from the restartpoint that the control file names.

use super::session::{PRIMARY_GRANTS, STATEMENT_TIMEOUT, check_grants};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{Expect, KeepAlive, Session, SessionOptions, column};
use crate::pg::conninfo::ConnInfo;

/// Settings of a session that polls whether the server is still a standby, so that a promotion is
/// detected while files are read.
pub fn watching(options: &SessionOptions) -> SessionOptions {
    let expect = Expect { answer: "t".into(), otherwise: "the standby was promoted".into() };
    let keep_alive = KeepAlive {
        statement: "SELECT pg_is_in_recovery()".into(),
        expect: Some(expect),
        ..options.keep_alive.clone()
    };
    SessionOptions { keep_alive, ..options.clone() }
}

/// Opens a session with the primary of a standby. Refuses a server of another cluster, and another
/// standby.
pub fn connect_primary(info: &ConnInfo, options: &SessionOptions, system_identifier: u64) -> Result<Session> {
    let doing = || "look at the server that `primary` names".to_owned();
    let session = Session::connect(info, options).doing(doing)?;
    check_grants(&session, &PRIMARY_GRANTS).doing(doing)?;
    let sql = "SELECT system_identifier, pg_is_in_recovery() FROM pg_control_system()";
    let row = session.query_one(sql, &[], STATEMENT_TIMEOUT).doing(doing)?;
    let wrong = |what: &str| {
        Err(Error::new(Kind::Identity, what)
            .doing(doing())
            .hint("`primary` has to lead to the primary of the standby that `connection` names"))
    };
    if column::<i64>(&row, 0)?.cast_unsigned() != system_identifier {
        return wrong("it belongs to another cluster");
    }
    if column(&row, 1)? {
        return wrong("it is a standby itself");
    }
    Ok(session)
}
