//! Checks the spool. It is optional, so its problems are warnings; it is not created here, where it
//! could get an owner other than the server's.

use super::CheckResult;
use crate::cli::render;
use crate::config::WalConfig;
use crate::error::{Doing, Kind, Result};
use crate::fs::folder::Folder;
use crate::fs::named;
use crate::pg::segment::SegmentSize;
use rustix::fs::{Access, StatVfs, fstatvfs};
use std::path::{Path, PathBuf};

pub fn look(wal: &WalConfig, pgdata: &Path, size: Option<SegmentSize>) -> CheckResult {
    let place = wal.spool.display();
    if wal.push_ahead == 0 && wal.fetch_ahead == 0 {
        return CheckResult::ok("nothing is pushed or fetched ahead");
    }
    let (there, room) = match room(&wal.spool, pgdata) {
        Ok(found) => found,
        Err(error) => {
            return CheckResult::warning(
                format!("{place} cannot be used, so nothing is pushed or fetched ahead: {error}"),
                error.advice().filter(|_| error.kind() == Kind::Refused).map_or_else(
                    || format!("create it for the user that runs the server alone: `install -d -o postgres -m 700 {place}`"),
                    str::to_owned,
                ),
            );
        }
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    // The segments fetched ahead, and one that is being fetched.
    let needed = size.map_or(0, |size| size.bytes() * (u64::from(wal.fetch_ahead) + 1));
    let free_there = format!("{} are free", render::size(free));
    if free < needed {
        return CheckResult::warning(
            format!(
                "{place} has too little space: {free_there}, fetching ahead takes up to {}",
                render::size(needed)
            ),
            "free space there, or lower `fetch_ahead` in [wal]",
        );
    }
    CheckResult::ok(if there == wal.spool {
        format!("{place} can be written to, {free_there}")
    } else {
        format!("{place} will be created when it is needed, {free_there}")
    })
}

/// Returns the longest part of a path that exists, and the room there.
fn room(spool: &Path, pgdata: &Path) -> Result<(PathBuf, StatVfs)> {
    let process = rustix::process::geteuid();
    let owner = named::stat(pgdata)?.filter(|_| process.is_root());
    let user = owner.map_or(process.as_raw(), |owner| owner.st_uid);
    for path in spool.ancestors() {
        let Some(folder) = Folder::root(path)? else {
            continue;
        };
        if path == spool {
            folder.check_parent(user)?;
        }
        let doing = || format!("look at {}", path.display());
        folder.access(Access::WRITE_OK | Access::EXEC_OK).doing(doing)?;
        return Ok((path.to_owned(), fstatvfs(&folder).doing(doing)?));
    }
    Err(named::missing(spool))
}
