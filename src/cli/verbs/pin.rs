//! `walkeep pin` and `walkeep unpin`.

use crate::cli::setup::Context;
use crate::cli::{args, moment, output, render, setup};
use crate::error::{Error, Kind, Result};
use crate::repo::Archive;
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use serde_json::json;

pub fn pin(context: &Context, args: &args::PinArgs) -> Result<u8> {
    let mut pinned = Vec::new();
    for (archive, record) in find(context, &args.backup, &args.selection)? {
        let zone = Some(record.settings.time_zone.as_str());
        let until = args.until.as_deref().map(|text| moment::parse_day(text, zone)).transpose()?;
        if until.is_some_and(|until| until <= jiff::Timestamp::now()) {
            return Err(Error::new(Kind::Usage, "--until lies in the past"));
        }
        let pin = Pin { until, standalone: args.standalone };
        archive.pin(&record.id, &pin)?;
        let until =
            until.map_or_else(|| "for ever".to_owned(), |until| format!("until {}", render::time(until)));
        let wal = match args.standalone {
            true => format!("with its WAL from {} to {} alone", record.wal.first, record.wal.last),
            false => format!("with all WAL from {} on", record.wal.first),
        };
        context.console.say(&format!(
            "backup {} in repository {} is kept {until}, {wal}",
            record.id,
            archive.repository().name()
        ));
        pinned.push((archive, record, pin));
    }
    if context.json {
        let report = pinned.iter().map(|(archive, record, pin)| {
            let mut report = render::backup(record, Some(pin));
            report["repository"] = archive.repository().name().into();
            report
        });
        output::print_json(&json!({"pinned": report.collect::<Vec<_>>()}))?;
    }
    Ok(0)
}

pub fn unpin(context: &Context, args: &args::UnpinArgs) -> Result<u8> {
    let mut unpinned = Vec::new();
    for (archive, record) in find(context, &args.backup, &args.selection)? {
        let was = match archive.unpin(&record.id)? {
            true => "is no longer pinned",
            false => "was not pinned",
        };
        let repository = archive.repository().name();
        context.console.say(&format!("backup {} in repository {repository} {was}", record.id));
        let mut report = render::backup(&record, None);
        report["repository"] = repository.into();
        unpinned.push(report);
    }
    if context.json {
        output::print_json(&json!({"unpinned": unpinned}))?;
    }
    Ok(0)
}

/// The backup of this name, in every repository that has it.
fn find(context: &Context, wanted: &str, place: &args::SelectionArgs) -> Result<Vec<(Archive, Record)>> {
    let mut found = Vec::new();
    for repository in setup::chosen(context, place)? {
        let archive = setup::archive(context, &repository, place)?;
        let record = match wanted {
            "latest" => archive.records()?.good.pop(),
            id => archive.records()?.good.into_iter().find(|record| record.id == id),
        };
        found.extend(record.map(|record| (archive, record)));
    }
    if found.is_empty() {
        return Err(Error::new(Kind::Absent, format!("there is no backup {wanted}"))
            .hint("`walkeep list` names the backups there are"));
    }
    Ok(found)
}
