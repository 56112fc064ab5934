//! Pushing and fetching ahead: what the spool saves, and that nothing depends on it.

mod fetch;
mod fetch_server;
mod foreign;
mod push;
mod push_server;
mod s3;

use crate::support::site::{SYSTEM, Site};
use crate::support::*;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files that walkeep keeps in the spool, but for those that hold no data.
fn spooled(archive: &Archive) -> Vec<PathBuf> {
    let mut files = repo::files(&spool(archive));
    let holds_data = |path: &PathBuf| !["lock", "asked"].iter().any(|name| path.ends_with(name));
    // What is noted about distant repositories is another matter.
    files.retain(|path| holds_data(path) && !path.components().any(|part| part.as_os_str() == "notes"));
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

/// Kills them, and awaits that all of their threads are gone: until then they hold what they had
/// locked.
fn end_workers(archive: &Archive) {
    for pid in workers(archive) {
        run::signal(pid, "KILL");
        let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        until("the worker is gone", || !wait::is_running(pid) && threads() <= 1);
    }
}

/// Waits until the files are old enough for a mark: the clock that dates them has advanced since
/// they were written. (Their status change time, by which that is decided, cannot be set.)
fn settle(site: &Site, paths: &[String]) {
    use std::os::unix::fs::MetadataExt;
    const TICK: Duration = Duration::from_millis(20);
    let changed = |path: &String| {
        let meta = std::fs::metadata(site.data.path.join(path)).expect("look at a segment");
        Duration::new(meta.ctime().unsigned_abs(), u32::try_from(meta.ctime_nsec()).expect("nanoseconds"))
    };
    let newest = paths.iter().map(changed).max().unwrap_or_default();
    until("the segments are older than a tick", || {
        std::time::SystemTime::now() >= std::time::UNIX_EPOCH + newest + TICK
    });
}
