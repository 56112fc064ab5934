//! Values of settings in the configuration files of a backup. Source: PostgreSQL's `guc-file.l` and
//! `config.sgml` (Setting Parameters).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Maximum depth of included files, as in PostgreSQL (`CONF_FILE_MAX_DEPTH` in `conffiles.h`).
const MAX_DEPTH: usize = 10;

/// Configuration files by their original paths, from the root.
pub(super) type ConfigFiles = BTreeMap<PathBuf, Vec<u8>>;

/// Settings by their names in lower case; of several values the last one holds.
#[derive(Debug, Default)]
pub(super) struct Configuration(BTreeMap<String, String>);

impl Configuration {
    /// Reads `config_file` with the files that it includes, and then `postgresql.auto.conf` of the
    /// data directory. Files that are missing are passed over.
    pub fn read(files: &ConfigFiles, config_file: &Path, data_directory: &Path) -> Configuration {
        let mut found = Configuration::default();
        found.add_file(files, config_file, MAX_DEPTH);
        found.add_file(files, &data_directory.join("postgresql.auto.conf"), MAX_DEPTH);
        found
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Settings whose value is this directory or a path in it.
    pub fn below(&self, directory: &Path) -> Vec<(String, String)> {
        let is_below = |(_, value): &(&String, &String)| Path::new(value).starts_with(directory);
        self.0.iter().filter(is_below).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn add_file(&mut self, files: &ConfigFiles, path: &Path, depth: usize) {
        let Some(text) = files.get(path).filter(|_| depth > 0) else {
            return;
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        for (name, value) in String::from_utf8_lossy(text).lines().filter_map(setting) {
            match name.as_str() {
                "include" | "include_if_exists" => {
                    self.add_file(files, &directory.join(value), depth - 1);
                }
                "include_dir" => {
                    let directory = directory.join(value);
                    // In the order of the names, as PostgreSQL does (`GetConfFilesInDir`).
                    for file in files.keys().filter(|file| file.parent() == Some(&directory)) {
                        self.add_file(files, file, depth - 1);
                    }
                }
                _ => drop(self.0.insert(name, value)),
            }
        }
    }
}

/// Name and value of a line; `None` for a line without a setting.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.$".contains(c)))?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquoted(quoted),
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?.to_owned(),
    };
    Some((name.to_ascii_lowercase(), value))
}

/// Text of a value up to its closing quote. `''` and `\'` are quotes.
fn unquoted(text: &str) -> String {
    let mut value = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => value.extend(characters.next()),
            '\'' if characters.next_if_eq(&'\'').is_some() => value.push('\''),
            '\'' => break,
            other => value.push(other),
        }
    }
    value
}
