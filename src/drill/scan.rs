//! Reads every table of every database of a cluster, and checks tables and B-trees with amcheck, in
//! several sessions. An error refutes the backup only when it is about the data; see
//! [`super::cause`].

use super::cause::Cause;
use super::databases::open_database;
use super::findings::CheckFindings;
use super::inventory::{self, BTreeCheck, Item, TableScan, Work};
use super::runner::Runner;
use super::server::DrillServer;
use crate::error::{Error, Kind, Result};
use crate::pg::client::{Session, column};
use crate::runtime::thread;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Minimum size of an item that is worked on before smaller ones, in bytes. Small items are in the
/// order of their databases, so that a session is used for many of them.
const LARGE: u64 = 8 << 20;

/// Settings of a session that reads, so that a count reads all pages of a TOAST table.
const READ_ALL: &str =
    "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off";

/// Part of the message about a value or a text that is larger than 1 GB, or whose length is
/// damaged.
const TOO_LARGE: &str = "invalid memory alloc request size";

/// Part of the messages of amcheck about keys in a wrong order.
const WRONG_ORDER: &str = "invariant violated";

/// The databases of a server, and the way to read them.
pub struct Scan<'a> {
    pub server: &'a DrillServer,
    pub user: &'a str,
    pub databases: &'a [String],
    pub jobs: NonZeroUsize,
    /// Whether tables and B-trees are checked.
    pub amcheck: bool,
    pub runner: &'a Runner<'a>,
}

/// Result of reading and checking everything.
#[derive(Default)]
pub struct ScanResult {
    pub tables: usize,
    pub btrees: usize,
    pub bytes: u64,
    pub read: CheckFindings,
    pub checked: CheckFindings,
}

/// State that the threads share.
struct Workers<'a> {
    scan: &'a Scan<'a>,
    queue: Mutex<std::vec::IntoIter<Item>>,
    bytes: AtomicU64,
    found: Mutex<Found>,
}

/// CheckFindings of the threads.
#[derive(Default)]
struct Found {
    read: CheckFindings,
    checked: CheckFindings,
    /// Tables that could not be read, each with the reason: database, oid and line.
    unread: Vec<(usize, u32, String)>,
    /// Heaps in which amcheck found nothing wrong: database and oid.
    good: BTreeSet<(usize, u32)>,
}

impl Scan<'_> {
    /// Reads and checks everything. An item that cannot be read is part of the result.
    ///
    /// # Errors
    /// When the server has gone away, or the drill has timed out or was cancelled.
    pub fn run(&self) -> Result<ScanResult> {
        let mut found = Found::default();
        let mut items = Vec::new();
        for (number, name) in self.databases.iter().enumerate() {
            self.runner.check()?;
            let Some(session) = open_database(self.server, self.user, name, self.runner, &mut found.read)?
            else {
                continue;
            };
            let findings = [&mut found.read, &mut found.checked];
            items.extend(inventory::list(&session, number, name, self.amcheck, self.runner, findings)?);
        }
        let count =
            |is_counted: fn(&Work) -> bool| items.iter().filter(|item| is_counted(&item.work)).count();
        let tables = count(|work| matches!(work, Work::Read(_)));
        let btrees = count(|work| matches!(work, Work::CheckBTree(_)));
        items.sort_by_key(|item| match item.bytes {
            bytes if bytes >= LARGE => (std::cmp::Reverse(bytes), item.database),
            _ => (std::cmp::Reverse(0), item.database),
        });
        let workers = Workers {
            scan: self,
            queue: Mutex::new(items.into_iter()),
            bytes: AtomicU64::new(0),
            found: Mutex::new(found),
        };
        thread::share(self.jobs.get(), "scan", |_| workers.work())?;
        let Found { mut read, checked, unread, good } = workers.found.into_inner();
        for (database, oid, line) in unread {
            // amcheck has seen all pages and rows of it.
            let list = if good.contains(&(database, oid)) { &mut read.notes } else { &mut read.unread };
            list.push(line);
        }
        Ok(ScanResult { tables, btrees, bytes: workers.bytes.into_inner(), read, checked })
    }
}

impl Workers<'_> {
    /// Works on items until the queue is empty.
    fn work(&self) -> Result<()> {
        let mut open: Option<(usize, Session)> = None;
        loop {
            let Some(item) = self.queue.lock().next() else {
                return Ok(());
            };
            self.scan.runner.check()?;
            let usable = |(database, session): &(usize, Session)| {
                *database == item.database && session.check().is_ok()
            };
            let (_, session) = match open.take().filter(usable) {
                Some(open) => open,
                None => (item.database, self.session(item.database)?),
            };
            match &item.work {
                Work::Read(table) => self.read(&session, &item, table)?,
                Work::CheckHeap { statement } => self.check_heap(&session, &item, statement)?,
                Work::CheckBTree(btree) => self.check_btree(&session, &item, btree)?,
            }
            open = Some((item.database, session));
        }
    }

    fn session(&self, database: usize) -> Result<Session> {
        let name = self.scan.databases.get(database).ok_or_else(|| Error::defect("an unknown database"))?;
        let session = self.scan.server.session(self.scan.user, name)?;
        session.batch(READ_ALL, Some(self.scan.runner.remaining()))?;
        Ok(session)
    }

    /// Runs a statement. The inner error is one of the statement.
    ///
    /// # Errors
    /// When the drill has timed out or was cancelled.
    fn attempt<T>(&self, result: Result<T>) -> Result<Result<T>> {
        match result {
            Err(error) if error.kind() == Kind::Timeout => Err(error),
            Err(error) => self.scan.runner.check().map(|()| Err(error)),
            Ok(value) => Ok(Ok(value)),
        }
    }

    fn batch(&self, session: &Session, statement: &str) -> Result<Result<()>> {
        self.attempt(session.batch(statement, Some(self.scan.runner.remaining())))
    }

    /// Runs a statement that may evaluate code of the database. When that fails with the search
    /// path of the drill, the statement runs again with the one of the database.
    fn batch_with_code(&self, session: &Session, statement: &str) -> Result<Result<()>> {
        match self.batch(session, statement)? {
            Err(error) if Cause::of_code(&error) == Cause::Obstacle && session.check().is_ok() => {
                session.batch("RESET search_path", Some(self.scan.runner.remaining()))?;
                let again = self.batch(session, statement)?;
                if session.check().is_ok() {
                    session.batch("SET search_path = pg_catalog", Some(self.scan.runner.remaining()))?;
                }
                Ok(again)
            }
            done => Ok(done),
        }
    }

    fn read(&self, session: &Session, item: &Item, table: &TableScan) -> Result<()> {
        let done = if table.is_planned {
            self.batch_with_code(session, &table.statement)?
        } else {
            self.batch(session, &table.statement)?
        };
        let Err(error) = done else {
            self.bytes.fetch_add(item.bytes, Ordering::Relaxed);
            return match &table.generated {
                Some(statement) => self.read_generated(session, item, statement),
                None => Ok(()),
            };
        };
        let is_plain = table.is_builtin && !table.is_planned;
        let fallback = table.fallback.as_ref().filter(|_| session.check().is_ok());
        // A text of a value may be too large although the value is not.
        let is_too_large = error.to_string().contains(TOO_LARGE) && fallback.is_some();
        let cause = match (table.is_planned, is_plain) {
            (true, _) => Cause::of_code(&error),
            (false, true) => Cause::of_plain_read(&error),
            (false, false) => Cause::of(&error),
        };
        match cause {
            Cause::Data if !is_too_large => {
                self.found.lock().read.bad.push(self.line(item, &error));
                return Ok(());
            }
            Cause::Host => {
                self.found.lock().read.unread.push(self.line(item, &error));
                return Ok(());
            }
            Cause::Data | Cause::Obstacle => {}
        }
        let again = match fallback {
            Some(statement) => self.batch(session, statement)?,
            None => Err(error.clone()),
        };
        let mut found = self.found.lock();
        match again {
            Ok(()) if is_too_large && table.is_builtin => {}
            Ok(()) => found.read.notes.push(format!("some values of {}", self.line(item, &error))),
            Err(again) if fallback.is_some() && Cause::of_plain_read(&again) == Cause::Data => {
                found.read.bad.push(self.line(item, &again));
            }
            Err(_) => found.unread.push((item.database, item.oid, self.line(item, &error))),
        }
        Ok(())
    }

    fn read_generated(&self, session: &Session, item: &Item, statement: &str) -> Result<()> {
        if let Err(error) = self.batch_with_code(session, statement)? {
            let line = format!("generated columns of {}", self.line(item, &error));
            let mut found = self.found.lock();
            match Cause::of_code(&error) {
                Cause::Data => found.read.bad.push(line),
                Cause::Obstacle | Cause::Host => found.read.notes.push(line),
            }
        }
        Ok(())
    }

    fn check_heap(&self, session: &Session, item: &Item, statement: &str) -> Result<()> {
        let rows = self.attempt(session.text(statement, Some(self.scan.runner.remaining())))?;
        let mut found = self.found.lock();
        match rows {
            Ok(rows) if rows.is_empty() => drop(found.good.insert((item.database, item.oid))),
            Ok(rows) => {
                let rows: Vec<String> = rows.into_iter().flatten().flatten().collect();
                found.checked.bad.push(self.line(item, &rows.join("; ")));
            }
            Err(error) => self.add(&mut found.checked, item, &error, "heap "),
        }
        Ok(())
    }

    fn check_btree(&self, session: &Session, item: &Item, btree: &BTreeCheck) -> Result<()> {
        let done = if btree.has_code {
            self.batch_with_code(session, &btree.with_table)?
        } else {
            self.batch(session, &btree.with_table)?
        };
        let Err(error) = done else {
            return Ok(());
        };
        let cause = if btree.has_code { Cause::of_code(&error) } else { Cause::of(&error) };
        if cause == Cause::Obstacle && session.check().is_ok() {
            match self.batch(session, &btree.alone)? {
                Ok(()) => {
                    let line = format!("the comparison with its table of index {}", self.line(item, &error));
                    self.found.lock().checked.notes.push(line);
                }
                Err(again) => self.add_btree(session, item, btree, &again)?,
            }
            return Ok(());
        }
        self.add_btree(session, item, btree, &error)
    }

    /// Adds an error of the check of an index. Keys in a wrong order are no damage when the library
    /// that compares them is another one than on the host of the cluster.
    fn add_btree(&self, session: &Session, item: &Item, btree: &BTreeCheck, error: &Error) -> Result<()> {
        if error.to_string().contains(WRONG_ORDER) && session.check().is_ok() {
            let query =
                session.query_one(&btree.has_other_collation, &[], Some(self.scan.runner.remaining()));
            // Without the collation of this host nothing can be compared either.
            let is_other = self.attempt(query)?.and_then(|row| column(&row, 0)).unwrap_or(true);
            if is_other {
                let line = self.line(item, error);
                let line = format!("index {line}; its collation has another version on this host");
                self.found.lock().checked.notes.push(line);
                return Ok(());
            }
        }
        self.add(&mut self.found.lock().checked, item, error, "index ");
        Ok(())
    }

    /// Adds an error of a check.
    fn add(&self, findings: &mut CheckFindings, item: &Item, error: &Error, what: &str) {
        let line = format!("{what}{}", self.line(item, error));
        match Cause::of(error) {
            Cause::Data => findings.bad.push(line),
            Cause::Obstacle => findings.notes.push(line),
            Cause::Host => findings.unread.push(line),
        }
    }

    fn line(&self, item: &Item, reason: &impl std::fmt::Display) -> String {
        let database = self.scan.databases.get(item.database).map_or("", String::as_str);
        format!("{} of database {database}: {reason}", item.name)
    }
}
