//! `walpush` and `walfetch`. PostgreSQL starts a process for every WAL file, so work before the
//! first byte is read is repeated for each 16 MiB of WAL.

use super::account::{self, Need};
use super::args::LogArgs;
use super::log::{self, StandardError, Verbosity};
use super::server::{self, Waiting};
use super::{exit, panics, setup, worker};
use crate::config::{ClusterConfig, Config};
use crate::error::{Error, Kind, Result};
use crate::fs::named;
use crate::pg::segment::WalName;
use crate::progress;
use crate::repo::Lineage;
use crate::runtime::thread;
use crate::wal::ahead::push::{self, PushAhead};
use crate::wal::ahead::spool::{Spool, report_unusable};
use crate::wal::ahead::{self, DeliveredSegment};
use crate::wal::fetch::{Fetch, Fetched, RetiredHistories};
use crate::wal::part::Destination;
use crate::wal::push::{Push, Pushed};
use clap::{CommandFactory, Parser, ValueEnum};
use rustix::fs::FileType;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Stores one WAL file in every repository: PostgreSQL's archive_command
#[derive(Parser)]
#[command(name = "walpush", version, after_help = PUSH_HELP)]
struct PushArgs {
    /// Configuration file [default: $WALKEEP_CONFIG, else /etc/walkeep/walkeep.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Cluster in the configuration [default: the one whose pgdata is the working directory]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    log: LogArgs,
    /// Path of the WAL file, as PostgreSQL gives it: %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

const PUSH_HELP: &str = "\
In postgresql.conf:
  archive_mode = on
  archive_command = 'walpush %p'

Exit status:
  0      the file is durable in every required repository
  1-125  it is not; PostgreSQL keeps the file and tries again";

/// Delivers one WAL file, verified: PostgreSQL's restore_command
#[derive(Parser)]
#[command(name = "walfetch", version, after_help = FETCH_HELP)]
struct FetchArgs {
    /// Configuration file [default: $WALKEEP_CONFIG, else /etc/walkeep/walkeep.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Cluster in the configuration [default: the one whose pgdata is the working directory]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    log: LogArgs,
    /// Use only this repository, and fetch nothing ahead, as a drill does
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Deliver the histories of retired timelines too, as `walkeep restore --timeline` and a drill
    /// need them
    #[arg(long)]
    retired: bool,
    /// Exit status when the archive cannot be read [default: retry in a standby, abort otherwise]
    #[arg(long, value_name = "WHAT")]
    on_error: Option<OnError>,
    /// Fetch the segments after FILE_NAME, each of this many bytes, for the data directory
    /// DESTINATION: used by walfetch to start its worker
    #[arg(long, hide = true, value_name = "BYTES")]
    ahead: Option<u64>,
    /// Name of the WAL file: %f
    #[arg(value_name = "FILE_NAME")]
    name: String,
    /// Path to write the file to: %p
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,
}

const FETCH_HELP: &str = "\
In postgresql.conf, or written by `walkeep restore`:
  restore_command = 'walfetch %f %p'

Exit status:
  0    the verified file is at its destination
  1    proven absent: every repository was asked, and this is the end of the archive
       (also for the history of a timeline that is retired: see walkeep timelines)
       (in a standby also: the archive could not be read, PostgreSQL tries again)
  200  anything else: an outage, damage, a gap in the WAL. Recovery stops and can
       be started again; it never ends early.";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnError {
    /// Exit with 200: recovery stops, and a standby shuts down
    Abort,
    /// Exit with 1: a standby tries again; outside of a standby recovery would end early
    Retry,
}

pub fn walpush() -> ExitCode {
    panics::guard("walpush", || exit::PUSH_FAILED, start_push)
}

fn start_push() -> ExitCode {
    let args = match PushArgs::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error, exit::PUSH_FAILED + 1),
    };
    let standard_error = args.log.standard_error("walpush", Verbosity::Quiet);
    end(&standard_error, || exit::PUSH_FAILED, || push(&args, &standard_error))
}

fn push(args: &PushArgs, standard_error: &StandardError) -> Result<u8> {
    let config = setup::load_for_helper(args.config.clone())?;
    account::settle(&config, Need::Owner)?;
    log::install_helper(standard_error, Some(&config.log));
    limit_time(config.wal.timeout, || exit::PUSH_FAILED, |error| error);
    let here = setup::working_directory()?;
    // A data directory that is not configured may be a copy of a cluster, which must not archive
    // under the name of the original. In any other directory an administrator started walpush.
    let in_data_directory = is_data_directory(&here)?;
    let cluster = if in_data_directory {
        config.cluster(args.cluster.as_deref(), &here)?
    } else {
        config.sole_cluster(args.cluster.as_deref(), &here)?
    };
    let pgdata = if in_data_directory { &here } else { &cluster.pgdata };
    let push = Push {
        path: &args.path,
        lineage: Lineage::of(pgdata)?,
        compression: config.wal.compression,
        repositories: &setup::repositories(&config, cluster)?,
        report: progress::warn,
    };
    let count = config.wal.push_ahead as usize;
    // Without a spool nothing is pushed ahead.
    let open = || Spool::open(&config.wal.spool, pgdata, push.lineage, "push");
    let spool = (count > 0).then(open).and_then(|spool| spool.map_err(report_unusable).ok());
    let now = SystemTime::now();
    if spool.as_ref().is_some_and(|spool| push::is_archived(&push, spool, now)) {
        tracing::info!("archived {} ahead of its call", args.path.display());
        return Ok(0);
    }
    // The file itself has to be finished before the timeout, also when the files ahead take long.
    let patience = config.wal.timeout / 2;
    let ahead = spool.clone().and_then(|spool| PushAhead::start(&push, spool, count, patience, now));
    let pushed = push.run();
    match (&pushed, &spool) {
        (Ok(_), Some(spool)) => push::note_success(&push, spool, now),
        (Err(_), Some(spool)) => push::note_failure(&push, spool),
        _ => {}
    }
    if let Some(ahead) = ahead {
        ahead.finish(pushed.is_ok());
    }
    match pushed? {
        Pushed::Stored => tracing::info!("archived {}", args.path.display()),
        Pushed::Already => tracing::info!("{} was archived already", args.path.display()),
    }
    Ok(0)
}

pub fn walfetch() -> ExitCode {
    panics::guard("walfetch", || fetch_failed(None), start_fetch)
}

fn start_fetch() -> ExitCode {
    let args = match FetchArgs::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error, fetch_failed(None)),
    };
    if let Some(size) = args.ahead {
        return run_worker(args, size);
    }
    let on_error = args.on_error;
    let standard_error = args.log.standard_error("walfetch", Verbosity::Quiet);
    end(
        &standard_error,
        || fetch_failed(on_error),
        || {
            become_owner(&args)?;
            fetch(&args, &standard_error).map_err(|error| with_way_out(error, on_error))
        },
    )
}

/// Replaces the hint while a promotion waits for the archive: the server shuts down at each attempt,
/// which is right as long as the archive may come back.
fn with_way_out(error: Error, on_error: Option<OnError>) -> Error {
    let exists = |name: &str| exists(Path::new(name)).is_ok_and(|exists| exists);
    if on_error.is_some() || !exists("standby.signal") || !exists("promote") {
        return error;
    }
    let usual = error.advice().map_or_else(String::new, |usual| format!("; {usual}"));
    error.with_hint(format!(
        "a promotion is pending, and the server does not open before it has read the archive to its end: bring the archive back, start the server and promote it again. If the archive is lost: with `restore_command = ''` (or `--on-error retry` in restore_command) it opens without the archive, and transactions that were archived but have not reached this server are lost{usual}"
    ))
}

/// Has root become the owner of the repositories, if that user may write the destination.
fn become_owner(args: &FetchArgs) -> Result<()> {
    if !account::is_root() {
        return Ok(());
    }
    let config = setup::load_for_helper(args.config.clone())?;
    account::settle(&config, Need::OwnerIn(account::parent(&args.destination)))
}

fn fetch(args: &FetchArgs, standard_error: &StandardError) -> Result<u8> {
    let waiting = Waiting::begin()?;
    let name: WalName = args.name.parse()?;
    if args.destination == Path::new("-") {
        return Err(Error::new(Kind::Usage, "walfetch writes a file and not standard output")
            .hint(format!("name a file: `walfetch {name} /tmp/{name}`; `./-` is a file in this directory")));
    }
    let config = setup::load_for_helper(args.config.clone())?;
    log::install_helper(standard_error, Some(&config.log));
    let on_error = args.on_error;
    limit_time(
        config.wal.timeout,
        move || fetch_failed(on_error),
        move |error| with_way_out(error, on_error),
    );
    let here = setup::working_directory()?;
    let cluster = config.sole_cluster(args.cluster.as_deref(), &here)?;
    let mut repositories = setup::repositories(&config, cluster)?;
    if let Some(name) = &args.repository {
        config.repository(name)?;
        repositories.retain(|repository| repository.name() == name);
    }
    let pgdata = if is_data_directory(&here)? {
        Some(&here)
    } else {
        // An administrator who starts walfetch may lack the permission to read the data directory.
        Some(&cluster.pgdata).filter(|pgdata| matches!(is_data_directory(pgdata), Ok(true)))
    };
    let fetch = Fetch {
        name,
        destination: Destination::Named(&args.destination),
        lineage: pgdata.map(|pgdata| Lineage::of(pgdata)).transpose()?,
        repositories: &repositories,
        retired: retired_histories(args.retired, &config, cluster, &here),
        still_wanted: &|| waiting.check(),
    };
    // Files in the spool may come from any repository, and the worker outlives the call; without a
    // data directory there is no server to fetch ahead for.
    let server = pgdata.zip(fetch.lineage).filter(|_| args.repository.is_none());
    let server = server.filter(|(pgdata, _)| !is_primary(pgdata));
    let server =
        server.and_then(|(pgdata, lineage)| Some((pgdata, worker::spool(&config, pgdata, lineage)?)));
    let kept = server.as_ref().is_some_and(|(_, spool)| ahead::hand_over(&fetch, spool, SystemTime::now()));
    if !kept && fetch.run()? == Fetched::Absent {
        let absent = match name {
            WalName::History(_) => format!("{name} is not in the archive, or its timeline is retired"),
            _ => format!("{name} is not in the archive, which ends before it"),
        };
        if is_for_server(&args.destination) {
            tracing::info!("{absent}");
        } else {
            tracing::warn!("{absent}");
        }
        return Ok(exit::FETCH_ABSENT);
    }
    tracing::info!("delivered {name}");
    if let Some((pgdata, spool)) = server
        && let Some(delivered) = DeliveredSegment::new(name, &args.destination)
        && !delivered.send(&spool)
    {
        worker::start(&config, cluster, pgdata, &spool, delivered);
    }
    Ok(0)
}

/// Whether a server requested the file: it passes a file of this name in its `pg_wal`
/// (`RestoreArchivedFile` in `xlogarchive.c`), and its log is not filled with every end of the
/// archive. Every other caller gets a line on standard error.
fn is_for_server(destination: &Path) -> bool {
    let name = destination.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("RECOVERY"))
}

/// Whether a server runs on a data directory and is not in archive recovery, so that it requests no
/// WAL.
fn is_primary(pgdata: &Path) -> bool {
    let exists = |name: &str| exists(&pgdata.join(name)).is_ok_and(|exists| exists);
    exists("postmaster.pid") && !exists("recovery.signal") && !exists("standby.signal")
}

/// Returns the answer for retired timelines.
fn retired_histories(
    is_wanted: bool,
    config: &Config,
    cluster: &ClusterConfig,
    here: &Path,
) -> RetiredHistories {
    if is_wanted {
        return RetiredHistories::Deliver;
    }
    let users = setup::likely_roles(config, cluster, None);
    let here = here.to_owned();
    RetiredHistories::HideBefore(Arc::new(move || server::replayed(&here, &users)))
}

fn run_worker(args: FetchArgs, size: u64) -> ExitCode {
    let FetchArgs { config, cluster, name, destination: pgdata, .. } = args;
    let start = worker::Start { config, cluster, pgdata, name, size };
    // A failure goes to the log file only: every call works without a worker too.
    if let Err(error) = worker::run(start) {
        progress::debug(&error);
    }
    ExitCode::SUCCESS
}

/// Returns the command line of `walpush`, for its manual page.
pub fn push_command() -> clap::Command {
    PushArgs::command()
}

/// Returns the command line of `walfetch`, for its manual page.
pub fn fetch_command() -> clap::Command {
    FetchArgs::command()
}

/// Prints help or version, which end with 0, or an error of usage, which ends with `failed`.
fn usage(error: &clap::Error, failed: u8) -> ExitCode {
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { failed } else { 0 })
}

/// Returns the status of a failed walfetch. An outage must not shut down a standby, and must not
/// let any other server open before the end of the archive. A standby that is being promoted counts
/// as such a server; a promotion may be requested while walfetch runs. When a signal file cannot be
/// examined, the status is the one that cannot open the server early.
fn fetch_failed(on_error: Option<OnError>) -> u8 {
    let exists = |name: &str| exists(Path::new(name));
    match on_error {
        Some(OnError::Abort) => exit::FETCH_FAILED,
        Some(OnError::Retry) => exit::FETCH_ABSENT,
        None => match (exists("standby.signal"), exists("promote")) {
            (Ok(true), Ok(false)) => exit::FETCH_ABSENT,
            _ => exit::FETCH_FAILED,
        },
    }
}

/// Runs a helper. A failure is reported and ends with the status that `failed` returns; a panic,
/// which is reported already, ends with it too.
fn end(
    standard_error: &StandardError,
    failed: impl Fn() -> u8,
    run: impl FnOnce() -> Result<u8> + std::panic::UnwindSafe,
) -> ExitCode {
    match std::panic::catch_unwind(run) {
        Ok(Ok(status)) => ExitCode::from(status),
        Ok(Err(error)) => {
            // Has no effect once the configuration was read: a log is installed then.
            log::install_helper(standard_error, None);
            progress::error(&error);
            ExitCode::from(failed())
        }
        Err(_) => ExitCode::from(failed()),
    }
}

/// Ends the process after `timeout` with the status that `failed` returns. `explain` may change the
/// hint of the error.
fn limit_time(
    timeout: Duration,
    failed: impl Fn() -> u8 + Send + 'static,
    explain: impl Fn(Error) -> Error + Send + 'static,
) {
    let watcher = move || {
        std::thread::sleep(timeout);
        let error = Error::new(Kind::Timeout, format!("timed out after {timeout:?}"))
            .hint("is the repository reachable? the limit is `timeout` in [wal]");
        progress::error(&explain(error));
        std::process::exit(i32::from(failed()));
    };
    if let Err(error) = thread::spawn("timeout", watcher) {
        progress::warn(&error.doing("run without a time limit"));
    }
}

/// Whether a directory is a data directory; a restored one counts too.
fn is_data_directory(path: &Path) -> Result<bool> {
    for name in ["PG_VERSION", "global/pg_control"] {
        if named::kind_at(&path.join(name))? != Some(FileType::RegularFile) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn exists(path: &Path) -> Result<bool> {
    Ok(named::stat(path)?.is_some())
}
