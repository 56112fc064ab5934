//! The configuration in force, and where each of its values came from, for people and for programs.

use super::{Checkpoint, Compression, LogFormat, LogLevel, MASK, Url, checksums_text, value::duration_text};
use crate::notify::{Format, Webhook};
use crate::storage::Checksums;
use serde::{Serialize, Serializer};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A table with what was read from it. Secrets are masked already.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub path: String,
    pub header: String,
    pub line: Option<usize>,
    pub settings: Vec<Setting>,
}

#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub key: &'static str,
    /// None: it is not set, and has no default.
    pub value: Option<Shown>,
    /// None: it is the default.
    pub line: Option<usize>,
}

/// A value as it is shown.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum Shown {
    Text(String),
    Integer(i64),
    Flag(bool),
    List(Vec<String>),
    /// In JSON: in seconds.
    #[serde(serialize_with = "seconds")]
    Duration(Duration),
}

/// The whole configuration, to print: as text it is TOML that can be read again, apart from masked
/// secrets, and as JSON `{"path", "settings": [{"key", "value", "source"}…]}` with durations in
/// seconds and `null` for what is not set.
#[derive(Debug, Clone, Copy)]
pub struct ShownConfig<'c> {
    pub(super) path: &'c Path,
    pub(super) sections: &'c [Section],
}

/// `line 12` or `default`.
struct Source(Option<usize>);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(line) => write!(f, "line {line}"),
            None => f.write_str("default"),
        }
    }
}

impl fmt::Display for ShownConfig<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted: a path may hold a line break, and what follows one would be read as TOML.
        writeln!(f, "# {:?}", self.path)?;
        for section in self.sections {
            let settings = section.settings.iter();
            let set = settings.filter_map(|setting| Some((setting, setting.value.as_ref()?)));
            let mut set = set.peekable();
            if set.peek().is_some() {
                writeln!(f, "\n{}  # {}", section.header, Source(section.line))?;
            }
            for (setting, value) in set {
                writeln!(f, "{} = {value}  # {}", setting.key, Source(setting.line))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Shown {
    /// As TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // JSON and TOML escape alike what may be in a text here: reading refuses the delete character.
            Shown::Text(text) => write!(f, "{}", serde_json::Value::from(text.as_str())),
            Shown::Integer(number) => write!(f, "{number}"),
            Shown::Flag(flag) => write!(f, "{flag}"),
            Shown::List(texts) => write!(f, "{}", serde_json::Value::from(texts.as_slice())),
            Shown::Duration(duration) => write!(f, "\"{}\"", duration_text(*duration)),
        }
    }
}

impl Serialize for ShownConfig<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            path: String,
            settings: Vec<Entry<'a>>,
        }
        #[derive(Serialize)]
        struct Entry<'a> {
            key: String,
            value: Option<&'a Shown>,
            source: String,
        }
        let sections = self.sections.iter();
        let settings = sections.flat_map(|section| {
            section.settings.iter().map(|setting| Entry {
                key: format!("{}.{}", section.path, setting.key),
                value: setting.value.as_ref(),
                source: Source(setting.line).to_string(),
            })
        });
        let path = self.path.to_string_lossy().into_owned();
        Document { path, settings: settings.collect() }.serialize(serializer)
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl From<&String> for Shown {
    fn from(text: &String) -> Shown {
        Shown::Text(text.clone())
    }
}

impl From<&PathBuf> for Shown {
    fn from(path: &PathBuf) -> Shown {
        Shown::Text(path.to_string_lossy().into_owned())
    }
}

impl From<&Url> for Shown {
    fn from(url: &Url) -> Shown {
        Shown::Text(url.to_string())
    }
}

impl From<&Compression> for Shown {
    fn from(compression: &Compression) -> Shown {
        Shown::Text(compression.as_str().into())
    }
}

impl From<&LogFormat> for Shown {
    fn from(value: &LogFormat) -> Shown {
        Shown::Text(value.as_str().to_owned())
    }
}

impl From<&LogLevel> for Shown {
    fn from(value: &LogLevel) -> Shown {
        Shown::Text(value.as_str().to_owned())
    }
}

impl From<&Checkpoint> for Shown {
    fn from(checkpoint: &Checkpoint) -> Shown {
        Shown::Text(checkpoint.as_str().into())
    }
}

impl From<&Checksums> for Shown {
    fn from(checksums: &Checksums) -> Shown {
        Shown::Text(checksums_text(*checksums).into())
    }
}

impl From<&Webhook> for Shown {
    fn from(webhook: &Webhook) -> Shown {
        Shown::Text(webhook.shown(MASK))
    }
}

impl From<&Format> for Shown {
    fn from(format: &Format) -> Shown {
        Shown::Text(format.as_str().into())
    }
}

impl From<&bool> for Shown {
    fn from(flag: &bool) -> Shown {
        Shown::Flag(*flag)
    }
}

impl From<&u32> for Shown {
    fn from(number: &u32) -> Shown {
        Shown::Integer(i64::from(*number))
    }
}

impl From<&i32> for Shown {
    fn from(number: &i32) -> Shown {
        Shown::Integer(i64::from(*number))
    }
}

impl From<&NonZeroUsize> for Shown {
    fn from(number: &NonZeroUsize) -> Shown {
        Shown::Integer(i64::try_from(number.get()).unwrap_or(i64::MAX))
    }
}

impl From<&Duration> for Shown {
    fn from(duration: &Duration) -> Shown {
        Shown::Duration(*duration)
    }
}
