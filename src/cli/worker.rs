//! The process that fetches ahead: `walfetch` started once more by itself, cut off from the server whose recovery
//! it works for.
//!
//! It has a session of its own, works in `/`, and holds nothing open that it was given: neither the server's log
//! nor its sockets could be closed otherwise. It always ends with status 0, and by itself: where the server is
//! process 1 (in a container), it inherits the worker when the call that started it has ended, and takes any
//! other end of an unknown process for the crash of one of its own.

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

/// How often the worker looks whether the server is still recovering.
const LOOK: Duration = Duration::from_millis(500);

/// A worker is not needed for longer than this at a time; the next call starts another one.
const LIFE: Duration = Duration::from_secs(3600);

/// Where the marks and files of a data directory's fetches are.
pub fn spool(config: &Config, pgdata: &Path, lineage: Lineage) -> Option<Spool> {
    let spool = Spool::new(&config.wal.spool, pgdata, lineage, "fetch").ok();
    spool.filter(|_| config.wal.fetch_ahead > 0)
}

/// Starts a worker for what comes behind a delivered segment. Without one everything is as it would be, but slower.
pub fn start(config: &Config, cluster: &ClusterConfig, pgdata: &Path, spool: &Spool, asked: Asked) {
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // A worker that could keep nothing would be started in vain by every call.
    if spool.create().is_err() {
        return;
    }
    let mut command = Command::new(program);
    command.arg("--config").arg(&config.path).args(["--cluster", &cluster.name]);
    command.arg(format!("--ahead={}", asked.size.bytes())).arg(asked.name.to_string()).arg(pgdata);
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}

/// What a worker is started with.
pub struct Start {
    pub config: Option<PathBuf>,
    pub cluster: Option<String>,
    pub pgdata: PathBuf,
    pub name: String,
    pub size: u64,
}

/// Is the worker, to its end. Nobody hears of a failure, and nobody needs to.
pub fn run(start: Start) -> Result<()> {
    cut_off()?;
    let config = setup::load_for_helper(start.config)?;
    // Standard error leads nowhere; the log file may be there.
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
    std::env::set_current_dir("/").doing(|| "leave the data directory".to_owned())?;
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

/// Ends the process when recovery is over or the configuration another one, whatever it is waiting for at that moment.
fn watch(recovery: Arc<Recovery>, config: PathBuf, spool: Option<Spool>) -> Result<()> {
    let begun = Instant::now();
    let version = move || {
        let meta = std::fs::metadata(&config).ok()?;
        Some((meta.ino(), meta.modified().ok()?))
    };
    let watcher = move || {
        let first = version();
        while begun.elapsed() < LIFE && recovery.check().is_ok() && version() == first {
            std::thread::sleep(LOOK);
        }
        if let Some(spool) = spool {
            spool.forget_all_but(|_| false);
        }
        std::process::exit(0);
    };
    std::thread::Builder::new().spawn(watcher).map(|_| ()).doing(|| "start a thread".to_owned())
}

/// Leaves the server's session, and closes what it left open.
fn cut_off() -> Result<()> {
    rustix::process::setsid().map_err(|e| Error::io("begin a session", &e.into()))?;
    let doing = || "list what is open".to_owned();
    let mut open: Vec<i32> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").doing(doing)? {
        open.extend(entry.doing(doing)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    // Nothing of this process is open yet but what was listed with, which is closed by now.
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}
