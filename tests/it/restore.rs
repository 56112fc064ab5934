//! `walkeep restore`: from a repository to a server that shows what it should, or to a refusal that
//! explains.

mod damage;
mod delta;
mod follow;
mod interrupted;
mod outside;
mod partial;
mod places;
mod preflight;
mod refused;
mod replayed;
mod root;
mod scattered;
mod settings;
mod targets;
mod waldir;

use crate::support::live::{self, ALL, recovers, restore, restoring};
use crate::support::repo::{self, Snapshot};
use crate::support::*;
use std::path::Path;

/// Rows of the table of the story.
fn rows(server: &Cluster) -> String {
    server.psql("select count(*) from t")
}

/// No server comes up on it. Where there is no data directory at all, none can.
#[track_caller]
fn assert_not_startable(scratch: Scratch, data: &Path) {
    if !data.join("postgresql.conf").exists() || !data.join("PG_VERSION").exists() {
        return;
    }
    let server = Cluster::over(scratch, data.to_owned());
    assert!(!server.try_start(), "a server started on a directory that is not finished");
}
