//! A connection pooler between walkeep and the server may hand each transaction to another server process. The one that
//! began the backup would stay in backup mode, and the one that is to end it knows of none. A pooler that gives each
//! session a process of its own is none here.

use super::source::SOON;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{Options, Session};
use crate::pg::conninfo::ConnInfo;
use std::time::Duration;

/// Times that it is tried: beside busy sessions a pooler may give back the same process by chance.
const TRIES: u32 = 5;

/// How long a statement may wait for a process: a pooler may have one alone.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(15));

const DIRECT: &str = "let `connection` lead to the server itself: its own port or socket directory";

/// Fails when the session was given another process. The process of a session that is idle is given to the first that
/// wants one: here to one that keeps it for a transaction.
pub fn check(session: &Session, info: &ConnInfo, options: &Options) -> Result<()> {
    let doing = || "look for a connection pooler".to_owned();
    let other = Session::connect(info, options).doing(doing)?;
    for _ in 0..TRIES {
        // Some poolers allow no transaction, and say so.
        let begun = other.batch("BEGIN", SOON);
        let found =
            begun.and_then(|()| has_its_process(session, PATIENCE)).map_err(|error| match error.kind() {
                // There is one process for both.
                Kind::Timeout | Kind::Unavailable => {
                    Error::new(Kind::Refused, error.to_string()).hint(DIRECT)
                }
                _ => error,
            });
        found.doing(doing)?;
        other.batch("ROLLBACK", SOON).doing(doing)?;
    }
    Ok(())
}

/// Whether the session has the server process that it began with.
pub fn check_process(session: &Session) -> Result<()> {
    has_its_process(session, SOON)
}

fn has_its_process(session: &Session, bound: Option<Duration>) -> Result<()> {
    let own = session.backend_pid().to_string();
    let rows = session.text("SELECT pg_backend_pid()", bound)?;
    if rows.iter().flatten().flatten().eq([&own]) {
        return Ok(());
    }
    let what =
        "the session has another server process than it began with: there is a connection pooler in between";
    Err(Error::new(Kind::Refused, what).hint(DIRECT))
}
