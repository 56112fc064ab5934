//! Connects to the server that is backed up: looks for a pooler, checks the grants, reads the
//! settings, and decides between a primary and a standby.

use super::outside::{outside, wal_directory};
use super::session::{SERVER_GRANTS, STATEMENT_TIMEOUT, check_grants};
use super::source::{BackupServer, ServerFacts};
use super::{pooler, standby};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::checksums::{ChecksumState, ChecksumStates};
use crate::pg::client::{KeepAlive, Session, SessionOptions, column};
use crate::pg::conninfo::ConnInfo;
use crate::pg::names;
use crate::pg::segment::{SegmentSize, TimelineId};
use crate::repo::Lineage;
use crate::repo::record::{Database, Settings};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// Interval of the keep-alive statement, which detects a lost session while files are read.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);

impl BackupServer {
    /// Connects, checks the grants and reads the settings. Changes nothing. `primary` names the
    /// primary of a standby; a backup of a primary ignores it.
    pub fn connect(info: &ConnInfo, primary: Option<&ConnInfo>) -> Result<BackupServer> {
        let options = SessionOptions {
            keep_alive: KeepAlive { every: KEEP_ALIVE_INTERVAL, ..KeepAlive::default() },
            ..SessionOptions::default()
        };
        let session = Session::connect(info, &options)?;
        pooler::check(&session, info, &options)?;
        check_grants(&session, &SERVER_GRANTS)?;
        let found = read_facts(&session).doing("read the settings of the server")?;
        if !found.in_recovery {
            return Ok(BackupServer { session, primary: None, found });
        }
        let session = Session::connect(info, &standby::watching(&options))?;
        pooler::check_process(&session)?;
        let system = found.lineage.system_identifier;
        let primary = primary.map(|info| standby::connect_primary(info, &options, system)).transpose()?;
        Ok(BackupServer { session, primary, found })
    }
}

/// All settings of the server, by name.
struct ServerSettings(HashMap<String, String>);

impl ServerSettings {
    fn read(session: &Session) -> Result<ServerSettings> {
        let sql = "SELECT name, coalesce(setting, '') FROM pg_settings";
        let rows = session.query(sql, &[], STATEMENT_TIMEOUT)?;
        let setting = |row| Ok((column(row, 0)?, column(row, 1)?));
        rows.iter().map(setting).collect::<Result<_>>().map(ServerSettings)
    }

    fn text(&self, name: &str) -> Result<String> {
        let missing = || Error::new(Kind::Failed, format!("pg_settings has no setting {name}"));
        self.0.get(name).cloned().ok_or_else(missing)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        let text = self.text(name)?;
        let invalid = |_| {
            Error::new(
                Kind::Failed,
                format!("the setting {name} of the server, {text}, is not a valid number"),
            )
        };
        text.parse().map_err(invalid)
    }

    fn is_on(&self, name: &str) -> Result<bool> {
        Ok(self.text(name)? == "on")
    }
}

fn read_facts(session: &Session) -> Result<ServerFacts> {
    let settings = ServerSettings::read(session)?;
    let checksums = ChecksumState::from_word(&settings.text("data_checksums")?)?;
    // The timeline on which WAL is written now; the control file has it only after the next
    // checkpoint.
    let sql = "SELECT system_identifier, pg_is_in_recovery(), \
               CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) \
               ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END, \
               (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone') FROM pg_control_system()";
    let row = session.query_one(sql, &[], STATEMENT_TIMEOUT)?;
    let databases = format!("SELECT oid, {} FROM pg_database ORDER BY oid", names::escaped("datname"));
    let databases = session.query(&databases, &[], STATEMENT_TIMEOUT)?;
    let database = |row| {
        let escaped: String = column(row, 1)?;
        let name = names::unescape(&escaped).unwrap_or(escaped);
        Ok(Database { oid: column(row, 0)?, name })
    };
    let data_directory = PathBuf::from(settings.text("data_directory")?);
    Ok(ServerFacts {
        lineage: Lineage {
            // SQL has only signed integers; the identifier is the same 64 bits.
            system_identifier: column::<i64>(&row, 0)?.cast_unsigned(),
            major: session.server_version_num() / 10_000,
        },
        version: settings.text("server_version")?,
        segment_size: SegmentSize::try_from(settings.number::<u64>("wal_segment_size")?)?,
        timeline: TimelineId(column::<i32>(&row, 2)?.cast_unsigned()),
        settings: Settings {
            time_zone: column(&row, 3)?,
            block_size: settings.number("block_size")?,
            data_checksums: false,
            checksum_states: None,
            data_directory: settings.text("data_directory")?,
            config_file: settings.text("config_file")?,
            from_standby: column(&row, 1)?,
            wal_directory: wal_directory(&data_directory),
            outside: outside(|name| settings.0.get(name).map(String::as_str), &data_directory),
        }
        .with_checksums(ChecksumStates { start: checksums, end: checksums }),
        databases: databases.iter().map(database).collect::<Result<_>>()?,
        hba_file: settings.text("hba_file")?,
        ident_file: settings.text("ident_file")?,
        hosts_file: settings.0.get("hosts_file").cloned(),
        wal_level: settings.text("wal_level")?,
        archive_mode: settings.text("archive_mode")?,
        archive_command: settings.text("archive_command")?,
        archive_library: settings.text("archive_library")?,
        in_recovery: column(&row, 1)?,
        summarizes: settings.0.get("summarize_wal").is_some_and(|value| value == "on"),
        logs_hints: checksums == ChecksumState::On || settings.is_on("wal_log_hints")?,
    })
}
