//! Reads the frames of a batch of regions from their packs together, and decompresses each frame on
//! demand.

use super::layout::{FramePosition, Region};
use crate::codec::compress::{Decompressor, FRAME, content_size};
use crate::error::{Doing, Error, Result, part};
use crate::fs::aligned::Aligned;
use crate::repo::Archive;
use crate::repo::entry::FileEntry;
use crate::repo::ranges::{self, StoredFrame, StoredRange, WantedBlocks};
use std::collections::BTreeSet;

/// Maximum number of decompressed frames that are kept besides the main one. Blocks of neighbouring
/// regions that were stored anew lie in one frame, and a backup bounds the number of runs of a
/// region to about twice this number of frames.
const MAX_KEPT: usize = 8;

/// The frames of one thread.
pub(super) struct FrameReader<'a> {
    archive: &'a Archive,
    packs: &'a [String],
    /// Ranges of packs that were read last, and their bytes.
    read: Vec<(StoredRange, Vec<u8>)>,
    decompressor: Decompressor,
    main: UnpackedFrame,
    /// Other frames; the one used last is at the end.
    others: Vec<UnpackedFrame>,
}

#[derive(Default)]
struct UnpackedFrame {
    /// Position of the frame, and number of bytes of its content; `None` when the memory holds no
    /// frame.
    of: Option<(FramePosition, usize)>,
    content: Aligned,
}

impl UnpackedFrame {
    fn has_frame(&self, frame: FramePosition) -> bool {
        self.of.is_some_and(|(of, _)| of == frame)
    }

    fn bytes(&self) -> &[u8] {
        self.content.bytes(self.of.map_or(0, |(_, size)| size))
    }
}

impl<'a> FrameReader<'a> {
    /// `packs` are the keys of the packs of the part of the manifest.
    pub fn new(archive: &'a Archive, packs: &'a [String]) -> FrameReader<'a> {
        let decompressor = Decompressor::default();
        FrameReader {
            archive,
            packs,
            read: Vec::new(),
            decompressor,
            main: UnpackedFrame::default(),
            others: Vec::new(),
        }
    }

    /// Operation for an error message about a frame.
    fn reading(&self, frame: FramePosition) -> impl Fn() -> String + use<'a> {
        let (archive, packs) = (self.archive, self.packs);
        move || {
            let pack = packs.get(frame.pack as usize).map_or("an unnamed pack", String::as_str);
            format!("read {pack} of repository {}", archive.repository().name())
        }
    }

    /// The key of a pack.
    fn pack(&self, number: u32) -> Result<&'a str> {
        let pack = self.packs.get(number as usize);
        pack.map(String::as_str)
            .ok_or_else(|| Error::defect(format!("pack {number} of {}", self.packs.len())))
    }

    /// Reads the frames of these regions, and forgets the frames that were read before.
    pub fn read(&mut self, regions: &[Region]) -> Result<()> {
        self.read.clear();
        self.main.of = None;
        self.others.iter_mut().for_each(|other| other.of = None);
        let frames: BTreeSet<FramePosition> =
            regions.iter().flat_map(|region| &region.parts).map(|(frame, _)| *frame).collect();
        let frame =
            |at: FramePosition| StoredFrame { offset: at.offset, length: at.length, pieces: Vec::new() };
        for range in ranges::join(frames.into_iter().map(|at| (at.pack, frame(at)))) {
            let bytes = self.archive.get_range(self.pack(range.pack)?, range.begin..range.end)?;
            self.read.push((range, bytes));
        }
        Ok(())
    }

    /// Returns the bytes of a region whose frames were read. Compares every block with its hash.
    /// The bytes are in the memory of the main frame or, if they do not fit there, in `buffer`.
    pub fn bytes<'b>(
        &'b mut self,
        region: &Region,
        stored: &FileEntry,
        buffer: &'b mut Aligned,
    ) -> Result<&'b [u8]> {
        if let [(frame, wanted)] = &region.parts[..] {
            let doing = self.reading(*frame);
            return checked(wanted, stored, self.content(*frame, *frame == region.main)?).doing(doing);
        }
        if let Some(begin) = region.begin_in_main() {
            let size = self.content(region.main, true)?.len();
            // Other regions may need the frame, so it is overwritten only for a region of at least
            // half its size.
            if begin + region.length() <= size && region.length() >= size / 2 {
                return self.patched(region, stored, begin);
            }
        }
        let memory = buffer.slice(region.length());
        let mut begin = 0;
        for (frame, wanted) in &region.parts {
            let doing = self.reading(*frame);
            let bytes = checked(wanted, stored, self.content(*frame, *frame == region.main)?).doing(doing)?;
            part_mut(memory, begin, wanted.length)?.copy_from_slice(bytes);
            begin += wanted.length;
        }
        Ok(memory)
    }

    /// Completes a region in the memory of its main frame, which has most of its bytes. The bytes
    /// from other frames overwrite content that does not belong to the region, so the memory does
    /// not hold the main frame any more.
    fn patched(&mut self, region: &Region, stored: &FileEntry, begin: usize) -> Result<&[u8]> {
        let mut main = std::mem::take(&mut self.main);
        let size = main.bytes().len();
        main.of = None;
        let memory = main.content.slice(size);
        let mut at = begin;
        for (frame, wanted) in &region.parts {
            let doing = self.reading(*frame);
            if *frame == region.main {
                checked(wanted, stored, memory).doing(doing)?;
            } else {
                let bytes = checked(wanted, stored, self.content(*frame, false)?).doing(doing)?;
                part_mut(memory, at, wanted.length)?.copy_from_slice(bytes);
            }
            at += wanted.length;
        }
        self.main = main;
        part(self.main.content.bytes(at), begin..at)
    }

    /// Returns the content of one of the frames that were read.
    fn content(&mut self, frame: FramePosition, is_main: bool) -> Result<&[u8]> {
        if is_main {
            if !self.main.has_frame(frame) {
                let mut main = std::mem::take(&mut self.main);
                self.unpack(frame, &mut main)?;
                self.main = main;
            }
            return Ok(self.main.bytes());
        }
        let known = self.others.iter().position(|other| other.has_frame(frame));
        let free = || self.others.iter().position(|other| other.of.is_none());
        let oldest = (self.others.len() == MAX_KEPT).then_some(0);
        let mut other = match known.or_else(free).or(oldest) {
            Some(index) => self.others.remove(index),
            None => UnpackedFrame::default(),
        };
        if known.is_none() {
            self.unpack(frame, &mut other)?;
        }
        self.others.push(other);
        let other = self.others.last().ok_or_else(|| Error::defect("a frame that was not kept"))?;
        Ok(other.bytes())
    }

    fn unpack(&mut self, frame: FramePosition, into: &mut UnpackedFrame) -> Result<()> {
        let doing = self.reading(frame);
        let has_frame = |range: &StoredRange| {
            range.pack == frame.pack && (range.begin..range.end).contains(&frame.offset)
        };
        let found = self.read.iter().find(|(range, _)| has_frame(range));
        let (range, bytes) =
            found.ok_or_else(|| Error::defect("a frame that was not read").doing(doing()))?;
        let stored = range.bytes(frame.offset, frame.length, bytes).doing(&doing)?;
        let size = content_size(stored, FRAME).doing(&doing)?;
        into.of = None;
        self.decompressor.frame_into(stored, into.content.slice(size)).doing(&doing)?;
        into.of = Some((frame, size));
        Ok(())
    }
}

fn part_mut(memory: &mut [u8], begin: usize, length: usize) -> Result<&mut [u8]> {
    let part = memory.get_mut(begin..begin + length);
    part.ok_or_else(|| Error::defect("blocks outside of their region"))
}

/// The bytes of wanted blocks in the content of their frame, after every block was compared with
/// its hash.
fn checked<'c>(wanted: &WantedBlocks, stored: &FileEntry, content: &'c [u8]) -> Result<&'c [u8]> {
    wanted.checked(stored, content).map_err(|error| {
        error.hint("the backup cannot be restored from here: use another backup or repository, and run `walkeep verify`")
    })
}
