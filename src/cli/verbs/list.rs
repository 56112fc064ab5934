//! `walkeep list` and `walkeep show`.

use crate::cli::args::{ListArgs, ShowArgs};
use crate::cli::contents::Contents;
use crate::cli::exit::Exit;
use crate::cli::printable;
use crate::cli::render::{self, Report};
use crate::cli::setup::{self, Context};
use crate::error::{Error, Failures, Kind, Result};
use crate::pg::segment::SegmentName;
use crate::progress;
use crate::repo::catalog::Reach;
use crate::repo::drills::Drill;
use crate::repo::holes::Hole;
use crate::repo::missing::MissingHistory;
use crate::repo::record::Record;
use crate::repo::{Archive, Repository};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;

struct Listing<'a> {
    cluster: &'a str,
    repositories: Vec<Contents>,
    /// Repositories that could not be read, and the reasons.
    away: Vec<(Repository, String)>,
}

impl Report for Listing<'_> {
    fn text(&self) -> String {
        let text: Vec<String> = self.repositories.iter().map(text).collect();
        text.join("\n")
    }

    fn json(&self) -> impl Serialize {
        let away = self.away.iter().map(|(repository, error)| {
            json!({
                "name": repository.name(),
                "url": repository.url(),
                "error": error,
                "backups": [],
                "wal": {"first": null, "last": null, "gaps": []},
                "window": render::moments(None),
            })
        });
        json!({
            "cluster": self.cluster,
            "repositories": self.repositories.iter().map(report).chain(away).collect::<Vec<_>>(),
        })
    }
}

pub fn list(context: &Context, args: &ListArgs) -> Result<Exit> {
    let (mut repositories, mut away) = (Vec::new(), Vec::new());
    let mut failures = Failures::new(progress::error);
    for repository in setup::selected(context, &args.selection)? {
        let archive = setup::archive(context, &repository, &args.selection);
        match archive.and_then(|archive| read(context, archive)) {
            Ok(contents) => repositories.push(contents),
            Err(error) => {
                away.push((repository.clone(), error.to_string()));
                setup::away(&args.selection, &repository, error, &mut failures);
            }
        }
    }
    let listing = Listing { cluster: &context.cluster.name, repositories, away };
    if !listing.repositories.is_empty() {
        context.print(&listing)?;
    }
    failures.finish()?;
    if listing.repositories.is_empty() {
        return Err(Error::new(Kind::Unavailable, "no repository can be read"));
    }
    let mut exit = Exit::Done;
    for contents in &listing.repositories {
        if contents.gaps.iter().any(Hole::is_open)
            || contents.missing_histories.iter().any(MissingHistory::is_needed)
        {
            exit = Exit::Problem;
        }
        let damaged = contents.damaged.iter().map(|(_, error)| error);
        let damaged = damaged.chain(contents.bad_histories.iter().map(|(_, error)| error));
        for error in damaged.chain(contents.bad_segments.iter().map(|(_, error)| error)) {
            exit = Exit::Problem;
            progress::error(error);
        }
    }
    Ok(exit)
}

/// Reads a repository as it is now.
fn read(context: &Context, archive: Archive) -> Result<Contents> {
    let server = setup::server_timeline(context, &archive);
    let now = jiff::Timestamp::now();
    let retention = &context.config.repository(archive.repository().name())?.retention;
    let mut contents = Contents::read(archive, &server, now)?;
    contents.set_ends(retention, now);
    Ok(contents)
}

/// Returns the first segment of the oldest timeline, and the last along the living one.
fn bounds(contents: &Contents) -> Option<(SegmentName, SegmentName)> {
    let inventory = &contents.wal.as_ref()?.inventory;
    let (last, _) = inventory.last_along(&contents.branches.living_history()?)?;
    Some((inventory.first()?, last))
}

/// Returns a backup as in the JSON of `list` and `show`.
fn backup(contents: &Contents, record: &Record) -> Value {
    let mut report = render::backup(record, contents.pins.get(&record.id));
    report["state"] = state(contents, record).into();
    report["found_damaged"] = contents.found_damaged.contains(&record.id).into();
    report["exclusive"] = json!(contents.sizes.exclusive.get(&record.id));
    report["drill"] = json!(contents.drill(&record.id).map(render::drill));
    report
}

/// Returns the state of a backup. One that a verification found damaged does not count as complete.
fn state(contents: &Contents, record: &Record) -> &'static str {
    if contents.is_damaged(record) { "damaged" } else { "complete" }
}

fn report(contents: &Contents) -> Value {
    let bounds = bounds(contents);
    json!({
        "name": contents.archive.repository().name(),
        "url": contents.archive.repository().url(),
        "backups": contents.records.iter().map(|record| backup(contents, record)).collect::<Vec<_>>(),
        "lineage": contents.archive.lineage().to_string(),
        "earlier": contents.earlier().collect::<Vec<_>>(),
        "wal": {
            "first": bounds.map(|(first, _)| first),
            "last": bounds.map(|(_, last)| last),
            "gaps": contents.gaps.iter().map(|hole| hole.gap).collect::<Vec<_>>(),
            "holes": contents.gaps,
            "missing_histories": contents.missing_histories,
        },
        "timeline": contents.branches.alive(),
        "window": render::moments(contents.window.as_ref()),
        "windows": render::windows(&contents.windows),
        "stored": {
            "backups": contents.sizes.backups,
            "unfinished": contents.sizes.unfinished,
            "wal": contents.sizes.wal,
        },
    })
}

fn text(contents: &Contents) -> String {
    let repository = contents.archive.repository();
    let mut text = format!("repository {} at {}\n", repository.name(), repository.url());
    for earlier in contents.earlier() {
        let _ = writeln!(text, "  before the upgrade: --lineage {earlier}");
    }
    if contents.records.is_empty() {
        text.push_str("  no backups\n");
    } else {
        let _ = writeln!(
            text,
            "  {:<24} {:<9} {:<20} {:>11} {:>11} {:>11}  labels",
            "backup", "state", "ended (UTC)", "size", "stored", "its own"
        );
    }
    for record in &contents.records {
        let pin = contents.pins.get(&record.id).map(|pin| format!("(pinned {pin})"));
        let label =
            |(key, value): (&String, &String)| printable::value(&format!("{key}={value}")).into_owned();
        let labels = record.labels.iter().map(label);
        let drill = contents.drill(&record.id).map(|drill| format!("({})", tried(drill)));
        let labels: Vec<String> = pin.into_iter().chain(drill).chain(labels).collect();
        let _ = writeln!(
            text,
            "  {:<24} {:<9} {:<20} {:>11} {:>11} {:>11}  {}",
            record.id,
            state(contents, record),
            record.stop_time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            render::size(record.size),
            render::size(record.stored),
            own_size(contents, record),
            labels.join(" "),
        );
    }
    wal_text(contents, &mut text);
    let sizes = &contents.sizes;
    let (backups, wal) = (render::size(sizes.backups), render::size(sizes.wal));
    let _ = write!(text, "  stored: {backups} of backups, {wal} of WAL");
    if sizes.unfinished > 0 {
        let _ = write!(text, ", {} of backups that are not finished", render::size(sizes.unfinished));
    }
    text.push('\n');
    text
}

/// Appends the WAL, what is missing of it, and the moments that can be restored.
fn wal_text(contents: &Contents, text: &mut String) {
    match bounds(contents) {
        Some((first, last)) => {
            let _ = writeln!(text, "  WAL from {first} to {last}");
        }
        None => text.push_str("  no WAL\n"),
    }
    for hole in &contents.gaps {
        let note = hole.note().map_or_else(String::new, |note| format!(": {note}"));
        let _ = match hole.gap.seam {
            Some(_) => writeln!(text, "  seam: {}{note}", hole.gap.describe()),
            None => writeln!(text, "  missing: {} to {}{note}", hole.gap.first, hole.gap.last),
        };
    }
    for missing in contents.missing_histories.iter().filter(|missing| missing.is_needed()) {
        let _ = writeln!(text, "  {}: {}", missing.name(), missing.consequence());
        let _ = writeln!(text, "    hint: {}", missing.hint());
    }
    for window in &contents.windows {
        let (from, to) = (render::time(window.from), render::time(window.to));
        let _ = match contents.windows.len() {
            1 => writeln!(text, "  restorable: from {from} to {to}"),
            _ => writeln!(text, "  restorable: from {from} to {to} on timeline {}", window.timeline),
        };
    }
    let branches = &contents.branches;
    for note in branches.unclear().into_iter().chain(branches.dead().map(|dead| branches.describe_dead(dead)))
    {
        let _ = writeln!(text, "  {note}; see `walkeep timelines`");
    }
}

/// Formats the last drill of a backup.
fn tried(drill: &Drill) -> String {
    format!("drill of {}: {}", drill.ended.strftime("%Y-%m-%d %H:%M"), drill.outcome.as_str())
}

/// Formats the bytes that removing a backup alone would free.
fn own_size(contents: &Contents, record: &Record) -> String {
    contents.sizes.exclusive.get(&record.id).map_or_else(|| "?".to_owned(), |own| render::size(*own))
}

struct Shown<'a> {
    contents: &'a Contents,
    record: &'a Record,
    reach: Option<Reach>,
}

pub fn show(context: &Context, args: &ShowArgs) -> Result<Exit> {
    let mut failures = Failures::new(progress::error);
    for repository in setup::selected(context, &args.selection)? {
        let archive = setup::archive(context, &repository, &args.selection);
        let contents = match archive.and_then(|archive| read(context, archive)) {
            Ok(contents) => contents,
            Err(error) => {
                setup::away(&args.selection, &repository, error, &mut failures);
                continue;
            }
        };
        let wanted = match args.backup.as_str() {
            "latest" => contents.branches.newest(&contents.records),
            id => contents.records.iter().find(|record| record.id == id),
        };
        if let Some(record) = wanted {
            context.print(&Shown { contents: &contents, record, reach: contents.reach(record) })?;
            failures.dismiss();
            return Ok(Exit::Done);
        }
    }
    failures.finish()?;
    Err(setup::no_backup(&args.backup))
}

impl Report for Shown<'_> {
    fn text(&self) -> String {
        let Shown { contents, record, reach } = self;
        let repository = contents.archive.repository().name();
        let mut lines = vec![
            ("backup", record.id.clone()),
            ("repository", repository.to_owned()),
            ("state", state(contents, record).to_owned()),
            ("started", format!("{} at {}", render::time(record.start_time), record.start_lsn)),
            ("ended", format!("{} at {}", render::time(record.stop_time), record.stop_lsn)),
            ("timeline", record.timeline.to_string()),
            ("system identifier", record.system_identifier.to_string()),
            ("PostgreSQL", record.pg_version.clone()),
            ("size", format!("{} in {} files", render::size(record.size), record.files)),
            (
                "stored",
                format!("{}, {} of it new", render::size(record.stored), render::size(record.new_bytes)),
            ),
            ("its own", format!("{}, free without it", own_size(contents, record))),
        ];
        lines.extend(contents.pins.get(&record.id).map(|pin| ("pinned", pin.to_string())));
        lines.extend(contents.drill(&record.id).map(|drill| ("last drill", drill_text(drill))));
        lines.push(("needs WAL", format!("{} to {}", record.wal.first, record.wal.last)));
        if let Some(reach) = reach {
            lines.push(("leads to", format!("{} ({} segments)", reach.last, reach.segments)));
        }
        lines.push(("server time zone", record.settings.time_zone.clone()));
        lines.push(("data checksums", record.settings.checksums().to_string()));
        for known in &record.tablespaces {
            let location = known.tablespace.location.as_ref();
            let location = location.map_or("in place".into(), |location| location.display());
            let size = render::size(known.size);
            lines.push(("tablespace", format!("{} {location}, {size}", known.tablespace.oid)));
        }
        lines.extend(record.labels.iter().map(|(key, value)| ("label", format!("{key}={value}"))));
        let damaged = record.damaged.iter();
        lines.extend(damaged.map(|file| ("damaged", format!("{} pages {:?}", file.path, file.blocks))));
        lines.iter().map(|(name, value)| format!("{name:<20} {}\n", printable::value(value))).collect()
    }

    fn json(&self) -> impl Serialize {
        let Shown { contents, record, reach } = self;
        let mut report = backup(contents, record);
        report["repository"] = contents.archive.repository().name().into();
        report["wal"] = json!({"first": record.wal.first, "last": record.wal.last});
        report["reaches"] = json!(reach.as_ref().map(|reach| reach.last));
        report["settings"] = json!(record.settings);
        report["tablespaces"] = json!(record.tablespaces);
        report["damaged"] = json!(record.damaged);
        report
    }
}

fn drill_text(drill: &Drill) -> String {
    let seconds = [("restore", drill.restore_seconds), ("recovery", drill.recovery_seconds)];
    let seconds = seconds.into_iter().filter_map(|(name, took)| Some(format!(", {name} {:.1} s", took?)));
    format!("{}{}", tried(drill), seconds.collect::<String>())
}
