//! What is looked at once the server has recovered: its log, every page, the indexes, and what the user wants to be so.

use super::place::Place;
use super::read::{self, is_missing_library, open_databases, told};
use super::run::Assertion;
use super::server::{Server, Surroundings, short};
use crate::error::{Error, Kind, Result};
use crate::pg::client::column;
use crate::repo::drills::Check;
use std::num::NonZeroUsize;
use std::time::Instant;

/// `pg_amcheck` ends with this when it found something.
const CORRUPT: i32 = 2;

/// Rows of an assertion that are compared and shown.
const ROWS: usize = 100;

pub fn passed(name: &str, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), ok: Some(true), detail: detail.into() }
}

pub fn failed(name: &str, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), ok: Some(false), detail: detail.into() }
}

pub fn not_done(name: &str, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), ok: None, detail: detail.into() }
}

/// The checks of a server that has recovered.
pub struct Checks<'a> {
    pub server: &'a Server,
    pub place: &'a Place,
    pub surroundings: &'a Surroundings<'a>,
    /// Roles that may exist.
    pub users: &'a [String],
    pub jobs: NonZeroUsize,
    pub amcheck: bool,
    pub assertions: &'a [Assertion],
}

impl Checks<'_> {
    /// Everything but recovery itself, which was looked at before. Ends early only when the server is gone, the time
    /// is over or somebody wants it to end.
    pub fn run(&self, done: &mut Vec<Check>) -> Result<()> {
        let recovered = self.server.log()?;
        done.push(log_of_recovery(&recovered.problems(0, &["ERROR", "FATAL", "PANIC"])));
        let user = self.superuser()?;
        let databases = open_databases(self.server, &user, self.surroundings)?;
        done.extend(self.read(&user, &databases)?);
        for assertion in self.assertions {
            done.push(self.assertion(&user, assertion)?);
        }
        let log = self.server.log()?;
        let mut problems = log.problems(recovered.len(), &["PANIC", "FATAL"]);
        problems.extend(
            log.problems(0, &["WARNING"]).iter().filter(|line| line.contains("page verification failed")),
        );
        done.push(match problems.first() {
            None => passed("log", "nothing that should not be there"),
            Some(line) => failed("log", format!("{} lines, the first: {}", problems.len(), short(line))),
        });
        Ok(())
    }

    /// Reads everything, and lets `pg_amcheck` look at it; both are work for a processor each, so with more than one
    /// job they go side by side.
    fn read(&self, user: &str, databases: &[String]) -> Result<[Check; 2]> {
        let half = NonZeroUsize::new(self.jobs.get() / 2).filter(|_| self.amcheck);
        let Some(half) = half else {
            let read = self.read_tables(user, databases, self.jobs)?;
            return Ok([read, self.amcheck(user, self.jobs)?]);
        };
        std::thread::scope(|scope| {
            let amcheck = scope.spawn(|| self.amcheck(user, half));
            let rest = NonZeroUsize::new(self.jobs.get() - half.get()).unwrap_or(half);
            let read = self.read_tables(user, databases, rest);
            let amcheck =
                amcheck.join().unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a check panicked")));
            Ok([read?, amcheck?])
        })
    }

    fn read_tables(&self, user: &str, databases: &[String], jobs: NonZeroUsize) -> Result<Check> {
        let read = read::read(self.server, user, databases, jobs, self.surroundings)?;
        let detail = format!("{} tables of {} databases, {} bytes", read.tables, read.databases, read.bytes);
        Ok(match (read.bad.is_empty(), read.untold.is_empty()) {
            (true, true) => passed("read", detail),
            (false, _) => failed("read", told(&read.bad)),
            (true, false) => Err(Error::new(Kind::Unavailable, told(&read.untold))
                .hint("install the extensions of the cluster on this machine"))?,
        })
    }

    /// A superuser that may log in. Any role can ask who that is.
    fn superuser(&self) -> Result<String> {
        let mut failure = None;
        for user in self.users {
            let asked = self.server.session(user, "template1").and_then(|session| {
                session.query(
                    "SELECT rolname::text FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1",
                    &[],
                    Some(self.surroundings.until.saturating_duration_since(Instant::now())),
                )
            });
            match asked {
                Ok(rows) => match rows.first() {
                    Some(row) => return column(row, 0),
                    None => {
                        failure = Some(Error::new(Kind::Denied, "no superuser of the cluster may log in"))
                    }
                },
                Err(error) => failure = Some(error),
            }
        }
        let error = failure.unwrap_or_else(|| Error::new(Kind::Denied, "no role is known"));
        Err(error.hint("name a role of the cluster that may log in: `user` in [drill] of the configuration"))
    }

    fn amcheck(&self, user: &str, jobs: NonZeroUsize) -> Result<Check> {
        let name = "amcheck";
        if !self.amcheck {
            return Ok(not_done(name, "turned off in the configuration"));
        }
        let Some(program) = self.surroundings.programs.get("pg_amcheck") else {
            return Ok(not_done(name, "pg_amcheck is not installed"));
        };
        let session = self.server.session(user, "template1")?;
        let row = session.query_one(
            "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'",
            &[],
            Some(self.surroundings.until.saturating_duration_since(Instant::now())),
        )?;
        if column::<i64>(&row, 0)? == 0 {
            return Ok(not_done(name, "the extension amcheck is not installed"));
        }
        drop(session);
        let socket = self.server.socket().to_string_lossy();
        let jobs = jobs.to_string();
        let arguments = [
            "--all",
            "--install-missing",
            "--heapallindexed",
            "--jobs",
            &jobs,
            "--no-password",
            "--host",
            &socket,
            "--port",
            "5432",
            "--username",
            user,
            "--maintenance-db",
            "template1",
        ];
        let (status, said) = self.surroundings.run(
            &program,
            &arguments,
            &[("PGOPTIONS", self.server.options())],
            self.place,
        )?;
        Ok(match status.code() {
            Some(0) => passed(name, "tables and B-trees agree, with heapallindexed"),
            Some(CORRUPT) => failed(name, lines(&said)),
            _ if is_missing_library(&said) => Err(Error::new(Kind::Unavailable, lines(&said))
                .doing("run pg_amcheck")
                .hint("install the extensions of the cluster on this machine"))?,
            _ => Err(Error::new(Kind::Failed, lines(&said)).doing("run pg_amcheck"))?,
        })
    }

    fn assertion(&self, user: &str, assertion: &Assertion) -> Result<Check> {
        let name = format!("assert {}", assertion.name);
        self.surroundings.check()?;
        let bound = Some(self.surroundings.until.saturating_duration_since(Instant::now()));
        let answer = self.server.session(user, &assertion.database).and_then(|session| {
            // As a session of the user would find its tables.
            session.batch("RESET search_path", bound)?;
            session.text(&assertion.sql, bound)
        });
        Ok(match answer {
            Ok(rows) => {
                let rows: Vec<String> = rows
                    .iter()
                    .take(ROWS)
                    .map(|row| {
                        row.iter()
                            .map(|value| value.as_deref().unwrap_or_default())
                            .collect::<Vec<_>>()
                            .join("|")
                    })
                    .collect();
                let found = rows.join("\n");
                match found == assertion.expected {
                    true => passed(&name, found),
                    false => failed(
                        &name,
                        format!("{:?} was expected, the answer is {found:?}", assertion.expected),
                    ),
                }
            }
            Err(error) if error.kind() == Kind::Timeout => return Err(error),
            Err(error) if is_missing_library(&error.to_string()) => return Err(error),
            Err(error) => failed(&name, error.to_string()),
        })
    }
}

/// Recovery writes what it stops at; only what is worse than that counts.
fn log_of_recovery(problems: &[&str]) -> Check {
    match problems.first() {
        None => passed("log of recovery", "no error in it"),
        Some(line) => {
            failed("log of recovery", format!("{} lines, the first: {}", problems.len(), short(line)))
        }
    }
}

/// What a program said, as one line.
pub fn lines(said: &str) -> String {
    let lines: Vec<String> =
        said.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    told(&lines)
}
