//! `walkeep status`: the health of each cluster and repository, for people, programs and
//! monitoring.

use crate::cli::args::{GlobalArgs, StatusArgs, TimeoutArgs};
use crate::cli::exit::Exit;
use crate::cli::notice;
use crate::cli::output;
use crate::cli::render::{self, Report};
use crate::cli::setup::{self, Context};
use crate::error::Result;
use crate::observe::{Expiry, Facts, Finding, Health, Light, Look, RepositoryFacts, look};
use crate::progress;
use crate::repo::branches::Branches;
use crate::retention;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;

/// Exit status UNKNOWN of a monitoring plugin. The exit statuses of the other states are the
/// numbers of [`Light`].
const PLUGIN_UNKNOWN: u8 = 3;

struct Status {
    all: Vec<Health>,
    light: Light,
    quiet: bool,
}

impl Status {
    fn gather(global: &GlobalArgs, args: &StatusArgs) -> Result<Status> {
        let all = gather(global, &args.limit)?;
        if args.notify {
            notice::of_status(global, &all)?;
        }
        let light = all.iter().map(Health::light).max().unwrap_or(Light::Green);
        Ok(Status { all, light, quiet: global.quiet })
    }
}

impl Report for Status {
    fn text(&self) -> String {
        if self.quiet && self.light == Light::Green {
            return String::new();
        }
        let text: Vec<String> = self.all.iter().map(|health| text(health, self.quiet)).collect();
        text.join("\n")
    }

    fn json(&self) -> impl Serialize {
        let checks = self.all.iter().flat_map(|health| {
            health.findings.iter().map(|finding| {
                json!({
                    "cluster": health.facts.cluster,
                    "repository": finding.repository,
                    "name": finding.name,
                    "ok": finding.light < Light::Red,
                    "light": finding.light.as_str(),
                    "detail": finding.detail,
                    "hint": finding.hint,
                })
            })
        });
        let clusters = self.all.iter().map(|health| cluster(&health.facts, health.light()));
        json!({
            "ok": self.light < Light::Red,
            "light": self.light.as_str(),
            "checks": checks.collect::<Vec<_>>(),
            "clusters": clusters.collect::<Vec<_>>(),
        })
    }
}

pub fn run(global: &GlobalArgs, args: &StatusArgs) -> Result<Exit> {
    let status = Status::gather(global, args)?;
    output::print(global.json, &status)?;
    Ok(if status.light == Light::Red { Exit::Problem } else { Exit::Done })
}

/// Prints one line as a plugin of Nagios does, and returns the exit status of a plugin.
pub fn plugin(global: &GlobalArgs, args: &StatusArgs) -> Result<ExitCode> {
    match Status::gather(global, args) {
        Ok(Status { all, light, .. }) => {
            output::print_text(&plugin_line(&all, light))?;
            Ok(ExitCode::from(light as u8))
        }
        Err(error) => {
            progress::error(&error);
            output::print_text(&format!("WALKEEP UNKNOWN - {}\n", one_line(&error.to_string())))?;
            Ok(ExitCode::from(PLUGIN_UNKNOWN))
        }
    }
}

/// Collects the health of each cluster, one after the other.
pub fn gather(global: &GlobalArgs, limit: &TimeoutArgs) -> Result<Vec<Health>> {
    Ok(Context::all(global)?.iter().map(|context| see(context, limit)).collect())
}

/// Collects the health of one cluster.
pub fn see(context: &Context, limit: &TimeoutArgs) -> Health {
    let facts = look(Look {
        cluster: context.cluster.name.clone(),
        pgdata: context.cluster.pgdata.clone(),
        server: setup::connection(context),
        repositories: context.repositories.clone(),
        expires: expiry(context),
        now: jiff::Timestamp::now(),
        limit: limit.timeout,
    });
    Health::of(facts, &context.config.status)
}

/// Returns the times at which the retention of the configuration stops keeping backups.
fn expiry(context: &Context) -> Expiry {
    let config = context.config.clone();
    Arc::new(move |repository, records, id| {
        let policy = &config.repository(repository).ok()?.retention;
        retention::expires(policy, records, id, jiff::Timestamp::now())
    })
}

/// Returns the text about one cluster; `briefly` leaves out green findings.
fn text(health: &Health, briefly: bool) -> String {
    let mut text = format!("cluster {}: {}\n", health.facts.cluster, health.light().as_str());
    let mut lines = |repository: Option<&RepositoryFacts>| {
        let name = repository.map(|repository| repository.name.as_str());
        let about = |finding: &&Finding| {
            finding.repository.as_deref() == name && !(briefly && finding.light == Light::Green)
        };
        let mut findings = health.findings.iter().filter(about).peekable();
        if let (Some(repository), Some(_)) = (repository, findings.peek()) {
            let optional = if repository.is_required { "" } else { ", optional" };
            let _ = writeln!(text, "repository {} at {}{optional}", repository.name, repository.url);
        }
        for finding in findings {
            let _ = writeln!(text, "  {:<7} {:<11} {}", finding.light.as_str(), finding.name, finding.detail);
            if let (Some(hint), true) = (&finding.hint, finding.light > Light::Green) {
                let _ = writeln!(text, "  {:<7} {:<11} hint: {hint}", "", "");
            }
        }
    };
    lines(None);
    health.facts.repositories.iter().for_each(|repository| lines(Some(repository)));
    text
}

fn cluster(facts: &Facts, light: Light) -> Value {
    let queue = facts.queue.as_ref().ok();
    let server = facts.server.as_ref().ok();
    let archiver = server.map(|server| &server.archiver);
    let event = |event: Option<&(String, jiff::Timestamp)>| {
        event.map(|(name, time)| json!({"wal": name, "time": render::time(*time)}))
    };
    json!({
        "name": facts.cluster,
        "light": light.as_str(),
        "time": render::time(facts.now),
        "server": server.map(|server| json!({
            "pg_version": server.version,
            "in_recovery": server.in_recovery,
            "current": server.current,
            "archived_count": server.archiver.archived,
            "failed_count": server.archiver.failed,
            "last_archived": event(archiver.and_then(|archiver| archiver.last_archived.as_ref())),
            "last_failed": event(archiver.and_then(|archiver| archiver.last_failed.as_ref())),
        })),
        "ready": queue.map(|queue| json!({
            "files": queue.ready,
            "bytes": queue.bytes,
            "oldest": queue.oldest.as_ref().map(|ready| ready.name.as_str()),
            "since": queue.oldest.as_ref().map(|ready| render::time(ready.since)),
            "written_per_second": queue.rates.map(|rates| rates.written),
            "archived_per_second": queue.rates.map(|rates| rates.archived),
        })),
        "pg_wal": facts.disk.as_ref().ok().map(|disk| json!({
            "size": disk.size, "free": disk.free, "full_in": facts.full_in(),
        })),
        "repositories": facts.repositories.iter().map(repository).collect::<Vec<_>>(),
    })
}

fn repository(repository: &RepositoryFacts) -> Value {
    let mut report = json!({
        "name": repository.name, "url": repository.url, "required": repository.is_required,
        "reachable": repository.stock.is_ok(),
    });
    if let Ok(stock) = &repository.stock {
        let good = stock.last_good();
        report["last_backup"] =
            json!(good.map(|(good, _)| json!({"id": good.id, "stop_time": render::time(good.ended)})));
        report["timeline"] = json!(stock.branches.as_ref().and_then(Branches::alive));
        report["backups"] = json!(stock.backups.len());
        report["newest"] = json!(stock.newest.map(|(name, _)| name));
        report["newest_stored"] = json!(stock.newest.map(|(_, at)| render::time(at)));
        report["behind"] = json!(stock.behind);
        report["gaps"] = json!(stock.gaps.iter().map(|hole| hole.gap).collect::<Vec<_>>());
        report["holes"] = json!(stock.gaps);
        report["window"] = render::moments(stock.window.as_ref());
        report["windows"] = render::windows(&stock.windows);
        report["last_drill"] = json!(stock.drill.as_ref().map(|drill| json!({
            "outcome": drill.outcome,
            "ended": render::time(drill.ended),
            "last_proved": drill.last_proved.map(render::time),
        })));
        report["stored"] = json!({
            "backups": stock.backup_bytes, "unfinished": stock.unfinished_bytes, "wal": stock.wal_bytes,
            "growth_per_second": stock.growth,
        });
    }
    report
}

/// Returns the line of a plugin, the worst findings first.
fn plugin_line(all: &[Health], light: Light) -> String {
    let word = match light {
        Light::Green => "OK",
        Light::Yellow => "WARNING",
        Light::Red => "CRITICAL",
    };
    let findings = all.iter().flat_map(|health| health.findings.iter().map(move |finding| (health, finding)));
    let mut wrong: Vec<_> = findings.filter(|(_, finding)| finding.light > Light::Green).collect();
    wrong.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.light));
    let wrong: Vec<String> = wrong
        .into_iter()
        .map(|(health, finding)| {
            let place = [Some(health.facts.cluster.as_str()), finding.repository.as_deref()];
            let place: Vec<&str> = place.into_iter().flatten().collect();
            format!("{} {}: {}", place.join("/"), finding.name, one_line(&finding.detail))
        })
        .collect();
    let summary = if wrong.is_empty() {
        "archiving and backups are as they should be".to_owned()
    } else {
        wrong.join("; ")
    };
    let figures: Vec<String> = all.iter().flat_map(|health| figures(&health.facts)).collect();
    format!("WALKEEP {word} - {summary} | {}\n", figures.join(" "))
}

/// Replaces `|` and line breaks, which would end the text of a plugin.
fn one_line(text: &str) -> String {
    text.replace('|', "/").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the performance data of a cluster: `'label'=value[unit]`.
fn figures(facts: &Facts) -> Vec<String> {
    let mut all = Vec::new();
    let cluster = &facts.cluster;
    if let Ok(queue) = &facts.queue {
        all.push(format!("'{cluster}_ready'={}", queue.ready));
        all.push(format!("'{cluster}_ready_bytes'={}B", queue.bytes));
    }
    if let Ok(disk) = &facts.disk {
        all.push(format!("'{cluster}_pg_wal_free'={}B", disk.free));
    }
    if let Ok(server) = &facts.server {
        all.push(format!("'{cluster}_failed'={}c", server.archiver.failed));
    }
    for repository in &facts.repositories {
        let place = format!("{cluster}_{}", repository.name);
        let Ok(stock) = &repository.stock else {
            continue;
        };
        if let Some((_, since)) = stock.last_good() {
            let age = facts.now.duration_since(since).as_secs().max(0);
            all.push(format!("'{place}_backup_age'={age}s"));
        }
        if let Some(behind) = stock.behind {
            all.push(format!("'{place}_behind'={behind}"));
        }
        all.push(format!("'{place}_bytes'={}B", stock.backup_bytes + stock.wal_bytes));
    }
    all
}
