//! Reader of one table: declares each key, reads its value, and records the value and its source.
//!
//! The readers of the sections run twice. A declaration runs on an empty table and collects the
//! known keys; required values are then those of the examples. Reading runs on the file, whose keys
//! have been checked.

use super::document::Table;
use super::schema::{KnownKey, Shape};
use super::shown::{Section, ShownAs, ShownSetting};
use crate::error::Result;
use std::borrow::Cow;
use toml::de::DeValue;

pub(super) struct TableReader<'d> {
    table: Table<'d>,
    is_declaration: bool,
    keys: Vec<KnownKey>,
    settings: Vec<ShownSetting>,
    /// Sections of the tables below this one.
    below: Vec<Section>,
}

/// Collects the keys that `read` declares.
pub(super) fn keys<T>(read: impl FnOnce(&mut TableReader<'_>) -> Result<T>) -> Result<Vec<KnownKey>> {
    let mut reader = TableReader::new(Table::empty(), true);
    read(&mut reader)?;
    Ok(reader.keys)
}

impl<'d> TableReader<'d> {
    fn new(table: Table<'d>, is_declaration: bool) -> TableReader<'d> {
        TableReader { table, is_declaration, keys: Vec::new(), settings: Vec::new(), below: Vec::new() }
    }

    /// Reads the top level of a file with `read`; returns the sections too.
    pub(super) fn read_root<T>(
        root: Table<'d>,
        read: impl FnOnce(&mut TableReader<'_>) -> Result<T>,
    ) -> Result<(T, Vec<Section>)> {
        let mut reader = TableReader::new(root, false);
        let value = read(&mut reader)?;
        Ok((value, reader.below))
    }

    pub(super) fn table(&self) -> &Table<'d> {
        &self.table
    }

    /// The value of `key`, if it is set.
    pub(super) fn opt<T: ShownAs>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let value = self.value(key, read)?;
        self.record(key, value.as_ref(), Shape::Value);
        Ok(value)
    }

    /// The value of `key`, or its default.
    pub(super) fn or<T: ShownAs>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl Fn(&DeValue<'_>) -> Result<T>,
    ) -> Result<T> {
        let value = self.value(key, read)?.unwrap_or(default);
        self.record(key, Some(&value), Shape::Value);
        Ok(value)
    }

    /// The value of `key`, which must be set; `example` is a valid value.
    pub(super) fn required<T: ShownAs>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T>,
    ) -> Result<T> {
        let value = if self.is_declaration {
            read(&DeValue::String(Cow::Borrowed(example)))?
        } else {
            self.value(key, read)?.ok_or_else(|| {
                let hint = format!("add a line such as `{key} = {example:?}`");
                self.table.error(key, "missing").hint(hint)
            })?
        };
        self.record(key, Some(&value), Shape::Value);
        Ok(value)
    }

    /// The items of the list under `key`, if it is set.
    pub(super) fn opt_list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<Vec<T>>,
    ) -> Result<Option<Vec<T>>>
    where
        Vec<T>: ShownAs,
    {
        let value = self.value(key, read)?;
        self.record(key, value.as_ref(), Shape::Values);
        Ok(value)
    }

    /// The items of the list under `key`, or its default.
    pub(super) fn list_or<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        read: impl Fn(&DeValue<'_>) -> Result<Vec<T>>,
    ) -> Result<Vec<T>>
    where
        Vec<T>: ShownAs,
    {
        let value = self.value(key, read)?.unwrap_or(default);
        self.record(key, Some(&value), Shape::Values);
        Ok(value)
    }

    /// Reads the table under `key`.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut TableReader<'_>) -> Result<T>,
    ) -> Result<T> {
        let table = self.table.table(key);
        let (value, keys) = self.read_below(table, read)?;
        self.declare(key, Shape::Table(keys));
        Ok(value)
    }

    /// Reads the tables under `key` that have a name each. `read` gets the values that were read
    /// before.
    pub(super) fn named<T>(
        &mut self,
        key: &'static str,
        read: impl FnMut(&mut TableReader<'_>, &[T]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let tables: Vec<_> =
            if self.is_declaration { vec![Table::empty()] } else { self.table.named(key).collect() };
        let (values, keys) = self.read_each(tables, read)?;
        self.declare(key, Shape::Named(keys));
        Ok(values)
    }

    /// Reads the list of tables under `key`. `read` gets the values that were read before.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        read: impl FnMut(&mut TableReader<'_>, &[T]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let tables: Vec<_> =
            if self.is_declaration { vec![Table::empty()] } else { self.table.list(key).collect() };
        let (values, keys) = self.read_each(tables, read)?;
        self.declare(key, Shape::List(keys));
        Ok(values)
    }

    /// Declares the keys of `read` without reading them. One that is set is refused with `message`.
    pub(super) fn refuse<T>(
        &mut self,
        read: impl FnOnce(&mut TableReader<'_>) -> Result<T>,
        message: &str,
        hint: impl Fn(&str) -> String,
    ) -> Result<()> {
        let refused = keys(read)?;
        let set = self.table.entries().find(|(set, _)| refused.iter().any(|key| key.name == *set));
        if let Some((key, _)) = set {
            return Err(self.table.error(key, message).hint(hint(key)));
        }
        self.keys.extend(refused);
        Ok(())
    }

    fn read_each<T>(
        &mut self,
        tables: Vec<Table<'_>>,
        mut read: impl FnMut(&mut TableReader<'_>, &[T]) -> Result<T>,
    ) -> Result<(Vec<T>, Vec<KnownKey>)> {
        let (mut values, mut all_keys) = (Vec::new(), Vec::new());
        for table in tables {
            let (value, keys) = self.read_below(table, |reader| read(reader, &values))?;
            values.push(value);
            all_keys = keys;
        }
        Ok((values, all_keys))
    }

    fn read_below<T>(
        &mut self,
        table: Table<'_>,
        read: impl FnOnce(&mut TableReader<'_>) -> Result<T>,
    ) -> Result<(T, Vec<KnownKey>)> {
        let mut reader = TableReader::new(table, self.is_declaration);
        let value = read(&mut reader)?;
        let TableReader { table, keys, settings, below, .. } = reader;
        let Table { path, header, line, .. } = table;
        self.below.push(Section { path, header, line, settings });
        self.below.extend(below);
        Ok((value, keys))
    }

    fn value<T>(&self, key: &str, read: impl Fn(&DeValue<'_>) -> Result<T>) -> Result<Option<T>> {
        let value = self.table.get(key).map(|(value, _)| read(value)).transpose();
        value.map_err(|error| self.table.at(key, error))
    }

    fn record<T: ShownAs>(&mut self, key: &'static str, value: Option<&T>, shape: Shape) {
        self.declare(key, shape);
        if !self.is_declaration {
            let line = self.table.get(key).and_then(|(_, line)| line);
            self.settings.push(ShownSetting { key, value: value.map(ShownAs::shown), line });
        }
    }

    fn declare(&mut self, name: &'static str, shape: Shape) {
        if self.is_declaration {
            self.keys.push(KnownKey { name, shape });
        }
    }
}
