//! The process that fetches ahead: a detached `walfetch`, started by `walfetch` during recovery.
//!
//! It always ends by itself and with status 0: a server that is process 1 (in a container) adopts
//! the worker when the call that started it has ended, and takes any other status of an unknown
//! child for the crash of a backend.

use super::log::{self, StandardError, Verbosity};
use super::server::ObservedRecovery;
use super::setup;
use crate::config::{ClusterConfig, Config, LogFormat};
use crate::error::{Error, Kind, Result};
use crate::fs::named;
use crate::pg::segment::SegmentName;
use crate::repo::Lineage;
use crate::wal::ahead::spool::{Spool, report_unusable};
use crate::wal::ahead::{self, DeliveredSegment, FetchWorker, StillWanted};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Returns the spool of the segments fetched for a data directory; `None` when fetching ahead is
/// off or not possible.
pub fn spool(config: &Config, pgdata: &Path, lineage: Lineage) -> Option<Spool> {
    if config.wal.fetch_ahead == 0 {
        return None;
    }
    Spool::open(&config.wal.spool, pgdata, lineage, "fetch").map_err(report_unusable).ok()
}

/// Starts a worker for the segments after a delivered one. Failures are ignored: without a worker
/// recovery is slower, and works.
pub fn start(
    config: &Config,
    cluster: &ClusterConfig,
    pgdata: &Path,
    spool: &Spool,
    delivered: DeliveredSegment,
) {
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // Without a spool the worker could store nothing, and every call would start another worker.
    if spool.create().map_err(report_unusable).is_err() {
        return;
    }
    let mut command = Command::new(program);
    command.arg("--config").arg(&config.path).args(["--cluster", &cluster.name]);
    command.arg(format!("--ahead={}", delivered.size.bytes())).arg(delivered.name.to_string()).arg(pgdata);
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}

/// Arguments of a worker.
pub struct Start {
    pub config: Option<PathBuf>,
    pub cluster: Option<String>,
    pub pgdata: PathBuf,
    pub name: String,
    pub size: u64,
}

/// Runs the worker to its end.
pub fn run(start: Start) -> Result<()> {
    ahead::detach()?;
    let config = setup::load_for_helper(start.config)?;
    // Standard error is /dev/null; a log file may be configured.
    let error = StandardError { program: "walfetch", verbosity: Verbosity::Quiet, format: LogFormat::Text };
    log::install_helper(&error, Some(&config.log));
    let cluster = config.sole_cluster(start.cluster.as_deref(), &setup::working_directory()?)?;
    let lineage = Lineage::of(&start.pgdata)?;
    let repositories = setup::repositories(&config, cluster)?;
    let name: SegmentName = start.name.parse()?;
    let delivered = DeliveredSegment { name, size: start.size.try_into()? };
    let Some(spool) = spool(&config, &start.pgdata, lineage) else {
        return Ok(());
    };
    let worker = FetchWorker {
        spool: &spool,
        lineage,
        repositories: &repositories,
        count: config.wal.fetch_ahead as usize,
        still_wanted: still_wanted(ObservedRecovery::of(&start.pgdata), config.path.clone()),
        exit: || std::process::exit(0),
    };
    worker.run(delivered)
}

/// Fails when recovery is over or the configuration file was changed.
fn still_wanted(recovery: ObservedRecovery, config: PathBuf) -> Arc<StillWanted> {
    let version = move || {
        let stat = named::stat(&config).ok()??;
        Some((stat.st_ino, stat.st_mtime, stat.st_mtime_nsec))
    };
    let first = version();
    Arc::new(move || {
        recovery.check()?;
        if version() != first {
            return Err(Error::new(Kind::Refused, "the configuration file was changed"));
        }
        Ok(())
    })
}
