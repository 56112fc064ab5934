//! What fails now and when that was said, a small file for each verb. It may be lost: then a failure is told once more,
//! and its end not at all.

use super::notice::Event;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::durable;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// No file of ours comes near.
const LARGEST: u64 = 4096;
/// Of a name, besides the cluster's: file systems end at 255, and a temporary file has a longer one.
const LONGEST: usize = 150;

/// A failure that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub since: Timestamp,
    /// When somebody was told, if that worked.
    pub told: Option<Timestamp>,
}

/// What is to be told, and what is to be remembered when that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub event: Option<Event>,
    pub since: Option<Timestamp>,
    is_ok: bool,
}

impl Due {
    /// What follows from how it ended: a failure is told again after `repeat`, its end once.
    pub fn after(before: Option<Failing>, is_ok: bool, now: Timestamp, repeat: SignedDuration) -> Due {
        let since = before.map(|failing| failing.since);
        if is_ok {
            // An end of something that nobody heard of is no news.
            let was_told = before.is_some_and(|failing| failing.told.is_some());
            return Due { event: was_told.then_some(Event::Recovery), since, is_ok };
        }
        // A clock that was set back does not make anybody wait.
        let told = before.and_then(|failing| failing.told).filter(|told| *told <= now);
        let is_due = told.is_none_or(|told| now.duration_since(told) >= repeat);
        Due { event: is_due.then_some(Event::Failure), since: Some(since.unwrap_or(now)), is_ok }
    }

    /// What is to be remembered; `is_told` says whether the news arrived. An end that did not arrive is tried again.
    pub fn remembered(self, before: Option<Failing>, is_told: bool, now: Timestamp) -> Option<Failing> {
        let told = before.and_then(|failing| failing.told);
        if self.is_ok {
            return if self.event.is_some() && !is_told { before } else { None };
        }
        let told = if is_told { Some(now) } else { told };
        Some(Failing { since: self.since.unwrap_or(now), told })
    }
}

/// The file of one verb.
pub struct Memory {
    folder: PathBuf,
    file: PathBuf,
}

impl Memory {
    /// In a folder of the spool. `about` tells what may fail from what else may; of it comes the name of a file.
    pub fn new(spool: &Path, cluster: &str, about: &str) -> Memory {
        let folder = spool.join("notify");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let about = about.chars().take(LONGEST).map(|c| if plain(c) { c } else { '_' });
        let file = folder.join(format!("{cluster}.{}", about.collect::<String>()));
        Memory { folder, file }
    }

    /// What failed when it ended last. A file that cannot be understood is none.
    pub fn read(&self) -> Result<Option<Failing>> {
        use std::io::Read;
        let doing = || format!("read {}", self.file.display());
        let file = match std::fs::File::open(&self.file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.doing(doing)?,
        };
        let mut text = Vec::new();
        file.take(LARGEST).read_to_end(&mut text).doing(doing)?;
        Ok(serde_json::from_slice(&text).ok())
    }

    pub fn write(&self, failing: Option<Failing>) -> Result<()> {
        let Some(failing) = failing else {
            return durable::remove_file(&self.file);
        };
        let text =
            serde_json::to_vec(&failing).map_err(|e| Error::new(Kind::Failed, format!("write JSON: {e}")))?;
        durable::create_dir(&self.folder, DIR_MODE)?;
        durable::write_replacing(&self.file, &text, FILE_MODE)
    }
}
