//! `walkeep check --wal`: compares the files of `pg_wal` with the archive, and moves aside the
//! archived files that are not the server's: another server has archived them under its names.

use super::fetch;
use crate::backup::BackupServer;
use crate::cli::args::CheckArgs;
use crate::cli::exit::Exit;
use crate::cli::render::Report;
use crate::cli::setup::{self, Context};
use crate::error::{Doing, Kind, Result};
use crate::fs::named;
use crate::pg::lsn::Lsn;
use crate::pg::segment::{SegmentName, WalName};
use crate::progress;
use crate::repo::{Archive, Lineage};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// An archived file that is not the server's.
struct Foreign {
    repository: String,
    name: WalName,
    /// Difference from the server.
    why: String,
    /// Key to which it was moved.
    moved: Option<String>,
}

/// Result of the comparison.
#[derive(Default)]
struct Comparison {
    /// Number of files of `pg_wal` that were compared, in all repositories.
    compared: u64,
    foreign: Vec<Foreign>,
    /// Files that the server counts as archived, and the repositories that lack them.
    lost: Vec<(String, WalName)>,
}

pub fn run(context: &Context, args: &CheckArgs) -> Result<Exit> {
    let pgdata = &context.cluster.pgdata;
    let lineage = Lineage::of(pgdata)?;
    let mut comparison = Comparison::default();
    for repository in &context.repositories {
        let archive = repository.open(lineage)?;
        compare(context, &archive, &mut comparison)
            .doing(|| format!("compare pg_wal with repository {}", repository.name()))?;
        if args.move_aside {
            let here = |foreign: &&mut Foreign| foreign.repository == repository.name();
            for foreign in comparison.foreign.iter_mut().filter(here) {
                foreign.moved = Some(archive.move_aside(foreign.name)?);
            }
        }
    }
    context.console.finish();
    context.print(&comparison)?;
    let is_settled = comparison.foreign.iter().all(|foreign| foreign.moved.is_some());
    Ok(if is_settled && comparison.lost.is_empty() { Exit::Done } else { Exit::Problem })
}

/// Compares the finished files of `pg_wal`, and the archived segments that the server has not
/// written yet.
fn compare(context: &Context, archive: &Archive, comparison: &mut Comparison) -> Result<()> {
    let pgdata = &context.cluster.pgdata;
    let repository = archive.repository().name();
    let mut archived = BTreeSet::new();
    archive.each_wal(|name, _| {
        archived.insert(name);
        Ok(())
    })?;
    // Read after the listing: what was archived then is finished now.
    let end = match written(context) {
        Ok(end) => end,
        Err(error) => {
            progress::warn(&error.hint(
                "segments that the server has not written yet are not looked at; start it to compare all",
            ));
            None
        }
    };
    for (name, is_ready) in finished(pgdata)? {
        let path = pgdata.join("pg_wal").join(name.to_string());
        // The server removes a file that it counts as archived at any time.
        let own = match fetch::hash(&path) {
            Ok(own) => own,
            Err(error) if error.kind() == Kind::Absent => continue,
            Err(error) => return Err(error),
        };
        comparison.compared += 1;
        match archive.wal_hash(name)? {
            Some(theirs) if theirs != own => comparison.foreign.push(Foreign {
                repository: repository.to_owned(),
                name,
                why: format!("its SHA-256 is {theirs}, that of the server's file {own}"),
                moved: None,
            }),
            None if !is_ready && archive.repository().is_required() && is_kept(&archived, name) => {
                comparison.lost.push((repository.to_owned(), name));
            }
            Some(_) | None => {}
        }
    }
    let Some(end) = end else {
        return Ok(());
    };
    let is_ahead = |name: &&WalName| match name {
        WalName::Segment(name) => name.timeline == end.timeline && *name >= end,
        WalName::Partial(_) | WalName::Backup(..) | WalName::History(_) => false,
    };
    comparison.foreign.extend(archived.iter().filter(is_ahead).map(|name| Foreign {
        repository: repository.to_owned(),
        name: *name,
        why: format!("the server has not finished this segment: it writes {end}"),
        moved: None,
    }));
    Ok(())
}

/// Whether the archive would still have a file: `prune` removes segments before the first one that a
/// backup needs, which `pg_wal` may still have, and backup history files with them.
fn is_kept(archived: &BTreeSet<WalName>, name: WalName) -> bool {
    match name {
        WalName::History(_) => true,
        WalName::Segment(segment) => archived.iter().any(|other| match other {
            WalName::Segment(other) => other.timeline == segment.timeline && *other < segment,
            WalName::Partial(_) | WalName::Backup(..) | WalName::History(_) => false,
        }),
        WalName::Partial(_) | WalName::Backup(..) => false,
    }
}

/// Returns the segment that the server writes; `None` for a standby, which writes none.
fn written(context: &Context) -> Result<Option<SegmentName>> {
    let server = BackupServer::connect(&setup::connection(context)?, None)?;
    server.check_runs_on(&context.cluster.pgdata)?;
    if server.found.in_recovery {
        return Ok(None);
    }
    let lsn: Lsn = server.write_position()?;
    Ok(Some(SegmentName::containing(server.found.timeline, lsn, server.found.segment_size)))
}

/// Returns the files of `pg_wal` that the server has finished, each with true while it waits to be
/// archived. A finished file has a status file; a recycled segment has none.
fn finished(pgdata: &Path) -> Result<Vec<(WalName, bool)>> {
    let folder = pgdata.join("pg_wal/archive_status");
    let mut found = Vec::new();
    for (file, _) in named::list(&folder)?.ok_or_else(|| named::missing(&folder))? {
        let Some((name, status)) = file.to_str().and_then(|file| file.rsplit_once('.')) else {
            continue;
        };
        if let (Ok(name), "ready" | "done") = (name.parse(), status) {
            found.push((name, status == "ready"));
        }
    }
    found.sort_unstable();
    Ok(found)
}

impl Report for Comparison {
    fn text(&self) -> String {
        let mut text = format!("{} files of pg_wal compared with the archive\n", self.compared);
        for Foreign { repository, name, why, moved } in &self.foreign {
            let _ = writeln!(text, "FOREIGN {name} in {repository}: {why}");
            if let Some(moved) = moved {
                let _ = writeln!(text, "        moved to {moved}");
            }
        }
        for (repository, name) in &self.lost {
            let _ = writeln!(text, "MISSING {name} in {repository}: the server counts it as archived");
        }
        if self.foreign.iter().any(|foreign| foreign.moved.is_none()) {
            text.push_str(
                "hint: another server has archived these files. If this server is the right one, stop the other from archiving, and type `walkeep check --wal --move-aside` here: they are moved, and kept; the server archives its own at its next attempt\n",
            );
        } else if !self.foreign.is_empty() {
            text.push_str(
                "hint: the server archives its own files at its next attempt. Then take a backup, and look at the archive: `walkeep backup`, `walkeep verify`\n",
            );
        }
        if let Some((_, name)) = self.lost.first() {
            let _ = writeln!(
                text,
                "hint: type `walpush pg_wal/{name}` in the data directory for each of the missing files"
            );
        }
        if self.foreign.is_empty() && self.lost.is_empty() {
            text.push_str("good: the archive has the server's own files\n");
        }
        text
    }

    fn json(&self) -> impl Serialize {
        let foreign = self.foreign.iter().map(|foreign| {
            json!({
                "repository": foreign.repository,
                "name": foreign.name.to_string(),
                "detail": foreign.why,
                "moved": foreign.moved,
            })
        });
        let lost = self
            .lost
            .iter()
            .map(|(repository, name)| json!({"repository": repository, "name": name.to_string()}));
        json!({
            "ok": self.lost.is_empty() && self.foreign.iter().all(|foreign| foreign.moved.is_some()),
            "compared": self.compared,
            "foreign": foreign.collect::<Vec<_>>(),
            "missing": lost.collect::<Vec<_>>(),
        })
    }
}
