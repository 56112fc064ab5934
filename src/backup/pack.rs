//! Appends frames to packs and writes finished files to the manifest. Does not read files.
//!
//! The manifest lists the files in the order in which the scan found them. The entry of a file that
//! is finished before an earlier file waits in memory. The waiting files are at most those that are
//! read while one file of 1 GiB is read.

use super::earlier::Earlier;
use super::failure::cancelled;
use super::found::FoundFile;
use crate::codec::compress::FRAME;
use crate::codec::envelope::ObjectKind;
use crate::codec::hash::BlockHash;
use crate::error::{Doing, Error, Result};
use crate::fs::aligned::Aligned;
use crate::repo::entry::{Entry, Extent, FileEntry, Owner};
use crate::repo::manifest::{StoredPack, Writer, Written};
use crate::repo::{Archive, data_key, pack_name};
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeMap, HashMap, hash_map};
use std::sync::Arc;

/// Size at which a pack is full. It is stored while the next one is filled.
const PACK_SIZE: usize = 32 << 20;

/// Memory of a pack: its last frame may reach beyond [`PACK_SIZE`].
const PACK_CAPACITY: usize = PACK_SIZE + 2 * FRAME;

/// Maximum number of items that an outbox sends at once.
const MAX_BATCH: usize = 128;

/// Input of the packer.
pub(super) enum PackItem {
    /// An entry without content.
    Entry(Entry),
    /// A compressed frame, the number of bytes of its content, and the blocks in it.
    Frame { bytes: Vec<u8>, content: u64, blocks: Vec<FreshBlocks> },
    /// Blocks that the repository has.
    Known(Vec<KnownBlocks>),
    /// A file that was read to its end. Its blocks may come later.
    Finished(FinishedFile),
    /// Number of a file that was removed before it was read.
    Gone(u64),
}

/// Sender of items from one thread to the packer. Small items are sent together: waking the packer
/// costs more than handling a small file.
pub(super) struct Outbox {
    packer: Sender<Vec<PackItem>>,
    waiting: Vec<PackItem>,
}

impl Outbox {
    pub fn new(packer: Sender<Vec<PackItem>>) -> Outbox {
        Outbox { packer, waiting: Vec::new() }
    }

    /// Adds an item that may wait until [`Outbox::flush`].
    pub fn add(&mut self, item: PackItem) -> Result<()> {
        self.waiting.push(item);
        if self.waiting.len() < MAX_BATCH { Ok(()) } else { self.flush() }
    }

    pub fn send(&mut self, item: PackItem) -> Result<()> {
        self.waiting.push(item);
        self.flush()
    }

    pub fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.packer.send(std::mem::take(&mut self.waiting)).map_err(|_| cancelled())
    }
}

/// Consecutive blocks of a file in a new frame.
pub(super) struct FreshBlocks {
    /// Number of the file.
    pub file: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Offset in the content of the frame.
    pub skip: u32,
    pub hashes: Vec<BlockHash>,
}

/// Consecutive blocks of a file in a frame of an earlier backup.
pub(super) struct KnownBlocks {
    /// Number of the file.
    pub file: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Key of the pack.
    pub pack: Arc<str>,
    /// Place of the blocks; its pack number is not used.
    pub extent: Extent,
    pub hashes: Vec<BlockHash>,
}

/// A file that was read to its end.
pub(super) struct FinishedFile {
    pub number: u64,
    pub found: Arc<FoundFile>,
    pub owner: Owner,
    /// Bytes that were read, or taken from an earlier backup.
    pub size: u64,
    /// CRC-32C of the whole file; `None` when only a part of it was read.
    pub crc32c: Option<u32>,
    /// Bytes of a block.
    pub block: u32,
    /// Whether it is a configuration file outside of the data directory.
    pub is_config: bool,
}

/// A pack that is being filled or stored.
pub(super) struct OpenPack {
    number: u32,
    key: Arc<str>,
    /// Bytes of the pack. The memory is reused, since new memory costs more than filling it.
    bytes: Aligned,
    /// Number of decompressed bytes of the blocks in the pack.
    content: u64,
}

/// Result of the packer: the objects that it put into the repository.
pub(super) struct Packed {
    pub manifest: Written,
    /// Bytes of packs and manifest.
    pub new_bytes: u64,
}

/// Consecutive blocks of a file, the key of their pack, and their place in it.
struct PackedRun {
    hashes: Vec<BlockHash>,
    pack: Arc<str>,
    extent: Extent,
}

/// A file for which the packer still waits for blocks, or for [`PackItem::Finished`].
#[derive(Default)]
struct UnfinishedFile {
    /// Runs of blocks by their offsets in the file.
    runs: BTreeMap<u64, PackedRun>,
    /// Number of blocks in `runs`.
    blocks: u64,
    finished: Option<FinishedFile>,
}

impl UnfinishedFile {
    fn is_complete(&self) -> bool {
        let finished = self.finished.as_ref();
        finished.is_some_and(|file| file.size.div_ceil(u64::from(file.block)) == self.blocks)
    }
}

/// An entry of the manifest, and the keys of the packs, by the pack numbers in its extents.
type PackedEntry = (Entry, Vec<Arc<str>>);

/// Collects blocks and files; writes packs and the manifest.
pub(super) struct Packer<'a> {
    archive: &'a Archive,
    backup: &'a str,
    earlier: &'a Earlier,
    manifest: Writer<'a>,
    packs: Sender<OpenPack>,
    spare: Receiver<Aligned>,
    /// The pack that is being filled; `None` before its first frame.
    pack: Option<OpenPack>,
    /// Number of the last pack that was begun; the first one is 1.
    last_number: u32,
    unfinished: HashMap<u64, UnfinishedFile>,
    /// Files, by number, that wait for a file that was found earlier; `None` for a file that was
    /// removed before it was read.
    waiting: BTreeMap<u64, Option<PackedEntry>>,
    /// Number of the next file of the manifest.
    next: u64,
    /// Full packs by key.
    stored: HashMap<Arc<str>, StoredPack>,
}

impl<'a> Packer<'a> {
    /// Full packs go through `packs` to [`store`], which returns their memory through `spare`.
    pub fn new(
        archive: &'a Archive,
        backup: &'a str,
        earlier: &'a Earlier,
        packs: Sender<OpenPack>,
        spare: Receiver<Aligned>,
    ) -> Result<Packer<'a>> {
        Ok(Packer {
            archive,
            backup,
            earlier,
            manifest: Writer::new(archive, backup, &earlier.bases)?,
            packs,
            spare,
            pack: None,
            last_number: 0,
            unfinished: HashMap::new(),
            waiting: BTreeMap::new(),
            next: 0,
            stored: HashMap::new(),
        })
    }

    /// Packs all items, then stores the last pack and the manifest.
    pub fn run(mut self, items: &Receiver<Vec<PackItem>>) -> Result<Packed> {
        items.iter().flatten().try_for_each(|item| self.add(item))?;
        self.finish()
    }

    fn begin_pack(&mut self) -> Result<OpenPack> {
        self.last_number += 1;
        let number = self.last_number;
        let name = pack_name(self.backup, number);
        // The memory of the pack before the last one has been returned: the last one is being
        // stored.
        let mut bytes = self.spare.try_recv().unwrap_or_else(|_| Aligned::with_capacity(PACK_CAPACITY));
        bytes.clear();
        let key = Arc::from(data_key(&name));
        bytes.extend_from_slice(&self.archive.header(ObjectKind::Pack, name).encode()?);
        Ok(OpenPack { number, key, bytes, content: 0 })
    }

    /// Hands a pack to the thread that stores; waits while the previous one is being stored.
    fn close_pack(&mut self, pack: OpenPack) -> Result<()> {
        let stored = StoredPack { size: pack.bytes.len() as u64, content: pack.content };
        self.stored.insert(pack.key.clone(), stored);
        self.packs.send(pack).map_err(|_| cancelled())
    }

    fn add(&mut self, item: PackItem) -> Result<()> {
        match item {
            PackItem::Entry(entry) => self.write(entry, &[]),
            PackItem::Frame { bytes, content, blocks } => self.add_frame(&bytes, content, blocks),
            PackItem::Known(blocks) => blocks.into_iter().try_for_each(|known| {
                let KnownBlocks { file, offset, pack, extent, hashes } = known;
                self.add_run(file, offset, PackedRun { hashes, pack, extent })
            }),
            PackItem::Finished(finished) => {
                let file = finished.number;
                self.unfinished.entry(file).or_default().finished = Some(finished);
                self.complete(file)
            }
            PackItem::Gone(file) => self.write_in_order(file, None),
        }
    }

    fn add_frame(&mut self, bytes: &[u8], content: u64, blocks: Vec<FreshBlocks>) -> Result<()> {
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.begin_pack()?,
        };
        let offset = pack.bytes.len() as u64;
        let length = narrow(bytes.len())?;
        pack.bytes.extend_from_slice(bytes);
        pack.content += content;
        for FreshBlocks { file, offset: in_file, skip, hashes } in blocks {
            let extent = Extent { pack: 0, offset, length, skip, blocks: narrow(hashes.len())? };
            self.add_run(file, in_file, PackedRun { hashes, pack: pack.key.clone(), extent })?;
        }
        if pack.bytes.len() >= PACK_SIZE {
            return self.close_pack(pack);
        }
        self.pack = Some(pack);
        Ok(())
    }

    fn add_run(&mut self, file: u64, offset: u64, run: PackedRun) -> Result<()> {
        let unfinished = self.unfinished.entry(file).or_default();
        unfinished.blocks += run.hashes.len() as u64;
        unfinished.runs.insert(offset, run);
        self.complete(file)
    }

    /// Writes the entry of a file, if the file is finished and all its blocks have arrived.
    fn complete(&mut self, file: u64) -> Result<()> {
        let hash_map::Entry::Occupied(unfinished) = self.unfinished.entry(file) else {
            return Ok(());
        };
        if !unfinished.get().is_complete() {
            return Ok(());
        }
        let UnfinishedFile { runs, finished, .. } = unfinished.remove();
        let finished = finished.ok_or_else(|| Error::defect("a complete file that is not finished"))?;
        let entry = packed_entry(finished, runs)?;
        self.write_in_order(file, Some(entry))
    }

    /// Adds the entry of a file, `None` for a removed one. Writes all entries that wait for no
    /// earlier file.
    fn write_in_order(&mut self, file: u64, entry: Option<PackedEntry>) -> Result<()> {
        self.waiting.insert(file, entry);
        while let Some(next) = self.waiting.remove(&self.next) {
            self.next += 1;
            if let Some((entry, packs)) = next {
                self.write(entry, &packs)?;
            }
        }
        Ok(())
    }

    /// Writes an entry to the manifest. `packs` are the keys of the packs, by the pack numbers in
    /// its extents.
    fn write(&mut self, entry: Entry, packs: &[Arc<str>]) -> Result<()> {
        self.manifest.entry(entry, |number| match packs.get(number as usize) {
            Some(key) => Ok(key.to_string()),
            None => Err(Error::defect(format!("an extent in pack {number} of {}", packs.len()))),
        })
    }

    fn finish(mut self) -> Result<Packed> {
        if !self.unfinished.is_empty() || !self.waiting.is_empty() {
            return Err(Error::defect("a file was read and not stored"));
        }
        if let Some(pack) = self.pack.take() {
            self.close_pack(pack)?;
        }
        let (earlier, stored) = (self.earlier, &self.stored);
        let manifest = self.manifest.finish(|key| stored.get(key).copied().or_else(|| earlier.pack(key)))?;
        let packs: u64 = stored.values().map(|pack| pack.size).sum();
        Ok(Packed { new_bytes: packs + manifest.stored, manifest })
    }
}

/// The entry of a finished file; `runs` are all its blocks by their offsets.
fn packed_entry(finished: FinishedFile, runs: BTreeMap<u64, PackedRun>) -> Result<PackedEntry> {
    let FinishedFile { found, owner, size, crc32c, block, is_config, .. } = finished;
    let (mode, modified) = (found.mode, found.modified);
    // A frame that is still in use may share `found`.
    let path = Arc::try_unwrap(found).map_or_else(|shared| shared.path.clone(), |found| found.path);
    let (hashes, at) = (Vec::new(), Vec::new());
    let mut file = FileEntry { path, size, mode, owner, modified, crc32c, block, hashes, at };
    let mut packs: Vec<Arc<str>> = Vec::new();
    for PackedRun { hashes, pack, extent } in runs.into_values() {
        file.hashes.extend(hashes);
        let known = packs.iter().rposition(|other| *other == pack);
        let number = known.unwrap_or_else(|| {
            packs.push(pack);
            packs.len() - 1
        });
        file.add(Extent { pack: narrow(number)?, ..extent });
    }
    let entry = if is_config { Entry::Config(file) } else { Entry::File(file) };
    Ok((entry, packs))
}

/// Number in the 32 bits that a manifest stores.
fn narrow(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::defect(format!("the number {number} in an extent")))
}

/// Stores packs in the order in which they arrive, and returns their memory through `spare`.
pub(super) fn store(
    archive: &Archive,
    backup: &str,
    packs: &Receiver<OpenPack>,
    spare: &Sender<Aligned>,
) -> Result<()> {
    packs.iter().try_for_each(|OpenPack { number, bytes, .. }| {
        archive.put_data(&pack_name(backup, number), &bytes).doing(|| format!("store pack {number}"))?;
        // Fails when the packer has ended; then the memory is not needed.
        let _ = spare.send(bytes);
        Ok(())
    })
}
