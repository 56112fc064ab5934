//! The configuration file as written: TOML tables, and the line of each key. Does not know which
//! keys there are.

use crate::error::{Error, Kind, Result};
use std::borrow::Cow;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// A parsed file.
pub(super) struct Document<'t> {
    file: DocumentFile<'t>,
    root: DeTable<'t>,
}

/// Path and lines of the file, for errors.
struct DocumentFile<'t> {
    path: &'t Path,
    /// Offsets at which the lines begin, without the first line.
    line_starts: Vec<usize>,
}

/// One table of the file. A table that the file does not have is empty.
#[derive(Clone)]
pub(super) struct Table<'d> {
    /// `None` in a declaration, which no file belongs to.
    file: Option<&'d DocumentFile<'d>>,
    /// Name that the user chose, of a named table; meaningless in others.
    pub(super) name: &'d str,
    /// Path in errors and listings: `repository.local.retention`.
    pub(super) path: String,
    /// Header as written above the keys: `[repository.retention]`.
    pub(super) header: String,
    /// Line of the header.
    pub(super) line: Option<usize>,
    entries: Option<&'d DeTable<'d>>,
}

impl<'t> Document<'t> {
    pub(super) fn parse(path: &'t Path, text: &'t str) -> Result<Document<'t>> {
        let line_starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        let file = DocumentFile { path, line_starts };
        let root = DeTable::parse(text).map_err(|error| {
            // Only the message: the parser's full text repeats the line, which may hold a secret.
            let message = format!("not valid TOML: {}", error.message());
            let line = error.span().map(|span| file.line(span.start));
            Error::new(Kind::Config, message)
                .doing(file.place(line))
                .hint("put text in quotes; write each `[table]` and key once, on a line of its own")
        })?;
        Ok(Document { file, root: root.into_inner() })
    }

    /// The top level of the file.
    pub(super) fn root(&self) -> Table<'_> {
        Table { file: Some(&self.file), entries: Some(&self.root), ..Table::empty() }
    }
}

impl DocumentFile<'_> {
    /// Number of the line, from 1, that contains the byte at `offset`.
    fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset) + 1
    }

    fn place(&self, line: Option<usize>) -> String {
        let file = self.path.display();
        line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}"))
    }
}

impl<'d> Table<'d> {
    /// A table without keys that belongs to no file, with a valid name.
    pub(super) fn empty() -> Table<'d> {
        Table {
            file: None,
            name: "main",
            path: String::new(),
            header: String::new(),
            line: None,
            entries: None,
        }
    }

    /// The value of `key`, and the line of the key.
    pub(super) fn get(&self, key: &str) -> Option<(&'d DeValue<'d>, Option<usize>)> {
        let (key, value) = self.entries?.get_key_value(key)?;
        Some((value.get_ref(), self.file.map(|file| file.line(key.span().start))))
    }

    /// Keys and values in the order of the file.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'d str, &'d DeValue<'d>)> + use<'d> {
        let entries = self.entries.into_iter().flatten();
        entries.map(|(key, value)| (key.get_ref().as_ref(), value.get_ref()))
    }

    /// An error about `key` of this table, with its place.
    pub(super) fn error(&self, key: &str, message: impl Into<String>) -> Error {
        self.at(key, Error::new(Kind::Config, message))
    }

    /// Adds `key` and its place to an error.
    pub(super) fn at(&self, key: &str, error: Error) -> Error {
        let line = self.get(key).map_or(self.line, |(_, line)| line);
        let error = error.with_kind(Kind::Config).doing(join(&self.path, key));
        match self.file {
            Some(file) => error.doing(file.place(line)),
            None => error,
        }
    }

    /// Adds the path of this table and its place to an error.
    pub(super) fn here(&self, error: Error) -> Error {
        let error = error.with_kind(Kind::Config).doing(self.path.as_str());
        match self.file {
            Some(file) => error.doing(file.place(self.line)),
            None => error,
        }
    }

    /// The table under `key`.
    pub(super) fn table(&self, key: &str) -> Table<'d> {
        let found = self.get(key);
        let place = join(self.header.trim_matches(['[', ']']), key);
        Table {
            file: self.file,
            name: "",
            path: join(&self.path, key),
            header: format!("[{place}]"),
            line: found.and_then(|(_, line)| line),
            entries: found.and_then(|(value, _)| value.as_table()),
        }
    }

    /// The tables under `key` that have a name each, as `[cluster.main]`.
    pub(super) fn named(&self, key: &str) -> impl Iterator<Item = Table<'d>> + use<'d> {
        let parent = self.table(key);
        parent.entries().map(move |(name, _)| Table { name, ..parent.table(name) })
    }

    /// The list of tables under `key`, as `[[repository]]`. The value of `name` is part of their
    /// paths.
    pub(super) fn list(&self, key: &str) -> impl Iterator<Item = Table<'d>> + use<'d> {
        let items = self.get(key).and_then(|(value, _)| value.as_array());
        let parent = join(&self.path, key);
        let file = self.file;
        items.into_iter().flat_map(|items| items.iter()).map(move |item| {
            let entries = item.get_ref().as_table();
            let name = entries.and_then(|entries| entries.get("name")?.get_ref().as_str());
            Table {
                file,
                name: "",
                path: name.map_or_else(|| parent.clone(), |name| join(&parent, name)),
                header: format!("[[{parent}]]"),
                line: file.map(|file| file.line(item.span().start)),
                entries,
            }
        })
    }
}

/// The path of `key` in the table at `parent`, as TOML writes it.
pub(super) fn join(parent: &str, key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let key = if !key.is_empty() && key.bytes().all(is_bare) {
        Cow::Borrowed(key)
    } else {
        Cow::Owned(format!("{key:?}"))
    };
    if parent.is_empty() { key.into_owned() } else { format!("{parent}.{key}") }
}
