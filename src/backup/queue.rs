//! Queue of the files that the scan found, each with the file of an earlier backup, if it has one:
//! the scan and the parts of the earlier manifests are merged by path. Does not read the files.

use super::found::FoundFile;
use super::known::{KnownFile, Promise};
use super::summaries::Summaries;
use crate::error::Result;
use crate::repo::entry::{FileEntry, StoredPath};
use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use std::cmp::Ordering;
use std::sync::Arc;

/// Files of one part of an earlier manifest, in the order of their paths.
pub(super) struct KnownPart {
    /// Keys of the packs, by the pack numbers in the extents; `None` for a pack that must not be
    /// reused.
    pub packs: Vec<Option<Arc<str>>>,
    pub files: std::vec::IntoIter<FileEntry>,
}

/// A file to be read.
pub(super) struct FileJob {
    /// Number of the file in the order of the scan, which is the order of the manifest.
    pub number: u64,
    pub found: Arc<FoundFile>,
    pub known: Option<Arc<KnownFile>>,
}

/// The files to be read; shared by the threads that read them.
pub(super) struct FileQueue {
    merge: Mutex<Merge>,
    summaries: Option<Summaries>,
}

/// Both sides of the merge, each in the order of the manifest.
struct Merge {
    found: Receiver<(u64, FoundFile)>,
    parts: Receiver<KnownPart>,
    part: KnownPart,
    /// First known file whose path the scan has not passed.
    next: Option<FileEntry>,
}

impl FileQueue {
    /// `parts` is a closed channel without values when there is no earlier backup.
    pub fn new(
        found: Receiver<(u64, FoundFile)>,
        parts: Receiver<KnownPart>,
        summaries: Option<Summaries>,
    ) -> FileQueue {
        let part = KnownPart { packs: Vec::new(), files: Vec::new().into_iter() };
        FileQueue { merge: Mutex::new(Merge { found, parts, part, next: None }), summaries }
    }

    /// The next file; `None` when there are no more.
    pub fn next(&self) -> Result<Option<FileJob>> {
        // The lock is held until the file is looked up: both sides have to advance in order.
        let mut merge = self.merge.lock();
        let Ok((number, found)) = merge.found.recv() else {
            return Ok(None);
        };
        let known = merge.find(&found.path)?;
        drop(merge);
        let known = known.map(|known| Arc::new(known.with_promise(self.promise(&found))));
        Ok(Some(FileJob { number, found: Arc::new(found), known }))
    }

    fn promise(&self, found: &FoundFile) -> Option<Promise> {
        let (place, node) = found.node?;
        let changed = self.summaries.as_ref()?.of(place, node)?;
        Some(Promise { changed, first: u64::from(found.first_page?) })
    }
}

impl Merge {
    fn find(&mut self, path: &StoredPath) -> Result<Option<KnownFile>> {
        while let Some(file) = self.next.take().or_else(|| self.advance()) {
            match file.path.order(path) {
                Ordering::Less => {}
                Ordering::Equal => return KnownFile::new(file, &self.part.packs).map(Some),
                Ordering::Greater => {
                    self.next = Some(file);
                    break;
                }
            }
        }
        Ok(None)
    }

    fn advance(&mut self) -> Option<FileEntry> {
        loop {
            if let Some(file) = self.part.files.next() {
                return Some(file);
            }
            self.part = self.parts.recv().ok()?;
        }
    }
}
