//! Reads every table of every database of a cluster, in several sessions.

use super::runner::Runner;
use super::server::DrillServer;
use crate::error::{Error, Kind, Result};
use crate::pg::client::{Row, Session, column};
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of lines that [`summarize`] shows.
const MAX_LINES: usize = 10;

/// One table, and the statement that reads it.
struct TableScan {
    database: String,
    name: String,
    statement: String,
    bytes: u64,
}

/// Result of reading all tables.
#[derive(Default)]
pub struct TablesRead {
    pub databases: usize,
    pub tables: usize,
    pub bytes: u64,
    /// Tables that cannot be read, each with the reason.
    pub bad: Vec<String>,
    /// Tables that could not be read since a library is missing on this host, each with the reason.
    pub untried: Vec<String>,
}

/// Query for the tables of a database, with statements that read each to its last byte: `COPY` also
/// assembles values from the TOAST table, which is read once more, page by page.
const TABLES: &str = "\
    SELECT format('%I.%I', n.nspname, c.relname) AS name, \
           CASE WHEN c.relkind IN ('t', 'S') THEN format('SELECT count(*) FROM %I.%I', n.nspname, c.relname) \
                ELSE format('COPY (SELECT * FROM ONLY %I.%I) TO ''/dev/null''', n.nspname, c.relname) END AS statement, \
           pg_relation_size(c.oid) AS bytes \
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm', 't', 'S') AND c.relpersistence <> 't' \
       AND (c.relkind <> 'm' OR c.relispopulated)";

/// Allows connections to every database and disables event triggers, so that no code of the
/// databases runs by itself. Returns the names of the databases, except databases that the server
/// marks as invalid: these can only be dropped.
pub fn open_databases(server: &DrillServer, user: &str, runner: &Runner<'_>) -> Result<Vec<String>> {
    let bound = Some(runner.remaining());
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

/// Reads all tables. A table that cannot be read is part of the result.
///
/// # Errors
/// When the server has gone away, or the drill has timed out or was cancelled.
pub fn read(
    server: &DrillServer,
    user: &str,
    databases: &[String],
    jobs: NonZeroUsize,
    runner: &Runner<'_>,
) -> Result<TablesRead> {
    let mut read = TablesRead { databases: databases.len(), ..TablesRead::default() };
    let mut tables = Vec::new();
    for database in databases {
        runner.check()?;
        let session = server.session(user, database)?;
        match session.query(TABLES, &[], Some(runner.remaining())) {
            Ok(rows) => {
                for row in &rows {
                    tables.push(TableScan::of(database, row)?);
                }
            }
            Err(error) if error.kind() == Kind::Timeout => return Err(error),
            Err(error) => read.bad.push(format!("the tables of database {database}: {error}")),
        }
    }
    read.tables = tables.len();
    // The largest table comes first, so that it is not the last one that is read.
    tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
    let readers = Readers {
        server,
        user,
        runner,
        queue: Mutex::new(tables.into_iter()),
        bytes: AtomicU64::new(0),
        bad: Mutex::new(std::mem::take(&mut read.bad)),
        untried: Mutex::new(Vec::new()),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.get()).map(|_| scope.spawn(|| readers.work())).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(Error::defect("a reader panicked"))))
    })?;
    read.bytes = readers.bytes.into_inner();
    read.bad = readers.bad.into_inner();
    read.untried = readers.untried.into_inner();
    Ok(read)
}

impl TableScan {
    fn of(database: &str, row: &Row) -> Result<TableScan> {
        let bytes: i64 = column(row, "bytes")?;
        Ok(TableScan {
            database: database.to_owned(),
            name: column(row, "name")?,
            statement: column(row, "statement")?,
            bytes: u64::try_from(bytes)
                .map_err(|_| Error::new(Kind::Failed, format!("a table has {bytes} bytes")))?,
        })
    }
}

/// State that the reading threads share.
struct Readers<'a> {
    server: &'a DrillServer,
    user: &'a str,
    runner: &'a Runner<'a>,
    queue: Mutex<std::vec::IntoIter<TableScan>>,
    bytes: AtomicU64,
    bad: Mutex<Vec<String>>,
    untried: Mutex<Vec<String>>,
}

impl Readers<'_> {
    /// Reads tables until the queue is empty.
    fn work(&self) -> Result<()> {
        let mut session: Option<(String, Session)> = None;
        loop {
            let Some(table) = self.queue.lock().next() else {
                return Ok(());
            };
            self.runner.check()?;
            let open = match session.take().filter(|(database, _)| *database == table.database) {
                Some((_, open)) => open,
                None => self.server.session(self.user, &table.database)?,
            };
            match open.batch(&table.statement, Some(self.runner.remaining())) {
                Ok(()) => drop(self.bytes.fetch_add(table.bytes, Ordering::Relaxed)),
                Err(error) => {
                    // The table is not the cause when the server has gone away or the drill has
                    // timed out.
                    open.check()?;
                    if error.kind() == Kind::Timeout {
                        return Err(error);
                    }
                    let text = error.to_string();
                    let list = if is_missing_library(&text) { &self.untried } else { &self.bad };
                    list.lock().push(format!("{} of database {}: {text}", table.name, table.database));
                }
            }
            session = Some((table.database, open));
        }
    }
}

/// Whether a message of the server is about a library that is not installed on this host, which
/// says nothing about the backup.
pub fn is_missing_library(text: &str) -> bool {
    ["could not access file", "could not load library", "could not open extension control file"]
        .iter()
        .any(|words| text.contains(words))
}

/// Joins the first lines, and adds the number of the others.
pub fn summarize(lines: &[String]) -> String {
    let shown = lines.iter().take(MAX_LINES).cloned().collect::<Vec<_>>().join("; ");
    match lines.len().saturating_sub(MAX_LINES) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
