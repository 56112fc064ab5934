//! Second phase of a backup: starts it on the server, and reads the WAL summaries. From here on the
//! files may be read.

use super::prepare::{PreparedBackup, uses_summaries};
use super::source::{StartPoint, check_checkpoint};
use super::summaries::Summaries;
use crate::error::Result;
use crate::progress;
use tracing::info_span;

/// A backup that the server has started.
pub(super) struct StartedBackup<'a> {
    pub prepared: PreparedBackup<'a>,
    pub point: StartPoint,
    /// Changes since the parent's start; `None` when they are not known.
    pub summaries: Option<Summaries>,
}

/// Starts the backup, and reads the WAL summaries since the start of the parent.
pub(super) fn start(mut prepared: PreparedBackup<'_>) -> Result<StartedBackup<'_>> {
    let (options, server) = (prepared.options, prepared.server);
    progress::step("waiting for the checkpoint");
    if !options.fast {
        tracing::info!(
            "waiting for the checkpoint, which is spread: this takes minutes, `--checkpoint fast` does not",
        );
    }
    let point = info_span!("checkpoint").in_scope(|| server.start("walkeep", options.fast))?;
    check_checkpoint(&options.pgdata, point.lsn)?;
    let summaries = match prepared.earlier.parent.as_ref().filter(|_| uses_summaries(options, server)) {
        Some(parent) => {
            progress::step("reading which blocks changed from the WAL summaries");
            server.summaries(parent, server.found.timeline, point.lsn)?
        }
        None => None,
    };
    if summaries.is_some() {
        prepared.earlier.forget_unfinished();
    }
    Ok(StartedBackup { prepared, point, summaries })
}
