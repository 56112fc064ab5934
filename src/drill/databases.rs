//! Sessions of a recovered server: roles and databases that accept one, and the changes that let a
//! drill connect to every database and name everything in it. The server runs on a scratch copy, so
//! its catalogs may be changed.

use super::cause::Cause;
use super::findings::CheckFindings;
use super::runner::Runner;
use super::server::DrillServer;
use crate::error::{Error, Kind, Result};
use crate::pg::client::{Session, column};
use crate::pg::names::{escaped, unescape};

/// Databases of a new cluster. Both may have been dropped or closed to connections.
const USUAL_DATABASES: [&str; 2] = ["template1", "postgres"];

/// Hint of an error about roles.
const ROLE_HINT: &str = "name a role of the cluster that may log in: `user` in [drill] of the configuration";

/// Roles and databases to try, each in this order; not all of them need to exist.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    pub users: &'a [String],
    /// Databases to try after the usual ones.
    pub databases: &'a [String],
}

impl Login<'_> {
    /// Opens a session of the first role and database that accept one.
    ///
    /// # Errors
    /// Those of the last attempt.
    pub fn session(&self, server: &DrillServer) -> Result<Session> {
        let mut failure = Error::new(Kind::Denied, "no role of the cluster is known").hint(ROLE_HINT);
        let names = self.databases.iter().map(String::as_str);
        for database in USUAL_DATABASES.into_iter().chain(names) {
            for user in self.users {
                match server.session(user, database) {
                    Ok(session) => return Ok(session),
                    Err(error) => failure = error.hint(ROLE_HINT),
                }
            }
        }
        Err(failure)
    }

    /// Opens a session of a superuser, which has all rights. Returns the name of the role too.
    ///
    /// # Errors
    /// [`Kind::Denied`] when no superuser may log in.
    pub fn superuser(&self, server: &DrillServer, runner: &Runner<'_>) -> Result<(String, Session)> {
        // Any role may query `pg_roles`.
        let session = self.session(server)?;
        let rows = session.query(
            "SELECT rolname::text, current_database()::text FROM pg_roles \
              WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1",
            &[],
            Some(runner.remaining()),
        )?;
        let row = rows.first().ok_or_else(|| {
            Error::new(Kind::Denied, "no superuser of the cluster may log in").hint(ROLE_HINT)
        })?;
        let user: String = column(row, 0)?;
        let session = server.session(&user, column(row, 1)?)?;
        Ok((user, session))
    }
}

/// Allows connections to every database, and renames those whose name is not UTF-8, in which this
/// program sends names. Returns the names, except those of databases that the server marks as
/// invalid: these can only be dropped.
pub fn open_databases(session: &Session, runner: &Runner<'_>) -> Result<Vec<String>> {
    let bound = Some(runner.remaining());
    let rows = session.query(
        &format!(
            "SELECT oid, {}, datallowconn FROM pg_database WHERE datconnlimit <> -2 ORDER BY oid",
            escaped("datname")
        ),
        &[],
        bound,
    )?;
    let mut names = Vec::new();
    for row in &rows {
        let (oid, is_open): (u32, bool) = (column(row, 0)?, column(row, 2)?);
        let name = unescape(column(row, 1)?);
        if name.is_none() || !is_open {
            let rename = name.as_ref().map_or_else(
                || format!(", datname = left({}, 40) || '_' || oid", escaped("datname")),
                |_| String::new(),
            );
            session.batch(
                &format!(
                    "SET allow_system_table_mods = on; \
                     UPDATE pg_database SET datallowconn = true{rename} WHERE oid = {oid}"
                ),
                bound,
            )?;
        }
        names.push(match name {
            Some(name) => name,
            None => {
                let query = format!("SELECT datname::text FROM pg_database WHERE oid = {oid}");
                column(&session.query_one(&query, &[], bound)?, 0)?
            }
        });
    }
    Ok(names)
}

/// Opens a database: a session of this user, in which no code of the database runs by itself. Ends
/// prepared transactions whose locks would keep tables from being read. `None` when the database
/// cannot be opened; `findings` has the reason.
pub fn open_database(
    server: &DrillServer,
    user: &str,
    database: &str,
    runner: &Runner<'_>,
    findings: &mut CheckFindings,
) -> Result<Option<Session>> {
    let opened = server.session(user, database).and_then(|session| {
        roll_back_locks(&session, database, runner, findings)?;
        session.batch(
            "SET allow_system_table_mods = on; \
             UPDATE pg_event_trigger SET evtenabled = 'D' WHERE evtenabled <> 'D'",
            Some(runner.remaining()),
        )?;
        Ok(session)
    });
    match opened {
        Ok(session) => Ok(Some(session)),
        Err(error) => {
            runner.check()?;
            match Cause::of(&error) {
                Cause::Data => findings.bad.push(format!("database {database}: {error}")),
                Cause::Obstacle | Cause::Host => {
                    findings.unread.push(format!("database {database}: {error}"));
                }
            }
            Ok(None)
        }
    }
}

/// Rolls back the prepared transactions of a database that hold a lock with which nothing can be
/// read. What they have changed is not visible anyway.
fn roll_back_locks(
    session: &Session,
    database: &str,
    runner: &Runner<'_>,
    findings: &mut CheckFindings,
) -> Result<()> {
    let bound = Some(runner.remaining());
    // `virtualtransaction` of a prepared transaction is `-1/` and its id.
    let query = format!(
        "SELECT {gid}, string_agg(DISTINCT {table}, ', ') \
           FROM pg_prepared_xacts p \
           JOIN pg_locks l ON l.pid IS NULL AND split_part(l.virtualtransaction, '/', 2) = p.transaction::text \
           JOIN pg_class c ON l.locktype = 'relation' AND c.oid = l.relation \
          WHERE p.database = current_database() AND l.mode = 'AccessExclusiveLock' \
          GROUP BY p.gid ORDER BY p.gid",
        gid = escaped("p.gid"),
        table = escaped("c.oid::regclass"),
    );
    for row in session.query(&query, &[], bound)? {
        let (gid, tables): (String, String) = (column(&row, 0)?, column(&row, 1)?);
        session.batch(&format!("ROLLBACK PREPARED E'{}'", gid.replace('\'', "\\'")), bound)?;
        findings.notes.push(format!(
            "prepared transaction {gid} of database {database} locked {tables}; it was rolled back in the scratch directory, so that this could be read"
        ));
    }
    Ok(())
}

/// Renames everything in the database whose name has bytes outside of ASCII, after a name could not
/// be converted to UTF-8: `café` of a LATIN1 table becomes `caf\351_16384`.
pub fn rename_to_ascii(session: &Session, runner: &Runner<'_>) -> Result<()> {
    let rename = |catalog: &str, name: &str, suffix: &str, condition: &str| {
        let escaped = escaped(name);
        format!(
            "UPDATE {catalog} SET {name} = left({escaped}, 40) || '_' || {suffix} \
              WHERE {escaped} LIKE '%\\\\%'{condition}; "
        )
    };
    let statements = [
        "SET allow_system_table_mods = on; ".to_owned(),
        rename("pg_namespace", "nspname", "oid", ""),
        rename("pg_class", "relname", "oid", ""),
        rename("pg_attribute", "attname", "attnum", " AND attnum > 0 AND NOT attisdropped"),
    ];
    session.batch(&statements.concat(), Some(runner.remaining()))
}
