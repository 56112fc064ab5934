//! Writes the manifest of a backup, part by part, each as a delta where that pays off.

use super::{HASH, Line, Part, StoredPack, Totals, Use};
use crate::codec::compress::{Compression, Compressor};
use crate::codec::envelope::{self, HEADER_SIZE, Header, ObjectKind};
use crate::codec::hash::ContentHash;
use crate::error::{Error, Kind, Result};
use crate::repo::entry::{Entry, StoredPath};
use crate::repo::packset::PackSet;
use crate::repo::record::ManifestPart;
use crate::repo::{Archive, key};
use parking_lot::Mutex;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Bytes of text at which a part is full; twice as many for a part with a base, so that it ends
/// where the part of the parent ends. A backup that fails leaves its full parts in the repository.
const PART_SIZE: usize = 2 << 20;

/// Candidates for bases: parts of earlier manifests, by their first file. Filled while the manifest
/// of the parent is read, any distance ahead of the writer; so it holds no texts, and the writer
/// reads the text of a base once more.
#[derive(Default)]
pub struct Bases(Mutex<VecDeque<(StoredPath, ManifestPart)>>);

impl Bases {
    /// Adds a part of the parent's manifest. Parts are added in order.
    pub fn add(&self, part: &Part, stored: &ManifestPart) {
        let base = stored.base.as_deref().unwrap_or(stored);
        if let Some(first) = part.entries.iter().find_map(Entry::file) {
            self.0.lock().push_back((first.path.clone(), base.clone()));
        }
    }

    /// Returns the part in whose range a file lies; `None` when the previous file lies in the range
    /// of the same part.
    fn next(&self, path: &StoredPath) -> Option<ManifestPart> {
        let mut bases = self.0.lock();
        let mut passed = None;
        while bases.front().is_some_and(|(first, _)| first.order(path) != Ordering::Greater) {
            passed = bases.pop_front();
        }
        passed.map(|(_, base)| base)
    }
}

/// Writes a manifest. Memory is bounded by a part and its base.
pub struct Writer<'a> {
    archive: &'a Archive,
    backup: String,
    bases: &'a Bases,
    /// The base of the part that is being written.
    base: Option<ManifestPart>,
    compressor: Compressor,
    text: Vec<u8>,
    /// Numbers of the packs that this part has named, by key.
    packs: HashMap<String, u32>,
    /// Bytes of blocks in each pack that any part has named.
    live: BTreeMap<String, u64>,
    parts: Vec<ManifestPart>,
    totals: Totals,
    stored: u64,
}

/// A manifest that is stored.
pub struct Written {
    /// The parts, for the record.
    pub parts: Vec<ManifestPart>,
    /// The packs that the manifest names, for the record.
    pub packs: PackSet,
    /// The packs that the manifest names, with the share of each that the backup needs.
    pub uses: Vec<Use>,
    pub totals: Totals,
    /// Bytes of its parts.
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
        let number = self.number()?;
        self.line(&Line::Part { backup: self.backup.clone(), number, hash: HASH.to_owned() })
    }

    /// Returns the number of the part that is being written.
    fn number(&self) -> Result<u32> {
        u32::try_from(self.parts.len() + 1)
            .map_err(|_| Error::new(Kind::Failed, "the manifest has too many parts"))
    }

    fn line(&mut self, line: &Line) -> Result<()> {
        serde_json::to_writer(&mut self.text, line)
            .map_err(|e| Error::new(Kind::Failed, format!("write the manifest: {e}")))?;
        self.text.push(b'\n');
        Ok(())
    }

    /// Adds an entry. `pack_key` gives the key, relative to the archive, of each pack number in its
    /// extents.
    pub fn entry(&mut self, mut entry: Entry, pack_key: impl Fn(u32) -> Result<String>) -> Result<()> {
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
                extent.pack = self.pack(pack_key(extent.pack)?, bytes)?;
            }
        }
        self.totals.count(&entry)?;
        self.line(&entry.into())?;
        let limit = if self.base.is_some() { 2 * PART_SIZE } else { PART_SIZE };
        if self.text.len() >= limit { self.next_part() } else { Ok(()) }
    }

    fn next_part(&mut self) -> Result<()> {
        self.close_part()?;
        self.begin()
    }

    /// Returns the number of a pack in this part, and counts these bytes of it as needed.
    fn pack(&mut self, key: String, bytes: u64) -> Result<u32> {
        match self.live.get_mut(&key) {
            Some(live) => *live += bytes,
            None => drop(self.live.insert(key.clone(), bytes)),
        }
        if let Some(number) = self.packs.get(&key) {
            return Ok(*number);
        }
        let number = u32::try_from(self.packs.len());
        let number = number.map_err(|_| Error::new(Kind::Failed, "a part names too many packs"))?;
        self.line(&Line::Pack { number, key: key.clone() })?;
        self.packs.insert(key, number);
        Ok(number)
    }

    fn close_part(&mut self) -> Result<()> {
        let name = key::manifest(&self.backup, self.number()?);
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

    /// Returns the part as a delta of its base; `None` when the part has no base, the delta is too
    /// large, or the base is damaged.
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

    /// Writes the end. All parts are durable when this returns. `stored` gives size and content of
    /// every pack that was named.
    pub fn finish(mut self, stored: impl Fn(&str) -> Option<StoredPack>) -> Result<Written> {
        let mut packs = PackSet::default();
        let mut uses = Vec::with_capacity(self.live.len());
        for (pack, live) in std::mem::take(&mut self.live) {
            let stored = stored(&pack).ok_or_else(|| {
                Error::new(Kind::Failed, format!("the manifest names {pack}, which was never stored"))
            })?;
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
