//! `walkeep list` and `walkeep show`.

use super::setup::Context;
use super::{args, exit, output, render, setup};
use crate::error::{Error, Kind, Result};
use crate::pg::history::History;
use crate::repo::catalog::{Inventory, Reach};
use crate::repo::record::Record;
use crate::repo::{Archive, Records};
use serde_json::{Value, json};

/// What one repository has.
struct Contents {
    archive: Archive,
    records: Vec<Record>,
    damaged: Vec<Error>,
    inventory: Option<Inventory>,
    window: Option<Window>,
}

/// Any moment between can be restored, holes excepted.
struct Window {
    from: jiff::Timestamp,
    to: jiff::Timestamp,
}

impl Contents {
    fn read(archive: Archive) -> Result<Contents> {
        let Records { good: records, damaged } = archive.records()?;
        let size = match records.last() {
            Some(record) => Some(record.segment_size),
            None => archive.any_segment_size()?,
        };
        let inventory = size.map(|size| Inventory::read(&archive, size)).transpose()?;
        let mut contents = Contents { archive, records, damaged, inventory, window: None };
        contents.window = contents.find_window()?;
        Ok(contents)
    }

    /// Along the newest timeline that a backup leads to: how far its WAL goes.
    fn reach(&self, record: &Record) -> Result<Option<Reach>> {
        let Some(inventory) = &self.inventory else {
            return Ok(None);
        };
        let newest = inventory.newest_from(record.timeline);
        let history = match self.archive.history(newest)? {
            Some(history) if history.contains(record.timeline, record.stop_lsn) => history,
            _ => self.archive.history(record.timeline)?.unwrap_or_else(|| History::root(record.timeline)),
        };
        Ok(inventory.reach(record, &history))
    }

    fn find_window(&self) -> Result<Option<Window>> {
        let complete = || self.records.iter().filter(|record| record.is_complete());
        let (Some(oldest), Some(newest)) = (complete().next(), complete().next_back()) else {
            return Ok(None);
        };
        let Some(reach) = self.reach(newest)? else {
            return Ok(None);
        };
        let last = reach.tail(&self.archive, newest.segment_size)?.last_transaction_end;
        // Recovery to a time stops at the first transaction that ended later, so there has to be one.
        let to = last.and_then(|last| last.checked_sub(jiff::SignedDuration::from_micros(1)).ok());
        let to = to.map_or(newest.stop_time, |to| to.max(newest.stop_time));
        Ok(Some(Window { from: oldest.stop_time, to }))
    }

    fn json(&self) -> Value {
        let bounds = self.inventory.as_ref().and_then(Inventory::bounds);
        json!({
            "name": self.archive.repository().name(),
            "url": self.archive.repository().url(),
            "backups": self.records.iter().map(render::backup).collect::<Vec<_>>(),
            "lineage": self.archive.lineage().to_string(),
            "earlier": self.earlier().collect::<Vec<_>>(),
            "wal": {
                "first": bounds.map(|(first, _)| first),
                "last": bounds.map(|(_, last)| last),
                "gaps": self.inventory.as_ref().map(Inventory::gaps).unwrap_or_default(),
            },
            "window": {
                "from": self.window.as_ref().map(|window| render::time(window.from)),
                "to": self.window.as_ref().map(|window| render::time(window.to)),
            },
        })
    }

    /// The lives of the cluster before this one.
    fn earlier(&self) -> impl Iterator<Item = String> {
        let ancestors = &self.archive.identity().lineage;
        ancestors.iter().map(|ancestor| format!("{}-{}", ancestor.system_identifier, ancestor.pg))
    }

    fn text(&self) -> String {
        let repository = self.archive.repository();
        let mut text = format!("repository {} at {}\n", repository.name(), repository.url());
        for earlier in self.earlier() {
            text.push_str(&format!("  before the upgrade: --lineage {earlier}\n"));
        }
        if self.records.is_empty() {
            text.push_str("  no backups\n");
        } else {
            text.push_str(&format!(
                "  {:<24} {:<9} {:<20} {:>11} {:>11}  labels\n",
                "backup", "state", "ended (UTC)", "size", "stored"
            ));
        }
        for record in &self.records {
            let labels: Vec<String> =
                record.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            text.push_str(&format!(
                "  {:<24} {:<9} {:<20} {:>11} {:>11}  {}\n",
                record.id,
                if record.is_complete() { "complete" } else { "damaged" },
                record.stop_time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
                render::size(record.size),
                render::size(record.stored),
                labels.join(" "),
            ));
        }
        match self.inventory.as_ref().and_then(Inventory::bounds) {
            Some((first, last)) => text.push_str(&format!("  WAL from {first} to {last}\n")),
            None => text.push_str("  no WAL\n"),
        }
        for gap in self.inventory.iter().flat_map(Inventory::gaps) {
            text.push_str(&format!("  missing: {} to {}\n", gap.first, gap.last));
        }
        if let Some(window) = &self.window {
            text.push_str(&format!(
                "  restorable: from {} to {}\n",
                render::time(window.from),
                render::time(window.to)
            ));
        }
        text
    }
}

pub fn list(context: &Context, args: &args::List) -> Result<u8> {
    let mut contents = Vec::new();
    for repository in setup::chosen(context, &args.place)? {
        contents.push(Contents::read(setup::archive(context, &repository, &args.place)?)?);
    }
    if context.json {
        output::print_json(&json!({
            "cluster": context.cluster.name,
            "repositories": contents.iter().map(Contents::json).collect::<Vec<_>>(),
        }))?;
    } else {
        let text: Vec<String> = contents.iter().map(Contents::text).collect();
        output::print(&text.join("\n"))?;
    }
    let mut status = 0;
    for contents in &contents {
        if contents.inventory.as_ref().is_some_and(|inventory| !inventory.gaps().is_empty()) {
            status = exit::PROBLEM;
        }
        for error in &contents.damaged {
            status = exit::PROBLEM;
            output::complain("walkeep", error);
        }
    }
    Ok(status)
}

pub fn show(context: &Context, args: &args::Show) -> Result<u8> {
    for repository in setup::chosen(context, &args.place)? {
        let contents = Contents::read(setup::archive(context, &repository, &args.place)?)?;
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
    let reach = contents.reach(record)?;
    if context.json {
        let mut report = render::backup(record);
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
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<20} {value}\n"));
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
