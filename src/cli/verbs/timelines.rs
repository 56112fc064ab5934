//! `walkeep timelines`: makes the missing history of a timeline again.

use crate::cli::args::TimelinesArgs;
use crate::cli::exit::Exit;
use crate::cli::histories;
use crate::cli::render::Report;
use crate::cli::setup::{self, Context};
use crate::error::Result;
use crate::pg::segment::{TimelineId, WalName};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;

/// A history that was made again, and the repositories that lacked it.
struct Rebuilt {
    name: WalName,
    repositories: Vec<String>,
}

impl Report for Rebuilt {
    fn text(&self) -> String {
        let Rebuilt { name, repositories } = self;
        let mut text = String::new();
        for repository in repositories {
            let _ = writeln!(text, "{name} was made again from a later history, in repository {repository}");
        }
        if repositories.is_empty() {
            let _ = writeln!(text, "{name} is not missing");
        }
        text
    }

    fn json(&self) -> impl Serialize {
        json!({"rebuilt": self.name.to_string(), "repositories": self.repositories})
    }
}

pub fn run(context: &Context, args: &TimelinesArgs) -> Result<Exit> {
    let repositories = setup::selected(context, &args.selection)?;
    let archives = repositories.iter().map(|repository| setup::archive(context, repository, &args.selection));
    let archives = archives.collect::<Result<Vec<_>>>()?;
    let timeline = TimelineId(args.rebuild);
    let repositories = histories::rebuild(context, timeline, &archives)?;
    context.print(&Rebuilt { name: WalName::History(timeline), repositories })?;
    Ok(Exit::Done)
}
