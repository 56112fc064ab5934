//! Settings of the server that work but have a cost. Settings that prevent archiving are checked by
//! `backup`.

use super::{CheckResult, STATEMENT_TIMEOUT};
use crate::error::{Doing, Result};
use crate::pg::client::{Session, column};
use crate::pg::shell::ShellCommand;
use std::collections::BTreeMap;

const SETTINGS: &str = "\
    SELECT name, coalesce(setting, ''), pending_restart FROM pg_settings \
     WHERE name IN ('archive_mode', 'archive_timeout', 'archive_cleanup_command', 'full_page_writes', \
                    'restore_command', 'summarize_wal', 'wal_level')";

/// Tablespaces inside of the data directory. PostgreSQL warns when one is created there.
const INSIDE: &str = "\
    SELECT oid, location FROM (SELECT oid, pg_tablespace_location(oid) AS location FROM pg_tablespace) AS t \
     WHERE starts_with(location, current_setting('data_directory') || '/')";

struct CheckedSettings(BTreeMap<String, String>);

impl CheckedSettings {
    /// Returns the value of a setting; empty when the server does not have it.
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// Returns possible improvements, each with the line to type.
pub fn judge(session: &Session, in_recovery: bool) -> Result<Vec<CheckResult>> {
    let mut settings = CheckedSettings(BTreeMap::new());
    let mut findings = Vec::new();
    for row in session.query(SETTINGS, &[], Some(STATEMENT_TIMEOUT)).doing("read the settings")? {
        let name: String = column(&row, 0)?;
        if column(&row, 2)? {
            findings.push(CheckResult::warning(
                format!("{name} was changed in the configuration and is not in force yet"),
                "restart the server",
            ));
        }
        settings.0.insert(name, column(&row, 1)?);
    }
    for row in session.query(INSIDE, &[], Some(STATEMENT_TIMEOUT)).doing("read the tablespaces")? {
        let (oid, location): (u32, String) = (column(&row, 0)?, column(&row, 1)?);
        findings.push(CheckResult::warning(
            format!("tablespace {oid} is inside of the data directory ({location})"),
            format!("a restore has to put it elsewhere, with --tablespace {oid}=DIR"),
        ));
    }
    if in_recovery {
        of_standby(&settings, &mut findings);
    } else {
        of_primary(&settings, &mut findings);
    }
    Ok(findings)
}

fn of_primary(settings: &CheckedSettings, findings: &mut Vec<CheckResult>) {
    if settings.get("archive_timeout") == "0" {
        findings.push(CheckResult::warning(
            "archive_timeout is 0: on a server with little activity the last changes may wait for days to be archived",
            "set `archive_timeout = '1min'` and reload the server",
        ));
    }
    if settings.get("full_page_writes") == "off" {
        findings.push(CheckResult::warning(
            "full_page_writes is off: after a crash pages may be half written, and no backup of a standby can be taken",
            "set `full_page_writes = on` and reload the server, unless the file system never tears a page",
        ));
    }
    if settings.get("summarize_wal") == "off" && settings.get("wal_level") != "minimal" {
        findings.push(CheckResult::advice(
            "summarize_wal is off, so backups read every file",
            "set `summarize_wal = on` and reload the server: then they read only what may have changed",
        ));
    }
}

fn of_standby(settings: &CheckedSettings, findings: &mut Vec<CheckResult>) {
    const LINE: &str = "set `restore_command = 'walfetch %f %p'` and reload the server";
    let command = settings.get("restore_command");
    findings.push(match ShellCommand::parse(command) {
        _ if command.trim().is_empty() => CheckResult::warning(
            "restore_command is empty: a standby that falls too far behind its primary cannot catch up from the archive",
            LINE,
        ),
        None => CheckResult::failed(
            format!("restore_command is `{command}`, with a quote that is not closed"),
            LINE,
        ),
        Some(parsed) if !parsed.mentions("walfetch") => {
            CheckResult::warning(format!("restore_command is `{command}`, which is not walfetch"), LINE)
        }
        Some(parsed) if parsed.has_several() => CheckResult::failed(
            format!("restore_command is `{command}`: the shell may hide the exit status of walfetch, and an outage would look like the end of the archive"),
            "set restore_command to walfetch alone, without pipes and further commands",
        ),
        Some(parsed) if !parsed.has_placeholder('f') || !parsed.has_placeholder('p') => {
            CheckResult::failed(format!("restore_command is `{command}`, without %f or %p"), LINE)
        }
        Some(_) => CheckResult::ok(format!("restore_command is `{command}`")),
    });
    let cleanup = settings.get("archive_cleanup_command");
    if !cleanup.is_empty() {
        findings.push(CheckResult::warning(
            format!("archive_cleanup_command is `{cleanup}`: it removes WAL that backups need if it works on a repository"),
            "set `archive_cleanup_command = ''` and reload the server: `walkeep prune` removes WAL that is no longer needed",
        ));
    }
}
