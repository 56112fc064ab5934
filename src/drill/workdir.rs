//! The working directory of one drill. All files of the drill lie in it, and it is removed at the
//! end. The drill holds a lock on it, which the kernel releases when the process ends, so a
//! directory without a lock is an orphan.

use super::log::{ServerLogFile, of_host};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::{Folder, Rights};
use crate::fs::named;
use crate::fs::trail::user_name;
use crate::pg::running::LockFile;
use crate::pg::shell::quoted;
use crate::progress;
use crate::repo::DRILL_MARKER;
use crate::repo::lock::Lock;
use rustix::fs::FileType;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// File in a working directory that the user wanted to keep.
const KEEP_MARKER: &str = "walkeep.kept";

/// Time that an orphaned server has to end after each signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Interval at which the state of an orphaned server is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Path of the server's socket in a working directory.
const SOCKET: &str = "socket/.s.PGSQL.5432";

/// Maximum length of a socket's path: `sun_path` has 108 bytes, the last of which is zero.
const MAX_SOCKET_PATH: usize = 107;

/// Time in which a drill writes the marker after it has locked its directory.
const MARKER_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum size of the marker in bytes: the longest path of a data directory, and two lines of text.
const MAX_MARKER_SIZE: u64 = 8 << 10;

/// Identity of a drilled cluster. Clusters of the same name in two configurations have different
/// ones, and their drills may run at once.
#[derive(Debug, Clone, Copy)]
pub struct DrillIdentity<'a> {
    /// Name of the cluster, which the name of the directory contains.
    pub cluster: &'a str,
    pub system_identifier: u64,
    pub pgdata: &'a Path,
}

impl DrillIdentity<'_> {
    /// Last line of the marker.
    fn line(&self) -> String {
        format!("cluster {} at {}\n", self.system_identifier, self.pgdata.display())
    }
}

/// Working directory of a drill; dropping it removes it.
pub struct Workdir {
    /// Directory in which it lies, and its name there.
    parent: Folder,
    name: String,
    folder: Folder,
    lock: Option<Lock>,
    kept: bool,
    log: Arc<ServerLogFile>,
}

impl Workdir {
    /// Makes a working directory in `directory`. Its name contains the cluster, so that other
    /// drills of the cluster find it.
    pub fn make(directory: &Path, identity: DrillIdentity<'_>, random: &str) -> Result<Workdir> {
        let name = format!("{}{random}", prefix(identity.cluster));
        if directory.join(&name).join(SOCKET).as_os_str().len() > MAX_SOCKET_PATH {
            let directory = directory.display();
            return Err(Error::new(Kind::Config, format!("the path of a socket in {directory} is too long"))
                .hint(
                    "choose a directory with a shorter path: `directory` in [drill] of the configuration",
                ));
        }
        let parent = Folder::root(directory)?.ok_or_else(|| {
            Error::new(Kind::Absent, format!("directory {} does not exist", directory.display()))
                .hint("create it, or set `directory` in [drill] of the configuration")
        })?;
        let rights = rights();
        let folder = parent.make_folder(&name, &rights).map_err(|error| explain(error, directory))?;
        let lock = Lock::of_folder(&folder, Duration::ZERO)?;
        let log = Arc::new(ServerLogFile::new(folder.again()?));
        let workdir = Workdir { parent, name, folder, lock: Some(lock), kept: false, log };
        let text = "a drill of walkeep works here; the next one removes this directory\n";
        workdir.write(DRILL_MARKER, &format!("{text}{}", identity.line()))?;
        for name in ["etc", "socket", "tablespaces"] {
            workdir.folder.make_folder(name, &rights)?;
        }
        Ok(workdir)
    }

    /// Path of a file in the directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Path of the directory itself.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Log of the servers that run in the directory.
    pub fn log(&self) -> &Arc<ServerLogFile> {
        &self.log
    }

    /// Writes a file, and replaces the file of that name.
    pub fn write(&self, below: &str, text: &str) -> Result<()> {
        let mut file = self.create(below)?;
        file.write_all(text.as_bytes()).doing(|| format!("write {}", self.join(below).display()))
    }

    /// Creates an empty file for reading and writing, and removes the file of that name.
    pub fn create(&self, below: &str) -> Result<File> {
        self.remove(below)?;
        of_host(self.folder.create_at(Path::new(below), &rights()))
    }

    /// Removes a file, if it exists.
    pub fn remove(&self, below: &str) -> Result<()> {
        let path = Path::new(below);
        let Some((parent, name)) = path.parent().zip(path.file_name()) else {
            return Err(Error::defect(format!("{below} is not the path of a file")));
        };
        match of_host(self.folder.folder(parent))? {
            Some(folder) => folder.remove(name).map(drop),
            None => Ok(()),
        }
    }

    /// Marks the directory as kept: neither this drill nor a later one removes it.
    pub fn keep(&mut self) -> Result<()> {
        self.write(
            KEEP_MARKER,
            "kept by `walkeep drill --keep`; remove this directory when it is no longer needed\n",
        )?;
        self.kept = true;
        Ok(())
    }

    /// Removes the directory unless it is kept.
    pub fn clean_up(mut self) -> Result<()> {
        if self.kept {
            return Ok(());
        }
        self.kept = true;
        remove(&self.parent, &self.name)
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if !self.kept {
            // The drill has already failed, and its error is reported; the next drill tries again.
            let _ = remove(&self.parent, &self.name);
        }
        self.lock = None;
    }
}

/// Name of the working directories of a cluster's drills, without the random digits at their end.
fn prefix(cluster: &str) -> String {
    format!("walkeep-drill-{cluster}-")
}

/// Rights of everything in a working directory.
fn rights() -> Rights {
    Rights::new(None, 0o600, 0o700)
}

/// Adds a hint to the error of a directory that this user may not create.
fn explain(error: Error, directory: &Path) -> Error {
    if error.kind() != Kind::Denied {
        return error;
    }
    let user = user_name(rustix::process::geteuid().as_raw());
    let directory = quoted(&directory.to_string_lossy());
    error.hint(format!(
        "the drill runs as {user}: `sudo chown {user} {directory}`, or set `directory` in [drill] of the configuration"
    ))
}

/// Removes a working directory, its marker last: the next drill recognizes what a killed one left.
fn remove(parent: &Folder, name: &str) -> Result<()> {
    let Some(folder) = parent.folder(Path::new(name))? else {
        return Ok(());
    };
    folder.remove_all(|entry| entry == DRILL_MARKER)?;
    parent.remove_tree(name).map(drop)
}

/// Stops the servers and removes the directories that killed drills of clusters of this name left.
///
/// # Errors
/// [`Kind::Locked`] when another drill of this cluster still runs after `patience`.
pub fn sweep(directory: &Path, identity: DrillIdentity<'_>, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    let prefix = prefix(identity.cluster);
    let Some(parent) = Folder::root(directory)? else {
        return Ok(());
    };
    for (name, kind) in parent.entries()? {
        let random = name.strip_prefix(&prefix);
        let is_workdir = random
            .is_some_and(|random| !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !is_workdir || kind != FileType::Directory {
            continue;
        }
        if let Err(error) = clear(&parent, &name, identity, patience.saturating_sub(begun.elapsed())) {
            match error.kind() {
                Kind::Locked => {
                    return Err(Error::new(Kind::Locked, "another drill of this cluster runs")
                        .doing(format!("look at {}", directory.join(&name).display()))
                        .hint("wait for it to end, or use --wait"));
                }
                _ => progress::warn(&error.doing("remove what an earlier drill left")),
            }
        }
    }
    Ok(())
}

/// Removes one directory that has the name of a working directory, unless it belongs to another user,
/// is kept, or no drill made it, or the drill of another cluster runs in it.
fn clear(parent: &Folder, name: &str, identity: DrillIdentity<'_>, patience: Duration) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let stat = parent.entry(Path::new(name))?;
    if stat.is_none_or(|stat| stat.st_uid != own) {
        return Ok(());
    }
    let Some(folder) = parent.folder(Path::new(name))? else {
        return Ok(());
    };
    if folder.entry(Path::new(KEEP_MARKER))?.is_some() {
        return Ok(());
    }
    let _lock = match Lock::of_folder(&folder, Duration::ZERO) {
        Err(error) if error.kind() == Kind::Locked => {
            if is_of_another(&folder, identity)? {
                return Ok(());
            }
            Lock::of_folder(&folder, patience)?
        }
        lock => lock?,
    };
    // A drill that was killed before its first step, or in its last one, has left an empty directory.
    if !folder.is_empty()? && folder.stat(Path::new(DRILL_MARKER))?.is_none() {
        return Ok(());
    }
    stop_orphan(folder.path(), own)?;
    remove(parent, name)?;
    tracing::info!("removed {}, which an earlier drill left", folder.path().display());
    Ok(())
}

/// Whether the drill that holds the lock of a directory is one of another cluster. A drill that has
/// not yet written its marker counts as one of the same cluster after [`MARKER_TIMEOUT`].
fn is_of_another(folder: &Folder, identity: DrillIdentity<'_>) -> Result<bool> {
    let begun = Instant::now();
    loop {
        let marker = folder.read(Path::new(DRILL_MARKER), MAX_MARKER_SIZE)?;
        let text = marker.map_or_else(String::new, |text| String::from_utf8_lossy(&text).into_owned());
        if text.ends_with('\n') && text.lines().count() > 1 {
            return Ok(!text.ends_with(&identity.line()));
        }
        if begun.elapsed() > MARKER_TIMEOUT {
            return Ok(false);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Stops the server of a killed drill: the process that the `postmaster.pid` of the working
/// directory names *and* that runs there as the owner of the directory. Any other process with that
/// id is left alone.
fn stop_orphan(path: &Path, owner: u32) -> Result<()> {
    let data = path.join("data");
    let lock = LockFile::read(&data)?;
    let pid = lock.and_then(|lock| lock.pid()).and_then(|pid| i32::try_from(pid).ok());
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return Ok(());
    };
    // Open while the process is identified, so that the id cannot be reused for another one
    // meanwhile.
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    let runs_here = || {
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let cwd = named::link_target(&proc.join("cwd")).ok().flatten();
        let real = named::real(&data).ok().flatten();
        let is_here = cwd.zip(real).is_some_and(|(cwd, data)| cwd == data);
        let is_owned = named::stat(&proc).is_ok_and(|stat| stat.is_some_and(|stat| stat.st_uid == owner));
        let exe = named::link_target(&proc.join("exe")).ok().flatten();
        let is_postgres = exe.is_some_and(|exe| exe.file_name() == Some(OsStr::new("postgres")));
        is_here && is_owned && is_postgres
    };
    for signal in [Signal::QUIT, Signal::KILL] {
        if !runs_here() {
            return Ok(());
        }
        let _ = rustix::process::pidfd_send_signal(&process, signal);
        let sent = Instant::now();
        while runs_here() && sent.elapsed() < STOP_TIMEOUT {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    if runs_here() {
        let pid = pid.as_raw_nonzero();
        return Err(Error::new(Kind::Failed, format!("its server, process {pid}, does not end")));
    }
    Ok(())
}
