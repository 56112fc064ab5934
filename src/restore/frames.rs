//! The frames that regions lie in: read from their packs together, unpacked when they are asked for.

use super::layout::{Place, Region};
use crate::codec::compress::{Decompressor, FRAME, content_size};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::aligned::Aligned;
use crate::repo::Archive;
use crate::repo::entry::FileEntry;
use crate::repo::ranges::{self, StoredFrame, StoredRange, WantedBlocks};
use std::collections::BTreeSet;

/// Frames that are kept unpacked beside the main one. Blocks of neighbouring regions that were stored anew lie in one
/// frame; and a backup does not let a region lie in more runs than about twice as many frames give.
const KEPT: usize = 8;

pub struct Frames<'a> {
    archive: &'a Archive,
    packs: &'a [String],
    /// What was read last.
    read: Vec<(StoredRange, Vec<u8>)>,
    decompressor: Decompressor,
    main: Unpacked,
    /// The one that was used last stands last.
    others: Vec<Unpacked>,
}

#[derive(Default)]
struct Unpacked {
    /// Which frame it is, and bytes of its content.
    of: Option<(Place, usize)>,
    content: Aligned,
}

impl Unpacked {
    fn is(&self, frame: Place) -> bool {
        self.of.is_some_and(|(of, _)| of == frame)
    }

    fn bytes(&self) -> &[u8] {
        self.content.bytes(self.of.map_or(0, |(_, size)| size))
    }
}

impl<'a> Frames<'a> {
    /// `packs` are those of the part of the manifest.
    pub fn new(archive: &'a Archive, packs: &'a [String]) -> Frames<'a> {
        let decompressor = Decompressor::default();
        Frames {
            archive,
            packs,
            read: Vec::new(),
            decompressor,
            main: Unpacked::default(),
            others: Vec::new(),
        }
    }

    /// How messages call the reading of a frame.
    fn reading(&self, frame: Place) -> impl Fn() -> String + use<'a> {
        let (archive, pack) = (self.archive, self.pack(frame.pack));
        move || format!("read {pack} of repository {}", archive.repository().name())
    }

    fn pack(&self, number: u32) -> &'a str {
        self.packs.get(number as usize).map(String::as_str).unwrap_or_default()
    }

    /// Reads the frames of these regions, in place of those that were read before.
    pub fn read(&mut self, regions: &[Region]) -> Result<()> {
        self.read.clear();
        self.main.of = None;
        self.others.iter_mut().for_each(|other| other.of = None);
        let frames: BTreeSet<Place> =
            regions.iter().flat_map(|region| &region.parts).map(|(place, _)| *place).collect();
        let frame =
            |place: Place| StoredFrame { offset: place.offset, length: place.length, pieces: Vec::new() };
        for stretch in ranges::join(frames.into_iter().map(|place| (place.pack, frame(place)))) {
            let bytes = self.archive.get_range(self.pack(stretch.pack), stretch.begin..stretch.end)?;
            self.read.push((stretch, bytes));
        }
        Ok(())
    }

    /// The bytes of a region whose frames were read, when every block of it has its hash. They are where its main frame
    /// was unpacked, or in the buffer if there is no place for all of them.
    pub fn bytes<'b>(
        &'b mut self,
        region: &Region,
        stored: &FileEntry,
        buffer: &'b mut Aligned,
    ) -> Result<&'b [u8]> {
        if let [(place, piece)] = &region.parts[..] {
            let doing = self.reading(*place);
            return checked(piece, stored, self.content(*place, *place == region.main)?).doing(doing);
        }
        if let Some(begin) = region.place_in_main() {
            let size = self.content(region.main, true)?.len();
            // Where others want the same frame, it is not spoiled for the sake of a few blocks.
            if begin + region.length() <= size && region.length() >= size / 2 {
                return self.patched(region, stored, begin);
            }
        }
        let memory = buffer.slice(region.length());
        let mut begin = 0;
        for (place, piece) in &region.parts {
            let doing = self.reading(*place);
            let bytes = self.content(*place, *place == region.main)?;
            if let Some(part) = memory.get_mut(begin..begin + piece.length) {
                part.copy_from_slice(checked(piece, stored, bytes).doing(doing)?);
            }
            begin += piece.length;
        }
        Ok(memory)
    }

    /// A region where its main frame was unpacked: most of it is there, and the rest is put in the place of what is not
    /// the region's, whose frame is not that frame any more.
    fn patched(&mut self, region: &Region, stored: &FileEntry, begin: usize) -> Result<&[u8]> {
        let mut main = std::mem::take(&mut self.main);
        let size = main.bytes().len();
        main.of = None;
        let memory = main.content.slice(size);
        let mut at = begin;
        for (place, piece) in &region.parts {
            let doing = self.reading(*place);
            if *place == region.main {
                checked(piece, stored, memory).doing(doing)?;
            } else if let Some(part) = memory.get_mut(at..at + piece.length) {
                part.copy_from_slice(checked(piece, stored, self.content(*place, false)?).doing(doing)?);
            }
            at += piece.length;
        }
        self.main = main;
        Ok(self.main.content.bytes(at).get(begin..).unwrap_or_default())
    }

    /// The content of one of the frames that were read.
    fn content(&mut self, frame: Place, is_main: bool) -> Result<&[u8]> {
        if is_main {
            if !self.main.is(frame) {
                let mut main = std::mem::take(&mut self.main);
                self.unpack(frame, &mut main)?;
                self.main = main;
            }
            return Ok(self.main.bytes());
        }
        let known = self.others.iter().position(|other| other.is(frame));
        let free = || self.others.iter().position(|other| other.of.is_none());
        let oldest = (self.others.len() == KEPT).then_some(0);
        let mut other = match known.or_else(free).or(oldest) {
            Some(place) => self.others.remove(place),
            None => Unpacked::default(),
        };
        if known.is_none() {
            self.unpack(frame, &mut other)?;
        }
        self.others.push(other);
        Ok(self.others.last().map_or(&[], Unpacked::bytes))
    }

    fn unpack(&mut self, frame: Place, into: &mut Unpacked) -> Result<()> {
        let doing = self.reading(frame);
        let is_in = |stretch: &StoredRange| {
            stretch.pack == frame.pack && (stretch.begin..stretch.end).contains(&frame.offset)
        };
        let (stretch, bytes) = self
            .read
            .iter()
            .find(|(stretch, _)| is_in(stretch))
            .ok_or_else(|| Error::new(Kind::Failed, "the frame was left out").doing(doing()))?;
        let stored = stretch.bytes(frame.offset, frame.length, bytes).doing(&doing)?;
        let size = content_size(stored, FRAME).doing(&doing)?;
        into.of = None;
        self.decompressor.frame_into(stored, into.content.slice(size)).doing(&doing)?;
        into.of = Some((frame, size));
        Ok(())
    }
}

fn checked<'c>(piece: &WantedBlocks, stored: &FileEntry, content: &'c [u8]) -> Result<&'c [u8]> {
    piece.checked(stored, content).map_err(|error| {
        error.hint("the backup cannot be restored from here: use another backup or repository, and run `walkeep verify`")
    })
}
