//! From the configuration as written to values: defaults, ranges, and what must fit together.

use super::raw::{Document, Table};
use super::read::{
    Connection, Events, Reader, Words, answer, choice, connection, duration, endpoint, events, flag, integer,
    jobs, name, path, size, statement, text, webhook, words,
};
use super::shown::Section;
use super::{
    Assertion, Backup, Bucket, Checkpoint, Cluster, Compression, Config, Drill, LogFormat, LogLevel,
    LogOptions, MOST_JOBS, Notify, Repository, Retention, Status, Url, Wal, checksums_text,
};
use crate::error::Result;
use crate::notify::{Event, Format};
use crate::storage::{Checksums, S3Options};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeValue;

/// What zstd can do without special care for memory, when it writes and when it reads.
const LEVELS: RangeInclusive<i64> = 1..=19;
/// The gentlest that the kernel knows.
const MOST_NICE: i64 = 19;
const AHEAD: RangeInclusive<i64> = 0..=1024;
const SSE: [&str; 3] = ["AES256", "aws:kms", "aws:kms:dsse"];

pub(super) fn resolve(file: &Path, document: &Document<'_>, cpus: NonZeroUsize) -> Result<Config> {
    let root = document.root();
    let mut sections = Vec::new();
    let mut clusters = Vec::new();
    for table in root.named("cluster") {
        // The name is a directory in the repository.
        let name = name(table.name).map_err(|error| root.table("cluster").fault(table.name, error))?;
        clusters.push(cluster(name, table, &clusters, &mut sections)?);
    }
    let mut repositories = Vec::new();
    for table in root.list("repository") {
        repositories.push(repository(table, &repositories, &mut sections)?);
    }
    if clusters.is_empty() {
        let hint = "add a `[cluster.main]` with its `pgdata`";
        return Err(root.error("cluster", "none is configured").hint(hint));
    }
    if repositories.is_empty() {
        let hint = "add a `[[repository]]` with its `name` and `url`";
        return Err(root.error("repository", "none is configured").hint(hint));
    }
    // Else WAL would count as archived, and PostgreSQL remove it, when it is stored nowhere.
    if !repositories.iter().any(|repository| repository.required) {
        let hint = "take `required = false` from one of them";
        return Err(root.error("repository", "none is required").hint(hint));
    }
    let wal = wal(root.table("wal"), &mut sections)?;
    let backup = backup(root.table("backup"), cpus, &mut sections)?;
    let drill = drill(root.table("drill"), backup.jobs, &clusters, &mut sections)?;
    let status = status(root.table("status"), &mut sections)?;
    let notify = notify(root.table("notify"), &mut sections)?;
    let log = log(root.table("log"), &mut sections)?;
    Ok(Config {
        path: file.into(),
        clusters,
        repositories,
        wal,
        backup,
        drill,
        status,
        notify,
        log,
        sections,
    })
}

fn cluster(
    name: String,
    table: Table<'_>,
    others: &[Cluster],
    sections: &mut Vec<Section>,
) -> Result<Cluster> {
    let mut reader = Reader::new(table);
    let pgdata = reader.required("pgdata", "/var/lib/postgresql/17/main", path)?;
    if let Some(other) = others.iter().find(|other| other.pgdata == pgdata) {
        let message = format!("cluster {} has the same data directory", other.name);
        let hint = "one data directory is one cluster; name it once";
        return Err(reader.table.error("pgdata", message).hint(hint));
    }
    let server = reader.optional("connection", connection)?;
    let primary = reader.optional("primary", connection)?;
    sections.push(reader.section());
    let text = |connection: Option<Connection>| connection.map(|connection| connection.0);
    Ok(Cluster { name, pgdata, connection: text(server), primary: text(primary) })
}

fn repository(table: Table<'_>, others: &[Repository], sections: &mut Vec<Section>) -> Result<Repository> {
    let retention = table.table("retention");
    let mut reader = Reader::new(table);
    let name = reader.required("name", "local", |value| name(text(value)?.as_str()))?;
    if others.iter().any(|other| other.name == name) {
        let message = format!("another repository is called {name} already");
        return Err(reader.table.error("name", message).hint("give each repository a name of its own"));
    }
    let url = reader.required("url", "file:///var/lib/walkeep", |value| Url::parse(&text(value)?))?;
    let required = reader.or("required", true, flag)?;
    let bucket = match &url {
        Url::File(_) => no_bucket(&reader)?,
        Url::S3 { bucket, prefix } => Some(read_bucket(&mut reader, bucket, prefix)?),
    };
    // Two copies in one place are one copy.
    let endpoint =
        |bucket: &Option<Bucket>| bucket.as_ref().and_then(|bucket| bucket.options.endpoint.clone());
    let same = |other: &&Repository| other.url == url && endpoint(&other.bucket) == endpoint(&bucket);
    if let Some(other) = others.iter().find(same) {
        let message = format!("repository {} is at the same place", other.name);
        return Err(reader.table.error("url", message).hint("give each repository a place of its own"));
    }
    sections.push(reader.section());
    let retention = read_retention(retention, sections)?;
    Ok(Repository { name, url, required, retention, bucket })
}

/// That a directory has no settings of an object store.
fn no_bucket(reader: &Reader<'_>) -> Result<Option<Bucket>> {
    let general = ["name", "url", "required", "retention"];
    match reader.table.keys().find(|key| !general.contains(key)) {
        None => Ok(None),
        Some(key) => Err(reader
            .table
            .error(key, "a `file://` repository has no such setting")
            .hint(format!("take `{key}` out, or give an `s3://` URL"))),
    }
}

fn read_bucket(reader: &mut Reader<'_>, bucket: &str, prefix: &str) -> Result<Bucket> {
    let options = S3Options {
        region: reader.optional("region", text)?,
        endpoint: reader.optional("endpoint", endpoint)?,
        path_style: reader.or("path_style", false, flag)?,
        ca_file: reader.optional("ca_file", path)?,
        profile: reader.optional("profile", text)?,
        storage_class: reader.optional("storage_class", text)?,
        sse: reader.optional("sse", |value| choice(value, &SSE, |word| word).map(String::from))?,
        sse_kms_key_id: reader.optional("sse_kms_key_id", text)?,
        access_key_file: reader.optional("access_key_file", path)?,
        secret_key_file: reader.optional("secret_key_file", path)?,
        checksums: reader.or("checksums", Checksums::Header, |value| {
            choice(value, &[Checksums::Header, Checksums::None], checksums_text)
        })?,
        ..S3Options::new(bucket, prefix)
    };
    let conditional_create = reader.or("conditional_create", true, flag)?;
    let kms = options.sse.as_ref().is_some_and(|sse| sse != "AES256");
    if options.sse_kms_key_id.is_some() && !kms {
        let error = reader.table.error("sse_kms_key_id", "a key without `sse = \"aws:kms\"`");
        return Err(error.hint("set `sse = \"aws:kms\"` too"));
    }
    let (present, absent) = match (&options.access_key_file, &options.secret_key_file) {
        (Some(_), None) => ("access_key_file", "secret_key_file"),
        (None, Some(_)) => ("secret_key_file", "access_key_file"),
        _ => return Ok(Bucket { options, conditional_create }),
    };
    let error = reader.table.error(present, format!("set without `{absent}`"));
    Err(error.hint(format!("set `{absent}` too, or neither for the usual AWS credential chain")))
}

fn read_retention(table: Table<'_>, sections: &mut Vec<Section>) -> Result<Retention> {
    let count = |value: &DeValue<'_>| integer(value, 1..=1_000_000);
    let mut reader = Reader::new(table);
    let retention = Retention {
        keep_last: reader.optional("keep_last", count)?,
        keep_within: reader.optional("keep_within", duration)?,
        keep_daily: reader.optional("keep_daily", count)?,
        keep_weekly: reader.optional("keep_weekly", count)?,
        keep_monthly: reader.optional("keep_monthly", count)?,
        keep_yearly: reader.optional("keep_yearly", count)?,
    };
    sections.push(reader.section());
    Ok(retention)
}

fn wal(table: Table<'_>, sections: &mut Vec<Section>) -> Result<Wal> {
    let mut reader = Reader::new(table);
    let wal = Wal {
        compression: reader.or("compression", Compression::Zstd, |value| {
            choice(value, &[Compression::Zstd, Compression::None], Compression::as_str)
        })?,
        level: reader.or("level", 1, |value| integer(value, LEVELS))?,
        push_ahead: reader.or("push_ahead", 8, |value| integer(value, AHEAD))?,
        fetch_ahead: reader.or("fetch_ahead", 8, |value| integer(value, AHEAD))?,
        timeout: reader.or("timeout", Duration::from_secs(50), duration)?,
        spool: reader.or("spool", PathBuf::from("/var/spool/walkeep"), path)?,
    };
    sections.push(reader.section());
    Ok(wal)
}

fn backup(table: Table<'_>, cpus: NonZeroUsize, sections: &mut Vec<Section>) -> Result<Backup> {
    let most_jobs = NonZeroUsize::MIN.saturating_add(usize::from(MOST_JOBS) - 1);
    let mut reader = Reader::new(table);
    let backup = Backup {
        jobs: reader.or("jobs", cpus.min(most_jobs), jobs)?,
        level: reader.or("level", 1, |value| integer(value, LEVELS))?,
        checkpoint: reader.or("checkpoint", Checkpoint::Fast, |value| {
            choice(value, &[Checkpoint::Fast, Checkpoint::Spread], Checkpoint::as_str)
        })?,
        verify_pages: reader.or("verify_pages", true, flag)?,
        wal_summaries: reader.or("wal_summaries", true, flag)?,
        rate: reader.optional("rate", size)?.map(|rate| rate.0),
        nice: reader.or("nice", 0, |value| integer(value, 0..=MOST_NICE))?,
    };
    sections.push(reader.section());
    Ok(backup)
}

fn drill(
    table: Table<'_>,
    default_jobs: NonZeroUsize,
    clusters: &[Cluster],
    sections: &mut Vec<Section>,
) -> Result<Drill> {
    let asserts: Vec<Table<'_>> = table.list("assert").collect();
    let mut reader = Reader::new(table);
    let mut drill = Drill {
        directory: reader.or("directory", PathBuf::from("/var/tmp"), path)?,
        bin: reader.optional("bin", path)?,
        jobs: reader.or("jobs", default_jobs, jobs)?,
        timeout: reader.or("timeout", Duration::from_secs(12 * 3600), duration)?,
        amcheck: reader.or("amcheck", true, flag)?,
        user: reader.optional("user", text)?,
        preload: reader.optional("preload", text)?,
        assertions: Vec::new(),
    };
    sections.push(reader.section());
    for table in asserts {
        let mut reader = Reader::new(table);
        let assertion = Assertion {
            name: reader.required("name", "orders are there", text)?,
            cluster: reader.optional("cluster", text)?,
            database: reader.required("database", "postgres", text)?,
            sql: reader.required("sql", "select count(*) > 0 from orders", statement)?,
            expected: reader.required("expected", "t", answer)?,
        };
        if drill.assertions.iter().any(|other| other.name == assertion.name) {
            let message = format!("another assertion is called {:?} already", assertion.name);
            return Err(reader.table.error("name", message).hint("give each assertion a name of its own"));
        }
        if let Some(cluster) = &assertion.cluster
            && !clusters.iter().any(|other| other.name == *cluster)
        {
            let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
            return Err(reader.table.error("cluster", "there is no such cluster").hint(format!(
                "use one of: {}; without it the assertion is for every cluster",
                names.join(", ")
            )));
        }
        sections.push(reader.section());
        drill.assertions.push(assertion);
    }
    Ok(drill)
}

fn status(table: Table<'_>, sections: &mut Vec<Section>) -> Result<Status> {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let mut reader = Reader::new(table);
    let status = Status {
        max_backup_age: reader.or("max_backup_age", minutes(26 * 60), duration)?,
        max_drill_age: reader.optional("max_drill_age", duration)?,
        max_ready: reader.or("max_ready", 64, |value| integer(value, 1..=1_000_000))?,
        max_ready_age: reader.or("max_ready_age", minutes(10), duration)?,
        min_time_to_full: reader.or("min_time_to_full", minutes(12 * 60), duration)?,
    };
    sections.push(reader.section());
    Ok(status)
}

fn notify(table: Table<'_>, sections: &mut Vec<Section>) -> Result<Notify> {
    let mut reader = Reader::new(table);
    let mut webhook = reader.optional("webhook", webhook)?;
    let format = reader
        .or("format", Format::Json, |value| choice(value, &[Format::Json, Format::Slack], Format::as_str))?;
    let ca_file = reader.optional("ca_file", path)?;
    match &mut webhook {
        Some(webhook) => (webhook.format, webhook.ca_file) = (format, ca_file),
        None if ca_file.is_some() => {
            let error = reader.table.error("ca_file", "set without `webhook`");
            return Err(error.hint("set `webhook` too, or take `ca_file` out"));
        }
        None => {}
    }
    let all = Events(vec![Event::Failure, Event::Recovery, Event::Drill]);
    let notify = Notify {
        webhook,
        command: reader.optional("command", words)?.map(|Words(words)| words),
        on: reader.or("on", all, events)?.0,
        timeout: reader.or("timeout", Duration::from_secs(10), duration)?,
        repeat: reader.or("repeat", Duration::from_secs(3600), duration)?,
    };
    sections.push(reader.section());
    Ok(notify)
}

fn log(table: Table<'_>, sections: &mut Vec<Section>) -> Result<LogOptions> {
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug];
    let formats = [LogFormat::Text, LogFormat::Json];
    let mut reader = Reader::new(table);
    let log = LogOptions {
        file: reader.optional("file", path)?,
        level: reader.or("level", LogLevel::Info, |value| choice(value, &levels, LogLevel::as_str))?,
        format: reader.or("format", LogFormat::Json, |value| choice(value, &formats, LogFormat::as_str))?,
    };
    sections.push(reader.section());
    Ok(log)
}
