//! Stores one WAL file in every repository.

use super::encode::{Encoded, WalFile};
use crate::codec::compress::Compression;
use crate::codec::envelope::ObjectKind;
use crate::error::{Doing, Error, Kind, Result};
use crate::event::{Event, Observer};
use crate::pg::segment::WalName;
use crate::repo::{Archive, Lineage, Put, Repository, StoredWal};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// What to push, and how.
pub struct Push<'a> {
    /// The file, reachable from the working directory.
    pub path: &'a Path,
    /// The cluster that it has to belong to.
    pub lineage: Lineage,
    pub compression: Compression,
    pub repositories: &'a [Repository],
}

/// What a repository answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Stored,
    /// The same content was there, whole and durable.
    Already,
}

impl Push<'_> {
    /// Ok when the file is durable in every required repository. All of them are tried, whatever happens
    /// to the others; the failure of an optional one is a warning.
    pub fn run(&self, observer: &dyn Observer) -> Result<Pushed> {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name: WalName = name.parse()?;
        self.store(name, observer).doing(|| format!("push {name}"))
    }

    fn store(&self, name: WalName, observer: &dyn Observer) -> Result<Pushed> {
        let wal = WalFile::open(self.path, name, self.lineage)?;
        let mut encoded = None;
        let mut failure = None;
        let mut answer = Pushed::Already;
        for repository in self.repositories {
            let stored = repository.open(self.lineage).and_then(|archive| {
                let header = || archive.header(ObjectKind::Wal, name.to_string());
                let encoded = encoded.get_or_insert_with(|| Encoded::new(&wal, header(), self.compression));
                match archive.put_wal(name, encoded)? {
                    Put::Stored => Ok(Pushed::Stored),
                    Put::Exists => compare(&archive, &wal).map(|()| Pushed::Already),
                }
            });
            match stored {
                Ok(Pushed::Stored) => answer = Pushed::Stored,
                Ok(Pushed::Already) => {}
                Err(error) if repository.is_required() => {
                    if let Some(earlier) = failure.replace(error) {
                        observer.event(Event::Warning(&earlier));
                    }
                }
                Err(error) => observer.event(Event::Warning(&error)),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }
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
