//! Brings one repository up to what another one holds: WAL first, then backups, each backup's record last. What
//! is copied is checked on its way; what is there already is left, so it can be broken off at any moment and begun
//! again. Nothing is ever removed or replaced on either side.

use crate::codec::compress::Decompressor;
use crate::codec::envelope::Content;
use crate::codec::hash::{BlockHash, block_hash};
use crate::error::{Doing, Error, Kind, Result};
use crate::progress::{self, Progress, in_span};

use crate::pg::segment::{SegmentName, WalName};
use crate::pg::wal::{HEADER_SIZE, SegmentHeader};
use crate::repo::active::{Announcement, Heartbeat, Liveness, Operation, Staleness};
use crate::repo::data::Data;
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::manifest::{self, Part};
use crate::repo::record::{ManifestPart, Record};
use crate::repo::{Archive, Put};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::{Span, info_span};

/// The largest object that is copied, 1 GiB of WAL that cannot be compressed and a little more.
const LARGEST: u64 = (1 << 30) + (64 << 20);

/// Objects in memory at once, whatever `jobs` says: a pack takes 32 MiB.
const AT_ONCE: usize = 4;

/// Problems that are told one by one.
const TOLD: usize = 1000;

/// What was copied, and what could not be.
#[derive(Debug, Default, Serialize)]
pub struct SyncReport {
    pub segments: u64,
    pub backups: Vec<String>,
    pub objects: u64,
    pub bytes: u64,
    /// What is wrong with one of the two repositories, and was passed over.
    #[serde(serialize_with = "as_text")]
    pub problems: Vec<Error>,
    /// How many there were, those included that are told no more.
    #[serde(skip)]
    pub passed_over: u64,
}

fn as_text<S: serde::Serializer>(problems: &[Error], s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_seq(problems.iter().map(Error::to_string))
}

pub struct Sync<'a> {
    pub from: &'a Archive,
    pub to: &'a Archive,
    pub jobs: NonZeroUsize,
    /// Random digits, for the name of the announcement.
    pub random: String,
    pub progress: Progress,
}

/// WAL files with their stored sizes, and backups.
type Missing = (Vec<(WalName, u64)>, Vec<Wanted>);

/// A backup that is not there, or not all of it.
struct Wanted {
    record: Record,
    /// Only its data are to be brought back.
    is_listed: bool,
}

/// What one object was.
enum Copied {
    /// This many bytes are new on the other side.
    New(u64),
    Already,
}

impl Sync<'_> {
    pub fn run(&self) -> Result<SyncReport> {
        let (from, to) = (self.from.repository().name(), self.to.repository().name());
        let _span = info_span!("sync", from, to).entered();
        // From here on a prune of either side keeps everything.
        let reading = self.announce(self.from)?;
        let writing = self.announce(self.to)?;
        let report = self.copy(&reading, &writing);
        drop((reading, writing));
        report
    }

    fn announce(&self, archive: &Archive) -> Result<Announcement> {
        let doing = || format!("announce it in repository {}", archive.repository().name());
        let own = Announcement::begin(archive, Heartbeat::new(Operation::Sync), &self.random).doing(doing)?;
        // One that has looked already may be about to remove what is relied upon here.
        let now = own.time()?;
        let patience = Staleness::default();
        for seen in archive.announced()? {
            let is_prune =
                seen.heartbeat.as_ref().is_none_or(|heartbeat| heartbeat.operation == Operation::Prune);
            if is_prune && seen.name != own.name() && seen.liveness(now, &patience) != Liveness::Ended {
                return Err(Error::new(Kind::Locked, format!("{} is under way", seen.describe()))
                    .hint("wait for it to end; what a prune that crashed has left the next `walkeep prune` takes away")
                    .doing(doing()));
            }
        }
        Ok(own)
    }

    fn copy(&self, reading: &Announcement, writing: &Announcement) -> Result<SyncReport> {
        let mut report = SyncReport::default();
        progress::step("comparing what the two repositories hold");
        let (wal, records) = self.missing(&mut report)?;
        let stored: u64 = records.iter().map(|wanted| wanted.record.stored).sum();
        self.progress.set(0, wal.iter().map(|(_, size)| size).sum::<u64>() + stored);
        progress::step("copying WAL");
        self.wal(&wal, &mut report)?;
        progress::step("copying backups");
        for wanted in &records {
            reading.check()?;
            writing.check()?;
            let id = &wanted.record.id;
            match self.backup(wanted, writing, &mut report).doing(|| format!("copy backup {id}")) {
                Ok(()) => report.backups.push(id.clone()),
                Err(error) => self.pass_over(error, &mut report)?,
            }
        }
        Ok(report)
    }

    /// What is wrong with what is stored is told, and the rest goes on; anything else ends the work.
    fn pass_over(&self, error: Error, report: &mut SyncReport) -> Result<()> {
        if !matches!(error.kind(), Kind::Damage | Kind::Conflict | Kind::Hole | Kind::Identity) {
            return Err(error);
        }
        progress::warn(&error);
        report.passed_over += 1;
        if report.problems.len() < TOLD {
            report.problems.push(error);
        }
        Ok(())
    }

    /// The WAL files and backups that are here and not there, oldest first.
    fn missing(&self, report: &mut SyncReport) -> Result<Missing> {
        let mut there = HashSet::new();
        self.to.each_wal(|name, _| {
            there.insert(name);
            Ok(())
        })?;
        let mut wal = Vec::new();
        self.from.each_wal(|name, entry| {
            if !there.contains(&name) {
                wal.push((name, entry.size));
            }
            Ok(())
        })?;
        let here = self.from.records()?;
        for (_, error) in here.damaged {
            self.pass_over(error, report)?;
        }
        let there = self.to.records()?;
        let known: BTreeSet<&str> = there.good.iter().map(|record| record.id.as_str()).collect();
        let data = self.to.data()?;
        let mut missing = Vec::new();
        for record in here.good {
            let is_listed = known.contains(record.id.as_str());
            let is_there = if is_listed { self.has_all(&record, &data) } else { Ok(false) };
            match is_there {
                Ok(true) => {}
                Ok(false) => missing.push(Wanted { record, is_listed }),
                Err(error) => self.pass_over(error, report)?,
            }
        }
        Ok((wal, missing))
    }

    /// Whether everything that a backup names is among these data.
    fn has_all(&self, record: &Record, data: &BTreeMap<String, Data>) -> Result<bool> {
        let has =
            |(id, number): (&str, u32)| data.get(id).is_some_and(|data| data.packs.contains_key(&number));
        let has_part = |part: &ManifestPart| {
            part.place().is_some_and(|(id, number)| {
                data.get(&id).is_some_and(|data| data.manifests.contains_key(&number))
            })
        };
        Ok(record.manifest_objects().all(has_part) && self.from.packs_of(record)?.iter().all(has))
    }

    /// Does something with each of many things, several at once.
    fn each<T: std::marker::Sync>(
        &self,
        things: &[T],
        copy: impl Fn(&T) -> Result<Copied> + std::marker::Sync,
        report: &mut SyncReport,
    ) -> Result<u64> {
        let next = AtomicUsize::new(0);
        let shared = Mutex::new((report, 0, Ok(())));
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.get().min(AT_ONCE).min(things.len()) {
                scope.spawn(in_span(Span::current(), || {
                    while let Some(thing) = things.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let copied = copy(thing);
                        let mut shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        let (report, new, end) = &mut *shared;
                        match copied {
                            Ok(Copied::New(bytes)) => {
                                *new += 1;
                                report.objects += 1;
                                report.bytes += bytes;
                            }
                            Ok(Copied::Already) => {}
                            Err(error) => {
                                if let Err(error) = self.pass_over(error, report) {
                                    *end = Err(error);
                                    next.store(things.len(), Ordering::Relaxed);
                                }
                            }
                        }
                    }
                }));
            }
        });
        let (_, new, end) = shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        end.map(|()| new)
    }

    fn wal(&self, missing: &[(WalName, u64)], report: &mut SyncReport) -> Result<()> {
        let copy = |(name, size): &(WalName, u64)| {
            let copied = self.wal_file(*name).doing(|| format!("copy {name}"));
            self.progress.add_done(*size);
            copied
        };
        report.segments += self.each(missing, copy, report)?;
        Ok(())
    }

    fn wal_file(&self, name: WalName) -> Result<Copied> {
        // Removed meanwhile, by a retention that is shorter than the copying takes.
        let Some(object) = self.from.get_wal_object(name, LARGEST)? else {
            return Ok(Copied::Already);
        };
        let lineage = self.from.lineage();
        let first = Mutex::new(Vec::new());
        let header = Content::open(&object[..])?.read(|piece, offset| {
            if offset == 0 {
                let length = piece.len().min(HEADER_SIZE);
                first
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .extend_from_slice(&piece[..length]);
            }
            Ok(())
        })?;
        if let WalName::Segment(segment) | WalName::Partial(segment) = name {
            let first = first.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            let size = header.size.unwrap_or_default();
            SegmentHeader::parse(&first)?.check(segment, size, lineage.system_identifier, lineage.major)?;
        }
        match self.to.put_wal(name, &object)? {
            Put::Stored => Ok(Copied::New(object.len() as u64)),
            Put::Exists => {
                match self.to.get_wal(name)?.and_then(|stored| stored.header.sha256) == header.sha256 {
                    true => Ok(Copied::Already),
                    false => Err(differs(&name)),
                }
            }
        }
    }

    fn backup(&self, wanted: &Wanted, writing: &Announcement, report: &mut SyncReport) -> Result<()> {
        let Wanted { record, is_listed } = wanted;
        let passed_over = report.passed_over;
        let mut copied = HashSet::new();
        manifest::read(self.from, record, |part| self.packs(&part, &mut copied, report))?;
        if report.passed_over > passed_over {
            return Err(Error::new(Kind::Damage, "some of its packs could not be copied"));
        }
        for part in record.manifest_objects() {
            self.object(&part.key, part.size, report)?;
        }
        let mut segment = record.wal.first;
        loop {
            self.has(segment)?;
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
        report.objects += 1;
        report.bytes += bytes;
        Ok(())
    }

    fn has(&self, segment: SegmentName) -> Result<()> {
        match self.to.has_wal(WalName::Segment(segment))? {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Hole,
                format!("repository {} does not have its segment {segment}", self.to.repository().name()),
            )),
        }
    }

    /// Copies the packs that a part of the manifest names, each checked for what that part needs of it.
    fn packs(&self, part: &Part, copied: &mut HashSet<String>, report: &mut SyncReport) -> Result<()> {
        let mut needs: BTreeMap<u32, Vec<Need<'_>>> = BTreeMap::new();
        for file in part.entries.iter().filter_map(Entry::any_file) {
            Need::of(file, &mut needs);
        }
        let packs: Vec<(&str, Vec<Need<'_>>)> = needs
            .into_iter()
            .filter_map(|(number, needs)| Some((part.packs.get(number as usize)?.as_str(), needs)))
            .collect();
        self.each(
            &packs,
            |(key, needs)| {
                let done = self.pack(key, needs, copied.contains(*key)).doing(|| format!("copy {key}"));
                self.progress.add_done(needs.iter().map(|need| u64::from(need.length)).sum());
                done
            },
            report,
        )?;
        copied.extend(packs.iter().map(|(key, _)| (*key).to_owned()));
        Ok(())
    }

    fn pack(&self, key: &str, needs: &[Need<'_>], is_copied: bool) -> Result<Copied> {
        let (Some(size), there) = (self.from.size(key)?, self.to.size(key)?) else {
            return Err(Error::new(Kind::Damage, "it is missing"));
        };
        // What another backup has brought there was checked then.
        if there == Some(size) && !is_copied {
            return Ok(Copied::Already);
        }
        self.from.check_pack(key)?;
        let object = self.from.get_range(key, 0..size)?;
        let mut decompressor = Decompressor::default();
        let mut frame = Vec::new();
        let mut at = None;
        for need in needs {
            if at != Some(need.offset) {
                let end = need.offset.saturating_add(u64::from(need.length));
                let bytes = usize::try_from(need.offset).ok().zip(usize::try_from(end).ok());
                let bytes = bytes.and_then(|(begin, end)| object.get(begin..end));
                let bytes =
                    bytes.ok_or_else(|| Error::new(Kind::Damage, "it is shorter than the manifest says"))?;
                decompressor.frame(bytes, crate::codec::compress::FRAME, &mut frame)?;
                at = Some(need.offset);
            }
            need.check(&frame)?;
        }
        self.put(key, &object)
    }

    fn object(&self, key: &str, size: u64, report: &mut SyncReport) -> Result<()> {
        let object = self.from.get_range(key, 0..size)?;
        if let Copied::New(bytes) = self.put(key, &object)? {
            report.objects += 1;
            report.bytes += bytes;
        }
        Ok(())
    }

    fn put(&self, key: &str, object: &Vec<u8>) -> Result<Copied> {
        match self.to.put_object(key, object)? {
            Put::Stored => Ok(Copied::New(object.len() as u64)),
            Put::Exists if self.to.size(key)? != Some(object.len() as u64) => Err(differs(&key)),
            Put::Exists if self.to.get_range(key, 0..object.len() as u64)? != *object => Err(differs(&key)),
            Put::Exists => Ok(Copied::Already),
        }
    }
}

fn differs(what: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Conflict, format!("the two repositories have different content under {what}"))
        .hint("nothing was replaced; `walkeep verify` says which of them is damaged, if one is")
}

/// Blocks of a file in a frame of a pack.
struct Need<'a> {
    offset: u64,
    length: u32,
    skip: usize,
    /// Bytes of all of them.
    size: usize,
    block: usize,
    hashes: &'a [BlockHash],
}

impl<'a> Need<'a> {
    fn of(file: &'a FileEntry, needs: &mut BTreeMap<u32, Vec<Need<'a>>>) {
        for (blocks, extent) in file.extents() {
            let bytes = file.bytes_of(&blocks);
            needs.entry(extent.pack).or_default().push(Need {
                offset: extent.offset,
                length: extent.length,
                skip: extent.skip as usize,
                size: (bytes.end - bytes.start) as usize,
                block: file.block as usize,
                hashes: file.hashes.get(blocks).unwrap_or_default(),
            });
        }
    }

    fn check(&self, frame: &[u8]) -> Result<()> {
        let content = frame.get(self.skip..self.skip.saturating_add(self.size));
        let is_right = content.is_some_and(|content| {
            let mut blocks = content.chunks(self.block.max(1)).map(block_hash);
            self.hashes.iter().all(|hash| blocks.next() == Some(*hash)) && blocks.next().is_none()
        });
        match is_right {
            true => Ok(()),
            false => Err(Error::new(Kind::Damage, "a block in it has another hash than the manifest says")),
        }
    }
}
