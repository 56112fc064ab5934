//! First phase of a backup: checks all conditions for its start on the server, and announces it.
//! From the announcement on, a prune on any host keeps the objects that the backup needs.

use super::earlier::Earlier;
use super::options::Options;
use super::outside;
use super::source::BackupServer;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::control::Control;
use crate::pg::lsn::Lsn;
use crate::pg::segment::{TimelineId, WalName};
use crate::progress;
use crate::repo::active::{Announcement, Heartbeat, Operation};
use crate::repo::lock::Lock;
use crate::repo::replay::check_size;
use crate::repo::{Archive, Repository};
use std::time::Duration;
use tracing::Span;

/// Time limit for the first segment to be archived: longer than the archiver waits before a retry.
const FIRST_SEGMENT_TIMEOUT: Duration = Duration::from_secs(90);

/// An announced backup of a cluster whose WAL is archived.
pub(super) struct PreparedBackup<'a> {
    pub options: &'a Options,
    pub server: &'a BackupServer,
    /// Id of the backup: `20261121T081459Z-` and the random digits.
    pub id: String,
    pub announced: Announcement,
    pub archive: Archive,
    pub earlier: Earlier,
    /// Lock of the data directory; released last.
    _lock: Lock,
}

/// Locks the data directory, checks that the server is the right one, announces the backup, chooses
/// the earlier backups, and waits for a first segment.
pub(super) fn prepare<'a>(
    options: &'a Options,
    server: &'a BackupServer,
    repository: &Repository,
) -> Result<PreparedBackup<'a>> {
    let lock = Lock::wait_for(&options.pgdata, options.wait).doing("lock the data directory")?;
    server.check_runs_on(&options.pgdata)?;
    check_settings(server)?;
    let archive = repository.open(server.found.lineage)?;
    let id = format!("{}-{}", server.clock()?.strftime("%Y%m%dT%H%M%SZ"), options.random);
    Span::current().record("id", id.as_str());
    // The first heartbeat has the id. A prune could remove an announcement without an id, and write
    // no fence, while this process is suspended; then the backup could still be recorded.
    let heartbeat = Heartbeat { backup: Some(id.clone()), ..Heartbeat::new(Operation::Backup) };
    let announced = Announcement::begin(&archive, heartbeat, &options.random).doing("announce the backup")?;
    repository.clean(options.garbage_before)?;
    check_history(&archive, server.found.timeline)?;
    if let Some(size) = archive.any_segment_size()? {
        check_size(size.bytes(), server.found.segment_size)
            .map_err(|error| error.with_kind(Kind::Refused))
            .doing("look at the WAL in the repository")?;
    }
    // A full backup compares with its parent only to test the WAL summaries.
    let mut earlier = if options.full && !uses_summaries(options, server) {
        Earlier::default()
    } else {
        Earlier::choose(&archive, &announced)?
    };
    if options.full {
        earlier.forbid_reuse();
    }
    outside::warn(&server.found.settings, earlier.parent.as_ref().map(|parent| &parent.settings));
    let wal_from = first_wal(options, server, &archive)?;
    announced.update(|heartbeat| heartbeat.wal_from = Some(wal_from))?;
    Ok(PreparedBackup { options, server, id, announced, archive, earlier, _lock: lock })
}

/// Whether the WAL summaries of the server are used.
pub(super) fn uses_summaries(options: &Options, server: &BackupServer) -> bool {
    options.wal_summaries && server.found.summarizes
}

fn check_settings(server: &BackupServer) -> Result<()> {
    match server.archiving_problems().into_iter().next() {
        Some(problem) => Err(problem.with_kind(Kind::Refused).doing("look at the settings of the server")),
        None => Ok(()),
    }
}

/// Returns the earliest LSN at which the backup may begin. If walkeep can end a segment, first
/// proves that WAL arrives in the repository.
fn first_wal(options: &Options, server: &BackupServer, archive: &Archive) -> Result<Lsn> {
    if server.can_switch() {
        progress::step("waiting for a first segment to arrive in the repository");
        let probe = server.switch_segment()?;
        let timeout = FIRST_SEGMENT_TIMEOUT.min(options.archive_timeout);
        server.await_own_segment(&options.pgdata, archive, probe, timeout)?;
        if !server.found.in_recovery {
            return Ok(probe.start(server.found.segment_size));
        }
    }
    Ok(Control::read(&options.pgdata)?.redo())
}

/// Refuses a timeline above 1 whose history file is not archived: recovery cannot follow it.
pub(super) fn check_history(archive: &Archive, timeline: TimelineId) -> Result<()> {
    let name = WalName::History(timeline);
    if timeline == TimelineId(1) || archive.has_wal(name)? {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("{name} is not in the repository"))
        .hint(format!(
            "a server that was on this timeline, or a standby of it, has it: type `walpush pg_wal/{name}` in its data directory. From the history of a later timeline `walkeep timelines --rebuild {timeline}` makes it again"
        )))
}
