//! What a backup consists of, as lines of JSON in parts of bounded size; see `FORMAT.md`.

use super::data::PackSet;
use super::entry::{Dir, Entry, File, StoredPath, Tablespace};
use super::record::{ManifestPart, Record};
use super::{Archive, key};
use crate::codec::compress::{Compression, Compressor};
use crate::codec::envelope::{self, ObjectKind};
use crate::codec::hash::ContentHash;
use crate::error::{Doing, Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// A part is closed when its text has grown to this.
const PART_SIZE: usize = 8 << 20;

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
    File(File),
    Config(File),
    End(Totals),
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

/// Writes the manifest of a backup, part by part; memory is bounded by a part.
pub struct Writer<'a> {
    archive: &'a Archive,
    backup: String,
    compressor: Compressor,
    text: Vec<u8>,
    /// Packs that this part has named, by key.
    packs: HashMap<String, u32>,
    named: PackSet,
    parts: Vec<ManifestPart>,
    totals: Totals,
    stored: u64,
}

impl<'a> Writer<'a> {
    pub fn new(archive: &'a Archive, backup: &str) -> Result<Writer<'a>> {
        let mut writer = Writer {
            archive,
            backup: backup.to_owned(),
            compressor: Compressor::new(Compression::Zstd(3))?,
            text: Vec::new(),
            packs: HashMap::new(),
            named: PackSet::default(),
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
        if let Entry::File(file) | Entry::Config(file) = &mut entry {
            for extent in &mut file.at {
                extent.pack = self.pack(pack_key(extent.pack))?;
            }
        }
        self.totals.count(&entry);
        self.line(&entry.into())?;
        if self.text.len() >= PART_SIZE {
            self.close_part()?;
            self.begin()?;
        }
        Ok(())
    }

    fn pack(&mut self, key: String) -> Result<u32> {
        if let Some(number) = self.packs.get(&key) {
            return Ok(*number);
        }
        self.named.insert(&key)?;
        let number = self.packs.len() as u32;
        self.line(&Line::Pack { number, key: key.clone() })?;
        self.packs.insert(key, number);
        Ok(number)
    }

    fn close_part(&mut self) -> Result<()> {
        let name = key::manifest(&self.backup, self.parts.len() as u32 + 1);
        let header = self.archive.header(ObjectKind::Manifest, &name);
        let object = envelope::seal(header, &self.text, &mut self.compressor)?;
        self.archive.put_data(&name, &object)?;
        self.stored += object.len() as u64;
        self.parts.push(ManifestPart {
            key: key::data(&name),
            size: object.len() as u64,
            sha256: ContentHash::of(&object),
        });
        self.text.clear();
        self.packs.clear();
        Ok(())
    }

    /// Writes the end. Everything is durable when this returns.
    pub fn finish(mut self) -> Result<Written> {
        self.line(&Line::End(self.totals))?;
        self.close_part()?;
        Ok(Written { parts: self.parts, packs: self.named, totals: self.totals, stored: self.stored })
    }
}

/// A manifest that is in the repository.
pub struct Written {
    /// For the record, as are the packs that it names.
    pub parts: Vec<ManifestPart>,
    pub packs: PackSet,
    pub totals: Totals,
    /// Bytes that its parts take.
    pub stored: u64,
}

/// Part of a manifest: entries whose extents number packs by `packs`.
pub struct Part {
    pub packs: Vec<String>,
    pub entries: Vec<Entry>,
}

/// Reads a backup's manifest, part by part, each checked against the record. Fails when the manifest is
/// not complete.
pub fn read(archive: &Archive, record: &Record, mut each: impl FnMut(Part) -> Result<()>) -> Result<()> {
    let mut totals = Totals::default();
    let mut end = None;
    for (index, stored) in record.manifest.iter().enumerate() {
        let number = index as u32 + 1;
        let text = archive.get_manifest(stored, &key::manifest(&record.id, number))?;
        let part = parse_part(&text, &record.id, number, &mut totals, &mut end)
            .doing(|| format!("read {}", stored.key))?;
        each(part)?;
    }
    if end == Some(totals) {
        Ok(())
    } else {
        Err(Error::new(Kind::Damage, format!("the manifest of backup {} is not complete", record.id)))
    }
}

fn parse_part(
    text: &[u8],
    backup: &str,
    number: u32,
    totals: &mut Totals,
    end: &mut Option<Totals>,
) -> Result<Part> {
    let damaged = |what: String| Err(Error::new(Kind::Damage, what));
    let mut part = Part { packs: Vec::new(), entries: Vec::new() };
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
        && file.at.iter().all(|extent| (extent.pack as usize) < packs && extent.blocks > 0);
    if !fits {
        return damaged(path, "has blocks that do not add up");
    }
    Ok(())
}
