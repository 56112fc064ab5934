//! Frames into packs, finished files into the manifest.

use crate::codec::envelope::{HEADER_SIZE, ObjectKind};
use crate::codec::hash::BlockHash;
use crate::error::{Doing, Error, Kind, Result};
use crate::repo::entry::{Entry, Extent, File, Owner, StoredPath};
use crate::repo::manifest::{Writer, Written};
use crate::repo::{Archive, data_key, pack_name};
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeMap, HashMap};

/// A pack is stored when it has grown to this. One is filled while another is stored.
pub const PACK_SIZE: usize = 32 << 20;

/// What the packer is told.
pub enum Item {
    /// Something that has no content.
    Entry(Entry),
    /// A compressed frame.
    Frame { bytes: Vec<u8>, pieces: Vec<PackedPiece> },
    /// A file has been read to its end; its pieces may still be on their way.
    Finished(FinishedFile),
}

/// Part of a file in a frame.
pub struct PackedPiece {
    /// The number that the reader gave to the file.
    pub file: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// Where in the decompressed frame it begins.
    pub skip: u32,
    pub hashes: Vec<BlockHash>,
}

pub struct FinishedFile {
    pub file: u64,
    pub pieces: usize,
    pub path: StoredPath,
    pub size: u64,
    pub mode: u32,
    pub owner: Owner,
    pub modified: i64,
    pub crc32c: u32,
    pub block: u32,
    /// From outside the data directory.
    pub is_config: bool,
}

/// A full pack on its way to the repository.
pub struct Pack {
    number: u32,
    bytes: Vec<u8>,
}

/// What the packer has put into the repository.
pub struct Packed {
    pub manifest: Written,
    /// Bytes of packs and manifest.
    pub stored: u64,
}

/// A file whose pieces are coming in.
#[derive(Default)]
struct Building {
    pieces: BTreeMap<u64, (Vec<BlockHash>, Extent)>,
    finished: Option<FinishedFile>,
}

pub struct Packer<'a> {
    archive: &'a Archive,
    backup: &'a str,
    manifest: Writer<'a>,
    packs: Sender<Pack>,
    number: u32,
    pack: Vec<u8>,
    building: HashMap<u64, Building>,
    stored: u64,
}

impl<'a> Packer<'a> {
    /// `packs` leads to [`store`].
    pub fn new(archive: &'a Archive, backup: &'a str, packs: Sender<Pack>) -> Result<Packer<'a>> {
        let mut packer = Packer {
            archive,
            backup,
            manifest: Writer::new(archive, backup)?,
            packs,
            number: 0,
            pack: Vec::new(),
            building: HashMap::new(),
            stored: 0,
        };
        packer.begin_pack()?;
        Ok(packer)
    }

    fn begin_pack(&mut self) -> Result<()> {
        self.number += 1;
        let header = self.archive.header(ObjectKind::Pack, pack_name(self.backup, self.number));
        self.pack = Vec::with_capacity(PACK_SIZE + (2 << 20));
        self.pack.extend_from_slice(&header.encode()?);
        Ok(())
    }

    /// Hands the pack on; waits while the one before is being stored.
    fn close_pack(&mut self) -> Result<()> {
        self.stored += self.pack.len() as u64;
        let pack = Pack { number: self.number, bytes: std::mem::take(&mut self.pack) };
        self.packs.send(pack).map_err(|_| cancelled())
    }

    pub fn add(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Entry(entry) => self.manifest.entry(entry, |_| String::new()),
            Item::Frame { bytes, pieces } => self.frame(&bytes, pieces),
            Item::Finished(finished) => {
                let file = finished.file;
                self.building.entry(file).or_default().finished = Some(finished);
                self.complete(file)
            }
        }
    }

    fn frame(&mut self, bytes: &[u8], pieces: Vec<PackedPiece>) -> Result<()> {
        let offset = self.pack.len() as u64;
        self.pack.extend_from_slice(bytes);
        for piece in pieces {
            let extent = Extent {
                pack: self.number,
                offset,
                length: bytes.len() as u32,
                skip: piece.skip,
                blocks: piece.hashes.len() as u32,
            };
            let building = self.building.entry(piece.file).or_default();
            building.pieces.insert(piece.offset, (piece.hashes, extent));
            self.complete(piece.file)?;
        }
        if self.pack.len() >= PACK_SIZE {
            self.close_pack()?;
            self.begin_pack()?;
        }
        Ok(())
    }

    /// Writes a file's line when all of it is there.
    fn complete(&mut self, file: u64) -> Result<()> {
        let is_whole = |building: &Building| {
            building.finished.as_ref().is_some_and(|finished| finished.pieces == building.pieces.len())
        };
        if !self.building.get(&file).is_some_and(is_whole) {
            return Ok(());
        }
        let Some(Building { pieces, finished: Some(finished) }) = self.building.remove(&file) else {
            return Ok(());
        };
        let mut hashes = Vec::new();
        let mut at = Vec::new();
        for (piece_hashes, extent) in pieces.into_values() {
            hashes.extend(piece_hashes);
            at.push(extent);
        }
        let line = File {
            path: finished.path,
            size: finished.size,
            mode: finished.mode,
            owner: finished.owner,
            modified: finished.modified,
            crc32c: Some(finished.crc32c),
            block: finished.block,
            hashes,
            at,
        };
        let entry = if finished.is_config { Entry::Config(line) } else { Entry::File(line) };
        self.manifest.entry(entry, |number| data_key(&pack_name(self.backup, number)))
    }

    /// Stores the last pack and the manifest.
    pub fn finish(mut self) -> Result<Packed> {
        if !self.building.is_empty() {
            return Err(Error::new(Kind::Failed, "a file was read and not stored"));
        }
        if self.pack.len() > HEADER_SIZE {
            self.close_pack()?;
        }
        let manifest = self.manifest.finish()?;
        Ok(Packed { stored: self.stored + manifest.stored, manifest })
    }
}

/// Stores packs as they come.
pub fn store(archive: &Archive, backup: &str, packs: &Receiver<Pack>) -> Result<()> {
    packs.iter().try_for_each(|pack| {
        archive
            .put_data(&pack_name(backup, pack.number), &pack.bytes)
            .doing(|| format!("store pack {}", pack.number))
    })
}

/// What a stage says when the next one is gone: that one's error is the cause.
pub fn cancelled() -> Error {
    Error::new(Kind::Failed, "the work was given up")
}
