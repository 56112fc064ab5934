//! Whether WAL in the repository is the server's own: the files of `pg_wal` while they are there, and
//! the records that a backup has written itself.

use crate::codec::hash::{ContentHash, Hasher};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use crate::pg::label::Label;
use crate::pg::lsn::Lsn;
use crate::pg::record::{FoundRecord, Meaning};
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::repo::Archive;
use crate::repo::record::WalRange;
use crate::repo::replay::{ReplayStep, Walk, check_size};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a file that are read at a time.
const READ_SIZE: usize = 1 << 20;

const HINT: &str = "another server archives under the names of this one (a copy of it, a second primary), and this one's WAL is refused: see archive_command in the server's log. `walkeep check --wal` lists the files that differ, and `--move-aside` makes room for this server's";

/// Compares a file of `pg_wal` with the archived file of this name. `None` when one of them does not
/// exist.
///
/// # Errors
///
/// `Conflict` when they differ.
pub(super) fn compare(pgdata: &Path, archive: &Archive, name: WalName) -> Result<Option<()>> {
    let path = pgdata.join("pg_wal").join(name.to_string());
    let Some(mut file) = named::open(&path)? else {
        return Ok(None);
    };
    let Some(stored) = archive.get_wal(name)? else {
        return Ok(None);
    };
    if let WalName::Segment(_) = name
        && let Ok(own) = SegmentSize::try_from(file.metadata().doing("look at its size")?.len())
    {
        check_size(stored.size(), own)
            .map_err(|error| error.with_kind(Kind::Conflict))
            .doing(|| format!("compare {name} with repository {}", archive.repository().name()))?;
    }
    let own = hash_of(&mut file).doing(|| format!("read {}", path.display()))?;
    match stored.header.sha256 {
        Some(hash) if hash == own => Ok(Some(())),
        hash => {
            let stored = hash.map_or_else(|| "unknown".to_owned(), |hash| hash.to_string());
            Err(Error::new(
                Kind::Conflict,
                format!(
                    "{name} in repository {} is not this server's: its SHA-256 is {stored}, that of {} is {own}",
                    archive.repository().name(),
                    path.display()
                ),
            )
            .hint(HINT))
        }
    }
}

fn hash_of(file: &mut File) -> std::io::Result<ContentHash> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            got => hasher.update(buffer.get(..got).unwrap_or(&buffer)),
        }
    }
}

/// The records by which WAL is known as that of a backup.
pub(super) struct BackupRecords {
    start: Lsn,
    checkpoint: Lsn,
    stop: Lsn,
    from_standby: bool,
    has_checkpoint: bool,
    has_end: bool,
}

impl BackupRecords {
    /// Returns the records to look for. A backup begins with a checkpoint, whose redo is its start
    /// (`read_backup_label` in `xlogrecovery.c`), and ends with a record of its own, which names its
    /// start (`do_pg_backup_stop` in `xlog.c`). That of a standby writes no record: it ends behind
    /// a record that the standby has replayed, its minimum recovery point.
    pub fn new(label: &Label, stop: Lsn) -> BackupRecords {
        BackupRecords {
            start: label.start,
            checkpoint: label.checkpoint,
            stop,
            from_standby: label.from_standby,
            has_checkpoint: false,
            has_end: false,
        }
    }

    fn note(&mut self, found: &FoundRecord) {
        match found.meaning {
            Meaning::Checkpoint { redo, .. } if found.begin == self.checkpoint => {
                self.has_checkpoint = redo == self.start;
            }
            Meaning::BackupEnd { start } if start == self.start && found.end == self.stop => {
                self.has_end = true;
            }
            _ => {}
        }
        self.has_end |= self.from_standby && (found.end == self.stop || found.next == self.stop);
    }

    /// Reads the WAL of the backup to its end, and checks that it is the server's.
    ///
    /// # Errors
    ///
    /// `Hole` when the segments do not continue each other, `Conflict` when one of the records is
    /// missing, and those of [`Walk::over`].
    pub fn check(mut self, archive: &Archive, wal: WalRange, size: SegmentSize) -> Result<()> {
        let numbers = wal.first.number(size)..=wal.last.number(size);
        let names = numbers.map(|number| Ok(SegmentName::of_number(wal.first.timeline, number, size)));
        let walk = Walk { archive, segment_size: size, is_cancelled: &|| false, progress: &|_| {} };
        let facts = walk.over(names, |found| {
            self.note(found);
            ReplayStep::Replay
        })?;
        let _ = facts.without_seam().map_err(|error| error.with_kind(Kind::Conflict).hint(HINT))?;
        let missing = if !self.has_checkpoint {
            format!("the checkpoint of the backup, at {}, is", self.checkpoint)
        } else if !self.has_end {
            format!("the end of the backup, at {}, is", self.stop)
        } else {
            return Ok(());
        };
        Err(Error::new(
            Kind::Conflict,
            format!(
                "{missing} not in the archived WAL: {} to {} in repository {} are another server's",
                wal.first,
                wal.last,
                archive.repository().name()
            ),
        )
        .hint(HINT))
    }
}
