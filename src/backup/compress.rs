//! Hashes blocks, verifies pages, and compresses what the repository does not have.

use super::earlier::Run;
use super::pack::{FreshBlocks, Item, KnownBlocks, Outbox};
use super::pages::{BadPages, Surprises};
use super::pipeline::Frame;
use crate::codec::compress::{self, Compression, FRAME};
use crate::codec::hash::{BlockHash, block_hash};
use crate::error::{Error, Kind, Result};

/// What one worker needs to compress frames.
pub struct Compressor<'a> {
    bad: &'a BadPages,
    surprises: Option<&'a Surprises>,
    compressor: compress::Compressor,
    /// Large enough for any frame, and used again.
    scratch: Vec<u8>,
    /// Blocks that changed among others that did not, gathered from many frames.
    gathered: Vec<u8>,
    blocks: Vec<FreshBlocks>,
}

impl<'a> Compressor<'a> {
    pub fn new(
        bad: &'a BadPages,
        surprises: Option<&'a Surprises>,
        compression: Compression,
    ) -> Result<Compressor<'a>> {
        Ok(Compressor {
            bad,
            surprises,
            compressor: compress::Compressor::new(compression)?,
            scratch: Vec::new(),
            gathered: Vec::new(),
            blocks: Vec::new(),
        })
    }

    pub fn frame(&mut self, frame: &Frame, outbox: &mut Outbox) -> Result<()> {
        let mut known = Vec::new();
        let mut fresh = Vec::new();
        for piece in &frame.pieces {
            let Some(content) = frame.content().get(piece.skip..piece.skip + piece.length) else {
                return Err(Error::new(Kind::Failed, "a piece reaches behind its frame"));
            };
            if let Some(pages) = &piece.pages {
                pages.verify(content, piece.offset, self.bad)?;
            }
            let hashes: Vec<BlockHash> = content.chunks(piece.block as usize).map(block_hash).collect();
            let first = (piece.offset / u64::from(piece.block)) as usize;
            let runs = match &piece.known {
                Some(known) => {
                    if let Some(surprises) = self.surprises {
                        surprises.look(known, piece, content, &hashes);
                    }
                    known.divide(piece.block, first, hashes.len(), |block| {
                        hashes.get(block - first) == known.hashes(block..block + 1).first()
                    })
                }
                None => vec![Run { blocks: 0..hashes.len(), known: None }],
            };
            for Run { blocks, known: place } in runs {
                let begin = blocks.start * piece.block as usize;
                let offset = piece.offset + begin as u64;
                let hashes = hashes.get(blocks.clone()).unwrap_or_default().to_vec();
                let Some((pack, extent)) = place else {
                    let length = (blocks.len() * piece.block as usize).min(piece.length - begin);
                    let skip = (piece.skip + begin) as u32;
                    fresh.push((FreshBlocks { file: piece.file, offset, skip, hashes }, length));
                    continue;
                };
                known.push(KnownBlocks { file: piece.file, offset, pack, extent, hashes });
            }
        }
        if known.is_empty() {
            let blocks = fresh.into_iter().map(|(blocks, _)| blocks).collect();
            return self.store(frame.content(), blocks, outbox);
        }
        outbox.add(Item::Known(known))?;
        for (blocks, length) in fresh {
            let begin = blocks.skip as usize;
            self.gather(frame.content().get(begin..begin + length).unwrap_or_default(), blocks, outbox)?;
        }
        Ok(())
    }

    /// Keeps blocks until there is a frame full of them.
    fn gather(&mut self, content: &[u8], blocks: FreshBlocks, outbox: &mut Outbox) -> Result<()> {
        if self.gathered.len() + content.len() > FRAME {
            self.end(outbox)?;
        }
        self.blocks.push(FreshBlocks { skip: self.gathered.len() as u32, ..blocks });
        self.gathered.extend_from_slice(content);
        Ok(())
    }

    /// Compresses what was kept.
    pub fn end(&mut self, outbox: &mut Outbox) -> Result<()> {
        if self.blocks.is_empty() {
            return Ok(());
        }
        let gathered = std::mem::take(&mut self.gathered);
        let blocks = std::mem::take(&mut self.blocks);
        self.store(&gathered, blocks, outbox)?;
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }

    fn store(&mut self, content: &[u8], blocks: Vec<FreshBlocks>, outbox: &mut Outbox) -> Result<()> {
        self.compressor.frame(content, &mut self.scratch)?;
        let item = Item::Frame { bytes: self.scratch.clone(), content: content.len() as u64, blocks };
        outbox.send(item)
    }
}
