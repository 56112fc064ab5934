//! Reads one table key by key, and keeps a record of every value and where it came from.

use super::raw::Table;
use super::shown::{Section, Setting, Shown};
use super::{
    MOST_JOBS, connection,
    value::{parse_duration, parse_size},
};
use crate::error::{Error, Kind, Result};
use crate::notify::{Event, Webhook};
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

/// A table being read.
pub(super) struct Reader<'d> {
    pub(super) table: Table<'d>,
    settings: Vec<Setting>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(table: Table<'d>) -> Reader<'d> {
        Reader { table, settings: Vec::new() }
    }

    /// The value under `key`, if it is set.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T>,
    ) -> Result<Option<T>>
    where
        Shown: for<'a> From<&'a T>,
    {
        let value = self.value(key, read)?;
        self.record(key, value.as_ref());
        Ok(value)
    }

    /// The value under `key`, or its default.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl Fn(&DeValue<'_>) -> Result<T>,
    ) -> Result<T>
    where
        Shown: for<'a> From<&'a T>,
    {
        let value = self.value(key, read)?.unwrap_or(default);
        self.record(key, Some(&value));
        Ok(value)
    }

    /// The value under `key`, which must be set.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T>,
    ) -> Result<T>
    where
        Shown: for<'a> From<&'a T>,
    {
        let missing =
            || self.table.error(key, "missing").hint(format!("add a line such as `{key} = {example:?}`"));
        let value = self.value(key, read)?.ok_or_else(missing)?;
        self.record(key, Some(&value));
        Ok(value)
    }

    /// What was read, in the order of reading.
    pub(super) fn section(self) -> Section {
        Section {
            path: self.table.path,
            header: self.table.header,
            line: self.table.line,
            settings: self.settings,
        }
    }

    fn value<T>(&self, key: &str, read: impl Fn(&DeValue<'_>) -> Result<T>) -> Result<Option<T>> {
        let found = self.table.get(key);
        let value = found.map(|(value, _)| read(value)).transpose();
        value.map_err(|error| self.table.fault(key, error))
    }

    fn record<'a, T>(&mut self, key: &'static str, value: Option<&'a T>)
    where
        Shown: From<&'a T>,
    {
        let line = self.table.get(key).map(|(_, line)| line);
        self.settings.push(Setting { key, value: value.map(Shown::from), line });
    }
}

/// A connection string whose shape is known to be right.
pub(super) struct Connection(pub(super) String);

impl From<&Connection> for Shown {
    fn from(connection: &Connection) -> Shown {
        Shown::Text(connection::shown(&connection.0))
    }
}

fn error(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(Kind::Config, message).hint(hint)
}

/// The value has the wrong type. Does not repeat it: the key may be the wrong one for a secret.
fn mismatch(expected: &str, value: &DeValue<'_>, example: &str) -> Error {
    let found = value.type_str();
    error(format!("expected {expected}, found {found}"), format!("write it as in `{example}`"))
}

fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str> {
    let text = value.as_str().ok_or_else(|| mismatch("text", value, "\"text\""))?;
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    match text.contains(control) {
        false => Ok(text),
        true => Err(error("a control character in it", "take the character out")),
    }
}

/// One line of text, not empty.
pub(super) fn text(value: &DeValue<'_>) -> Result<String> {
    match string(value)? {
        "" => Err(error("empty", "give it a value, or take the line out")),
        text if text.contains(char::is_control) => {
            Err(error("more than a line of plain text", "take line breaks and tabs out"))
        }
        text => Ok(text.into()),
    }
}

/// SQL: lines of text, not empty.
pub(super) fn statement(value: &DeValue<'_>) -> Result<String> {
    match string(value)?.trim() {
        "" => Err(error("empty", "write a query whose answer is known")),
        sql => Ok(sql.into()),
    }
}

/// What a query is to answer: text, a number, or true and false as PostgreSQL writes them.
pub(super) fn answer(value: &DeValue<'_>) -> Result<String> {
    if let Some(flag) = value.as_bool() {
        return Ok(if flag { "t" } else { "f" }.into());
    }
    if let Some(number) = value.as_integer() {
        return Ok(number.as_str().into());
    }
    string(value).map(str::to_owned)
}

/// The name of a cluster or repository.
pub(super) fn name(text: &str) -> Result<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=63).contains(&text.len()) || !text.bytes().all(allowed) || text.starts_with(['.', '-']) {
        let message =
            "not a name: 1 to 63 ASCII letters, digits, `-`, `_` and `.`, the first neither `.` nor `-`";
        return Err(error(message, "choose a name such as `main` or `local-1`"));
    }
    Ok(text.into())
}

/// An absolute path: the programs run in whatever directory they are started in.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf> {
    let path = PathBuf::from(text(value)?);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(error("not an absolute path", "write the whole path, from `/` on")),
    }
}

pub(super) fn connection(value: &DeValue<'_>) -> Result<Connection> {
    let text = string(value)?;
    connection::mask(text).map_err(|why| {
        error(
            format!("not a connection string: {why}"),
            "write it as in `host=/var/run/postgresql user=postgres dbname=postgres`",
        )
    })?;
    Ok(Connection(text.into()))
}

pub(super) fn flag(value: &DeValue<'_>) -> Result<bool> {
    value.as_bool().ok_or_else(|| mismatch("true or false", value, "true"))
}

/// A number in a range; the range has to lie in the type.
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
    let jobs = integer(value, 1..=i64::from(MOST_JOBS))?;
    Ok(NonZeroUsize::new(jobs).unwrap_or(NonZeroUsize::MIN))
}

/// A duration that is not zero.
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration> {
    let written = value.as_str().ok_or_else(|| mismatch("a duration with its unit", value, "\"50s\""))?;
    let duration = parse_duration(written)?;
    match duration.is_zero() {
        false => Ok(duration),
        true => Err(error(format!("{written:?} is no time at all"), "choose a longer duration")),
    }
}

/// A number of bytes, not zero.
pub(super) struct Size(pub(super) NonZeroU64);

impl From<&Size> for Shown {
    fn from(size: &Size) -> Shown {
        Shown::Text(format!("{}B", size.0))
    }
}

pub(super) fn size(value: &DeValue<'_>) -> Result<Size> {
    let written = value.as_str().ok_or_else(|| mismatch("a size with its unit", value, "\"100MiB\""))?;
    let size = NonZeroU64::new(parse_size(written)?);
    size.map(Size).ok_or_else(|| error(format!("{written:?} is nothing at all"), "choose a larger size"))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(value: &DeValue<'_>, choices: &[T], word: fn(T) -> &'static str) -> Result<T> {
    let words = || choices.iter().map(|choice| format!("{:?}", word(*choice))).collect::<Vec<_>>();
    let written = value.as_str().ok_or_else(|| mismatch("text", value, &words().join("` or `")))?;
    let chosen = choices.iter().find(|choice| word(**choice) == written);
    chosen.copied().ok_or_else(|| {
        error(format!("{written:?} is not known here"), format!("use one of: {}", words().join(", ")))
    })
}

/// The address of an object store. Does not repeat it, which may hold credentials by mistake.
pub(super) fn endpoint(value: &DeValue<'_>) -> Result<String> {
    let text = text(value)?;
    let host = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['@', '?', '#', ' ']) => Ok(text),
        _ => Err(error(
            "not the address of an object store",
            "write it as in `https://s3.example.com`; credentials go into `access_key_file` and `secret_key_file`",
        )),
    }
}

/// Where notices go. Does not repeat it: whoever knows it can send there.
pub(super) fn webhook(value: &DeValue<'_>) -> Result<Webhook> {
    Webhook::parse(&text(value)?)
}

/// The values of a list.
fn each<T>(value: &DeValue<'_>, read: impl Fn(&DeValue<'_>) -> Result<T>) -> Result<Vec<T>> {
    value.as_array().into_iter().flat_map(|items| items.iter()).map(|item| read(item.get_ref())).collect()
}

/// A program, by its whole path, and its arguments.
pub(super) struct Words(pub(super) Vec<String>);

impl From<&Words> for Shown {
    fn from(words: &Words) -> Shown {
        Shown::List(words.0.clone())
    }
}

pub(super) fn words(value: &DeValue<'_>) -> Result<Words> {
    let words = each(value, |word| string(word).map(str::to_owned))?;
    match words.first() {
        Some(program) if program.starts_with('/') => Ok(Words(words)),
        _ => Err(error(
            "it does not begin with the whole path of a program",
            "write it as in `[\"/usr/local/bin/tell\", \"dba\"]`; there is no shell",
        )),
    }
}

/// What is told.
pub(super) struct Events(pub(super) Vec<Event>);

impl From<&Events> for Shown {
    fn from(events: &Events) -> Shown {
        Shown::List(events.0.iter().map(|event| event.as_str().to_owned()).collect())
    }
}

pub(super) fn events(value: &DeValue<'_>) -> Result<Events> {
    each(value, |event| choice(event, &[Event::Failure, Event::Recovery, Event::Drill], Event::as_str))
        .map(Events)
}
