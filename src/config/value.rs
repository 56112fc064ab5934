//! Durations and sizes with units, as in the configuration and on the command line.

use crate::error::{Error, Kind, Result};
use std::time::Duration;

/// Units in milliseconds, the largest first.
const DURATION_UNITS: &[(&str, u64)] =
    &[("w", 7 * DAY), ("d", DAY), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const DAY: u64 = 24 * 3_600_000;

/// A hundred years in milliseconds. Longer durations are mistakes, and would overflow when added to
/// a time.
const MAX_DURATION: u64 = 36_500 * DAY;

/// Units in bytes. `kB`, `MB`, `GB` are powers of 1000; `KiB`, `MiB`, `GiB` are powers of 1024.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
    ("PB", 1_000_000_000_000_000),
    ("PiB", 1 << 50),
];

/// Parses a duration: a whole number and its unit, without a space: `300ms`, `50s`, `5m`, `12h`,
/// `14d`, `8w`. A day is 24 hours.
///
/// # Errors
///
/// `Usage` for any other text, and for more than 100 years.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let milliseconds = parse(text, DURATION_UNITS).filter(|&n| n <= MAX_DURATION);
    milliseconds.map(Duration::from_millis).ok_or_else(|| {
        let message =
            format!("{text:?} is not a duration: a whole number of ms, s, m, h, d or w, at most 100 years");
        Error::new(Kind::Usage, message).hint("write it as in `300ms`, `50s`, `5m`, `12h` or `14d`")
    })
}

/// Parses a size in bytes: a whole number and its unit, without a space: `16MiB`, `1GB`, `512B`.
/// `kB`, `MB`, `GB`, `TB`, `PB` are powers of 1000; `KiB`, `MiB`, `GiB`, `TiB`, `PiB` powers of
/// 1024.
///
/// # Errors
///
/// `Usage` for any other text, and for a size that does not fit into 64 bits.
pub fn parse_size(text: &str) -> Result<u64> {
    parse(text, SIZE_UNITS).ok_or_else(|| {
        let message = format!(
            "{text:?} is not a size: a whole number of B, kB, KiB, MB, MiB, GB, GiB, TB, TiB, PB or PiB, below 16 EiB"
        );
        Error::new(Kind::Usage, message).hint("write it as in `16MiB` or `1GB`")
    })
}

/// A duration as text that [`parse_duration`] reads: in the largest unit up to days that leaves no
/// remainder. Fractions of a millisecond are dropped.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    let units = DURATION_UNITS.iter().filter(|(unit, _)| *unit != "w");
    let mut whole = units.map(|(unit, length)| (unit, u128::from(*length)));
    let found = whole.find(|(_, length)| milliseconds.is_multiple_of(*length));
    found.map_or_else(
        || format!("{milliseconds}ms"),
        |(unit, length)| format!("{}{unit}", milliseconds / length),
    )
}

/// The product of the number in `text` and its unit; `None` if it is not a number with a unit, or
/// overflows.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, length) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*length)
}
