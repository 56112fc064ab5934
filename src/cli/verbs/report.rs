//! `walkeep report`: collects what the page shows, and writes the page.

use super::status;
use crate::cli::args::{GlobalArgs, ReportArgs, SelectionArgs, TimeoutArgs};
use crate::cli::contents::Contents;
use crate::cli::exit::Exit;
use crate::cli::output;
use crate::cli::render::Report;
use crate::cli::setup::{self, Context};
use crate::error::{Error, Kind, Result};
use crate::observe::write_textfile;
use crate::report::{self, ClusterView, Holdings};
use serde::Serialize;
use serde_json::json;
use std::path::Path;

/// The argument of `--html` that means standard output.
const STDOUT: &str = "-";

pub fn run(global: &GlobalArgs, args: &ReportArgs) -> Result<Exit> {
    let to_stdout = args.html.as_os_str() == STDOUT;
    if to_stdout && global.json {
        return Err(Error::new(Kind::Usage, "standard output cannot be both JSON and HTML")
            .hint("write the page to a file, or leave `--json` out"));
    }
    let contexts = Context::all(global)?;
    let clusters: Vec<ClusterView> = contexts.iter().map(|context| view(context, &args.limit)).collect();
    let page = report::page(&clusters, jiff::Timestamp::now());
    if to_stdout {
        output::print_text(&page)?;
        return Ok(Exit::Done);
    }
    write_textfile(&args.html, &page)?;
    let light = report::light(&clusters).as_str();
    output::print(global.json, &WrittenPage { html: &args.html, bytes: page.len(), light })?;
    Ok(Exit::Done)
}

/// A page that was written to a file.
struct WrittenPage<'a> {
    html: &'a Path,
    bytes: usize,
    light: &'static str,
}

impl Report for WrittenPage<'_> {
    fn json(&self) -> impl Serialize {
        json!({"html": self.html, "bytes": self.bytes, "light": self.light})
    }
}

/// Collects the state of a cluster and the content of its repositories. A repository that did not
/// answer `status` is not read again.
fn view(context: &Context, limit: &TimeoutArgs) -> ClusterView {
    let health = status::see(context, limit);
    let seen = context.repositories.iter().zip(&health.facts.repositories);
    let holdings = seen.map(|(repository, seen)| {
        seen.stock.is_ok().then(|| {
            let archive = setup::archive(context, repository, &SelectionArgs::default())?;
            Contents::read(archive, &health.facts.timeline, health.facts.now).map(holdings)
        })
    });
    ClusterView { holdings: holdings.collect(), health }
}

fn holdings(contents: Contents) -> Holdings {
    Holdings {
        records: contents.records,
        damaged: contents.damaged,
        pins: contents.pins,
        drills: contents.drills,
        wal: contents.wal,
        gaps: contents.gaps.into_iter().map(|hole| hole.gap).collect(),
        window: contents.window,
        windows: contents.windows,
        exclusive: contents.sizes.exclusive,
        backup_bytes: contents.sizes.backups,
        wal_bytes: contents.sizes.wal,
    }
}
