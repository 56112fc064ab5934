//! The configuration in force with the source of each value, as text and as JSON.

use super::read::Connection;
use super::value::duration_text;
use super::{Checkpoint, LogFormat, LogLevel, MASK, RepositoryUrl, checksums_text, shown_connection};
use crate::notify::{NoticeEvent, Webhook, WebhookFormat};
use crate::storage::Checksums;
use serde::{Serialize, Serializer};
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A table with the settings read from it. Secrets are masked already.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub path: String,
    pub header: String,
    pub line: Option<usize>,
    pub settings: Vec<ShownSetting>,
}

/// A key with its value and source.
#[derive(Debug, Clone)]
pub(super) struct ShownSetting {
    pub key: &'static str,
    /// `None`: not set and without a default.
    pub value: Option<ShownValue>,
    /// Line of the key. `None`: the value is the default.
    pub line: Option<usize>,
}

/// A value in a form that can be shown.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum ShownValue {
    Text(String),
    Integer(i64),
    Count(u64),
    Flag(bool),
    List(Vec<String>),
    /// Seconds in JSON.
    #[serde(serialize_with = "seconds")]
    Duration(Duration),
}

/// The whole configuration for output. As text it is TOML that can be read again, apart from masked
/// secrets. As JSON it is `{"path", "settings": [{"key", "value", "source"}…]}`, with durations in
/// seconds and `null` for settings that are not set.
#[derive(Debug, Clone, Copy)]
pub struct ShownConfig<'c> {
    pub(super) path: &'c Path,
    pub(super) sections: &'c [Section],
}

/// `line 12` or `default`.
struct Origin(Option<usize>);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(line) => write!(f, "line {line}"),
            None => f.write_str("default"),
        }
    }
}

impl fmt::Display for ShownConfig<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted, since text after a line break in a path would be read as TOML.
        writeln!(f, "# {:?}", self.path)?;
        for section in self.sections {
            let settings = section.settings.iter();
            let set = settings.filter_map(|setting| Some((setting, setting.value.as_ref()?)));
            let mut set = set.peekable();
            if set.peek().is_some() {
                writeln!(f, "\n{}  # {}", section.header, Origin(section.line))?;
            }
            for (setting, value) in set {
                writeln!(f, "{} = {value}  # {}", setting.key, Origin(setting.line))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ShownValue {
    /// Writes the value as TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // JSON and TOML escape text alike, except for the delete character, which readers
            // refuse.
            ShownValue::Text(text) => write!(f, "{}", serde_json::Value::from(text.as_str())),
            ShownValue::Integer(number) => write!(f, "{number}"),
            ShownValue::Count(number) => write!(f, "{number}"),
            ShownValue::Flag(flag) => write!(f, "{flag}"),
            ShownValue::List(texts) => write!(f, "{}", serde_json::Value::from(texts.as_slice())),
            ShownValue::Duration(duration) => write!(f, "\"{}\"", duration_text(*duration)),
        }
    }
}

impl Serialize for ShownConfig<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct JsonConfig<'a> {
            path: String,
            settings: Vec<JsonSetting<'a>>,
        }
        #[derive(Serialize)]
        struct JsonSetting<'a> {
            key: String,
            value: Option<&'a ShownValue>,
            source: String,
        }
        let sections = self.sections.iter();
        let settings = sections.flat_map(|section| {
            section.settings.iter().map(|setting| JsonSetting {
                key: format!("{}.{}", section.path, setting.key),
                value: setting.value.as_ref(),
                source: Origin(setting.line).to_string(),
            })
        });
        let path = self.path.to_string_lossy().into_owned();
        JsonConfig { path, settings: settings.collect() }.serialize(serializer)
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// A setting that can be shown, without its secrets.
pub(super) trait ShownAs {
    fn shown(&self) -> ShownValue;
}

macro_rules! shown_as {
    ($($type:ty: |$value:ident| $shown:expr;)*) => {
        $(impl ShownAs for $type {
            fn shown(&self) -> ShownValue {
                let $value = self;
                $shown
            }
        })*
    };
}

shown_as! {
    String: |text| ShownValue::Text(text.clone());
    PathBuf: |path| ShownValue::Text(path.to_string_lossy().into_owned());
    RepositoryUrl: |url| ShownValue::Text(url.to_string());
    Connection: |connection| ShownValue::Text(shown_connection(&connection.0));
    Checkpoint: |checkpoint| ShownValue::Text(checkpoint.as_str().into());
    Checksums: |checksums| ShownValue::Text(checksums_text(*checksums).into());
    Webhook: |webhook| ShownValue::Text(webhook.shown(MASK));
    WebhookFormat: |format| ShownValue::Text(format.as_str().into());
    LogLevel: |level| ShownValue::Text(level.as_str().into());
    LogFormat: |format| ShownValue::Text(format.as_str().into());
    bool: |flag| ShownValue::Flag(*flag);
    u32: |number| ShownValue::Integer(i64::from(*number));
    i32: |number| ShownValue::Integer(i64::from(*number));
    u64: |number| ShownValue::Count(*number);
    NonZeroUsize: |number| ShownValue::Count(number.get() as u64);
    NonZeroU64: |bytes| ShownValue::Text(format!("{bytes}B"));
    Duration: |duration| ShownValue::Duration(*duration);
    Vec<String>: |words| ShownValue::List(words.clone());
    Vec<NoticeEvent>: |events| ShownValue::List(events.iter().map(|event| event.as_str().to_owned()).collect());
}
