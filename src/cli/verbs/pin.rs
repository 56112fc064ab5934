//! `walkeep pin` and `walkeep unpin`.

use crate::cli::args::{PinArgs, SelectionArgs, UnpinArgs};
use crate::cli::exit::Exit;
use crate::cli::render::Report;
use crate::cli::setup::Context;
use crate::cli::{moment, render, setup};
use crate::error::{Error, Kind, Result};
use crate::repo::Archive;
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use crate::repo::survey::{Survey, Want};
use serde::Serialize;
use serde_json::{Map, Value};

/// Backups that were pinned or unpinned, under the name of their list in JSON.
struct Pins {
    list: &'static str,
    backups: Vec<Value>,
}

impl Report for Pins {
    fn json(&self) -> impl Serialize {
        Map::from_iter([(self.list.to_owned(), self.backups.clone().into())])
    }
}

pub fn pin(context: &Context, args: &PinArgs) -> Result<Exit> {
    let mut backups = Vec::new();
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
        let wal = if args.standalone {
            format!("with its WAL from {} to {} alone", record.wal.first, record.wal.last)
        } else {
            format!("with all WAL from {} on", record.wal.first)
        };
        let repository = archive.repository().name();
        context
            .console
            .say(&format!("backup {} in repository {repository} is kept {until}, {wal}", record.id));
        backups.push(json(&archive, &record, Some(&pin)));
    }
    context.print(&Pins { list: "pinned", backups })?;
    Ok(Exit::Done)
}

pub fn unpin(context: &Context, args: &UnpinArgs) -> Result<Exit> {
    let mut backups = Vec::new();
    for (archive, record) in find(context, &args.backup, &args.selection)? {
        let was = if archive.unpin(&record.id)? { "is no longer pinned" } else { "was not pinned" };
        let repository = archive.repository().name();
        context.console.say(&format!("backup {} in repository {repository} {was}", record.id));
        backups.push(json(&archive, &record, None));
    }
    context.print(&Pins { list: "unpinned", backups })?;
    Ok(Exit::Done)
}

fn json(archive: &Archive, record: &Record, pin: Option<&Pin>) -> Value {
    let mut report = render::backup(record, pin);
    report["repository"] = archive.repository().name().into();
    report
}

/// Returns the backup `wanted` of every repository that has it.
fn find(context: &Context, wanted: &str, selection: &SelectionArgs) -> Result<Vec<(Archive, Record)>> {
    let mut found = Vec::new();
    for repository in setup::selected(context, selection)? {
        let archive = setup::archive(context, &repository, selection)?;
        let server = setup::server_timeline(context, &archive);
        let survey = Survey::read(&archive, Want::default())?;
        let records = &survey.records.good;
        let record = match wanted {
            "latest" => survey.branches(&server, jiff::Timestamp::now()).newest(records),
            id => records.iter().find(|record| record.id == id),
        };
        let record = record.cloned();
        found.extend(record.map(|record| (archive, record)));
    }
    if found.is_empty() {
        return Err(setup::no_backup(wanted));
    }
    Ok(found)
}
