//! Writes files out of packs: in the order in which they lie there, on several threads, each block checked
//! before it is written.

use super::delta::{self, There};
use super::sums::Sums;
use crate::codec::compress::{Decompressor, FRAME, content_size};
use crate::direct::{self, Buffer};
use crate::error::{Doing, Error, Kind, Result};
use crate::event::Observer;
use crate::repo::Archive;
use crate::repo::entry::{File as Stored, Owner};
use crate::repo::stretch::{self, Piece, Stretch};
use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A file to be written.
pub struct Target<'a> {
    pub path: PathBuf,
    pub stored: &'a Stored,
    /// Whether it goes into `backup_manifest` as it is.
    pub listed: bool,
}

/// Who owns what is restored.
pub struct Ownership {
    /// Only root can give files away.
    is_root: bool,
    known: Mutex<HashMap<Owner, (u32, u32)>>,
}

impl Ownership {
    pub fn new() -> Ownership {
        Ownership { is_root: nix::unistd::geteuid().is_root(), known: Mutex::default() }
    }

    /// Whether the server's user can own what is restored: root gives it to the recorded owner, anybody else
    /// keeps it.
    pub fn check(&self, owner: &Owner) -> Result<()> {
        self.ids(owner).map(|_| ())
    }

    /// The user who keeps what is restored, when that is not its owner.
    pub fn keeper(&self, owner: &Owner) -> Option<String> {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten()?.name;
        (!self.is_root && user != owner.owner).then_some(user)
    }

    fn ids(&self, owner: &Owner) -> Result<(u32, u32)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ids) = known.get(owner) {
            return Ok(*ids);
        }
        let nobody = |what: &str, name: &str| {
            Error::new(Kind::Refused, format!("there is no {what} {name} on this machine"))
                .hint("create it, or restore as the user that runs PostgreSQL here")
        };
        let user = nix::unistd::User::from_name(&owner.owner).ok().flatten().map(|user| user.uid.as_raw());
        let group =
            nix::unistd::Group::from_name(&owner.group).ok().flatten().map(|group| group.gid.as_raw());
        let ids = (
            user.or_else(|| owner.owner.parse().ok()).ok_or_else(|| nobody("user", &owner.owner))?,
            group.or_else(|| owner.group.parse().ok()).ok_or_else(|| nobody("group", &owner.group))?,
        );
        known.insert(owner.clone(), ids);
        Ok(ids)
    }

    /// Gives a file or directory, not what a link leads to, to its owner.
    pub fn give(&self, path: &Path, owner: &Owner) -> Result<()> {
        if !self.is_root {
            return Ok(());
        }
        let (user, group) = self.ids(owner)?;
        std::os::unix::fs::lchown(path, Some(user), Some(group))
            .doing(|| format!("give {} to {}", path.display(), owner.owner))
    }
}

impl std::hash::Hash for Owner {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.owner, &self.group).hash(state);
    }
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
    pub done: &'a AtomicU64,
    pub observer: &'a dyn Observer,
}

/// What was written.
pub struct Written {
    /// Bytes that were in their place already.
    pub kept: u64,
    /// CRC-32C of each target.
    pub sums: Vec<Option<u32>>,
}

impl Writing<'_> {
    /// Writes all targets. The first failure ends the work.
    pub fn run(&self) -> Result<Written> {
        let sums = Sums::new(self.targets);
        self.packs.iter().try_for_each(|pack| self.archive.check_pack(pack))?;
        let there = match self.delta {
            true => delta::compare(self.targets, self.jobs.get(), &sums)?,
            false => Vec::new(),
        };
        for (number, target) in self.targets.iter().enumerate() {
            // One of several pieces is written by several threads, one of none by nobody.
            if !matches!(there.get(number), Some(Some(_))) && !is_one_piece(target.stored) {
                direct::allocate(&create(&target.path)?, &target.path, target.stored.size)?;
            }
        }
        let (stretches, kept) = self.stretches(&there);
        self.done.fetch_add(kept, Ordering::Relaxed);
        let shares = Shares::new(stretches.len(), self.jobs.get());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (stretches, shares, stop) = (&stretches, &shares, &stop);
            let (there, sums) = (&there[..], &sums);
            let work = move |own: usize| {
                let mut decompressor = Decompressor::default();
                let mut buffer = Buffer::default();
                while let Some(stretch) = shares.next(own).and_then(|number| stretches.get(number)) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if self.observer.is_cancelled() {
                        stop.store(true, Ordering::Relaxed);
                        return Err(interrupted());
                    }
                    if let Err(error) = self.stretch(stretch, there, sums, &mut decompressor, &mut buffer) {
                        stop.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
                Ok(())
            };
            let threads: Vec<_> = (0..self.jobs.get()).map(|own| scope.spawn(move || work(own))).collect();
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
        Ok(Written { kept, sums: sums.finish(self.targets) })
    }

    /// What to read, in the order in which it lies in the packs, and how many bytes need not be read.
    fn stretches(&self, there: &[There]) -> (Vec<Stretch>, u64) {
        let mut kept = 0;
        let files = self.targets.iter().map(|target| target.stored);
        let found = stretch::stretches(files, |target, _, blocks| {
            let (Some(Some(same)), Some(target)) = (there.get(target), self.targets.get(target)) else {
                return vec![blocks];
            };
            let is_there = |block: usize| same.get(block) == Some(&true);
            let mut wanted = Vec::new();
            let mut block = blocks.start;
            while block < blocks.end {
                let begin = block;
                let same = is_there(begin);
                block += (begin..blocks.end).take_while(|block| is_there(*block) == same).count();
                match same {
                    true => {
                        let bytes = target.stored.bytes_of(&(begin..block));
                        kept += bytes.end - bytes.start;
                    }
                    false => wanted.push(begin..block),
                }
            }
            wanted
        });
        (found, kept)
    }

    fn stretch(
        &self,
        stretch: &Stretch,
        there: &[There],
        sums: &Sums,
        decompressor: &mut Decompressor,
        buffer: &mut Buffer,
    ) -> Result<()> {
        let pack = self.packs.get(stretch.pack as usize).map(String::as_str).unwrap_or_default();
        let bytes = self.archive.get_range(pack, stretch.begin..stretch.end)?;
        for frame in &stretch.frames {
            let doing = || format!("read {pack} of repository {}", self.archive.repository().name());
            let stored = stretch.frame(frame, &bytes);
            let content = buffer.slice(content_size(stored, FRAME).doing(doing)?);
            decompressor.frame_into(stored, content).doing(doing)?;
            for piece in &frame.pieces {
                self.piece(piece, there, sums, content).doing(doing)?;
            }
        }
        Ok(())
    }

    fn piece(&self, piece: &Piece, there: &[There], sums: &Sums, content: &[u8]) -> Result<()> {
        let Some(target) = self.targets.get(piece.file) else {
            return Err(Error::new(Kind::Failed, "a piece without a file"));
        };
        let bytes = piece.checked(target.stored, content).map_err(|error| {
            error.hint("the backup cannot be restored from here: use another backup or repository, and run `walkeep verify`")
        })?;
        let is_new = !matches!(there.get(piece.file), Some(Some(_))) && is_one_piece(target.stored);
        let doing = || format!("write {}", target.path.display());
        match (is_new, self.scratch) {
            (true, _) => create(&target.path)?.write_all_at(bytes, piece.offset).doing(doing)?,
            (false, true) => std::fs::File::options()
                .write(true)
                .open(&target.path)
                .and_then(|file| file.write_all_at(bytes, piece.offset))
                .doing(doing)?,
            (false, false) => direct::write(&target.path, bytes, piece.offset)?,
        }
        sums.add(piece.file, piece.offset, bytes);
        self.done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Somebody wants the restore to end.
pub fn interrupted() -> Error {
    Error::new(Kind::Failed, "it was interrupted").hint("begin it again")
}

/// Whether all of a file lies in one run, so that it is written in one go.
fn is_one_piece(stored: &Stored) -> bool {
    stored.at.len() == 1
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
