//! Results of verbs, as JSON for programs and as text for people. Prints nothing. The JSON fields
//! are an interface: fields are added, never changed.

use crate::repo::drills::{Drill, Outcome};
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use crate::repo::window::Window;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The result of a verb.
pub trait Report {
    /// Returns the text for standard output; empty for verbs that show their results on standard
    /// error as they go.
    fn text(&self) -> String {
        String::new()
    }

    /// Returns the JSON document for standard output.
    fn json(&self) -> impl Serialize;
}

/// Formats a time as RFC 3339 in UTC with microseconds.
pub fn time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Returns the fields of a backup.
pub fn backup(record: &Record, pin: Option<&Pin>) -> Value {
    json!({
        "id": record.id,
        "state": record.state,
        "start_time": time(record.start_time),
        "stop_time": time(record.stop_time),
        "start_lsn": record.start_lsn,
        "stop_lsn": record.stop_lsn,
        "timeline": record.timeline,
        "system_identifier": record.system_identifier.to_string(),
        "pg_version": record.pg_version,
        "size": record.size,
        "stored": record.stored,
        "new_bytes": record.new_bytes,
        "files": record.files,
        "labels": record.labels,
        "pinned": pin.is_some(),
        "pin": pin.map(|pin| json!({"until": pin.until.map(time), "standalone": pin.standalone})),
        "parent": record.parent,
    })
}

/// Returns the fields of a drill, without its checks.
pub fn drill(drill: &Drill) -> Value {
    json!({
        "backup": drill.backup,
        "proved": drill.outcome == Outcome::Proved,
        "outcome": drill.outcome,
        "chosen": drill.chosen,
        "target": drill.target,
        "begun": time(drill.begun),
        "ended": time(drill.ended),
        "host": drill.host,
        "bytes": drill.bytes,
        "segments": drill.segments,
        "reached_lsn": drill.reached_lsn,
        "expected_lsn": drill.expected_lsn,
        "restore_seconds": drill.restore_seconds,
        "recovery_seconds": drill.recovery_seconds,
        "check_seconds": drill.check_seconds,
    })
}

/// Returns the times of a window; both are `null` when there is no window.
pub fn moments(window: Option<&Window>) -> Value {
    json!({"from": window.map(|window| time(window.from)), "to": window.map(|window| time(window.to))})
}

/// Returns windows with their timelines and positions.
pub fn windows(windows: &[Window]) -> Value {
    let window = |window: &Window| {
        json!({
            "timeline": window.timeline,
            "from_lsn": window.from_lsn,
            "to_lsn": window.to_lsn,
            "from": time(window.from),
            "to": time(window.to),
        })
    };
    windows.iter().map(window).collect()
}

/// Formats a number of bytes for people: `1.4 GiB`.
pub fn size(bytes: u64) -> String {
    crate::observe::size_text(bytes)
}

/// Formats a throughput for people: `120.5 MiB/s`.
pub fn rate(bytes: u64, took: Duration) -> String {
    let per_second = u128::from(bytes) * 1000 / took.as_millis().max(1);
    format!("{}/s", size(u64::try_from(per_second).unwrap_or(u64::MAX)))
}
