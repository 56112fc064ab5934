//! A server with its archive, backups of it, and restored copies: what the tests of `backup` and
//! `restore` begin with.

use super::pg::{self, Build, Cluster, Stop};
use super::repo::{self, Archive};
use super::scratch::{self, Scratch};
use super::{Outcome, Run, until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// How long a backup or a restore may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server that archives into its repository.
pub struct Live {
    pub server: Cluster,
    pub archive: Archive,
}

impl Live {
    /// WAL segments of 1 MB and page checksums.
    pub fn new() -> Live {
        Live::with(Cluster::build().wal_segsize(1).checksums(), |_| {})
    }

    /// Another cluster; `prepare` may change it before its first start.
    pub fn with(build: Build, prepare: impl FnOnce(&Cluster)) -> Live {
        let server = build.create();
        prepare(&server);
        let archive = Archive::of_server(&server);
        server.start();
        Live { server, archive }
    }

    /// One with a required repository and an optional one, by their directories; `prepare` as in
    /// [`Live::with`].
    pub fn with_two(prepare: impl FnOnce(&Cluster)) -> (Live, [PathBuf; 2]) {
        let server = Cluster::build().wal_segsize(1).create();
        prepare(&server);
        let scratch = Scratch::new();
        let roots = [scratch.mkdir("one"), scratch.mkdir("two")];
        let archive =
            Archive::build(server.data()).root(&roots[0]).root(&roots[1]).optional(1).for_server(&server);
        archive.keep(scratch);
        server.start();
        (Live { server, archive }, roots)
    }

    /// A start of `walkeep backup`.
    pub fn backing_up(&self) -> Run {
        backing_up(&self.archive)
    }

    /// Takes a backup; what `--json` says of it.
    #[track_caller]
    pub fn backup(&self) -> Value {
        json(&self.backing_up().go().ok())
    }

    /// Takes a backup and returns its id.
    #[track_caller]
    pub fn backup_id(&self) -> String {
        text(&self.backup(), "id")
    }

    /// Ends the current segment and awaits that it is stored.
    #[track_caller]
    pub fn flush_wal(&self) -> String {
        self.server.psql("select pg_create_restore_point('flush')");
        let name = self.server.switch_wal();
        self.server.await_archived(&name);
        name
    }

    /// The backups of the first repository, by their records.
    pub fn records(&self) -> Vec<String> {
        records(self.archive.root())
    }

    /// Restores into a new directory; nothing is started.
    #[track_caller]
    pub fn restore(&self, arguments: &[&str]) -> Restored {
        restore(&self.archive, arguments)
    }
}

/// A primary that archives, and a standby that streams from it.
pub struct Pair {
    pub live: Live,
    pub standby: Cluster,
}

impl Pair {
    /// The standby has replayed what the primary has written.
    pub fn of(live: Live) -> Pair {
        let scratch = Scratch::new();
        let data = scratch.join("data");
        live.server.base_backup(&data);
        let standby = Cluster::over(scratch, data);
        standby.set("primary_conninfo", &live.server.connection().replace(" dbname=postgres", ""));
        standby.touch("standby.signal");
        standby.start();
        let pair = Pair { live, standby };
        pair.catch_up();
        pair
    }

    /// Awaits that the standby has replayed what the primary has written.
    pub fn catch_up(&self) {
        let lsn = self.live.server.psql("select pg_current_wal_flush_lsn()");
        self.standby.await_sql(&format!("select pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
    }

    /// The configuration of the standby's host.
    pub fn archive(&self, primary: bool) -> Archive {
        let build = Archive::build(self.standby.data()).connection(self.standby.connection());
        let build = if primary { build.primary(self.live.server.connection()) } else { build };
        build.root(self.live.archive.root()).unregistered()
    }
}

/// A start of `walkeep backup --json`.
pub fn backing_up(archive: &Archive) -> Run {
    archive.run("walkeep").args(["backup", "--json"]).deadline(PATIENCE)
}

/// A start of `walkeep restore --to DIR`, in a working directory that is always there.
pub fn restoring(archive: &Archive, to: &Path, arguments: &[&str]) -> Run {
    let run = Run::of("walkeep").arg("--config").arg(archive.config()).arg("restore");
    run.arg("--to").arg(to).args(arguments).deadline(PATIENCE)
}

/// Restores into a new directory, which has to succeed; nothing is started.
#[track_caller]
pub fn restore(archive: &Archive, arguments: &[&str]) -> Restored {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let outcome = restoring(archive, &data, arguments).go().ok();
    Restored { data, outcome, scratch }
}

/// The ids of all backups that have a record, oldest first.
pub fn records(root: &Path) -> Vec<String> {
    let mut found: Vec<String> = repo::files(root)
        .into_iter()
        .filter(|path| is_record(path))
        .filter(|path| !path.starts_with(root.join(".tmp")))
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    found.sort();
    found
}

/// Whether it is a record, and no note of a verification.
fn is_record(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with("backup") && !parent.ends_with("verify/backup"))
}

/// The object of a backup's record.
#[track_caller]
pub fn record_of(root: &Path, id: &str) -> PathBuf {
    let mut found = repo::files(root);
    found.retain(|path| is_record(path) && path.ends_with(id));
    assert_eq!(found.len(), 1, "the record of {id}: {found:?}");
    found.remove(0)
}

/// The objects of this kind (`pack`, `manifest`) of a backup.
pub fn parts_of(root: &Path, id: &str, kind: &str) -> Vec<PathBuf> {
    let mut found = repo::files(root);
    found.retain(|path| path.parent().is_some_and(|parent| parent.ends_with(format!("data/{id}/{kind}"))));
    found
}

/// What an object says of itself.
#[track_caller]
pub fn header(object: &Path) -> Value {
    serde_json::from_slice(&super::read(object)[8..512]).expect("a header")
}

/// The bytes of an object's content, by `zstd -dc`, told by its base where it has one.
#[track_caller]
pub fn unpacked(object: &Path) -> Vec<u8> {
    let scratch = super::Scratch::new();
    let mut zstd = std::process::Command::new("zstd");
    zstd.arg("-dc");
    if let Some(base) = header(object)["base"].as_str() {
        let archive = object.ancestors().nth(4).expect("data/<id>/manifest/<n> in an archive");
        let base = scratch.write("base", unpacked(&archive.join(base)));
        zstd.arg(format!("--patch-from={}", base.display()));
    }
    let output = zstd.arg(object).output().expect("start zstd");
    assert!(output.status.success(), "zstd -dc {}", object.display());
    output.stdout
}

/// As [`unpacked`], of what is text.
#[track_caller]
pub fn content(object: &Path) -> String {
    String::from_utf8(unpacked(object)).expect("text")
}

/// The lines of a backup's manifest.
pub fn manifest(root: &Path, id: &str) -> Vec<Value> {
    let parts = parts_of(root, id, "manifest");
    let lines: Vec<String> =
        parts.iter().flat_map(|part| content(part).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.iter().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The paths of this kind of line (`file`, `dir`, `config`) in a backup's manifest, sorted.
pub fn paths(manifest: &[Value], kind: &str) -> Vec<String> {
    let mut paths: Vec<String> =
        manifest.iter().filter_map(|line| Some(line.get(kind)?.get("path")?.as_str()?.to_owned())).collect();
    paths.sort();
    paths
}

/// Standard output as one JSON document.
#[track_caller]
pub fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("no JSON: {error}\n{outcome}"))
}

/// A text of a JSON object.
#[track_caller]
pub fn text(value: &Value, name: &str) -> String {
    let text = value.get(name).and_then(Value::as_str);
    text.unwrap_or_else(|| panic!("no text {name} in {value}")).to_owned()
}

/// A restored data directory that no server has started on yet.
pub struct Restored {
    pub data: PathBuf,
    pub outcome: Outcome,
    pub scratch: Scratch,
}

impl Restored {
    /// PostgreSQL's own word for it; only before anything was changed.
    #[track_caller]
    pub fn verified(self) -> Restored {
        // A version without client programs is not verified this way.
        if let Some(verify) = pg::tool_for(&self.data, "pg_verifybackup") {
            verify.arg(&self.data).deadline(PATIENCE).go().ok();
        }
        self
    }

    /// A server for it, not started.
    pub fn server(self) -> Cluster {
        Cluster::over(self.scratch, self.data)
    }

    /// Starts a server on it and waits until it has left recovery.
    #[track_caller]
    pub fn recovered(self) -> Cluster {
        let server = self.server();
        assert!(recovers(&server), "it did not come up\n{}", server.log_text());
        server
    }
}

/// Starts the server; whether it came up and left recovery.
pub fn recovers(server: &Cluster) -> bool {
    if !server.try_start() {
        return false;
    }
    until("recovery ends in one way or the other", || {
        let recovered = server.try_psql("select pg_is_in_recovery()");
        !server.is_up() || (recovered.code() == Some(0) && recovered.stdout.trim() == "f")
    });
    server.is_up()
}

/// A moment of a server's life.
#[derive(Clone, Debug)]
pub struct Mark {
    /// As `clock_timestamp()` in UTC, with offset.
    pub time: String,
    pub lsn: String,
    pub rows: u32,
}

/// A server with a story, told once for all tests that restore from it and stopped since then. Each
/// has a copy of the repository.
///
/// Table `t` has 1000 rows at the end of backup `a`; then come the marks; backup `b` is between the
/// last two.
pub struct Story {
    pub server: Cluster,
    archive: Archive,
    pub a: String,
    pub b: String,
    /// Before everything, without a table.
    pub before: Mark,
    /// 2000 rows, 3000 rows, 4000 rows (in front of `b`), 5000 rows.
    pub marks: Vec<Mark>,
    /// The transaction that made 3000 out of 2000.
    pub xid: String,
    /// A restore point at 3000 rows.
    pub point: &'static str,
}

/// What the archive holds to its end.
pub const ALL: &str = "6000";

impl Story {
    /// The one of this moment: told when the first test asks, removed when the last one is done.
    pub fn get() -> Arc<Story> {
        static TOLD: Mutex<Weak<Story>> = Mutex::new(Weak::new());
        let mut told = TOLD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(story) = told.upgrade() {
            return story;
        }
        let story = Arc::new(Story::tell());
        *told = Arc::downgrade(&story);
        story
    }

    fn tell() -> Story {
        let live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
            server.set("timezone", "America/New_York");
        });
        let server = &live.server;
        let mark = |rows| {
            let at = "to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'";
            let line = server.psql(&format!("select {at}, pg_current_wal_insert_lsn()"));
            let (time, lsn) = line.split_once('|').expect("two columns");
            Mark { time: time.to_owned(), lsn: lsn.to_owned(), rows }
        };
        let add = "insert into t select from generate_series(1, 1000)";
        let before = mark(0);
        server.psql("create table t (i serial primary key)");
        server.psql(add);
        let a = live.backup_id();
        let mut marks = Vec::new();
        server.psql(add);
        marks.push(mark(2000));
        let xid = server.psql(&format!("begin; {add}; select pg_current_xact_id(); commit"));
        let point = "in front of it";
        server.psql(&format!("select pg_create_restore_point('{point}')"));
        marks.push(mark(3000));
        server.psql(add);
        marks.push(mark(4000));
        server.switch_wal();
        let b = live.backup_id();
        server.psql(add);
        marks.push(mark(5000));
        server.switch_wal();
        server.psql(add);
        let last = server.switch_wal();
        server.await_archived(&last);
        server.stop(Stop::Immediate);
        let Live { server, archive } = live;
        Story { server, archive, a, b, before, marks, xid, point }
    }

    /// A copy of the repository, with a configuration for it.
    pub fn archive(&self) -> Archive {
        self.archive_named("walkeep.toml")
    }

    pub fn archive_named(&self, config: &str) -> Archive {
        let scratch = Scratch::new();
        let root = scratch.join("repository");
        scratch::copy_tree(self.archive.root(), &root);
        let archive = Archive::build(self.server.data()).config_name(config).root(root);
        let archive = archive.connection(self.server.connection()).unregistered();
        archive.keep(scratch);
        archive
    }
}
