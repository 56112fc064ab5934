//! Stores one WAL file in every repository. Does not know the other files that wait to be archived.

use super::encode::{LazyObject, WalFile};
use super::racing::{Race, beside_identity};
use super::stamp::Stamp;
use crate::codec::compress::Compression;
use crate::codec::envelope::ObjectKind;
use crate::error::{Doing, Error, Failures, Kind, Result};
use crate::pg::segment::{SegmentSize, WalName};
use crate::repo::replay::check_size;
use crate::repo::{Archive, Lineage, Put, RemoteHints, Repository, StoredWal, header};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::info_span;

/// Time limit of the optional repositories, from the end of the last required one.
const OPTIONAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A WAL file and the repositories for it.
pub struct Push<'a> {
    /// Path of the file, relative to the working directory.
    pub path: &'a Path,
    /// Cluster to which the file has to belong.
    pub lineage: Lineage,
    pub compression: Compression,
    pub repositories: &'a [Repository],
    /// Reports a failure that does not end the push.
    pub report: fn(&Error),
}

/// Outcome of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Stored,
    /// All repositories had the same content already, complete and durable.
    Already,
}

/// A file that is archived.
pub(super) struct StoredWalFile {
    pub stamp: Stamp,
    /// The copy in each repository, in the order of the repositories; `None` for an optional
    /// repository that failed.
    pub copies: Vec<Option<StoredCopy>>,
}

/// The copy in one repository.
pub(super) struct StoredCopy {
    pub pushed: Pushed,
    pub repository_id: String,
}

impl Push<'_> {
    /// Stores the file durably in every repository, in all repositories at the same time; a failure
    /// of one repository does not stop the others. The file is read and compressed once, or once
    /// for each repository if it is larger than 64 MiB.
    ///
    /// # Errors
    ///
    /// Those of [`WalFile::open`]; the last failure of a required repository, where earlier
    /// failures and those of optional repositories are reported. `Conflict` when another file is
    /// archived under the same name.
    pub fn run(&self) -> Result<Pushed> {
        let stored = self.store(self.open()?)?;
        let is_new = stored.copies.iter().flatten().any(|copy| copy.pushed == Pushed::Stored);
        Ok(if is_new { Pushed::Stored } else { Pushed::Already })
    }

    pub(super) fn name(&self) -> Result<WalName> {
        let name = self.path.file_name().and_then(|name| name.to_str());
        let no_name = || Error::new(Kind::Usage, format!("{} does not name a WAL file", self.path.display()));
        name.ok_or_else(no_name)?.parse()
    }

    /// Opens and checks the file. The object is encoded later, when the first store opens it.
    pub(super) fn open(&self) -> Result<LazyObject> {
        let name = self.name()?;
        let wal = WalFile::open(self.path, name, self.lineage).doing(|| format!("push {name}"))?;
        let header = header(self.lineage, ObjectKind::Wal, name.to_string());
        Ok(LazyObject::new(wal, header, self.compression))
    }

    pub(super) fn store(&self, object: LazyObject) -> Result<StoredWalFile> {
        let (name, stamp) = (object.wal().name, object.wal().stamp());
        let copies = match self.repositories {
            [only] => put(only, self.lineage, &object).map(|copy| vec![Some(copy)]),
            _ => self.store_in_all(object),
        };
        Ok(StoredWalFile { stamp, copies: copies.doing(|| format!("push {name}"))? })
    }

    fn store_in_all(&self, object: LazyObject) -> Result<Vec<Option<StoredCopy>>> {
        let object = Arc::new(object);
        let mut race = Race::new();
        for (number, repository) in self.repositories.iter().enumerate() {
            if !repository.is_required() && repository.hints().is_some_and(RemoteHints::is_down) {
                let message = "it failed a moment ago and was not tried";
                (self.report)(&skipped(repository, Error::new(Kind::Unavailable, message)));
                continue;
            }
            let (copy, object, lineage) = (repository.clone(), Arc::clone(&object), self.lineage);
            race.start(number, repository, move || put(&copy, lineage, &object));
        }
        self.collect(race)
    }

    /// Waits for all required repositories, then up to [`OPTIONAL_TIMEOUT`] for the optional ones.
    fn collect(&self, mut race: Race<'_, StoredCopy>) -> Result<Vec<Option<StoredCopy>>> {
        let mut failures = Failures::new(self.report);
        let mut copies = BTreeMap::new();
        let mut end = None;
        loop {
            let patience = if race.running().any(Repository::is_required) {
                Duration::MAX
            } else {
                let end = end.get_or_insert_with(|| Instant::now() + OPTIONAL_TIMEOUT);
                end.saturating_duration_since(Instant::now())
            };
            match race.next(patience) {
                Some((number, _, Ok(copy))) => drop(copies.insert(number, copy)),
                Some((_, repository, Err(error))) if repository.is_required() => failures.push(error),
                Some((_, repository, Err(error))) => self.skip(repository, error),
                None => break,
            }
        }
        for repository in race.running() {
            let message = format!("not done {OPTIONAL_TIMEOUT:?} after the required repositories");
            self.skip(repository, Error::new(Kind::Timeout, message));
        }
        failures.finish()?;
        Ok((0..self.repositories.len()).map(|number| copies.remove(&number)).collect())
    }

    /// Reports the failure of an optional repository, and records it, so that the next calls skip
    /// the repository.
    fn skip(&self, repository: &Repository, error: Error) {
        if let Some(hints) = repository.hints() {
            hints.write_down(&error.to_string());
        }
        (self.report)(&skipped(repository, error));
    }
}

/// Stores the file in one repository. The identity of the repository is checked first, or at the
/// same time if an earlier call has checked it recently. The file is read and compressed when the
/// store opens `object`, within its `put`.
fn put(repository: &Repository, lineage: Lineage, object: &LazyObject) -> Result<StoredCopy> {
    let name = object.wal().name;
    let _span = info_span!("push", segment = %name, repository = repository.name()).entered();
    let (archive, put) = match repository.hints() {
        Some(hints) if hints.is_known(lineage) => {
            let store = || repository.wal(lineage).and_then(|wal| wal.put(name, object));
            let (archive, put) = beside_identity(|| repository.open(lineage), store);
            if archive.is_err() {
                hints.forget_known(lineage);
            }
            (archive?, put?)
        }
        hints => {
            let archive = repository.open(lineage)?;
            if let Some(hints) = hints {
                hints.write_known(lineage);
            }
            let put = archive.put_wal(name, object)?;
            (archive, put)
        }
    };
    let pushed = match put {
        Put::Stored => Pushed::Stored,
        Put::Exists => compare(&archive, object.wal()).map(|()| Pushed::Already)?,
    };
    Ok(StoredCopy { pushed, repository_id: archive.identity().repository_id.clone() })
}

/// Formats the warning about an optional repository that does not receive a file.
pub(super) fn skipped(repository: &Repository, error: Error) -> Error {
    error
        .doing(format!("optional repository {}", repository.name()))
        .hint("`walkeep sync` copies the missing files there from another repository")
}

/// Fails unless the archive has the same bytes under this name. The stored file is read and checked
/// completely, since the server will remove its copy.
fn compare(archive: &Archive, wal: &WalFile) -> Result<()> {
    let doing = || format!("compare with {} in repository {}", wal.name, archive.repository().name());
    let stored = archive.get_wal(wal.name)?.ok_or_else(|| {
        Error::new(Kind::Unavailable, "the stored file was removed meanwhile").doing(doing())
    })?;
    if same(stored, wal).doing(doing).map_err(|error| match error.kind() {
        Kind::Damage => error.hint(
            "the stored file is damaged and the server's is not: move the damaged object away, and the server's is archived at the next attempt",
        ),
        _ => error,
    })? {
        return Ok(());
    }
    let theirs = archive.get_wal(wal.name)?;
    let size = theirs.as_ref().map(StoredWal::size);
    if let (WalName::Segment(_), Some(size), Ok(own)) = (wal.name, size, SegmentSize::try_from(wal.size())) {
        check_size(size, own).map_err(|error| error.with_kind(Kind::Conflict).doing(doing()))?;
    }
    let theirs = theirs.and_then(|stored| stored.header.sha256);
    let theirs = theirs.map_or_else(|| "unknown".to_owned(), |hash| hash.to_string());
    Err(Error::new(
        Kind::Conflict,
        format!(
            "another file is archived under this name: its SHA-256 is {theirs}, that of the new file is {}",
            wal.hash()?
        ),
    )
    .doing(doing())
    .hint(conflict_hint(wal.name)))
}

/// Returns what to do about another file under the name of the server's.
fn conflict_hint(name: WalName) -> &'static str {
    match name {
        WalName::Partial(_) => {
            "this is the unfinished last segment of a timeline that a promotion ended, and another server that left the timeline has archived its own; no recovery reads either. If this server is the one to go on, type `walkeep check --wal --move-aside` on it: the archived file is moved and kept, and this one is archived at the next attempt"
        }
        _ => {
            "two servers archive into the same place (a second primary, a restored copy, a repeated promotion), or the timeline was reused; nothing was replaced. Set `archive_mode = off` on the server that should not archive here, or give it a repository of its own. On the server that should, `walkeep check --wal` lists what the other one has archived in its place, and `--move-aside` makes room"
        }
    }
}

/// Whether a stored file has the same content as `wal`. The stored file is always read to its end;
/// damage is an error.
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
