//! A drill from beginning to end.

use super::check::{Checks, failed, lines, not_done, passed};
use super::compare::{self, Primary};
use super::expect::{Expected, expect};
use super::pick::Choice;
use super::place::{self, Place};
use super::recover::{Recovering, why_not};
use super::server::{Server, Surroundings};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::column;
use crate::pg::lsn::Lsn;
use crate::pg::programs::Programs;
use crate::progress::{self, Cancel, Progress};
use crate::repo::Archive;
use crate::repo::drills::{Check, Drill, Outcome};
use crate::restore::{self, Action, Plan, Recovery, Target, TargetTimeline, Wish};
use rustix::process::Signal;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::{Span, info_span};

/// How often it is asked whether the drill is to end.
const POLL: Duration = Duration::from_millis(50);

/// A socket's path has 107 bytes; this is what stands behind its directory.
const SOCKET: (usize, &str) = (107, "socket/.s.PGSQL.5432");

/// What has to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    pub name: String,
    pub database: String,
    pub sql: String,
    /// Rows as lines, columns divided by `|`.
    pub expected: String,
}

pub struct Options {
    /// Progress of the restore.
    pub progress: Progress,
    pub cancel: Cancel,
    /// Where the scratch directory is made; absolute.
    pub directory: PathBuf,
    /// A part of its name.
    pub cluster: String,
    /// Where the programs of PostgreSQL are, when that is not where they usually are.
    pub bin: Option<PathBuf>,
    /// How the server fetches WAL, from this repository alone.
    pub restore_command: String,
    /// Libraries without which the WAL cannot be replayed.
    pub preload: String,
    /// Roles of the cluster that may exist.
    pub users: Vec<String>,
    pub jobs: NonZeroUsize,
    pub amcheck: bool,
    pub assertions: Vec<Assertion>,
    /// Follow this one as a standby from the end of the archive on.
    pub compare: Option<Primary>,
    /// Leave the scratch directory for a look.
    pub keep: bool,
    pub timeout: Duration,
    /// For how long to wait for another drill of the cluster.
    pub wait: Duration,
    /// Variables of the environment that would steer PostgreSQL's programs.
    pub forgotten: Vec<String>,
    pub now: jiff::Timestamp,
    /// Twelve random hexadecimal digits.
    pub random: String,
}

/// A drill under way: what is found goes into `drill`.
pub struct Run<'a> {
    options: &'a Options,
    begun: Instant,
    pub drill: Drill,
    /// Why it could not be found out, or what is wrong besides the checks.
    pub error: Option<Error>,
    /// What was left for a look.
    pub kept: Option<PathBuf>,
}

impl<'a> Run<'a> {
    /// Does all of it. Fails, without an outcome, when another drill runs, or when it was interrupted.
    pub fn new(archive: Archive, choice: &Choice, options: &'a Options) -> Result<Run<'a>> {
        let _span = info_span!("drill", backup = choice.backup).entered();
        place::sweep(&options.directory, &options.cluster, options.wait)?;
        let mut run = Run {
            options,
            begun: Instant::now(),
            drill: Drill {
                backup: choice.backup.clone(),
                chosen: choice.chosen,
                target: describe(&choice.target),
                outcome: Outcome::Unknown,
                host: crate::repo::process::host(),
                begun: options.now,
                ended: options.now,
                bytes: 0,
                segments: 0,
                expected_lsn: None,
                reached_lsn: None,
                restore_seconds: None,
                recovery_seconds: None,
                check_seconds: None,
                checks: Vec::new(),
            },
            error: None,
            kept: None,
        };
        let result = run.drill(archive, choice);
        if options.cancel.is_cancelled() {
            return Err(Error::new(Kind::Failed, "it was interrupted").hint("nothing was left behind"));
        }
        run.drill.outcome = match &result {
            Err(error) if is_about_the_backup(error.kind()) => Outcome::Refuted,
            _ if run.drill.checks.iter().any(|check| check.ok == Some(false)) => Outcome::Refuted,
            Err(_) => Outcome::Unknown,
            Ok(()) => Outcome::Proved,
        };
        run.error = result.err();
        let took = jiff::SignedDuration::try_from(run.begun.elapsed()).unwrap_or_default();
        run.drill.ended = options.now.checked_add(took).unwrap_or(options.now);
        Ok(run)
    }

    fn step(&self, step: &str) {
        progress::step(step);
    }

    fn drill(&mut self, archive: Archive, choice: &Choice) -> Result<()> {
        let wish = Wish {
            backup: choice.backup.clone(),
            target: choice.target.clone(),
            timeline: None,
            allow_damaged: false,
        };
        let mut plan = Plan::make(archive, wish)?;
        let record = plan.record.clone();
        Span::current().record("backup", record.id.as_str());
        self.drill.backup = Some(record.id.clone());
        self.drill.bytes = record.size;
        self.drill.segments = plan.reach.segments;
        // Not another one that appears meanwhile.
        plan.timeline = match plan.history.timeline == record.timeline {
            true => TargetTimeline::Current,
            false => TargetTimeline::Number(plan.history.timeline),
        };
        let programs = Programs::find(plan.archive.lineage().major, self.options.bin.as_deref())?;
        self.check_socket()?;
        let mut place = Place::make(&self.options.directory, &self.options.cluster, &self.options.random)?;
        let drilled = self.drill_in(&place, &plan, &programs);
        if self.options.keep && !self.options.cancel.is_cancelled() {
            place.keep()?;
            self.kept = Some(place.path().to_owned());
        }
        let removed = place.remove().doing(|| "clean up".to_owned());
        drilled.and(removed)
    }

    fn check_socket(&self) -> Result<()> {
        let name = format!("walkeep-drill-{}-{}", self.options.cluster, self.options.random);
        let socket = self.options.directory.join(name).join(SOCKET.1);
        if socket.as_os_str().len() <= SOCKET.0 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Config,
            format!("the path of a socket in {} is too long", self.options.directory.display()),
        )
        .hint("choose a directory with a shorter path: `directory` in [drill] of the configuration"))
    }

    fn drill_in(&mut self, place: &Place, plan: &Plan, programs: &Programs) -> Result<()> {
        let recovery = Recovery {
            restore_command: self.options.restore_command.clone(),
            action: Action::Promote,
            exclusive: false,
            standby: false,
            as_primary: false,
        };
        let restored = self.restore(place, plan, &recovery)?;
        let data = place.join("data");
        let owner = data.metadata().doing(|| format!("look at {}", data.display()))?;
        let surroundings = Surroundings {
            programs,
            user: nix::unistd::geteuid().is_root().then_some((owner.uid(), owner.gid())),
            forgotten: &self.options.forgotten,
            cancel: &self.options.cancel,
            until: self.begun + self.options.timeout,
        };
        let recovering = Recovering {
            place,
            surroundings: &surroundings,
            preload: &self.options.preload,
            settings: recovery.settings(plan),
        };
        recovering.configure(&[])?;
        self.step("verifying, and reading the WAL");
        let (expected, verified) = std::thread::scope(|scope| {
            let verified = scope.spawn(|| verify(place, &surroundings));
            let expected = expect(plan, &|| self.options.cancel.is_cancelled());
            (expected, verified.join())
        });
        let expected = expected?;
        self.drill.expected_lsn = Some(expected.lsn);
        let verified = verified.unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a verification panicked")));
        self.drill.checks.push(verified?);
        // The server would read this one, whatever its configuration file is.
        let own = data.join("postgresql.auto.conf");
        std::fs::write(&own, "").doing(|| format!("empty {}", own.display()))?;

        let (mut server, compared) = self.recover(&recovering, plan, expected)?;
        // Nothing more is read from the repository.
        drop(restored);

        self.step("checking");
        let begun = Instant::now();
        let checked = self.check(&mut server, place, &surroundings, expected);
        self.drill.check_seconds = Some(begun.elapsed().as_secs_f64());
        let stopped = server.stop();
        checked.and(stopped).and(compared)
    }

    /// Recovers to the target. With a comparison first to the end of the archive, by that alone, and from there on with
    /// the primary; whether that could be compared is the second value.
    fn recover(
        &mut self,
        recovering: &Recovering<'_>,
        plan: &Plan,
        expected: Expected,
    ) -> Result<(Server, Result<()>)> {
        let name = "compare";
        self.step("recovering");
        let begun = Instant::now();
        let primary = self.options.compare.as_ref();
        let Some((primary, last)) = primary.filter(|_| plan.target == Target::End).zip(expected.last) else {
            let server = recovering.run()?;
            self.drill.recovery_seconds = Some(begun.elapsed().as_secs_f64());
            if primary.is_some() {
                let why = "recovery does not go to the end of the archive";
                self.drill.checks.push(not_done(name, why));
            }
            return Ok((server, Ok(())));
        };
        recovering.to_record(last)?;
        self.drill.recovery_seconds = Some(begun.elapsed().as_secs_f64());
        self.step("following the primary");
        let error = match compare::follow(recovering, primary, plan, expected.least, &self.options.random) {
            Ok((server, Ok(detail))) => {
                self.drill.checks.push(passed(name, detail));
                return Ok((server, Ok(())));
            }
            Ok((server, Err(error))) => {
                self.drill.checks.push(not_done(name, error.to_string()));
                return Ok((server, Err(error)));
            }
            Err(error) => error,
        };
        recovering.surroundings.check()?;
        let is_refuted = is_about_the_backup(error.kind());
        let (check, compared) = match is_refuted {
            true => (failed(name, error.to_string()), Ok(())),
            false => (not_done(name, error.to_string()), Err(error.doing("compare with the primary"))),
        };
        self.drill.checks.push(check);
        // What the backup itself is worth can be found out all the same.
        Ok((recovering.run()?, compared))
    }

    fn restore(&mut self, place: &Place, plan: &Plan, recovery: &Recovery) -> Result<restore::Restored> {
        let begun = Instant::now();
        let moved = plan.record.tablespaces.iter().filter_map(|tablespace| {
            tablespace.tablespace.location.as_ref()?;
            let oid = tablespace.tablespace.oid.to_string();
            let new = place.join("tablespaces").join(&oid);
            Some((oid.into(), new))
        });
        let options = restore::Options {
            progress: self.options.progress.clone(),
            cancel: self.options.cancel.clone(),
            to: place.join("data"),
            tablespaces: moved.collect(),
            config_dir: None,
            jobs: self.options.jobs,
            delta: false,
            databases: Vec::new(),
            scratch: true,
            foreign: Vec::new(),
            wait: Duration::ZERO,
            random: self.options.random.clone(),
        };
        let restored = restore::run(&options, plan, recovery)?;
        let seconds = begun.elapsed().as_secs_f64();
        self.drill.restore_seconds = Some(seconds);
        self.drill.bytes = restored.bytes;
        self.drill
            .checks
            .push(passed("restore", format!("{} bytes in {} files", restored.bytes, restored.files)));
        Ok(restored)
    }

    fn check(
        &mut self,
        server: &mut Server,
        place: &Place,
        surroundings: &Surroundings<'_>,
        expected: Expected,
    ) -> Result<()> {
        let options = self.options;
        let reached = reached(server, &options.users, surroundings)?;
        self.drill.reached_lsn = Some(reached);
        self.drill.checks.push(match expected.is_met_by(reached) {
            true => passed("recovery", format!("reached {reached}, {} was expected", expected.lsn)),
            false => failed(
                "recovery",
                format!(
                    "reached {reached}, the archive leads to {}: what lies between is lost",
                    expected.lsn
                ),
            ),
        });
        let mut done = Vec::new();
        let pid = server.pid();
        let checks = Checks {
            server,
            place,
            surroundings,
            users: &options.users,
            jobs: options.jobs,
            amcheck: options.amcheck,
            assertions: &options.assertions,
        };
        // Statements take long: a server that ends makes them end too.
        let over = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if let (Some(pid), Err(_)) = (pid, surroundings.check()) {
                        let _ = rustix::process::kill_process(pid, Signal::QUIT);
                        return;
                    }
                    std::thread::sleep(POLL);
                }
            });
            let result = checks.run(&mut done);
            over.store(true, Ordering::Relaxed);
            result
        });
        self.drill.checks.append(&mut done);
        match result {
            Err(_) if surroundings.check().is_err() => surroundings.check(),
            // A server that goes away while it is read is a finding.
            Err(error) => match server.ended() {
                Ok(Some(_)) => Err(why_not(error.with_kind(Kind::Problem), server)),
                _ => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }
}

/// PostgreSQL's own word for what was restored, before a server changes it.
fn verify(place: &Place, surroundings: &Surroundings<'_>) -> Result<Check> {
    let name = "pg_verifybackup";
    let Some(program) = surroundings.programs.get(name) else {
        return Ok(not_done(name, "it is not installed"));
    };
    let data = place.join("data");
    let data = data.to_string_lossy();
    let mut arguments = vec!["--quiet", &data];
    if surroundings.programs.get("pg_waldump").is_none() {
        arguments.insert(0, "--no-parse-wal");
    }
    let (status, said) = surroundings.run(&program, &arguments, &[], place)?;
    Ok(match status.success() {
        true => passed(name, "all files are as they were backed up"),
        false => failed(name, lines(&said)),
    })
}

/// Where the server is.
fn reached(server: &Server, users: &[String], surroundings: &Surroundings<'_>) -> Result<Lsn> {
    let bound = Some(surroundings.until.saturating_duration_since(Instant::now()));
    let mut failure = Error::new(Kind::Denied, "no role of the cluster is known");
    for user in users {
        let asked = server.session(user, "template1").and_then(|session| {
            let row = session.query_one(
                "SELECT pg_last_wal_replay_lsn()::text, pg_is_in_recovery()",
                &[],
                bound,
            )?;
            if column::<bool>(&row, 1)? {
                return Err(Error::new(Kind::Problem, "the server is still in recovery"));
            }
            column::<String>(&row, 0)?.parse()
        });
        match asked {
            Ok(lsn) => return Ok(lsn),
            Err(error) => failure = error,
        }
    }
    Err(failure.hint("name a role of the cluster that may log in: `user` in [drill] of the configuration"))
}

/// Whether such an error says that the backup, or the WAL, is not what it should be.
fn is_about_the_backup(kind: Kind) -> bool {
    matches!(kind, Kind::Problem | Kind::Damage | Kind::Hole)
}

fn describe(target: &Target) -> String {
    match target {
        Target::End => "end".to_owned(),
        Target::Immediate => "immediate".to_owned(),
        Target::Time(time) => time.to_string(),
        Target::Lsn(lsn) => lsn.to_string(),
        Target::Xid(xid) => format!("transaction {xid}"),
        Target::Name(name) => name.clone(),
    }
}
