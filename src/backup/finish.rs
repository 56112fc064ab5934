//! Last phase of a backup: waits for its WAL, checks that everything it needs is in the repository,
//! and writes the record. Until then the backup is not listed.

use super::copy::CopiedBackup;
use super::earlier::check_stored;
use super::options::{Options, Taken};
use super::own::BackupRecords;
use super::pages::{BadPages, UnloggedChanges};
use super::prepare::{PreparedBackup, check_history};
use super::source::BackupServer;
use super::start::StartedBackup;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::checksums::ChecksumStates;
use crate::pg::label::Label;
use crate::pg::lsn::Lsn;
use crate::pg::segment::WalName;
use crate::progress;
use crate::repo::Archive;
use crate::repo::manifest::Use;
use crate::repo::record::{DamagedFile, Record, State, WalRange};
use std::ops::Range;
use std::time::Instant;
use tracing::info_span;

/// Awaits the WAL of a backup and writes its record.
pub(super) fn finish(copied: CopiedBackup<'_>) -> Result<Taken> {
    let CopiedBackup { started, packed, stopped, tablespaces, read, bad, unlogged } = copied;
    let StartedBackup { prepared, point, .. } = started;
    let PreparedBackup { options, server, id, announced, archive, earlier, .. } = &prepared;
    let label = Label::parse(&stopped.label)?;
    server.check_timeline(label.timeline)?;

    progress::step("waiting for the last segment to arrive in the repository");
    let found = &server.found;
    let wal =
        WalRange::of_backup(label.timeline, label.start..stopped.lsn, found.in_recovery, found.segment_size);
    await_wal(options, server, archive, wal)?;
    BackupRecords::new(&label, stopped.lsn)
        .check(archive, wal, found.segment_size)
        .doing("verify the WAL of the backup in the repository")?;
    check_history(archive, label.timeline)?;
    check_stored(archive, &packed.manifest)?;

    let manifest = packed.manifest;
    let shares_packs = manifest.packs.runs().any(|(storer, _)| storer != id);
    let shared: u64 = manifest.uses.iter().map(Use::share).sum();
    let checksums = ChecksumStates { end: stopped.checksums, ..found.settings.checksums() };
    let damaged = damaged_files(bad, checksums, label.start..stopped.lsn);
    let record = Record {
        id: id.clone(),
        state: if damaged.is_empty() { State::Complete } else { State::Damaged },
        start_time: point.time,
        stop_time: stopped.time,
        start_lsn: label.start,
        stop_lsn: stopped.lsn,
        timeline: label.timeline,
        system_identifier: found.lineage.system_identifier,
        pg_version: found.version.clone(),
        size: manifest.totals.bytes,
        stored: shared + manifest.stored,
        new_bytes: packed.new_bytes,
        files: manifest.totals.files,
        labels: options.labels.clone(),
        parent: earlier.parent.as_ref().filter(|_| shares_packs).map(|parent| parent.id.clone()),
        manifest: manifest.parts,
        packs: Some(manifest.packs),
        segment_size: found.segment_size,
        wal,
        settings: found.settings.clone().with_checksums(checksums),
        tablespaces,
        databases: found.databases.clone(),
        damaged,
    };
    announced.check()?;
    archive.put_record(&record)?;
    // Without a test of the WAL summaries there is nothing to report. Without data checksums at the
    // end, hint bits may have changed without WAL.
    let unlogged =
        unlogged.filter(|_| checksums.steady().is_some()).map_or_else(Vec::new, UnloggedChanges::into_files);
    Ok(Taken { record, read, unlogged })
}

/// Returns the files with bad pages. Pages are not judged when data checksums were turned off or on
/// while they were read: healthy ones may have no checksum.
fn damaged_files(bad: BadPages, checksums: ChecksumStates, lsns: Range<Lsn>) -> Vec<DamagedFile> {
    if checksums.are_on() {
        return bad.into_files(lsns.start, lsns.end);
    }
    if checksums.steady().is_none() {
        let what = format!("data checksums were {checksums}: the pages of this backup are not verified");
        progress::warn(&Error::new(Kind::Problem, what));
    }
    Vec::new()
}

/// Waits until every segment of the backup is archived.
fn await_wal(options: &Options, server: &BackupServer, archive: &Archive, wal: WalRange) -> Result<()> {
    let _span = info_span!("await_wal").entered();
    if server.found.in_recovery && !archive.has_wal(WalName::Segment(wal.last))? {
        if server.can_switch() {
            server.switch_segment()?;
        } else {
            tracing::info!(
                "waiting, for at most {:?}, until the primary has completed and archived {}: `primary` is not set, \
                 so walkeep cannot end the segment",
                options.archive_timeout,
                wal.last
            );
        }
    }
    let begun = Instant::now();
    let mut name = wal.first;
    while name <= wal.last {
        let left = options.archive_timeout.saturating_sub(begun.elapsed());
        server.await_own_segment(&options.pgdata, archive, name, left)?;
        name = name.next(server.found.segment_size);
    }
    Ok(())
}
