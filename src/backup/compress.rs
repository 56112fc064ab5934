//! Hashes the blocks of frames, verifies their pages, and compresses the blocks that no earlier
//! backup stored. Does not manage threads or packs: its output goes to the packer.

use super::frame::{FramePiece, RawFrame};
use super::known::KnownRun;
use super::pack::{FreshBlocks, KnownBlocks, Outbox, PackItem};
use super::pages::{BadPages, PageCheck, UnloggedChanges};
use crate::codec::compress::{Compression, Compressor, FRAME};
use crate::codec::hash::{BlockHash, block_hash};
use crate::error::{Error, Result, part};

/// Encoder of frames. Each thread has one.
pub(super) struct FrameEncoder<'a> {
    bad: &'a BadPages,
    unlogged: Option<&'a UnloggedChanges>,
    compressor: Compressor,
    /// Compressed bytes of a frame. The memory is reused and is large enough for any frame.
    compressed: Vec<u8>,
    /// Content of changed blocks that lay between unchanged ones, gathered from many frames.
    gathered: Vec<u8>,
    gathered_blocks: Vec<FreshBlocks>,
}

/// Blocks of one frame, divided into blocks that earlier backups stored and blocks to be stored.
#[derive(Default)]
struct Divided {
    known: Vec<KnownBlocks>,
    /// Blocks to be stored, and the number of their bytes in the frame.
    fresh: Vec<(FreshBlocks, usize)>,
}

impl<'a> FrameEncoder<'a> {
    pub fn new(
        bad: &'a BadPages,
        unlogged: Option<&'a UnloggedChanges>,
        compression: Compression,
    ) -> Result<FrameEncoder<'a>> {
        Ok(FrameEncoder {
            bad,
            unlogged,
            compressor: Compressor::new(compression)?,
            compressed: Vec::new(),
            gathered: Vec::new(),
            gathered_blocks: Vec::new(),
        })
    }

    /// Sends the blocks of a frame to the packer. A frame without known blocks is compressed as a
    /// whole. From any other frame, the blocks to be stored are gathered until they fill a new
    /// frame.
    pub fn encode(&mut self, frame: &RawFrame, outbox: &mut Outbox) -> Result<()> {
        let mut divided = Divided::default();
        for piece in &frame.pieces {
            self.divide(piece, frame.bytes_of(piece)?, &mut divided)?;
        }
        let Divided { known, fresh } = divided;
        if known.is_empty() {
            let blocks = fresh.into_iter().map(|(blocks, _)| blocks).collect();
            return self.store(frame.content(), blocks, outbox);
        }
        outbox.add(PackItem::Known(known))?;
        for (blocks, length) in fresh {
            let begin = blocks.skip as usize;
            self.gather(part(frame.content(), begin..begin + length)?, blocks, outbox)?;
        }
        Ok(())
    }

    /// Verifies the pages of a piece, hashes its blocks, and adds the blocks to `divided`.
    fn divide(&self, piece: &FramePiece, content: &[u8], divided: &mut Divided) -> Result<()> {
        if let Some((file, first)) = &piece.pages {
            PageCheck { file, first: *first }.verify(content, piece.offset, self.bad)?;
        }
        let block = piece.block as usize;
        let hashes: Vec<BlockHash> = content.chunks(block).map(block_hash).collect();
        let first = piece.first_block()?;
        let runs = match &piece.known {
            Some(known) => {
                if let Some(unlogged) = self.unlogged {
                    unlogged.compare(known, piece.block, first, content, &hashes)?;
                }
                known.divide(piece.block, first, hashes.len(), |number| {
                    hashes.get(number - first).is_some_and(|hash| known.has_hash(number, hash))
                })?
            }
            None => vec![KnownRun { blocks: 0..hashes.len(), known: None }],
        };
        for KnownRun { blocks, known } in runs {
            let begin = blocks.start * block;
            let offset = piece.offset + begin as u64;
            let hashes = part(&hashes, blocks.clone())?.to_vec();
            match known {
                Some((pack, extent)) => {
                    divided.known.push(KnownBlocks { file: piece.file, offset, pack, extent, hashes });
                }
                None => {
                    let length = (blocks.len() * block).min(piece.length - begin);
                    let skip = skip(piece.skip + begin)?;
                    divided.fresh.push((FreshBlocks { file: piece.file, offset, skip, hashes }, length));
                }
            }
        }
        Ok(())
    }

    /// Gathers blocks. Compresses the gathered blocks first if these would not fit their frame.
    fn gather(&mut self, content: &[u8], blocks: FreshBlocks, outbox: &mut Outbox) -> Result<()> {
        if self.gathered.len() + content.len() > FRAME {
            self.flush(outbox)?;
        }
        self.gathered_blocks.push(FreshBlocks { skip: skip(self.gathered.len())?, ..blocks });
        self.gathered.extend_from_slice(content);
        Ok(())
    }

    /// Compresses the gathered blocks.
    pub fn flush(&mut self, outbox: &mut Outbox) -> Result<()> {
        if self.gathered_blocks.is_empty() {
            return Ok(());
        }
        let gathered = std::mem::take(&mut self.gathered);
        let blocks = std::mem::take(&mut self.gathered_blocks);
        self.store(&gathered, blocks, outbox)?;
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }

    fn store(&mut self, content: &[u8], blocks: Vec<FreshBlocks>, outbox: &mut Outbox) -> Result<()> {
        self.compressor.frame(content, &mut self.compressed)?;
        let content = content.len() as u64;
        outbox.send(PackItem::Frame { bytes: self.compressed.clone(), content, blocks })
    }
}

/// Offset in a frame, in the 32 bits that a manifest stores.
fn skip(offset: usize) -> Result<u32> {
    u32::try_from(offset).map_err(|_| Error::defect(format!("offset {offset} in a frame")))
}
