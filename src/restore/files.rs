//! Writes files out of packs: in the order in which they lie there, on several threads, each block checked
//! before it is written.

use super::delta;
use super::frames::Frames;
use super::layout::{self, Region};
use super::owner::Ownership;
use super::sums::Sums;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::aligned::Aligned;
use crate::fs::direct;
use crate::progress::{Progress, in_span};
use crate::repo::Archive;
use crate::repo::entry::FileEntry as Stored;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tracing::Span;

/// A file to be written.
pub struct Target<'a> {
    pub path: PathBuf,
    pub stored: &'a Stored,
    /// Whether it goes into `backup_manifest` as it is.
    pub listed: bool,
}

pub struct Writing<'a> {
    pub archive: &'a Archive,
    pub packs: &'a [String],
    pub targets: &'a [Target<'a>],
    pub ownership: &'a Ownership,
    pub jobs: NonZeroUsize,
    /// Files that are there are compared, and only blocks that differ are read and written.
    pub delta: bool,
    /// What is written is read at once, so it stays in the page cache.
    pub scratch: bool,
    pub progress: &'a Progress,
    /// Asked again and again: fails when the work is to end.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
}

/// What was written.
pub struct Written {
    /// Bytes that were in their place already.
    pub kept: u64,
    /// CRC-32C of each target.
    pub sums: Vec<Option<u32>>,
}

/// How many threads there are for each job: half of the time one waits for the disk.
const THREADS: usize = 2;

impl Writing<'_> {
    /// Writes all targets. The first failure ends the work.
    pub fn run(&self) -> Result<Written> {
        self.packs.iter().try_for_each(|pack| self.archive.check_pack(pack))?;
        let regions = layout::regions(self.targets);
        let together = if self.delta { layout::COMPARED } else { layout::WRITTEN };
        let batches = layout::batches(&regions, together);
        let threads = self.jobs.get() * THREADS;
        let work = Work {
            writing: self,
            there: self.targets.iter().map(|target| self.make_room(target)).collect::<Result<_>>()?,
            sums: Sums::new(self.targets),
            kept: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        let shares = Shares::new(batches.len(), threads);
        let next = |own: usize| {
            let number = shares.next(own).filter(|_| !work.stop.load(Ordering::Relaxed))?;
            regions.get(batches.get(number)?.clone())
        };
        let thread = |own: usize| {
            let mut worker = Worker::new(&work);
            let done = std::iter::from_fn(|| next(own)).try_for_each(|batch| worker.batch(batch));
            work.stop.fetch_or(done.is_err(), Ordering::Relaxed);
            done
        };
        std::thread::scope(|scope| {
            let thread = &thread;
            let threads: Vec<_> =
                (0..threads).map(|own| scope.spawn(in_span(Span::current(), move || thread(own)))).collect();
            let mut result = Ok(());
            for thread in threads {
                let ended =
                    thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a writer panicked")));
                result = result.and(ended);
            }
            result
        })?;
        for target in self.targets {
            self.ownership.give(&target.path, &target.stored.owner)?;
            set_mode(&target.path, target.stored.mode)?;
        }
        Ok(Written { kept: work.kept.into_inner(), sums: work.sums.finish(self.targets) })
    }

    /// Makes a file that several threads write, and one that nobody does; the others are made by who writes them.
    /// Says how long one is that was there.
    fn make_room(&self, target: &Target<'_>) -> Result<Option<u64>> {
        if layout::is_one_region(target.stored) {
            return Ok(None);
        }
        if self.delta
            && let Some((_, length)) = delta::open(&target.path, target.stored)?
        {
            return Ok(Some(length));
        }
        direct::allocate(&create(&target.path)?, &target.path, target.stored.size)?;
        Ok(None)
    }
}

/// What the threads share.
struct Work<'a> {
    writing: &'a Writing<'a>,
    /// How long each target was that several threads write; `None`: it is new.
    there: Vec<Option<u64>>,
    sums: Sums,
    kept: AtomicU64,
    stop: AtomicBool,
}

/// One thread.
struct Worker<'a> {
    work: &'a Work<'a>,
    frames: Frames<'a>,
    /// What several frames give, or what there was.
    buffer: Aligned,
    /// The file that was written last, or compared.
    open: Option<(usize, direct::DirectTarget<'a>)>,
}

impl<'a> Worker<'a> {
    fn new(work: &'a Work<'a>) -> Worker<'a> {
        let frames = Frames::new(work.writing.archive, work.writing.packs);
        Worker { work, frames, buffer: Aligned::default(), open: None }
    }

    fn batch(&mut self, batch: &[Region]) -> Result<()> {
        let mut differing = Vec::new();
        if self.work.writing.delta {
            for region in batch {
                (self.work.writing.check)()?;
                self.compare(region, &mut differing)?;
            }
        }
        let regions = if self.work.writing.delta { &differing[..] } else { batch };
        self.frames.read(regions)?;
        for region in regions {
            (self.work.writing.check)()?;
            self.write(region)?;
        }
        Ok(())
    }

    /// Adds what of a region is not in its place.
    fn compare(&mut self, region: &Region, differing: &mut Vec<Region>) -> Result<()> {
        let Work { writing, there, sums, kept, .. } = self.work;
        let target = target(writing, region)?;
        let length = match region.is_file {
            false => there.get(region.target).copied().flatten(),
            true => delta::open(&target.path, target.stored)?.map(|(file, length)| {
                let file = direct::DirectTarget::new(&target.path, file, writing.scratch);
                self.open = Some((region.target, file));
                length
            }),
        };
        let Some(length) = length else {
            differing.push(region.clone());
            return Ok(());
        };
        let file = opened(&mut self.open, writing, region)?;
        let same = delta::compare(file, region, target.stored, length, &mut self.buffer)
            .doing(|| format!("compare {}", target.path.display()))?;
        let mut first = region.blocks().start;
        for run in same.chunk_by(|one, next| one == next) {
            let blocks = first..first + run.len();
            first = blocks.end;
            if run.first() == Some(&false) {
                differing.push(region.cut(target.stored, &blocks));
                continue;
            }
            let Range { start, end } = target.stored.bytes_of(&blocks);
            let bytes = self.buffer.bytes((end - region.offset()) as usize);
            sums.add(
                region.target,
                start,
                bytes.get((start - region.offset()) as usize..).unwrap_or_default(),
            );
            kept.fetch_add(end - start, Ordering::Relaxed);
            writing.progress.add_done(end - start);
        }
        Ok(())
    }

    fn write(&mut self, region: &Region) -> Result<()> {
        let Work { writing, sums, .. } = self.work;
        let target = target(writing, region)?;
        let bytes = self.frames.bytes(region, target.stored, &mut self.buffer)?;
        match region.is_file {
            true => {
                let doing = || format!("write {}", target.path.display());
                create(&target.path)?.write_all_at(bytes, region.offset()).doing(doing)?;
            }
            false => opened(&mut self.open, writing, region)?.write(bytes, region.offset())?,
        }
        sums.add(region.target, region.offset(), bytes);
        writing.progress.add_done(bytes.len() as u64);
        Ok(())
    }
}

fn target<'a>(writing: &'a Writing<'a>, region: &Region) -> Result<&'a Target<'a>> {
    let target = writing.targets.get(region.target);
    target.ok_or_else(|| Error::new(Kind::Failed, "a region without a file"))
}

/// The file of a region, which is there: the one that is open, or in its place.
fn opened<'o, 'a>(
    open: &'o mut Option<(usize, direct::DirectTarget<'a>)>,
    writing: &'a Writing<'a>,
    region: &Region,
) -> Result<&'o mut direct::DirectTarget<'a>> {
    let (number, file) = match open.take().filter(|(number, _)| *number == region.target) {
        Some(open) => open,
        None => (region.target, direct::DirectTarget::open(&target(writing, region)?.path, writing.scratch)?),
    };
    Ok(&mut open.insert((number, file)).1)
}

/// Divides work among threads: each begins at a place of its own, so that they seldom write to one file, and goes on
/// with what others have not begun.
struct Shares(Vec<(AtomicUsize, usize)>);

impl Shares {
    fn new(items: usize, threads: usize) -> Shares {
        let begin = |thread: usize| items * thread / threads;
        Shares((0..threads).map(|thread| (AtomicUsize::new(begin(thread)), begin(thread + 1))).collect())
    }

    fn next(&self, own: usize) -> Option<usize> {
        let (before, after) = self.0.split_at(own.min(self.0.len()));
        after.iter().chain(before).find_map(|(next, end)| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (number < *end).then_some(number)
        })
    }
}

/// Makes a file that must not be there: nothing is written through a link, nothing is replaced.
pub fn create(path: &Path) -> Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .doing(|| format!("create {}", path.display()))
}

pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .doing(|| format!("set the mode of {}", path.display()))
}
