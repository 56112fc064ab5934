//! A base backup from beginning to end, in four phases. Each returns a value that owns the input of
//! the next one:
//!
//! ```text
//! prepare ─▶ PreparedBackup ─start─▶ StartedBackup ─copy─▶ CopiedBackup ─finish─▶ Taken
//! ```
//!
//! So no file is copied before the backup is announced and started, and the record is written last,
//! after packs, manifest and every segment of the WAL. A backup that fails in any phase is not
//! listed.

use super::copy::copy;
use super::finish::finish;
use super::options::{Options, Taken};
use super::prepare::prepare;
use super::source::BackupServer;
use super::start::start;
use crate::error::{Doing, Result};
use crate::repo::Repository;
use tracing::{field::Empty, info_span};

/// Takes a backup of the server into one repository.
pub fn run(options: &Options, server: &BackupServer, repository: &Repository) -> Result<Taken> {
    let _span = info_span!("backup", id = Empty, repository = repository.name()).entered();
    prepare(options, server, repository)
        .and_then(start)
        .and_then(copy)
        .and_then(finish)
        .doing(|| format!("back up into repository {}", repository.name()))
}
