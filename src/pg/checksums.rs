//! The states of data checksums: the words of the setting `data_checksums`.

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

/// A state of data checksums. The servers of PostgreSQL 15 to 19 report `on` and `off`, and the
/// state changes while they are down (`pg_checksums`). The betas of 19 could change it while they
/// ran, with two states in between; its release candidate 1 cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChecksumState {
    /// Every page has a checksum.
    On,
    Off,
    /// Pages get checksums; some have none yet.
    InprogressOn,
    /// Pages are still written with checksums, but they are no longer verified.
    InprogressOff,
}

impl ChecksumState {
    /// The word of the setting.
    pub fn word(self) -> &'static str {
        match self {
            ChecksumState::On => "on",
            ChecksumState::Off => "off",
            ChecksumState::InprogressOn => "inprogress-on",
            ChecksumState::InprogressOff => "inprogress-off",
        }
    }

    /// Decodes the word that a server reports.
    ///
    /// # Errors
    ///
    /// `Refused` for any other word.
    pub fn from_word(word: &str) -> Result<ChecksumState> {
        use ChecksumState::{InprogressOff, InprogressOn, Off, On};
        [On, Off, InprogressOn, InprogressOff].into_iter().find(|state| state.word() == word).ok_or_else(
            || Error::new(Kind::Refused, format!("`{word}` is not a known state of data_checksums")),
        )
    }
}

/// The states at the start and at the end of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChecksumStates {
    pub start: ChecksumState,
    pub end: ChecksumState,
}

impl ChecksumStates {
    /// Whether every page that the backup read had to have a checksum.
    pub fn are_on(self) -> bool {
        (self.start, self.end) == (ChecksumState::On, ChecksumState::On)
    }

    /// The state during the whole backup; `None` when it changed, or was being changed.
    pub fn steady(self) -> Option<ChecksumState> {
        let is_steady = self.start == self.end;
        Some(self.start).filter(|state| is_steady && matches!(state, ChecksumState::On | ChecksumState::Off))
    }
}

impl std::fmt::Display for ChecksumStates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (start, end) = (self.start.word(), self.end.word());
        if start == end { f.write_str(start) } else { write!(f, "{start} at the start, {end} at the end") }
    }
}
