//! Checks of a server that has recovered: its log, every table, the indexes, and the user's
//! assertions.

use super::log::{PROBLEMS, without_prefix};
use super::read::{self, is_missing_library, open_databases, summarize};
use super::runner::Runner;
use super::server::DrillServer;
use super::workdir::Workdir;
use crate::error::{Error, Kind, Result};
use crate::pg::client::column;
use crate::repo::drills::Check;
use std::num::NonZeroUsize;

/// Exit status of `pg_amcheck` when it found corruption.
const CORRUPT: i32 = 2;

/// Maximum number of rows of an assertion that are compared and shown.
const MAX_ROWS: usize = 100;

/// A query and the answer that it has to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    pub name: String,
    pub database: String,
    pub sql: String,
    /// Rows as lines, columns separated by `|`.
    pub expected: String,
}

/// The checks of one server.
pub struct ServerChecks<'a> {
    pub server: &'a DrillServer,
    pub workdir: &'a Workdir,
    pub runner: &'a Runner<'a>,
    /// Roles to try, in this order; not all of them need to exist.
    pub users: &'a [String],
    pub jobs: NonZeroUsize,
    pub amcheck: bool,
    pub assertions: &'a [Assertion],
}

impl ServerChecks<'_> {
    /// Performs all checks of the recovered server, except the check of the position that recovery
    /// reached. Appends their results to `done`.
    ///
    /// # Errors
    /// When the server has gone away, when the drill has timed out or was cancelled, and when a
    /// check could not be done for a reason that says nothing about the backup.
    pub fn run(&self, done: &mut Vec<Check>) -> Result<()> {
        let recovered = self.server.log()?;
        done.push(log_check("log of recovery", &recovered.problems(0, &PROBLEMS)));
        let user = self.superuser()?;
        let databases = open_databases(self.server, &user, self.runner)?;
        done.extend(self.read(&user, &databases)?);
        for assertion in self.assertions {
            done.push(self.assertion(&user, assertion)?);
        }
        let log = self.server.log()?;
        let mut problems = log.problems(recovered.len(), &["PANIC", "FATAL"]);
        let warnings = log.problems(0, &["WARNING"]);
        problems.extend(warnings.iter().filter(|line| line.contains("page verification failed")));
        done.push(log_check("log", &problems));
        Ok(())
    }

    /// Reads all tables and runs `pg_amcheck`. Both are limited by the processor, so with more than
    /// one job they run at the same time.
    fn read(&self, user: &str, databases: &[String]) -> Result<[Check; 2]> {
        let half = NonZeroUsize::new(self.jobs.get() / 2).filter(|_| self.amcheck);
        let Some(half) = half else {
            let read = self.read_tables(user, databases, self.jobs)?;
            return Ok([read, self.amcheck(user, self.jobs)?]);
        };
        std::thread::scope(|scope| {
            let amcheck = scope.spawn(|| self.amcheck(user, half));
            let rest = half.saturating_add(self.jobs.get() % 2);
            let read = self.read_tables(user, databases, rest);
            let amcheck = amcheck.join().unwrap_or_else(|_| Err(Error::defect("a check panicked")));
            Ok([read?, amcheck?])
        })
    }

    fn read_tables(&self, user: &str, databases: &[String], jobs: NonZeroUsize) -> Result<Check> {
        let read = read::read(self.server, user, databases, jobs, self.runner)?;
        if !read.bad.is_empty() {
            return Ok(Check::failed("read", summarize(&read.bad)));
        }
        if !read.untried.is_empty() {
            return Err(missing_extension(summarize(&read.untried)));
        }
        let detail = format!("{} tables of {} databases, {} bytes", read.tables, read.databases, read.bytes);
        Ok(Check::passed("read", detail))
    }

    /// Finds a superuser that may log in. Any role may query `pg_roles`.
    fn superuser(&self) -> Result<String> {
        let mut failure = Error::new(Kind::Denied, "no role of the cluster is known");
        for user in self.users {
            let rows = self.server.session(user, "template1").and_then(|session| {
                session.query(
                    "SELECT rolname::text FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1",
                    &[],
                    Some(self.runner.remaining()),
                )
            });
            match rows {
                Ok(rows) => match rows.first() {
                    Some(row) => return column(row, 0),
                    None => failure = Error::new(Kind::Denied, "no superuser of the cluster may log in"),
                },
                Err(error) => failure = error,
            }
        }
        Err(failure.hint(ROLE_HINT))
    }

    fn amcheck(&self, user: &str, jobs: NonZeroUsize) -> Result<Check> {
        let name = "amcheck";
        if !self.amcheck {
            return Ok(Check::not_done(name, "turned off in the configuration"));
        }
        let Some(program) = self.runner.programs.get("pg_amcheck") else {
            return Ok(Check::not_done(name, "pg_amcheck is not installed"));
        };
        let session = self.server.session(user, "template1")?;
        let row = session.query_one(
            "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'",
            &[],
            Some(self.runner.remaining()),
        )?;
        if column::<i64>(&row, 0)? == 0 {
            return Ok(Check::not_done(name, "the extension amcheck is not installed"));
        }
        drop(session);
        let socket = self.server.socket().to_string_lossy();
        let jobs = jobs.to_string();
        let mut arguments = vec!["--all", "--install-missing", "--heapallindexed", "--no-password"];
        arguments.extend(["--jobs", &jobs, "--host", &socket, "--port", "5432"]);
        arguments.extend(["--username", user, "--maintenance-db", "template1"]);
        let variables = [("PGOPTIONS", self.server.options())];
        let (status, output) = self.runner.run(&program, &arguments, &variables, self.workdir)?;
        match status.code() {
            Some(0) => Ok(Check::passed(name, "tables and B-trees agree, with heapallindexed")),
            Some(CORRUPT) => Ok(Check::failed(name, one_line(&output))),
            _ if is_missing_library(&output) => {
                Err(missing_extension(one_line(&output)).doing("run pg_amcheck"))
            }
            _ => Err(Error::new(Kind::Failed, one_line(&output)).doing("run pg_amcheck")),
        }
    }

    fn assertion(&self, user: &str, assertion: &Assertion) -> Result<Check> {
        let name = format!("assert {}", assertion.name);
        self.runner.check()?;
        let bound = Some(self.runner.remaining());
        let answer = self.server.session(user, &assertion.database).and_then(|session| {
            // The query runs with the search path of an ordinary session, so that it finds its
            // tables.
            session.batch("RESET search_path", bound)?;
            session.text(&assertion.sql, bound)
        });
        let rows = match answer {
            Ok(rows) => rows,
            Err(error) if error.kind() == Kind::Timeout => return Err(error),
            Err(error) if is_missing_library(&error.to_string()) => return Err(error),
            Err(error) => return Ok(Check::failed(&name, error.to_string())),
        };
        // A null is an empty text, as in the output of `psql -A`.
        let columns = |row: &Vec<Option<String>>| {
            row.iter().map(|value| value.as_deref().unwrap_or("")).collect::<Vec<_>>().join("|")
        };
        let found = rows.iter().take(MAX_ROWS).map(columns).collect::<Vec<_>>().join("\n");
        Ok(if found == assertion.expected {
            Check::passed(&name, found)
        } else {
            Check::failed(&name, format!("expected {:?}, found {found:?}", assertion.expected))
        })
    }
}

/// Hint of an error about roles.
pub const ROLE_HINT: &str =
    "name a role of the cluster that may log in: `user` in [drill] of the configuration";

fn missing_extension(message: String) -> Error {
    Error::new(Kind::Unavailable, message).hint("install the extensions of the cluster on this host")
}

/// Returns the check of a log, from the lines about problems in it.
fn log_check(name: &str, problems: &[&str]) -> Check {
    match problems.first() {
        None => Check::passed(name, "no error in it"),
        Some(line) => {
            Check::failed(name, format!("{} lines, the first: {}", problems.len(), without_prefix(line)))
        }
    }
}

/// Joins the lines of a program's output.
pub fn one_line(output: &str) -> String {
    let lines: Vec<String> =
        output.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    summarize(&lines)
}
