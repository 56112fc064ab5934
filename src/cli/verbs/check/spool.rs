//! Checks the spool. It is optional, so its problems are warnings; it is not created here, where it
//! could get an owner other than the server's.

use super::CheckResult;
use crate::cli::render;
use crate::config::WalConfig;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::Folder;
use crate::fs::named;
use crate::pg::segment::SegmentSize;
use rustix::fs::{Access, AtFlags, accessat, fstatvfs};
use std::path::Path;

/// Returns the free bytes of a directory in which this process can create files.
fn free(directory: &Path) -> Result<u64> {
    let folder = Folder::root(directory)?
        .ok_or_else(|| Error::new(Kind::Absent, format!("{} does not exist", directory.display())))?;
    let usable = accessat(&folder, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty());
    let room = usable.and_then(|()| fstatvfs(&folder));
    let room = room.doing(|| format!("use {}", directory.display()))?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

pub fn look(wal: &WalConfig, size: Option<SegmentSize>) -> CheckResult {
    let place = wal.spool.display();
    if wal.push_ahead == 0 && wal.fetch_ahead == 0 {
        return CheckResult::ok("nothing is pushed or fetched ahead");
    }
    let is_there = |path: &&Path| named::stat(path).is_ok_and(|stat| stat.is_some());
    let there = wal.spool.ancestors().find(is_there).unwrap_or(Path::new("/"));
    let free = match free(there) {
        Ok(free) => free,
        Err(error) => {
            return CheckResult::warning(
                format!("{place} cannot be used, so nothing is pushed or fetched ahead: {error}"),
                format!(
                    "create it for the user that runs the server alone: `install -d -o postgres -m 700 {place}`"
                ),
            );
        }
    };
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
