//! The configuration file, read once into values that need no further checks.
//!
//! An unknown or misplaced key, an invalid value and a missing one are errors that name file, line
//! and key. Every key is checked before the first value is read. No secret is part of an error, of
//! [`Config::shown`] or of a `{:?}`. This room reads the file and compares directories; it knows
//! nothing of the environment, the clock and the machine: facts about these are arguments.

mod document;
mod read;
mod reader;
mod schema;
mod sections;
mod shown;
mod url;
mod value;

pub use shown::ShownConfig;
pub use url::RepositoryUrl;
pub use value::{duration_text, parse_duration, parse_size};

use crate::codec::compress::Compression;
use crate::drill::Assertion;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use crate::notify::{NoticeEvent, Webhook};
use crate::observe::Limits;
use crate::pg::conninfo;
use crate::retention::Policy;
use crate::storage::{Checksums, S3Options};
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Text that replaces a secret.
const MASK: &str = "********";

/// Path of the configuration when neither `--config` nor `$WALKEEP_CONFIG` names one.
pub const DEFAULT_PATH: &str = "/etc/walkeep/walkeep.toml";

/// Maximum number of threads of a backup or drill.
const MAX_JOBS: u16 = 1024;

/// Maximum size of a configuration file in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// A valid configuration: at least one cluster, and at least one repository that is required.
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the file, as it was given.
    pub path: PathBuf,
    /// Clusters in the order of the file. Names and data directories are unique.
    pub clusters: Vec<ClusterConfig>,
    /// Repositories in the order of the file. Names and places are unique.
    pub repositories: Vec<RepositoryConfig>,
    pub wal: WalConfig,
    pub backup: BackupConfig,
    pub drill: DrillConfig,
    pub status: Limits,
    pub notify: NotifyConfig,
    pub log: LogConfig,
    sections: Vec<shown::Section>,
}

/// A PostgreSQL data directory, and how to connect to the server on it.
#[derive(Clone)]
pub struct ClusterConfig {
    /// A single path component: ASCII letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Absolute; it need not exist.
    pub pgdata: PathBuf,
    /// libpq keywords or a URI; may contain a password. `None`: libpq's own defaults, with the user
    /// that the process runs as.
    pub connection: Option<String>,
    /// Connection string of the primary, where the server may be a standby.
    pub primary: Option<String>,
}

/// A repository for WAL and backups.
#[derive(Debug, Clone)]
pub struct RepositoryConfig {
    /// ASCII letters, digits, `-`, `_` and `.`.
    pub name: String,
    pub url: RepositoryUrl,
    /// Whether WAL counts as archived only when it is stored here.
    pub required: bool,
    pub retention: Policy,
    /// Settings of an `s3://` URL.
    pub bucket: Option<BucketConfig>,
}

/// A bucket of an object store.
#[derive(Debug, Clone)]
pub struct BucketConfig {
    /// Options without an environment, which this room does not read.
    pub options: S3Options,
    /// Whether the store supports `If-None-Match: *`.
    pub conditional_create: bool,
}

/// Settings of walpush and walfetch.
#[derive(Debug, Clone)]
pub struct WalConfig {
    pub compression: Compression,
    /// Further ready segments pushed in the same call, at most 1024.
    pub push_ahead: u32,
    /// Segments fetched ahead during recovery, at most 1024.
    pub fetch_ahead: u32,
    /// Deadline of a whole call; never zero.
    pub timeout: Duration,
    /// Absolute.
    pub spool: PathBuf,
}

/// Settings of base backups.
#[derive(Debug, Clone)]
pub struct BackupConfig {
    /// Number of processors to use, at most 1024.
    pub jobs: NonZeroUsize,
    pub compression: Compression,
    pub checkpoint: Checkpoint,
    /// Whether data page checksums are checked, where the cluster has them.
    pub verify_pages: bool,
    /// Whether blocks are skipped that have not changed according to the server's WAL summaries.
    pub wal_summaries: bool,
    /// Maximum number of bytes read from files per second.
    pub rate: Option<NonZeroU64>,
    /// Increment of the niceness of the process, 0 to 19.
    pub nice: i32,
}

/// Settings of drills.
#[derive(Debug, Clone)]
pub struct DrillConfig {
    /// Parent of the scratch directories; absolute.
    pub directory: PathBuf,
    /// Directory of PostgreSQL's programs. `None`: the usual places.
    pub bin: Option<PathBuf>,
    /// Number of sessions that read, and of threads that restore.
    pub jobs: NonZeroUsize,
    /// Limit for the whole drill; never zero.
    pub timeout: Duration,
    pub amcheck: bool,
    /// A role of the cluster that may log in.
    pub user: Option<String>,
    /// Libraries that are needed to replay the WAL.
    pub preload: Option<String>,
    /// Names are unique.
    pub assertions: Vec<ClusterAssertion>,
}

/// An assertion about a restored cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterAssertion {
    /// Name of the cluster. `None`: every cluster.
    pub cluster: Option<String>,
    pub assertion: Assertion,
}

/// Settings of notices. Without a webhook and a command no notice is sent.
#[derive(Debug, Clone)]
pub struct NotifyConfig {
    pub webhook: Option<Webhook>,
    /// Absolute path of a program, and its arguments.
    pub command: Option<Vec<String>>,
    /// Events that cause a notice.
    pub on: Vec<NoticeEvent>,
    /// Limit for each notice; never zero.
    pub timeout: Duration,
    /// Interval after which a lasting failure is reported again.
    pub repeat: Duration,
}

/// The log file of all three programs.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Absolute. `None`: no log file.
    pub file: Option<PathBuf>,
    /// Least severe level that the file receives.
    pub level: LogLevel,
    pub format: LogFormat,
    /// User and group as which root opens the file; `None` for those of the process. The
    /// configuration file does not set it.
    pub owner: Option<(u32, u32)>,
}

/// Level of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// Format of a log: lines for people, or one JSON object on each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Speed of the checkpoint at the start of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    Fast,
    Spread,
}

/// Path of the configuration: that of `--config`, else `$WALKEEP_CONFIG` unless that is empty, else
/// [`DEFAULT_PATH`].
#[must_use]
pub fn locate(option: Option<PathBuf>, environment_value: Option<OsString>) -> PathBuf {
    let environment = environment_value.filter(|value| !value.is_empty());
    option.or(environment.map(PathBuf::from)).unwrap_or_else(|| DEFAULT_PATH.into())
}

impl Config {
    /// Reads a file; `cpus` is the default of `backup.jobs`.
    ///
    /// # Errors
    ///
    /// `Config` in every case, also when the file cannot be read, or contains a secret and every
    /// user can open it.
    pub fn load(path: &Path, cpus: NonZeroUsize) -> Result<Config> {
        let (text, mode) = read(path).map_err(|error| {
            let hint = match error.kind() {
                Kind::Absent => format!(
                    "the configuration is the file of `--config`, else of `$WALKEEP_CONFIG`, else `{DEFAULT_PATH}`"
                ),
                _ => "the user that PostgreSQL runs as must be able to read it".to_owned(),
            };
            error.hint(hint).with_kind(Kind::Config)
        })?;
        let config = Config::parse(path, &text, cpus)?;
        if mode & 0o007 != 0 {
            config.check_secrets(mode & 0o7777)?;
        }
        Ok(config)
    }

    /// Parses the text of the file `path`; `cpus` is the default of `backup.jobs`.
    ///
    /// # Errors
    ///
    /// `Config`, with file, line and key.
    pub fn parse(path: &Path, text: &str, cpus: NonZeroUsize) -> Result<Config> {
        let document = document::Document::parse(path, text)?;
        let keys = reader::keys(|root| sections::read(root, cpus))?;
        schema::check(&document.root(), &keys, &keys)?;
        let (read, sections) =
            reader::TableReader::read_root(document.root(), |root| sections::read(root, cpus))?;
        let sections::Sections { clusters, repositories, wal, backup, drill, status, notify, log } = read;
        let path = path.to_owned();
        Ok(Config { path, clusters, repositories, wal, backup, drill, status, notify, log, sections })
    }

    /// Refuses a configuration with a secret in a file that every user can open.
    fn check_secrets(&self, mode: u32) -> Result<()> {
        let mut secrets = self.clusters.iter().flat_map(|cluster| {
            let keys = [("connection", &cluster.connection), ("primary", &cluster.primary)];
            let with_secret = keys.into_iter().filter(|(_, text)| text.as_deref().is_some_and(has_secret));
            let table = document::join("cluster", &cluster.name);
            with_secret.map(move |(key, _)| format!("{table}.{key}: contains a password"))
        });
        let (what, alternative) = match (secrets.next(), &self.notify.webhook) {
            (Some(what), _) => (what, ", or put the password into `~/.pgpass`"),
            // The address is enough to send notices.
            (None, Some(_)) => ("notify.webhook: is a secret".to_owned(), ""),
            (None, None) => return Ok(()),
        };
        let path = self.path.display();
        let message = format!("{what}, and every user can open the file (mode {mode:04o})");
        Err(Error::new(Kind::Config, message)
            .doing(path.to_string())
            .hint(format!("`chmod 0640 {path}`, with the group that PostgreSQL runs as{alternative}")))
    }

    /// Returns the cluster of this name or, without a name, the one whose data directory is
    /// `working_directory`, through any number of links.
    ///
    /// # Errors
    ///
    /// `Usage` when there is none, or more than one.
    pub fn cluster(&self, name: Option<&str>, working_directory: &Path) -> Result<&ClusterConfig> {
        if let Some(name) = name {
            return find(name, "cluster", &self.path, &self.clusters, |cluster| &cluster.name);
        }
        let here = identity(working_directory);
        let mut matching =
            self.clusters.iter().filter(|cluster| here.is_some() && identity(&cluster.pgdata) == here);
        match (matching.next(), matching.next()) {
            (Some(cluster), None) => Ok(cluster),
            (None, _) => Err(self.no_cluster(format!(
                "no cluster has the working directory {} as its pgdata",
                working_directory.display()
            ))),
            (Some(first), Some(second)) => Err(self
                .no_cluster(format!("the clusters {} and {} have the same pgdata", first.name, second.name))),
        }
    }

    /// Returns the only cluster of the configuration, or the one that [`Config::cluster`] finds
    /// among several.
    ///
    /// # Errors
    ///
    /// Those of [`Config::cluster`].
    pub fn sole_cluster(&self, name: Option<&str>, working_directory: &Path) -> Result<&ClusterConfig> {
        match (name, self.clusters.as_slice()) {
            (None, [cluster]) => Ok(cluster),
            _ => self.cluster(name, working_directory),
        }
    }

    /// Returns the repository of this name.
    ///
    /// # Errors
    ///
    /// `Usage` when there is none.
    pub fn repository(&self, name: &str) -> Result<&RepositoryConfig> {
        find(name, "repository", &self.path, &self.repositories, |repository| &repository.name)
    }

    /// Returns every setting in force with its source, secrets masked.
    #[must_use]
    pub fn shown(&self) -> ShownConfig<'_> {
        ShownConfig { path: &self.path, sections: &self.sections }
    }

    fn no_cluster(&self, message: String) -> Error {
        let names: Vec<_> = self.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        Error::new(Kind::Usage, message)
            .doing(self.path.display().to_string())
            .hint(format!("give `--cluster` with one of: {}", names.join(", ")))
    }
}

/// Finds the item of this name; the error lists the names of all items.
fn find<'c, T>(
    name: &str,
    what: &str,
    path: &Path,
    items: &'c [T],
    name_of: impl Fn(&T) -> &String,
) -> Result<&'c T> {
    items.iter().find(|item| name_of(item) == name).ok_or_else(|| {
        let names: Vec<_> = items.iter().map(|item| name_of(item).as_str()).collect();
        let names = names.join(", ");
        let path = path.display();
        Error::new(Kind::Usage, format!("{path} has no {what} {name:?}; it has: {names}"))
            .hint(format!("use one of: {names}"))
    })
}

/// Device and inode of a directory, equal for all paths that lead to it. Unlike resolved paths they
/// are equal through bind mounts too.
fn identity(directory: &Path) -> Option<(u64, u64)> {
    let stat = named::stat(directory).ok()??;
    Some((stat.st_dev, stat.st_ino))
}

/// Reads the text and the mode of a file.
fn read(path: &Path) -> Result<(String, u32)> {
    let doing = || format!("read {}", path.display());
    let (file, stat) = named::open_with_stat(path)?.ok_or_else(|| named::missing(path))?;
    let mode = stat.st_mode;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes).doing(doing)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        let message = "larger than 1 MiB, so it is not a configuration";
        return Err(Error::new(Kind::Config, message).doing(doing()));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = valid.filter(|&&byte| byte == b'\n').count() + 1;
        Error::new(Kind::Config, "not valid UTF-8")
            .doing(format!("{}:{line}", path.display()))
            .hint("save the file as UTF-8")
    })?;
    Ok((text, mode))
}

/// Word of the configuration.
fn checksums_text(checksums: Checksums) -> &'static str {
    match checksums {
        Checksums::Header => "header",
        Checksums::None => "none",
    }
}

impl LogLevel {
    /// Word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}

impl LogFormat {
    /// Word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

impl Checkpoint {
    /// Word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Checkpoint::Fast => "fast",
            Checkpoint::Spread => "spread",
        }
    }
}

/// A connection string with its secrets masked; all of it where it cannot be parsed.
fn shown_connection(text: &str) -> String {
    match conninfo::mask(text, MASK) {
        Ok(masked) => masked.unwrap_or_else(|| text.to_owned()),
        Err(_) => MASK.to_owned(),
    }
}

fn has_secret(connection: &str) -> bool {
    shown_connection(connection) != connection
}

/// Masks the passwords, since debugging output ends up in logs.
impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConfig")
            .field("name", &self.name)
            .field("pgdata", &self.pgdata)
            .field("connection", &self.connection.as_deref().map(shown_connection))
            .field("primary", &self.primary.as_deref().map(shown_connection))
            .finish()
    }
}
