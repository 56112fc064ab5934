//! What the facts mean: pure, and the same for the screen, for monitoring and for metrics.
//!
//! A limit of the configuration that is passed is yellow, and red when it is passed twice over. What stops archiving
//! or makes a backup worthless is red at once. An optional repository is never worse than yellow.

use super::facts::{Backup, Drilled, Facts, Repository, Server, Stock, Trouble};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Light {
    Green,
    Yellow,
    Red,
}

impl Light {
    pub fn as_str(self) -> &'static str {
        match self {
            Light::Green => "green",
            Light::Yellow => "yellow",
            Light::Red => "red",
        }
    }
}

/// What is still good; see the configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    pub backup_age: Duration,
    /// `None`: drills are not asked for.
    pub drill_age: Option<Duration>,
    /// Segments that wait, or that a repository is behind.
    pub ready: u64,
    pub ready_age: Duration,
    /// Until the disk of `pg_wal` is full.
    pub time_to_full: Duration,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub light: Light,
    pub name: &'static str,
    /// `None`: it is about the server.
    pub repository: Option<String>,
    pub detail: String,
    /// What to type, or to look at.
    pub hint: Option<String>,
}

/// The facts about a cluster, and what they mean.
#[derive(Debug, Clone)]
pub struct Health {
    pub facts: Facts,
    pub findings: Vec<Finding>,
}

impl Health {
    pub fn of(facts: Facts, limits: &Limits) -> Health {
        let findings = judge(&facts, limits);
        Health { facts, findings }
    }

    /// The worst of all.
    pub fn light(&self) -> Light {
        self.findings.iter().map(|finding| finding.light).max().unwrap_or(Light::Green)
    }
}

/// Judges everything; what is good has a finding too.
pub fn judge(facts: &Facts, limits: &Limits) -> Vec<Finding> {
    let mut all = vec![server(facts)];
    all.extend(facts.server.as_ref().ok().and_then(archiving));
    all.push(backlog(facts, limits));
    all.push(disk(facts, limits));
    for repository in &facts.repositories {
        all.extend(self::repository(facts, repository, limits));
    }
    all
}

fn finding(light: Light, name: &'static str, detail: impl Into<String>) -> Finding {
    Finding { light, name, repository: None, detail: detail.into(), hint: None }
}

impl Finding {
    fn hint(self, hint: impl Into<String>) -> Finding {
        Finding { hint: Some(hint.into()), ..self }
    }

    fn unknown(light: Light, name: &'static str, trouble: &Trouble) -> Finding {
        Finding { hint: trouble.hint.clone(), ..finding(light, name, trouble.why.clone()) }
    }
}

/// Within the limit, past it, and past it twice over.
fn against(value: f64, limit: f64) -> Light {
    match value {
        value if value <= limit => Light::Green,
        value if value <= 2.0 * limit => Light::Yellow,
        _ => Light::Red,
    }
}

fn server(facts: &Facts) -> Finding {
    let name = "server";
    match &facts.server {
        Ok(server) => match (server.system_identifier, server.expected_identifier) {
            (Some(is), Some(expected)) if is != expected => finding(
                Light::Red,
                name,
                format!("the server is of cluster {is}, the data directory of {expected}"),
            )
            .hint("`connection` and `pgdata` in the configuration have to be of the same cluster: check host and port"),
            _ => {
                let what = if server.in_recovery { ", a standby" } else { "" };
                finding(Light::Green, name, format!("PostgreSQL {}{what}", server.version))
            }
        },
        // Without either nothing at all is known of archiving.
        Err(trouble) if facts.is_running || facts.queue.is_err() => {
            Finding::unknown(Light::Red, name, trouble)
        }
        Err(trouble) => {
            let detail = format!("no server runs on the data directory: {}", trouble.why);
            finding(Light::Yellow, name, detail).hint("start it, if it should run")
        }
    }
}

fn archiving(server: &Server) -> Option<Finding> {
    let name = "archiving";
    if server.in_recovery {
        return None;
    }
    if !server.archives {
        return Some(finding(Light::Red, name, "the server does not archive").hint(
            "set `archive_mode = on` and `archive_command = 'walpush %p'`; `walkeep check` says what else",
        ));
    }
    let archiver = &server.archiver;
    if let Some((wal, failed)) = archiver.failing() {
        let last = match &archiver.last_archived {
            Some((_, at)) => format!("the last success was {}", moment(*at)),
            None => "nothing was ever archived".to_owned(),
        };
        let detail = format!(
            "archive_command fails: {wal} last {}, {} failures in all; {last}",
            moment(failed),
            archiver.failed
        );
        let hint = "the server's log has a line `walpush: error:` and a hint; `walkeep check` looks at the whole path. Remove nothing from pg_wal";
        return Some(finding(Light::Red, name, detail).hint(hint));
    }
    let detail = match &archiver.last_archived {
        Some((wal, at)) => format!("{wal} was archived {}", moment(*at)),
        None => "nothing was archived yet".to_owned(),
    };
    Some(finding(Light::Green, name, detail))
}

fn backlog(facts: &Facts, limits: &Limits) -> Finding {
    let name = "backlog";
    let queue = match &facts.queue {
        Ok(queue) => queue,
        Err(trouble) => return Finding::unknown(Light::Yellow, name, trouble),
    };
    let Some(oldest) = &queue.oldest else {
        return finding(Light::Green, name, "nothing waits to be archived");
    };
    let waits = seconds(facts.now, oldest.since);
    let light =
        against(queue.ready as f64, limits.ready as f64).max(against(waits, limits.ready_age.as_secs_f64()));
    let mut detail = format!(
        "{} files of {} wait, {} for {}",
        queue.ready,
        bytes(queue.bytes as f64),
        oldest.name,
        span(waits)
    );
    if let Some(rates) = queue.rates {
        detail += &format!(
            "; in the last {} the server wrote {}/s and archived {}/s",
            span(rates.over.as_secs_f64()),
            bytes(rates.written),
            bytes(rates.archived)
        );
    }
    match light {
        Light::Green => finding(light, name, detail),
        _ => finding(light, name, detail).hint(
            "`walkeep check` shows why; where archiving works and is too slow, raise `push_ahead` in `[wal]`",
        ),
    }
}

fn disk(facts: &Facts, limits: &Limits) -> Finding {
    let name = "disk";
    let disk = match &facts.disk {
        Ok(disk) => disk,
        Err(trouble) => return Finding::unknown(Light::Yellow, name, trouble),
    };
    let room = format!("{} of {} are free for pg_wal", bytes(disk.free as f64), bytes(disk.size as f64));
    if let Some(left) = facts.full_in() {
        let least = limits.time_to_full.as_secs_f64();
        let light = match left {
            left if left >= least => Light::Green,
            left if left >= least / 2.0 => Light::Yellow,
            _ => Light::Red,
        };
        let found = finding(light, name, format!("{room}: full in {} at this rate", span(left)));
        return match light {
            Light::Green => found,
            _ => found.hint("repair archiving first, the server then removes segments by itself; remove nothing from pg_wal"),
        };
    }
    let why = match &facts.queue {
        Ok(queue) if queue.ready == 0 => "nothing waits there",
        Ok(queue) if queue.rates.is_some() => "it does not fill",
        _ => "when it is full cannot be known",
    };
    finding(Light::Green, name, format!("{room}, {why}"))
}

fn repository(facts: &Facts, repository: &Repository, limits: &Limits) -> Vec<Finding> {
    let mut all = Vec::new();
    match &repository.stock {
        Err(trouble) => all.push(Finding::unknown(Light::Red, "repository", trouble)),
        Ok(stock) => {
            all.push(size(stock));
            all.push(backup(facts.now, stock, limits));
            all.extend(damage(stock));
            all.extend(wal(repository, stock, limits));
            all.push(gaps(stock));
            all.extend(drill(facts.now, stock.drill.as_ref(), limits));
        }
    }
    for found in &mut all {
        found.repository = Some(repository.name.clone());
        if !repository.is_required {
            found.light = found.light.min(Light::Yellow);
        }
    }
    all
}

fn size(stock: &Stock) -> Finding {
    let mut detail =
        format!("{} of backups, {} of WAL", bytes(stock.backup_bytes as f64), bytes(stock.wal_bytes as f64));
    if let Some(growth) = stock.growth {
        detail += &format!(", growing by {} a day", bytes(growth * 86_400.0));
    }
    if let Some(unfinished) = stock.unfinished_bytes.filter(|bytes| *bytes > 0) {
        detail += &format!("; {} of backups that are not finished", bytes(unfinished as f64));
    }
    finding(Light::Green, "repository", detail)
}

fn backup(now: Timestamp, stock: &Stock, limits: &Limits) -> Finding {
    let name = "backup";
    let Some(good) = stock.last_good() else {
        return finding(Light::Red, name, "there is no good backup").hint("take one: `walkeep backup`");
    };
    let age = seconds(now, good.ended);
    let light = against(age, limits.backup_age.as_secs_f64());
    let window = stock.window.as_ref().map_or_else(
        || "no moment behind it can be restored".to_owned(),
        |window| format!("restorable from {} to {}", moment(window.from), moment(window.to)),
    );
    let detail = format!("the last good one, {}, is {} old; {window}", good.id, span(age));
    let found = finding(light, name, detail);
    match light {
        Light::Green => found,
        _ => found.hint("take one: `walkeep backup`, and look why cron or the timer did not"),
    }
}

fn damage(stock: &Stock) -> Option<Finding> {
    let name = "damage";
    let found_bad: Vec<&str> = named(stock.backups.iter().filter(|backup| backup.is_found_bad));
    if !found_bad.is_empty() {
        let detail = format!("a verification found damage in {}", found_bad.join(", "));
        let hint = "`walkeep verify` says what it costs and what to do";
        return Some(finding(Light::Red, name, detail).hint(hint));
    }
    if !stock.unreadable.is_empty() {
        let detail = format!("the record of {} cannot be read", stock.unreadable.join(", "));
        return Some(finding(Light::Red, name, detail).hint("`walkeep list` says why"));
    }
    if !stock.unreadable_wal.is_empty() {
        let detail = format!("{} cannot be read", stock.unreadable_wal.join(", "));
        return Some(
            finding(Light::Red, name, detail).hint("`walkeep verify` says what it costs and what to do"),
        );
    }
    // Older ones tell of what was, the newest of the cluster as it is.
    let newest = stock.backups.iter().max_by_key(|backup| backup.ended)?;
    (!newest.is_complete).then(|| {
        finding(Light::Red, name, format!("the cluster had damaged pages when {} was taken", newest.id))
            .hint(format!("`walkeep show {}` names them; restore them from an older backup", newest.id))
    })
}

fn named<'a>(backups: impl Iterator<Item = &'a Backup>) -> Vec<&'a str> {
    backups.map(|backup| backup.id.as_str()).collect()
}

fn wal(repository: &Repository, stock: &Stock, limits: &Limits) -> Option<Finding> {
    let name = "wal";
    let bring = match repository.is_required {
        true => "is this the repository that `archive_command` archives into? `walkeep check` looks at the whole path".to_owned(),
        false => format!("bring it up: `walkeep sync --from NAME --to {}`", repository.name),
    };
    if let Some(archived) = &stock.lacks_archived {
        let detail = format!("the server counts {archived} as archived, and it is not here");
        return Some(finding(Light::Red, name, detail).hint(bring));
    }
    let Some((newest, stored)) = stock.newest else {
        return Some(
            finding(Light::Yellow, name, "there is no WAL yet").hint("`walkeep check` archives a segment"),
        );
    };
    let last = format!("the last segment is {newest}, stored {}", moment(stored));
    Some(match stock.behind {
        None => finding(Light::Green, name, last),
        Some(behind) => {
            let found = finding(
                against(behind as f64, limits.ready as f64),
                name,
                format!("{last}, {behind} behind the server"),
            );
            match found.light {
                Light::Green => found,
                _ => found.hint(bring),
            }
        }
    })
}

fn gaps(stock: &Stock) -> Finding {
    let name = "gaps";
    let Some(first) = stock.gaps.first() else {
        return finding(Light::Green, name, "no WAL is missing");
    };
    let more = match stock.gaps.len() {
        1 => String::new(),
        gaps => format!(", and {} more gaps", gaps - 1),
    };
    let detail = format!(
        "{} to {} is missing{more}: no moment behind it is restorable from a backup before it",
        first.first, first.last
    );
    finding(Light::Red, name, detail).hint(
        "look for it in pg_wal of the primary and its standbys, and there `walpush pg_wal/SEGMENT`; if it is lost: `walkeep backup`",
    )
}

fn drill(now: Timestamp, drill: Option<&Drilled>, limits: &Limits) -> Option<Finding> {
    let name = "drill";
    let again = "`walkeep drill` proves that a backup restores";
    let Some(last) = drill else {
        limits.drill_age?;
        return Some(finding(Light::Red, name, "no drill was ever done").hint(again));
    };
    if last.is_refuted {
        let detail =
            format!("the last drill, {}, found that the backup does not restore", moment(last.ended));
        return Some(
            finding(Light::Red, name, detail)
                .hint("`walkeep list` has its story; take a backup, and drill again"),
        );
    }
    let Some(proved) = last.last_proved else {
        return Some(finding(Light::Yellow, name, "no drill has proved anything yet").hint(again));
    };
    let age = seconds(now, proved);
    let light = limits.drill_age.map_or(Light::Green, |limit| against(age, limit.as_secs_f64()));
    let found = finding(light, name, format!("the last that proved a backup was {} ago", span(age)));
    Some(match light {
        Light::Green => found,
        _ => found.hint(again),
    })
}

/// What has passed since then; never negative, since clocks differ.
fn seconds(now: Timestamp, since: Timestamp) -> f64 {
    now.duration_since(since).max(SignedDuration::ZERO).as_secs_f64()
}

fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `45 s`, `12 min`, `26.5 h`, `9.0 days`.
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

fn bytes(bytes: f64) -> String {
    size_text(bytes as u64)
}

/// A number of bytes as text: `16.00 MiB`.
pub fn size_text(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
