//! The archiver of a server: which segment it counts as archived, and what it fails at.

use super::session::STATEMENT_TIMEOUT;
use super::source::BackupServer;
use crate::error::{Error, Kind, Result};
use crate::fs::folder::kind;
use crate::fs::named;
use crate::pg::client::column;
use crate::pg::running::LockFile;
use crate::pg::segment::{SegmentName, WalName};
use crate::pg::shell::ShellCommand;
use rustix::fs::{FileType, Stat};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Interval between two looks at the archiver.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum size in bytes of the environment of a process.
const MAX_ENVIRON: u64 = 4 << 20;

/// Time for which the archiver may go on after a failure: it tries a file three times, a second
/// apart (`pgarch_ArchiverCopyLoop`).
const FAILURE_GRACE: Duration = Duration::from_secs(4);

/// Row of `pg_stat_archiver`. Times are those of the server, as PostgreSQL prints them.
pub(super) struct ArchiverStatus {
    last_archived: Option<String>,
    failed_count: i64,
    last_failed: Option<String>,
    last_failed_time: Option<String>,
    /// Whether the last failure is newer than the last success.
    is_failing: bool,
}

impl ArchiverStatus {
    /// Describes the failure of the last attempt; `None` when the last attempt succeeded.
    pub fn failing(&self) -> Option<String> {
        let (name, time) = (self.last_failed.as_ref()?, self.last_failed_time.as_ref()?);
        self.is_failing.then(|| {
            format!("archive_command has failed {} times, last for {name} at {time}", self.failed_count)
        })
    }

    /// Returns the file for which archive_command fails; `None` when it does not fail.
    pub fn failed_file(&self) -> Option<WalName> {
        self.last_failed.as_ref().filter(|_| self.is_failing)?.parse().ok()
    }

    /// Whether the server counts a segment as archived: the segment or a later file of its timeline
    /// is the last archived one, or it has the status file `.done`, which is removed with it.
    pub fn counts(&self, pgdata: &Path, name: SegmentName) -> bool {
        let folder = pgdata.join("pg_wal/archive_status");
        let is_marked =
            |end: &str| matches!(named::entry(&folder.join(format!("{name}.{end}"))), Ok(Some(_)));
        if is_marked("ready") {
            return false;
        }
        let last = self.last_archived.as_ref().and_then(|last| last.parse().ok());
        let is_behind = match last {
            Some(WalName::Segment(last)) => last.timeline == name.timeline && last >= name,
            // The name of a backup history file may be older than the file.
            Some(WalName::Backup(last, _) | WalName::Partial(last)) => {
                last.timeline == name.timeline && last > name
            }
            Some(WalName::History(_)) | None => false,
        };
        is_behind || is_marked("done")
    }
}

impl BackupServer {
    pub(super) fn archiver(&self) -> Result<ArchiverStatus> {
        let sql = "SELECT last_archived_wal, failed_count, last_failed_wal, last_failed_time::text, \
                   coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL) \
                   FROM pg_stat_archiver";
        // A standby does not report what its primary archives.
        let session = self.primary.as_ref().unwrap_or(&self.session);
        let row = session.query_one(sql, &[], STATEMENT_TIMEOUT)?;
        Ok(ArchiverStatus {
            last_archived: column(&row, 0)?,
            failed_count: column(&row, 1)?,
            last_failed: column(&row, 2)?,
            last_failed_time: column(&row, 3)?,
            is_failing: column(&row, 4)?,
        })
    }

    /// Number of failures of `archive_command` since the statistics were reset.
    pub fn archiver_failures(&self) -> Result<i64> {
        Ok(self.archiver()?.failed_count)
    }

    /// Waits until the server counts a segment as archived and no older file waits. `failures` is
    /// the number of failures before the segment was finished.
    ///
    /// # Errors
    ///
    /// `Problem` after `timeout`, or when `archive_command` fails meanwhile and goes on to fail.
    pub fn await_counted(
        &self,
        pgdata: &Path,
        name: SegmentName,
        failures: i64,
        timeout: Duration,
    ) -> Result<()> {
        let begun = Instant::now();
        let mut failed_since = None;
        loop {
            self.check()?;
            let archiver = self.archiver()?;
            let is_counted = archiver.counts(pgdata, name);
            let older = if self.found.in_recovery { None } else { oldest_ready(pgdata, name)? };
            if is_counted && older.is_none() {
                return Ok(());
            }
            let failing = archiver.failing();
            let patience = match (&failing, archiver.failed_count > failures) {
                (Some(_), true) => {
                    let since: Instant = *failed_since.get_or_insert_with(Instant::now);
                    FAILURE_GRACE.saturating_sub(since.elapsed())
                }
                _ => timeout.saturating_sub(begun.elapsed()),
            };
            if patience.is_zero() {
                let not_counted = || format!("the server does not count {name} as archived");
                let what = match (older, is_counted) {
                    (Some(older), true) => format!("{older} is still not archived, although {name} is"),
                    (Some(older), false) => format!("{}: {older} waits before it", not_counted()),
                    (None, _) => not_counted(),
                };
                let failing = failing.map_or_else(String::new, |failing| format!("; {failing}"));
                return Err(Error::new(Kind::Problem, what + &failing).hint(
                    "look for `walpush: error:` with the name of this file in the server's log, and for the hint below it: until it is archived, pg_wal grows. Remove nothing from pg_wal",
                ));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Returns the problem that the program of `archive_command` does not exist or cannot be
    /// executed. A program without a directory is searched in the `PATH` of the server, if that can
    /// be read.
    pub fn archive_program_problem(&self, pgdata: &Path) -> Option<Error> {
        let command = ShellCommand::parse(&self.found.archive_command)?;
        let program = command.program()?.replace("%%", "%");
        if program.contains(['$', '`', '*', '?', '~']) {
            return None;
        }
        let places: Vec<PathBuf> = if program.contains('/') {
            // The server runs the command in its data directory.
            vec![pgdata.join(&program)]
        } else {
            search_path(pgdata)?.split(':').map(|place| pgdata.join(place).join(&program)).collect()
        };
        let states: Vec<(&PathBuf, Result<Option<Stat>>)> =
            places.iter().map(|place| (place, named::stat(place))).collect();
        let files = states.iter().filter_map(|(place, stat)| Some((*place, stat.as_ref().ok()?.as_ref()?)));
        let found: Vec<(&PathBuf, &Stat)> =
            files.filter(|(_, stat)| kind(stat) == FileType::RegularFile).collect();
        if found.iter().any(|(_, stat)| stat.st_mode & 0o111 != 0) {
            return None;
        }
        let (what, hint) = match found.first() {
            Some((place, _)) => (
                format!("{} is not executable", place.display()),
                format!("type `chmod +x {}` as its owner", place.display()),
            ),
            // A directory that this user may not search proves nothing.
            None if states.iter().all(|(_, stat)| matches!(stat, Ok(None))) => {
                let place = if program.contains('/') { "" } else { " in the PATH of the server" };
                let what = format!("{program} does not exist{place}");
                (what, "install walpush there, or set archive_command to the path of walpush".to_owned())
            }
            None => return None,
        };
        let what = format!("archive_command is `{}`: {what}", self.found.archive_command);
        Some(Error::new(Kind::Problem, what).hint(hint))
    }
}

/// Returns the `PATH` in the environment of the server; `None` when it cannot be read.
fn search_path(pgdata: &Path) -> Option<String> {
    let pid = LockFile::read(pgdata).ok()??.pid()?;
    let environment = named::read(Path::new(&format!("/proc/{pid}/environ")), MAX_ENVIRON).ok()??;
    let mut variables = environment.split(|byte| *byte == 0);
    let path = variables.find_map(|variable| variable.strip_prefix(b"PATH="))?;
    Some(String::from_utf8_lossy(path).into_owned())
}

/// Returns the oldest file that waits to be archived and that the archiver takes before a segment:
/// histories, and files with lower names (`ready_file_comparator` in `pgarch.c`).
fn oldest_ready(pgdata: &Path, name: SegmentName) -> Result<Option<WalName>> {
    let folder = pgdata.join("pg_wal/archive_status");
    let mut oldest = None;
    for (file, _) in named::list(&folder)?.ok_or_else(|| named::missing(&folder))? {
        let ready = file.to_str().and_then(|file| file.strip_suffix(".ready"));
        let Some(Ok(ready)) = ready.map(str::parse::<WalName>) else {
            continue;
        };
        let is_before = match ready {
            WalName::History(_) => true,
            WalName::Segment(other) | WalName::Partial(other) | WalName::Backup(other, _) => other < name,
        };
        if is_before && oldest.is_none_or(|oldest| ready < oldest) {
            oldest = Some(ready);
        }
    }
    Ok(oldest)
}
