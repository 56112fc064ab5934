//! Which status a program ends with.

use crate::error::{Error, Kind};

/// PostgreSQL counts a failure of `archive_command` only up to 125, and tries again.
pub const PUSH_FAILED: u8 = 1;
/// PostgreSQL takes up to 125 for the end of the archive, so this means: stop, and do not open the database.
pub const FETCH_FAILED: u8 = 200;
/// Proven absent; in a standby also "try again".
pub const FETCH_ABSENT: u8 = 1;

/// `walkeep` did its work and found something wrong.
pub const PROBLEM: u8 = 3;

/// The status of `walkeep` for a failure.
pub fn of(error: &Error) -> u8 {
    match error.kind() {
        Kind::Usage | Kind::Config => 2,
        Kind::Problem => PROBLEM,
        Kind::Locked => 4,
        _ => 1,
    }
}
