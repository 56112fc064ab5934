//! The history files of the server's own timelines: archives those that `archive_command` was never
//! called for, from `pg_wal`, as `walpush` does.
//!
//! PostgreSQL calls for a history only on the server that begins the timeline. A server that was on
//! a later timeline when archiving was turned on, and a standby that got the file by streaming,
//! never archive it.

use super::setup::Context;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::Rights;
use crate::fs::named;
use crate::fs::temporary::TemporaryFolder;
use crate::pg::history::{History, MAX_FILE_SIZE};
use crate::pg::segment::{TimelineId, WalName};
use crate::progress;
use crate::repo::{Archive, Lineage, Repository};
use crate::wal::push::{Push, Pushed};
use std::io::Write;
use std::path::Path;

/// Result for one repository.
#[derive(Default)]
pub struct OwnHistories {
    /// Histories that were archived now.
    pub archived: Vec<WalName>,
    /// Histories that neither `pg_wal` nor the repository has.
    pub missing: Vec<WalName>,
}

/// Archives the histories of a timeline and of its ancestors into one repository.
///
/// # Errors
///
/// `Conflict` when another file is archived under the name of one of them.
pub fn archive(
    context: &Context,
    lineage: Lineage,
    timeline: TimelineId,
    repository: &Repository,
) -> Result<OwnHistories> {
    let mut own = OwnHistories::default();
    if timeline.0 <= 1 {
        return Ok(own);
    }
    let archive = repository.open(lineage)?;
    let folder = context.cluster.pgdata.join("pg_wal");
    push(context, &archive, &folder, timeline, &mut own)?;
    let own_file = folder.join(WalName::History(timeline).to_string());
    let history = match named::read(&own_file, MAX_FILE_SIZE) {
        Ok(Some(text)) => Some(History::parse(timeline, &text)?),
        _ => archive.history(timeline)?,
    };
    for (ancestor, _) in history.iter().flat_map(|history| &history.parents) {
        if ancestor.0 > 1 {
            push(context, &archive, &folder, *ancestor, &mut own)?;
        }
    }
    Ok(own)
}

/// Archives one history from the folder, or notes that it is missing.
fn push(
    context: &Context,
    archive: &Archive,
    folder: &Path,
    timeline: TimelineId,
    own: &mut OwnHistories,
) -> Result<()> {
    let name = WalName::History(timeline);
    let path = folder.join(name.to_string());
    if named::stat(&path)?.is_none() {
        if !archive.has_wal(name)? {
            own.missing.push(name);
        }
        return Ok(());
    }
    if store(context, archive, &path)? == Pushed::Stored {
        own.archived.push(name);
    }
    Ok(())
}

fn store(context: &Context, archive: &Archive, path: &Path) -> Result<Pushed> {
    Push {
        path,
        lineage: archive.lineage(),
        compression: context.config.wal.compression,
        repositories: std::slice::from_ref(archive.repository()),
        report: progress::warn,
    }
    .run()
}

/// Makes the history of a timeline again, from the archived history of a later one, and stores it in
/// every repository that lacks it. Returns the names of these repositories.
///
/// # Errors
///
/// `Refused` when no repository has a history that names the timeline and an ancestor of it.
pub fn rebuild(context: &Context, timeline: TimelineId, archives: &[Archive]) -> Result<Vec<String>> {
    let name = WalName::History(timeline);
    let mut lacking = Vec::new();
    let mut content = None;
    for archive in archives {
        if !archive.has_wal(name)? {
            lacking.push(archive);
        }
        for later in archive.histories()?.into_iter().filter(|later| *later > timeline) {
            if content.is_none() {
                content = archive.history_text(later)?.and_then(|text| History::file_of(timeline, &text));
            }
        }
    }
    if lacking.is_empty() {
        return Ok(Vec::new());
    }
    let content = content.ok_or_else(|| {
        Error::new(
            Kind::Refused,
            format!("no archived history names timeline {timeline} and its parent"),
        )
        .doing(format!("make {name} again"))
        .hint(format!(
            "look for the file in pg_wal of every server of the cluster; if none has it: `walkeep timelines --retire {timeline}`, and take a backup"
        ))
    })?;
    let place = TemporaryFolder::create(&std::env::temp_dir(), "walkeep-history")?;
    let path = place.path().join(name.to_string());
    let mut file = place.folder().create(name.to_string(), &Rights::new(None, 0o600, 0o700))?;
    file.write_all(content.as_ref()).doing(|| format!("write {}", path.display()))?;
    let store =
        |archive: &&Archive| store(context, archive, &path).map(|_| archive.repository().name().to_owned());
    lacking.iter().map(store).collect()
}
