//! Writes files out of packs, in the order of their frames in the packs, on several threads. Every
//! block is compared with its hash before it is written.

use super::delta;
use super::frames::FrameReader;
use super::holes::{between, holes};
use super::layout::{self, Region, TargetFile};
use super::owner::Ownership;
use super::sums::FileSums;
use crate::codec::compress::FRAME;
use crate::error::{Doing, Error, Result, part};
use crate::fs::aligned::Aligned;
use crate::fs::direct;
use crate::progress::Progress;
use crate::repo::Archive;
use crate::runtime::thread;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Files of one part of a manifest, and the settings with which they are written.
pub(super) struct FileWriting<'a> {
    pub archive: &'a Archive,
    pub packs: &'a [String],
    pub targets: &'a [TargetFile<'a>],
    pub ownership: &'a Ownership,
    pub jobs: NonZeroUsize,
    /// Compare existing files, and read and write only the blocks that differ.
    pub delta: bool,
    /// Keep the files in the page cache, since they are read at once.
    pub scratch: bool,
    pub progress: &'a Progress,
    /// Called before each region: fails when the restore has to end.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
}

/// Result of writing the files of one part.
pub(super) struct WrittenFiles {
    /// Bytes that were in place before the restore.
    pub kept: u64,
    /// CRC-32C of each target; `None` where it is not known.
    pub sums: Vec<Option<u32>>,
}

/// Threads for each job: a thread waits for the disk half of the time.
const THREADS_PER_JOB: usize = 2;

impl FileWriting<'_> {
    /// Writes all targets. The first error ends the work.
    pub fn run(&self) -> Result<WrittenFiles> {
        let holes: Vec<Vec<Range<u64>>> = self.targets.iter().map(|target| holes(target.stored)).collect();
        let mut regions = layout::regions(self.targets.iter().map(|target| target.stored));
        regions.retain(|region| !is_in_hole(&holes, region));
        let max = if self.delta { layout::MAX_COMPARE_BATCH } else { layout::MAX_WRITE_BATCH };
        let batches = layout::batches(&regions, max);
        let threads = self.jobs.get() * THREADS_PER_JOB;
        let state = WriteState {
            writing: self,
            existing: self
                .targets
                .iter()
                .zip(&holes)
                .map(|(target, holes)| self.allocate(target, holes))
                .collect::<Result<_>>()?,
            sums: FileSums::new(self.targets),
            kept: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        state.make_holes(&holes)?;
        let shares = Shares::new(batches.len(), threads);
        let next = |own: usize| {
            let number = shares.next(own).filter(|_| !state.stop.load(Ordering::Relaxed))?;
            regions.get(batches.get(number)?.clone())
        };
        let thread = |own: usize| {
            let mut writer = RegionWriter::new(&state);
            let done = std::iter::from_fn(|| next(own)).try_for_each(|batch| writer.batch(batch));
            state.stop.fetch_or(done.is_err(), Ordering::Relaxed);
            done
        };
        thread::share(threads, "write", thread)?;
        Ok(WrittenFiles { kept: state.kept.into_inner(), sums: state.sums.finish(self.targets) })
    }

    /// Creates a file of several regions, which several threads write, or an empty file. A file of
    /// one region is created when the region is written. Returns the length of a file that a delta
    /// restore found and opened; `None` for any other file.
    fn allocate(&self, target: &TargetFile<'_>, holes: &[Range<u64>]) -> Result<Option<u64>> {
        if layout::is_one_region(target.stored) {
            return Ok(None);
        }
        if self.delta
            && let Some((_, length)) = delta::open(target, self.ownership)?
        {
            return Ok(Some(length));
        }
        let (path, size) = (&target.path, target.stored.size);
        direct::allocate(&target.create()?, path, size, &between(holes, size))?;
        Ok(None)
    }
}

/// State that the threads share.
struct WriteState<'a> {
    writing: &'a FileWriting<'a>,
    /// Length of each target of several regions before the restore; `None` for a new file.
    existing: Vec<Option<u64>>,
    sums: FileSums,
    kept: AtomicU64,
    stop: AtomicBool,
}

impl WriteState<'_> {
    /// Makes the holes of the files. Their content is known without reading the packs.
    fn make_holes(&self, holes: &[Vec<Range<u64>>]) -> Result<()> {
        let zeros = if holes.iter().all(Vec::is_empty) { Vec::new() } else { vec![0; FRAME] };
        let files = self.writing.targets.iter().zip(holes).zip(&self.existing).enumerate();
        for (number, ((target, holes), existing)) in files.filter(|(_, ((_, holes), _))| !holes.is_empty()) {
            (self.writing.check)()?;
            let file = existing.map(|_| target.reopen(self.writing.ownership)).transpose()?;
            for hole in holes {
                // A new file has its holes already.
                if let Some(file) = &file
                    && direct::make_hole(file, &target.path, hole)?
                {
                    self.kept.fetch_add(hole.end - hole.start, Ordering::Relaxed);
                }
                let mut at = hole.start;
                while at < hole.end {
                    let size = usize::try_from(hole.end - at).map_or(FRAME, |rest| rest.min(FRAME));
                    self.sums.add(number, at, part(&zeros, 0..size)?);
                    at += size as u64;
                }
                self.writing.progress.add_done(hole.end - hole.start);
            }
        }
        Ok(())
    }
}

/// Whether a region is part of a hole of its file.
fn is_in_hole(holes: &[Vec<Range<u64>>], region: &Region) -> bool {
    let holes = holes.get(region.target).map_or(&[][..], Vec::as_slice);
    holes.iter().any(|hole| hole.contains(&region.offset()))
}

/// One thread that compares and writes regions.
struct RegionWriter<'a> {
    state: &'a WriteState<'a>,
    frames: FrameReader<'a>,
    /// Bytes of a region that are collected from several frames, or read from an existing file.
    buffer: Aligned,
    /// The file that was written or compared last, by its index.
    open: Option<(usize, direct::DirectTarget<'a>)>,
}

impl<'a> RegionWriter<'a> {
    fn new(state: &'a WriteState<'a>) -> RegionWriter<'a> {
        let frames = FrameReader::new(state.writing.archive, state.writing.packs);
        RegionWriter { state, frames, buffer: Aligned::default(), open: None }
    }

    fn batch(&mut self, batch: &[Region]) -> Result<()> {
        let writing = self.state.writing;
        let mut differing = Vec::new();
        if writing.delta {
            for region in batch {
                (writing.check)()?;
                self.compare(region, &mut differing)?;
            }
        }
        let regions = if writing.delta { &differing[..] } else { batch };
        self.frames.read(regions)?;
        for region in regions {
            (writing.check)()?;
            self.write(region)?;
        }
        Ok(())
    }

    /// Compares a region with an existing file, and adds the blocks that differ.
    fn compare(&mut self, region: &Region, differing: &mut Vec<Region>) -> Result<()> {
        let WriteState { writing, existing, sums, kept, .. } = self.state;
        let target = target(writing, region)?;
        let length = if region.is_file {
            delta::open(target, writing.ownership)?.map(|(file, length)| {
                let file = direct::DirectTarget::new(&target.path, file, writing.scratch);
                self.open = Some((region.target, file));
                length
            })
        } else {
            let length = existing.get(region.target);
            *length.ok_or_else(|| Error::defect("a region without a file"))?
        };
        let Some(length) = length else {
            differing.push(region.clone());
            return Ok(());
        };
        let file = open_target(&mut self.open, writing, region)?;
        let same = delta::compare(&target.path, file, region, target.stored, length, &mut self.buffer)?;
        let in_region = |offset: u64| {
            let distance = offset.checked_sub(region.offset()).and_then(|bytes| usize::try_from(bytes).ok());
            distance.ok_or_else(|| Error::defect("bytes outside of their region"))
        };
        let mut first = region.blocks().start;
        for run in same.chunk_by(|one, next| one == next) {
            let blocks = first..first + run.len();
            first = blocks.end;
            if run.first() == Some(&false) {
                differing.push(region.cut(target.stored, &blocks));
                continue;
            }
            let Range { start, end } = target.stored.bytes_of(&blocks);
            sums.add(region.target, start, part(&self.buffer, in_region(start)?..in_region(end)?)?);
            kept.fetch_add(end - start, Ordering::Relaxed);
            writing.progress.add_done(end - start);
        }
        Ok(())
    }

    fn write(&mut self, region: &Region) -> Result<()> {
        let WriteState { writing, sums, .. } = self.state;
        let target = target(writing, region)?;
        let bytes = self.frames.bytes(region, target.stored, &mut self.buffer)?;
        if region.is_file {
            let doing = || format!("write {}", target.path.display());
            target.create()?.write_all_at(bytes, region.offset()).doing(doing)?;
        } else {
            open_target(&mut self.open, writing, region)?.write(bytes, region.offset())?;
        }
        sums.add(region.target, region.offset(), bytes);
        writing.progress.add_done(bytes.len() as u64);
        Ok(())
    }
}

/// The file of a region.
fn target<'a>(writing: &'a FileWriting<'a>, region: &Region) -> Result<&'a TargetFile<'a>> {
    let target = writing.targets.get(region.target);
    target.ok_or_else(|| Error::defect("a region without a file"))
}

/// Returns the open file of a region. Opens the file, which has to exist, unless it is the one that
/// was opened last.
fn open_target<'o, 'a>(
    open: &'o mut Option<(usize, direct::DirectTarget<'a>)>,
    writing: &'a FileWriting<'a>,
    region: &Region,
) -> Result<&'o mut direct::DirectTarget<'a>> {
    let (number, file) = match open.take().filter(|(number, _)| *number == region.target) {
        Some(open) => open,
        None => {
            let target = target(writing, region)?;
            let file = target.reopen(writing.ownership)?;
            (region.target, direct::DirectTarget::new(&target.path, file, writing.scratch))
        }
    };
    Ok(&mut open.insert((number, file)).1)
}

/// Divides items among threads. Each thread begins with its own share, so that threads seldom write
/// to the same file, and continues with what is left of the other shares.
struct Shares(Vec<(AtomicUsize, usize)>);

impl Shares {
    fn new(items: usize, threads: usize) -> Shares {
        let begin = |thread: usize| items * thread / threads;
        Shares((0..threads).map(|thread| (AtomicUsize::new(begin(thread)), begin(thread + 1))).collect())
    }

    /// Number of the next item for a thread.
    fn next(&self, own: usize) -> Option<usize> {
        let (before, after) = self.0.split_at(own.min(self.0.len()));
        after.iter().chain(before).find_map(|(next, end)| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (number < *end).then_some(number)
        })
    }
}
