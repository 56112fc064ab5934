//! `walkeep list` and `walkeep show`.

use crate::cli::contents::Contents;
use crate::cli::setup::Context;
use crate::cli::{args, exit, output, render, setup};
use crate::error::{Error, Kind, Result};
use crate::progress;
use crate::repo::catalog::Inventory;
use crate::repo::drills::Drill;
use crate::repo::record::Record;
use serde_json::{Value, json};
use std::fmt::Write;

pub fn list(context: &Context, args: &args::ListArgs) -> Result<u8> {
    let mut contents = Vec::new();
    for repository in setup::chosen(context, &args.selection)? {
        let archive = setup::archive(context, &repository, &args.selection)?;
        contents.push(Contents::read(archive, jiff::Timestamp::now())?);
    }
    if context.json {
        output::print_json(&json!({
            "cluster": context.cluster.name,
            "repositories": contents.iter().map(report).collect::<Vec<_>>(),
        }))?;
    } else {
        let text: Vec<String> = contents.iter().map(text).collect();
        output::print(&text.join("\n"))?;
    }
    let mut status = 0;
    for contents in &contents {
        if !contents.gaps.is_empty() {
            status = exit::PROBLEM;
        }
        let damaged = contents.damaged.iter().map(|(_, error)| error);
        let damaged = damaged.chain(contents.bad_histories.iter().map(|(_, error)| error));
        for error in damaged.chain(contents.bad_segments.iter().map(|(_, error)| error)) {
            status = exit::PROBLEM;
            progress::error(error);
        }
    }
    Ok(status)
}

/// A backup as `list` and `show` report it.
fn backup(contents: &Contents, record: &Record) -> Value {
    let mut report = render::backup(record, contents.pins.get(&record.id));
    report["exclusive"] = json!(contents.sizes.exclusive.get(&record.id));
    report["drill"] = json!(contents.drill(&record.id).map(render::drill));
    report
}

fn report(contents: &Contents) -> Value {
    let bounds = contents.wal.as_ref().map(|wal| &wal.inventory).and_then(Inventory::bounds);
    json!({
        "name": contents.archive.repository().name(),
        "url": contents.archive.repository().url(),
        "backups": contents.records.iter().map(|record| backup(contents, record)).collect::<Vec<_>>(),
        "lineage": contents.archive.lineage().to_string(),
        "earlier": contents.earlier().collect::<Vec<_>>(),
        "wal": {
            "first": bounds.map(|(first, _)| first),
            "last": bounds.map(|(_, last)| last),
            "gaps": contents.gaps,
        },
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
        let labels = record.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let drill = contents.drill(&record.id).map(|drill| format!("({})", tried(drill)));
        let labels: Vec<String> = pin.into_iter().chain(drill).chain(labels).collect();
        let own = contents.sizes.exclusive.get(&record.id).copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "  {:<24} {:<9} {:<20} {:>11} {:>11} {:>11}  {}",
            record.id,
            if record.is_complete() { "complete" } else { "damaged" },
            record.stop_time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            render::size(record.size),
            render::size(record.stored),
            render::size(own),
            labels.join(" "),
        );
    }
    match contents.wal.as_ref().map(|wal| &wal.inventory).and_then(Inventory::bounds) {
        Some((first, last)) => {
            let _ = writeln!(text, "  WAL from {first} to {last}");
        }
        None => text.push_str("  no WAL\n"),
    }
    for gap in &contents.gaps {
        let _ = writeln!(text, "  missing: {} to {}", gap.first, gap.last);
    }
    for window in &contents.windows {
        let (from, to) = (render::time(window.from), render::time(window.to));
        let _ = match contents.windows.len() {
            1 => writeln!(text, "  restorable: from {from} to {to}"),
            _ => writeln!(text, "  restorable: from {from} to {to} on timeline {}", window.timeline),
        };
    }
    let sizes = &contents.sizes;
    let (backups, wal) = (render::size(sizes.backups), render::size(sizes.wal));
    let _ = write!(text, "  stored: {backups} of backups, {wal} of WAL");
    if sizes.unfinished > 0 {
        let _ = write!(text, ", {} of backups that are not finished", render::size(sizes.unfinished));
    }
    text.push('\n');
    text
}

/// The last drill of a backup.
fn tried(drill: &Drill) -> String {
    format!("drill of {}: {}", drill.ended.strftime("%Y-%m-%d %H:%M"), drill.outcome.as_str())
}

pub fn show(context: &Context, args: &args::ShowArgs) -> Result<u8> {
    for repository in setup::chosen(context, &args.selection)? {
        let archive = setup::archive(context, &repository, &args.selection)?;
        let contents = Contents::read(archive, jiff::Timestamp::now())?;
        let wanted = match args.backup.as_str() {
            "latest" => contents.records.last(),
            id => contents.records.iter().find(|record| record.id == id),
        };
        if let Some(record) = wanted {
            return show_record(context, &contents, record);
        }
    }
    Err(Error::new(Kind::Absent, format!("there is no backup {}", args.backup))
        .hint("`walkeep list` names the backups there are"))
}

fn show_record(context: &Context, contents: &Contents, record: &Record) -> Result<u8> {
    let reach = contents.reach(record);
    if context.json {
        let mut report = backup(contents, record);
        report["repository"] = contents.archive.repository().name().into();
        report["wal"] = json!({"first": record.wal.first, "last": record.wal.last});
        report["reaches"] = json!(reach.map(|reach| reach.last));
        report["settings"] = json!(record.settings);
        report["tablespaces"] = json!(record.tablespaces);
        report["damaged"] = json!(record.damaged);
        output::print_json(&report)?;
        return Ok(0);
    }
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<20} {value}");
    };
    line("backup", record.id.clone());
    line("repository", contents.archive.repository().name().to_owned());
    line("state", if record.is_complete() { "complete" } else { "damaged" }.to_owned());
    line("started", format!("{} at {}", render::time(record.start_time), record.start_lsn));
    line("ended", format!("{} at {}", render::time(record.stop_time), record.stop_lsn));
    line("timeline", record.timeline.to_string());
    line("system identifier", record.system_identifier.to_string());
    line("PostgreSQL", record.pg_version.clone());
    line("size", format!("{} in {} files", render::size(record.size), record.files));
    line("stored", format!("{}, {} of it new", render::size(record.stored), render::size(record.new_bytes)));
    let own = contents.sizes.exclusive.get(&record.id).copied().unwrap_or_default();
    line("its own", format!("{}, free without it", render::size(own)));
    if let Some(pin) = contents.pins.get(&record.id) {
        line("pinned", pin.to_string());
    }
    if let Some(drill) = contents.drill(&record.id) {
        let seconds = [("restore", drill.restore_seconds), ("recovery", drill.recovery_seconds)];
        let seconds = seconds.into_iter().filter_map(|(name, took)| Some(format!(", {name} {:.1} s", took?)));
        line("last drill", format!("{}{}", tried(drill), seconds.collect::<String>()));
    }
    line("needs WAL", format!("{} to {}", record.wal.first, record.wal.last));
    if let Some(reach) = reach {
        line("leads to", format!("{} ({} segments)", reach.last, reach.segments));
    }
    line("server time zone", record.settings.time_zone.clone());
    line("data checksums", if record.settings.data_checksums { "on" } else { "off" }.to_owned());
    for tablespace in &record.tablespaces {
        let location = tablespace.tablespace.location.as_ref();
        let location = location.map_or("in place".into(), |location| location.display());
        line(
            "tablespace",
            format!("{} {location}, {}", tablespace.tablespace.oid, render::size(tablespace.size)),
        );
    }
    for (key, value) in &record.labels {
        line("label", format!("{key}={value}"));
    }
    for file in &record.damaged {
        line("damaged", format!("{} pages {:?}", file.path, file.blocks));
    }
    output::print(&text)?;
    Ok(0)
}
