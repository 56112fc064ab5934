//! Sizes, durations and moments as text.

use jiff::Timestamp;

/// Units above bytes, each 1024 of the one before.
const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Returns a number of bytes as `512 B` or `16.00 MiB`.
pub fn size_text(bytes: u64) -> String {
    bytes_text(bytes as f64)
}

/// Returns a computed number of bytes in the format of [`size_text`].
pub(super) fn bytes_text(bytes: f64) -> String {
    let mut text = format!("{bytes:.0} B");
    let mut value = bytes;
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        text = format!("{value:.2} {unit}");
    }
    text
}

/// Returns a number of seconds as `45 s`, `12 min`, `26.5 h` or `9.0 days`.
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Returns a moment as `2026-11-21 08:14:59Z`.
pub(super) fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
