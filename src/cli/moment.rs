//! Times as people type them.

use crate::error::{Error, Kind, Result};
use crate::repo::Archive;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, Zoned};

fn usage(message: String) -> Error {
    Error::new(Kind::Usage, message)
}

/// Whether the time says by itself what it means.
pub fn has_offset(text: &str) -> bool {
    split_offset(text.trim()).1.is_some()
}

/// A time on the command line; one without an offset is read in the time zone that the newest backup has.
pub fn of_archive(text: &str, archive: &Archive) -> Result<Timestamp> {
    let zone = match has_offset(text) {
        true => None,
        false => archive.records()?.good.pop().map(|record| record.settings.time_zone),
    };
    let time = parse(text, zone.as_deref())?;
    tracing::info!("recovering to {}", describe(time, zone.as_deref()));
    Ok(time)
}

/// Divides `2026-11-21 08:14:59+01` before its offset.
fn split_offset(text: &str) -> (&str, Option<&str>) {
    if let Some(civil) = text.strip_suffix(['Z', 'z']) {
        return (civil.trim_end(), Some("Z"));
    }
    if let Some(civil) = text.strip_suffix("UTC").or_else(|| text.strip_suffix("GMT")) {
        return (civil.trim_end(), Some("Z"));
    }
    // Behind the date, whose own dashes are no signs.
    let clock = text.find([' ', 'T', 't']).unwrap_or(text.len());
    match text[clock..].find(['+', '-']) {
        Some(sign) => (text[..clock + sign].trim_end(), Some(&text[clock + sign..])),
        None => (text, None),
    }
}

/// Reads a time in RFC 3339 or PostgreSQL's own style. Without an offset it is read in `zone`, the server's
/// `TimeZone`; where that is not known, or the clocks were set back then, it is refused.
pub fn parse(text: &str, zone: Option<&str>) -> Result<Timestamp> {
    let (civil, offset) = split_offset(text.trim());
    let civil: DateTime = civil.parse().map_err(|e| {
        usage(format!("`{text}` is no time: {e}"))
            .hint("write it as 2026-11-21 08:14:59+01 or 2026-11-21T07:14:59Z")
    })?;
    if let Some(offset) = offset {
        let seconds = parse_offset(offset).ok_or_else(|| {
            usage(format!("`{offset}` is no offset from UTC")).hint("an offset is Z, +01 or +05:30")
        })?;
        let offset = jiff::tz::Offset::from_seconds(seconds).map_err(|e| usage(e.to_string()))?;
        return offset.to_timestamp(civil).map_err(|e| usage(format!("`{text}` is no time: {e}")));
    }
    let both = |one: String, two: String| {
        Err(usage(format!("`{text}` has no offset from UTC: it may mean {one} or {two}"))
            .hint("say which one is meant by writing the offset"))
    };
    let utc = || format!("{civil}Z");
    let Some(zone) = zone.and_then(|name| TimeZone::get(name).ok()) else {
        let here = civil.to_zoned(TimeZone::system()).map(|here| show(&here));
        return both(utc(), here.unwrap_or_else(|_| utc()));
    };
    let ambiguous = zone.clone().into_ambiguous_zoned(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Fold { before, after } => {
            let reading = |offset: jiff::tz::Offset| format!("{civil}{offset}");
            both(reading(before), reading(after))
        }
        AmbiguousOffset::Gap { .. } => {
            Err(usage(format!("`{text}` never was: the clocks were set forward then"))
                .hint("write it with an offset from UTC"))
        }
        AmbiguousOffset::Unambiguous { .. } => {
            ambiguous.compatible().map(|zoned| zoned.timestamp()).map_err(|e| usage(e.to_string()))
        }
    }
}

/// As [`parse`], where a day alone means its end.
pub fn parse_day(text: &str, zone: Option<&str>) -> Result<Timestamp> {
    match text.trim().parse::<jiff::civil::Date>() {
        Ok(_) if !text.contains([':', 'T']) => parse(&format!("{} 23:59:59.999999", text.trim()), zone),
        _ => parse(text, zone),
    }
}

/// Seconds east of UTC of `Z`, `+01`, `-0330` or `+05:30`.
fn parse_offset(text: &str) -> Option<i32> {
    if text == "Z" {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits: String = text.get(1..)?.chars().filter(|c| *c != ':').collect();
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(digits.len(), 1 | 2 | 4 | 6) {
        return None;
    }
    let part =
        |range: std::ops::Range<usize>| digits.get(range).map_or(Some(0), |part| part.parse::<i32>().ok());
    let hours: i32 = digits.get(..digits.len().min(2))?.parse().ok()?;
    Some(sign * (hours * 3600 + part(2..4)? * 60 + part(4..6)?))
}

/// A time in UTC, and as the server's clock shows it.
pub fn describe(time: Timestamp, zone: Option<&str>) -> String {
    let utc = super::render::time(time);
    match zone.and_then(|name| TimeZone::get(name).ok()) {
        Some(zone) => format!("{utc} (read in the server's time zone: {})", show(&time.to_zoned(zone))),
        None => utc,
    }
}

fn show(zoned: &Zoned) -> String {
    zoned.strftime("%Y-%m-%d %H:%M:%S%:z %Q").to_string()
}
