//! Asks the server, looks into `pg_wal`, and lists the repositories side by side.

use super::facts::{Archiver, Disk, Facts, Gathered, Queue, Repository, Server, Stock, Trouble};
use super::{queue, stock};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{Options, Row, Session, column};
use crate::pg::conninfo::ConnInfo;
use crate::pg::segment::SegmentName;
use crate::repo::{self, Lineage};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What is to be looked at, and how long that may take.
pub struct Look {
    pub cluster: String,
    pub pgdata: PathBuf,
    /// How to reach the server, or why that is not known.
    pub server: Result<ConnInfo>,
    pub repositories: Vec<repo::Repository>,
    pub now: Timestamp,
    /// For everything together, about.
    pub limit: Duration,
}

/// Gathers what can be known. Changes nothing, and whatever does not answer in time is unknown.
pub fn look(look: Look) -> Facts {
    let end = Instant::now() + look.limit;
    let expected = Lineage::of(&look.pgdata).ok();
    let (now, limit) = (look.now, look.limit);
    let pgdata = look.pgdata.clone();
    let local = begin(move || Local::see(&pgdata, now));
    // Before the repositories are listed, so that they cannot seem to lack what was archived meanwhile.
    let server = match look.server {
        Ok(info) => {
            let patience = (limit / 3).min(Duration::from_secs(10));
            let asked = begin(move || ask(&info, patience));
            answer(&asked, Instant::now() + patience).unwrap_or_else(|| Err(unanswered(patience)))
        }
        Err(error) => Err(error),
    };
    let server = server.map_err(Trouble::from).map(|server| Server {
        expected_identifier: expected.map(|lineage| lineage.system_identifier),
        ..server
    });
    let listings: Vec<_> = look
        .repositories
        .into_iter()
        .map(|repository| {
            let (name, url, is_required) =
                (repository.name().to_owned(), repository.url(), repository.is_required());
            (name, url, is_required, begin(move || list(&repository, expected, now)))
        })
        .collect();
    let repositories = listings.into_iter().map(|(name, url, is_required, listing)| {
        let listed = answer(&listing, end).unwrap_or_else(|| Err(stock::late(limit.as_secs_f64())));
        let mut stock = listed.map_err(Trouble::from);
        if let (Ok(stock), Ok(server)) = (&mut stock, &server) {
            stock::compare(stock, server);
        }
        Repository { name, url, is_required, stock }
    });
    let repositories = repositories.collect();
    let local = answer(&local, end).unwrap_or_else(Local::unknown);
    Facts {
        cluster: look.cluster,
        now,
        is_running: local.is_running,
        server,
        queue: local.queue,
        disk: local.disk,
        repositories,
    }
}

/// Does something in a thread of its own, which is left behind when it does not come back: a file system over the
/// network may hang for ever.
fn begin<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (tell, told) = mpsc::sync_channel(1);
    // Where there is no thread nobody answers.
    let _ = std::thread::Builder::new().name("look".into()).spawn(move || tell.send(work()));
    told
}

fn answer<T>(told: &mpsc::Receiver<T>, end: Instant) -> Option<T> {
    told.recv_timeout(end.saturating_duration_since(Instant::now())).ok()
}

fn unanswered(patience: Duration) -> Error {
    Error::new(Kind::Timeout, format!("the server does not answer within {} s", patience.as_secs_f64()))
}

/// What the data directory shows.
struct Local {
    is_running: bool,
    queue: Gathered<Queue>,
    disk: Gathered<Disk>,
}

impl Local {
    fn see(pgdata: &Path, now: Timestamp) -> Local {
        Local {
            // What cannot be looked at may well run.
            is_running: pgdata.join("postmaster.pid").try_exists().unwrap_or(true),
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
    let room = rustix::fs::statvfs(wal).map_err(std::io::Error::from);
    let room = room.doing(|| format!("look at the file system of {}", wal.display()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
    Ok(Disk { size: bytes(room.f_blocks), free: bytes(room.f_bavail) })
}

fn list(repository: &repo::Repository, lineage: Option<Lineage>, now: Timestamp) -> Result<Stock> {
    let archive = match lineage {
        Some(lineage) => repository.open(lineage)?,
        // The data directory is gone or elsewhere.
        None => repository.open_newest()?,
    };
    stock::read(&archive, now)
}

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

fn ask(info: &ConnInfo, patience: Duration) -> Result<Server> {
    let options = Options { connect_timeout: patience, ..Options::default() };
    let session = Session::connect(info, &options)?;
    let bound = Some(patience);
    let row = &session.query_one(STATE, &[], bound).doing(|| "ask for pg_stat_archiver".to_owned())?;
    let number = |name: &str| column::<i64>(row, name).map(|number| u64::try_from(number).unwrap_or(0));
    let current: Option<String> = column(row, "current")?;
    // It needs a grant that is there where backups are taken; what it tells is no more than another safeguard.
    let control = session.query_one("SELECT system_identifier FROM pg_control_system()", &[], bound);
    let identifier = control.and_then(|row| column::<i64>(&row, 0)).ok();
    Ok(Server {
        version: column(row, "version")?,
        in_recovery: column(row, "in_recovery")?,
        system_identifier: identifier.map(i64::cast_unsigned),
        expected_identifier: None,
        archives: column(row, "archives")?,
        current: current.map(|name| name.parse::<SegmentName>()).transpose()?,
        segment_size: column::<Option<i64>>(row, "segment_size")?.and_then(|size| u64::try_from(size).ok()),
        archiver: Archiver {
            archived: number("archived_count")?,
            last_archived: event(row, "last_archived_wal", "last_archived_time")?,
            failed: number("failed_count")?,
            last_failed: event(row, "last_failed_wal", "last_failed_time")?,
        },
    })
}

fn event(row: &Row, wal: &str, time: &str) -> Result<Option<(String, Timestamp)>> {
    let (wal, time) = (column::<Option<String>>(row, wal)?, column::<Option<i64>>(row, time)?);
    Ok(wal.zip(time.and_then(|time| Timestamp::from_microsecond(time).ok())))
}
