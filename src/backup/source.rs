//! The server that is backed up: what it is, whether it is the right one, and the session that a backup
//! lives and dies with.

use super::{pooler, standby};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{KeepAlive, Options, Session, column};
use crate::pg::conninfo::ConnInfo;
use crate::pg::control::Control;
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId, WalName};
use crate::repo::record::{Database, Settings};
use crate::repo::{Archive, Lineage};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_postgres::types::PgLsn;

/// The bound of every statement that does not wait for anything.
pub(super) const SOON: Option<Duration> = Some(Duration::from_secs(60));

/// The archive is looked at more and more rarely while WAL is awaited, at last this often.
const POLL: Duration = Duration::from_millis(100);

/// What is needed of the primary of a standby, to end a segment there.
pub(super) const GRANTED_THERE: [(&str, &str); 3] = [GRANTS[3], GRANTS[4], GRANTS[5]];

/// What a backup and a check need of the server.
const GRANTS: [(&str, &str); 6] = [
    ("pg_read_all_settings", "GRANT pg_read_all_settings TO"),
    ("pg_backup_start(text,boolean)", "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO"),
    ("pg_backup_stop(boolean)", "GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO"),
    ("pg_switch_wal()", "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO"),
    ("pg_create_restore_point(text)", "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO"),
    ("pg_control_system()", "GRANT EXECUTE ON FUNCTION pg_control_system() TO"),
];

/// A session with the server, and what the server says of itself.
pub struct Server {
    pub(super) session: Session,
    /// Of a standby, where it is known.
    pub(super) primary: Option<Session>,
    pub found: Found,
}

pub struct Found {
    pub lineage: Lineage,
    /// As `server_version` has it.
    pub version: String,
    pub segment_size: SegmentSize,
    pub timeline: TimelineId,
    pub settings: Settings,
    pub databases: Vec<Database>,
    pub hba_file: String,
    pub ident_file: String,
    pub wal_level: String,
    pub archive_mode: String,
    pub archive_command: String,
    pub archive_library: String,
    pub in_recovery: bool,
    /// Whether it writes summaries of its WAL, as PostgreSQL 17 and later can.
    pub summarizes: bool,
    /// Whether a change of nothing but hint bits is in the WAL.
    pub logs_hints: bool,
}

/// `pg_backup_start` has returned: the files may be read.
pub struct Started {
    pub time: jiff::Timestamp,
    pub lsn: Lsn,
}

/// `pg_backup_stop` has returned. The files are as the server gave them, byte for byte.
pub struct Stopped {
    /// When the server was past the end of the backup.
    pub time: jiff::Timestamp,
    pub lsn: Lsn,
    pub label: Vec<u8>,
    /// Empty: there is no such file.
    pub tablespace_map: Vec<u8>,
}

/// What `pg_stat_archiver` says.
struct Archiver {
    last_archived: Option<String>,
    failed_count: i64,
    last_failed: Option<String>,
}

impl Server {
    /// Connects, checks the grants and looks around. Changes nothing. `primary` is asked for where the server is
    /// a standby.
    pub fn connect(info: &ConnInfo, primary: Option<&ConnInfo>) -> Result<Server> {
        let options = Options {
            keep_alive: KeepAlive { every: Duration::from_secs(2), ..KeepAlive::default() },
            ..Options::default()
        };
        let session = Session::connect(info, &options)?;
        pooler::check(&session, info, &options)?;
        check_grants(&session, &GRANTS)?;
        let found = look_around(&session)?;
        if !found.in_recovery {
            return Ok(Server { session, primary: None, found });
        }
        let session = Session::connect(info, &standby::watching(&options))?;
        pooler::check_process(&session)?;
        let system = found.lineage.system_identifier;
        let primary = primary.map(|info| standby::primary(info, &options, system)).transpose()?;
        Ok(Server { session, primary, found })
    }

    /// Fails at once when the session was lost.
    pub fn check(&self) -> Result<()> {
        self.session.check().map_err(|error| {
            error
                .doing("watch the session that the backup depends on")
                .hint("the server has ended the backup with it; nothing was recorded, start again")
        })
    }

    /// Whether this is the server of that data directory: the same cluster, running on the same files.
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
        let canonical = |path: &Path| std::fs::canonicalize(path).ok();
        let directory = Path::new(&self.found.settings.data_directory);
        if canonical(directory) != canonical(pgdata) {
            return wrong(format!("the server runs on {}", directory.display()));
        }
        // Two servers on copies of one cluster: the process that wrote the lock file has to be this one.
        let row = self.session.query_one(
            "SELECT extract(epoch FROM pg_postmaster_start_time())::bigint",
            &[],
            SOON,
        )?;
        let started: i64 = column(&row, 0)?;
        let lock = pgdata.join("postmaster.pid");
        let text = std::fs::read_to_string(&lock).doing(|| format!("read {}", lock.display()))?;
        let written = text.lines().nth(2).and_then(|line| line.trim().parse::<i64>().ok());
        // The lock file is written a moment before the time that the server remembers.
        if written.is_none_or(|written| (started - written).abs() > 60) {
            return wrong("another server holds the lock file of the data directory".to_owned());
        }
        Ok(())
    }

    /// What keeps WAL from arriving: each with the line to type.
    pub fn archiving_problems(&self) -> Vec<Error> {
        let mut problems = Vec::new();
        if self.found.in_recovery {
            // Its WAL is the primary's, and so is the archiving.
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
        let command = found.archive_command.trim();
        if command.is_empty() || command == "(disabled)" {
            problem(
                "archive_command is empty".into(),
                "set `archive_command = 'walpush %p'` and reload the server",
            );
        } else if !command.contains("walpush") {
            problem(
                format!("archive_command is `{command}`, which is not walpush"),
                "set `archive_command = 'walpush %p'` and reload the server",
            );
        } else if ["||", "|", ";", "&"].iter().any(|sign| command.contains(sign)) {
            problem(
                format!("archive_command is `{command}`: the shell may hide the exit status of walpush"),
                "let archive_command be walpush alone, without pipes and further commands",
            );
        } else if !command.contains("%p") {
            problem(
                format!("archive_command is `{command}`, without %p"),
                "set `archive_command = 'walpush %p'`",
            );
        }
        problems
    }

    /// Writes a little WAL and ends the segment that it lies in, so that the server archives it.
    pub fn switch_segment(&self) -> Result<SegmentName> {
        let session = self.primary.as_ref().unwrap_or(&self.session);
        let row = session.query_one("SELECT pg_create_restore_point('walkeep')", &[], SOON)?;
        let lsn = lsn(&row, 0)?;
        session.query("SELECT pg_switch_wal()", &[], SOON)?;
        Ok(SegmentName::ending_at(self.found.timeline, lsn, self.found.segment_size))
    }

    /// Waits until the archive has a complete segment; no longer when the server says that it has archived it
    /// and the archive does not have it.
    pub fn await_segment(
        &self,
        pgdata: &Path,
        archive: &Archive,
        name: SegmentName,
        patience: Duration,
    ) -> Result<()> {
        let begun = Instant::now();
        let mut wait = POLL / 16;
        while !archive.has_wal(WalName::Segment(name))? {
            self.check()?;
            let archiver = self.archiver()?;
            // The last one may be the history file of a backup, whose name is older than its making.
            let status = pgdata.join("pg_wal/archive_status").join(format!("{name}.done"));
            // A standby says nothing of what its primary archives.
            let later = !self.found.in_recovery
                && (archiver.last_archived.as_ref().is_some_and(|last| *last >= name.to_string())
                    || status.exists());
            // The server says so after the repository has it: what is not there now went elsewhere.
            if later && !archive.has_wal(WalName::Segment(name))? {
                return Err(Error::new(
                    Kind::Refused,
                    format!("the server says that it has archived {name}, but the repository does not have it"),
                )
                .hint("archive_command leads somewhere else: another configuration, another cluster's name, or no walpush at all"));
            }
            if begun.elapsed() > patience {
                let failed = archiver.last_failed.map_or_else(String::new, |last| {
                    format!("; the archiver failed {} times, last with {last}", archiver.failed_count)
                });
                return Err(Error::new(
                    Kind::Timeout,
                    format!("{name} did not arrive within {patience:?}{failed}"),
                )
                .hint(match self.can_switch() {
                    true => "the server's log says why its archive_command fails; `walkeep check` looks at the rest",
                    false => "the primary has to finish and archive it: set archive_timeout there, or give `primary = \"host=…\"` beside `connection`, so that it is asked to",
                }));
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(POLL);
        }
        Ok(())
    }

    fn archiver(&self) -> Result<Archiver> {
        let row = self.session.query_one(
            "SELECT last_archived_wal, failed_count, last_failed_wal FROM pg_stat_archiver",
            &[],
            SOON,
        )?;
        Ok(Archiver {
            last_archived: column(&row, 0)?,
            failed_count: column(&row, 1)?,
            last_failed: column(&row, 2)?,
        })
    }

    /// Begins the backup. Takes as long as a checkpoint does; with `spread` that is minutes.
    pub fn start(&self, label: &str, fast: bool) -> Result<Started> {
        // Lets the server notice that nobody waits any more; one that cannot do so goes on until its checkpoint.
        let _ = self.session.batch("SET client_connection_check_interval = '2s'", SOON);
        let sql = "SELECT pg_backup_start($1, $2), extract(epoch FROM clock_timestamp())::float8";
        let row = self.session.query_one(sql, &[&label, &fast], None).doing(|| "begin the backup".into())?;
        Ok(Started { time: time(column(&row, 1)?), lsn: lsn(&row, 0)? })
    }

    /// Ends the backup. Does not wait for its WAL.
    pub fn stop(&self) -> Result<Stopped> {
        let doing = || "end the backup".to_owned();
        pooler::check_process(&self.session).doing(doing)?;
        // The bytes as they are: a path may be in an encoding that is not the database's, and no function that
        // converts would take it. A text becomes bytes by its own characters but for backslashes.
        let sql = "SELECT lsn, replace(labelfile, chr(92), repeat(chr(92), 2))::bytea, \
                   replace(spcmapfile, chr(92), repeat(chr(92), 2))::bytea, \
                   extract(epoch FROM clock_timestamp())::float8 \
                   FROM pg_backup_stop(wait_for_archive => false)";
        let row = self.session.query_one(sql, &[], SOON).doing(doing)?;
        Ok(Stopped {
            time: time(column(&row, 3)?),
            lsn: lsn(&row, 0)?,
            label: column(&row, 1)?,
            tablespace_map: column::<Option<Vec<u8>>>(&row, 2)?.unwrap_or_default(),
        })
    }

    /// Configuration files that the server has read, and why that may not be all of them.
    pub fn configuration_files(&self) -> (Vec<String>, Option<Error>) {
        let found = &self.found;
        let mut files: Vec<String> = Vec::new();
        let mut add = |file: String| {
            if !file.is_empty() && !files.contains(&file) {
                files.push(file);
            }
        };
        [&found.settings.config_file, &found.hba_file, &found.ident_file]
            .into_iter()
            .for_each(|f| add(f.clone()));
        // Included files, for a role that may see them.
        let sql = "SELECT DISTINCT sourcefile FROM pg_file_settings WHERE sourcefile IS NOT NULL";
        let included = self
            .session
            .query(sql, &[], SOON)
            .and_then(|rows| rows.iter().map(|row| column::<String>(row, 0)).collect::<Result<Vec<_>>>());
        let unknown = match included {
            Ok(included) => {
                included.into_iter().for_each(add);
                None
            }
            Err(error) => {
                Some(error.doing("ask which configuration files are included; they are left out").hint(
                    "as a superuser, for the role that walkeep uses:\n\
                     GRANT SELECT ON pg_file_settings TO …;\n\
                     GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO …;",
                ))
            }
        };
        (files, unknown)
    }
}

pub(super) fn check_grants(session: &Session, grants: &[(&str, &str)]) -> Result<()> {
    let row = session.query_one("SELECT quote_ident(current_user)::text", &[], SOON)?;
    let role: String = column(&row, 0)?;
    let mut missing = Vec::new();
    for (what, grant) in grants {
        let sql = match what.contains('(') {
            true => "SELECT has_function_privilege('pg_catalog.' || $1::text, 'EXECUTE')",
            false => "SELECT pg_has_role($1::text, 'USAGE')",
        };
        let row = session.query_one(sql, &[what], SOON)?;
        if !column::<bool>(&row, 0)? {
            missing.push(format!("{grant} {role};"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Denied,
        format!("the role {role} lacks {} of the grants that walkeep needs", missing.len()),
    )
    .hint(format!("as a superuser, in the database that `connection` names:\n{}", missing.join("\n"))))
}

fn look_around(session: &Session) -> Result<Found> {
    let doing = || "ask the server for its settings".to_owned();
    let rows =
        session.query("SELECT name, coalesce(setting, '') FROM pg_settings", &[], SOON).doing(doing)?;
    let mut settings = HashMap::new();
    for row in &rows {
        settings.insert(column::<String>(row, 0)?, column::<String>(row, 1)?);
    }
    let setting = |name: &str| -> Result<String> {
        settings.get(name).cloned().ok_or_else(|| {
            Error::new(Kind::Failed, format!("the server does not tell its setting {name}")).doing(doing())
        })
    };
    let number = |name: &str| -> Result<u64> {
        setting(name)?.parse().map_err(|_| {
            Error::new(Kind::Failed, format!("the server's setting {name} is no number")).doing(doing())
        })
    };
    // The timeline on which WAL is written now; the control file learns of it only at the next checkpoint.
    let sql = "SELECT system_identifier, pg_is_in_recovery(), \
               CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) \
               ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END, \
               (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone') FROM pg_control_system()";
    let row = session.query_one(sql, &[], SOON).doing(doing)?;
    let timeline: i32 = column(&row, 2)?;
    let databases = session.query("SELECT oid, datname::text FROM pg_database ORDER BY oid", &[], SOON);
    let databases = databases.doing(doing)?;
    let database = |row| Ok(Database { oid: column(row, 0)?, name: column(row, 1)? });
    Ok(Found {
        lineage: Lineage {
            // SQL has only signed numbers; the identifier is the same 64 bits.
            system_identifier: column::<i64>(&row, 0)? as u64,
            major: session.server_version_num() / 10_000,
        },
        version: setting("server_version")?,
        segment_size: SegmentSize::try_from(number("wal_segment_size")?)?,
        timeline: TimelineId(timeline as u32),
        settings: Settings {
            time_zone: column(&row, 3)?,
            block_size: number("block_size")? as u32,
            data_checksums: setting("data_checksums")? == "on",
            data_directory: setting("data_directory")?,
            config_file: setting("config_file")?,
            from_standby: column(&row, 1)?,
        },
        databases: databases.iter().map(database).collect::<Result<_>>()?,
        hba_file: setting("hba_file")?,
        ident_file: setting("ident_file")?,
        wal_level: setting("wal_level")?,
        archive_mode: setting("archive_mode")?,
        archive_command: setting("archive_command")?,
        archive_library: setting("archive_library")?,
        in_recovery: column(&row, 1)?,
        summarizes: settings.get("summarize_wal").is_some_and(|value| value == "on"),
        logs_hints: setting("data_checksums")? == "on" || setting("wal_log_hints")? == "on",
    })
}

/// Whether the files on disk are those of the server that has begun a backup: their control file has to
/// know of the checkpoint.
pub fn check_checkpoint(pgdata: &Path, start: Lsn) -> Result<()> {
    let redo = Control::read(pgdata)?.redo();
    if redo >= start {
        return Ok(());
    }
    Err(Error::new(
        Kind::Identity,
        format!("the control file in {} is at {redo}, the backup began at {start}", pgdata.display()),
    )
    .hint("`connection` and `pgdata` in the configuration have to be of the same cluster"))
}

/// A `pg_lsn`, which the client does not know by name.
pub(super) fn lsn(row: &crate::pg::client::Row, index: usize) -> Result<Lsn> {
    column::<PgLsn>(row, index).map(|lsn| Lsn(lsn.into()))
}

/// Seconds since 1970 with a fraction, as the server's clock has them.
fn time(seconds: f64) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond((seconds * 1e6) as i64).unwrap_or_default()
}
