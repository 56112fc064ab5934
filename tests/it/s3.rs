//! `walpush`, `walfetch` and `walkeep` on an S3 repository, in front of a real server and behind a
//! network that does wrong what networks, gateways and stores do wrong.

mod absent;
mod addresses;
mod clock;
mod conditions;
mod credentials;
mod failing;
mod integrity;
mod listing;
mod lost;
mod multipart;
mod options;
mod requests;
mod secrets;
mod story;
pub mod tls;

use crate::support::s3::{Bucket, Keys, server};
use crate::support::*;
use std::ops::{Deref, DerefMut};

/// The prefix of a repository in its bucket.
const PREFIX: &str = "archive";

/// Deadlines of calls that are to fail, and of calls that are to work.
const SOON: &str = "1s";
const LATE: &str = "50s";

/// A data directory whose server is down, and an archive for it in a bucket of its own.
struct Remote {
    site: Site,
    bucket: Bucket,
}

impl Deref for Remote {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl DerefMut for Remote {
    fn deref_mut(&mut self) -> &mut Site {
        &mut self.site
    }
}

impl Remote {
    fn new() -> Remote {
        Remote::with(|remote| remote)
    }

    /// With other lines in the table of the repository.
    fn with(change: impl FnOnce(repo::Remote) -> repo::Remote) -> Remote {
        let remote = Remote::unregistered(1, change);
        remote.archive.init().ok();
        remote.bucket.proxy.forget();
        remote
    }

    /// The same without `walkeep init`, and with WAL segments of this size.
    fn unregistered(megabytes: u64, change: impl FnOnce(repo::Remote) -> repo::Remote) -> Remote {
        let bucket = Bucket::new();
        let remote = change(bucket.repository(PREFIX));
        Remote { site: Site::unregistered(megabytes, |build| build.remote(remote)), bucket }
    }

    /// Makes every call of a helper end at this deadline.
    fn within(mut self, timeout: &str) -> Remote {
        self.deadline(timeout);
        self
    }

    /// The same from now on. What is to fail shall fail soon, and what is to work shall have time.
    fn deadline(&mut self, timeout: &str) {
        self.archive.set_wal(&format!("timeout = {timeout:?}"));
        self.archive.write_config();
    }

    fn proxy(&self) -> &Proxy {
        &self.bucket.proxy
    }

    /// Keys of the WAL files that are stored.
    fn stored(&self) -> Vec<String> {
        let mut keys = self.bucket.keys();
        keys.retain(|key| key.contains("/wal/"));
        keys
    }

    /// The segment that a test pushes, with the path that PostgreSQL gives for it.
    fn next(&self) -> (Segment, String) {
        let segment = self.segment(2);
        let path = self.data.write(&segment);
        (segment, path)
    }
}
