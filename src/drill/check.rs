//! Checks of a server that has recovered: its log, every table, the indexes, and the user's
//! assertions.

use super::cause::{Cause, ENCODING_CODES, is_missing_here};
use super::databases::{Login, open_databases};
use super::findings::{CheckFindings, summarize};
use super::log::{LogProblem, PROBLEMS};
use super::runner::Runner;
use super::scan::Scan;
use super::server::DrillServer;
use crate::error::{Error, Kind, Result};
use crate::pg::client::{Session, column};
use crate::repo::drills::Check;
use std::num::NonZeroUsize;

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

/// SQLSTATEs of an assertion that could not be evaluated for a reason that says nothing about the
/// backup: a syntax error, and locks.
const NOT_EVALUATED: [&str; 3] = ["42601", "55P03", "40P01"];

/// SQLSTATEs of a table, function, object or schema that is not found.
const NOT_FOUND: [&str; 4] = ["42P01", "42883", "42704", "3F000"];

/// The checks of one server.
pub struct ServerChecks<'a> {
    pub server: &'a DrillServer,
    pub runner: &'a Runner<'a>,
    pub login: Login<'a>,
    pub jobs: NonZeroUsize,
    pub amcheck: bool,
    pub assertions: &'a [Assertion],
}

impl ServerChecks<'_> {
    /// Performs all checks of the recovered server, except the check of the position that recovery
    /// reached. Appends their results to `done`.
    ///
    /// # Errors
    /// When the server has gone away, when the drill has timed out or was cancelled, and when
    /// something could not be read for a reason that says nothing about the backup.
    pub fn run(&self, done: &mut Vec<Check>) -> Result<()> {
        let recovered = self.server.log()?;
        let mut unknown = Vec::new();
        done.push(log_check("log of recovery", &recovered.problems(0, &PROBLEMS), &mut unknown));
        let (user, session) = self.login.superuser(self.server, self.runner)?;
        let databases = open_databases(&session, self.runner)?;
        let amcheck = self.amcheck_obstacle(&session)?;
        drop(session);
        let scan = Scan {
            server: self.server,
            user: &user,
            databases: &databases,
            jobs: self.jobs,
            amcheck: amcheck.is_none(),
            runner: self.runner,
        };
        let scanned = scan.run()?;
        let (tables, bytes) = (scanned.tables, scanned.bytes);
        let detail = format!("{tables} tables of {} databases, {bytes} bytes", databases.len());
        add("read", detail, scanned.read, done, &mut unknown);
        match amcheck {
            Some(reason) => done.push(Check::not_done("amcheck", reason)),
            None => {
                let detail = format!("tables and {} B-trees agree, with heapallindexed", scanned.btrees);
                add("amcheck", detail, scanned.checked, done, &mut unknown);
            }
        }
        for assertion in self.assertions {
            done.push(self.assertion(&user, assertion, &mut unknown)?);
        }
        let log = self.server.log()?;
        let mut problems = log.problems(recovered.len(), &["PANIC", "FATAL"]);
        // Sessions have reported these, with what they kept from being read.
        problems.retain(|problem| Cause::of_problem(problem) == Cause::Data);
        let mut warnings = log.problems(0, &["WARNING"]);
        warnings.retain(|problem| problem.text.contains("page verification failed"));
        problems.append(&mut warnings);
        done.push(log_check("log", &problems, &mut unknown));
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Unavailable, summarize(&unknown))
            .hint("the cause may be this host and not the backup: install the extensions of the cluster here, and free memory and disk"))
    }

    /// Reason why nothing can be checked with amcheck; `None` if it can.
    fn amcheck_obstacle(&self, session: &Session) -> Result<Option<&'static str>> {
        if !self.amcheck {
            return Ok(Some("turned off in the configuration"));
        }
        let row = session.query_one(
            "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'",
            &[],
            Some(self.runner.remaining()),
        )?;
        Ok((column::<i64>(&row, 0)? == 0).then_some("the extension amcheck is not installed"))
    }

    fn assertion(&self, user: &str, assertion: &Assertion, unknown: &mut Vec<String>) -> Result<Check> {
        let name = format!("assert {}", assertion.name);
        self.runner.check()?;
        let bound = Some(self.runner.remaining());
        let answer = self.server.session(user, &assertion.database).and_then(|session| {
            // The query runs with the search path of an ordinary session, so that it finds its
            // tables. The role may have one of its own.
            session.batch("RESET search_path", bound)?;
            match session.text(&assertion.sql, bound) {
                Err(error) if error.sqlstate().is_some_and(|code| NOT_FOUND.contains(&code)) => {
                    let usual = session.batch("SET search_path = \"$user\", public", bound);
                    usual.and_then(|()| session.text(&assertion.sql, bound)).or(Err(error))
                }
                answer => answer,
            }
        });
        let rows = match answer {
            Ok(rows) => rows,
            Err(error) if error.kind() == Kind::Timeout => return Err(error),
            Err(error) => {
                self.runner.check()?;
                let code = error.sqlstate().unwrap_or("");
                let is_unknown = Cause::of(&error) == Cause::Host
                    || is_missing_here(&error.to_string())
                    || NOT_EVALUATED.contains(&code)
                    || ENCODING_CODES.contains(&code);
                if is_unknown {
                    unknown.push(format!("{name}: {error}"));
                    return Ok(Check::not_done(&name, error.to_string()));
                }
                // An assertion holds only with an answer: what it names is missing.
                return Ok(Check::failed(&name, error.to_string()));
            }
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

/// Adds the checks for findings: one that failed or passed, and one for what was not checked.
/// Appends what could not be read to `unknown`.
fn add(name: &str, detail: String, found: CheckFindings, done: &mut Vec<Check>, unknown: &mut Vec<String>) {
    let CheckFindings { bad, notes, unread } = found;
    done.push(match (bad.is_empty(), unread.is_empty()) {
        (false, _) => Check::failed(name, summarize(&bad)),
        (true, false) => Check::not_done(name, summarize(&unread)),
        (true, true) => Check::passed(name, detail),
    });
    if !notes.is_empty() {
        done.push(Check::not_done(&format!("{name} in part"), summarize(&notes)));
    }
    unknown.extend(unread);
}

/// Returns the check of a log, from the problems in it. Appends those of this host to `unknown`.
fn log_check(name: &str, problems: &[LogProblem], unknown: &mut Vec<String>) -> Check {
    let of = |cause| -> Vec<String> {
        // Sessions that were refused have been reported with what they kept from being read.
        let is_shown = |problem: &LogProblem| cause != Cause::Obstacle || !problem.text.starts_with("FATAL");
        let problems =
            problems.iter().filter(|problem| Cause::of_problem(problem) == cause && is_shown(problem));
        problems.map(|problem| problem.text.clone()).collect()
    };
    let (data, host, obstacles) = (of(Cause::Data), of(Cause::Host), of(Cause::Obstacle));
    if let Some(first) = data.first() {
        return Check::failed(name, format!("{} lines, the first: {first}", data.len()));
    }
    if !host.is_empty() {
        let check = Check::not_done(name, summarize(&host));
        unknown.extend(host);
        return check;
    }
    if obstacles.is_empty() {
        Check::passed(name, "no error in it")
    } else {
        Check::passed(name, format!("no error about data; {}", summarize(&obstacles)))
    }
}

/// Joins the lines of a program's output.
pub fn one_line(output: &str) -> String {
    let lines: Vec<String> =
        output.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    summarize(&lines)
}
