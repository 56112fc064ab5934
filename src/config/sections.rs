//! The sections of the file: keys, defaults, ranges, and rules between keys. Each reader
//! also declares the keys of its section, so a new key is added here and in the struct that it
//! fills.

use super::read::{
    Connection, answer, choice, connection, duration, endpoint, events, flag, integer, jobs, name, path,
    size, statement, text, webhook, words,
};
use super::reader::TableReader;
use super::{
    BackupConfig, BucketConfig, Checkpoint, ClusterAssertion, ClusterConfig, DrillConfig, LogConfig,
    LogFormat, LogLevel, MAX_JOBS, NotifyConfig, RepositoryConfig, RepositoryUrl, WalConfig, checksums_text,
};
use crate::codec::compress::Compression;
use crate::drill::Assertion;
use crate::error::Result;
use crate::notify::{NoticeEvent, WebhookFormat};
use crate::observe::Limits;
use crate::retention::Policy;
use crate::storage::{Checksums, S3Options};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

/// Levels of zstd that need little memory, for writing and for reading.
const LEVELS: RangeInclusive<i64> = 1..=19;
/// Largest increment of the niceness that the kernel accepts.
const MAX_NICE: i64 = 19;
/// Numbers of segments to push or fetch ahead.
const AHEAD: RangeInclusive<i64> = 0..=1024;
/// Kinds of server-side encryption of S3.
const SSE: [&str; 3] = ["AES256", "aws:kms", "aws:kms:dsse"];

/// Everything that the file sets.
pub(super) struct Sections {
    pub(super) clusters: Vec<ClusterConfig>,
    pub(super) repositories: Vec<RepositoryConfig>,
    pub(super) wal: WalConfig,
    pub(super) backup: BackupConfig,
    pub(super) drill: DrillConfig,
    pub(super) status: Limits,
    pub(super) notify: NotifyConfig,
    pub(super) log: LogConfig,
}

pub(super) fn read(root: &mut TableReader<'_>, cpus: NonZeroUsize) -> Result<Sections> {
    let clusters = root.named("cluster", cluster)?;
    let repositories = root.list("repository", repository)?;
    if clusters.is_empty() {
        let hint = "add a `[cluster.main]` with its `pgdata`";
        return Err(root.table().error("cluster", "none is configured").hint(hint));
    }
    if repositories.is_empty() {
        let hint = "add a `[[repository]]` with its `name` and `url`";
        return Err(root.table().error("repository", "none is configured").hint(hint));
    }
    // Otherwise WAL that is stored nowhere would count as archived, and PostgreSQL would remove it.
    if !repositories.iter().any(|repository| repository.required) {
        let hint = "remove `required = false` from one of them";
        return Err(root.table().error("repository", "none is required").hint(hint));
    }
    let wal = root.section("wal", wal)?;
    let backup = root.section("backup", |reader| backup(reader, cpus))?;
    let drill = root.section("drill", |reader| drill(reader, backup.jobs, &clusters))?;
    let status = root.section("status", status)?;
    let notify = root.section("notify", notify)?;
    let log = root.section("log", log)?;
    Ok(Sections { clusters, repositories, wal, backup, drill, status, notify, log })
}

fn cluster(reader: &mut TableReader<'_>, earlier: &[ClusterConfig]) -> Result<ClusterConfig> {
    // The name is a directory in the repository.
    let name = name(reader.table().name).map_err(|error| reader.table().here(error))?;
    let pgdata = reader.required("pgdata", "/var/lib/postgresql/17/main", path)?;
    if let Some(other) = earlier.iter().find(|other| other.pgdata == pgdata) {
        let message = format!("cluster {} has the same data directory", other.name);
        let hint = "one data directory is one cluster; name it once";
        return Err(reader.table().error("pgdata", message).hint(hint));
    }
    let server = reader.opt("connection", connection)?;
    let primary = reader.opt("primary", connection)?;
    let text = |connection: Option<Connection>| connection.map(|connection| connection.0);
    Ok(ClusterConfig { name, pgdata, connection: text(server), primary: text(primary) })
}

fn repository(reader: &mut TableReader<'_>, earlier: &[RepositoryConfig]) -> Result<RepositoryConfig> {
    let name = reader.required("name", "local", |value| name(text(value)?.as_str()))?;
    if earlier.iter().any(|other| other.name == name) {
        let message = format!("another repository has the name {name} already");
        return Err(reader.table().error("name", message).hint("give each repository a name of its own"));
    }
    let url =
        reader.required("url", "file:///var/lib/walkeep", |value| RepositoryUrl::parse(&text(value)?))?;
    let required = reader.or("required", true, flag)?;
    let bucket = match &url {
        RepositoryUrl::S3 { bucket, prefix } => Some(read_bucket(reader, bucket, prefix)?),
        RepositoryUrl::File(_) => {
            let hint = |key: &str| format!("remove `{key}`, or give an `s3://` URL");
            let message = "not a setting of a `file://` repository";
            reader.refuse(|reader| read_bucket(reader, "", ""), message, hint)?;
            None
        }
    };
    // Two copies in one place are one copy.
    let endpoint = |bucket: &Option<BucketConfig>| bucket.as_ref().and_then(|b| b.options.endpoint.clone());
    let is_same =
        |other: &&RepositoryConfig| other.url == url && endpoint(&other.bucket) == endpoint(&bucket);
    if let Some(other) = earlier.iter().find(is_same) {
        let message = format!("repository {} is at the same place", other.name);
        return Err(reader.table().error("url", message).hint("give each repository a place of its own"));
    }
    let retention = reader.section("retention", retention)?;
    Ok(RepositoryConfig { name, url, required, retention, bucket })
}

fn read_bucket(reader: &mut TableReader<'_>, bucket: &str, prefix: &str) -> Result<BucketConfig> {
    let options = S3Options {
        region: reader.opt("region", text)?,
        endpoint: reader.opt("endpoint", endpoint)?,
        path_style: reader.or("path_style", false, flag)?,
        ca_file: reader.opt("ca_file", path)?,
        profile: reader.opt("profile", text)?,
        storage_class: reader.opt("storage_class", text)?,
        sse: reader.opt("sse", |value| choice(value, &SSE, |word| word).map(String::from))?,
        sse_kms_key_id: reader.opt("sse_kms_key_id", text)?,
        access_key_file: reader.opt("access_key_file", path)?,
        secret_key_file: reader.opt("secret_key_file", path)?,
        checksums: reader.or("checksums", Checksums::Header, |value| {
            choice(value, &[Checksums::Header, Checksums::None], checksums_text)
        })?,
        ..S3Options::new(bucket, prefix)
    };
    let conditional_create = reader.or("conditional_create", true, flag)?;
    let is_kms = options.sse.as_ref().is_some_and(|sse| sse != "AES256");
    if options.sse_kms_key_id.is_some() && !is_kms {
        let error = reader.table().error("sse_kms_key_id", "set without `sse = \"aws:kms\"`");
        return Err(error.hint("set `sse = \"aws:kms\"` too"));
    }
    let (present, absent) = match (&options.access_key_file, &options.secret_key_file) {
        (Some(_), None) => ("access_key_file", "secret_key_file"),
        (None, Some(_)) => ("secret_key_file", "access_key_file"),
        _ => return Ok(BucketConfig { options, conditional_create }),
    };
    let error = reader.table().error(present, format!("set without `{absent}`"));
    Err(error.hint(format!("set `{absent}` too, or neither for the usual AWS credential chain")))
}

fn retention(reader: &mut TableReader<'_>) -> Result<Policy> {
    let count = |value: &DeValue<'_>| integer(value, 1..=1_000_000);
    Ok(Policy {
        keep_last: reader.opt("keep_last", count)?,
        keep_within: reader.opt("keep_within", duration)?,
        keep_daily: reader.opt("keep_daily", count)?,
        keep_weekly: reader.opt("keep_weekly", count)?,
        keep_monthly: reader.opt("keep_monthly", count)?,
        keep_yearly: reader.opt("keep_yearly", count)?,
    })
}

fn wal(reader: &mut TableReader<'_>) -> Result<WalConfig> {
    let words = |value: &DeValue<'_>| choice(value, &["zstd", "none"], |word| word).map(str::to_owned);
    let compression = reader.or("compression", "zstd".to_owned(), words)?;
    let level = reader.or("level", 1, |value| integer(value, LEVELS))?;
    Ok(WalConfig {
        compression: if compression == "none" { Compression::Stored } else { Compression::Zstd(level) },
        push_ahead: reader.or("push_ahead", 8, |value| integer(value, AHEAD))?,
        fetch_ahead: reader.or("fetch_ahead", 8, |value| integer(value, AHEAD))?,
        timeout: reader.or("timeout", Duration::from_secs(50), duration)?,
        spool: reader.or("spool", PathBuf::from("/var/spool/walkeep"), path)?,
    })
}

fn backup(reader: &mut TableReader<'_>, cpus: NonZeroUsize) -> Result<BackupConfig> {
    let max_jobs = NonZeroUsize::MIN.saturating_add(usize::from(MAX_JOBS) - 1);
    Ok(BackupConfig {
        jobs: reader.or("jobs", cpus.min(max_jobs), jobs)?,
        compression: Compression::Zstd(reader.or("level", 1, |value| integer(value, LEVELS))?),
        checkpoint: reader.or("checkpoint", Checkpoint::Fast, |value| {
            choice(value, &[Checkpoint::Fast, Checkpoint::Spread], Checkpoint::as_str)
        })?,
        verify_pages: reader.or("verify_pages", true, flag)?,
        wal_summaries: reader.or("wal_summaries", true, flag)?,
        rate: reader.opt("rate", size)?,
        nice: reader.or("nice", 0, |value| integer(value, 0..=MAX_NICE))?,
    })
}

fn drill(
    reader: &mut TableReader<'_>,
    default_jobs: NonZeroUsize,
    clusters: &[ClusterConfig],
) -> Result<DrillConfig> {
    Ok(DrillConfig {
        directory: reader.or("directory", PathBuf::from("/var/tmp"), path)?,
        bin: reader.opt("bin", path)?,
        jobs: reader.or("jobs", default_jobs, jobs)?,
        timeout: reader.or("timeout", Duration::from_secs(12 * 3600), duration)?,
        amcheck: reader.or("amcheck", true, flag)?,
        user: reader.opt("user", text)?,
        preload: reader.opt("preload", text)?,
        assertions: reader.list("assert", |reader, earlier| assertion(reader, earlier, clusters))?,
    })
}

fn assertion(
    reader: &mut TableReader<'_>,
    earlier: &[ClusterAssertion],
    clusters: &[ClusterConfig],
) -> Result<ClusterAssertion> {
    let name = reader.required("name", "orders exist", text)?;
    let cluster = reader.opt("cluster", text)?;
    let assertion = Assertion {
        name,
        database: reader.required("database", "postgres", text)?,
        sql: reader.required("sql", "select count(*) > 0 from orders", statement)?,
        expected: reader.required("expected", "t", answer)?,
    };
    if earlier.iter().any(|other| other.assertion.name == assertion.name) {
        let message = format!("another assertion has the name {:?} already", assertion.name);
        return Err(reader.table().error("name", message).hint("give each assertion a name of its own"));
    }
    if let Some(cluster) = &cluster
        && !clusters.iter().any(|other| other.name == *cluster)
    {
        let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        return Err(reader.table().error("cluster", "not a configured cluster").hint(format!(
            "use one of: {}; without `cluster` the assertion applies to every cluster",
            names.join(", ")
        )));
    }
    Ok(ClusterAssertion { cluster, assertion })
}

fn status(reader: &mut TableReader<'_>) -> Result<Limits> {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    Ok(Limits {
        backup_age: reader.or("max_backup_age", minutes(26 * 60), duration)?,
        drill_age: reader.opt("max_drill_age", duration)?,
        ready: reader.or("max_ready", 64, |value| integer(value, 1..=1_000_000))?,
        ready_age: reader.or("max_ready_age", minutes(10), duration)?,
        time_to_full: reader.or("min_time_to_full", minutes(12 * 60), duration)?,
    })
}

fn notify(reader: &mut TableReader<'_>) -> Result<NotifyConfig> {
    let mut webhook = reader.opt("webhook", webhook)?;
    let format = reader.or("format", WebhookFormat::Json, |value| {
        choice(value, &[WebhookFormat::Json, WebhookFormat::Slack], WebhookFormat::as_str)
    })?;
    let ca_file = reader.opt("ca_file", path)?;
    match &mut webhook {
        Some(webhook) => (webhook.format, webhook.ca_file) = (format, ca_file),
        None if ca_file.is_some() => {
            let error = reader.table().error("ca_file", "set without `webhook`");
            return Err(error.hint("set `webhook` too, or remove `ca_file`"));
        }
        None => {}
    }
    Ok(NotifyConfig {
        webhook,
        command: reader.opt_list("command", words)?,
        on: reader.list_or(
            "on",
            vec![NoticeEvent::Failure, NoticeEvent::Recovery, NoticeEvent::Drill],
            events,
        )?,
        timeout: reader.or("timeout", Duration::from_secs(10), duration)?,
        repeat: reader.or("repeat", Duration::from_secs(3600), duration)?,
    })
}

fn log(reader: &mut TableReader<'_>) -> Result<LogConfig> {
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug];
    let formats = [LogFormat::Text, LogFormat::Json];
    Ok(LogConfig {
        file: reader.opt("file", path)?,
        level: reader.or("level", LogLevel::Info, |value| choice(value, &levels, LogLevel::as_str))?,
        format: reader.or("format", LogFormat::Json, |value| choice(value, &formats, LogFormat::as_str))?,
        owner: None,
    })
}
