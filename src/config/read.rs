//! Readers of single values, each with the check of what it reads.

use super::value::{parse_duration, parse_size};
use super::{MASK, MAX_JOBS};
use crate::error::{Error, Kind, Result};
use crate::notify::{NoticeEvent, Webhook};
use crate::pg::conninfo;
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

fn error(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(Kind::Config, message).hint(hint)
}

/// An error about the type of a value. Does not repeat the value, which may be a secret under a
/// wrong key.
fn mismatch(expected: &str, value: &DeValue<'_>, example: &str) -> Error {
    let found = value.type_str();
    error(format!("expected {expected}, found {found}"), format!("write it as in `{example}`"))
}

fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str> {
    let text = value.as_str().ok_or_else(|| mismatch("text", value, "\"text\""))?;
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    if text.contains(control) {
        return Err(error("contains a control character", "remove the character"));
    }
    Ok(text)
}

/// Reads one line of text that is not empty.
pub(super) fn text(value: &DeValue<'_>) -> Result<String> {
    match string(value)? {
        "" => Err(error("empty", "give it a value, or remove the line")),
        text if text.contains(char::is_control) => {
            Err(error("more than one line of plain text", "remove line breaks and tabs"))
        }
        text => Ok(text.into()),
    }
}

/// Reads an SQL query: lines of text, not empty.
pub(super) fn statement(value: &DeValue<'_>) -> Result<String> {
    match string(value)?.trim() {
        "" => Err(error("empty", "write a query with a known answer")),
        sql => Ok(sql.into()),
    }
}

/// Reads the expected answer of a query: text, a number, or true and false, which PostgreSQL writes
/// as t and f.
pub(super) fn answer(value: &DeValue<'_>) -> Result<String> {
    if let Some(flag) = value.as_bool() {
        return Ok(if flag { "t" } else { "f" }.into());
    }
    if let Some(number) = value.as_integer() {
        return Ok(number.as_str().into());
    }
    string(value).map(str::to_owned)
}

/// Checks the name of a cluster or repository.
pub(super) fn name(text: &str) -> Result<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=63).contains(&text.len()) || !text.bytes().all(allowed) || text.starts_with(['.', '-']) {
        let message =
            "not a name: 1 to 63 ASCII letters, digits, `-`, `_` and `.`, not beginning with `.` or `-`";
        return Err(error(message, "choose a name such as `main` or `local-1`"));
    }
    Ok(text.into())
}

/// Reads an absolute path. Relative ones are refused since the working directory of the programs
/// varies.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf> {
    let path = PathBuf::from(text(value)?);
    if !path.is_absolute() {
        return Err(error("not an absolute path", "write the whole path, from `/` on"));
    }
    Ok(path)
}

/// A connection string that libpq understands. `Debug` and listings mask its secrets.
pub(super) struct Connection(pub(super) String);

pub(super) fn connection(value: &DeValue<'_>) -> Result<Connection> {
    let text = string(value)?;
    conninfo::mask(text, MASK).map_err(|error| {
        let hint = "write it as in `host=/var/run/postgresql user=postgres dbname=postgres`";
        error.doing("not a connection string").hint(hint)
    })?;
    Ok(Connection(text.into()))
}

pub(super) fn flag(value: &DeValue<'_>) -> Result<bool> {
    value.as_bool().ok_or_else(|| mismatch("true or false", value, "true"))
}

/// Reads a number in a range, which has to lie within the type.
pub(super) fn integer<T: TryFrom<i64>>(value: &DeValue<'_>, range: RangeInclusive<i64>) -> Result<T> {
    let written = value.as_integer().ok_or_else(|| mismatch("a whole number", value, "2"))?;
    let (least, most) = (range.start(), range.end());
    i64::from_str_radix(written.as_str(), written.radix())
        .ok()
        .filter(|number| range.contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| {
            let hint = format!("choose a number from {least} to {most}");
            error(format!("{written} is out of range"), hint)
        })
}

pub(super) fn jobs(value: &DeValue<'_>) -> Result<NonZeroUsize> {
    let jobs = integer(value, 1..=i64::from(MAX_JOBS))?;
    NonZeroUsize::new(jobs).ok_or_else(|| Error::defect("a number of jobs is zero"))
}

/// Reads a duration that is not zero.
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration> {
    let written = value.as_str().ok_or_else(|| mismatch("a duration with its unit", value, "\"50s\""))?;
    let duration = parse_duration(written)?;
    if duration.is_zero() {
        return Err(error(format!("{written:?} is zero"), "choose a longer duration"));
    }
    Ok(duration)
}

/// Reads a number of bytes that is not zero.
pub(super) fn size(value: &DeValue<'_>) -> Result<NonZeroU64> {
    let written = value.as_str().ok_or_else(|| mismatch("a size with its unit", value, "\"100MiB\""))?;
    NonZeroU64::new(parse_size(written)?)
        .ok_or_else(|| error(format!("{written:?} is zero"), "choose a larger size"))
}

/// Reads one of a few words.
pub(super) fn choice<T: Copy>(value: &DeValue<'_>, choices: &[T], word: fn(T) -> &'static str) -> Result<T> {
    let words = || choices.iter().map(|choice| format!("{:?}", word(*choice))).collect::<Vec<_>>();
    let written = value.as_str().ok_or_else(|| mismatch("text", value, &words().join("` or `")))?;
    let chosen = choices.iter().find(|choice| word(**choice) == written);
    chosen.copied().ok_or_else(|| {
        error(format!("{written:?} is not a known value"), format!("use one of: {}", words().join(", ")))
    })
}

/// Reads the address of an object store. The error does not repeat it, since it may contain
/// credentials.
pub(super) fn endpoint(value: &DeValue<'_>) -> Result<String> {
    let text = text(value)?;
    let host = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['@', '?', '#', ' ']) => Ok(text),
        _ => Err(error(
            "not the address of an object store",
            "write it as in `https://s3.example.com`; put credentials into `access_key_file` and `secret_key_file`",
        )),
    }
}

/// Reads the address of a webhook. The error does not repeat it, since it is a secret.
pub(super) fn webhook(value: &DeValue<'_>) -> Result<Webhook> {
    Webhook::parse(&text(value)?)
}

/// Reads the items of a list.
fn each<T>(value: &DeValue<'_>, read: impl Fn(&DeValue<'_>) -> Result<T>) -> Result<Vec<T>> {
    value.as_array().into_iter().flat_map(|items| items.iter()).map(|item| read(item.get_ref())).collect()
}

/// Reads the absolute path of a program and its arguments.
pub(super) fn words(value: &DeValue<'_>) -> Result<Vec<String>> {
    let words = each(value, |word| string(word).map(str::to_owned))?;
    if !words.first().is_some_and(|program| program.starts_with('/')) {
        return Err(error(
            "the first item is not the absolute path of a program",
            "write it as in `[\"/usr/local/bin/page\", \"dba\"]`; there is no shell",
        ));
    }
    Ok(words)
}

/// Reads the events that cause a notice.
pub(super) fn events(value: &DeValue<'_>) -> Result<Vec<NoticeEvent>> {
    each(value, |event| {
        choice(event, &[NoticeEvent::Failure, NoticeEvent::Recovery, NoticeEvent::Drill], NoticeEvent::as_str)
    })
}
