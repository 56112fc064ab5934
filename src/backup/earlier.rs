//! What earlier backups stored, so that it is not stored again. Every backup names all packs that it needs, its own and
//! those of earlier ones: none of them needs the record or the manifest of another, and any of them may go.
//!
//! The newest backup of the cluster is the parent. Whether a block changed is decided by its hash alone, or by the
//! server's WAL summaries where there are any; what the file system says of times and sizes is not asked. The parent's manifest has its files in the order in which the
//! walk finds them, so both are gone through side by side, and of a manifest of any length two parts are in memory.
//!
//! A backup that never came to its end, for it was killed or the repository was full, has left packs behind and the
//! parts of its manifest that were complete. Where nothing later is there the next one takes its files from these
//! first, and goes on with the parent behind them. That is no resumption: everything is read again, and its hash
//! decides.
//!
//! How far a backup may be scattered has two bounds:
//! * A pack of which the parent needs less than half is not named again: what is alive in it is stored anew. So what
//!   a backup keeps in the repository, and what a restore has to read, is at most about twice what it needs.
//! * A piece of a file (1 MiB) that would lie in more than [`MOST_RUNS`] runs is stored anew.

use super::scan::Task;
use super::summaries::{Changed, Summaries};
use crate::codec::hash::BlockHash;
use crate::error::{Error, Kind, Result};
use crate::pg::page::PAGE_SIZE;
use crate::progress;
use crate::repo::active::Announcement;
use crate::repo::entry::{Entry, Extent, FileEntry, StoredPath};
use crate::repo::manifest::{self, Bases, Part, Parts, StoredPack, Use, Written};
use crate::repo::record::Record;
use crate::repo::{Archive, ObjectName, Records};
use crossbeam_channel::{Receiver, Sender};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Runs of blocks that a piece of a file may consist of.
const MOST_RUNS: usize = 16;

/// Backups without a record that are looked at.
const MOST_UNFINISHED: usize = 100;

/// What this backup is compared with.
#[derive(Default)]
pub struct Earlier {
    pub parent: Option<Record>,
    /// A backup that never came to its end.
    unfinished: Option<String>,
    /// The packs that may be named, by their keys.
    packs: HashMap<Arc<str>, StoredPack>,
    /// Nothing of what there is may be relied upon.
    stands_alone: bool,
    /// The parts of the parent's manifest that have been read.
    pub bases: Bases,
}

impl Earlier {
    /// The newest backup whose manifest can be read, and that no verification found damaged. A damaged cluster is
    /// no reason against it: what is compared is content. And what one that began later left behind. It is announced
    /// that their packs have to stay.
    pub fn choose(archive: &Archive, announced: &Announcement) -> Result<Earlier> {
        let mut earlier = Earlier::default();
        let verified = archive.remembered()?;
        let Records { good, damaged, fenced, .. } = archive.records()?;
        let newest = good.iter().map(|record| record.id.clone()).max();
        earlier.choose_parent(good, &verified, archive, announced)?;
        let left = archive.data_after(newest.as_deref(), MOST_UNFINISHED)?;
        let was_listed = |id: &String| {
            verified.contains_key(id)
                || fenced.iter().any(|(other, _)| other == id)
                || damaged.iter().any(|(other, _)| other == id)
        };
        if let Some(id) = left.into_iter().rfind(|id| !was_listed(id)) {
            earlier.add_unfinished(id, archive, announced)?;
        }
        Ok(earlier)
    }

    fn choose_parent(
        &mut self,
        records: Vec<Record>,
        verified: &BTreeMap<String, bool>,
        archive: &Archive,
        announced: &Announcement,
    ) -> Result<()> {
        for record in records.into_iter().rev() {
            if verified.get(&record.id) == Some(&true) {
                continue;
            }
            announced.update(|notice| notice.needs = vec![record.id.clone()])?;
            // A prune that began before looks for this announcement after it has said what it removes.
            let goes = archive.announced()?.iter().any(|seen| seen.is_removing(&record.id));
            if goes || archive.record(&record.id)?.is_none() {
                continue;
            }
            match self.add_parent(archive, record) {
                Err(error) if error.kind() == Kind::Damage => progress::warn(&error),
                added => return added,
            }
        }
        announced.update(|notice| notice.needs.clear())
    }

    fn add_parent(&mut self, archive: &Archive, record: Record) -> Result<()> {
        let uses = manifest::uses(archive, &record)?;
        let there = sizes(archive, uses.iter().map(|used| used.pack.as_str()))?;
        let is_there = |used: &Use| there.get(&used.pack) == Some(&used.stored.size);
        let missing = uses.iter().filter(|used| !is_there(used)).count();
        if missing > 0 {
            let what = format!("{missing} packs of backup {} are missing or cut off", record.id);
            progress::warn(
                &Error::new(Kind::Damage, what).hint(
                    "their blocks are stored anew; run `walkeep verify` to see which backups are damaged",
                ),
            );
        }
        let worth = |used: &Use| used.live >= used.stored.content / 2;
        let packs = uses.iter().filter(|used| worth(used) && is_there(used));
        self.packs = packs.map(|used| (Arc::from(used.pack.as_str()), used.stored)).collect();
        self.parent = Some(record);
        Ok(())
    }

    /// Adds what a backup left behind that is over and was never listed.
    fn add_unfinished(&mut self, id: String, archive: &Archive, announced: &Announcement) -> Result<()> {
        announced.update(|notice| notice.needs.push(id.clone()))?;
        // It may be under way elsewhere, or have been completed; and a prune that began before looks for this
        // announcement after it has said what it removes.
        let others = archive.announced()?;
        let is_busy = others.iter().any(|seen| seen.is_removing(&id) || seen.may_be_making(&id));
        if !is_busy && archive.record(&id)?.is_none() {
            let there: HashMap<String, u64> = archive.stored_by(&id)?.into_iter().collect();
            let mut packs: HashMap<Arc<str>, StoredPack> = HashMap::new();
            for part in manifest::unfinished(archive, &id) {
                let Ok(part) = part else {
                    break;
                };
                for (key, bytes) in part.named() {
                    // What else is in the pack nobody knows any more.
                    if let Some((key, size)) = there.get_key_value(key) {
                        let stored = packs
                            .entry(Arc::from(key.as_str()))
                            .or_insert(StoredPack { size: *size, content: 0 });
                        stored.content += bytes;
                    }
                }
            }
            if !packs.is_empty() {
                let what = format!(
                    "going on from backup {id}, which never came to its end: it has left {} packs",
                    packs.len()
                );
                tracing::info!("{what}");
                self.packs.extend(packs);
                self.unfinished = Some(id);
                return Ok(());
            }
        }
        announced.update(|notice| notice.needs.retain(|other| *other != id))
    }

    /// Leaves nothing to be named: everything is stored anew. What is known stays known.
    pub fn name_nothing(&mut self) {
        self.packs.clear();
        self.unfinished = None;
        self.stands_alone = true;
    }

    /// Leaves the parent alone, for one who has heard what changed since then.
    pub fn forget_unfinished(&mut self) {
        self.unfinished = None;
    }

    pub fn pack(&self, key: &str) -> Option<StoredPack> {
        self.packs.get(key).copied()
    }

    /// Reads the manifests, part by part, for as long as somebody takes them. One that turns out to be damaged
    /// ends early: what it would have named is stored anew.
    pub fn read(&self, archive: &Archive, parts: &Sender<KnownPart>) -> Result<()> {
        if let Some(id) = &self.unfinished {
            self.hand_on(manifest::unfinished(archive, id), parts)?;
        }
        match &self.parent {
            Some(record) => {
                let read = Parts::of(archive, record).enumerate().map(|(index, part)| {
                    if !self.stands_alone
                        && let (Ok(part), Some(stored)) = (&part, record.manifest.get(index))
                    {
                        self.bases.add(part, stored);
                    }
                    part
                });
                self.hand_on(read, parts)
            }
            None => Ok(()),
        }
    }

    fn hand_on(&self, read: impl Iterator<Item = Result<Part>>, parts: &Sender<KnownPart>) -> Result<()> {
        for part in read {
            match part.map(|part| parts.send(self.known(part))) {
                Ok(Ok(())) => {}
                // Nobody wants any more.
                Ok(Err(_)) => break,
                Err(error) if error.kind() == Kind::Damage => {
                    progress::warn(&error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn known(&self, part: Part) -> KnownPart {
        let packs = part.packs.iter();
        let packs = packs.map(|key| self.packs.get_key_value(key.as_str()).map(|(key, _)| key.clone()));
        let files: Vec<FileEntry> = part.entries.into_iter().filter_map(Entry::into_file).collect();
        KnownPart { packs: packs.collect(), files: files.into_iter() }
    }
}

/// Fails unless everything that a manifest relies upon is still in the repository: packs, and bases of its parts.
pub fn check_stored(archive: &Archive, manifest: &Written) -> Result<()> {
    let packs = manifest.uses.iter().map(|used| (used.pack.as_str(), used.stored.size));
    let bases = manifest.parts.iter().filter_map(|part| part.base.as_deref());
    let needed: Vec<(&str, u64)> = packs.chain(bases.map(|base| (base.key.as_str(), base.size))).collect();
    let there = sizes(archive, needed.iter().map(|(key, _)| *key))?;
    match needed.iter().find(|(key, size)| there.get(*key) != Some(size)) {
        None => Ok(()),
        Some((key, _)) => {
            Err(Error::new(Kind::Damage, format!("{key} went away while the backup was taken"))
                .hint("take the backup again: what is missing is stored anew"))
        }
    }
}

/// Everything in the folders of the backups that stored these objects: key and size.
fn sizes<'a>(archive: &Archive, keys: impl Iterator<Item = &'a str>) -> Result<HashMap<String, u64>> {
    let storer = |key| match ObjectName::parse(key) {
        Some(ObjectName::Pack(id, _) | ObjectName::Manifest(id, _)) => Some(id),
        _ => None,
    };
    let storers: BTreeSet<String> = keys.filter_map(storer).collect();
    let mut found = HashMap::new();
    for id in storers {
        found.extend(archive.stored_by(&id)?);
    }
    Ok(found)
}

/// Files of the parent, and the packs that their extents number. A pack that is not to be named is `None`.
pub struct KnownPart {
    packs: Vec<Option<Arc<str>>>,
    files: std::vec::IntoIter<FileEntry>,
}

/// A file to be read.
pub struct Job {
    /// Files are numbered in the order in which they were found, which is that of the manifest.
    pub number: u64,
    pub task: Task,
    pub known: Option<Arc<KnownFile>>,
}

/// Hands out what the walk finds, each file with what the parent has of it.
pub struct Queue {
    ends: Mutex<Ends>,
    summaries: Option<Summaries>,
}

struct Ends {
    found: Receiver<(u64, Task)>,
    parts: Receiver<KnownPart>,
    part: KnownPart,
    /// The first file of the parent that has not been passed.
    next: Option<FileEntry>,
}

impl Queue {
    /// Nothing comes through `parts` when there is no parent.
    pub fn new(
        found: Receiver<(u64, Task)>,
        parts: Receiver<KnownPart>,
        summaries: Option<Summaries>,
    ) -> Queue {
        let part = KnownPart { packs: Vec::new(), files: Vec::new().into_iter() };
        Queue { ends: Mutex::new(Ends { found, parts, part, next: None }), summaries }
    }

    /// The next file; `None` when there are no more.
    pub fn next(&self) -> Option<Job> {
        // Whoever takes a file looks it up before another one is taken.
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, task) = ends.found.recv().ok()?;
        let known = ends.find(&task.path);
        drop(ends);
        let known = known.map(|known| Arc::new(KnownFile { promise: self.promise(&task), ..known }));
        Some(Job { number, task, known })
    }

    fn promise(&self, task: &Task) -> Option<Promise> {
        let (place, node) = task.node?;
        let changed = self.summaries.as_ref()?.of(place, node)?;
        Some(Promise { changed, first: u64::from(task.first_page?) })
    }
}

impl Ends {
    fn find(&mut self, path: &StoredPath) -> Option<KnownFile> {
        loop {
            let file = match self.next.take() {
                Some(file) => file,
                None => self.advance()?,
            };
            match file.path.order(path) {
                Ordering::Less => {}
                Ordering::Equal => return Some(KnownFile::new(file, &self.part.packs)),
                Ordering::Greater => {
                    self.next = Some(file);
                    return None;
                }
            }
        }
    }

    fn advance(&mut self) -> Option<FileEntry> {
        loop {
            if let Some(file) = self.part.files.next() {
                return Some(file);
            }
            self.part = self.parts.recv().ok()?;
        }
    }
}

/// A file as the parent has it.
pub struct KnownFile {
    pub path: StoredPath,
    pub size: u64,
    pub crc32c: Option<u32>,
    block: u32,
    hashes: Vec<BlockHash>,
    /// Where blocks are that may be named: the number of the first, its pack, the extent.
    places: Vec<(usize, Arc<str>, Extent)>,
    promise: Option<Promise>,
}

/// What the WAL summaries say of a file.
struct Promise {
    changed: Arc<Changed>,
    /// The number of the file's first page in its relation.
    first: u64,
}

/// Blocks of a piece that lie behind each other, and where they are known to be.
pub struct Run {
    pub blocks: Range<usize>,
    pub known: Option<(Arc<str>, Extent)>,
}

impl KnownFile {
    fn new(file: FileEntry, packs: &[Option<Arc<str>>]) -> KnownFile {
        let mut places = Vec::with_capacity(file.at.len());
        for (blocks, extent) in file.extents() {
            if let Some(Some(pack)) = packs.get(extent.pack as usize) {
                places.push((blocks.start, pack.clone(), *extent));
            }
        }
        KnownFile {
            path: file.path,
            size: file.size,
            crc32c: file.crc32c,
            block: file.block,
            hashes: file.hashes,
            places,
            promise: None,
        }
    }

    /// Whether the summaries promise anything of the file.
    pub fn is_promised(&self) -> bool {
        self.promise.is_some()
    }

    pub fn hashes(&self, blocks: Range<usize>) -> &[BlockHash] {
        self.hashes.get(blocks).unwrap_or_default()
    }

    /// Whether the summaries promise that a block is as the parent has it; `size` is that of the file now.
    pub fn promises(&self, block: u32, number: usize, size: u64) -> bool {
        let Some(promise) = &self.promise else {
            return false;
        };
        let begin = number as u64 * u64::from(block);
        let end = |size: u64| (begin + u64::from(block)).min(size);
        let page = |at: u64| promise.first + at.div_ceil(PAGE_SIZE as u64);
        block == self.block
            && begin < self.size
            && end(size) == end(self.size)
            && !promise.changed.touches(page(begin)..page(end(size)))
    }

    /// Divides a piece of the file, which begins with block `first` and has so many blocks, into what is known and what
    /// is not; `is_same` says whether a block is as the parent has it.
    pub fn divide(
        &self,
        block: u32,
        first: usize,
        count: usize,
        is_same: impl Fn(usize) -> bool,
    ) -> Vec<Run> {
        let all = || vec![Run { blocks: 0..count, known: None }];
        if block != self.block {
            return all();
        }
        let mut runs = Vec::new();
        let mut at = 0;
        while at < count {
            let place = self.place(first + at);
            let end = match place {
                Some((begin, _, extent)) => count.min(begin + extent.blocks as usize - first),
                None => at + 1,
            };
            let same = (at..end).take_while(|at| is_same(first + at)).count();
            match place {
                Some((begin, pack, extent)) if same > 0 => {
                    let extent = Extent {
                        skip: extent.skip + (first + at - begin) as u32 * block,
                        blocks: same as u32,
                        ..*extent
                    };
                    runs.push(Run { blocks: at..at + same, known: Some((pack.clone(), extent)) });
                    at += same;
                }
                _ => {
                    match runs.last_mut() {
                        Some(Run { blocks, known: None }) => blocks.end += 1,
                        _ => runs.push(Run { blocks: at..at + 1, known: None }),
                    }
                    at += 1;
                }
            }
        }
        if runs.len() > MOST_RUNS { all() } else { runs }
    }

    /// The extent that holds a block, if it may be named: the number of its first block, its pack, itself.
    fn place(&self, block: usize) -> Option<(usize, &Arc<str>, &Extent)> {
        let behind = self.places.partition_point(|(first, ..)| *first <= block);
        let (first, pack, extent) = self.places.get(behind.checked_sub(1)?)?;
        (block - first < extent.blocks as usize).then_some((*first, pack, extent))
    }
}
