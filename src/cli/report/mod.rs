//! `walkeep report`: what `status` and `list` know, as one page to look at. It needs nothing but itself: no script, no
//! other file, no request.

mod chart;
mod coverage;
mod history;
mod html;
mod page;
mod sizes;
mod tables;

use super::contents::Contents;
use super::setup::{self, Context};
use super::verbs::status;
use super::{args, output};
use crate::error::{Error, Kind, Result};
use crate::observe::{Health, Stock, write_textfile};
use crate::repo::pin::Pin;
use crate::repo::record::Record;
use serde_json::json;
use std::collections::BTreeSet;

/// Writes to standard output.
const STDOUT: &str = "-";

/// A cluster, and what each of its repositories has: `None` where that is not known, which `health` says.
struct Cluster {
    health: Health,
    contents: Vec<Option<Result<Contents>>>,
}

pub fn run(global: &args::GlobalArgs, args: &args::ReportArgs) -> Result<u8> {
    let to_stdout = args.html.as_os_str() == STDOUT;
    if to_stdout && global.json {
        return Err(Error::new(Kind::Usage, "standard output cannot be both JSON and HTML")
            .hint("write the page to a file, or leave `--json` out"));
    }
    let contexts = Context::all(global)?;
    let clusters: Vec<Cluster> = contexts.iter().map(|context| Cluster::see(context, &args.limit)).collect();
    let page = page::page(&clusters, jiff::Timestamp::now());
    if to_stdout {
        output::print(&page)?;
        return Ok(0);
    }
    write_textfile(&args.html, &page)?;
    if global.json {
        let light = page::light(&clusters);
        output::print_json(&json!({"html": args.html, "bytes": page.len(), "light": light.as_str()}))?;
    }
    Ok(0)
}

impl Cluster {
    fn see(context: &Context, limit: &args::TimeoutArgs) -> Cluster {
        let health = status::see(context, limit);
        let places = context.repositories.iter().zip(&health.facts.repositories);
        let contents = places.map(|(repository, seen)| {
            // One that did not answer is not asked again.
            seen.stock.is_ok().then(|| {
                let archive = setup::archive(context, repository, &args::SelectionArgs::default())?;
                Contents::read(archive, health.facts.now)
            })
        });
        Cluster { contents: contents.collect(), health }
    }
}

/// A backup, and what is known of it besides its record.
struct Known<'a> {
    record: &'a Record,
    pin: Option<&'a Pin>,
    is_found_bad: bool,
}

impl Known<'_> {
    /// All of a repository, in the order in which they ended: that of their WAL may differ, after a recovery.
    fn all<'a>(contents: &'a Contents, stock: &Stock) -> Vec<Known<'a>> {
        let bad = stock.backups.iter().filter(|backup| backup.is_found_bad);
        let bad: BTreeSet<&str> = bad.map(|backup| backup.id.as_str()).collect();
        let known = |record: &'a Record| Known {
            record,
            pin: contents.pins.get(&record.id),
            is_found_bad: bad.contains(record.id.as_str()),
        };
        let mut all: Vec<Known<'a>> = contents.records.iter().map(known).collect();
        all.sort_by_key(|known| known.record.stop_time);
        all
    }

    fn is_good(&self) -> bool {
        self.record.is_complete() && !self.is_found_bad
    }

    fn is_full(&self) -> bool {
        self.record.parent.is_none()
    }

    fn kind(&self) -> &'static str {
        if self.is_full() { "full" } else { "incremental" }
    }

    fn state(&self) -> &'static str {
        match (self.is_found_bad, self.record.is_complete()) {
            (true, _) => "found damaged",
            (false, false) => "bad pages",
            (false, true) => "complete",
        }
    }
}

/// `1 backup`, `2 backups`.
fn count(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    }
}
