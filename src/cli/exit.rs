//! Exit statuses of the three programs.

use crate::error::{Error, Kind};
use std::process::ExitCode;

/// Failure of `walpush`: PostgreSQL counts a failure of `archive_command` only up to 125, and tries
/// again.
pub const PUSH_FAILED: u8 = 1;
/// Failure of `walfetch`: PostgreSQL takes a status up to 125 for the end of the archive, and stops
/// recovery at a higher one without opening the database.
pub const FETCH_FAILED: u8 = 200;
/// Proven absence of a file; in a standby also a failure, after which PostgreSQL tries again.
pub const FETCH_ABSENT: u8 = 1;

/// Result of a run of `walkeep`, the least severe first: work that could not be done outweighs a
/// problem that was found, and that outweighs a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    Done,
    /// Another run holds the lock.
    Locked,
    /// The work was done and found a problem.
    Problem,
    /// Wrong usage or configuration.
    Usage,
    Failed,
}

impl Exit {
    /// Returns the exit for a failure.
    pub fn of(error: &Error) -> Exit {
        match error.kind() {
            Kind::Usage | Kind::Config => Exit::Usage,
            Kind::Problem => Exit::Problem,
            Kind::Locked => Exit::Locked,
            _ => Exit::Failed,
        }
    }

    /// Returns the more severe of two exits.
    #[must_use]
    pub fn worst(self, other: Exit) -> Exit {
        self.max(other)
    }

    /// Returns the exit status of the process.
    pub fn status(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Problem => 3,
            Exit::Locked => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.status())
    }
}
