//! An archive as an administrator sets it up: one configuration file, one or more repositories, and
//! the three programs run on it. What is stored in a directory can be looked at, compared and
//! damaged.

use super::scratch::{self, Scratch};
use super::{Outcome, Run, Stop, open, run, sha256_file};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What the configuration says beyond the ordinary.
#[derive(Default)]
pub struct Build {
    pgdata: PathBuf,
    connection: Option<String>,
    primary: Option<String>,
    roots: Vec<PathBuf>,
    remotes: Vec<Remote>,
    optional: Vec<usize>,
    wal: Vec<String>,
    config_name: Option<String>,
}

/// A repository that is no directory: its URL and the lines of its table.
#[derive(Clone, Default)]
pub struct Remote {
    url: String,
    lines: BTreeMap<String, String>,
}

impl Remote {
    pub fn new(url: impl Into<String>) -> Remote {
        Remote { url: url.into(), lines: BTreeMap::new() }
    }

    /// A line of its table: `path_style = true`. It replaces the one of the same key.
    pub fn line(mut self, line: &str) -> Remote {
        self.lines.insert(key_of(line).to_owned(), line.to_owned());
        self
    }

    /// Takes a line out.
    pub fn without(mut self, key: &str) -> Remote {
        self.lines.remove(key);
        self
    }
}

/// The key of a line of TOML.
fn key_of(line: &str) -> &str {
    line.split(['=', ' ']).next().unwrap_or(line)
}

impl Build {
    /// The libpq connection string of the cluster.
    pub fn connection(mut self, connection: impl Into<String>) -> Build {
        self.connection = Some(connection.into());
        self
    }

    /// That of its primary, where it is a standby.
    pub fn primary(mut self, connection: impl Into<String>) -> Build {
        self.primary = Some(connection.into());
        self
    }

    /// One more repository, at a directory that exists; without any there is one in the scratch
    /// directory.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Build {
        self.roots.push(root.into());
        self
    }

    /// One more repository, that is no directory; these stand behind those that are.
    pub fn remote(mut self, remote: Remote) -> Build {
        self.remotes.push(remote);
        self
    }

    /// Marks the repository at this position as `required = false`.
    pub fn optional(mut self, position: usize) -> Build {
        self.optional.push(position);
        self
    }

    /// A line for `[wal]`: `timeout = "2s"`. It replaces the one of the same key.
    pub fn wal(mut self, line: &str) -> Build {
        self.wal.push(line.to_owned());
        self
    }

    /// Another name for the configuration file than `walkeep.toml`.
    pub fn config_name(mut self, name: &str) -> Build {
        self.config_name = Some(name.to_owned());
        self
    }

    /// Writes the configuration; registers nothing.
    pub fn unregistered(self) -> Archive {
        let scratch = Scratch::new();
        let mut roots = self.roots;
        if roots.is_empty() && self.remotes.is_empty() {
            roots.push(scratch.mkdir("repository"));
        }
        let config = scratch.join(self.config_name.as_deref().unwrap_or("walkeep.toml"));
        let mut archive = Archive {
            config,
            roots,
            remotes: self.remotes,
            environment: Vec::new(),
            pgdata: self.pgdata,
            connection: self.connection,
            primary: self.primary,
            optional: self.optional,
            wal: BTreeMap::new(),
            backup: Vec::new(),
            status: Vec::new(),
            retention: BTreeMap::new(),
            tail: String::new(),
            scratch,
            kept: Default::default(),
        };
        let spool = archive.scratch.mkdir("spool");
        for line in ["push_ahead = 0", "fetch_ahead = 0", &format!("spool = {spool:?}")] {
            archive.set_wal(line);
        }
        for line in &self.wal {
            archive.set_wal(line);
        }
        archive.write_config();
        archive
    }

    /// Writes the configuration and runs `walkeep init`.
    #[track_caller]
    pub fn create(self) -> Archive {
        let archive = self.unregistered();
        archive.init().ok();
        archive
    }

    /// The same for a real server, which archives into it from its next start.
    #[track_caller]
    pub fn for_server(self, server: &super::Cluster) -> Archive {
        let archive = self.connection(server.connection()).create();
        server.set("archive_mode", "on");
        server.set("archive_command", &archive.archive_command());
        if server.is_up() {
            server.stop(Stop::Fast);
            server.start();
        }
        archive
    }
}

/// A configuration and its repositories. The cluster is called `main`.
pub struct Archive {
    config: PathBuf,
    roots: Vec<PathBuf>,
    remotes: Vec<Remote>,
    environment: Vec<(String, String)>,
    pgdata: PathBuf,
    connection: Option<String>,
    primary: Option<String>,
    optional: Vec<usize>,
    wal: BTreeMap<String, String>,
    backup: Vec<String>,
    status: Vec<String>,
    retention: BTreeMap<usize, Vec<String>>,
    tail: String,
    scratch: Scratch,
    kept: std::sync::Mutex<Vec<Scratch>>,
}

impl Archive {
    /// Begins an archive for the cluster in this data directory.
    pub fn build(pgdata: impl Into<PathBuf>) -> Build {
        Build { pgdata: pgdata.into(), ..Build::default() }
    }

    /// One repository, registered.
    #[track_caller]
    pub fn of(pgdata: impl Into<PathBuf>) -> Archive {
        Archive::build(pgdata).create()
    }

    /// One repository for a real server, registered; the server archives into it from its next
    /// start.
    #[track_caller]
    pub fn of_server(server: &super::Cluster) -> Archive {
        Archive::build(server.data()).for_server(server)
    }

    /// Lets a scratch directory live as long as this.
    pub fn keep(&self, scratch: Scratch) {
        self.kept.lock().expect("no test panics here").push(scratch);
    }

    /// Lets another archive, whose repository this one uses, live as long as this.
    pub fn keep_archive(&self, other: Archive) {
        self.keep(other.scratch);
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The directory of the first repository.
    pub fn root(&self) -> &Path {
        &self.roots[0]
    }

    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Changes a line of `[wal]`; [`Archive::write_config`] makes it count.
    pub fn set_wal(&mut self, line: &str) {
        self.wal.insert(key_of(line).to_owned(), line.to_owned());
    }

    /// Adds a line to `[backup]`.
    pub fn set_backup(&mut self, line: &str) {
        self.backup.push(line.to_owned());
        self.write_config();
    }

    /// Adds a line to `[status]`.
    pub fn set_status(&mut self, line: &str) {
        self.status.push(line.to_owned());
        self.write_config();
    }

    /// Makes the configuration say something else of its first repository that is no directory.
    pub fn set_remote(&mut self, change: impl FnOnce(Remote) -> Remote) {
        self.remotes[0] = change(std::mem::take(&mut self.remotes[0]));
        self.write_config();
    }

    /// Gives every program that is started from now on a variable.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Gives the repository at this position these lines of `[repository.retention]`.
    pub fn set_retention(&mut self, position: usize, lines: &[&str]) {
        self.retention.insert(position, lines.iter().map(|line| (*line).to_owned()).collect());
        self.write_config();
    }

    /// Gives the configuration further tables.
    pub fn set_tail(&mut self, tail: &str) {
        self.tail = tail.to_owned();
        self.write_config();
    }

    /// Makes the configuration name another data directory.
    pub fn set_pgdata(&mut self, pgdata: impl Into<PathBuf>) {
        self.pgdata = pgdata.into();
        self.write_config();
    }

    /// Writes the configuration file anew.
    pub fn write_config(&self) {
        let mut text = format!("[cluster.main]\npgdata = {:?}\n", self.pgdata);
        if let Some(connection) = &self.connection {
            text += &format!("connection = {connection:?}\n");
        }
        if let Some(primary) = &self.primary {
            text += &format!("primary = {primary:?}\n");
        }
        let directories = self.roots.iter().map(|root| Remote::new(format!("file://{}", root.display())));
        for (position, place) in directories.chain(self.remotes.iter().cloned()).enumerate() {
            let name = ["first", "second", "third"][position];
            text += &format!("\n[[repository]]\nname = {name:?}\nurl = {:?}\n", place.url);
            if self.optional.contains(&position) {
                text += "required = false\n";
            }
            for line in place.lines.values() {
                text += line;
                text += "\n";
            }
            if let Some(lines) = self.retention.get(&position) {
                text += &format!("[repository.retention]\n{}\n", lines.join("\n"));
            }
        }
        text += "\n[wal]\n";
        for line in self.wal.values() {
            text += line;
            text += "\n";
        }
        if !self.backup.is_empty() {
            text += &format!("\n[backup]\n{}\n", self.backup.join("\n"));
        }
        text += &self.tail;
        if !self.status.is_empty() {
            text += &format!("\n[status]\n{}\n", self.status.join("\n"));
        }
        scratch::write(&self.config, text);
    }

    /// A start of one of the programs with this configuration, in the data directory as PostgreSQL
    /// does it.
    pub fn run(&self, program: &str) -> Run {
        let run = Run::of(program).arg("--config").arg(&self.config).cwd(&self.pgdata);
        self.environment.iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    /// `walkeep init`.
    pub fn init(&self) -> Outcome {
        self.run("walkeep").arg("init").go()
    }

    /// `walkeep VERB …`.
    pub fn walkeep(&self, arguments: &[&str]) -> Outcome {
        self.run("walkeep").args(arguments).go()
    }

    /// A start of `walpush FILE` in the data directory.
    pub fn pushing(&self, file: impl AsRef<Path>) -> Run {
        self.run("walpush").arg(file.as_ref())
    }

    /// A start of `walfetch NAME DESTINATION` in the data directory.
    pub fn fetching(&self, name: &str, destination: impl AsRef<Path>) -> Run {
        self.run("walfetch").arg(name).arg(destination.as_ref())
    }

    /// `walpush FILE` in the data directory.
    pub fn push(&self, file: impl AsRef<Path>) -> Outcome {
        self.pushing(file).go()
    }

    /// `walfetch NAME pg_wal/RECOVERYXLOG` in the data directory; see [`Archive::fetched`].
    pub fn fetch(&self, name: &str) -> Outcome {
        let _ = std::fs::remove_file(self.destination());
        self.fetching(name, "pg_wal/RECOVERYXLOG").go()
    }

    /// Where [`Archive::fetch`] puts a file.
    pub fn destination(&self) -> PathBuf {
        self.pgdata.join("pg_wal/RECOVERYXLOG")
    }

    /// Fetches a file, which has to succeed, and returns its bytes.
    #[track_caller]
    pub fn fetched(&self, name: &str) -> Vec<u8> {
        self.fetch(name).ok();
        let bytes = super::read(self.destination());
        std::fs::remove_file(self.destination()).expect("remove what was fetched");
        bytes
    }

    /// Fetches a file that must not be handed over: status 200 with a hint, and nothing at the
    /// destination.
    #[track_caller]
    pub fn fetch_fails(&self, name: &str) -> Outcome {
        let outcome = self.fetch(name).fatal();
        assert!(!self.destination().exists(), "a file was handed over\n{outcome}");
        outcome
    }

    /// Fetches a file that must be reported as the end of the archive, with nothing at the
    /// destination.
    #[track_caller]
    pub fn fetch_ends(&self, name: &str) -> Outcome {
        let outcome = self.fetch(name).absent();
        assert!(!self.destination().exists(), "a file was handed over\n{outcome}");
        outcome
    }

    /// What `archive_command` has to be.
    pub fn archive_command(&self) -> String {
        let program = quoted(&run::program("walpush"));
        format!("{program} --config {} --cluster main %p", quoted(&self.config))
    }

    /// What `restore_command` has to be.
    pub fn restore_command(&self) -> String {
        let program = quoted(&run::program("walfetch"));
        format!("{program} --config {} --cluster main %f %p", quoted(&self.config))
    }

    /// Every stored WAL file of the first repository: name and path, in order of the names.
    pub fn stored(&self) -> Vec<(String, PathBuf)> {
        stored_in(self.root())
    }

    /// The object of a WAL file in the first repository, if there is one. More than one is an
    /// error.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let mut found = self.stored();
        found.retain(|(stored, _)| stored == name);
        assert!(found.len() <= 1, "one name, several objects: {found:?}");
        found.pop().map(|(_, path)| path)
    }

    /// The object of a WAL file in the first repository.
    #[track_caller]
    pub fn object(&self, name: &str) -> PathBuf {
        self.find(name).unwrap_or_else(|| panic!("{name} is not stored; these are: {:?}", self.stored()))
    }

    /// The object that says whose repository the first one is.
    #[track_caller]
    pub fn identity(&self) -> PathBuf {
        let mut found = files(&self.root().join("main/identity"));
        assert_eq!(found.len(), 1, "one registration, one identity: {found:?}");
        found.remove(0)
    }

    /// What writing left in the places for temporary files of all repositories.
    pub fn temporaries(&self) -> Vec<PathBuf> {
        let places = self.roots.iter().map(|root| root.join(".tmp"));
        places.flat_map(|place| files(&place)).collect()
    }

    /// Every file of the first repository.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.root())
    }
}

/// A path as a word of a shell command in a PostgreSQL setting: quoted, and `%` doubled.
pub fn quoted(path: &Path) -> String {
    let path = path.to_str().expect("a path in UTF-8");
    format!("'{}'", path.replace('\'', r"'\''").replace('%', "%%"))
}

/// Every stored WAL file of a repository: name and path, in order of the names.
pub fn stored_in(root: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = files(root)
        .into_iter()
        .filter(|path| !path.starts_with(root.join(".tmp")))
        .filter(|path| path.components().any(|part| part.as_os_str() == "wal"))
        .map(|path| (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path))
        .collect();
    found.sort();
    found
}

/// Every file below a directory, without the directories themselves.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

/// All entries of a directory tree with their modes, and the content of the files: two are equal
/// when nothing changed in between.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Snapshot(BTreeMap<PathBuf, (u32, String)>);

impl Snapshot {
    pub fn of(root: &Path) -> Snapshot {
        let mut entries = BTreeMap::new();
        note(root, &mut entries);
        Snapshot(entries)
    }

    /// The same with paths relative to this directory, without the directory itself.
    pub fn below(self, root: &Path) -> Snapshot {
        let relative = |(path, entry): (PathBuf, _)| Some((path.strip_prefix(root).ok()?.to_owned(), entry));
        let entries = self.0.into_iter().filter_map(relative);
        Snapshot(entries.filter(|(path, _)| !path.as_os_str().is_empty()).collect())
    }

    /// The paths, for a look at what is there.
    pub fn paths(&self) -> Vec<&Path> {
        self.0.keys().map(PathBuf::as_path).collect()
    }
}

fn note(path: &Path, entries: &mut BTreeMap<PathBuf, (u32, String)>) {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return;
    };
    let content = if meta.is_file() {
        sha256_file(path)
    } else if meta.is_symlink() {
        format!("{:?}", std::fs::read_link(path))
    } else {
        String::new()
    };
    entries.insert(path.to_owned(), (meta.mode(), content));
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            note(&entry.path(), entries);
        }
    }
}

/// Damage to one stored file.
#[derive(Clone, Copy, Debug)]
pub enum Damage {
    /// One bit of the byte at this position is turned; negative positions count from the end.
    Flip(i64),
    /// Cut off behind this many bytes; negative numbers count from the end.
    Truncate(i64),
    /// The last bytes, this many, are zeros now.
    ZeroTail(u64),
    /// Nothing is left in it.
    Empty,
    /// Bytes follow that do not belong to it.
    Grow,
    /// The file is gone.
    Remove,
}

/// Does the damage; a read-only file is opened for it first.
#[track_caller]
pub fn damage(path: &Path, damage: Damage) {
    let size = open(path).metadata().expect("look at what is damaged").len();
    let place = |at: i64| {
        if at < 0 { size - at.unsigned_abs() } else { at as u64 }
    };
    if let Damage::Remove = damage {
        std::fs::remove_file(path).expect("remove an object");
        return;
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("open an object");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("open an object");
    match damage {
        Damage::Flip(at) => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, place(at)).expect("read a byte");
            file.write_all_at(&[byte[0] ^ 0x10], place(at)).expect("turn a bit");
        }
        Damage::Truncate(at) => file.set_len(place(at)).expect("truncate an object"),
        Damage::ZeroTail(length) => {
            let length = length.min(size);
            file.write_all_at(&vec![0; length as usize], size - length).expect("zero a tail");
        }
        Damage::Empty => file.set_len(0).expect("empty an object"),
        Damage::Grow => file.write_all_at(&[0x55; 100], size).expect("lengthen an object"),
        Damage::Remove => {}
    }
}

/// An object like this one with another content: the header by FORMAT.md, the content by `zstd`.
pub fn resealed(object: &Path, content: &[u8]) -> Vec<u8> {
    let old = super::read(object);
    let mut header: serde_json::Value = serde_json::from_slice(&old[8..512]).expect("a header");
    header["size"] = content.len().into();
    header["sha256"] = super::sha256(content).into();
    let mut new = old[..8].to_vec();
    new.extend(header.to_string().into_bytes());
    new.resize(511, b' ');
    new.push(b'\n');
    for piece in content.chunks(1 << 20) {
        new.extend(zstd::bulk::compress(piece, 1).expect("compress"));
    }
    new
}

/// Puts another content into an object, and everything that vouches for it.
pub fn reseal(object: &Path, content: &[u8]) {
    let bytes = resealed(object, content);
    std::fs::remove_file(object).expect("remove an object");
    scratch::write(object, bytes);
}

/// Exchanges the content of two stored files.
pub fn swap(one: &Path, other: &Path) {
    let (first, second) = (super::read(one), super::read(other));
    for (path, bytes) in [(one, second), (other, first)] {
        std::fs::remove_file(path).expect("remove an object");
        scratch::write(path, bytes);
    }
}
