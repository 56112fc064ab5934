//! Reads the newest backup of a repository in part: its record, its manifest, and its first blocks.
//! `verify` reads all.

use super::CheckResult;
use crate::cli::render;
use crate::error::{Error, Result};
use crate::repo::branches::{Branches, ServerTimeline};
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::manifest::{self, Parts};
use crate::repo::record::Record;
use crate::repo::survey::{Survey, Want};
use crate::repo::{Archive, Records};

/// Maximum size of a file to read, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Maximum number of files to read.
const MAX_FILES: usize = 5;

/// Reads the newest backup that leads to the living timeline; `server` is the timeline of the
/// cluster's server.
pub fn look(archive: &Archive, server: &ServerTimeline, now: jiff::Timestamp) -> Vec<CheckResult> {
    let survey = match Survey::read(archive, Want::default()) {
        Ok(survey) => survey,
        Err(error) => return vec![error.into()],
    };
    let branches = survey.branches(server, now);
    let Records { good, damaged, .. } = survey.records;
    let unreadable = |(id, error): (String, Error)| {
        let error = error.doing(format!("read the record of backup {id}"));
        CheckResult::from(
            error.hint("run `walkeep verify`, and copy it from another repository: `walkeep sync`"),
        )
    };
    let mut findings: Vec<CheckResult> = damaged.into_iter().map(unreadable).collect();
    findings.extend(timelines(&branches));
    let complete: Vec<Record> = good.into_iter().filter(Record::is_complete).collect();
    match branches.newest(&complete) {
        Some(record) => findings.push(try_out(archive, record).into()),
        None if findings.is_empty() => findings.push(CheckResult::warning(
            "there is no backup, so the WAL cannot be used",
            "take one: `walkeep backup`",
        )),
        None => {}
    }
    findings
}

/// Names a living timeline that is not known or is retired, and branches that are dead.
fn timelines(branches: &Branches) -> Vec<CheckResult> {
    let mut findings = Vec::new();
    if let Some(unclear) = branches.unclear() {
        findings.push(CheckResult::warning(
            unclear,
            "`walkeep timelines` shows them: retire the one that no server continues with `walkeep timelines --retire NUMBER`",
        ));
    }
    if let Some(alive) = branches.alive().and_then(|alive| branches.get(alive)).filter(|it| it.is_retired) {
        let timeline = alive.timeline();
        findings.push(CheckResult::warning(
            format!("timeline {timeline} is retired, and it is alive"),
            format!("`walkeep timelines --unretire {timeline}`"),
        ));
    }
    findings.extend(branches.dead().map(|dead| {
        let hint =
            format!("`walkeep timelines --retire {}` keeps servers from following it", dead.timeline());
        CheckResult::advice(branches.describe_dead(dead), hint)
    }));
    findings
}

fn try_out(archive: &Archive, record: &Record) -> Result<CheckResult> {
    let read = || {
        // Reads the manifest to its last line, which proves that it is complete.
        manifest::uses(archive, record)?;
        let mut bytes = 0;
        for part in Parts::of(archive, record) {
            let part = part?;
            for file in part.entries.iter().filter_map(small).take(MAX_FILES) {
                bytes += archive.read_file(&part.packs, file)?.len();
            }
            if bytes > 0 {
                break;
            }
        }
        Ok(bytes)
    };
    let bytes = read().map_err(|error: Error| {
        error.doing(format!("read backup {}", record.id)).hint("run `walkeep verify`: it finds all damage")
    })?;
    Ok(CheckResult::ok(format!(
        "{} of {} can be read: record, manifest, and {bytes} bytes of its first files",
        record.id,
        render::time(record.stop_time)
    )))
}

/// Returns the file of an entry if it is small and not empty.
fn small(entry: &Entry) -> Option<&FileEntry> {
    match entry {
        Entry::File(file) if file.size <= MAX_FILE_SIZE && !file.at.is_empty() => Some(file),
        _ => None,
    }
}
