//! A drill from beginning to end.

use super::cause::{is_about_the_backup, is_about_the_host};
use super::check::{Assertion, ServerChecks, one_line};
use super::compare::{self, Primary};
use super::databases::Login;
use super::expect::{Expected, expect};
use super::pick::Selection;
use super::recover::{Recovering, explain_failure};
use super::runner::{POLL_INTERVAL, Runner};
use super::server::{DrillServer, unexpected_end};
use super::workdir::{self, DrillIdentity, Workdir};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::column;
use crate::pg::lsn::Lsn;
use crate::pg::programs::Programs;
use crate::pg::record::Parameters;
use crate::pg::shell::quoted;
use crate::progress::{Cancel, Progress, step, warn};
use crate::repo::Archive;
use crate::repo::branches::ServerTimeline;
use crate::repo::drills::{Check, Drill, Outcome};
use crate::restore::{
    self, Action, PlanRequest, RecoverySettings, RecoveryTarget, RestorePlan, Restored, TargetTimeline,
};
use crate::runtime::thread;
use rustix::process::{Pid, Signal};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::{Span, info_span};

/// Options of a drill.
pub struct Options {
    /// Progress of the restore.
    pub progress: Progress,
    pub cancel: Cancel,
    /// Absolute path of the directory in which the working directory is made.
    pub directory: PathBuf,
    /// Name of the cluster; a part of the working directory's name.
    pub cluster: String,
    /// Data directory of the cluster in the configuration; it is not read.
    pub pgdata: PathBuf,
    /// Directory of PostgreSQL's programs; `None` for the usual places.
    pub bin: Option<PathBuf>,
    /// Command with which the server fetches WAL, from the drilled repository alone.
    pub restore_command: String,
    /// Value of `shared_preload_libraries`: libraries that replaying the WAL needs.
    pub preload: String,
    /// Roles to try for connections, in this order; not all of them need to exist.
    pub users: Vec<String>,
    /// Databases to try for connections, besides the usual ones.
    pub databases: Vec<String>,
    pub jobs: NonZeroUsize,
    pub amcheck: bool,
    pub assertions: Vec<Assertion>,
    /// Primary to follow as a standby from the end of the archive on.
    pub compare: Option<Primary>,
    /// Whether the working directory is kept.
    pub keep: bool,
    pub timeout: Duration,
    /// Maximum time to wait for another drill of the cluster.
    pub wait: Duration,
    /// Environment variables to remove, since they would change what PostgreSQL's programs do.
    pub cleared_variables: Vec<String>,
    pub now: jiff::Timestamp,
    /// Timeline of the cluster's server.
    pub server: ServerTimeline,
    /// Twelve random hexadecimal digits.
    pub random: String,
}

impl Options {
    fn identity(&self, archive: &Archive) -> DrillIdentity<'_> {
        let system_identifier = archive.lineage().system_identifier;
        DrillIdentity { cluster: &self.cluster, system_identifier, pgdata: &self.pgdata }
    }
}

/// Result of a drill.
pub struct Drilled {
    pub drill: Drill,
    /// Error that ended the drill, or a problem beside the checks; `None` when all went well.
    pub error: Option<Error>,
    /// The working directory, if it was kept.
    pub kept: Option<PathBuf>,
}

/// Performs a drill.
///
/// # Errors
/// [`Kind::Locked`] when another drill of the cluster runs, [`Kind::Failed`] when this drill was
/// cancelled, and errors of listing the directory. Every other failure is part of the result.
pub fn run(archive: Archive, selection: &Selection, options: &Options) -> Result<Drilled> {
    if rustix::process::geteuid().is_root() {
        return Err(Error::defect("a drill as root, which starts a server"));
    }
    let _span = info_span!("drill", backup = selection.backup).entered();
    workdir::sweep(&options.directory, options.identity(&archive), options.wait)?;
    let target = target_text(&selection.target);
    let mut job = DrillJob {
        options,
        begun: Instant::now(),
        drill: Drill::begin(selection.backup.clone(), selection.chosen, target, options.now),
        kept: None,
    };
    let result = job.perform(archive, selection);
    if options.cancel.is_cancelled() {
        return Err(Error::new(Kind::Failed, "the drill was interrupted").hint("nothing was left behind"));
    }
    let DrillJob { mut drill, kept, begun, .. } = job;
    drill.outcome = match &result {
        Err(error) if is_about_the_backup(error.kind()) => Outcome::Refuted,
        _ if drill.checks.iter().any(|check| check.ok == Some(false)) => Outcome::Refuted,
        Err(_) => Outcome::Unknown,
        Ok(()) => Outcome::Proved,
    };
    drill.ended = options
        .now
        .checked_add(begun.elapsed())
        .map_err(|e| Error::new(Kind::Failed, format!("compute the end of the drill: {e}")))?;
    Ok(Drilled { drill, error: result.err(), kept })
}

/// A drill in progress.
struct DrillJob<'a> {
    options: &'a Options,
    begun: Instant,
    drill: Drill,
    kept: Option<PathBuf>,
}

impl DrillJob<'_> {
    fn perform(&mut self, archive: Archive, selection: &Selection) -> Result<()> {
        let wish = PlanRequest {
            backup: selection.backup.clone(),
            target: selection.target.clone(),
            exclusive: false,
            timeline: None,
            allow_damaged: false,
            follows_dead: true,
            server: self.options.server.clone(),
            now: self.options.now,
        };
        let mut plan = RestorePlan::make(archive, wish)?;
        if let Some(departure) = plan.departure() {
            warn(&Error::new(Kind::Problem, departure).hint("`walkeep timelines` shows the branches"));
        }
        Span::current().record("backup", plan.record.id.as_str());
        self.drill.backup = Some(plan.record.id.clone());
        self.drill.bytes = plan.record.size;
        self.drill.segments = plan.reach.segments;
        // Recovery follows the planned timeline, and not a newer one that is archived meanwhile.
        plan.timeline = if plan.history.timeline == plan.record.timeline {
            TargetTimeline::Current
        } else {
            TargetTimeline::Number(plan.history.timeline)
        };
        let options = self.options;
        let programs = Programs::find(plan.archive.lineage().major, options.bin.as_deref(), &|_, _| Ok(()))?;
        let mut workdir =
            Workdir::make(&options.directory, options.identity(&plan.archive), &options.random)?;
        let drilled = self.drill_in(&workdir, &plan, &programs);
        if options.keep && !options.cancel.is_cancelled() {
            workdir.keep()?;
            self.kept = Some(workdir.path().to_owned());
        }
        let removed = workdir.clean_up().doing("clean up");
        drilled.and(removed)
    }

    fn drill_in(&mut self, workdir: &Workdir, plan: &RestorePlan, programs: &Programs) -> Result<()> {
        let recovery = RecoverySettings {
            restore_command: self.options.restore_command.clone(),
            action: Action::Promote,
            standby: false,
            as_primary: false,
        };
        let restored = self.restore(workdir, plan, &recovery)?;
        let runner = Runner {
            programs,
            cleared_variables: &self.options.cleared_variables,
            cancel: &self.options.cancel,
            deadline: self.begun + self.options.timeout,
        };
        let mut recovering = Recovering {
            workdir,
            runner: &runner,
            preload: &self.options.preload,
            settings: recovery.settings(plan),
            raised: Parameters::default(),
        };
        recovering.configure(&[])?;
        let expected = self.verify_and_scan(workdir, plan, &runner)?;
        recovering.raised = expected.raised;
        // A server reads this file, whatever `config_file` is.
        workdir.write("data/postgresql.auto.conf", "")?;

        let (mut server, compared) = self.recover(&recovering, plan, expected)?;
        // From here on the repository is not read, so its announcement is removed.
        drop(restored);

        step("checking");
        let begun = Instant::now();
        let checked = self.check(&mut server, &runner, expected);
        self.drill.check_seconds = Some(begun.elapsed().as_secs_f64());
        let stopped = server.stop();
        checked.and(stopped).and(compared)
    }

    /// Restores the backup into the working directory.
    fn restore(
        &mut self,
        workdir: &Workdir,
        plan: &RestorePlan,
        recovery: &RecoverySettings,
    ) -> Result<Restored> {
        let begun = Instant::now();
        let moved = plan.record.tablespaces.iter().filter_map(|tablespace| {
            tablespace.tablespace.location.as_ref()?;
            let oid = tablespace.tablespace.oid.to_string();
            let new = workdir.join("tablespaces").join(&oid);
            Some((oid.into(), new))
        });
        let options = restore::Options {
            progress: self.options.progress.clone(),
            cancel: self.options.cancel.clone(),
            to: workdir.join("data"),
            tablespaces: moved.collect(),
            config_dir: None,
            jobs: self.options.jobs,
            delta: false,
            databases: Vec::new(),
            scratch: true,
            waldir: None,
            quick: true,
            has_other_repositories: false,
            allow_new_tablespaces: false,
            dry_run: false,
            foreign: Vec::new(),
            original: None,
            wait: Duration::ZERO,
            random: self.options.random.clone(),
        };
        let restored = restore::prepare(&options, plan, recovery)?.run()?;
        self.drill.restore_seconds = Some(begun.elapsed().as_secs_f64());
        self.drill.bytes = restored.bytes;
        let detail = format!("{} bytes in {} files", restored.bytes, restored.files);
        self.drill.checks.push(Check::passed("restore", detail));
        Ok(restored)
    }

    /// Runs `pg_verifybackup` while the WAL is scanned for the position that recovery has to reach.
    fn verify_and_scan(
        &mut self,
        workdir: &Workdir,
        plan: &RestorePlan,
        runner: &Runner<'_>,
    ) -> Result<Expected> {
        step("verifying, and reading the WAL");
        let (expected, verified) = thread::scope(|scope| {
            let verified = scope.spawn("verify", || verify(workdir, runner))?;
            let expected = expect(plan, &|| self.options.cancel.is_cancelled());
            expected.map(|expected| (expected, verified.join()))
        })?;
        self.drill.expected_lsn = Some(expected.lsn);
        self.drill.checks.push(verified??);
        Ok(expected)
    }

    /// Recovers to the target. With a comparison, first recovers to the end of the archive, from
    /// the archive alone, and then follows the primary. The second value is an error when archive
    /// and primary could not be compared.
    fn recover(
        &mut self,
        recovering: &Recovering<'_>,
        plan: &RestorePlan,
        expected: Expected,
    ) -> Result<(DrillServer, Result<()>)> {
        let name = "compare";
        step("recovering");
        let begun = Instant::now();
        let primary = self.options.compare.as_ref();
        let Some((primary, last)) = primary.filter(|_| plan.target == RecoveryTarget::End).zip(expected.last)
        else {
            let server = recovering.run()?;
            self.drill.recovery_seconds = Some(begun.elapsed().as_secs_f64());
            if primary.is_some() {
                let reason = "recovery does not go to the end of the archive";
                self.drill.checks.push(Check::not_done(name, reason));
            }
            return Ok((server, Ok(())));
        };
        recovering.to_record(last)?;
        self.drill.recovery_seconds = Some(begun.elapsed().as_secs_f64());
        step("following the primary");
        let error = match compare::follow(recovering, primary, plan, expected.least, &self.options.random) {
            Ok((server, Ok(detail))) => {
                self.drill.checks.push(Check::passed(name, detail));
                return Ok((server, Ok(())));
            }
            Ok((server, Err(error))) => {
                self.drill.checks.push(Check::not_done(name, error.to_string()));
                return Ok((server, Err(error.doing("compare with the primary"))));
            }
            Err(error) => error,
        };
        recovering.runner.check()?;
        let (check, compared) = if is_about_the_backup(error.kind()) {
            (Check::failed(name, error.to_string()), Ok(()))
        } else {
            (Check::not_done(name, error.to_string()), Err(error.doing("compare with the primary")))
        };
        self.drill.checks.push(check);
        // The backup can be checked without the primary.
        Ok((recovering.run()?, compared))
    }

    /// Checks the position that recovery reached, and everything in the server.
    fn check(&mut self, server: &mut DrillServer, runner: &Runner<'_>, expected: Expected) -> Result<()> {
        let options = self.options;
        let login = Login { users: &options.users, databases: &options.databases };
        let reached = reached(server, login, runner)?;
        self.drill.reached_lsn = Some(reached);
        self.drill.checks.push(if expected.is_met_by(reached) {
            Check::passed("recovery", format!("reached {reached}, expected {}", expected.lsn))
        } else {
            let end = expected.lsn;
            let seam = expected.seam.map_or_else(String::new, |seam| {
                format!(
                    "; segment {} does not continue the WAL before it, which ends at {}",
                    seam.segment, seam.at
                )
            });
            let detail =
                format!("reached {reached}, the archive ends at {end}: the WAL between them is lost{seam}");
            if let Some(problem) = server.log()?.last_line(is_about_the_host) {
                let message = format!("recovery reached {reached} and not {end}: {problem}");
                return Err(
                    Error::new(Kind::Unavailable, message).hint("the cause is this host: its disk or memory")
                );
            }
            Check::failed("recovery", detail)
        });
        let pid = server.pid();
        let checks = ServerChecks {
            server,
            runner,
            login,
            jobs: options.jobs,
            amcheck: options.amcheck,
            assertions: &options.assertions,
        };
        let mut done = Vec::new();
        let result = with_watchdog(pid, runner, || checks.run(&mut done));
        self.drill.checks.append(&mut done);
        match result {
            Err(_) if runner.check().is_err() => runner.check(),
            result => match server.ended()? {
                // A server that goes away while it is read is a finding.
                Some(status) => Err(explain_failure(unexpected_end(status), server)),
                None => result,
            },
        }
    }
}

/// Does `work`, and meanwhile stops the server when the drill is cancelled or has timed out, which
/// ends long statements too.
fn with_watchdog<T>(server: Option<Pid>, runner: &Runner<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = || {
            while !is_over.load(Ordering::Relaxed) {
                if let (Some(pid), Err(_)) = (server, runner.check()) {
                    let _ = rustix::process::kill_process(pid, Signal::QUIT);
                    return;
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        };
        let watching = scope.spawn("watchdog", watch)?;
        let result = work();
        is_over.store(true, Ordering::Relaxed);
        watching.join().and(result)
    })
}

/// Runs PostgreSQL's own check of a backup, before a server changes the files.
fn verify(workdir: &Workdir, runner: &Runner<'_>) -> Result<Check> {
    let name = "pg_verifybackup";
    let Some(program) = runner.programs.get(name) else {
        return Ok(Check::not_done(name, "not installed"));
    };
    let mut arguments = vec!["--quiet", "data"];
    // It starts pg_waldump through a shell, by the path of its directory and that of the WAL.
    let is_plain = |path: PathBuf| path.to_str().is_some_and(|path| quoted(path) == path);
    if !runner.programs.get("pg_waldump").is_some_and(is_plain) {
        arguments.insert(0, "--no-parse-wal");
    }
    let (status, output) = runner.run(&program, &arguments, workdir)?;
    match status.code() {
        Some(0) => Ok(Check::passed(name, "all files are as they were backed up")),
        Some(1) if !is_about_the_host(&output) => Ok(Check::failed(name, one_line(&output))),
        _ => Err(Error::new(Kind::Unavailable, format!("{status}: {}", one_line(&output)))
            .doing("run pg_verifybackup")),
    }
}

/// Queries the position at which the server ended recovery.
fn reached(server: &DrillServer, login: Login<'_>, runner: &Runner<'_>) -> Result<Lsn> {
    let row = login.session(server)?.query_one(
        "SELECT pg_last_wal_replay_lsn()::text, pg_is_in_recovery()",
        &[],
        Some(runner.remaining()),
    )?;
    if column::<bool>(&row, 1)? {
        return Err(Error::new(Kind::Problem, "the server is still in recovery"));
    }
    column::<String>(&row, 0)?.parse()
}

fn target_text(target: &RecoveryTarget) -> String {
    match target {
        RecoveryTarget::End => "end".to_owned(),
        RecoveryTarget::Immediate => "immediate".to_owned(),
        RecoveryTarget::Time(time) => time.to_string(),
        RecoveryTarget::Lsn(lsn) => lsn.to_string(),
        RecoveryTarget::Xid(xid) => format!("transaction {xid}"),
        RecoveryTarget::Name(name) => name.clone(),
    }
}
