//! Memory of failures: a small file for each verb, with the failure that lasts and the time of its
//! last notice, for each data directory of a cluster of this name. The file may be lost: then a failure is reported once more, and its end not at all.

use super::notice::NoticeEvent;
use crate::error::{Error, Kind, Result};
use crate::fs::folder::Folder;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Folder of the spool.
const FOLDER: &str = "notify";
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Maximum size of a file in bytes; walkeep writes far fewer.
const MAX_FILE_SIZE: u64 = 1 << 16;
/// Maximum number of characters of a file name after the name of the cluster. File systems allow
/// 255, and temporary files have longer names.
const MAX_SUFFIX_LENGTH: usize = 150;

/// A failure that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub since: Timestamp,
    /// Time of the last notice that was delivered.
    #[serde(rename = "told")]
    pub reported: Option<Timestamp>,
}

/// The notice to send after a verb has ended, and what to remember afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub event: Option<NoticeEvent>,
    /// Start of the failure, which lasts or has just ended.
    pub since: Option<Timestamp>,
    is_ok: bool,
}

impl Due {
    /// Decides what is due: a failure is reported again after `repeat`, its end once.
    #[must_use]
    pub fn after(before: Option<Failing>, is_ok: bool, now: Timestamp, repeat: SignedDuration) -> Due {
        let since = before.map(|failing| failing.since);
        if is_ok {
            // The end of a failure that was never reported is not reported either.
            let was_reported = before.is_some_and(|failing| failing.reported.is_some());
            return Due { event: was_reported.then_some(NoticeEvent::Recovery), since, is_ok };
        }
        // A report in the future, after the clock was set back, does not delay the next one.
        let reported = before.and_then(|failing| failing.reported).filter(|reported| *reported <= now);
        let is_due = reported.is_none_or(|reported| now.duration_since(reported) >= repeat);
        Due { event: is_due.then_some(NoticeEvent::Failure), since: Some(since.unwrap_or(now)), is_ok }
    }

    /// Returns the failure to remember. `is_delivered` is whether the notice of this event was
    /// delivered; a notice of a recovery that was not is due again after the next run.
    #[must_use]
    pub fn remembered(self, before: Option<Failing>, is_delivered: bool, now: Timestamp) -> Option<Failing> {
        if self.is_ok {
            return if self.event.is_some() && !is_delivered { before } else { None };
        }
        let earlier = before.and_then(|failing| failing.reported);
        let reported = if is_delivered { Some(now) } else { earlier };
        Some(Failing { since: self.since.unwrap_or(now), reported })
    }
}

/// The file of one verb.
pub struct FailureMemory {
    spool: PathBuf,
    /// Name of the file in [`FOLDER`].
    name: String,
    /// Data directory of the cluster: two configurations may have clusters of one name.
    pgdata: String,
}

impl FailureMemory {
    /// A file in the folder `notify` of the spool. `about` identifies what may fail, and becomes
    /// part of the name.
    #[must_use]
    pub fn new(spool: &Path, cluster: &str, pgdata: &Path, about: &str) -> FailureMemory {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let about = about.chars().take(MAX_SUFFIX_LENGTH).map(|c| if is_plain(c) { c } else { '_' });
        let name = format!("{cluster}.{}", about.collect::<String>());
        FailureMemory { spool: spool.to_owned(), name, pgdata: pgdata.display().to_string() }
    }

    /// Reads the failure that lasts. A file that cannot be parsed counts as missing.
    pub fn read(&self) -> Result<Option<Failing>> {
        Ok(self.read_all()?.get(&self.pgdata).copied())
    }

    /// Reads the failures that last, by data directory.
    fn read_all(&self) -> Result<BTreeMap<String, Failing>> {
        let below = Path::new(FOLDER).join(&self.name);
        let text = Folder::root(&self.spool)?.map(|spool| spool.read(&below, MAX_FILE_SIZE)).transpose()?;
        let all = text.flatten().and_then(|text| serde_json::from_slice(&text).ok());
        Ok(all.unwrap_or_default())
    }

    /// Writes the failure that lasts; removes it when there is none.
    pub fn write(&self, failing: Option<Failing>) -> Result<()> {
        let mut all = self.read_all()?;
        let spool = Folder::root(&self.spool)?.ok_or_else(|| {
            Error::new(Kind::Absent, format!("directory {} does not exist", self.spool.display()))
        })?;
        // Other users may search the spool.
        let rights = spool.rights()?.with_modes(FILE_MODE, DIR_MODE);
        let folder = spool.make(Path::new(FOLDER), &rights)?;
        match failing {
            Some(failing) => drop(all.insert(self.pgdata.clone(), failing)),
            None => drop(all.remove(&self.pgdata)),
        }
        if all.is_empty() {
            folder.remove(&self.name)?;
            return folder.sync();
        }
        let text =
            serde_json::to_vec(&all).map_err(|e| Error::new(Kind::Failed, format!("write JSON: {e}")))?;
        folder.put(&self.name, &text, &rights)
    }
}
