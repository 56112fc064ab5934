//! Reads everything in a cluster: every table of every database, by several sessions.

use super::server::{Server, Surroundings};
use crate::error::{Error, Kind, Result};
use crate::pg::client::{Session, column};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How many failures are told of.
const TOLD: usize = 10;

/// One table to read.
struct Table {
    database: String,
    name: String,
    statement: String,
    bytes: i64,
}

/// What was read.
pub struct Read {
    pub databases: usize,
    pub tables: usize,
    pub bytes: u64,
    /// What cannot be read, and why.
    pub bad: Vec<String>,
    /// What could not be tried: a library is missing here.
    pub untold: Vec<String>,
}

/// Tables of a database, so that each can be read to its last byte: `COPY` also puts together what lies in the TOAST
/// table; that is read once more, page by page.
const TABLES: &str = "\
    SELECT format('%I.%I', n.nspname, c.relname) AS name, \
           CASE WHEN c.relkind IN ('t', 'S') THEN format('SELECT count(*) FROM %I.%I', n.nspname, c.relname) \
                ELSE format('COPY (SELECT * FROM ONLY %I.%I) TO ''/dev/null''', n.nspname, c.relname) END AS statement, \
           pg_relation_size(c.oid) AS bytes \
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm', 't', 'S') AND c.relpersistence <> 't' \
       AND (c.relkind <> 'm' OR c.relispopulated)";

/// Makes every database open to sessions of the superuser, and keeps code of the databases from running by itself.
/// Those that the server calls invalid are left out: the server wants them dropped.
pub fn open_databases(server: &Server, user: &str, surroundings: &Surroundings<'_>) -> Result<Vec<String>> {
    let bound = Some(surroundings.until.saturating_duration_since(Instant::now()));
    let first = server.session(user, "template1")?;
    let rows = first.query(
        "SELECT datname::text, datallowconn, format('ALTER DATABASE %I ALLOW_CONNECTIONS true', datname) \
           FROM pg_database WHERE datconnlimit <> -2 ORDER BY oid",
        &[],
        bound,
    )?;
    let mut databases = Vec::new();
    for row in &rows {
        if !column::<bool>(row, 1)? {
            first.batch(column::<&str>(row, 2)?, bound)?;
        }
        databases.push(column::<String>(row, 0)?);
    }
    drop(first);
    for database in &databases {
        let session = server.session(user, database)?;
        let triggers = session.query(
            "SELECT format('ALTER EVENT TRIGGER %I DISABLE', evtname) FROM pg_event_trigger",
            &[],
            bound,
        )?;
        triggers.iter().try_for_each(|row| session.batch(column::<&str>(row, 0)?, bound))?;
    }
    Ok(databases)
}

/// Reads all tables. Fails only when the server is gone or the time is over; what cannot be read is part of the
/// answer.
pub fn read(
    server: &Server,
    user: &str,
    databases: &[String],
    jobs: NonZeroUsize,
    surroundings: &Surroundings<'_>,
) -> Result<Read> {
    let mut tables = Vec::new();
    let mut done =
        Read { databases: databases.len(), tables: 0, bytes: 0, bad: Vec::new(), untold: Vec::new() };
    for database in databases {
        surroundings.check()?;
        let bound = Some(surroundings.until.saturating_duration_since(Instant::now()));
        let session = server.session(user, database)?;
        match session.query(TABLES, &[], bound) {
            Ok(rows) => {
                for row in &rows {
                    tables.push(Table {
                        database: database.clone(),
                        name: column(row, "name")?,
                        statement: column(row, "statement")?,
                        bytes: column(row, "bytes")?,
                    });
                }
            }
            Err(error) if error.kind() == Kind::Timeout => return Err(error),
            Err(error) => done.bad.push(format!("the tables of database {database}: {error}")),
        }
    }
    done.tables = tables.len();
    // The largest first, so that none is alone at the end.
    tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
    let queue = Mutex::new(tables.into_iter());
    let bytes = AtomicU64::new(0);
    let (bad, untold) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        let mut session: Option<(String, Session)> = None;
        loop {
            let Some(table) = queue.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                return Ok(());
            };
            surroundings.check()?;
            let open = match session.take().filter(|(database, _)| *database == table.database) {
                Some((_, open)) => open,
                None => server.session(user, &table.database)?,
            };
            let bound = Some(surroundings.until.saturating_duration_since(Instant::now()));
            match open.batch(&table.statement, bound) {
                Ok(()) => drop(bytes.fetch_add(u64::try_from(table.bytes).unwrap_or(0), Ordering::Relaxed)),
                Err(error) => {
                    // Not this table: the server went away, or the time is over.
                    open.check()?;
                    if error.kind() == Kind::Timeout {
                        return Err(error);
                    }
                    let text = error.to_string();
                    let list = if is_missing_library(&text) { &untold } else { &bad };
                    let line = format!("{} of database {}: {text}", table.name, table.database);
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
            session = Some((table.database, open));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.get()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a reader panicked")))
        })
    })?;
    done.bytes = bytes.into_inner();
    done.bad.extend(bad.into_inner().unwrap_or_else(PoisonError::into_inner));
    done.untold.extend(untold.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(done)
}

/// Whether the server says that a library is not installed here: that says nothing about the backup.
pub fn is_missing_library(text: &str) -> bool {
    ["could not access file", "could not load library", "could not open extension control file"]
        .iter()
        .any(|words| text.contains(words))
}

/// The first of some lines, and how many there are.
pub fn told(lines: &[String]) -> String {
    let shown = lines.iter().take(TOLD).cloned().collect::<Vec<_>>().join("; ");
    match lines.len().saturating_sub(TOLD) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
