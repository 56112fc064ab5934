//! Common parts of every session of a backup: the time limit of a statement, the grants that a role
//! needs, and values of types that the client does not read by itself. Does not start or stop a
//! backup, and does not distinguish a primary from a standby.

use crate::error::{Error, Kind, Result};
use crate::pg::client::{Row, Session, column};
use crate::pg::lsn::Lsn;
use std::time::Duration;
use tokio_postgres::types::PgLsn;

/// Time limit of every statement that does not wait for another process.
pub const STATEMENT_TIMEOUT: Option<Duration> = Some(Duration::from_secs(60));

/// A role membership or function, and the command that grants it, without the name of the role.
type Grant = (&'static str, &'static str);

const SWITCH_WAL: Grant = ("pg_switch_wal()", "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO");
const RESTORE_POINT: Grant =
    ("pg_create_restore_point(text)", "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO");
const CONTROL_SYSTEM: Grant = ("pg_control_system()", "GRANT EXECUTE ON FUNCTION pg_control_system() TO");

/// Grants for the role on the server that is backed up.
pub const SERVER_GRANTS: [Grant; 6] = [
    ("pg_read_all_settings", "GRANT pg_read_all_settings TO"),
    ("pg_backup_start(text,boolean)", "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO"),
    ("pg_backup_stop(boolean)", "GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO"),
    SWITCH_WAL,
    RESTORE_POINT,
    CONTROL_SYSTEM,
];

/// Grants for the role on the primary of a standby: walkeep only ends a WAL segment there.
pub const PRIMARY_GRANTS: [Grant; 3] = [SWITCH_WAL, RESTORE_POINT, CONTROL_SYSTEM];

/// Refuses a role that lacks any of these grants, with the statements that a superuser has to run.
pub fn check_grants(session: &Session, grants: &[Grant]) -> Result<()> {
    let row = session.query_one("SELECT quote_ident(current_user)::text", &[], STATEMENT_TIMEOUT)?;
    let role: String = column(&row, 0)?;
    let mut missing = Vec::new();
    for (what, grant) in grants {
        let sql = if what.contains('(') {
            "SELECT has_function_privilege('pg_catalog.' || $1::text, 'EXECUTE')"
        } else {
            "SELECT pg_has_role($1::text, 'USAGE')"
        };
        let row = session.query_one(sql, &[what], STATEMENT_TIMEOUT)?;
        if !column::<bool>(&row, 0)? {
            missing.push(format!("{grant} {role};"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Denied,
        format!("the role {role} lacks {} of the grants that walkeep needs", missing.len()),
    )
    .hint(format!("as a superuser, in the database that `connection` names:\n{}", missing.join("\n"))))
}

/// Reads a column of type `pg_lsn`.
pub fn lsn(row: &Row, index: usize) -> Result<Lsn> {
    column::<PgLsn>(row, index).map(|lsn| Lsn(lsn.into()))
}

/// Reads a column of type `int8`: microseconds since 1970, from the server's clock.
pub fn timestamp(row: &Row, index: usize) -> Result<jiff::Timestamp> {
    let microseconds: i64 = column(row, index)?;
    jiff::Timestamp::from_microsecond(microseconds).map_err(|_| {
        let what = format!("the server's clock is at {microseconds} us, which is not a valid time");
        Error::new(Kind::Failed, what)
    })
}
