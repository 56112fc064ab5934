//! Pushing and fetching ahead: what the spool saves, and that nothing depends on it.

mod fetch;
mod fetch_server;
mod push;
mod push_server;

use crate::support::site::{SYSTEM, Site};
use crate::support::*;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files that walkeep keeps in the spool, but for those that hold no data.
fn spooled(archive: &Archive) -> Vec<PathBuf> {
    let mut files = repo::files(&spool(archive));
    files.retain(|path| !["lock", "asked"].iter().any(|name| path.ends_with(name)));
    files
}

fn spool(archive: &Archive) -> PathBuf {
    archive.scratch().join("spool")
}

/// The names of them.
fn spooled_names(archive: &Archive) -> Vec<String> {
    let names = spooled(archive).into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    names.collect()
}

/// The processes that fetch ahead with this archive's configuration.
fn workers(archive: &Archive) -> Vec<u32> {
    let config = archive.config().display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("list processes").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains(&config) && line.contains("--ahead=") && wait::is_running(pid) {
            found.push(pid);
        }
    }
    found
}
