//! Frames into packs, finished files into the manifest.
//!
//! Files stand in the manifest in the order in which they were found. One that is finished before another that
//! was found earlier waits in memory: at most what is read while one file of 1 GiB is.

use super::earlier::Earlier;
use super::failure::cancelled;
use crate::codec::compress::FRAME;
use crate::codec::envelope::{HEADER_SIZE, ObjectKind};
use crate::codec::hash::BlockHash;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::aligned::Aligned;
use crate::repo::entry::{Entry, Extent, FileEntry, Owner, StoredPath};
use crate::repo::manifest::{StoredPack, Writer, Written};
use crate::repo::{Archive, data_key, pack_name};
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A pack is stored when it has grown to this. One is filled while another is stored.
pub const PACK_SIZE: usize = 32 << 20;

/// What the packer is told.
pub enum Item {
    /// Something that has no content.
    Entry(Entry),
    /// A compressed frame, the bytes of its content, and whose they are.
    Frame { bytes: Vec<u8>, content: u64, blocks: Vec<FreshBlocks> },
    /// Blocks that the repository has.
    Known(Vec<KnownBlocks>),
    /// A file has been read to its end; its blocks may still be on their way.
    Finished(FinishedFile),
    /// A file, by its number, was gone before it was read.
    Gone(u64),
}

/// The way to the packer. Small things go together: to wake it costs more than a small file does.
pub struct Outbox {
    packer: Sender<Vec<Item>>,
    waiting: Vec<Item>,
}

/// Items that go together at most.
const TOGETHER: usize = 128;

impl Outbox {
    pub fn new(packer: Sender<Vec<Item>>) -> Outbox {
        Outbox { packer, waiting: Vec::new() }
    }

    /// For what may wait until [`Outbox::flush`].
    pub fn add(&mut self, item: Item) -> Result<()> {
        self.waiting.push(item);
        if self.waiting.len() < TOGETHER { Ok(()) } else { self.flush() }
    }

    pub fn send(&mut self, item: Item) -> Result<()> {
        self.waiting.push(item);
        self.flush()
    }

    pub fn flush(&mut self) -> Result<()> {
        match self.waiting.is_empty() {
            true => Ok(()),
            false => self.packer.send(std::mem::take(&mut self.waiting)).map_err(|_| cancelled()),
        }
    }
}

/// Blocks of a file that lie behind each other in a frame.
pub struct FreshBlocks {
    /// The number of the file.
    pub file: u64,
    /// Where in the file they begin.
    pub offset: u64,
    /// Where in the decompressed frame they begin.
    pub skip: u32,
    pub hashes: Vec<BlockHash>,
}

/// Blocks of a file that lie behind each other in a pack of an earlier backup.
pub struct KnownBlocks {
    pub file: u64,
    pub offset: u64,
    /// The key of the pack.
    pub pack: Arc<str>,
    pub extent: Extent,
    pub hashes: Vec<BlockHash>,
}

pub struct FinishedFile {
    pub file: u64,
    pub path: StoredPath,
    pub size: u64,
    pub mode: u32,
    pub owner: Owner,
    pub modified: i64,
    /// Unless all of the file was read, or is as it was.
    pub crc32c: Option<u32>,
    pub block: u32,
    /// From outside the data directory.
    pub is_config: bool,
}

/// A pack that is being filled, or is on its way to the repository.
#[derive(Default)]
pub struct Pack {
    number: u32,
    /// Its memory is used again: fresh memory costs more than to fill it.
    bytes: Aligned,
    /// Bytes of blocks in it.
    content: u64,
}

/// Memory of a pack: the last frame may reach beyond its size.
const ROOM: usize = PACK_SIZE + 2 * FRAME;

/// What the packer has put into the repository.
pub struct Packed {
    pub manifest: Written,
    /// Bytes of packs and manifest.
    pub new_bytes: u64,
}

/// A file whose blocks are coming in.
#[derive(Default)]
struct Building {
    /// By where in the file they begin: their hashes, the key of their pack, where in it they are.
    runs: BTreeMap<u64, (Vec<BlockHash>, Arc<str>, Extent)>,
    blocks: u64,
    finished: Option<FinishedFile>,
}

/// A line of the manifest, and the packs that its extents number.
type Line = (Entry, Vec<Arc<str>>);

pub struct Packer<'a> {
    archive: &'a Archive,
    backup: &'a str,
    earlier: &'a Earlier,
    manifest: Writer<'a>,
    packs: Sender<Pack>,
    spare: Receiver<Aligned>,
    /// The pack that is being filled, and its key.
    pack: Pack,
    key: Arc<str>,
    building: HashMap<u64, Building>,
    /// Files that are complete, by number, and wait for one that was found before them. `None`: it was gone.
    ready: BTreeMap<u64, Option<Line>>,
    /// The number of the file that is next in the manifest.
    next: u64,
    /// The packs that are full, by key.
    stored: HashMap<Arc<str>, StoredPack>,
}

impl<'a> Packer<'a> {
    /// `packs` leads to [`store`], and `spare` comes from there.
    pub fn new(
        archive: &'a Archive,
        backup: &'a str,
        earlier: &'a Earlier,
        packs: Sender<Pack>,
        spare: Receiver<Aligned>,
    ) -> Result<Packer<'a>> {
        let mut packer = Packer {
            archive,
            backup,
            earlier,
            manifest: Writer::new(archive, backup, &earlier.bases)?,
            packs,
            spare,
            pack: Pack::default(),
            key: Arc::from(""),
            building: HashMap::new(),
            ready: BTreeMap::new(),
            next: 0,
            stored: HashMap::new(),
        };
        packer.begin_pack()?;
        Ok(packer)
    }

    fn begin_pack(&mut self) -> Result<()> {
        // The pack before the last one has been stored when the last one was taken.
        let memory = self.spare.try_recv().unwrap_or_else(|_| Aligned::with_capacity(ROOM));
        self.pack = Pack { number: self.pack.number + 1, bytes: memory, content: 0 };
        self.pack.bytes.clear();
        let name = pack_name(self.backup, self.pack.number);
        self.key = Arc::from(data_key(&name));
        let header = self.archive.header(ObjectKind::Pack, name);
        self.pack.bytes.extend_from_slice(&header.encode()?);
        Ok(())
    }

    /// Hands the pack on; waits while the one before is being stored.
    fn close_pack(&mut self) -> Result<()> {
        let stored = StoredPack { size: self.pack.bytes.len() as u64, content: self.pack.content };
        self.stored.insert(self.key.clone(), stored);
        let next = Pack { number: self.pack.number, ..Pack::default() };
        self.packs.send(std::mem::replace(&mut self.pack, next)).map_err(|_| cancelled())
    }

    pub fn add(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Entry(entry) => self.manifest.entry(entry, |_| String::new()),
            Item::Frame { bytes, content, blocks } => self.frame(&bytes, content, blocks),
            Item::Known(blocks) => blocks.into_iter().try_for_each(|known| {
                self.blocks(known.file, known.offset, known.hashes, known.pack, known.extent)
            }),
            Item::Finished(finished) => {
                let file = finished.file;
                self.building.entry(file).or_default().finished = Some(finished);
                self.complete(file)
            }
            Item::Gone(file) => self.ready(file, None),
        }
    }

    fn frame(&mut self, bytes: &[u8], content: u64, blocks: Vec<FreshBlocks>) -> Result<()> {
        let offset = self.pack.bytes.len() as u64;
        self.pack.bytes.extend_from_slice(bytes);
        self.pack.content += content;
        for fresh in blocks {
            let extent = Extent {
                pack: 0,
                offset,
                length: bytes.len() as u32,
                skip: fresh.skip,
                blocks: fresh.hashes.len() as u32,
            };
            self.blocks(fresh.file, fresh.offset, fresh.hashes, self.key.clone(), extent)?;
        }
        if self.pack.bytes.len() >= PACK_SIZE {
            self.close_pack()?;
            self.begin_pack()?;
        }
        Ok(())
    }

    fn blocks(
        &mut self,
        file: u64,
        offset: u64,
        hashes: Vec<BlockHash>,
        pack: Arc<str>,
        extent: Extent,
    ) -> Result<()> {
        let building = self.building.entry(file).or_default();
        building.blocks += hashes.len() as u64;
        building.runs.insert(offset, (hashes, pack, extent));
        self.complete(file)
    }

    /// Makes a file's line when all of it is there.
    fn complete(&mut self, file: u64) -> Result<()> {
        let is_whole = |building: &Building| {
            let finished = building.finished.as_ref();
            finished.is_some_and(|file| file.size.div_ceil(u64::from(file.block)) == building.blocks)
        };
        if !self.building.get(&file).is_some_and(is_whole) {
            return Ok(());
        }
        let Some(Building { runs, finished: Some(finished), .. }) = self.building.remove(&file) else {
            return Ok(());
        };
        let mut line = FileEntry {
            path: finished.path,
            size: finished.size,
            mode: finished.mode,
            owner: finished.owner,
            modified: finished.modified,
            crc32c: finished.crc32c,
            block: finished.block,
            hashes: Vec::new(),
            at: Vec::new(),
        };
        let mut packs: Vec<Arc<str>> = Vec::new();
        for (hashes, pack, extent) in runs.into_values() {
            line.hashes.extend(hashes);
            let known = packs.iter().rposition(|other| *other == pack);
            let number = known.unwrap_or_else(|| {
                packs.push(pack);
                packs.len() - 1
            });
            line.add(Extent { pack: number as u32, ..extent });
        }
        let entry = if finished.is_config { Entry::Config(line) } else { Entry::File(line) };
        self.ready(file, Some((entry, packs)))
    }

    /// Writes the lines whose turn it is.
    fn ready(&mut self, file: u64, line: Option<Line>) -> Result<()> {
        self.ready.insert(file, line);
        while let Some(line) = self.ready.remove(&self.next) {
            self.next += 1;
            if let Some((entry, packs)) = line {
                let key = |number| packs.get(number as usize).map(|key| key.to_string()).unwrap_or_default();
                self.manifest.entry(entry, key)?;
            }
        }
        Ok(())
    }

    /// Stores the last pack and the manifest.
    pub fn finish(mut self) -> Result<Packed> {
        if !self.building.is_empty() || !self.ready.is_empty() {
            return Err(Error::new(Kind::Failed, "a file was read and not stored"));
        }
        if self.pack.bytes.len() > HEADER_SIZE {
            self.close_pack()?;
        }
        let (earlier, stored) = (self.earlier, &self.stored);
        let manifest = self.manifest.finish(|key| stored.get(key).copied().or_else(|| earlier.pack(key)))?;
        let packs: u64 = stored.values().map(|pack| pack.size).sum();
        Ok(Packed { new_bytes: packs + manifest.stored, manifest })
    }
}

/// Stores packs as they come, and gives their memory back.
pub fn store(archive: &Archive, backup: &str, packs: &Receiver<Pack>, spare: &Sender<Aligned>) -> Result<()> {
    packs.iter().try_for_each(|Pack { number, bytes, .. }| {
        archive.put_data(&pack_name(backup, number), &bytes).doing(|| format!("store pack {number}"))?;
        // When nobody wants it any more there is no other pack to come.
        let _ = spare.send(bytes);
        Ok(())
    })
}
