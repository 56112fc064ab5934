//! Stores one WAL file in every repository.

use super::ahead::spool::Stamp;
use super::encode::{Encoded, WalFile};
use crate::codec::compress::Compression;
use crate::codec::envelope::ObjectKind;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::segment::WalName;
use crate::progress::in_span;
use crate::repo::{Archive, Lineage, Put, RemoteHints, Repository, StoredWal, header};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tracing::{Span, info_span};

/// How much longer than the required repositories an optional one may take.
const GRACE: Duration = Duration::from_secs(10);

/// What to push, and how.
pub struct Push<'a> {
    /// The file, reachable from the working directory.
    pub path: &'a Path,
    /// The cluster that it has to belong to.
    pub lineage: Lineage,
    pub compression: Compression,
    pub repositories: &'a [Repository],
    /// Reports a failure that the push goes on after.
    pub report: fn(&Error),
}

/// What a repository answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Stored,
    /// The same content was there, whole and durable.
    Already,
}

/// A file that is archived.
pub(super) struct Stored {
    pub stamp: Stamp,
    /// What each repository has, in their order; `None` for an optional one that went without.
    pub copies: Vec<Option<Held>>,
}

/// What one repository has.
pub(super) struct Held {
    pub pushed: Pushed,
    pub repository_id: String,
}

impl Push<'_> {
    /// Ok when the file is durable in every required repository. All of them are tried, at once, whatever happens
    /// to the others; the failure of an optional one is a warning. The file is read and compressed once (one of
    /// more than 64 MiB once for each).
    pub fn run(&self) -> Result<Pushed> {
        let stored = self.store(self.open()?)?;
        let is_new = stored.copies.iter().flatten().any(|copy| copy.pushed == Pushed::Stored);
        Ok(if is_new { Pushed::Stored } else { Pushed::Already })
    }

    pub(super) fn name(&self) -> Result<WalName> {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default().parse()
    }

    /// The object that the file becomes.
    pub(super) fn open(&self) -> Result<Encoded> {
        let name = self.name()?;
        let wal = WalFile::open(self.path, name, self.lineage).doing(|| format!("push {name}"))?;
        let header = header(self.lineage, ObjectKind::Wal, name.to_string());
        Ok(Encoded::new(wal, header, self.compression))
    }

    pub(super) fn store(&self, encoded: Encoded) -> Result<Stored> {
        let (name, stamp) = (encoded.wal().name, encoded.wal().stamp());
        let copies = match self.repositories {
            [only] => put(only, self.lineage, &encoded).map(|copy| vec![Some(copy)]),
            _ => self.store_in_all(encoded),
        };
        Ok(Stored { stamp, copies: copies.doing(|| format!("push {name}"))? })
    }

    fn store_in_all(&self, encoded: Encoded) -> Result<Vec<Option<Held>>> {
        let (sender, answers) = mpsc::channel();
        let encoded = Arc::new(encoded);
        let mut pending = Vec::new();
        for (index, repository) in self.repositories.iter().enumerate() {
            if !repository.is_required() && repository.hints().is_some_and(RemoteHints::is_down) {
                let message = "it failed a moment ago and was left out";
                (self.report)(&left_out(repository, Error::new(Kind::Unavailable, message)));
                continue;
            }
            pending.push(index);
            let (sender, repository, encoded) = (sender.clone(), repository.clone(), Arc::clone(&encoded));
            let lineage = self.lineage;
            std::thread::spawn(move || {
                // Nobody listens any more once those that are required have it.
                let _ = sender.send((index, put(&repository, lineage, &encoded)));
            });
        }
        self.collect(pending, &answers)
    }

    /// Waits for all repositories that are required, and a while longer for the others.
    fn collect(
        &self,
        mut pending: Vec<usize>,
        answers: &mpsc::Receiver<(usize, Result<Held>)>,
    ) -> Result<Vec<Option<Held>>> {
        let mut failure: Option<Error> = None;
        let mut copies: Vec<Option<Held>> = self.repositories.iter().map(|_| None).collect();
        while !pending.is_empty() {
            let is_required = pending.iter().any(|index| self.repositories[*index].is_required());
            let patience = if is_required { Duration::MAX } else { GRACE };
            let Ok((index, pushed)) = answers.recv_timeout(patience) else {
                break;
            };
            pending.retain(|other| *other != index);
            let repository = &self.repositories[index];
            match pushed {
                Ok(copy) => copies[index] = Some(copy),
                Err(error) if repository.is_required() => {
                    if let Some(earlier) = failure.replace(error) {
                        (self.report)(&earlier);
                    }
                }
                Err(error) => self.give_up(repository, error),
            }
        }
        for index in pending {
            let repository = &self.repositories[index];
            let error = Error::new(Kind::Timeout, format!("it was not done {GRACE:?} after the others"));
            match repository.is_required() {
                true => failure = Some(error.doing(format!("repository {}", repository.name()))),
                false => self.give_up(repository, error),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(copies),
        }
    }
}

/// Stores the file in one repository, which has to show its identity. One that has done so not long ago may do it
/// while the file is on its way; nothing is sent to one that has not.
fn put(repository: &Repository, lineage: Lineage, encoded: &Encoded) -> Result<Held> {
    let name = encoded.wal().name;
    let _span = info_span!("push", segment = %name, repository = repository.name()).entered();
    let (archive, put) = match repository.hints() {
        Some(hints) if hints.is_known(lineage) => std::thread::scope(|scope| {
            let identity = scope.spawn(in_span(Span::current(), || repository.open(lineage)));
            let put = repository.wal(lineage).and_then(|wal| wal.put(name, encoded));
            let panicked = |_| Err(Error::new(Kind::Failed, "looking for the identity panicked"));
            let archive = identity.join().unwrap_or_else(panicked);
            if archive.is_err() {
                hints.forget_known(lineage);
            }
            Ok::<_, Error>((archive?, put?))
        })?,
        hints => {
            let archive = repository.open(lineage)?;
            if let Some(hints) = hints {
                hints.write_known(lineage);
            }
            let put = archive.put_wal(name, encoded)?;
            (archive, put)
        }
    };
    let pushed = match put {
        Put::Stored => Pushed::Stored,
        Put::Exists => compare(&archive, encoded.wal()).map(|()| Pushed::Already)?,
    };
    Ok(Held { pushed, repository_id: archive.identity().repository_id.clone() })
}

impl Push<'_> {
    /// Goes on without an optional repository, and leaves it in peace for a while.
    fn give_up(&self, repository: &Repository, error: Error) {
        if let Some(hints) = repository.hints() {
            hints.write_down(&error.to_string());
        }
        (self.report)(&left_out(repository, error));
    }
}

pub(super) fn left_out(repository: &Repository, error: Error) -> Error {
    error
        .doing(format!("optional repository {}", repository.name()))
        .hint("what it misses is brought to it by `walkeep sync`")
}

/// Whether the archive holds the same bytes under this name, all of them read and checked: the server will
/// throw its copy away.
fn compare(archive: &Archive, wal: &WalFile) -> Result<()> {
    let doing = || format!("compare with {} in repository {}", wal.name, archive.repository().name());
    let stored = archive
        .get_wal(wal.name)?
        .ok_or_else(|| Error::new(Kind::Unavailable, "the stored file went away").doing(doing()))?;
    if same(stored, wal).doing(doing).map_err(|error| match error.kind() {
        Kind::Damage => error.hint(
            "the stored file is damaged and the server's is not: move the damaged object aside, and the server's will be archived at its next attempt",
        ),
        _ => error,
    })? {
        return Ok(());
    }
    let theirs = archive.get_wal(wal.name)?.and_then(|stored| stored.header.sha256);
    let theirs = theirs.map_or_else(|| "unknown".to_owned(), |hash| hash.to_string());
    Err(Error::new(
        Kind::Conflict,
        format!(
            "another file is archived under this name: its SHA-256 is {theirs}, the one to be archived has {}",
            wal.hash()?
        ),
    )
    .doing(doing())
    .hint("two servers archive into one place (a second primary, a restored copy, a promotion that was repeated), or the timeline was reused; nothing was replaced. Give the server that should not archive here `archive_mode = off` or a repository of its own"))
}

/// Reads a stored file to its end. Damage is an error, other content is not.
fn same(stored: StoredWal, wal: &WalFile) -> Result<bool> {
    let same = AtomicBool::new(stored.size() == wal.size());
    stored.read(|piece, offset| {
        if same.load(Ordering::Relaxed) && !wal.has(piece, offset)? {
            same.store(false, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(same.into_inner())
}
