//! Checks the spool. It is optional, so its problems are warnings; it is not created here, where it
//! could get an owner other than the server's.

use super::CheckResult;
use crate::cli::render;
use crate::config::WalConfig;
use crate::pg::segment::SegmentSize;
use rustix::fs::Access;
use std::path::Path;

pub fn look(wal: &WalConfig, size: Option<SegmentSize>) -> CheckResult {
    let place = wal.spool.display();
    if wal.push_ahead == 0 && wal.fetch_ahead == 0 {
        return CheckResult::ok("nothing is pushed or fetched ahead");
    }
    let there = wal.spool.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let usable = rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK);
    let room = usable.and_then(|()| rustix::fs::statvfs(there));
    let free = match room {
        Ok(room) => room.f_bavail.saturating_mul(room.f_frsize),
        Err(error) => {
            return CheckResult::warning(
                format!(
                    "{place} cannot be used, so nothing is pushed or fetched ahead: {}: {}",
                    there.display(),
                    std::io::Error::from(error)
                ),
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
