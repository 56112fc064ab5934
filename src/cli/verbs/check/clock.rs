//! The clocks of the server and of the repositories beside the one of this host. Recovery targets are times of the
//! server, retention and signatures are those of this host.

use super::{CheckResult, STATEMENT_TIMEOUT};
use crate::error::{Doing, Result};
use crate::pg::client::{Session, column};
use crate::pg::segment::{SegmentName, WalName};
use crate::repo::{Archive, ObjectName};
use jiff::Timestamp;

/// Seconds that clocks may differ.
const LIMIT: f64 = 3.0;

const HINT: &str = "let all hosts follow the same time: `timedatectl` shows whether they do";

pub fn of_server(session: &Session) -> Result<CheckResult> {
    let before = Timestamp::now();
    let row = session
        .query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[], Some(STATEMENT_TIMEOUT))
        .doing(|| "ask for the server's time".to_owned())?;
    Ok(judge("the server", column(&row, 0)?, before, Timestamp::now()))
}

/// The repository's clock has dated a segment that came into being between two moments.
pub fn of_repository(
    archive: &Archive,
    name: SegmentName,
    before: Timestamp,
    after: Timestamp,
) -> Result<CheckResult> {
    let name = ObjectName::Wal(WalName::Segment(name));
    let Some(stored) = archive.stored_at(&name)? else {
        return Ok(CheckResult::warning(format!("{name} went away"), "does somebody remove WAL by hand?"));
    };
    // Some stores give whole seconds.
    Ok(judge("the repository", seconds(stored), before, after))
}

/// A clock showed a time at some moment between two of ours.
fn judge(whose: &str, shown: f64, before: Timestamp, after: Timestamp) -> CheckResult {
    let (early, late) = (seconds(before) - shown, shown - seconds(after));
    if early > LIMIT {
        CheckResult::warning(format!("{whose} is {early:.0} s behind this host"), HINT)
    } else if late > LIMIT {
        CheckResult::warning(format!("{whose} is {late:.0} s ahead of this host"), HINT)
    } else {
        CheckResult::ok(format!("{whose} and this host agree within {LIMIT:.0} s"))
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_microsecond() as f64 / 1e6
}
