//! The known keys, and the check of a file against them before any value is read. The keys come
//! from the readers of the sections, which declare each key where they read it (see `reader.rs`).

use super::document::{Table, join};
use crate::error::Result;
use toml::de::DeValue;

/// A known key, and what may be under it.
pub(super) struct KnownKey {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
}

/// The kind of value under a key.
pub(super) enum Shape {
    /// A single value.
    Value,
    /// A list of single values.
    Values,
    Table(Vec<KnownKey>),
    /// A table of tables, each under a name that the user chooses.
    Named(Vec<KnownKey>),
    /// A list of tables.
    List(Vec<KnownKey>),
}

/// Refuses the first key, in the order of the file, that is unknown or of the wrong shape.
pub(super) fn check(table: &Table<'_>, keys: &[KnownKey], root: &[KnownKey]) -> Result<()> {
    for (name, value) in table.entries() {
        let Some(KnownKey { shape, .. }) = keys.iter().find(|key| key.name == name) else {
            return Err(table.error(name, "unknown key").hint(nearest(name, keys, root)));
        };
        if !shape.fits(value) {
            return Err(table.error(name, shape.expected()).hint(shape.hint(name)));
        }
        match shape {
            Shape::Value | Shape::Values => {}
            Shape::Table(keys) => check(&table.table(name), keys, root)?,
            Shape::Named(keys) => table.named(name).try_for_each(|table| check(&table, keys, root))?,
            Shape::List(keys) => table.list(name).try_for_each(|table| check(&table, keys, root))?,
        }
    }
    Ok(())
}

impl Shape {
    fn keys(&self) -> &[KnownKey] {
        match self {
            Shape::Value | Shape::Values => &[],
            Shape::Table(keys) | Shape::Named(keys) | Shape::List(keys) => keys,
        }
    }

    fn fits(&self, value: &DeValue<'_>) -> bool {
        let is_single = |value: &DeValue<'_>| !value.is_table() && !value.is_array();
        match (self, value) {
            (Shape::Value, value) => is_single(value),
            (Shape::Values, DeValue::Array(items)) => items.iter().all(|item| is_single(item.get_ref())),
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
            Shape::Named(_) => "expected named tables",
            Shape::List(_) => "expected a list of tables",
        }
    }

    fn hint(&self, key: &str) -> String {
        match self {
            Shape::Value => format!("write it as `{key} = …` with a single value"),
            Shape::Values => format!("write it as `{key} = [\"…\", \"…\"]`, also with a single item"),
            Shape::Table(_) => format!("write it as a table, `[{key}]`, in single brackets"),
            Shape::Named(_) => format!("write a table for each name, as in `[{key}.main]`"),
            Shape::List(_) => format!("begin each one with `[[{key}]]`, in double brackets"),
        }
    }

    /// Header of the tables that are under `key`.
    fn header(&self, key: &str) -> String {
        match self {
            Shape::Named(_) => format!("[{key}.NAME]"),
            Shape::List(_) => format!("[[{key}]]"),
            Shape::Value | Shape::Values | Shape::Table(_) => format!("[{key}]"),
        }
    }
}

/// The hint for an unknown key: the place where such a key is known, and the nearest key of this
/// table.
fn nearest(name: &str, keys: &[KnownKey], root: &[KnownKey]) -> String {
    let likeness = |key: &&KnownKey| strsim::jaro_winkler(key.name, name);
    let nearest = keys.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let nearest = nearest.map_or_else(String::new, |key| format!("the nearest key here is `{}`", key.name));
    let place = if root.iter().any(|key| key.name == name) {
        Some("at the top".to_owned())
    } else {
        header_of(name, "", root).map(|header| format!("in `{header}`"))
    };
    place.map_or_else(|| nearest.clone(), |place| format!("`{name}` belongs {place}; {nearest}"))
}

/// Header of the first table below `keys` that has a key called `name`.
fn header_of(name: &str, path: &str, keys: &[KnownKey]) -> Option<String> {
    keys.iter().find_map(|key| {
        let path = join(path, key.name);
        let below = key.shape.keys();
        let is_here = below.iter().any(|key| key.name == name);
        if is_here { Some(key.shape.header(&path)) } else { header_of(name, &path, below) }
    })
}
