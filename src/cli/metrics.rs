//! `walkeep metrics`: what `walkeep status` looks at, as OpenMetrics text.
//!
//! What is not known has no sample. node_exporter reads the older format of Prometheus, which is the same text here:
//! its counters are untyped there, and everything else is a gauge.

use super::verbs::status;
use super::{args, output};
use crate::error::Result;
use crate::observe::{Facts, Health, Repository, Stock, write_textfile};
use jiff::Timestamp;
use std::fmt::Write;

pub fn run(global: &args::GlobalArgs, args: &args::MetricsArgs) -> Result<u8> {
    let text = text(&status::gather(global, &args.limit)?);
    match &args.output {
        Some(path) => write_textfile(path, &text)?,
        None => output::print(&text)?,
    }
    Ok(0)
}

/// One metric of all clusters.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: String,
}

impl Family {
    /// Adds a sample: of a counter under its name with `_total`.
    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        let total = if self.kind == "counter" { "_total" } else { "" };
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let _ = writeln!(self.samples, "{}{total}{{{}}} {value}", self.name, labels.join(","));
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(time: Timestamp) -> f64 {
    time.as_microsecond() as f64 / 1e6
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// A figure about a cluster, when it is known.
type OfCluster = (&'static str, &'static str, &'static str, fn(&Facts) -> Option<f64>);

const CLUSTER: &[OfCluster] = &[
    ("walkeep_collected_timestamp_seconds", "gauge", "When this was looked at.", |facts| {
        Some(seconds(facts.now))
    }),
    ("walkeep_server_up", "gauge", "Whether the server answers.", |facts| Some(flag(facts.server.is_ok()))),
    ("walkeep_ready_files", "gauge", "Files in pg_wal that wait to be archived.", |facts| {
        Some(facts.queue.as_ref().ok()?.ready as f64)
    }),
    ("walkeep_ready_bytes", "gauge", "Bytes of the files that wait.", |facts| {
        Some(facts.queue.as_ref().ok()?.bytes as f64)
    }),
    ("walkeep_ready_oldest_timestamp_seconds", "gauge", "Since when the oldest of them waits.", |facts| {
        Some(seconds(facts.queue.as_ref().ok()?.oldest.as_ref()?.since))
    }),
    (
        "walkeep_wal_written_bytes_per_second",
        "gauge",
        "WAL that the server writes, of the last hour at most.",
        |facts| Some(facts.queue.as_ref().ok()?.rates?.written),
    ),
    (
        "walkeep_wal_archived_bytes_per_second",
        "gauge",
        "WAL that is archived, of the last hour at most.",
        |facts| Some(facts.queue.as_ref().ok()?.rates?.archived),
    ),
    ("walkeep_pg_wal_size_bytes", "gauge", "Size of the file system of pg_wal.", |facts| {
        Some(facts.disk.as_ref().ok()?.size as f64)
    }),
    ("walkeep_pg_wal_free_bytes", "gauge", "What is free there.", |facts| {
        Some(facts.disk.as_ref().ok()?.free as f64)
    }),
    ("walkeep_pg_wal_full_seconds", "gauge", "Time until it is full, while it fills.", |facts| {
        facts.full_in()
    }),
    ("walkeep_archiver_archived", "counter", "Files that the server counts as archived.", |facts| {
        Some(facts.server.as_ref().ok()?.archiver.archived as f64)
    }),
    ("walkeep_archiver_failed", "counter", "Failures of archive_command that the server counts.", |facts| {
        Some(facts.server.as_ref().ok()?.archiver.failed as f64)
    }),
    (
        "walkeep_archiver_last_archived_timestamp_seconds",
        "gauge",
        "Last success of archive_command.",
        |facts| facts.server.as_ref().ok()?.archiver.last_archived.as_ref().map(|(_, at)| seconds(*at)),
    ),
    (
        "walkeep_archiver_last_failed_timestamp_seconds",
        "gauge",
        "Last failure of archive_command.",
        |facts| facts.server.as_ref().ok()?.archiver.last_failed.as_ref().map(|(_, at)| seconds(*at)),
    ),
];

/// A figure about what a repository has, when it is known.
type OfStock = (&'static str, &'static str, fn(&Stock) -> Option<f64>);

const STOCK: &[OfStock] = &[
    ("walkeep_backups", "Backups that are listed.", |stock| Some(stock.backups.len() as f64)),
    ("walkeep_backups_damaged", "Those that are damaged, or cannot be read.", |stock| {
        let bad = stock.backups.iter().filter(|backup| !backup.is_good()).count();
        Some((bad + stock.unreadable.len()) as f64)
    }),
    ("walkeep_backup_last_success_timestamp_seconds", "End of the last good backup.", |stock| {
        stock.last_good().map(|backup| seconds(backup.ended))
    }),
    ("walkeep_backup_last_size_bytes", "What it restores to.", |stock| {
        stock.last_good().map(|backup| backup.size as f64)
    }),
    ("walkeep_backup_last_stored_bytes", "What its blocks take in the repository.", |stock| {
        stock.last_good().map(|backup| backup.stored as f64)
    }),
    (
        "walkeep_drill_last_success_timestamp_seconds",
        "End of the last drill that proved a backup.",
        |stock| stock.drill.as_ref()?.last_proved.map(seconds),
    ),
    ("walkeep_wal_gaps", "Holes in the WAL.", |stock| Some(stock.gaps.len() as f64)),
    ("walkeep_wal_behind_segments", "Finished segments of the server that are not there.", |stock| {
        stock.behind.map(|behind| behind as f64)
    }),
    ("walkeep_wal_last_stored_timestamp_seconds", "When the last segment was stored.", |stock| {
        stock.newest.map(|(_, at)| seconds(at))
    }),
    (
        "walkeep_window_begin_timestamp_seconds",
        "The oldest moment that can be restored along the newest timeline.",
        |stock| stock.window.as_ref().map(|window| seconds(window.from)),
    ),
    ("walkeep_window_end_timestamp_seconds", "The newest moment of the same window.", |stock| {
        stock.window.as_ref().map(|window| seconds(window.to))
    }),
    ("walkeep_repository_backup_bytes", "What backups take.", |stock| Some(stock.backup_bytes as f64)),
    ("walkeep_repository_wal_bytes", "What WAL takes.", |stock| Some(stock.wal_bytes as f64)),
    ("walkeep_repository_growth_bytes_per_second", "What was added in the last week.", |stock| stock.growth),
];

fn text(all: &[Health]) -> String {
    let mut families = vec![light(all), checks(all)];
    for (name, kind, help, figure) in CLUSTER {
        let mut family = Family { name, kind, help, samples: String::new() };
        for health in all {
            if let Some(value) = figure(&health.facts) {
                family.sample(&[("cluster", &health.facts.cluster)], value);
            }
        }
        families.push(family);
    }
    let (name, help) = ("walkeep_repository_up", "Whether the repository answers and is this cluster's.");
    families.push(of_repositories(all, name, help, |repository| Some(flag(repository.stock.is_ok()))));
    for (name, help, figure) in STOCK {
        let of = |repository: &Repository| figure(repository.stock.as_ref().ok()?);
        families.push(of_repositories(all, name, help, of));
    }
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let Family { name, kind, help, samples } = family;
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
    }
    text.push_str("# EOF\n");
    text
}

fn light(all: &[Health]) -> Family {
    let help = "The worst of all checks: 0 green, 1 yellow, 2 red.";
    let mut family = Family { name: "walkeep_status", kind: "gauge", help, samples: String::new() };
    for health in all {
        family.sample(&[("cluster", &health.facts.cluster)], f64::from(health.light() as u8));
    }
    family
}

fn checks(all: &[Health]) -> Family {
    let help = "One check of walkeep status: 0 green, 1 yellow, 2 red.";
    let mut family = Family { name: "walkeep_check", kind: "gauge", help, samples: String::new() };
    for health in all {
        for finding in &health.findings {
            let repository = finding.repository.as_deref().unwrap_or_default();
            let labels = [
                ("cluster", health.facts.cluster.as_str()),
                ("repository", repository),
                ("check", finding.name),
            ];
            family.sample(&labels, f64::from(finding.light as u8));
        }
    }
    family
}

fn of_repositories(
    all: &[Health],
    name: &'static str,
    help: &'static str,
    figure: impl Fn(&Repository) -> Option<f64>,
) -> Family {
    let mut family = Family { name, kind: "gauge", help, samples: String::new() };
    for health in all {
        for repository in &health.facts.repositories {
            if let Some(value) = figure(repository) {
                let labels =
                    [("cluster", health.facts.cluster.as_str()), ("repository", repository.name.as_str())];
                family.sample(&labels, value);
            }
        }
    }
    family
}
