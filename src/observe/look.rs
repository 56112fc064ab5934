//! Gathers the facts: queries the server, reads `pg_wal`, and lists the repositories at the same
//! time.

use super::facts::{
    ArchiveQueue, ArchiverStats, Disk, Facts, Gathered, ObservedServer, RepositoryFacts, RepositoryStock,
    Trouble,
};
use super::{queue, stock};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::Folder;
use crate::fs::named;
use crate::pg::client::{Row, Session, SessionOptions, column};
use crate::pg::conninfo::ConnInfo;
use crate::pg::running::{LOCK_FILE, running_reason};
use crate::pg::segment::{SegmentName, SegmentSize};
use crate::repo::branches::ServerTimeline;
use crate::repo::record::Record;
use crate::repo::{Lineage, Repository};
use crate::runtime::thread;
use jiff::Timestamp;
use rustix::fs::fstatvfs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Returns when the rules of a repository, by its name, stop keeping a backup, by its id; `None` when
/// that is not known.
pub type Expiry = Arc<dyn Fn(&str, &[Record], &str) -> Option<Timestamp> + Send + Sync>;

/// Sources of the facts, and the time that gathering them may take.
pub struct Look {
    pub cluster: String,
    pub pgdata: PathBuf,
    /// Connection to the server, or the reason why it is not known.
    pub server: Result<ConnInfo>,
    pub repositories: Vec<Repository>,
    pub expires: Expiry,
    pub now: Timestamp,
    /// Approximate limit for everything together.
    pub limit: Duration,
}

/// Maximum time to wait for the server.
const MAX_SERVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Gathers the facts. Changes nothing; facts of a source that does not answer in time are unknown.
pub fn look(look: Look) -> Facts {
    let end = Instant::now() + look.limit;
    // Without a readable data directory the newest lineage in each repository is used.
    let lineage = Lineage::of(&look.pgdata).ok();
    let (now, limit) = (look.now, look.limit);
    let pgdata = look.pgdata.clone();
    let local = start(move || Local::read(&pgdata, now));
    // The server is queried before the repositories are listed, so that they cannot seem to lack a
    // segment that was archived meanwhile.
    let server = match look.server {
        Ok(info) => {
            let timeout = (limit / 3).min(MAX_SERVER_TIMEOUT);
            let query = start(move || query(&info, timeout));
            wait(&query, Instant::now() + timeout).unwrap_or_else(|| Err(server_timeout(timeout)))
        }
        Err(error) => Err(error),
    };
    let server = server.map_err(Trouble::from).map(|server| ObservedServer {
        expected_identifier: lineage.map(|lineage| lineage.system_identifier),
        ..server
    });
    let timeline = timeline(server.as_ref().ok(), &look.pgdata, lineage);
    let listings: Vec<_> = look
        .repositories
        .into_iter()
        .map(|repository| {
            let (name, url, is_required) =
                (repository.name().to_owned(), repository.url(), repository.is_required());
            let (timeline, expires) = (timeline.clone(), look.expires.clone());
            let listing = start(move || list(&repository, lineage, &timeline, &expires, now));
            (name, url, is_required, listing)
        })
        .collect();
    let repositories = listings.into_iter().map(|(name, url, is_required, listing)| {
        let listed = wait(&listing, end).unwrap_or_else(|| Err(repository_timeout(limit)));
        let mut stock = listed.map_err(Trouble::from);
        if let (Ok(stock), Ok(server)) = (&mut stock, &server) {
            stock::compare(stock, server);
        }
        RepositoryFacts { name, url, is_required, stock }
    });
    let repositories = repositories.collect();
    let local = wait(&local, end).unwrap_or_else(Local::unknown);
    Facts {
        cluster: look.cluster,
        now,
        is_running: local.is_running,
        server,
        timeline,
        queue: local.queue,
        disk: local.disk,
        repositories,
    }
}

/// Starts `work` in a thread of its own, which is abandoned when it does not return: a network file
/// system may hang for ever.
fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    // Without a thread the sender is dropped, which ends the wait at once.
    let _ = thread::spawn("look", move || drop(sender.send(work())));
    receiver
}

/// Waits for the result until `end`; `None` when there is none in time.
fn wait<T>(receiver: &mpsc::Receiver<T>, end: Instant) -> Option<T> {
    receiver.recv_timeout(end.saturating_duration_since(Instant::now())).ok()
}

fn server_timeout(timeout: Duration) -> Error {
    Error::new(Kind::Timeout, format!("the server does not answer within {} s", timeout.as_secs_f64()))
}

fn repository_timeout(limit: Duration) -> Error {
    Error::new(Kind::Timeout, format!("no answer within {} s", limit.as_secs_f64()))
        .hint("is it reachable? `--timeout` waits longer")
}

/// Facts about the data directory.
struct Local {
    is_running: bool,
    queue: Gathered<ArchiveQueue>,
    disk: Gathered<Disk>,
}

impl Local {
    fn read(pgdata: &Path, now: Timestamp) -> Local {
        Local {
            // When that is not known, a server may run.
            is_running: running_reason(pgdata).map_or(true, |reason| reason.is_some()),
            queue: queue::queue(pgdata, now).map_err(Trouble::from),
            disk: disk(&pgdata.join("pg_wal")).map_err(Trouble::from),
        }
    }

    fn unknown() -> Local {
        let trouble = || Trouble::new("the data directory does not answer");
        Local { is_running: true, queue: Err(trouble()), disk: Err(trouble()) }
    }
}

fn disk(wal: &Path) -> Result<Disk> {
    let folder = Folder::root(wal)?.ok_or_else(|| named::missing(wal))?;
    let room = fstatvfs(&folder).doing(|| format!("look at the file system of {}", wal.display()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
    Ok(Disk { size: bytes(room.f_blocks), free: bytes(room.f_bavail) })
}

/// Returns the timeline of the server of a data directory. The server is queried, if the way to it
/// is known, when there is no data directory of the lineage or its files do not show whether a
/// server runs.
pub fn server_timeline(
    info: Option<Result<ConnInfo>>,
    pgdata: &Path,
    lineage: Lineage,
    timeout: Duration,
) -> ServerTimeline {
    let local = ServerTimeline::of(pgdata, lineage);
    let is_known = match local {
        ServerTimeline::Running(_) => true,
        ServerTimeline::Stopped(_) => matches!(named::stat(&pgdata.join(LOCK_FILE)), Ok(None)),
        ServerTimeline::Unknown => false,
    };
    let Some(info) = info.filter(|_| !is_known) else {
        return local;
    };
    let answered = info.and_then(|info| query(&info, timeout)).ok();
    let answered = answered.filter(|server| server.system_identifier == Some(lineage.system_identifier));
    timeline(answered.as_ref(), pgdata, Some(lineage))
}

/// Returns the timeline of the server: by its answer if it takes writes, else by its data directory.
fn timeline(server: Option<&ObservedServer>, pgdata: &Path, lineage: Option<Lineage>) -> ServerTimeline {
    let local = lineage.map_or(ServerTimeline::Unknown, |lineage| ServerTimeline::of(pgdata, lineage));
    let answered = server.filter(|server| {
        server.expected_identifier.is_none_or(|own| server.system_identifier.is_none_or(|is| is == own))
    });
    match (answered.and_then(|server| server.current), local) {
        (Some(current), ServerTimeline::Running(history)) if history.timeline == current.timeline => {
            ServerTimeline::Running(history)
        }
        (Some(current), _) => ServerTimeline::running(current.timeline),
        (None, local) => local,
    }
}

fn list(
    repository: &Repository,
    lineage: Option<Lineage>,
    timeline: &ServerTimeline,
    expires: &Expiry,
    now: Timestamp,
) -> Result<RepositoryStock> {
    let archive = match lineage {
        Some(lineage) => repository.open(lineage)?,
        // The data directory does not exist or is on another host.
        None => repository.open_newest()?,
    };
    stock::read(&archive, timeline, |records, id| expires(repository.name(), records, id), now)
}

/// Query for the state of the server and its archiver.
const STATE: &str = "\
SELECT current_setting('server_version') AS version,
       pg_is_in_recovery() AS in_recovery,
       current_setting('archive_mode') <> 'off'
         AND (current_setting('archive_command') <> ''
              OR coalesce(current_setting('archive_library', true), '') <> '') AS archives,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') AS segment_size,
       CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END AS current,
       archived_count, last_archived_wal,
       (extract(epoch FROM last_archived_time) * 1000000)::bigint AS last_archived_time,
       failed_count, last_failed_wal,
       (extract(epoch FROM last_failed_time) * 1000000)::bigint AS last_failed_time
  FROM pg_stat_archiver";

fn query(info: &ConnInfo, timeout: Duration) -> Result<ObservedServer> {
    let options = SessionOptions { connect_timeout: timeout, ..SessionOptions::default() };
    let session = Session::connect(info, &options)?;
    let bound = Some(timeout);
    let row = &session.query_one(STATE, &[], bound).doing("query pg_stat_archiver")?;
    let current: Option<String> = column(row, "current")?;
    let segment_size: Option<i64> = column(row, "segment_size")?;
    // The role may lack the permission; the identifier is only an additional safeguard.
    let control = session.query_one("SELECT system_identifier FROM pg_control_system()", &[], bound);
    let identifier = control.and_then(|row| column::<i64>(&row, 0)).ok();
    Ok(ObservedServer {
        version: column(row, "version")?,
        in_recovery: column(row, "in_recovery")?,
        system_identifier: identifier.map(i64::cast_unsigned),
        expected_identifier: None,
        archives: column(row, "archives")?,
        current: current.map(|name| name.parse::<SegmentName>()).transpose()?,
        segment_size: segment_size.map(|size| SegmentSize::try_from(size.cast_unsigned())).transpose()?,
        archiver: ArchiverStats {
            archived: number(row, "archived_count")?,
            last_archived: event(row, "last_archived_wal", "last_archived_time")?,
            failed: number(row, "failed_count")?,
            last_failed: event(row, "last_failed_wal", "last_failed_time")?,
        },
    })
}

fn number(row: &Row, name: &str) -> Result<u64> {
    let number: i64 = column(row, name)?;
    u64::try_from(number).map_err(|_| Error::new(Kind::Failed, format!("{name} is {number}")))
}

/// Name of the WAL file and time of an event; `None` when the event never happened.
fn event(row: &Row, wal: &str, time: &str) -> Result<Option<(String, Timestamp)>> {
    let (wal, microseconds) = (column::<Option<String>>(row, wal)?, column::<Option<i64>>(row, time)?);
    let Some((wal, microseconds)) = wal.zip(microseconds) else {
        return Ok(None);
    };
    let at = Timestamp::from_microsecond(microseconds)
        .map_err(|e| Error::new(Kind::Failed, format!("{time} is {microseconds}: {e}")))?;
    Ok(Some((wal, at)))
}
