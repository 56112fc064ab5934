//! What the calls and the worker of one data directory share: the names in the spool, the mark of a kept segment,
//! and the message about a delivered one.

use super::spool::{Spool, Stamp};
use crate::codec::hash::{BlockHash, hash_all};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::open_plain;
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::repo::{Lineage, Repository};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::str::FromStr;

/// Bytes that are kept at most; a single segment may have more.
const MOST: u64 = 1 << 30;

/// Through which calls tell the worker.
pub(super) const ASKED: &str = "asked";

/// A segment that was delivered.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub name: SegmentName,
    pub size: SegmentSize,
}

impl Asked {
    /// Of what was just delivered, if it is a segment.
    pub fn delivered(name: WalName, destination: &Path) -> Option<Asked> {
        let WalName::Segment(name) = name else {
            return None;
        };
        let size = std::fs::metadata(destination).ok()?.len();
        Some(Asked { name, size: SegmentSize::try_from(size).ok()? })
    }

    /// Tells the worker; false when there is none.
    pub fn tell(self, spool: &Spool) -> bool {
        let fifo = open_plain(&spool.path(ASKED), File::options().write(true));
        let is_fifo = |file: &File| file.metadata().is_ok_and(|meta| meta.file_type().is_fifo());
        let Some(mut fifo) = fifo.ok().filter(is_fifo) else {
            return false;
        };
        // A worker that reads nothing has enough to read.
        let _ = fifo.write_all(format!("{} {}\n", self.name, self.size.bytes()).as_bytes());
        true
    }

    /// The segments behind it, as many as are to be kept.
    pub(super) fn next(self, count: usize) -> Vec<SegmentName> {
        let count = count.min((MOST / self.size.bytes()).max(1) as usize);
        let begin = self.name.number(self.size);
        (1..=count as u64)
            .map(|distance| SegmentName::of_number(self.name.timeline, begin + distance, self.size))
            .collect()
    }
}

impl FromStr for Asked {
    type Err = Error;

    fn from_str(line: &str) -> Result<Asked> {
        let parts = line.split_once(' ');
        let (name, size) = parts.ok_or_else(|| Error::new(Kind::Damage, "no name and size"))?;
        let size: u64 = size.parse().map_err(|_| Error::new(Kind::Damage, "no size"))?;
        Ok(Asked { name: name.parse()?, size: SegmentSize::try_from(size)? })
    }
}

/// That a kept file is what was fetched and verified.
#[derive(Serialize, Deserialize)]
pub(super) struct Mark {
    lineage: String,
    /// Where it may come from: a changed configuration begins anew.
    sources: Vec<Source>,
    stamp: Stamp,
    pub hash: BlockHash,
    /// What was written before the machine went down need not be on the disk.
    boot: String,
}

/// A repository, and which one was at its place, when it costs nothing to ask and answers.
#[derive(Serialize, Deserialize)]
struct Source {
    place: String,
    repository_id: Option<String>,
}

impl Source {
    fn all(repositories: &[Repository], lineage: Lineage) -> Vec<Source> {
        let id = |repository: &Repository| match repository.is_remote() {
            true => None,
            false => Some(repository.open(lineage).ok()?.identity().repository_id.clone()),
        };
        let source =
            |repository: &Repository| Source { place: repository.place(), repository_id: id(repository) };
        repositories.iter().map(source).collect()
    }

    /// A repository that does not answer now may have been the one that it was.
    fn is(&self, now: &Source) -> bool {
        let is_other =
            self.repository_id.as_ref().zip(now.repository_id.as_ref()).is_some_and(|(a, b)| a != b);
        self.place == now.place && !is_other
    }
}

impl Mark {
    pub fn new(lineage: Lineage, repositories: &[Repository], stamp: Stamp, hash: BlockHash) -> Result<Mark> {
        let sources = Source::all(repositories, lineage);
        Ok(Mark { lineage: lineage.to_string(), sources, stamp, hash, boot: boot()? })
    }

    /// Whether it speaks of this fetch and of the file with this stamp.
    pub fn fits(&self, lineage: Lineage, repositories: &[Repository], stamp: Stamp) -> Result<bool> {
        let sources = Source::all(repositories, lineage);
        Ok(self.lineage == lineage.to_string()
            && self.stamp == stamp
            && self.sources.len() == sources.len()
            && self.sources.iter().zip(&sources).all(|(then, now)| then.is(now))
            && self.boot == boot()?)
    }
}

/// Tells this run of the machine from every other.
fn boot() -> Result<String> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(BOOT).doing(|| format!("read {BOOT}"))
}

pub(super) fn mark_of(name: SegmentName) -> String {
    format!("{name}.mark")
}

/// Is locked while the worker is fetching the segment.
pub(super) fn busy_of(name: SegmentName) -> String {
    format!("{name}.busy")
}

pub(super) fn hash_of(file: &mut File) -> std::io::Result<BlockHash> {
    file.rewind()?;
    hash_all(file)
}
