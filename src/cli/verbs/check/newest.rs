//! Reads the newest backup of a repository in part: its record, its manifest, and its first blocks.
//! `verify` reads all.

use super::CheckResult;
use crate::cli::render;
use crate::error::{Error, Result};
use crate::repo::branches::is_in_the_future;
use crate::repo::entry::{Entry, FileEntry};
use crate::repo::manifest::{self, Parts};
use crate::repo::record::Record;
use crate::repo::{Archive, Records};

/// Maximum size of a file to read, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Maximum number of files to read.
const MAX_FILES: usize = 5;

pub fn look(archive: &Archive, now: jiff::Timestamp) -> Vec<CheckResult> {
    let Records { good, damaged, .. } = match archive.records() {
        Ok(records) => records,
        Err(error) => return vec![error.into()],
    };
    let unreadable = |(id, error): (String, Error)| {
        let error = error.doing(format!("read the record of backup {id}"));
        CheckResult::from(
            error.hint("run `walkeep verify`, and copy it from another repository: `walkeep sync`"),
        )
    };
    let mut findings: Vec<CheckResult> = damaged.into_iter().map(unreadable).collect();
    let is_past = |record: &Record| !is_in_the_future(record.stop_time, now);
    let complete = good.iter().filter(|record| record.is_complete());
    let newest = complete.max_by_key(|record| (is_past(record), record.stop_time));
    match newest {
        Some(record) => findings.push(try_out(archive, record).into()),
        None if findings.is_empty() => findings.push(CheckResult::warning(
            "there is no backup, so the WAL cannot be used",
            "take one: `walkeep backup`",
        )),
        None => {}
    }
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
