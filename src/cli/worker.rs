//! The process that fetches ahead: a detached `walfetch`, started by `walfetch` during recovery.
//!
//! It has its own session, works in `/`, and closes all inherited files: otherwise the server's log and sockets would
//! stay open. It always ends by itself and with status 0: a server that is process 1 (in a container) adopts the worker
//! when the call that started it has ended, and takes any other status of an unknown child for the crash of a backend.

use super::log::{self, StandardError, Verbosity};
use super::server::Recovery;
use super::setup;
use crate::config::{ClusterConfig, Config, LogFormat};
use crate::error::{Doing, Error, Result};
use crate::pg::segment::SegmentName;
use crate::repo::Lineage;
use crate::wal::ahead::spool::Spool;
use crate::wal::ahead::{Asked, Worker};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Interval between checks whether the server is still recovering.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum lifetime of a worker; a later call starts another one.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);

/// Returns the spool of the segments fetched for a data directory; `None` when fetching ahead is off or not possible.
pub fn spool(config: &Config, pgdata: &Path, lineage: Lineage) -> Option<Spool> {
    let spool = Spool::new(&config.wal.spool, pgdata, lineage, "fetch").ok();
    spool.filter(|_| config.wal.fetch_ahead > 0)
}

/// Starts a worker for the segments after a delivered one. Failures are ignored: recovery works without, only slower.
pub fn start(config: &Config, cluster: &ClusterConfig, pgdata: &Path, spool: &Spool, asked: Asked) {
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // Without a spool the worker could keep nothing, and every call would start another one.
    if spool.create().is_err() {
        return;
    }
    let mut command = Command::new(program);
    command.arg("--config").arg(&config.path).args(["--cluster", &cluster.name]);
    command.arg(format!("--ahead={}", asked.size.bytes())).arg(asked.name.to_string()).arg(pgdata);
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
    detach()?;
    let config = setup::load_for_helper(start.config)?;
    // Standard error is /dev/null; a log file may be configured.
    let error = StandardError { program: "walfetch", verbosity: Verbosity::Quiet, format: LogFormat::Text };
    log::install_helper(&error, Some(&config.log));
    let cluster = config.sole_cluster(start.cluster.as_deref(), &setup::working_directory()?)?;
    let lineage = Lineage::of(&start.pgdata)?;
    let recovery = Recovery::of(&start.pgdata);
    let repositories = setup::repositories(&config, cluster)?;
    let name: SegmentName = start.name.parse()?;
    let asked = Asked { name, size: start.size.try_into()? };
    let Some(spool) = spool(&config, &start.pgdata, lineage) else {
        return Ok(());
    };
    std::env::set_current_dir("/").doing("leave the data directory")?;
    let recovery = Arc::new(recovery);
    watch(Arc::clone(&recovery), config.path.clone(), self::spool(&config, &start.pgdata, lineage))?;
    let worker = Worker {
        spool: &spool,
        lineage,
        repositories: &repositories,
        count: config.wal.fetch_ahead as usize,
        still_wanted: &|| recovery.check(),
    };
    worker.run(asked)
}

/// Ends the process when recovery is over or the configuration file was changed, whatever the worker waits for.
fn watch(recovery: Arc<Recovery>, config: PathBuf, spool: Option<Spool>) -> Result<()> {
    let begun = Instant::now();
    let version = move || {
        let meta = std::fs::metadata(&config).ok()?;
        Some((meta.ino(), meta.modified().ok()?))
    };
    let watcher = move || {
        let first = version();
        while begun.elapsed() < MAX_LIFETIME && recovery.check().is_ok() && version() == first {
            std::thread::sleep(CHECK_INTERVAL);
        }
        if let Some(spool) = spool {
            spool.forget_all_but(|_| false);
        }
        std::process::exit(0);
    };
    std::thread::Builder::new().name("recovery".into()).spawn(watcher).map(|_| ()).doing("start a thread")
}

/// Leaves the server's session, and closes all inherited files.
fn detach() -> Result<()> {
    rustix::process::setsid().map_err(|e| Error::io("start a session", &e.into()))?;
    let doing = "list open files";
    let mut open: Vec<i32> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").doing(doing)? {
        open.extend(entry.doing(doing)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    // This process has opened nothing yet but the directory that was listed, which is closed by now.
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}
