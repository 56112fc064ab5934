//! The configuration file, read once into values that need no further checking.
//!
//! Promises: an unknown or misplaced key, a bad value and a missing one are errors that name file,
//! line and key, and every key is checked before the first value is used; no secret stands in an
//! error, in [`Config::shown`] or in a `{:?}`. Reads the file and compares directories; knows nothing
//! of the environment, the clock and the machine: what it needs of them comes in as an argument.

mod connection;
mod raw;
mod read;
mod resolve;
mod shown;
mod url;
mod value;

pub use shown::ShownConfig;
pub use url::Url;
pub use value::{duration_text, parse_duration, parse_size};

use crate::error::{Doing, Error, Kind, Result};
use crate::notify::{self, Webhook};
use crate::storage::{Checksums, S3Options};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Stands where a secret was.
const MASK: &str = "********";

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/walkeep/walkeep.toml";

/// Threads of a backup.
const MOST_JOBS: u16 = 1024;

/// No configuration comes near; what is larger is some other file.
const LARGEST_FILE: u64 = 1 << 20;

/// A valid configuration: at least one cluster, and at least one repository that is required.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file, as it was named.
    pub path: PathBuf,
    /// In the order of the file, as are the repositories. Names and data directories differ.
    pub clusters: Vec<Cluster>,
    /// Names and places differ.
    pub repositories: Vec<Repository>,
    pub wal: Wal,
    pub backup: Backup,
    pub drill: Drill,
    pub status: Status,
    pub notify: Notify,
    pub log: LogOptions,
    sections: Vec<shown::Section>,
}

/// A PostgreSQL data directory, and how to reach the server on it.
#[derive(Clone)]
pub struct Cluster {
    /// A single path component: ASCII letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Absolute; it need not exist.
    pub pgdata: PathBuf,
    /// libpq keywords or a URI, perhaps with a password in it. None: libpq's own defaults, with the
    /// user that the process runs as.
    pub connection: Option<String>,
    /// The same for the primary, where the server may be a standby.
    pub primary: Option<String>,
}

/// A place for WAL and backups.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Of the same characters as that of a cluster.
    pub name: String,
    pub url: Url,
    /// Whether nothing counts as stored that is not stored here.
    pub required: bool,
    pub retention: Retention,
    /// What belongs to an `s3://` URL.
    pub bucket: Option<Bucket>,
}

/// What is kept: whatever any rule keeps. No rule at all: everything. No number is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Complete, undamaged backups.
    pub keep_last: Option<u32>,
    /// Every moment of this long is restorable.
    pub keep_within: Option<Duration>,
    pub keep_daily: Option<u32>,
    pub keep_weekly: Option<u32>,
    pub keep_monthly: Option<u32>,
    pub keep_yearly: Option<u32>,
}

/// A bucket of an object store.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Without an environment: that is not the business of this room.
    pub options: S3Options,
    /// Whether the store knows `If-None-Match: *`.
    pub conditional_create: bool,
}

/// How WAL is archived and fetched.
#[derive(Debug, Clone)]
pub struct Wal {
    pub compression: Compression,
    /// Of zstd, 1 to 19.
    pub level: i32,
    /// Further ready segments pushed in the same call, at most 1024.
    pub push_ahead: u32,
    /// Segments fetched ahead during recovery, at most 1024.
    pub fetch_ahead: u32,
    /// Deadline of a whole call; never zero.
    pub timeout: Duration,
    /// Absolute.
    pub spool: PathBuf,
}

/// The log file of all three programs.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Absolute; `None`: no log file.
    pub file: Option<PathBuf>,
    /// Least severe level that the file receives.
    pub level: LogLevel,
    pub format: LogFormat,
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

/// How WAL is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Zstd,
    None,
}

/// How base backups are taken.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Processors to keep busy, at most 1024.
    pub jobs: NonZeroUsize,
    /// Of zstd, 1 to 19.
    pub level: i32,
    pub checkpoint: Checkpoint,
    /// Whether data page checksums are checked, where the cluster has them.
    pub verify_pages: bool,
    /// Whether blocks are left unread that the server's WAL summaries say did not change.
    pub wal_summaries: bool,
    /// Bytes of files that are read in a second, at most.
    pub rate: Option<NonZeroU64>,
    /// What is added to the niceness of the process, 0 to 19.
    pub nice: i32,
}

/// How drills are done.
#[derive(Debug, Clone)]
pub struct Drill {
    /// Where the scratch directories are made; absolute.
    pub directory: PathBuf,
    /// Where the programs of PostgreSQL are; without it where they usually are.
    pub bin: Option<PathBuf>,
    /// Sessions that read, and threads that restore.
    pub jobs: NonZeroUsize,
    /// Of the whole drill; never zero.
    pub timeout: Duration,
    pub amcheck: bool,
    /// A role of the cluster that may log in.
    pub user: Option<String>,
    /// Libraries without which the WAL cannot be replayed.
    pub preload: Option<String>,
    pub assertions: Vec<Assertion>,
}

/// What has to be so in a restored cluster. Names differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    pub name: String,
    /// None: every cluster.
    pub cluster: Option<String>,
    pub database: String,
    pub sql: String,
    /// What `psql -At` prints, without the last line break.
    pub expected: String,
}

/// What `walkeep status` takes for good. What passes a limit is yellow, and red when it passes it twice over.
#[derive(Debug, Clone)]
pub struct Status {
    /// Of the last good backup.
    pub max_backup_age: Duration,
    /// Of the last drill that proved something; without it drills are not asked for.
    pub max_drill_age: Option<Duration>,
    /// Segments that wait to be archived, or that a repository is behind.
    pub max_ready: u32,
    pub max_ready_age: Duration,
    /// Until the disk of `pg_wal` is full.
    pub min_time_to_full: Duration,
}

/// Who is told what. Without a webhook and a command nobody is.
#[derive(Debug, Clone)]
pub struct Notify {
    pub webhook: Option<Webhook>,
    /// The whole path of a program, and its arguments.
    pub command: Option<Vec<String>>,
    pub on: Vec<notify::Event>,
    /// Of each notice; never zero.
    pub timeout: Duration,
    /// When a failure that stays is told again.
    pub repeat: Duration,
}

/// How fast the server runs the checkpoint at the start of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    Fast,
    Spread,
}

/// The configuration file: the one of `--config`, else of `$WALKEEP_CONFIG` unless that is empty,
/// else [`DEFAULT_PATH`].
pub fn locate(option: Option<PathBuf>, environment_value: Option<OsString>) -> PathBuf {
    let environment = environment_value.filter(|value| !value.is_empty());
    option.or(environment.map(PathBuf::from)).unwrap_or_else(|| DEFAULT_PATH.into())
}

impl Config {
    /// Reads a file; `cpus` is the default of `backup.jobs`. Every failure is of [`Kind::Config`],
    /// also that the file cannot be read, or holds a password and is open to every user.
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
        let secret = config.clusters.iter().find(|cluster| cluster.has_secret());
        let secret = secret.map(|cluster| {
            let key = raw::join("cluster", &cluster.name);
            (format!("{key}.connection: holds a password"), ", or keep the password in `~/.pgpass`")
        });
        // Whoever knows the address of a webhook can send there.
        let webhook = config.notify.webhook.as_ref();
        let secret = secret.or(webhook.map(|_| ("notify.webhook: is a secret".to_owned(), "")));
        if let Some((what, or)) = secret
            && mode & 0o007 != 0
        {
            let path = path.display();
            let mode = mode & 0o7777;
            let message = format!("{what}, and every user may open the file (mode {mode:04o})");
            return Err(Error::new(Kind::Config, message)
                .doing(path.to_string())
                .hint(format!("`chmod 0640 {path}`, with the group that PostgreSQL runs in{or}")));
        }
        Ok(config)
    }

    /// Reads a text that stands in the file `path`; `cpus` is the default of `backup.jobs`. Every
    /// failure is of [`Kind::Config`].
    pub fn parse(path: &Path, text: &str, cpus: NonZeroUsize) -> Result<Config> {
        resolve::resolve(path, &raw::Document::parse(path, text)?, cpus)
    }

    /// The cluster of this name or, without a name, the one whose data directory is
    /// `working_directory`, however many links lead to it. [`Kind::Usage`] when there is none.
    pub fn cluster(&self, name: Option<&str>, working_directory: &Path) -> Result<&Cluster> {
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

    /// As [`Config::cluster`]; but the only cluster there is needs neither its name nor its directory.
    pub fn sole_cluster(&self, name: Option<&str>, working_directory: &Path) -> Result<&Cluster> {
        match (name, self.clusters.as_slice()) {
            (None, [cluster]) => Ok(cluster),
            _ => self.cluster(name, working_directory),
        }
    }

    /// The repository of this name; [`Kind::Usage`] when there is none.
    pub fn repository(&self, name: &str) -> Result<&Repository> {
        find(name, "repository", &self.path, &self.repositories, |repository| &repository.name)
    }

    /// Every setting in force and where it came from, with secrets masked.
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

/// The item of this name, or a usage error that lists those there are.
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
        Error::new(Kind::Usage, format!("no {what} {name:?} in {path}, which has: {names}"))
            .hint(format!("use one of: {names}"))
    })
}

/// What tells whether two paths lead to the same directory: resolves links, and sees through bind
/// mounts, which comparing resolved paths would not.
fn identity(directory: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The text of a file, and the mode that it has.
fn read(path: &Path) -> Result<(String, u32)> {
    let doing = || format!("read {}", path.display());
    let file = File::open(path).doing(doing)?;
    let mode = file.metadata().doing(doing)?.mode();
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).doing(doing)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let message = "larger than 1 MiB, which no configuration is";
        return Err(Error::new(Kind::Config, message).doing(doing()));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = valid.filter(|&&byte| byte == b'\n').count() + 1;
        Error::new(Kind::Config, "not valid UTF-8")
            .doing(format!("{}:{line}", path.display()))
            .hint("save the file in the encoding UTF-8")
    })?;
    Ok((text, mode))
}

/// As the configuration has it.
fn checksums_text(checksums: Checksums) -> &'static str {
    match checksums {
        Checksums::Header => "header",
        Checksums::None => "none",
    }
}

impl Compression {
    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::None => "none",
        }
    }
}

impl LogLevel {
    /// The word of the configuration.
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
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

impl Checkpoint {
    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Checkpoint::Fast => "fast",
            Checkpoint::Spread => "spread",
        }
    }
}

impl Cluster {
    fn has_secret(&self) -> bool {
        let all = [&self.connection, &self.primary];
        all.into_iter().flatten().any(|text| matches!(connection::mask(text), Ok(Some(_))))
    }
}

/// Without the password, since debugging output ends in logs.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("pgdata", &self.pgdata)
            .field("connection", &self.connection.as_deref().map(connection::shown))
            .field("primary", &self.primary.as_deref().map(connection::shown))
            .finish()
    }
}
