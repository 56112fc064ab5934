//! Compares the clocks of the server and of the repositories with that of this host. Recovery
//! targets are times of the server; retention and signatures use the clock of this host.

use super::{CheckResult, STATEMENT_TIMEOUT};
use crate::error::{Doing, Result};
use crate::pg::client::{Session, column};
use crate::pg::segment::{SegmentName, WalName};
use crate::repo::{Archive, ObjectName};
use jiff::Timestamp;

/// Maximum difference between two clocks, in seconds.
const MAX_DIFFERENCE: f64 = 3.0;

const HINT: &str = "synchronize the clocks of all hosts; `timedatectl` shows the state";

pub fn of_server(session: &Session) -> Result<CheckResult> {
    let before = Timestamp::now();
    let row = session
        .query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[], Some(STATEMENT_TIMEOUT))
        .doing("read the server's time")?;
    Ok(judge("the server", column(&row, 0)?, before, Timestamp::now()))
}

/// Compares the clock of a repository by the time that it gave to a segment stored between `before`
/// and `after`.
pub fn of_repository(
    archive: &Archive,
    name: SegmentName,
    before: Timestamp,
    after: Timestamp,
) -> Result<CheckResult> {
    let name = ObjectName::Wal(WalName::Segment(name));
    let Some(stored) = archive.stored_at(&name)? else {
        return Ok(CheckResult::warning(
            format!("{name} was removed during the check"),
            "check whether another tool removes WAL",
        ));
    };
    // Some stores round to whole seconds.
    Ok(judge("the repository", seconds(stored), before, after))
}

/// Judges a clock that showed `shown` at some time between `before` and `after` of this host's
/// clock.
fn judge(whose: &str, shown: f64, before: Timestamp, after: Timestamp) -> CheckResult {
    let (early, late) = (seconds(before) - shown, shown - seconds(after));
    if early > MAX_DIFFERENCE {
        CheckResult::warning(format!("{whose} is {early:.0} s behind this host"), HINT)
    } else if late > MAX_DIFFERENCE {
        CheckResult::warning(format!("{whose} is {late:.0} s ahead of this host"), HINT)
    } else {
        CheckResult::ok(format!("{whose} and this host agree within {MAX_DIFFERENCE:.0} s"))
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_microsecond() as f64 / 1e6
}
