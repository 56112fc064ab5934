//! The server that is backed up: its settings, whether it is the right one, and the session between
//! the start and the stop of a backup. Does not open the session; see `connect.rs`.

use super::own;
use super::pooler;
use super::session::{STATEMENT_TIMEOUT, lsn, timestamp};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use crate::pg::checksums::ChecksumState;
use crate::pg::client::{Session, column};
use crate::pg::control::Control;
use crate::pg::lsn::Lsn;
use crate::pg::running::LockFile;
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use crate::pg::shell::ShellCommand;
use crate::repo::record::{Database, Settings};
use crate::repo::{Archive, Lineage};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest interval between two polls of the archive for a segment; the first intervals are
/// shorter.
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(100);
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(3);

/// Maximum difference, in seconds, between the start times in `postmaster.pid` and in the server's
/// report. The file is written a moment before the time that the server reports.
const MAX_START_DIFFERENCE: i64 = 60;

/// A session with the server, and the settings that it reported.
pub struct BackupServer {
    pub(super) session: Session,
    /// A session with the primary; `None` for a primary, and for a standby whose primary the
    /// configuration does not name.
    pub(super) primary: Option<Session>,
    pub found: ServerFacts,
}

/// State and settings of a server at the time of the connection.
pub struct ServerFacts {
    pub lineage: Lineage,
    /// Setting `server_version`.
    pub version: String,
    pub segment_size: SegmentSize,
    /// Timeline on which WAL is written; for a standby the timeline of its last restartpoint.
    pub timeline: TimelineId,
    pub settings: Settings,
    pub databases: Vec<Database>,
    pub hba_file: String,
    pub ident_file: String,
    /// Setting `hosts_file` (PostgreSQL 19 and later).
    pub hosts_file: Option<String>,
    pub wal_level: String,
    pub archive_mode: String,
    pub archive_command: String,
    pub archive_library: String,
    pub in_recovery: bool,
    /// Setting `summarize_wal` (PostgreSQL 17 and later).
    pub summarizes: bool,
    /// Whether a change of hint bits alone is in the WAL: with data checksums or `wal_log_hints`.
    pub logs_hints: bool,
}

/// Result of `pg_backup_start`: from here on the files may be read.
pub struct StartPoint {
    /// Time on the server's clock when `pg_backup_start` returned.
    pub time: jiff::Timestamp,
    pub lsn: Lsn,
}

/// Result of `pg_backup_stop`.
pub struct StopPoint {
    /// Time on the server's clock after the end of the backup.
    pub time: jiff::Timestamp,
    pub lsn: Lsn,
    /// State of data checksums after the end of the backup.
    pub checksums: ChecksumState,
    /// Content of `backup_label`, byte for byte.
    pub label: Vec<u8>,
    /// Content of `tablespace_map`, byte for byte; `None` when the cluster has no tablespaces.
    pub tablespace_map: Option<Vec<u8>>,
}

impl BackupServer {
    /// Fails as soon as the session is lost.
    pub fn check(&self) -> Result<()> {
        self.session.check().map_err(|error| {
            error
                .doing("watch the session that the backup depends on")
                .hint("the server aborted the backup when the session ended; nothing was recorded, take the backup again")
        })
    }

    /// Refuses a server that does not run on this data directory: another cluster, or another copy
    /// of its files.
    pub fn check_runs_on(&self, pgdata: &Path) -> Result<()> {
        let doing = || format!("compare the server with {}", pgdata.display());
        let wrong = |what: String| {
            Err(Error::new(Kind::Identity, what).doing(doing()).hint(
                "`connection` and `pgdata` in the configuration have to be of the same cluster: check host and port",
            ))
        };
        let lineage = Lineage::of(pgdata).doing(doing)?;
        if lineage != self.found.lineage {
            return wrong(format!(
                "the server is {} (system identifier and major version), the data directory {lineage}",
                self.found.lineage
            ));
        }
        let own = named::real(pgdata).doing(doing)?;
        let directory = Path::new(&self.found.settings.data_directory);
        // A directory that does not resolve on this host is another one.
        if own.is_none() || !named::real(directory).is_ok_and(|directory| directory == own) {
            return wrong(format!("the server runs on {}", directory.display()));
        }
        // Two servers may run on copies of one cluster: the connected one has to have written the
        // lock file.
        let sql = "SELECT extract(epoch FROM pg_postmaster_start_time())::bigint";
        let row = self.session.query_one(sql, &[], STATEMENT_TIMEOUT)?;
        let started: i64 = column(&row, 0)?;
        let written = LockFile::read(pgdata)?.and_then(|lock| lock.started().parse::<i64>().ok());
        if written.is_none_or(|written| (started - written).abs() > MAX_START_DIFFERENCE) {
            return wrong("another server holds the lock file of the data directory".to_owned());
        }
        Ok(())
    }

    /// Settings that keep WAL from being archived by walpush, each with the line to type.
    pub fn archiving_problems(&self) -> Vec<Error> {
        let mut problems = Vec::new();
        if self.found.in_recovery {
            // The primary archives the WAL.
            return problems;
        }
        let mut problem = |what: String, hint: &str| {
            problems.push(Error::new(Kind::Problem, what).hint(hint));
        };
        let found = &self.found;
        if found.wal_level == "minimal" {
            problem("wal_level is minimal".into(), "set `wal_level = replica` and restart the server");
        }
        if found.archive_mode == "off" {
            problem("archive_mode is off".into(), "set `archive_mode = on` and restart the server");
        }
        if !found.archive_library.is_empty() {
            problem(
                format!("archive_library is `{}`, so archive_command is not used", found.archive_library),
                "set `archive_library = ''` and reload the server",
            );
        }
        let text = found.archive_command.trim();
        let command = ShellCommand::parse(text);
        match command {
            _ if text.is_empty() || text == "(disabled)" => problem(
                "archive_command is empty".into(),
                "set `archive_command = 'walpush %p'` and reload the server",
            ),
            None => problem(
                format!("archive_command is `{text}`, with a quote that is not closed"),
                "set `archive_command = 'walpush %p'` and reload the server",
            ),
            Some(command) if !command.mentions("walpush") => problem(
                format!("archive_command is `{text}`, which does not run walpush"),
                "set `archive_command = 'walpush %p'` and reload the server",
            ),
            Some(command) if command.has_several() => problem(
                format!("archive_command is `{text}`: the shell may hide the exit status of walpush"),
                "set archive_command to walpush alone, without pipes and further commands",
            ),
            Some(command) if !command.has_placeholder('p') => {
                problem(
                    format!("archive_command is `{text}`, without %p"),
                    "set `archive_command = 'walpush %p'`",
                );
            }
            Some(_) => {}
        }
        problems
    }

    /// Whether this session, or the one with the primary, can end a WAL segment.
    pub fn can_switch(&self) -> bool {
        !self.found.in_recovery || self.primary.is_some()
    }

    /// Refuses a backup that ends on another timeline than it `began` on: its WAL would not lie on
    /// one timeline.
    pub fn check_timeline(&self, began: TimelineId) -> Result<()> {
        let sql = if self.found.in_recovery {
            "SELECT min_recovery_end_timeline FROM pg_control_recovery()"
        } else {
            "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"
        };
        let row =
            self.session.query_one(sql, &[], STATEMENT_TIMEOUT).doing("read the timeline of the server")?;
        let now = TimelineId(column::<i32>(&row, 0)?.cast_unsigned());
        if now == began {
            return Ok(());
        }
        Err(Error::new(
            Kind::Refused,
            format!("the server changed from timeline {began} to {now} while it was backed up"),
        )
        .hint("take the backup again, when the WAL and the history of the new timeline are archived"))
    }

    /// Writes a little WAL and ends the segment that contains it, so that the server archives that
    /// segment.
    pub fn switch_segment(&self) -> Result<SegmentName> {
        let session = self.primary.as_ref().unwrap_or(&self.session);
        let row = session.query_one("SELECT pg_create_restore_point('walkeep')", &[], STATEMENT_TIMEOUT)?;
        let lsn = lsn(&row, 0)?;
        session.query("SELECT pg_switch_wal()", &[], STATEMENT_TIMEOUT)?;
        Ok(SegmentName::ending_at(self.found.timeline, lsn, self.found.segment_size))
    }

    /// Waits until the archive has a segment, by whichever server it was stored. Fails after `timeout`, and as soon as
    /// the server reports the segment as archived while the archive does not have it.
    pub fn await_segment(
        &self,
        pgdata: &Path,
        archive: &Archive,
        name: SegmentName,
        timeout: Duration,
    ) -> Result<()> {
        self.await_archived(pgdata, archive, name, timeout, false)
    }

    /// Waits until the archive has a segment of this server, like [`BackupServer::await_segment`].
    /// Fails also as soon as another server's file is found under the name of one of its own.
    pub(super) fn await_own_segment(
        &self,
        pgdata: &Path,
        archive: &Archive,
        name: SegmentName,
        timeout: Duration,
    ) -> Result<()> {
        self.await_archived(pgdata, archive, name, timeout, !self.found.in_recovery)
    }

    fn await_archived(
        &self,
        pgdata: &Path,
        archive: &Archive,
        name: SegmentName,
        timeout: Duration,
        must_be_own: bool,
    ) -> Result<()> {
        let begun = Instant::now();
        let mut wait = MIN_POLL_INTERVAL;
        loop {
            let has = archive.has_wal(WalName::Segment(name))?;
            if has && !must_be_own {
                return Ok(());
            }
            self.check()?;
            let archiver = self.archiver()?;
            // A standby does not report what its primary archives.
            let is_reported = !self.found.in_recovery && archiver.counts(pgdata, name);
            // walpush stores a segment before the server reports it as archived.
            if is_reported && !has && !archive.has_wal(WalName::Segment(name))? {
                return Err(Error::new(
                    Kind::Refused,
                    format!("the server reports {name} as archived, but the repository does not have it"),
                )
                .hint("archive_command leads somewhere else: another configuration, another cluster's name, or no walpush at all"));
            }
            if has && is_reported {
                return Ok(());
            }
            // A segment that arrives is usually reported at once; otherwise its name may be taken.
            if must_be_own && (archiver.failing().is_some() || begun.elapsed() > MAX_POLL_INTERVAL) {
                if let Some(failed) = archiver.failed_file() {
                    own::compare(pgdata, archive, failed)?;
                }
                if has && own::compare(pgdata, archive, WalName::Segment(name))?.is_some() {
                    return Ok(());
                }
            }
            if begun.elapsed() > timeout {
                let failed = archiver.failing().map_or_else(String::new, |last| format!("; {last}"));
                let arrived = if has { "was not reported as archived" } else { "did not arrive" };
                return Err(Error::new(
                    Kind::Timeout,
                    format!("{name} {arrived} within {timeout:?}{failed}"),
                )
                .hint(if self.can_switch() {
                    "the server's log has the reason why archive_command fails; `walkeep check` looks at the rest"
                } else {
                    "the primary has to complete and archive it: set archive_timeout there, or set `primary = \"host=…\"` beside `connection`, so that walkeep can end the segment"
                }));
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(MAX_POLL_INTERVAL);
        }
    }

    /// Returns the position up to which a server that takes writes has written WAL.
    pub fn write_position(&self) -> Result<Lsn> {
        let row = self.session.query_one("SELECT pg_current_wal_lsn()", &[], STATEMENT_TIMEOUT)?;
        lsn(&row, 0)
    }

    /// Reads the clock of the server.
    pub fn clock(&self) -> Result<jiff::Timestamp> {
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
        let row =
            self.session.query_one(sql, &[], STATEMENT_TIMEOUT).doing("read the clock of the server")?;
        timestamp(&row, 0)
    }

    /// Starts the backup, which takes as long as a checkpoint: minutes unless it is `fast`.
    pub fn start(&self, label: &str, fast: bool) -> Result<StartPoint> {
        // Lets the server detect that the client is gone. A server that cannot detect it continues
        // until its checkpoint.
        let _ = self.session.batch("SET client_connection_check_interval = '2s'", STATEMENT_TIMEOUT);
        let sql = "SELECT pg_backup_start($1, $2), (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
        let row = self.session.query_one(sql, &[&label, &fast], None).doing("start the backup")?;
        Ok(StartPoint { time: timestamp(&row, 1)?, lsn: lsn(&row, 0)? })
    }

    /// Stops the backup. Does not wait for its WAL.
    pub fn stop(&self) -> Result<StopPoint> {
        let doing = "stop the backup";
        pooler::check_process(&self.session).doing(doing)?;
        // A path may have an encoding other than the database's, which every conversion function
        // would refuse. The cast from text to bytea keeps all bytes except backslashes, which are
        // doubled for it.
        let sql = "SELECT lsn, replace(labelfile, chr(92), repeat(chr(92), 2))::bytea, \
                   replace(spcmapfile, chr(92), repeat(chr(92), 2))::bytea, \
                   (extract(epoch FROM clock_timestamp()) * 1000000)::int8, \
                   (SELECT setting FROM pg_settings WHERE name = 'data_checksums') \
                   FROM pg_backup_stop(wait_for_archive => false)";
        let row = self.session.query_one(sql, &[], STATEMENT_TIMEOUT).doing(doing)?;
        Ok(StopPoint {
            time: timestamp(&row, 3)?,
            lsn: lsn(&row, 0)?,
            checksums: ChecksumState::from_word(column(&row, 4)?)?,
            label: column(&row, 1)?,
            tablespace_map: column::<Option<Vec<u8>>>(&row, 2)?.filter(|map| !map.is_empty()),
        })
    }

    /// Paths of the files that `pg_hba.conf` and `pg_ident.conf` include (PostgreSQL 16 and later); none
    /// for a role that may not read the views.
    fn included_rules(&self) -> Vec<String> {
        if self.found.lineage.major < 16 {
            return Vec::new();
        }
        let sql =
            "SELECT file_name FROM pg_hba_file_rules UNION SELECT file_name FROM pg_ident_file_mappings";
        let rows = self.session.query(sql, &[], STATEMENT_TIMEOUT);
        let files =
            rows.and_then(|rows| rows.iter().map(|row| column(row, 0)).collect::<Result<Vec<String>>>());
        files.unwrap_or_else(|error| {
            tracing::info!("files that pg_hba.conf and pg_ident.conf include are not known: {error}");
            Vec::new()
        })
    }

    /// Paths of the configuration files that the server reads, and an error if the included files
    /// among them are not known.
    pub fn configuration_files(&self) -> (Vec<String>, Option<Error>) {
        let found = &self.found;
        let mut files: Vec<String> = Vec::new();
        let mut add = |file: String| {
            if !file.is_empty() && !files.contains(&file) {
                files.push(file);
            }
        };
        let named = [&found.settings.config_file, &found.hba_file, &found.ident_file];
        named.into_iter().chain(&found.hosts_file).for_each(|file| add(file.clone()));
        for file in self.included_rules() {
            add(file);
        }
        // Included files, for a role that may read the view.
        let sql = "SELECT DISTINCT sourcefile FROM pg_file_settings WHERE sourcefile IS NOT NULL";
        let included = self
            .session
            .query(sql, &[], STATEMENT_TIMEOUT)
            .and_then(|rows| rows.iter().map(|row| column::<String>(row, 0)).collect::<Result<Vec<_>>>());
        let unknown = match included {
            Ok(included) => {
                included.into_iter().for_each(add);
                None
            }
            Err(error) => {
                Some(error.doing("read which configuration files are included; they are left out").hint(
                    "as a superuser, for the role that walkeep uses:\n\
                     GRANT SELECT ON pg_file_settings TO …;\n\
                     GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO …;",
                ))
            }
        };
        (files, unknown)
    }
}

/// Refuses a data directory whose control file is behind the checkpoint with which the backup began
/// at `start`: it is not the data directory of the server.
pub fn check_checkpoint(pgdata: &Path, start: Lsn) -> Result<()> {
    let redo = Control::read(pgdata)?.redo();
    if redo >= start {
        return Ok(());
    }
    Err(Error::new(
        Kind::Identity,
        format!("the control file in {} is at {redo}, but the backup began at {start}", pgdata.display()),
    )
    .hint("`connection` and `pgdata` in the configuration have to be of the same cluster"))
}
