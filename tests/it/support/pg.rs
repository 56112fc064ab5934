//! A real PostgreSQL cluster: made by `initdb`, run as the account, on a private socket and no TCP
//! port, stopped and removed when dropped, also when its test panics.
//!
//! ```ignore
//! let server = Cluster::build().wal_segsize(1).checksums().create();
//! server.set("archive_mode", "on");
//! server.start();
//! assert_eq!(server.psql("select 1"), "1");
//! server.stop(Stop::Fast);
//! ```

use super::scratch::{self, Scratch};
use super::{Outcome, Run, account, run, until, wait};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The directory of the PostgreSQL programs.
pub fn bin() -> PathBuf {
    match std::env::var_os("WALKEEP_TEST_PGBIN") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from("/usr/lib/postgresql/15/bin"),
    }
}

/// The programs of another major version: those of Debian, or what `.ci/setup` put below the
/// directory that `WALKEEP_TEST_VERSIONS` names. None where they are not installed; then the test's
/// output says that it was skipped.
pub fn version(major: u32) -> Option<PathBuf> {
    let found = installed(major).or_else(|| debian(major));
    if found.is_none() {
        // Debian has 19 only in experimental; see .ci/setup-pg19.
        let tool = if major == 19 { "postgresql-19" } else { "postgresql" };
        super::skipped(tool, &format!("PostgreSQL {major} is not installed (WALKEEP_TEST_VERSIONS)"));
    }
    found
}

fn installed(major: u32) -> Option<PathBuf> {
    let place = PathBuf::from(std::env::var_os("WALKEEP_TEST_VERSIONS")?);
    Some(place.join(format!("{major}/bin"))).filter(|bin| bin.join("initdb").exists())
}

fn debian(major: u32) -> Option<PathBuf> {
    Some(PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))).filter(|bin| bin.join("initdb").exists())
}

/// The programs for a data directory: of its version where they are there.
fn bin_for(data: &Path) -> PathBuf {
    let version = std::fs::read_to_string(data.join("PG_VERSION")).ok();
    let major: Option<u32> = version.and_then(|text| text.trim().parse().ok());
    let is_chosen = std::env::var_os("WALKEEP_TEST_PGBIN").is_some();
    let debian = || major.filter(|_| !is_chosen).and_then(debian);
    major.and_then(installed).or_else(debian).unwrap_or_else(bin)
}

/// A start of one of PostgreSQL's programs.
pub fn tool(name: &str) -> Run {
    Run::new(bin().join(name)).env("LC_ALL", "C")
}

/// A start of one of the programs of a data directory's version; None where it has no such program.
pub fn tool_for(data: &Path, name: &str) -> Option<Run> {
    let program = bin_for(data).join(name);
    program.exists().then(|| Run::new(program).env("LC_ALL", "C"))
}

/// What `initdb` is to make.
#[derive(Default)]
pub struct Build {
    bin: Option<PathBuf>,
    wal_segsize: Option<u32>,
    checksums: bool,
    group: bool,
}

impl Build {
    /// Of another version, by its programs: see [`version`].
    pub fn programs(mut self, bin: PathBuf) -> Build {
        self.bin = Some(bin);
        self
    }

    /// The WAL segment size in MB; 16 unless told.
    pub fn wal_segsize(mut self, megabytes: u32) -> Build {
        self.wal_segsize = Some(megabytes);
        self
    }

    /// With data page checksums.
    pub fn checksums(mut self) -> Build {
        self.checksums = true;
        self
    }

    /// With group read access (modes 0750 and 0640).
    pub fn group_access(mut self) -> Build {
        self.group = true;
        self
    }

    /// As `initdb` makes it; the server is not started. `initdb` takes a second of a processor and
    /// a copy a fifth of that, so all clusters that are alike are copies of one, each with a system
    /// identifier of its own.
    pub fn create(self) -> Cluster {
        let scratch = Scratch::new();
        let data = scratch.join("data");
        match self.template() {
            Some(template) => {
                scratch::copy_tree(&template, &data);
                self.renew(&data);
            }
            None => self.initdb(&data),
        }
        Cluster::over(scratch, data)
    }

    fn program(&self, name: &str) -> PathBuf {
        self.bin.clone().unwrap_or_else(bin).join(name)
    }

    fn initdb(&self, data: &Path) {
        let program = self.program("initdb");
        let mut initdb = Run::new(&program)
            .env("LC_ALL", "C")
            .args(["-N", "--no-instructions", "-A", "trust", "-U", "postgres"])
            .args(["-E", "UTF8", "--locale=C", "-D"])
            .arg(data);
        if let Some(megabytes) = self.wal_segsize {
            initdb = initdb.arg(format!("--wal-segsize={megabytes}"));
        }
        if self.checksums {
            initdb = initdb.arg("-k");
        } else if Run::new(&program).arg("--help").go().ok().stdout.contains("--no-data-checksums") {
            initdb = initdb.arg("--no-data-checksums");
        }
        if self.group {
            initdb = initdb.arg("-g");
        }
        initdb.go().ok();
    }

    /// A cluster of this kind that no server has run on, kept from run to run; `None` where it
    /// cannot be kept.
    fn template(&self) -> Option<PathBuf> {
        if !self.program("pg_resetwal").exists() {
            return None;
        }
        let version = Run::new(self.program("initdb")).arg("--version").go().ok().stdout;
        let kind = format!("{} {:?} {} {}", version.trim(), self.wal_segsize, self.checksums, self.group);
        let kind: String = kind.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
        let kept =
            PathBuf::from("/var/tmp/walkeep-tests").join(format!("clusters-{}", account::account().uid));
        std::fs::create_dir_all(&kept).ok()?;
        let template = kept.join(kind);
        if !template.join("PG_VERSION").exists() {
            account::give(&kept);
            let new = tempfile::Builder::new().prefix("new-").tempdir_in(&kept).ok()?;
            account::give(new.path());
            self.initdb(&new.path().join("data"));
            // Another test may have been faster.
            let _ = std::fs::rename(new.path().join("data"), &template);
        }
        Some(template)
    }

    /// Makes another cluster of a copy: another system identifier, and WAL that belongs to it.
    fn renew(&self, data: &Path) {
        let path = data.join("global/pg_control");
        let mode = path.metadata().expect("look at pg_control").permissions();
        let mut control = std::fs::read(&path).expect("read pg_control");
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let is_crc = |at: &usize| crc32c::crc32c(&control[..*at]) == word(&control, *at);
        let crc = (200..400).step_by(4).find(is_crc).expect("the CRC of pg_control");
        let identifier = getrandom::u64().expect("random bytes") >> 1 | 1 << 62;
        control[..8].copy_from_slice(&identifier.to_le_bytes());
        let sum = crc32c::crc32c(&control[..crc]);
        control[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
        scratch::write(&path, control);
        Run::new(self.program("pg_resetwal")).env("LC_ALL", "C").arg("-D").arg(data).go().ok();
        std::fs::set_permissions(&path, mode).expect("the mode of pg_control");
    }
}

/// How to stop a server.
#[derive(Clone, Copy)]
pub enum Stop {
    Fast,
    Immediate,
}

/// One cluster and its server, running or not.
pub struct Cluster {
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    scratch: Scratch,
}

impl Cluster {
    /// Begins a new cluster.
    pub fn build() -> Build {
        Build::default()
    }

    /// Takes over a data directory that somebody else made (a restored or copied one). It is
    /// removed with this value only if it lies in `scratch`. Socket and log lie there as well.
    pub fn over(scratch: Scratch, data: PathBuf) -> Cluster {
        let socket = scratch.mkdir("socket");
        let log = scratch.join("server.log");
        let cluster = Cluster { data, socket, log, scratch };
        cluster.set("listen_addresses", "");
        cluster.set("unix_socket_directories", &cluster.socket.display().to_string());
        cluster.set("logging_collector", "off");
        // Whoever kills a server here leaves the machine running.
        cluster.set("fsync", "off");
        cluster
    }

    /// A copy of this cluster, whose server is stopped.
    pub fn copied(&self) -> Cluster {
        let scratch = Scratch::new();
        let data = scratch.join("data");
        scratch::copy_tree(&self.data, &data);
        Cluster::over(scratch, data)
    }

    /// As [`Cluster::over`], where there is a data directory at all.
    pub fn over_if_there(scratch: Scratch, data: &Path) -> Option<Cluster> {
        let there = data.join("postgresql.conf").exists() && data.join("PG_VERSION").exists();
        there.then(|| Cluster::over(scratch, data.to_owned()))
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// `pg_wal` of the data directory.
    pub fn wal(&self) -> PathBuf {
        self.data.join("pg_wal")
    }

    /// The directory of its socket: `host=` of a connection string.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its scratch directory, for whatever else belongs to the test.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// A libpq connection string to it.
    pub fn connection(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.socket.display())
    }

    /// Writes a setting behind those that `postgresql.conf` has; the last one of a name counts.
    pub fn set(&self, name: &str, value: &str) {
        use std::io::Write;
        let path = self.data.join("postgresql.conf");
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        writeln!(file, "{name} = '{value}'").expect("write a setting");
    }

    /// Makes an empty file of the account in the data directory: `recovery.signal`,
    /// `standby.signal`, `promote`.
    pub fn touch(&self, name: &str) {
        scratch::write(&self.data.join(name), "");
    }

    fn ctl(&self, arguments: &[&str]) -> Outcome {
        Run::new(bin_for(&self.data).join("pg_ctl"))
            .env("LC_ALL", "C")
            .arg("-D")
            .arg(&self.data)
            .arg("-l")
            .arg(&self.log)
            .args(["-t", "60"])
            .args(arguments)
            .deadline(Duration::from_secs(90))
            .go()
    }

    /// Starts the server and waits until it takes connections.
    #[track_caller]
    pub fn start(&self) {
        let outcome = self.ctl(&["-w", "start"]);
        assert_eq!(outcome.code(), Some(0), "{outcome}\n--- log\n{}", self.log_text());
    }

    /// Starts the server; says whether it takes connections now (false: it ended).
    pub fn try_start(&self) -> bool {
        self.ctl(&["-w", "start"]).code() == Some(0)
    }

    /// Stops the server and waits for its end.
    #[track_caller]
    pub fn stop(&self, how: Stop) {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        let outcome = self.ctl(&["-w", "-m", mode, "stop"]);
        assert_eq!(outcome.code(), Some(0), "{outcome}\n--- log\n{}", self.log_text());
    }

    /// Ends recovery and waits until the server writes.
    #[track_caller]
    pub fn promote(&self) {
        self.ctl(&["-w", "promote"]).ok();
    }

    /// `kill -9` for the postmaster; waits until its processes are gone and removes its locks, so
    /// that a start may follow also where nobody collects dead processes.
    pub fn kill(&self) {
        if let Some(pid) = self.pid() {
            let children = children(pid);
            run::signal(pid, "KILL");
            until("a killed server is gone", || {
                !wait::is_running(pid) && children.iter().all(|child| !wait::is_running(*child))
            });
            let socket = |name| self.socket.join(name);
            for lock in
                [self.data.join("postmaster.pid"), socket(".s.PGSQL.5432.lock"), socket(".s.PGSQL.5432")]
            {
                let _ = std::fs::remove_file(lock);
            }
        }
    }

    /// The postmaster's process id, while its `postmaster.pid` is there.
    pub fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Whether the postmaster runs.
    pub fn is_up(&self) -> bool {
        self.pid().is_some_and(wait::is_running)
    }

    /// What SQL answers: rows as lines, columns separated by `|`. Panics when it fails.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        let outcome = self.try_psql(sql);
        assert_eq!(outcome.code(), Some(0), "{outcome}\n--- log\n{}", self.log_text());
        outcome.stdout.trim_end().to_owned()
    }

    /// Runs SQL and tells how it ended.
    pub fn try_psql(&self, sql: &str) -> Outcome {
        tool("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres"])
            .args(["-d", "postgres", "-h"])
            .arg(&self.socket)
            .arg("-c")
            .arg(sql)
            .go()
    }

    /// Awaits that SQL answers this.
    #[track_caller]
    pub fn await_sql(&self, sql: &str, answer: &str) {
        let mut last = None;
        let there = wait::within(wait::LONG, || {
            let outcome = self.try_psql(sql);
            let there = outcome.code() == Some(0) && outcome.stdout.trim_end() == answer;
            last = Some(outcome);
            there
        });
        let last = last.map(|outcome| outcome.to_string()).unwrap_or_default();
        assert!(there, "no {answer:?}\n{last}\n--- log\n{}", self.log_text());
    }

    /// Ends the current WAL segment; returns the name of the one that ended. At the boundary of two
    /// segments `pg_walfile_name` names the one in front of it or the one behind it, depending on
    /// the version.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.psql("select pg_walfile_name(pg_switch_wal() - 1)")
    }

    /// Awaits that the server's archiver reports this file, or a later one, as archived.
    #[track_caller]
    pub fn await_archived(&self, name: &str) {
        self.await_sql(&format!("select last_archived_wal >= '{name}' from pg_stat_archiver"), "t");
    }

    /// What the server wrote into its log so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The system identifier, by `pg_controldata`.
    pub fn system_identifier(&self) -> u64 {
        let text = tool("pg_controldata").arg(&self.data).go().ok().stdout;
        let line = text.lines().find_map(|line| line.strip_prefix("Database system identifier:"));
        line.and_then(|value| value.trim().parse().ok()).expect("pg_controldata shows the system identifier")
    }

    /// Copies the running cluster with `pg_basebackup`, without WAL. The copy waits until its WAL
    /// is archived.
    #[track_caller]
    pub fn base_backup(&self, to: &Path) {
        let outcome = tool("pg_basebackup")
            .args(["-X", "none", "-c", "fast", "--no-sync", "-U", "postgres", "-h"])
            .arg(&self.socket)
            .arg("-D")
            .arg(to)
            .go();
        assert_eq!(outcome.code(), Some(0), "{outcome}\n--- log\n{}", self.log_text());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_up() {
            return;
        }
        let pid = self.pid();
        let stopped = account::command(bin_for(&self.data).join("pg_ctl"))
            .arg("-D")
            .arg(&self.data)
            .args(["-w", "-t", "20", "-m", "immediate", "stop"])
            .output();
        if !stopped.is_ok_and(|output| output.status.success())
            && let Some(pid) = pid
        {
            run::signal(pid, "KILL");
        }
    }
}

/// The processes that one started.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    found
}
