//! `walpush` and `walfetch`, which PostgreSQL starts for every WAL file. What they do before the first
//! byte is read is paid sixteen megabytes of WAL by sixteen megabytes.

use super::args::LogArgs;
use super::log::{self, StandardError, Verbosity};
use super::server::Waiting;
use super::{exit, setup, worker};
use crate::error::{Error, Kind, Result};
use crate::pg::segment::WalName;
use crate::progress;
use crate::repo::Lineage;
use crate::wal::ahead::push::{self, Ahead};
use crate::wal::ahead::spool::Spool;
use crate::wal::ahead::{self, Asked};
use crate::wal::fetch::{Fetch, Fetched};
use crate::wal::push::Push;
use clap::{CommandFactory, Parser, ValueEnum};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
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
    /// Ask this repository alone, and fetch nothing ahead, as a drill of it does
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// What to answer when the archive cannot be read [default: retry in a standby, abort otherwise]
    #[arg(long, value_name = "WHAT")]
    on_error: Option<OnError>,
    /// Fetches what lies behind the segment FILE_NAME of this many bytes, for the data directory DESTINATION: how
    /// walfetch starts itself
    #[arg(long, hide = true, value_name = "BYTES")]
    ahead: Option<u64>,
    /// Name of the WAL file: %f
    #[arg(value_name = "FILE_NAME")]
    name: String,
    /// Where to put it: %p
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,
}

const FETCH_HELP: &str = "\
In postgresql.conf, or written by `walkeep restore`:
  restore_command = 'walfetch %f %p'

Exit status:
  0    the verified file is at its destination
  1    proven absent: every repository was asked, and this is the end of the archive
       (in a standby also: the archive could not be read, PostgreSQL tries again)
  200  anything else: an outage, damage, a missing file in the middle. Recovery
       stops and can be started again; it never ends early.";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnError {
    /// Exit with 200: recovery stops, and a standby shuts down
    Abort,
    /// Exit with 1: a standby tries again; outside of a standby recovery would end early
    Retry,
}

pub fn walpush() -> ExitCode {
    let args = match PushArgs::try_parse() {
        Ok(args) => args,
        Err(error) => return answer_usage(&error, exit::PUSH_FAILED + 1),
    };
    let failed = || exit::PUSH_FAILED;
    let error = args.log.standard_error("walpush", Verbosity::Quiet);
    end(&error.clone(), failed, move || {
        let config = setup::load_for_helper(args.config)?;
        log::install_helper(&error, Some(&config.log));
        watch(config.wal.timeout, failed);
        let here = setup::working_directory()?;
        // In a data directory that is not configured a copy of a cluster may be archiving; elsewhere
        // somebody calls by hand.
        let in_data_directory = is_data_directory(&here)?;
        let cluster = match in_data_directory {
            true => config.cluster(args.cluster.as_deref(), &here)?,
            false => config.sole_cluster(args.cluster.as_deref(), &here)?,
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
        // What cannot be done in the spool is done without it.
        let spool = Spool::new(&config.wal.spool, pgdata, push.lineage, "push").ok().filter(|_| count > 0);
        let now = SystemTime::now();
        if spool.as_ref().is_some_and(|spool| push::is_done(&push, spool, now)) {
            return Ok(0);
        }
        // The file's own push has to be heard of before the deadline, whatever the others do.
        let patience = config.wal.timeout / 2;
        let ahead = spool.and_then(|spool| Ahead::start(&push, spool, count, patience, now));
        let pushed = push.run();
        if let Some(ahead) = ahead {
            ahead.finish(pushed.is_ok());
        }
        pushed.map(|_| 0)
    })
}

pub fn walfetch() -> ExitCode {
    let args = match FetchArgs::try_parse() {
        Ok(args) => args,
        Err(error) => return answer_usage(&error, fetch_failed(None)),
    };
    if let Some(size) = args.ahead {
        return be_worker(args, size);
    }
    let on_error = args.on_error;
    let failed = move || fetch_failed(on_error);
    let error = args.log.standard_error("walfetch", Verbosity::Quiet);
    end(&error.clone(), failed, move || {
        let waiting = Waiting::begin()?;
        let name: WalName = args.name.parse()?;
        let config = setup::load_for_helper(args.config)?;
        log::install_helper(&error, Some(&config.log));
        watch(config.wal.timeout, failed);
        let here = setup::working_directory()?;
        let cluster = config.sole_cluster(args.cluster.as_deref(), &here)?;
        let mut repositories = setup::repositories(&config, cluster)?;
        if let Some(name) = &args.repository {
            config.repository(name)?;
            repositories.retain(|repository| repository.name() == name);
        }
        let pgdata = match is_data_directory(&here)? {
            true => Some(&here),
            // Somebody calls by hand, who need not be able to look there.
            false => Some(&cluster.pgdata).filter(|pgdata| matches!(is_data_directory(pgdata), Ok(true))),
        };
        let fetch = Fetch {
            name,
            destination: &args.destination,
            lineage: pgdata.map(|pgdata| Lineage::of(pgdata)).transpose()?,
            repositories: &repositories,
            still_wanted: &|| waiting.check(),
        };
        // Without a data directory there is no server to fetch ahead for.
        // What lies in the spool may come from any repository, and its worker outlives the call.
        let server = pgdata.zip(fetch.lineage).filter(|_| args.repository.is_none());
        let server =
            server.and_then(|(pgdata, lineage)| Some((pgdata, worker::spool(&config, pgdata, lineage)?)));
        let kept =
            server.as_ref().is_some_and(|(_, spool)| ahead::hand_over(&fetch, spool, SystemTime::now()));
        if !kept && fetch.run()? == Fetched::Absent {
            return Ok(exit::FETCH_ABSENT);
        }
        if let Some((pgdata, spool)) = server
            && let Some(asked) = Asked::delivered(name, &args.destination)
            && !asked.tell(&spool)
        {
            worker::start(&config, cluster, pgdata, &spool, asked);
        }
        Ok(0)
    })
}

fn be_worker(args: FetchArgs, size: u64) -> ExitCode {
    let FetchArgs { config, cluster, name, destination: pgdata, .. } = args;
    // There is nobody to tell of a failure: every call does without a worker.
    let _ = std::panic::catch_unwind(|| worker::run(worker::Start { config, cluster, pgdata, name, size }));
    ExitCode::SUCCESS
}

/// The command lines, for their manual pages.
pub fn push_command() -> clap::Command {
    PushArgs::command()
}

pub fn fetch_command() -> clap::Command {
    FetchArgs::command()
}

/// Help and version are no failures; a command line that is not understood is.
fn answer_usage(error: &clap::Error, failed: u8) -> ExitCode {
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { failed } else { 0 })
}

/// What walfetch answers when it failed. A standby must not be shut down by a passing outage; everything else must not be
/// opened by one, and a promotion may begin while it waits. What cannot be seen counts as what does no harm.
fn fetch_failed(on_error: Option<OnError>) -> u8 {
    let is_there = |name: &str| Path::new(name).try_exists();
    match on_error {
        Some(OnError::Abort) => exit::FETCH_FAILED,
        Some(OnError::Retry) => exit::FETCH_ABSENT,
        None => match (is_there("standby.signal"), is_there("promote")) {
            (Ok(true), Ok(false)) => exit::FETCH_ABSENT,
            _ => exit::FETCH_FAILED,
        },
    }
}

/// Runs a helper, and gives the right status also when it panics.
fn end(
    standard_error: &StandardError,
    failed: impl Fn() -> u8,
    run: impl FnOnce() -> Result<u8> + std::panic::UnwindSafe,
) -> ExitCode {
    let result = std::panic::catch_unwind(run);
    // Does nothing where the configuration was read: then there is a log.
    log::install_helper(standard_error, None);
    match result {
        Ok(Ok(status)) => ExitCode::from(status),
        Ok(Err(error)) => {
            progress::error(&error);
            ExitCode::from(failed())
        }
        Err(_) => {
            tracing::error!("error: a defect of this program stopped it (the lines above say where)");
            ExitCode::from(failed())
        }
    }
}

/// Ends the process when the deadline is over, whatever it is waiting for by then.
fn watch(deadline: Duration, failed: impl Fn() -> u8 + Send + 'static) {
    let watcher = move || {
        std::thread::sleep(deadline);
        let error = Error::new(Kind::Timeout, format!("it was not done after {deadline:?}"))
            .hint("is the repository reachable? the limit is `timeout` in [wal]");
        progress::error(&error);
        std::process::exit(i32::from(failed()));
    };
    if std::thread::Builder::new().spawn(watcher).is_err() {
        tracing::warn!("warning: there is no thread for the deadline, so there is none");
    }
}

/// Whether the server keeps its files here. A restored directory counts too.
fn is_data_directory(path: &Path) -> Result<bool> {
    for name in ["PG_VERSION", "global/pg_control"] {
        let path = path.join(name);
        match path.metadata() {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Ok(false),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
            Err(e) => return Err(Error::io(format!("look at {}", path.display()), &e)),
        }
    }
    Ok(true)
}
