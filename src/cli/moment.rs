//! Times as people type them: RFC 3339 or PostgreSQL's style. jiff parses; this file decides about
//! times without an offset from UTC.

use super::render;
use crate::error::{Error, Kind, Result};
use crate::repo::Archive;
use jiff::civil::{DateTime, Time};
use jiff::fmt::temporal::{Pieces, PiecesOffset};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Timestamp, Zoned};

/// Last microsecond of a day.
const END_OF_DAY: Time = Time::constant(23, 59, 59, 999_999_000);

/// A date with or without a time, and perhaps an offset from UTC.
struct Moment {
    text: String,
    civil: DateTime,
    offset: Option<Offset>,
    /// Time zone: ` Europe/Berlin`, or `[Europe/Berlin]` as in RFC 9557.
    zone: Option<TimeZone>,
}

impl Moment {
    /// Parses a time; `time` completes a date alone.
    fn parse(text: &str, time: Time) -> Result<Moment> {
        let text = text.trim();
        let utc = text.strip_suffix("UTC").or_else(|| text.strip_suffix("GMT"));
        let utc = utc.filter(|civil| !civil.ends_with('/')); // Etc/UTC
        let spaced = utc.map_or_else(|| text.to_owned(), |civil| format!("{}Z", civil.trim_end()));
        let spaced = spaced.replace(" +", "+").replace(" -", "-");
        let (spaced, name) = split_zone(&spaced);
        let invalid = |_| {
            usage(format!("`{text}` is not a time")).hint(
                "write it as 2026-11-21 08:14:59+01, 2026-11-21T07:14:59Z or 2026-11-21 08:14:59 Europe/Berlin",
            )
        };
        let pieces = Pieces::parse(spaced).map_err(invalid)?;
        let civil = DateTime::from_parts(pieces.date(), pieces.time().unwrap_or(time));
        let unknown = |_| usage(format!("`{text}` names an unknown time zone"));
        let zone = match name {
            Some(_) if pieces.time_zone_annotation().is_some() => {
                return Err(usage(format!("`{text}` has two time zones")));
            }
            Some(name) => Some(TimeZone::get(name).map_err(unknown)?),
            None => pieces.to_time_zone().map_err(unknown)?,
        };
        let offset = pieces.to_numeric_offset();
        let moment = Moment { text: text.to_owned(), civil, offset, zone };
        // With Z the time is in UTC, and the zone says where it was seen.
        if matches!(pieces.offset(), Some(PiecesOffset::Numeric(_))) {
            moment.check_offset()?;
        }
        Ok(moment)
    }

    /// Refuses an offset from UTC that the time zone does not have at this time.
    fn check_offset(&self) -> Result<()> {
        let (Some(offset), Some(zone)) = (self.offset, &self.zone) else {
            return Ok(());
        };
        let at = offset.to_timestamp(self.civil).map_err(|e| self.out_of_range(&e))?;
        let actual = zone.to_offset(at);
        if actual == offset {
            return Ok(());
        }
        Err(usage(format!("`{}` contradicts itself: the time zone has the offset {actual} then", self.text))
            .hint("write the offset or the time zone alone"))
    }

    fn out_of_range(&self, error: &jiff::Error) -> Error {
        usage(format!("`{}` is not a time: {error}", self.text))
    }

    /// Returns the instant. An offset decides; without one the time is read in the annotated zone,
    /// else in `zone`, the `TimeZone` of the server. A time that no zone is known for, or that the
    /// change of clocks repeated or skipped, is refused.
    fn instant(&self, zone: Option<&str>) -> Result<Timestamp> {
        let Moment { text, civil, offset, .. } = self;
        if let Some(offset) = offset {
            return offset.to_timestamp(*civil).map_err(|e| self.out_of_range(&e));
        }
        let ambiguous = |one: String, two: String| {
            usage(format!("`{text}` has no offset from UTC: it may mean {one} or {two}"))
                .hint("write the time with its offset")
        };
        let Some(zone) = self.zone.clone().or_else(|| known_zone(zone)) else {
            let utc = format!("{civil}Z");
            let here = civil.to_zoned(TimeZone::system()).map_or_else(|_| utc.clone(), |here| show(&here));
            return Err(ambiguous(utc, here));
        };
        let found = zone.into_ambiguous_zoned(*civil);
        match found.offset() {
            AmbiguousOffset::Fold { before, after } => {
                Err(ambiguous(format!("{civil}{before}"), format!("{civil}{after}")))
            }
            AmbiguousOffset::Gap { .. } => {
                Err(usage(format!("`{text}` does not exist: the clocks were set forward"))
                    .hint("write it with an offset from UTC"))
            }
            AmbiguousOffset::Unambiguous { .. } => {
                found.compatible().map(|zoned| zoned.timestamp()).map_err(|e| usage(e.to_string()))
            }
        }
    }
}

/// Splits the name of a time zone off the end of a time: a word with a letter first and a slash, as
/// in `Europe/Paris`. Abbreviations such as `CET` are ambiguous.
fn split_zone(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(' ') {
        Some((time, name)) if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.contains('/') => {
            (time.trim_end(), Some(name))
        }
        _ => (text, None),
    }
}

fn usage(message: String) -> Error {
    Error::new(Kind::Usage, message)
}

fn known_zone(name: Option<&str>) -> Option<TimeZone> {
    TimeZone::get(name?).ok()
}

/// Parses the target of a recovery. A time without an offset and a zone is read in the time zone of
/// the newest backup.
pub fn of_archive(text: &str, archive: &Archive) -> Result<Timestamp> {
    let moment = Moment::parse(text, Time::midnight())?;
    let zone = match (moment.offset, &moment.zone) {
        (None, None) => archive.records()?.good.pop().map(|record| record.settings.time_zone),
        _ => None,
    };
    let time = moment.instant(zone.as_deref())?;
    let utc = render::time(time);
    match known_zone(zone.as_deref()) {
        Some(zone) => {
            let local = show(&time.to_zoned(zone));
            tracing::info!("recovering to {utc} (read in the server's time zone: {local})");
        }
        None => tracing::info!("recovering to {utc}"),
    }
    Ok(time)
}

/// Parses a time, or a day, which stands for its last microsecond. Without an offset and a zone it
/// is read in `zone`.
pub fn parse_day(text: &str, zone: Option<&str>) -> Result<Timestamp> {
    Moment::parse(text, END_OF_DAY)?.instant(zone)
}

fn show(zoned: &Zoned) -> String {
    zoned.strftime("%Y-%m-%d %H:%M:%S%:z %Q").to_string()
}
