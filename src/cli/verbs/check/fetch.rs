//! Fetches a segment back as recovery would: by `walfetch`, as the user that runs the server.

use crate::cli::account;
use crate::cli::restore_command::{self, Scratch};
use crate::cli::setup::Context;
use crate::codec::hash::{ContentHash, Hasher};
use crate::error::{Doing, Error, Kind, Result, part};
use crate::fs::folder::size;
use crate::fs::named;
use crate::pg::segment::{SegmentName, SegmentSize, WalName};
use crate::repo::Repository;
use crate::repo::replay::check_size;
use std::io::Read;
use std::path::Path;

/// Returns the hash of the server's own file of a segment; `None` when it is missing or cannot be
/// read.
pub fn own(pgdata: &Path, name: SegmentName) -> Option<ContentHash> {
    hash(&pgdata.join("pg_wal").join(name.to_string())).ok()
}

/// Fetches a segment from one repository, and returns the result of the comparison with the
/// server's own file.
pub fn back(
    context: &Context,
    repository: &Repository,
    name: SegmentName,
    own: Option<ContentHash>,
) -> Result<&'static str> {
    let pgdata = &context.cluster.pgdata;
    let owner = account::owner_of(pgdata)?
        .ok_or_else(|| Error::new(Kind::Absent, format!("{} does not exist", pgdata.display())))?;
    let place = Scratch::make((owner.user, owner.group))?;
    let command = restore_command::build(context, &["--repository", repository.name()])?;
    let destination = place.path().join("segment");
    restore_command::call(&command, WalName::Segment(name), place.path(), &destination).map_err(|error| {
        error
            .doing(format!("fetch {name} as the server does"))
            .hint("the user that runs the server has to be able to read the configuration and the repository")
    })?;
    let size = |path: &Path| SegmentSize::try_from(size(&named::stat(path).ok()??).ok()?).ok();
    let server = size(&pgdata.join("pg_wal").join(name.to_string()));
    if let (Some(fetched), Some(server)) = (size(&destination), server) {
        check_size(fetched.bytes(), server).map_err(|error| error.with_kind(Kind::Problem))?;
    }
    match (hash(&destination)?, own) {
        (fetched, Some(own)) if fetched == own => Ok("is the same as the server's"),
        (fetched, Some(own)) => Err(Error::new(
            Kind::Problem,
            format!("{name} has the SHA-256 {fetched}, the server's own file {own}"),
        )
        .hint(
            "do not trust this archive: check the disks of both hosts, and take a backup into another repository",
        )),
        // The server has recycled the file; `walfetch` has checked the stored hash.
        (_, None) => Ok("has the right hash"),
    }
}

pub(super) fn hash(path: &Path) -> Result<ContentHash> {
    let doing = || format!("read {}", path.display());
    let mut file = named::open(path)?.ok_or_else(|| named::missing(path))?;
    let (mut hasher, mut chunk) = (Hasher::default(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut chunk).doing(doing)? {
            0 => return Ok(hasher.finish()),
            got => hasher.update(part(&chunk, 0..got)?),
        }
    }
}
