//! What a backup consists of, as lines of JSON in parts of bounded size; see `FORMAT.md`.
//!
//! From one backup to the next most lines stay as they are. So a part is stored as what distinguishes it from a part of
//! an earlier manifest, its *base*, while that is less than half of it. A base has none itself: to read a part is to read
//! two objects at most. Parts end where those of the parent end, so that each keeps to one base.

use super::data::PackSet;
use super::entry::{Dir, Entry, FileEntry, StoredPath, Tablespace};
use super::record::{ManifestPart, Record};
use super::{Archive, key};
use crate::codec::compress::{Compression, Compressor, FRAME};
use crate::codec::envelope::{self, HEADER_SIZE, Header, ObjectKind};
use crate::codec::hash::ContentHash;
use crate::error::{Doing, Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError, mpsc};

/// A part is closed when its text has grown to this, or twice this while the parent's part goes on. A backup that never
/// comes to its end leaves those that are full.
const PART_SIZE: usize = 2 << 20;

/// No part is larger: one line may follow after the size is reached, and a line describes 1 GiB.
pub const MAX_PART: u64 = 64 << 20;

const HASH: &str = "blake3-128";

/// Every line there is.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Part { backup: String, number: u32, hash: String },
    Pack { number: u32, key: String },
    Dir(Dir),
    Tablespace(Tablespace),
    File(FileEntry),
    Config(FileEntry),
    Use(Use),
    End(Totals),
}

/// How much of a pack a backup needs. From this the next one knows which packs are still worth naming.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The key of the pack, relative to the archive.
    pub pack: String,
    #[serde(flatten)]
    pub stored: StoredPack,
    /// Bytes of blocks in it that belong to the backup.
    pub live: u64,
}

/// A pack as it lies in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPack {
    /// Bytes of the object.
    pub size: u64,
    /// Bytes of all blocks in it.
    pub content: u64,
}

impl Use {
    /// Bytes that the backup's blocks take in the pack: their share of it.
    pub fn share(&self) -> u64 {
        let share = u128::from(self.stored.size) * u128::from(self.live)
            / u128::from(self.stored.content.max(self.live).max(1));
        share as u64
    }
}

impl From<Entry> for Line {
    fn from(entry: Entry) -> Line {
        match entry {
            Entry::Dir(dir) => Line::Dir(dir),
            Entry::Tablespace(tablespace) => Line::Tablespace(tablespace),
            Entry::File(file) => Line::File(file),
            Entry::Config(file) => Line::Config(file),
        }
    }
}

/// What a manifest adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub files: u64,
    pub dirs: u64,
    /// Bytes of all files when restored.
    pub bytes: u64,
}

impl Totals {
    fn count(&mut self, entry: &Entry) {
        match entry {
            Entry::File(file) => {
                self.files += 1;
                self.bytes += file.size;
            }
            Entry::Dir(_) => self.dirs += 1,
            Entry::Tablespace(_) | Entry::Config(_) => {}
        }
    }
}

/// By which earlier parts those of a new manifest may be told: from which file on, and the part. Filled while the
/// parent's manifest is read, ahead of the writer. Not with texts: how far ahead is not bounded, so the writer reads
/// the one that it needs once more.
#[derive(Default)]
pub struct Bases(Mutex<VecDeque<(StoredPath, ManifestPart)>>);

impl Bases {
    /// Adds a part of the parent's manifest; they come in order.
    pub fn add(&self, part: &Part, stored: &ManifestPart) {
        let base = stored.base.as_deref().unwrap_or(stored);
        if let Some(first) = part.entries.iter().find_map(Entry::file) {
            let mut bases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            bases.push_back((first.path.clone(), base.clone()));
        }
    }

    /// The part that holds a file, or would; `None` when it is the one that it was for the file before.
    fn next(&self, path: &StoredPath) -> Option<ManifestPart> {
        let mut bases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut passed = None;
        while bases.front().is_some_and(|(first, _)| first.order(path) != Ordering::Greater) {
            passed = bases.pop_front();
        }
        passed.map(|(_, base)| base)
    }
}

/// Writes the manifest of a backup, part by part; memory is bounded by a part and its base.
pub struct Writer<'a> {
    archive: &'a Archive,
    backup: String,
    bases: &'a Bases,
    /// Of the part that is being written.
    base: Option<ManifestPart>,
    compressor: Compressor,
    text: Vec<u8>,
    /// Packs that this part has named, by key.
    packs: HashMap<String, u32>,
    /// Bytes of blocks in each pack that was named in any part.
    live: BTreeMap<String, u64>,
    parts: Vec<ManifestPart>,
    totals: Totals,
    stored: u64,
}

/// A manifest that is in the repository.
pub struct Written {
    /// For the record, as are the packs that it names.
    pub parts: Vec<ManifestPart>,
    pub packs: PackSet,
    /// The same packs, with what is needed of each.
    pub uses: Vec<Use>,
    pub totals: Totals,
    /// Bytes that its parts take.
    pub stored: u64,
}

impl<'a> Writer<'a> {
    pub fn new(archive: &'a Archive, backup: &str, bases: &'a Bases) -> Result<Writer<'a>> {
        let mut writer = Writer {
            archive,
            backup: backup.to_owned(),
            bases,
            base: None,
            compressor: Compressor::new(Compression::Zstd(3))?,
            text: Vec::new(),
            packs: HashMap::new(),
            live: BTreeMap::new(),
            parts: Vec::new(),
            totals: Totals::default(),
            stored: 0,
        };
        writer.begin()?;
        Ok(writer)
    }

    fn begin(&mut self) -> Result<()> {
        let number = self.parts.len() as u32 + 1;
        self.line(&Line::Part { backup: self.backup.clone(), number, hash: HASH.to_owned() })
    }

    fn line(&mut self, line: &Line) -> Result<()> {
        serde_json::to_writer(&mut self.text, line)
            .map_err(|e| Error::new(Kind::Failed, format!("write the manifest: {e}")))?;
        self.text.push(b'\n');
        Ok(())
    }

    /// Adds an entry. Its extents number packs as `pack_keys` says: each pack's key, relative to the
    /// archive, at the place of its number.
    pub fn entry(&mut self, mut entry: Entry, pack_key: impl Fn(u32) -> String) -> Result<()> {
        if let Entry::File(file) = &entry
            && let Some(base) = self.bases.next(&file.path)
        {
            if self.text.len() >= PART_SIZE / 2 {
                self.next_part()?;
            }
            self.base = Some(base);
        }
        if let Entry::File(file) | Entry::Config(file) = &mut entry {
            let mut left = file.size;
            for extent in &mut file.at {
                let bytes = extent.take_bytes(file.block, &mut left);
                extent.pack = self.pack(pack_key(extent.pack), bytes)?;
            }
        }
        self.totals.count(&entry);
        self.line(&entry.into())?;
        let most = if self.base.is_some() { 2 * PART_SIZE } else { PART_SIZE };
        if self.text.len() >= most { self.next_part() } else { Ok(()) }
    }

    fn next_part(&mut self) -> Result<()> {
        self.close_part()?;
        self.begin()
    }

    /// The number of a pack in this part, and a note that these bytes of it are needed.
    fn pack(&mut self, key: String, bytes: u64) -> Result<u32> {
        match self.live.get_mut(&key) {
            Some(live) => *live += bytes,
            None => drop(self.live.insert(key.clone(), bytes)),
        }
        if let Some(number) = self.packs.get(&key) {
            return Ok(*number);
        }
        let number = self.packs.len() as u32;
        self.line(&Line::Pack { number, key: key.clone() })?;
        self.packs.insert(key, number);
        Ok(number)
    }

    fn close_part(&mut self) -> Result<()> {
        let name = key::manifest(&self.backup, self.parts.len() as u32 + 1);
        let header = self.archive.header(ObjectKind::Manifest, &name);
        let (object, base) = match self.patch(header.clone())? {
            Some((object, base)) => (object, Some(Box::new(base))),
            None => (envelope::seal(header, &self.text, &mut self.compressor)?, None),
        };
        self.archive.put_data(&name, &object)?;
        self.stored += object.len() as u64;
        self.parts.push(ManifestPart {
            key: key::data(&name),
            size: object.len() as u64,
            sha256: ContentHash::of(&object),
            base,
        });
        self.text.clear();
        self.packs.clear();
        Ok(())
    }

    /// The part as what distinguishes it from its base, unless that is too much or the base cannot be read.
    fn patch(&self, mut header: Header) -> Result<Option<(Vec<u8>, ManifestPart)>> {
        let Some(base) = &self.base else {
            return Ok(None);
        };
        let text = match self.archive.get_base(base) {
            Err(error) if error.kind() == Kind::Damage => return Ok(None),
            text => text?,
        };
        header.base = Some(base.key.clone());
        let object = envelope::seal_patch(header, &self.text, &text)?;
        let own = |size: u64| size.saturating_sub(HEADER_SIZE as u64);
        let is_worth_it = own(object.len() as u64) <= own(base.size) / 2;
        Ok(is_worth_it.then(|| (object, base.clone())))
    }

    /// Writes the end. Everything is durable when this returns. `stored` knows every pack that was named.
    pub fn finish(mut self, stored: impl Fn(&str) -> Option<StoredPack>) -> Result<Written> {
        let mut packs = PackSet::default();
        let mut uses = Vec::with_capacity(self.live.len());
        for (pack, live) in std::mem::take(&mut self.live) {
            let stored = stored(&pack)
                .ok_or_else(|| Error::new(Kind::Failed, format!("{pack} was named and never stored")))?;
            packs.insert(&pack)?;
            let used = Use { pack, stored, live };
            self.line(&Line::Use(used.clone()))?;
            uses.push(used);
        }
        self.line(&Line::End(self.totals))?;
        self.close_part()?;
        Ok(Written { parts: self.parts, packs, totals: self.totals, stored: self.stored, uses })
    }
}

/// Part of a manifest: entries whose extents number packs by `packs`.
pub struct Part {
    pub packs: Vec<String>,
    pub entries: Vec<Entry>,
    /// All packs of the backup; in the last part alone.
    pub uses: Vec<Use>,
}

impl Part {
    /// The packs of its extents, and bytes of blocks in them.
    pub fn named(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().filter_map(Entry::any_file).flat_map(move |file| {
            let mut left = file.size;
            file.at.iter().filter_map(move |extent| {
                let bytes = extent.take_bytes(file.block, &mut left);
                Some((self.packs.get(extent.pack as usize)?.as_str(), bytes))
            })
        })
    }
}

/// Reads a backup's manifest, part by part, each checked against the record, the next one while `each` is busy with
/// one. Fails when the manifest is not complete.
pub fn read(archive: &Archive, record: &Record, mut each: impl FnMut(Part) -> Result<()>) -> Result<()> {
    let (sender, parts) = mpsc::sync_channel(0);
    std::thread::scope(|scope| {
        // Ends when there is nobody to take the next part.
        scope.spawn(move || Parts::of(archive, record).try_for_each(|part| sender.send(part)));
        parts.into_iter().try_for_each(|part| each(part?))
    })
}

/// The parts of a backup's manifest, each read when it is asked for and checked against the record. Behind the last
/// one there is an error when the manifest is not complete; nothing follows an error.
pub struct Parts<'a> {
    archive: &'a Archive,
    record: &'a Record,
    next: usize,
    totals: Totals,
    end: Option<Totals>,
}

impl<'a> Parts<'a> {
    pub fn of(archive: &'a Archive, record: &'a Record) -> Parts<'a> {
        Parts { archive, record, next: 0, totals: Totals::default(), end: None }
    }

    fn read(&mut self, index: usize) -> Result<Option<Part>> {
        match index < self.record.manifest.len() {
            true => read_part(self.archive, self.record, index, &mut self.totals, &mut self.end).map(Some),
            false if self.end == Some(self.totals) => Ok(None),
            false => Err(not_complete(self.record)),
        }
    }
}

impl Iterator for Parts<'_> {
    type Item = Result<Part>;

    fn next(&mut self) -> Option<Result<Part>> {
        let index = self.next;
        if index > self.record.manifest.len() {
            return None;
        }
        let part = self.read(index);
        self.next = if part.is_ok() { index + 1 } else { usize::MAX };
        part.transpose()
    }
}

/// The parts of the manifest of a backup that has no record: those that were complete when it ended. Each is checked
/// against its own header alone.
pub fn unfinished<'a>(archive: &'a Archive, id: &'a str) -> impl Iterator<Item = Result<Part>> + 'a {
    let mut end = None;
    (1..).map_while(move |number| {
        let text = archive.get_unfinished_manifest(id, number).transpose()?;
        Some(text.and_then(|text| parse_part(&text, id, number, &mut Totals::default(), &mut end)))
    })
}

/// The packs that a backup names, from the last part of its manifest.
pub fn uses(archive: &Archive, record: &Record) -> Result<Vec<Use>> {
    let last = record.manifest.len().checked_sub(1).ok_or_else(|| not_complete(record))?;
    let mut end = None;
    let part = read_part(archive, record, last, &mut Totals::default(), &mut end)?;
    if end.is_some() { Ok(part.uses) } else { Err(not_complete(record)) }
}

fn not_complete(record: &Record) -> Error {
    Error::new(Kind::Damage, format!("the manifest of backup {} is not complete", record.id))
}

fn read_part(
    archive: &Archive,
    record: &Record,
    index: usize,
    totals: &mut Totals,
    end: &mut Option<Totals>,
) -> Result<Part> {
    let stored = record.manifest.get(index).ok_or_else(|| not_complete(record))?;
    let number = index as u32 + 1;
    let text = archive.get_manifest(stored, &key::manifest(&record.id, number))?;
    parse_part(&text, &record.id, number, totals, end).doing(|| format!("read {}", stored.key))
}

fn parse_part(
    text: &[u8],
    backup: &str,
    number: u32,
    totals: &mut Totals,
    end: &mut Option<Totals>,
) -> Result<Part> {
    let damaged = |what: String| Err(Error::new(Kind::Damage, what));
    let mut part = Part { packs: Vec::new(), entries: Vec::new(), uses: Vec::new() };
    for (index, line) in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let line: Line = serde_json::from_slice(line)
            .map_err(|e| Error::new(Kind::Damage, format!("line {}: {e}", index + 1)))?;
        if end.is_some() {
            return damaged(format!("line {} stands behind the end", index + 1));
        }
        let entry = match line {
            Line::Part { backup: b, number: n, hash } => {
                if index != 0 || b != backup || n != number {
                    return damaged(format!("it is part {n} of backup {b}"));
                }
                if hash != HASH {
                    return Err(Error::new(Kind::Refused, format!("its blocks have hashes of kind {hash}"))
                        .hint("install a newer walkeep"));
                }
                continue;
            }
            Line::Pack { number, key } if number as usize == part.packs.len() => {
                part.packs.push(key);
                continue;
            }
            Line::Pack { number, .. } => return damaged(format!("pack {number} is out of order")),
            Line::Use(used) => {
                part.uses.push(used);
                continue;
            }
            Line::End(counts) => {
                *end = Some(counts);
                continue;
            }
            Line::Dir(dir) => Entry::Dir(dir),
            Line::Tablespace(tablespace) => Entry::Tablespace(tablespace),
            Line::File(file) => Entry::File(file),
            Line::Config(file) => Entry::Config(file),
        };
        check(&entry, part.packs.len())?;
        totals.count(&entry);
        part.entries.push(entry);
    }
    Ok(part)
}

/// Refuses what could lead outside the target, and files whose parts do not add up.
fn check(entry: &Entry, packs: usize) -> Result<()> {
    let damaged = |path: &StoredPath, what: &str| {
        Err(Error::new(Kind::Damage, format!("`{}` {what}", path.display().escape_debug())))
    };
    let (path, file) = match entry {
        Entry::Tablespace(_) => return Ok(()),
        Entry::Dir(dir) => (&dir.path, None),
        Entry::File(file) => (&file.path, Some(file)),
        Entry::Config(file) => (&file.path, Some(file)),
    };
    let inside = match entry {
        Entry::Config(_) => {
            path.0.strip_prefix(b"/").is_some_and(|rest| StoredPath(rest.to_vec()).is_inside())
        }
        // The data directory itself.
        Entry::Dir(_) if path.0.is_empty() => true,
        _ => path.is_inside(),
    };
    if !inside {
        return damaged(path, "leads outside the target directory");
    }
    let Some(file) = file else {
        return Ok(());
    };
    let blocks: u64 = file.at.iter().map(|extent| u64::from(extent.blocks)).sum();
    let block = u64::from(file.block);
    let fits = block.is_power_of_two()
        && block <= 1 << 20
        && blocks == file.hashes.len() as u64
        && file.size.div_ceil(block) == blocks
        && file.at.iter().all(|extent| {
            let before_last = u64::from(extent.blocks.saturating_sub(1)) * block;
            (extent.pack as usize) < packs
                && extent.blocks > 0
                && extent.length as usize <= 2 * FRAME
                && u64::from(extent.skip) + before_last < FRAME as u64
        });
    if !fits {
        return damaged(path, "has blocks that do not add up");
    }
    Ok(())
}
