//! A verification from beginning to end.

use super::backup::Backup;
use super::beside::Beside;
use super::findings::{Checked, Findings, Problem, Unknown};
use super::memory::Memory;
use super::packs::{Reader, Task, tasks};
use crate::codec::hash::LANES;
use crate::error::{Doing, Error, Kind as ErrorKind, Result};
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::progress::{self, Progress, in_span};
use crate::repo::catalog::Inventory;
use crate::repo::data::Data;
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::history::WalHistory;
use crate::repo::manifest::{Part, Parts};
use crate::repo::packset::PackSet;
use crate::repo::pin::Pin;
use crate::repo::ranges::stored_ranges;
use crate::repo::record::{ManifestPart, Record};
use crate::repo::{Archive, ObjectName, Records};
use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tracing::{Span, info_span};

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    /// One backup and the WAL from it on.
    Backup(String),
    /// The WAL alone.
    Wal,
}

pub struct Options {
    /// Stored bytes that were read, of those to read.
    pub progress: Progress,
    pub scope: Scope,
    /// Presence and size alone.
    pub quick: bool,
    /// What was read later than this is not read again.
    pub since: Option<Timestamp>,
    pub now: Timestamp,
    pub jobs: NonZeroUsize,
    /// Whether it is a problem that there is no complete backup.
    pub needs_backup: bool,
}

/// What was found out.
#[derive(Debug, Default)]
pub struct Report {
    pub checked: Checked,
    /// Bytes that were not read, since they were not long ago.
    pub trusted: u64,
    pub problems: Vec<Problem>,
    /// What could not be looked at.
    pub unknown: Vec<Unknown>,
    /// Backups whose pages were bad in the cluster already.
    pub bad_pages: Vec<String>,
}

/// Verifies one archive.
pub fn verify(archive: &Archive, options: &Options) -> Result<Report> {
    let doing = || format!("verify repository {}", archive.repository().name());
    let _span = info_span!("verify", repository = archive.repository().name()).entered();
    progress::step("looking at what is there");
    let findings = Findings::default();
    let mut run = Run::begin(archive, options, &findings).doing(doing)?;
    run.compare();
    match options.quick {
        true => run.look().doing(doing)?,
        false => run.gone_through = run.read().doing(doing)?,
    }
    run.end().doing(doing)
}

pub struct Run<'a> {
    pub archive: &'a Archive,
    pub options: &'a Options,
    pub findings: &'a Findings,
    pub records: Vec<Record>,
    /// The ids of those that are looked at.
    pub selected: BTreeSet<String>,
    /// Backups that are kept with just their own WAL.
    pub standalone: BTreeSet<String>,
    pub data: BTreeMap<String, Data>,
    /// Every WAL file and its size.
    pub wal: Vec<(WalName, u64)>,
    /// When each segment was stored.
    pub stored: BTreeMap<SegmentName, Timestamp>,
    pub lines: Option<WalHistory>,
    pub memory: Memory,
    /// Backups whose manifests were read to their end, so that all that they name was looked at.
    pub gone_through: BTreeSet<String>,
}

impl<'a> Run<'a> {
    /// Looks at what is there, in an order in which nothing that is being stored or removed meanwhile is missed: records
    /// before what they name.
    fn begin(archive: &'a Archive, options: &'a Options, findings: &'a Findings) -> Result<Run<'a>> {
        let Records { good: records, damaged, .. } = archive.records()?;
        for (id, error) in &damaged {
            findings.error(&ObjectName::Record(id.clone()), error, true, [id.as_str()]);
        }
        let selected: BTreeSet<String> = match &options.scope {
            Scope::All => records.iter().map(|record| record.id.clone()).collect(),
            Scope::Wal => BTreeSet::new(),
            Scope::Backup(id) => [id.clone()].into(),
        };
        if let Scope::Backup(id) = &options.scope
            && !records.iter().any(|record| record.id == *id)
            && !damaged.iter().any(|(other, _)| other == id)
        {
            return Err(Error::new(ErrorKind::Absent, format!("there is no backup {id}"))
                .hint("`walkeep list` names the backups there are"));
        }
        let data = archive.data()?;
        let mut standalone = BTreeSet::new();
        for (id, pin) in archive.pins()? {
            match pin {
                Ok(Pin { standalone: true, .. }) => drop(standalone.insert(id)),
                Ok(_) => {}
                Err(error) => findings.error(&ObjectName::Pin(id), &error, true, []),
            }
            Findings::count(&findings.objects, 1);
        }
        let size = match records.last() {
            Some(record) => Some(record.segment_size),
            None => archive.any_segment_size()?,
        };
        let memory = Memory::read(archive, size, &records, findings)?;
        let mut run = Run {
            archive,
            options,
            findings,
            records,
            selected,
            standalone,
            data,
            wal: Vec::new(),
            stored: BTreeMap::new(),
            lines: None,
            memory,
            gone_through: BTreeSet::new(),
        };
        run.list_wal(size)?;
        Ok(run)
    }

    fn list_wal(&mut self, size: Option<SegmentSize>) -> Result<()> {
        let mut inventory = size.map(Inventory::new);
        self.archive.each_wal(|name, entry| {
            self.wal.push((name, entry.size));
            if let WalName::Segment(segment) = name {
                self.stored.insert(segment, entry.modified);
            }
            if let Some(inventory) = &mut inventory {
                inventory.add(name, entry.modified, entry.size);
            }
            Ok(())
        })?;
        if let Some(inventory) = inventory {
            let (lines, damaged) = WalHistory::read(self.archive, inventory)?;
            for (timeline, error) in damaged {
                let name = ObjectName::Wal(WalName::History(timeline));
                self.findings.error(&name, &error, true, self.led_by(timeline));
            }
            self.lines = Some(lines);
        }
        Ok(())
    }

    pub fn selected(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| self.selected.contains(&record.id))
    }

    /// Looks at presence and size of what the backups name.
    fn look(&self) -> Result<()> {
        let listed: BTreeSet<&str> = self.records.iter().map(|record| record.id.as_str()).collect();
        for record in self.selected() {
            Findings::count(&self.findings.objects, 1 + record.manifest.len() as u64);
            let backup = Backup::new(self.archive, record, &self.data, self.findings);
            backup.record();
            if backup.parts()
                && let Err(error) = backup.quick(&listed)
            {
                let last = ObjectName::Manifest(record.id.clone(), record.manifest.len() as u32);
                self.findings.error(&last, &error, true, [record.id.as_str()]);
            }
            self.check_hopeless()?;
        }
        Ok(())
    }

    /// Reads everything on several threads. Gives the backups whose manifests were read to their end.
    fn read(&self) -> Result<BTreeSet<String>> {
        let jobs = self.options.jobs.get();
        let total = self.total();
        progress::step("reading");
        let (send, to_read) = bounded::<Task>(jobs * 4);
        std::thread::scope(|scope| {
            let read = |to_read: Receiver<Task>| {
                let mut reader = Reader::new(self.archive, self.findings);
                for task in to_read {
                    // What is left is taken and dropped, so that nobody waits for room.
                    if !self.findings.is_hopeless() {
                        reader.read(&task);
                        self.options.progress.set(self.findings.bytes.load(Ordering::Relaxed), total);
                    }
                }
            };
            let readers: Vec<_> = (0..jobs)
                .map(|_| (to_read.clone(), scope))
                .map(|(to_read, scope)| scope.spawn(in_span(Span::current(), move || read(to_read))))
                .collect();
            drop(to_read);
            let produced = self.produce(send);
            let panicked = readers.into_iter().map(|reader| reader.join()).filter(|end| end.is_err()).count();
            match panicked {
                0 => self.check_hopeless().and(produced),
                _ => Err(Error::new(ErrorKind::Failed, "a thread panicked")),
            }
        })
    }

    fn check_hopeless(&self) -> Result<()> {
        match self.findings.is_hopeless() {
            true => Err(Error::new(
                ErrorKind::Unavailable,
                "it does not answer any more, and the rest was not tried",
            )),
            false => Ok(()),
        }
    }

    /// Bytes that are to be read, nearly.
    fn total(&self) -> u64 {
        let mut packs = PackSet::default();
        let mut total = 0;
        for record in self.selected() {
            total += record.manifest.iter().map(bytes_of).sum::<u64>();
            record.packs.iter().for_each(|named| packs.extend(named));
        }
        let size = |(id, number): (&str, u32)| self.data.get(id)?.packs.get(&number).copied();
        let due = packs.iter().filter(|(id, number)| self.is_due(id, *number)).filter_map(size);
        total
            + due.sum::<u64>()
            + self.wal.iter().filter(|(name, _)| self.is_wal_due(*name)).map(|wal| wal.1).sum::<u64>()
    }

    pub fn is_due(&self, id: &str, number: u32) -> bool {
        self.options.since.is_none_or(|since| !self.memory.has_pack(id, number, since, self.options.now))
    }

    pub fn is_wal_due(&self, name: WalName) -> bool {
        match (self.options.since, name) {
            (Some(since), WalName::Segment(name)) => !self.memory.has_segment(name, since, self.options.now),
            _ => true,
        }
    }

    /// Goes through manifests and WAL, and hands on what has to be read.
    fn produce(&self, tasks: Sender<Task>) -> Result<BTreeSet<String>> {
        // The readers end only when this does.
        let send = |task| drop(tasks.send(task));
        let mut opened = PackSet::default();
        let mut done: BTreeMap<&str, &Record> = BTreeMap::new();
        let mut last = None;
        for record in self.selected() {
            Findings::count(&self.findings.objects, 1 + record.manifest.len() as u64);
            let mut backup = Backup::new(self.archive, record, &self.data, self.findings);
            backup.record();
            if !backup.parts() {
                self.look_at_packs(record, &backup, &mut opened, &send)?;
                continue;
            }
            let parent = record.parent.as_ref().and_then(|parent| done.get(parent.as_str()).copied());
            let mut beside = Beside::of(self.archive, parent.or(last));
            if self.go_through(record, &mut backup, &mut beside, &mut opened, &send)? {
                backup.finish();
                done.insert(&record.id, record);
                last = Some(record);
            } else {
                self.look_at_packs(record, &backup, &mut opened, &send)?;
            }
            self.check_hopeless()?;
        }
        let is_wanted = |(name, _): &&(WalName, u64)| self.is_in_scope(*name) && self.is_wal_due(*name);
        let wal: Vec<(WalName, u64)> = self.wal.iter().filter(is_wanted).copied().collect();
        wal.chunks(LANES).for_each(|files| send(Task::Wal(files.to_vec())));
        Ok(done.into_keys().map(str::to_owned).collect())
    }

    /// Where the manifest cannot be read the record tells which packs there have to be.
    fn look_at_packs(
        &self,
        record: &Record,
        backup: &Backup<'_>,
        opened: &mut PackSet,
        send: &impl Fn(Task),
    ) -> Result<()> {
        for (id, number) in record.packs.iter().flat_map(PackSet::iter) {
            let name = ObjectName::Pack(id.to_owned(), number);
            backup.pack(&name, None, 0);
            let is_there = self.data.get(id).is_some_and(|data| data.packs.contains_key(&number));
            if is_there && !opened.contains(id, number) {
                let key: Arc<str> = name.to_string().into();
                opened.insert(&key)?;
                send(Task::Pack(key));
            }
        }
        Ok(())
    }

    /// Says whether the manifest could be read to its end.
    fn go_through(
        &self,
        record: &Record,
        backup: &mut Backup<'_>,
        beside: &mut Beside<'_>,
        opened: &mut PackSet,
        send: &impl Fn(Task),
    ) -> Result<bool> {
        for (index, part) in Parts::of(self.archive, record).enumerate() {
            let name = ObjectName::Manifest(record.id.clone(), index as u32 + 1);
            let read = part.and_then(|part| backup.part(&part).map(|()| part));
            match (read, record.manifest.get(index)) {
                (Ok(part), stored) => {
                    Findings::count(&self.findings.bytes, stored.map_or(0, bytes_of));
                    self.hand_on(record, index as u32 + 1, part, beside, opened, send)?;
                }
                (Err(error), Some(stored)) => {
                    let name = self.to_blame(stored).unwrap_or(name);
                    let is_there = self.archive.stored_at(&name)?.is_some();
                    self.findings.error(&name, &error, is_there, [record.id.as_str()]);
                    return Ok(false);
                }
                // All parts are what the record says, and not all of a manifest.
                (Err(error), None) => {
                    backup.contradiction(error.to_string());
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The base of a part that cannot be read, when that is why.
    fn to_blame(&self, part: &ManifestPart) -> Option<ObjectName> {
        let base = part.base.as_deref()?;
        let (id, number) = base.place()?;
        self.archive.get_base(base).is_err().then_some(ObjectName::Manifest(id, number))
    }

    fn is_in_scope(&self, name: WalName) -> bool {
        let (Scope::Backup(_), WalName::Segment(name) | WalName::Partial(name) | WalName::Backup(name, _)) =
            (&self.options.scope, name)
        else {
            return true;
        };
        self.selected()
            .all(|record| name.number(record.segment_size) >= record.wal.first.number(record.segment_size))
    }

    fn hand_on(
        &self,
        record: &Record,
        number: u32,
        part: Part,
        beside: &mut Beside<'_>,
        opened: &mut PackSet,
        send: &impl Fn(Task),
    ) -> Result<()> {
        let mut due = Vec::with_capacity(part.packs.len());
        let keys: Vec<Arc<str>> = part.packs.iter().map(|key| Arc::from(key.as_str())).collect();
        for key in &keys {
            let Some(ObjectName::Pack(id, number)) = ObjectName::parse(key) else {
                return Err(Error::new(ErrorKind::Damage, format!("`{key}` is no key of a pack")));
            };
            // What is missing is reported already.
            let is_there = self.data.get(&id).is_some_and(|data| data.packs.contains_key(&number));
            let is_due = is_there && self.is_due(&id, number);
            due.push(is_due);
            if is_due && !opened.contains(&id, number) {
                opened.insert(key)?;
                send(Task::Pack(key.clone()));
            }
        }
        let file = |entry| match entry {
            Entry::File(file) | Entry::Config(file) => Some(file),
            Entry::Dir(_) | Entry::Tablespace(_) => None,
        };
        let files: Vec<FileEntry> = part.entries.into_iter().filter_map(file).collect();
        let mut new = (usize::MAX, Vec::new().into_iter());
        let found = stored_ranges(&files, |index, extent, _| {
            if new.0 != index {
                let blocks = files.get(index).map(|file| beside.new_blocks(file, &part.packs));
                new = (index, blocks.unwrap_or_default().into_iter());
            }
            let blocks = new.1.next().unwrap_or_default();
            let is_due = due.get(extent.pack as usize) == Some(&true);
            if is_due { blocks } else { Vec::new() }
        });
        tasks(&record.id, number, &keys, &files, found).for_each(send);
        Ok(())
    }
}

/// Bytes that are read for a part of a manifest: its own and those of its base.
fn bytes_of(part: &ManifestPart) -> u64 {
    part.size + part.base.as_deref().map_or(0, |base| base.size)
}
