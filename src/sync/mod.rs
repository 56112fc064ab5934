//! Copies the objects that one repository has and another one lacks: WAL first, then backups, the
//! record of each backup last. Each object is checked while it is copied. No object is removed or
//! replaced on either side, so a sync can be interrupted at any moment and started again.
//!
//! Objects are streamed from one store to the other. At most [`MAX_OBJECTS_AT_ONCE`] are copied at
//! once, even if `jobs` is larger, and each takes at most 8 MiB: a frame and its content, or the
//! few pieces of a WAL file that wait for their check. An object store as the target takes 16 MiB
//! more for each, a part of an upload. So sync needs less than 100 MiB for any size of segments and
//! packs, plus the names of the WAL files of the target.

mod check;
mod source;

use crate::error::{Doing, Error, Kind, Result};
use crate::pg::segment::{SegmentName, WalName};
use crate::progress::{self, Progress};
use crate::repo::active::{Announcement, Heartbeat, Liveness, Operation, Staleness};
use crate::repo::data::{Data, NamedPacks, named};
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::manifest::{self, Part};
use crate::repo::ranges::{StoredFrame, stored_ranges};
use crate::repo::record::{ManifestPart, Record};
use crate::repo::{Archive, ObjectName, Put};
use crate::runtime::thread;
use check::{PackCheck, SizeCheck, WalCheck};
use parking_lot::Mutex;
use serde::Serialize;
use source::SourceObject;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::info_span;

/// Maximum number of objects that are copied at once.
const MAX_OBJECTS_AT_ONCE: usize = 4;

/// Maximum number of problems in the report.
const MAX_REPORTED_PROBLEMS: usize = 1000;

/// Result of a sync: the copied objects, and the problems.
#[derive(Debug, Default, Serialize)]
pub struct SyncReport {
    pub segments: u64,
    pub backups: Vec<String>,
    pub objects: u64,
    pub bytes: u64,
    /// Problems of objects of the two repositories; these objects were skipped.
    #[serde(serialize_with = "as_text")]
    pub problems: Vec<Error>,
    /// Number of problems, including those that are not in `problems`.
    #[serde(skip)]
    pub skipped: u64,
}

fn as_text<S: serde::Serializer>(problems: &[Error], s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_seq(problems.iter().map(Error::to_string))
}

/// A sync of one lineage from one repository to another.
pub struct Sync<'a> {
    pub from: &'a Archive,
    pub to: &'a Archive,
    pub jobs: NonZeroUsize,
    /// Random digits for the name of the announcement.
    pub random: String,
    pub progress: Progress,
}

/// The WAL files that the target lacks, with their stored sizes, and the backups that it lacks.
type Missing = (Vec<(WalName, u64)>, Vec<MissingBackup>);

/// A backup that the target lacks, or lacks a part of.
struct MissingBackup {
    record: Record,
    /// Whether the target has the record, and lacks only data.
    is_listed: bool,
}

/// Outcome of the copy of one object.
enum Copied {
    /// The object was copied; its size in bytes.
    New(u64),
    /// The target had the object already.
    Already,
}

impl Sync<'_> {
    /// Copies all objects that the target lacks. Problems of single objects are in the report.
    ///
    /// # Errors
    ///
    /// `Locked` when a prune is running on either side; failures of a store; a failure to announce
    /// the sync.
    pub fn run(&self) -> Result<SyncReport> {
        let (from, to) = (self.from.repository().name(), self.to.repository().name());
        let _span = info_span!("sync", from, to).entered();
        // From here on, no prune of either repository removes objects.
        let reading = self.announce(self.from)?;
        let writing = self.announce(self.to)?;
        let report = self.copy(&reading, &writing);
        drop((reading, writing));
        report
    }

    /// Announces the sync, so that no prune begins; fails when a prune is running.
    fn announce(&self, archive: &Archive) -> Result<Announcement> {
        let doing = || format!("announce the sync in repository {}", archive.repository().name());
        let own = Announcement::begin(archive, Heartbeat::new(Operation::Sync), &self.random).doing(doing)?;
        // A prune that has read the announcements before this one was written may be about to
        // remove objects that the sync needs.
        let now = own.time()?;
        let staleness = Staleness::default();
        for seen in archive.announced()? {
            let is_prune =
                seen.heartbeat.as_ref().is_none_or(|heartbeat| heartbeat.operation == Operation::Prune);
            if is_prune && seen.name != own.name() && seen.liveness(now, &staleness) != Liveness::Ended {
                return Err(Error::new(Kind::Locked, format!("{} is running", seen.describe()))
                    .hint("wait for it to end; the next `walkeep prune` removes the leftovers of one that crashed")
                    .doing(doing()));
            }
        }
        Ok(own)
    }

    fn copy(&self, reading: &Announcement, writing: &Announcement) -> Result<SyncReport> {
        let mut report = SyncReport::default();
        progress::step("comparing the two repositories");
        let (wal, records) = self.missing(&mut report)?;
        let stored = records.iter().map(|wanted| wanted.record.stored);
        let total = wal.iter().map(|(_, size)| *size).chain(stored).fold(0, u64::saturating_add);
        self.progress.set(0, total);
        progress::step("copying WAL");
        self.wal(&wal, &mut report)?;
        self.marks(&mut report)?;
        progress::step("copying backups");
        for wanted in &records {
            reading.check()?;
            writing.check()?;
            let id = &wanted.record.id;
            match self.backup(wanted, writing, &mut report).doing(|| format!("copy backup {id}")) {
                Ok(()) => report.backups.push(id.clone()),
                Err(error) => self.skip(error, &mut report)?,
            }
        }
        Ok(report)
    }

    /// Reports a problem of an object, which is skipped; any other failure is returned and ends the
    /// sync.
    fn skip(&self, error: Error, report: &mut SyncReport) -> Result<()> {
        if !matches!(error.kind(), Kind::Damage | Kind::Conflict | Kind::Hole | Kind::Identity) {
            return Err(error);
        }
        progress::warn(&error);
        report.skipped += 1;
        if report.problems.len() < MAX_REPORTED_PROBLEMS {
            report.problems.push(error);
        }
        Ok(())
    }

    /// Returns the WAL files and backups that the source has and the target lacks, oldest first.
    fn missing(&self, report: &mut SyncReport) -> Result<Missing> {
        let mut known = HashSet::new();
        self.to.each_wal(|name, _| {
            known.insert(name);
            Ok(())
        })?;
        let mut wal = Vec::new();
        self.from.each_wal(|name, entry| {
            if !known.contains(&name) {
                wal.push((entry.modified, name, entry.size));
            }
            Ok(())
        })?;
        // In the order in which they were stored, so that the newest WAL of the source is the newest
        // of the target too, whatever its timeline.
        wal.sort_by_key(|(stored, ..)| *stored);
        let wal = wal.into_iter().map(|(_, name, size)| (name, size)).collect();
        let source = self.from.records()?;
        for (_, error) in source.damaged {
            self.skip(error, report)?;
        }
        let target = self.to.records()?;
        let known: BTreeSet<&str> = target.good.iter().map(|record| record.id.as_str()).collect();
        let data = self.to.data()?;
        let mut missing = Vec::new();
        for record in source.good {
            let is_listed = known.contains(record.id.as_str());
            let is_complete = if is_listed { self.has_all(&record, &data) } else { Ok(false) };
            match is_complete {
                Ok(true) => {}
                Ok(false) => missing.push(MissingBackup { record, is_listed }),
                Err(error) => self.skip(error, report)?,
            }
        }
        Ok((wal, missing))
    }

    /// Whether `data`, the data of the target, have every object that a backup names.
    fn has_all(&self, record: &Record, data: &BTreeMap<String, Data>) -> Result<bool> {
        let has_part = |part: &ManifestPart| {
            part.place().is_some_and(|(id, number)| {
                data.get(&id).is_some_and(|data| data.manifests.contains_key(&number))
            })
        };
        let packs = self.from.packs_of(record)?;
        let is_listed = |pack| matches!(pack, NamedPacks::Listed(..));
        Ok(record.manifest_objects().all(has_part) && named(&packs, data).all(is_listed))
    }

    /// Copies each of `things`, several at once. Returns the number of objects that are new in the
    /// target.
    fn each<T: std::marker::Sync>(
        &self,
        things: &[T],
        copy: impl Fn(&T) -> Result<Copied> + std::marker::Sync,
        report: &mut SyncReport,
    ) -> Result<u64> {
        let next = AtomicUsize::new(0);
        let shared = Mutex::new((report, 0, Ok(())));
        let work = |_| {
            while let Some(thing) = things.get(next.fetch_add(1, Ordering::Relaxed)) {
                let copied = copy(thing);
                let mut shared = shared.lock();
                let (report, new, end) = &mut *shared;
                match copied {
                    Ok(Copied::New(bytes)) => {
                        *new += 1;
                        report.objects += 1;
                        report.bytes += bytes;
                    }
                    Ok(Copied::Already) => {}
                    Err(error) => {
                        if let Err(error) = self.skip(error, report) {
                            *end = Err(error);
                            next.store(things.len(), Ordering::Relaxed);
                        }
                    }
                }
            }
            Ok(())
        };
        thread::share(self.jobs.get().min(MAX_OBJECTS_AT_ONCE).min(things.len()), "copy", work)?;
        let (_, new, end) = shared.into_inner();
        end.map(|()| new)
    }

    fn wal(&self, missing: &[(WalName, u64)], report: &mut SyncReport) -> Result<()> {
        let copy = |(name, size): &(WalName, u64)| {
            let copied = self.wal_file(*name, *size).doing(|| format!("copy {name}"));
            self.progress.add_done(*size);
            copied
        };
        report.segments += self.each(missing, copy, report)?;
        Ok(())
    }

    /// Copies the marks of retired timelines.
    fn marks(&self, report: &mut SyncReport) -> Result<()> {
        let known = self.to.retired()?;
        for timeline in self.from.retired()?.difference(&known) {
            match self.from.copy_mark(self.to, *timeline) {
                Ok(bytes) => {
                    report.objects += u64::from(bytes.is_some());
                    report.bytes += bytes.unwrap_or(0);
                }
                Err(error) => self.skip(error, report)?,
            }
        }
        Ok(())
    }

    fn wal_file(&self, name: WalName, size: u64) -> Result<Copied> {
        let open = || self.from.open_wal_object(name);
        let check =
            || Ok(Box::new(WalCheck::start(name, self.from.lineage())?) as Box<dyn source::ContentCheck>);
        let object = SourceObject::new(&open, &check, self.from.repository().name());
        match self.to.put_wal(name, &object) {
            Ok(Put::Stored) => Ok(Copied::New(size)),
            Ok(Put::Exists) => {
                let hash = |archive: &Archive| {
                    Ok::<_, Error>(archive.get_wal(name)?.and_then(|stored| stored.header.sha256))
                };
                if hash(self.to)? == hash(self.from)? { Ok(Copied::Already) } else { Err(differs(&name)) }
            }
            // The file was removed by a retention that is shorter than the sync takes.
            Err(_) if object.is_removed() => Ok(Copied::Already),
            Err(error) => Err(object.cause(error)),
        }
    }

    /// Copies a backup: its packs, its manifest and, if the target has all of its WAL, its record.
    fn backup(&self, wanted: &MissingBackup, writing: &Announcement, report: &mut SyncReport) -> Result<()> {
        let MissingBackup { record, is_listed } = wanted;
        let skipped = report.skipped;
        let mut copied = HashSet::new();
        manifest::read(self.from, record, |part| self.packs(&part, &mut copied, report))?;
        if report.skipped > skipped {
            return Err(Error::new(Kind::Damage, "some of its packs could not be copied"));
        }
        for part in record.manifest_objects() {
            if let Copied::New(bytes) =
                self.put(&part.key, part.size, &|| Ok(Box::new(SizeCheck::new(part.size))))?
            {
                report.objects += 1;
                report.bytes += bytes;
            }
        }
        let mut segment = record.wal.first;
        loop {
            self.check_segment(segment)?;
            if segment >= record.wal.last {
                break;
            }
            segment = segment.next(record.segment_size);
        }
        if *is_listed {
            return Ok(());
        }
        writing.confirm()?;
        let bytes = self.from.copy_record(self.to, &record.id)?;
        // A prune that considered this sync stale may have removed packs after the check above.
        if let Err(error) = writing.confirm() {
            self.to.remove(&[ObjectName::Record(record.id.clone())])?;
            return Err(error);
        }
        report.objects += 1;
        report.bytes += bytes;
        Ok(())
    }

    /// Fails with `Hole` unless the target has this segment, which a backup needs.
    fn check_segment(&self, segment: SegmentName) -> Result<()> {
        if self.to.has_wal(WalName::Segment(segment))? {
            return Ok(());
        }
        let repository = self.to.repository().name();
        Err(Error::new(Kind::Hole, format!("repository {repository} does not have its segment {segment}")))
    }

    /// Copies the packs that a part of the manifest names. Checks the blocks of each pack that this
    /// part needs.
    fn packs(&self, part: &Part, copied: &mut HashSet<String>, report: &mut SyncReport) -> Result<()> {
        let files: Vec<&FileEntry> = part.entries.iter().filter_map(Entry::any_file).collect();
        let ranges = stored_ranges(files.iter().copied(), |_, _, blocks| Some(blocks));
        let mut packs: BTreeMap<&str, Vec<&StoredFrame>> = BTreeMap::new();
        for range in &ranges {
            let key = part.packs.get(range.pack as usize);
            let key = key.ok_or_else(|| Error::defect("a file in an unnamed pack"))?;
            packs.entry(key).or_default().extend(&range.frames);
        }
        let packs: Vec<(&str, Vec<&StoredFrame>)> = packs.into_iter().collect();
        let copy = |(key, frames): &(&str, Vec<&StoredFrame>)| {
            let is_copied = copied.contains(*key);
            let done = self.pack(key, &files, frames, is_copied).doing(|| format!("copy {key}"));
            self.progress.add_done(frames.iter().map(|frame| u64::from(frame.length)).sum());
            done
        };
        self.each(&packs, copy, report)?;
        copied.extend(packs.iter().map(|(key, _)| (*key).to_owned()));
        Ok(())
    }

    /// Copies a pack, unless the target has it from an earlier sync, which has checked it. A pack
    /// that this sync has copied for another part (`is_copied`) is read again, to check the blocks
    /// that this part needs.
    fn pack(
        &self,
        key: &str,
        files: &[&FileEntry],
        frames: &[&StoredFrame],
        is_copied: bool,
    ) -> Result<Copied> {
        let (Some(size), there) = (self.from.size(key)?, self.to.size(key)?) else {
            return Err(Error::new(Kind::Damage, "it is missing"));
        };
        if there == Some(size) && !is_copied {
            return Ok(Copied::Already);
        }
        self.from.check_pack(key)?;
        self.put(key, size, &|| Ok(Box::new(PackCheck::new(size, files, frames.to_vec()))))
    }

    /// Copies an object. If the target has an object under this key, compares the two instead.
    fn put<'a>(&self, key: &str, size: u64, check: &'a source::BeginCheck<'a>) -> Result<Copied> {
        let open = || self.from.open_object(key);
        let object = SourceObject::new(&open, check, self.from.repository().name());
        match self.to.put_object(key, &object).map_err(|error| object.cause(error))? {
            Put::Stored => Ok(Copied::New(size)),
            Put::Exists
                if self.to.size(key)? != Some(size) || !object.equals(self.to.open_object(key)?)? =>
            {
                Err(differs(&key))
            }
            Put::Exists => Ok(Copied::Already),
        }
    }
}

/// Error for two different objects under one name.
fn differs(what: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Conflict, format!("the two repositories have different content under {what}"))
        .hint("nothing was replaced; `walkeep verify` finds out whether one of them is damaged")
}
