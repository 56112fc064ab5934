//! Reads the manifest of a backup, part by part, checked against the record.

use super::accepted::Accepted;
use super::check::{NamedFrames, check};
use super::{HASH, Line, MAX_LINES, MAX_PART, Part, Totals, Use};
use crate::codec::envelope::{Content, Header, ObjectKind};
use crate::codec::hash::ContentHash;
use crate::error::{Doing, Error, Kind, Result};
use crate::repo::entry::Entry;
use crate::repo::packset::PackSet;
use crate::repo::record::{ManifestPart, Record};
use crate::repo::{Archive, ObjectName, key};
use crate::runtime::{channel, thread};

/// Reads a manifest and calls `each` with its parts; the next part is read meanwhile.
///
/// # Errors
///
/// [`Kind::Damage`] when the manifest is not complete.
pub fn read(archive: &Archive, record: &Record, mut each: impl FnMut(Part) -> Result<()>) -> Result<()> {
    let (sender, parts) = channel::bounded(0);
    thread::scope(|scope| {
        let read = move || Parts::of(archive, record).try_for_each(|part| sender.send(part));
        match scope.spawn("manifest", read) {
            Ok(reading) => {
                let done = parts.into_iter().try_for_each(|part| each(part?));
                // It has ended, since the receiver is gone.
                reading.join().and(done)
            }
            Err(_) => Parts::of(archive, record).try_for_each(|part| each(part?)),
        }
    })
}

/// The parts of a manifest, each read on demand and checked against the record. The last item is an
/// error when the manifest is not complete, or describes what no restore may write; nothing follows
/// an error.
pub struct Parts<'a> {
    archive: &'a Archive,
    record: &'a Record,
    next: usize,
    accepted: Accepted,
    end: Option<Totals>,
}

impl<'a> Parts<'a> {
    pub fn of(archive: &'a Archive, record: &'a Record) -> Parts<'a> {
        let accepted = Accepted::new(archive.lineage().major);
        Parts { archive, record, next: 0, accepted, end: None }
    }

    fn read(&mut self, index: usize) -> Result<Option<Part>> {
        if index < self.record.manifest.len() {
            let accepted = Some(&mut self.accepted);
            read_part(self.archive, self.record, index, accepted, &mut self.end).map(Some)
        } else {
            self.accepted.end(self.record, self.end).map(|()| None)
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

/// Reads the parts that a backup without a record has stored, each checked against its own header
/// alone.
pub fn unfinished<'a>(archive: &'a Archive, id: &'a str) -> impl Iterator<Item = Result<Part>> + 'a {
    let mut end = None;
    (1..).map_while(move |number| {
        let text = archive.get_unfinished_manifest(id, number).transpose()?;
        Some(text.and_then(|text| parse_part(&text, id, number, None, &mut end)))
    })
}

/// Reads the packs that a backup names, from the last part of its manifest.
pub fn uses(archive: &Archive, record: &Record) -> Result<Vec<Use>> {
    let last = record.manifest.len().checked_sub(1).ok_or_else(|| not_complete(record))?;
    let mut end = None;
    let part = read_part(archive, record, last, None, &mut end)?;
    if end.is_some() { Ok(part.uses) } else { Err(not_complete(record)) }
}

fn not_complete(record: &Record) -> Error {
    Error::new(Kind::Damage, format!("the manifest of backup {} is not complete", record.id))
}

fn read_part(
    archive: &Archive,
    record: &Record,
    index: usize,
    accepted: Option<&mut Accepted>,
    end: &mut Option<Totals>,
) -> Result<Part> {
    let stored = record.manifest.get(index).ok_or_else(|| not_complete(record))?;
    let number = u32::try_from(index + 1).map_err(|_| not_complete(record))?;
    let text = archive.get_manifest(stored, &key::manifest(&record.id, number))?;
    parse_part(&text, &record.id, number, accepted, end).doing(|| format!("read {}", stored.key))
}

fn parse_part(
    text: &[u8],
    backup: &str,
    number: u32,
    mut accepted: Option<&mut Accepted>,
    end: &mut Option<Totals>,
) -> Result<Part> {
    let damaged = |what: String| Err(Error::new(Kind::Damage, what));
    let mut part = Part { packs: Vec::new(), entries: Vec::new(), uses: Vec::new() };
    let mut frames = NamedFrames::default();
    for (index, line) in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()).enumerate() {
        if index == MAX_LINES {
            return damaged(format!("it has more than {MAX_LINES} lines"));
        }
        let line: Line = serde_json::from_slice(line)
            .map_err(|e| Error::new(Kind::Damage, format!("line {}: {e}", index + 1)))?;
        if end.is_some() {
            return damaged(format!("line {} is behind the end", index + 1));
        }
        let entry = match line {
            Line::Part { backup: b, number: n, hash } => {
                if index != 0 || b != backup || n != number {
                    return damaged(format!("it is part {n} of backup {b}"));
                }
                if hash != HASH {
                    return Err(Error::new(
                        Kind::Refused,
                        format!("the hash of its blocks, {hash}, is unknown"),
                    )
                    .hint("install a newer walkeep"));
                }
                continue;
            }
            Line::Pack { number, key } if number as usize == part.packs.len() => {
                if !matches!(ObjectName::parse(&key), Some(ObjectName::Pack(..))) {
                    return damaged(format!("`{}` is not the key of a pack", key.escape_debug()));
                }
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
        frames.add(&entry)?;
        if let Some(accepted) = &mut accepted {
            accepted.entry(&entry)?;
        }
        part.entries.push(entry);
    }
    Ok(part)
}

impl Archive {
    /// Returns the packs that a backup names: from its record, or from its manifest where an old
    /// record does not have them.
    pub fn packs_of(&self, record: &Record) -> Result<PackSet> {
        if let Some(packs) = &record.packs {
            return Ok(packs.clone());
        }
        let mut packs = PackSet::default();
        read(self, record, |part| part.packs.iter().try_for_each(|key| packs.insert(key)))?;
        Ok(packs)
    }

    /// Reads the text of a manifest part, checked against the size and hash in the record.
    pub fn get_manifest(&self, part: &ManifestPart, name: &str) -> Result<Vec<u8>> {
        let base = match &part.base {
            Some(base) => Some((&base.key[..], self.get_base(base)?)),
            None => None,
        };
        let object = self.get_range(&part.key, 0..part.size)?;
        let text = if ContentHash::of(&object) == part.sha256 {
            self.manifest_text(&object, name, base.as_ref().map(|(key, text)| (*key, &text[..])))
        } else {
            Err(Error::new(Kind::Damage, "its SHA-256 is not the one in the backup's record"))
        };
        self.in_repository("read", &self.base().join(&part.key)?, text)
    }

    /// Reads the text of a base.
    pub fn get_base(&self, base: &ManifestPart) -> Result<Vec<u8>> {
        match (base.place(), &base.base) {
            (Some((id, number)), None) => self.get_manifest(base, &key::manifest(&id, number)),
            _ => Err(Error::new(Kind::Damage, format!("`{}` cannot be a base", base.key.escape_debug()))),
        }
    }

    /// Reads the text of a manifest part of a backup without a record; `None` when the part does
    /// not exist.
    fn get_unfinished_manifest(&self, id: &str, number: u32) -> Result<Option<Vec<u8>>> {
        let name = key::manifest(id, number);
        let Some(object) = self.get_unrecorded(&key::data(&name))? else {
            return Ok(None);
        };
        let read = || {
            let Some(key) = Header::decode(&object)?.base else {
                return self.manifest_text(&object, &name, None);
            };
            // The SHA-256 in the header, of the text, proves that this is the right base.
            let gone = || Error::new(Kind::Damage, format!("its base {} is missing", key.escape_debug()));
            let base = self.get_unrecorded(&key)?.ok_or_else(gone)?;
            let base = self.manifest_text(&base, key.strip_prefix(&key::data("")).unwrap_or(&key), None)?;
            self.manifest_text(&object, &name, Some((&key, &base)))
        };
        self.in_repository("read", &self.base().join(key::data(&name))?, read()).map(Some)
    }

    /// Reads a stored manifest part that no record describes.
    fn get_unrecorded(&self, relative: &str) -> Result<Option<Vec<u8>>> {
        match self.size(relative)?.filter(|size| *size <= MAX_PART) {
            Some(size) => self.get_range(relative, 0..size).map(Some),
            None => Ok(None),
        }
    }

    /// Decodes a part. `base`: key and text of its base.
    fn manifest_text(&self, object: &[u8], name: &str, base: Option<(&str, &[u8])>) -> Result<Vec<u8>> {
        let content = Content::open(object)?;
        self.check_header(&content.header, ObjectKind::Manifest, name)?;
        if content.header.base.as_deref() != base.map(|(key, _)| key) {
            return Err(Error::new(Kind::Damage, "its base is not the one in the record"));
        }
        let (_, text) = match base {
            Some((_, base)) => content.read_patch(base, MAX_PART)?,
            None => content.read_all(MAX_PART)?,
        };
        Ok(text)
    }
}
