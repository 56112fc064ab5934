//! What the tests stand on. Each fixture cleans up after itself when it is dropped, also when its
//! test panics.
//!
//! - [`account`]: who runs the programs and the servers: never root, because PostgreSQL refuses to.
//! - [`scratch`]: directories of that account, removed at the end.
//! - [`run`]: one start of a program, with a clean environment and a deadline, and what came out of
//!   it.
//! - [`wait`]: awaiting an event by looking for it, with a deadline; nothing here sleeps for a
//!   fixed time.
//! - [`pg`]: a real PostgreSQL cluster.
//! - [`live`]: a server with its archive, backups of it, and restored copies.
//! - [`oracle`]: a base backup with an archive, whose recovery shows all rows or does not come up.
//! - [`saga`]: a repository with several backups, timelines and a pruned past.
//! - [`segment`]: WAL files and data directories made without PostgreSQL, for every major version
//!   and size.
//! - [`repo`]: a configuration, its repository, the three programs on it, and ways to damage what
//!   is stored.
//! - [`s3`]: a real S3 server, a bucket for each test, a client to look into it.
//! - [`proxy`]: faults between the programs and that server, and what they asked for.
//! - [`credentials`]: who hands out temporary credentials in the clouds.
//! - [`http`]: what these three are made of.
//! - [`site`]: a data directory whose server is down, and an archive for it.
//! - [`strace`]: system calls made to fail, to kill or to take long, and the order in which they
//!   were made.
//! - [`tmpfs`]: small file systems that fill up or turn read-only.
//!
//! `WALKEEP_TEST_REQUIRE` lists the tools whose absence fails a test instead of skipping it,
//! separated by commas: `root`, `strace`, `tmpfs`, `disk`, `postgresql`, `s3`, `python3`,
//! `pgbouncer`, `faketime`, `systemd`, `hosts`, `chromium`, `postgresql-19`, or `all` of them but the
//! last two.
//! `.ci/run` sets it. The fixtures that set up a world, from the cheapest to the most expensive.
//! Take the first one that has what a test needs:
//!
//! | fixture | has | for tests of |
//! |---|---|---|
//! | [`repo::Archive`] | a configuration and its repositories, no server | `init`, configuration, stored objects, damage |
//! | [`Site`] | an archive and a data directory without a running server | `walpush`, `walfetch` |
//! | `retention::world::World` | the values of a made-up history from a seed, no files | the plan of a prune |
//! | [`repo::Remote`] | an S3 repository of an archive, often behind a [`Proxy`] | stores, requests, failures |
//! | [`Live`] | its own server that archives; backups are taken by the test | `backup`, `check`, `status` |
//! | [`live::Pair`] | a primary like that, and a standby of it | backups of a standby |
//! | [`Story`] | one shared server with two backups and marks; a copy of the repository for each test | `restore`, targets |
//! | `crafted::world::World` | one shared repository of small backups; a copy whose objects can be written anew for each case | foreign content, limits |
//! | [`saga::Saga`] | one shared repository with several backups, timelines and a pruned past | `verify`, `sync`, `report` |
//!
//! `WALKEEP_TEST_SWEEP=all` tries every fault of `sweep` and every case of `crafted` instead of a
//! sample.
//! `WALKEEP_TEST_SLOW` makes what is tried in small otherwise as large as it is meant.
//! `WALKEEP_TEST_PGBIN` names another directory of PostgreSQL programs than Debian's for version
//! 15.
#![allow(dead_code)] // each fixture is used by some modules of the binary, none by all

pub mod account;
pub mod credentials;
pub mod http;
pub mod live;
pub mod oracle;
pub mod pg;
pub mod proxy;
pub mod repo;
pub mod run;
pub mod s3;
pub mod saga;
pub mod scratch;
pub mod segment;
pub mod site;
pub mod strace;
pub mod stuck;
pub mod tmpfs;
pub mod wait;

pub use live::{Live, Story};
pub use pg::{Cluster, Stop};
pub use proxy::{Proxy, Rule};
pub use repo::Archive;
pub use run::{Outcome, Run};
pub use scratch::Scratch;
pub use segment::{DataDir, Segment};
pub use site::Site;
pub use strace::Strace;
pub use tmpfs::Tmpfs;
pub use wait::until;

use std::path::Path;

/// The SHA-256 of some bytes, in lower-case hexadecimal: the way conflict messages show it.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// The SHA-256 of a file of any size, read in pieces.
pub fn sha256_file(path: &Path) -> String {
    use sha2::Digest;
    use std::io::Read;
    let mut file = open(path);
    let mut hash = sha2::Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return hex(&hash.finalize()),
            Ok(n) => hash.update(&piece[..n]),
            Err(error) => panic!("read {}: {error}", path.display()),
        }
    }
}

fn open(path: &Path) -> std::fs::File {
    std::fs::File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file that has to be there.
pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    std::fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Tools that `WALKEEP_TEST_REQUIRE=all` does not require.
const OPTIONAL: [&str; 2] = ["chromium", "postgresql-19"];

/// Whether a value of `WALKEEP_TEST_REQUIRE` requires a tool.
pub fn requires(list: &str, tool: &str) -> bool {
    list.split(',').any(|name| match name.trim() {
        "all" => !OPTIONAL.contains(&tool),
        name => name == tool,
    })
}

/// Reports that a test cannot run here because a tool is missing, and fails the test where
/// `WALKEEP_TEST_REQUIRE` names the tool. Writes to standard error, not by `eprintln!`, whose
/// output a test that succeeds does not show.
#[track_caller]
pub fn skipped(tool: &str, why: &str) {
    use std::io::Write;
    let required = std::env::var("WALKEEP_TEST_REQUIRE").unwrap_or_default();
    assert!(!requires(&required, tool), "WALKEEP_TEST_REQUIRE={required} requires {tool}: {why}");
    let test = std::thread::current();
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {why}", test.name().unwrap_or("a test"));
}

/// Whether `sweep` and `crafted` try all that they can instead of a sample.
pub fn is_whole_sweep() -> bool {
    std::env::var_os("WALKEEP_TEST_SWEEP").is_some_and(|sweep| sweep == "all")
}

/// Every pack of a set, by backup and number. Only for sets that tests have made.
pub fn each_pack(packs: &walkeep::repo::packset::PackSet) -> impl Iterator<Item = (&str, u32)> {
    packs.runs().flat_map(|(id, run)| run.map(move |number| (id, number)))
}
