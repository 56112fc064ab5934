//! Judgement of the facts, shared by the screen, monitoring and metrics. Reads nothing.
//!
//! A value above a limit of the configuration is yellow, above twice the limit red. A problem that
//! stops archiving or makes a backup worthless is red at once. An optional repository is never
//! worse than yellow.

use super::facts::{
    Facts, LastDrill, ObservedBackup, ObservedServer, RepositoryFacts, RepositoryStock, Trouble,
};
use super::text::{bytes_text, moment, size_text, span};
use crate::repo::branches::Branches;
use crate::repo::holes::{Hole, HoleState};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Light {
    Green,
    Yellow,
    Red,
}

impl Light {
    /// Name of the color, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Light::Green => "green",
            Light::Yellow => "yellow",
            Light::Red => "red",
        }
    }
}

/// Limits of the configuration: the highest values that are green; of `time_to_full` the lowest.
#[derive(Debug, Clone)]
pub struct Limits {
    pub backup_age: Duration,
    /// `None`: drills are not required.
    pub drill_age: Option<Duration>,
    /// Number of segments that wait, or that a repository is behind.
    pub ready: u64,
    pub ready_age: Duration,
    /// Time until the disk of `pg_wal` is full.
    pub time_to_full: Duration,
}

/// Judgement of one aspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub light: Light,
    pub name: &'static str,
    /// Name of the repository; `None`: it is about the server.
    pub repository: Option<String>,
    pub detail: String,
    /// Command to type, or place to look at.
    pub hint: Option<String>,
}

/// The facts about a cluster and their judgement.
#[derive(Debug, Clone)]
pub struct Health {
    pub facts: Facts,
    pub findings: Vec<Finding>,
}

impl Health {
    /// Judges facts.
    pub fn of(facts: Facts, limits: &Limits) -> Health {
        let findings = judge(&facts, limits);
        Health { facts, findings }
    }

    /// Worst severity of all findings.
    pub fn light(&self) -> Light {
        self.findings.iter().map(|finding| finding.light).fold(Light::Green, Light::max)
    }
}

/// Judges all facts; a good fact has a finding too.
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

    /// Adds a hint unless the finding is green.
    fn hint_unless_green(self, hint: impl Into<String>) -> Finding {
        if self.light == Light::Green { self } else { self.hint(hint) }
    }

    fn unknown(light: Light, name: &'static str, trouble: &Trouble) -> Finding {
        Finding { hint: trouble.hint.clone(), ..finding(light, name, trouble.why.clone()) }
    }
}

/// Compares a value with a limit and with twice the limit.
fn compare(value: f64, limit: f64) -> Light {
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
                let standby = if server.in_recovery { ", a standby" } else { "" };
                finding(Light::Green, name, format!("PostgreSQL {}{standby}", server.version))
            }
        },
        // Without the server and the queue the state of archiving is unknown.
        Err(trouble) if facts.is_running || facts.queue.is_err() => {
            Finding::unknown(Light::Red, name, trouble)
        }
        Err(trouble) => {
            let detail = format!("no server runs on the data directory: {}", trouble.why);
            finding(Light::Yellow, name, detail).hint("start it if it should run")
        }
    }
}

fn archiving(server: &ObservedServer) -> Option<Finding> {
    let name = "archiving";
    if server.in_recovery {
        return None;
    }
    if !server.archives {
        return Some(finding(Light::Red, name, "the server does not archive").hint(
            "set `archive_mode = on` and `archive_command = 'walpush %p'`; `walkeep check` names what else is missing",
        ));
    }
    let archiver = &server.archiver;
    if let Some((wal, failed)) = archiver.failing() {
        let last = match &archiver.last_archived {
            Some((_, at)) => format!("the last success was {}", moment(*at)),
            None => "nothing has ever been archived".to_owned(),
        };
        let detail = format!(
            "archive_command fails: {wal} last {}, {} failures in all; {last}",
            moment(failed),
            archiver.failed
        );
        let hint = "see the line `walpush: error:` in the server's log; `walkeep check` checks the whole path. Remove nothing from pg_wal";
        return Some(finding(Light::Red, name, detail).hint(hint));
    }
    let detail = match &archiver.last_archived {
        Some((wal, at)) => format!("{wal} was archived {}", moment(*at)),
        None => "nothing has been archived yet".to_owned(),
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
    let age = seconds(facts.now, oldest.since);
    let light =
        compare(queue.ready as f64, limits.ready as f64).max(compare(age, limits.ready_age.as_secs_f64()));
    let mut detail = format!(
        "{} files of {} wait, {} for {}",
        queue.ready,
        size_text(queue.bytes),
        oldest.name,
        span(age)
    );
    if let Some(rates) = queue.rates {
        detail += &format!(
            "; over the last {} the server wrote {}/s and archived {}/s",
            span(rates.over.as_secs_f64()),
            bytes_text(rates.written),
            bytes_text(rates.archived)
        );
    }
    finding(light, name, detail).hint_unless_green(
        "`walkeep check` shows why; if archiving works but is too slow, raise `push_ahead` in `[wal]`",
    )
}

fn disk(facts: &Facts, limits: &Limits) -> Finding {
    let name = "disk";
    let disk = match &facts.disk {
        Ok(disk) => disk,
        Err(trouble) => return Finding::unknown(Light::Yellow, name, trouble),
    };
    let room = format!("{} of {} are free for pg_wal", size_text(disk.free), size_text(disk.size));
    if let Some(left) = facts.full_in() {
        let min = limits.time_to_full.as_secs_f64();
        let light = match left {
            left if left >= min => Light::Green,
            left if left >= min / 2.0 => Light::Yellow,
            _ => Light::Red,
        };
        let detail = format!("{room}: full in {} at this rate", span(left));
        return finding(light, name, detail).hint_unless_green(
            "repair archiving first, the server then removes segments by itself; remove nothing from pg_wal",
        );
    }
    let why = match &facts.queue {
        Ok(queue) if queue.ready == 0 => "nothing waits to be archived",
        Ok(queue) if queue.rates.is_some() => "the disk does not fill",
        _ => "the time until it is full is not known",
    };
    finding(Light::Green, name, format!("{room}, {why}"))
}

fn repository(facts: &Facts, repository: &RepositoryFacts, limits: &Limits) -> Vec<Finding> {
    let mut all = Vec::new();
    match &repository.stock {
        Err(trouble) => all.push(Finding::unknown(Light::Red, "repository", trouble)),
        Ok(stock) => {
            all.push(size(stock));
            all.push(backup(facts.now, stock, limits));
            all.extend(clock(stock));
            all.extend(stock.branches.iter().flat_map(timelines));
            all.extend(damage(stock));
            all.extend(wal(repository, stock, limits));
            all.push(gaps(stock));
            all.extend(histories(stock));
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

fn size(stock: &RepositoryStock) -> Finding {
    let mut detail =
        format!("{} of backups, {} of WAL", size_text(stock.backup_bytes), size_text(stock.wal_bytes));
    if let Some(growth) = stock.growth {
        detail += &format!(", growing by {} a day", bytes_text(growth * 86_400.0));
    }
    if let Some(unfinished) = stock.unfinished_bytes.filter(|bytes| *bytes > 0) {
        detail += &format!("; {} of unfinished backups", size_text(unfinished));
    }
    finding(Light::Green, "repository", detail)
}

fn backup(now: Timestamp, stock: &RepositoryStock, limits: &Limits) -> Finding {
    let name = "backup";
    let Some((good, since)) = stock.last_good() else {
        let alive = stock.branches.as_ref().and_then(Branches::alive);
        let elsewhere =
            alive.filter(|_| stock.backups.iter().any(|backup| backup.is_good() && !backup.leads));
        let detail = elsewhere.map_or_else(
            || "there is no good backup".to_owned(),
            |alive| format!("no good backup leads to timeline {alive}, which is alive"),
        );
        return finding(Light::Red, name, detail).hint("take one: `walkeep backup`");
    };
    let age = seconds(now, since);
    let light = compare(age, limits.backup_age.as_secs_f64());
    let window = stock.window.as_ref().map_or_else(
        || "no moment after it can be restored".to_owned(),
        |window| format!("restorable from {} to {}", moment(window.from), moment(window.to)),
    );
    let detail = format!("the last good one, {}, is {} old; {window}", good.id, span(age));
    finding(light, name, detail)
        .hint_unless_green("take one: `walkeep backup`, and find out why cron or the timer did not")
}

/// Names a backup whose end is in the future. It is a warning until a later backup exists.
fn clock(stock: &RepositoryStock) -> Option<Finding> {
    let name = "clock";
    let place = stock.backups.iter().rposition(ObservedBackup::is_of_the_future)?;
    let backup = stock.backups.get(place)?;
    let mut later = stock.backups.iter().skip(place + 1);
    let light = if later.any(ObservedBackup::is_good) { Light::Green } else { Light::Yellow };
    let age = match backup.since {
        Some(since) => format!("its age counts from {}, when it was stored", moment(since)),
        None => "its age is not known".to_owned(),
    };
    let detail = format!("{} ended {}, which is in the future; {age}", backup.id, moment(backup.ended));
    Some(finding(light, name, detail).hint_unless_green(
        "a clock was wrong: set it (`walkeep check` compares the clocks), then take a backup: `walkeep backup`",
    ))
}

/// Judges which timeline is alive, and names those that nothing continues.
fn timelines(branches: &Branches) -> Vec<Finding> {
    let name = "timelines";
    let mut all = Vec::new();
    if let Some(unclear) = branches.unclear() {
        all.push(finding(Light::Yellow, name, unclear).hint(
            "`walkeep timelines` shows them: retire the one that no server continues with `walkeep timelines --retire NUMBER`",
        ));
    }
    if let Some(alive) = branches.alive().and_then(|alive| branches.get(alive)).filter(|it| it.is_retired) {
        let timeline = alive.timeline();
        let detail = format!("timeline {timeline} is retired, and it is alive");
        all.push(
            finding(Light::Yellow, name, detail).hint(format!("`walkeep timelines --unretire {timeline}`")),
        );
    }
    for dead in branches.dead() {
        let detail = format!(
            "{}; `walkeep timelines --retire {}` keeps servers from following it",
            branches.describe_dead(dead),
            dead.timeline()
        );
        all.push(finding(Light::Green, name, detail));
    }
    all
}

fn damage(stock: &RepositoryStock) -> Option<Finding> {
    let name = "damage";
    let found_bad: Vec<&str> = named(stock.backups.iter().filter(|backup| backup.is_found_bad));
    if !found_bad.is_empty() {
        let detail = format!("a verification found damage in {}", found_bad.join(", "));
        let hint = "`walkeep verify` shows what it costs and what to do";
        return Some(finding(Light::Red, name, detail).hint(hint));
    }
    if !stock.unreadable.is_empty() {
        let detail = format!("the record of {} cannot be read", stock.unreadable.join(", "));
        return Some(finding(Light::Red, name, detail).hint("`walkeep list` shows why"));
    }
    if !stock.unreadable_wal.is_empty() {
        let detail = format!("{} cannot be read", stock.unreadable_wal.join(", "));
        return Some(
            finding(Light::Red, name, detail).hint("`walkeep verify` shows what it costs and what to do"),
        );
    }
    // The newest backup shows the present state of the cluster; damage in an older backup may have
    // been repaired since.
    let newest = stock.backups.iter().filter(|backup| backup.leads).max_by_key(|backup| backup.since)?;
    (!newest.is_complete).then(|| {
        finding(Light::Red, name, format!("the cluster had damaged pages when {} was taken", newest.id))
            .hint(format!("`walkeep show {}` names them; restore them from an older backup", newest.id))
    })
}

fn named<'a>(backups: impl Iterator<Item = &'a ObservedBackup>) -> Vec<&'a str> {
    backups.map(|backup| backup.id.as_str()).collect()
}

fn wal(repository: &RepositoryFacts, stock: &RepositoryStock, limits: &Limits) -> Option<Finding> {
    let name = "wal";
    let hint = if repository.is_required {
        "does `archive_command` archive into this repository? `walkeep check` checks the whole path"
            .to_owned()
    } else {
        format!("bring it up to date: `walkeep sync --from NAME --to {}`", repository.name)
    };
    if let Some(archived) = &stock.lacks_archived {
        let detail = format!("{archived}, which the server counts as archived, is missing");
        return Some(finding(Light::Red, name, detail).hint(hint));
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
            let light = compare(behind as f64, limits.ready as f64);
            finding(light, name, format!("{last}, {behind} behind the server")).hint_unless_green(hint)
        }
    })
}

fn gaps(stock: &RepositoryStock) -> Finding {
    let name = "gaps";
    let open: Vec<&Hole> = stock.gaps.iter().filter(|gap| gap.is_open()).collect();
    let Some(first) = open.first() else {
        return passed(name, stock);
    };
    let detail = format!(
        "{}{}: no moment behind it can be restored from a backup before it",
        missing(first),
        and_more(open.len())
    );
    if first.gap.seam.is_some() {
        return finding(Light::Red, name, detail).hint(SEAM_HINT);
    }
    finding(Light::Red, name, detail).hint(
        "look for it in pg_wal of the primary and its standbys, and type `walpush pg_wal/SEGMENT` there; if it is lost: `walkeep backup`",
    )
}

const SEAM_HINT: &str = "two servers archived under the same names: `walkeep check --wal` on the server lists the files that are not its own; then take a backup, which does not need this WAL: `walkeep backup`";

/// Describes a gap.
fn missing(hole: &Hole) -> String {
    match hole.gap.seam {
        Some(_) => hole.gap.describe(),
        None => format!("{} to {} is missing", hole.gap.first, hole.gap.last),
    }
}

/// Judges gaps of which none is open.
fn passed(name: &'static str, stock: &RepositoryStock) -> Finding {
    let about = |gap: &Hole, count: usize| {
        let note = gap.note().map_or_else(String::new, |note| format!(": {note}"));
        format!("{}{}{note}", missing(gap), and_more(count))
    };
    let passed: Vec<&Hole> = stock.gaps.iter().filter(|gap| gap.state == HoleState::Passed).collect();
    match (passed.last(), stock.gaps.last()) {
        (Some(last), _) => finding(Light::Yellow, name, about(last, passed.len())).hint(last.note_hint()),
        (None, Some(last)) => finding(Light::Green, name, about(last, stock.gaps.len())),
        (None, None) => finding(Light::Green, name, "no WAL is missing"),
    }
}

/// Formats how many gaps there are besides the one that is named.
fn and_more(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        count => format!(", and {} more gaps", count - 1),
    }
}

fn histories(stock: &RepositoryStock) -> Option<Finding> {
    let first = stock.missing_histories.first()?;
    let detail = format!("{}: {}", first.name(), first.consequence());
    Some(finding(Light::Red, "histories", detail).hint(first.hint()))
}

fn drill(now: Timestamp, drill: Option<&LastDrill>, limits: &Limits) -> Option<Finding> {
    let name = "drill";
    let hint = "`walkeep drill` proves that a backup restores";
    let Some(last) = drill else {
        limits.drill_age?;
        return Some(finding(Light::Red, name, "no drill has ever been done").hint(hint));
    };
    if last.is_refuted {
        let detail =
            format!("the last drill, {}, found that the backup does not restore", moment(last.ended));
        return Some(
            finding(Light::Red, name, detail).hint("`walkeep list` shows it; take a backup, and drill again"),
        );
    }
    let Some(proved) = last.last_proved else {
        return Some(finding(Light::Yellow, name, "no drill has proved a backup yet").hint(hint));
    };
    let age = seconds(now, proved);
    let light = limits.drill_age.map_or(Light::Green, |limit| compare(age, limit.as_secs_f64()));
    let detail = format!("the last that proved a backup was {} ago", span(age));
    Some(finding(light, name, detail).hint_unless_green(hint))
}

/// Seconds from `since` to `now`, not negative: clocks of hosts differ.
fn seconds(now: Timestamp, since: Timestamp) -> f64 {
    now.duration_since(since).max(SignedDuration::ZERO).as_secs_f64()
}
