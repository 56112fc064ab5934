//! `walkeep metrics`: the state that `walkeep status` shows, as OpenMetrics text.
//!
//! Unknown values have no sample. node_exporter reads the older format of Prometheus, for which
//! this text is valid too: counters are untyped there, everything else is a gauge.

use super::args::{GlobalArgs, MetricsArgs};
use super::exit::Exit;
use super::output;
use super::verbs::status;
use crate::error::Result;
use crate::observe::{Facts, Health, RepositoryFacts, RepositoryStock, write_textfile};
use jiff::Timestamp;
use std::fmt::Write;

pub fn run(global: &GlobalArgs, args: &MetricsArgs) -> Result<Exit> {
    let text = text(&status::gather(global, &args.limit)?);
    match &args.output {
        Some(path) => write_textfile(path, &text)?,
        None => output::print_text(&text)?,
    }
    Ok(Exit::Done)
}

/// Type of a metric.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    Gauge,
    /// Its samples have the suffix `_total`.
    Counter,
}

/// Metric of a `T`, such as a cluster or a repository.
struct Metric<T: ?Sized> {
    name: &'static str,
    kind: MetricKind,
    help: &'static str,
    /// Returns the value, or `None` when it is unknown.
    value: fn(&T) -> Option<f64>,
}

const fn gauge<T: ?Sized>(name: &'static str, help: &'static str, value: fn(&T) -> Option<f64>) -> Metric<T> {
    Metric { name, kind: MetricKind::Gauge, help, value }
}

const fn counter<T: ?Sized>(
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> Option<f64>,
) -> Metric<T> {
    Metric { name, kind: MetricKind::Counter, help, value }
}

const STATUS: Metric<Health> =
    gauge("walkeep_status", "The worst of all checks: 0 green, 1 yellow, 2 red.", |health| {
        Some(f64::from(health.light() as u8))
    });

const CHECK: Metric<crate::observe::Finding> =
    gauge("walkeep_check", "One check of walkeep status: 0 green, 1 yellow, 2 red.", |finding| {
        Some(f64::from(finding.light as u8))
    });

const CLUSTER: &[Metric<Facts>] = &[
    gauge("walkeep_collected_timestamp_seconds", "Time of this collection.", |facts| {
        Some(seconds(facts.now))
    }),
    gauge("walkeep_server_up", "Whether the server answers.", |facts| Some(flag(facts.server.is_ok()))),
    gauge("walkeep_ready_files", "Number of files in pg_wal that wait to be archived.", |facts| {
        Some(facts.queue.as_ref().ok()?.ready as f64)
    }),
    gauge("walkeep_ready_bytes", "Bytes of the files that wait to be archived.", |facts| {
        Some(facts.queue.as_ref().ok()?.bytes as f64)
    }),
    gauge("walkeep_ready_oldest_timestamp_seconds", "Time since which the oldest file waits.", |facts| {
        Some(seconds(facts.queue.as_ref().ok()?.oldest.as_ref()?.since))
    }),
    gauge(
        "walkeep_wal_written_bytes_per_second",
        "WAL written by the server, averaged over at most one hour.",
        |facts| Some(facts.queue.as_ref().ok()?.rates?.written),
    ),
    gauge(
        "walkeep_wal_archived_bytes_per_second",
        "WAL archived, averaged over at most one hour.",
        |facts| Some(facts.queue.as_ref().ok()?.rates?.archived),
    ),
    gauge("walkeep_pg_wal_size_bytes", "Size of the file system of pg_wal.", |facts| {
        Some(facts.disk.as_ref().ok()?.size as f64)
    }),
    gauge("walkeep_pg_wal_free_bytes", "Free space of the file system of pg_wal.", |facts| {
        Some(facts.disk.as_ref().ok()?.free as f64)
    }),
    gauge(
        "walkeep_pg_wal_full_seconds",
        "Time until the file system of pg_wal is full, while it fills.",
        |facts| facts.full_in(),
    ),
    counter("walkeep_archiver_archived", "Files that the server counts as archived.", |facts| {
        Some(facts.server.as_ref().ok()?.archiver.archived as f64)
    }),
    counter("walkeep_archiver_failed", "Failures of archive_command that the server counts.", |facts| {
        Some(facts.server.as_ref().ok()?.archiver.failed as f64)
    }),
    gauge("walkeep_archiver_last_archived_timestamp_seconds", "Last success of archive_command.", |facts| {
        Some(seconds(facts.server.as_ref().ok()?.archiver.last_archived.as_ref()?.1))
    }),
    gauge("walkeep_archiver_last_failed_timestamp_seconds", "Last failure of archive_command.", |facts| {
        Some(seconds(facts.server.as_ref().ok()?.archiver.last_failed.as_ref()?.1))
    }),
];

const REPOSITORY: Metric<RepositoryFacts> = gauge(
    "walkeep_repository_up",
    "Whether the repository answers and belongs to this cluster.",
    |repository| Some(flag(repository.stock.is_ok())),
);

const STOCK: &[Metric<RepositoryStock>] = &[
    gauge("walkeep_backups", "Number of listed backups.", |stock| Some(stock.backups.len() as f64)),
    gauge("walkeep_backups_damaged", "Number of backups that are damaged or unreadable.", |stock| {
        let bad = stock.backups.iter().filter(|backup| !backup.is_good()).count();
        Some((bad + stock.unreadable.len()) as f64)
    }),
    gauge("walkeep_backup_last_success_timestamp_seconds", "End of the last good backup.", |stock| {
        Some(seconds(stock.last_good()?.1))
    }),
    gauge("walkeep_backup_last_size_bytes", "Restored size of the last good backup.", |stock| {
        Some(stock.last_good()?.0.size as f64)
    }),
    gauge("walkeep_backup_last_stored_bytes", "Stored size of the last good backup.", |stock| {
        Some(stock.last_good()?.0.stored as f64)
    }),
    gauge(
        "walkeep_drill_last_success_timestamp_seconds",
        "End of the last drill that proved a backup.",
        |stock| stock.drill.as_ref()?.last_proved.map(seconds),
    ),
    gauge("walkeep_wal_gaps", "Number of gaps in the WAL behind which no backup lies.", |stock| {
        Some(stock.gaps.iter().filter(|gap| gap.is_open()).count() as f64)
    }),
    gauge(
        "walkeep_wal_behind_segments",
        "Number of finished segments of the server that are not stored.",
        |stock| Some(stock.behind? as f64),
    ),
    gauge("walkeep_wal_last_stored_timestamp_seconds", "Time when the last segment was stored.", |stock| {
        stock.newest.map(|(_, at)| seconds(at))
    }),
    gauge(
        "walkeep_window_begin_timestamp_seconds",
        "Oldest restorable time along the living timeline.",
        |stock| Some(seconds(stock.window.as_ref()?.from)),
    ),
    gauge("walkeep_window_end_timestamp_seconds", "Newest time of the same window.", |stock| {
        Some(seconds(stock.window.as_ref()?.to))
    }),
    gauge("walkeep_repository_backup_bytes", "Stored size of all backups.", |stock| {
        Some(stock.backup_bytes as f64)
    }),
    gauge("walkeep_repository_wal_bytes", "Stored size of all WAL.", |stock| Some(stock.wal_bytes as f64)),
    gauge(
        "walkeep_repository_growth_bytes_per_second",
        "Bytes added per second, averaged over the last week.",
        |stock| stock.growth,
    ),
];

fn seconds(time: Timestamp) -> f64 {
    time.as_microsecond() as f64 / 1e6
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Names and values of the labels of a sample.
type Labels<'a> = Vec<(&'static str, &'a str)>;

fn of_cluster(health: &Health) -> Labels<'_> {
    vec![("cluster", &health.facts.cluster)]
}

fn of_repository<'a>(health: &'a Health, repository: &'a RepositoryFacts) -> Labels<'a> {
    vec![("cluster", &health.facts.cluster), ("repository", &repository.name)]
}

fn text(all: &[Health]) -> String {
    let mut text = String::new();
    let clusters = || all.iter().map(|health| (of_cluster(health), health));
    write(&mut text, &STATUS, clusters());
    let checks = all.iter().flat_map(|health| {
        health.findings.iter().map(move |finding| {
            let mut labels = of_cluster(health);
            // Empty for a check of the cluster itself.
            labels.push(("repository", finding.repository.as_deref().unwrap_or("")));
            labels.push(("check", finding.name));
            (labels, finding)
        })
    });
    write(&mut text, &CHECK, checks);
    for metric in CLUSTER {
        write(&mut text, metric, clusters().map(|(labels, health)| (labels, &health.facts)));
    }
    let repositories = || {
        all.iter().flat_map(|health| {
            let repositories = health.facts.repositories.iter();
            repositories.map(move |repository| (of_repository(health, repository), repository))
        })
    };
    write(&mut text, &REPOSITORY, repositories());
    for metric in STOCK {
        let stocks = repositories();
        let stocks =
            stocks.filter_map(|(labels, repository)| Some((labels, repository.stock.as_ref().ok()?)));
        write(&mut text, metric, stocks);
    }
    text.push_str("# EOF\n");
    text
}

/// Appends a metric with one sample for each item that has a value. Appends nothing when no item
/// has a value.
fn write<'a, T: 'a>(text: &mut String, metric: &Metric<T>, items: impl Iterator<Item = (Labels<'a>, &'a T)>) {
    let (kind, suffix) = match metric.kind {
        MetricKind::Gauge => ("gauge", ""),
        MetricKind::Counter => ("counter", "_total"),
    };
    let mut samples = String::new();
    for (labels, item) in items {
        if let Some(value) = (metric.value)(item) {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            let _ = writeln!(samples, "{}{suffix}{{{}}} {value}", metric.name, labels.join(","));
        }
    }
    if !samples.is_empty() {
        let Metric { name, help, .. } = metric;
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
