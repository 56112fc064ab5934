//! Detects a connection pooler between walkeep and the server. A pooler may give each transaction
//! another server process: the process in which the backup was started would stay in backup mode,
//! and the process that has to stop it did not start it. A pooler that keeps one process for each
//! session does no harm and is not detected.

use super::session::STATEMENT_TIMEOUT;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{Session, SessionOptions};
use crate::pg::conninfo::ConnInfo;
use std::time::Duration;

/// Number of attempts: while other sessions are busy, a pooler may return the same process by
/// chance.
const ATTEMPTS: u32 = 30;

/// Time limit of a statement that waits for a process: a pooler may have only one.
const PROCESS_TIMEOUT: Option<Duration> = Some(Duration::from_secs(15));

const HINT: &str = "let `connection` lead to the server itself: its own port or socket directory";

/// Refuses a session whose server process changes. A pooler gives the process of an idle session to
/// the next client that needs one. Here that client is a second session, which keeps the process by
/// an open transaction.
pub fn check(session: &Session, info: &ConnInfo, options: &SessionOptions) -> Result<()> {
    let doing = || "look for a connection pooler".to_owned();
    let other = Session::connect(info, options).doing(doing)?;
    for _ in 0..ATTEMPTS {
        // Some poolers refuse a transaction with an error.
        let begun = other.batch("BEGIN", STATEMENT_TIMEOUT);
        let checked = begun.and_then(|()| check_pid(session, PROCESS_TIMEOUT)).map_err(|error| {
            match error.kind() {
                // The pooler has one process for both sessions.
                Kind::Timeout | Kind::Unavailable => Error::new(Kind::Refused, error.to_string()).hint(HINT),
                _ => error,
            }
        });
        checked.doing(doing)?;
        other.batch("ROLLBACK", STATEMENT_TIMEOUT).doing(doing)?;
    }
    Ok(())
}

/// Refuses a session that does not have the server process that it began with.
pub fn check_process(session: &Session) -> Result<()> {
    check_pid(session, STATEMENT_TIMEOUT)
}

fn check_pid(session: &Session, timeout: Option<Duration>) -> Result<()> {
    let own = session.backend_pid().to_string();
    let rows = session.text("SELECT pg_backend_pid()", timeout)?;
    if rows.iter().flatten().flatten().eq([&own]) {
        return Ok(());
    }
    let what =
        "the session has another server process than it began with: there is a connection pooler in between";
    Err(Error::new(Kind::Refused, what).hint(HINT))
}
