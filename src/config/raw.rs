//! The configuration as written: which keys there are, which of them a file has, and in what line.
//! Knows the names and the nesting; what the values mean is not its business.

use crate::error::{Error, Kind, Result};
use std::borrow::Cow;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// What may stand under a key.
enum Shape {
    Value,
    /// A list of single values.
    Values,
    Table(&'static [Key]),
    /// A table of tables, each under a name of the user's choice.
    Named(&'static [Key]),
    /// A list of tables.
    List(&'static [Key]),
}

type Key = (&'static str, Shape);

const ROOT: &[Key] = &[
    ("cluster", Shape::Named(CLUSTER)),
    ("repository", Shape::List(REPOSITORY)),
    ("wal", Shape::Table(WAL)),
    ("backup", Shape::Table(BACKUP)),
    ("drill", Shape::Table(DRILL)),
    ("status", Shape::Table(STATUS)),
    ("notify", Shape::Table(NOTIFY)),
    ("log", Shape::Table(LOG)),
];
const CLUSTER: &[Key] = &[("pgdata", Shape::Value), ("connection", Shape::Value), ("primary", Shape::Value)];
const REPOSITORY: &[Key] = &[
    ("name", Shape::Value),
    ("url", Shape::Value),
    ("required", Shape::Value),
    ("region", Shape::Value),
    ("endpoint", Shape::Value),
    ("path_style", Shape::Value),
    ("ca_file", Shape::Value),
    ("profile", Shape::Value),
    ("storage_class", Shape::Value),
    ("sse", Shape::Value),
    ("sse_kms_key_id", Shape::Value),
    ("access_key_file", Shape::Value),
    ("secret_key_file", Shape::Value),
    ("checksums", Shape::Value),
    ("conditional_create", Shape::Value),
    ("retention", Shape::Table(RETENTION)),
];
const RETENTION: &[Key] = &[
    ("keep_last", Shape::Value),
    ("keep_within", Shape::Value),
    ("keep_daily", Shape::Value),
    ("keep_weekly", Shape::Value),
    ("keep_monthly", Shape::Value),
    ("keep_yearly", Shape::Value),
];
const WAL: &[Key] = &[
    ("compression", Shape::Value),
    ("level", Shape::Value),
    ("push_ahead", Shape::Value),
    ("fetch_ahead", Shape::Value),
    ("timeout", Shape::Value),
    ("spool", Shape::Value),
];
const BACKUP: &[Key] = &[
    ("jobs", Shape::Value),
    ("level", Shape::Value),
    ("checkpoint", Shape::Value),
    ("verify_pages", Shape::Value),
    ("wal_summaries", Shape::Value),
    ("rate", Shape::Value),
    ("nice", Shape::Value),
];
const DRILL: &[Key] = &[
    ("directory", Shape::Value),
    ("bin", Shape::Value),
    ("jobs", Shape::Value),
    ("timeout", Shape::Value),
    ("amcheck", Shape::Value),
    ("user", Shape::Value),
    ("preload", Shape::Value),
    ("assert", Shape::List(ASSERT)),
];
const ASSERT: &[Key] = &[
    ("name", Shape::Value),
    ("cluster", Shape::Value),
    ("database", Shape::Value),
    ("sql", Shape::Value),
    ("expected", Shape::Value),
];
const STATUS: &[Key] = &[
    ("max_backup_age", Shape::Value),
    ("max_drill_age", Shape::Value),
    ("max_ready", Shape::Value),
    ("max_ready_age", Shape::Value),
    ("min_time_to_full", Shape::Value),
];

const NOTIFY: &[Key] = &[
    ("webhook", Shape::Value),
    ("format", Shape::Value),
    ("ca_file", Shape::Value),
    ("command", Shape::Values),
    ("on", Shape::Values),
    ("timeout", Shape::Value),
    ("repeat", Shape::Value),
];

const LOG: &[Key] = &[("file", Shape::Value), ("level", Shape::Value), ("format", Shape::Value)];

/// Where a key may belong that stands in the wrong table.
const TABLES: &[(&str, &[Key])] = &[
    ("at the top", ROOT),
    ("in `[cluster.NAME]`", CLUSTER),
    ("in `[[repository]]`", REPOSITORY),
    ("in `[repository.retention]`", RETENTION),
    ("in `[wal]`", WAL),
    ("in `[backup]`", BACKUP),
    ("in `[drill]`", DRILL),
    ("in `[[drill.assert]]`", ASSERT),
    ("in `[status]`", STATUS),
    ("in `[notify]`", NOTIFY),
    ("in `[log]`", LOG),
];

/// A whole file, in which every key is known and stands where it belongs.
pub(super) struct Document<'t> {
    source: Source<'t>,
    root: DeTable<'t>,
}

/// The file, for errors.
struct Source<'t> {
    path: &'t Path,
    /// Where each line but the first starts.
    breaks: Vec<usize>,
}

/// One table of a file; one that the file does not have is empty.
pub(super) struct Table<'d> {
    source: &'d Source<'d>,
    /// The name that the user chose for it, of a named table.
    pub(super) name: &'d str,
    /// What it is called in errors and listings: `repository.local.retention`.
    pub(super) path: String,
    /// The line above its keys: `[repository.retention]`.
    pub(super) header: String,
    pub(super) line: Option<usize>,
    entries: Option<&'d DeTable<'d>>,
}

impl<'t> Document<'t> {
    pub(super) fn parse(path: &'t Path, text: &'t str) -> Result<Document<'t>> {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        let source = Source { path, breaks };
        let root = DeTable::parse(text).map_err(|error| {
            // Only the message: the parser's full text repeats the line, which may hold a secret.
            let message = format!("not valid TOML: {}", error.message());
            let line = error.span().map(|span| source.line(span.start));
            Error::new(Kind::Config, message)
                .doing(source.place(line))
                .hint("a text stands in quotes; each `[table]` and key comes once, on a line of its own")
        })?;
        let root = root.into_inner();
        let document = Document { source, root };
        document.root().check(ROOT)?;
        Ok(document)
    }

    /// What stands at the top of the file.
    pub(super) fn root(&self) -> Table<'_> {
        Table {
            source: &self.source,
            name: "",
            path: String::new(),
            header: String::new(),
            line: None,
            entries: Some(&self.root),
        }
    }
}

impl Source<'_> {
    /// The number of the line, from 1, in which the byte at `offset` is.
    fn line(&self, offset: usize) -> usize {
        self.breaks.partition_point(|&start| start <= offset) + 1
    }

    fn place(&self, line: Option<usize>) -> String {
        let file = self.path.display();
        match line {
            Some(line) => format!("{file}:{line}"),
            None => file.to_string(),
        }
    }
}

impl<'d> Table<'d> {
    /// The value under `key`, and its line.
    pub(super) fn get(&self, key: &str) -> Option<(&'d DeValue<'d>, usize)> {
        let (key, value) = self.entries?.get_key_value(key)?;
        Some((value.get_ref(), self.source.line(key.span().start)))
    }

    /// The keys that are there, in the order of the file.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'d str> + use<'d> {
        let entries = self.entries.into_iter().flatten();
        entries.map(|(key, _)| key.get_ref().as_ref())
    }

    /// The error that `key`, or what should be under it, is wrong.
    pub(super) fn error(&self, key: &str, message: impl Into<String>) -> Error {
        self.fault(key, Error::new(Kind::Config, message))
    }

    /// Adds to an error that it was met in the value of `key`, and where that is.
    pub(super) fn fault(&self, key: &str, error: Error) -> Error {
        let line = self.get(key).map(|(_, line)| line).or(self.line);
        let error = error.with_kind(Kind::Config).doing(join(&self.path, key));
        error.doing(self.source.place(line))
    }

    /// The table under `key`.
    pub(super) fn table(&self, key: &str) -> Table<'d> {
        let found = self.get(key);
        let place = join(self.header.trim_matches(['[', ']']), key);
        Table {
            source: self.source,
            name: "",
            path: join(&self.path, key),
            header: format!("[{place}]"),
            line: found.map(|(_, line)| line),
            entries: found.and_then(|(value, _)| value.as_table()),
        }
    }

    /// The tables under `key` that have a name each: `[cluster.main]`.
    pub(super) fn named(&self, key: &str) -> impl Iterator<Item = Table<'d>> {
        let parent = self.table(key);
        parent.keys().map(move |name| Table { name, ..parent.table(name) })
    }

    /// The list of tables under `key`: `[[repository]]`. In their paths stands what they have as
    /// `name`.
    pub(super) fn list(&self, key: &str) -> impl Iterator<Item = Table<'d>> {
        let items = self.get(key).and_then(|(value, _)| value.as_array());
        let parent = join(&self.path, key);
        items.into_iter().flat_map(|items| items.iter()).map(move |item| {
            let entries = item.get_ref().as_table();
            let name = entries.and_then(|entries| entries.get("name")?.get_ref().as_str());
            Table {
                source: self.source,
                name: name.unwrap_or_default(),
                path: name.map_or_else(|| parent.clone(), |name| join(&parent, name)),
                header: format!("[[{parent}]]"),
                line: Some(self.source.line(item.span().start)),
                entries,
            }
        })
    }

    /// Refuses the first key, in the order of the file, that is unknown or of the wrong shape.
    fn check(&self, keys: &[Key]) -> Result<()> {
        for (name, value) in self.entries.into_iter().flatten() {
            let name = name.get_ref().as_ref();
            let Some((_, shape)) = keys.iter().find(|(key, _)| *key == name) else {
                return Err(self.error(name, "unknown key").hint(nearest(name, keys)));
            };
            if !shape.fits(value.get_ref()) {
                return Err(self.error(name, shape.expected()).hint(shape.hint(name)));
            }
            match shape {
                Shape::Value | Shape::Values => {}
                Shape::Table(keys) => self.table(name).check(keys)?,
                Shape::Named(keys) => self.named(name).try_for_each(|table| table.check(keys))?,
                Shape::List(keys) => self.list(name).try_for_each(|table| table.check(keys))?,
            }
        }
        Ok(())
    }
}

impl Shape {
    fn fits(&self, value: &DeValue<'_>) -> bool {
        match (self, value) {
            (Shape::Value, value) => !value.is_table() && !value.is_array(),
            (Shape::Values, DeValue::Array(items)) => {
                items.iter().all(|item| !item.get_ref().is_table() && !item.get_ref().is_array())
            }
            (Shape::Table(_), value) => value.is_table(),
            (Shape::Named(_), DeValue::Table(tables)) => {
                tables.values().all(|value| value.get_ref().is_table())
            }
            (Shape::List(_), DeValue::Array(items)) => items.iter().all(|item| item.get_ref().is_table()),
            _ => false,
        }
    }

    fn expected(&self) -> &'static str {
        match self {
            Shape::Value => "expected a single value",
            Shape::Values => "expected a list",
            Shape::Table(_) => "expected a table",
            Shape::Named(_) => "expected tables with a name each",
            Shape::List(_) => "expected a list of tables",
        }
    }

    fn hint(&self, key: &str) -> String {
        match self {
            Shape::Value => format!("write it as `{key} = …` with a single value"),
            Shape::Values => format!("write it as `{key} = [\"…\", \"…\"]`, also when it is one alone"),
            Shape::Table(_) => format!("write it as a table, `[{key}]`, in single brackets"),
            Shape::Named(_) => format!("each has a table with its name, as in `[{key}.main]`"),
            Shape::List(_) => format!("each starts with `[[{key}]]`, in double brackets"),
        }
    }
}

/// What the writer of an unknown key may have meant.
fn nearest(name: &str, keys: &[Key]) -> String {
    let likeness = |key: &str| strsim::jaro_winkler(key, name);
    let nearest = keys
        .iter()
        .map(|(key, _)| *key)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .unwrap_or_default();
    match TABLES.iter().find(|(_, keys)| keys.iter().any(|(key, _)| *key == name)) {
        Some((place, _)) => {
            format!("`{name}` belongs {place}; the nearest key here is `{nearest}`")
        }
        None => format!("the nearest key here is `{nearest}`"),
    }
}

/// The path of `key` in the table at `parent`, as TOML writes it.
pub(super) fn join(parent: &str, key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let key = match !key.is_empty() && key.bytes().all(bare) {
        true => Cow::Borrowed(key),
        false => Cow::Owned(format!("{key:?}")),
    };
    match parent {
        "" => key.into_owned(),
        _ => format!("{parent}.{key}"),
    }
}
