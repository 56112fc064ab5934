//! The scratch directory of one drill: everything that a drill makes lies in it, and it goes at the end. The lock that
//! a drill holds on it is let go by the kernel when the drill dies, so what is not locked was left behind.

use crate::error::{Doing, Error, Kind, Result};
use crate::progress;
use crate::repo::lock::Lock;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::OsStr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Stands in every directory of a drill, and in none of anybody else.
const MARK: &str = "walkeep.drill";

/// Stands in one that the user wanted to keep.
const KEPT: &str = "walkeep.kept";

/// How long a left-behind server may take to end, each time it is told to.
const END: Duration = Duration::from_secs(20);

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A scratch directory; removed when it is dropped.
pub struct Place {
    path: PathBuf,
    lock: Option<Lock>,
    kept: bool,
}

impl Place {
    /// Makes one in `directory`. The name has the cluster in it, so that others find it.
    pub fn make(directory: &Path, cluster: &str, random: &str) -> Result<Place> {
        let path = directory.join(format!("{}{random}", prefix(cluster)));
        make_dir(&path)?;
        let lock = Lock::wait_for(&path, Duration::ZERO)?;
        let place = Place { path, lock: Some(lock), kept: false };
        place.write(MARK, "a drill of walkeep works here; the next one removes this directory\n")?;
        for name in ["etc", "socket", "tablespaces"] {
            make_dir(&place.join(name))?;
        }
        Ok(place)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Gives what is not the data directory to the user who runs the server.
    pub fn give(&self, user: u32, group: u32) -> Result<()> {
        let own = ["", MARK, "etc", "socket", "tablespaces"];
        let files = ["etc/postgresql.conf", "etc/pg_hba.conf", "etc/pg_ident.conf"];
        for name in own.into_iter().chain(files) {
            let path = self.path.join(name);
            std::os::unix::fs::lchown(&path, Some(user), Some(group))
                .doing(|| format!("give {} to the user of the server", path.display()))?;
        }
        Ok(())
    }

    /// Leaves it for a look.
    pub fn keep(&mut self) -> Result<()> {
        self.write(
            KEPT,
            "kept by `walkeep drill --keep`; remove this directory when you have looked at it\n",
        )?;
        self.kept = true;
        Ok(())
    }

    /// Removes it.
    pub fn remove(mut self) -> Result<()> {
        match self.kept {
            true => Ok(()),
            false => {
                self.kept = true;
                remove(&self.path)
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            // After a failure, which is what the user hears of; the next drill tries again.
            let _ = remove(&self.path);
        }
        self.lock = None;
    }
}

fn prefix(cluster: &str) -> String {
    format!("walkeep-drill-{cluster}-")
}

fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .doing(|| format!("create directory {}", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.doing(|| format!("remove {}", path.display())),
    }
}

/// Stops and removes what drills of this cluster left that were killed; [`Kind::Locked`] when one runs for longer
/// than `patience`.
pub fn sweep(directory: &Path, cluster: &str, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    let prefix = prefix(cluster);
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(|| format!("look at {}", directory.display()))?,
    };
    for entry in entries {
        let entry = entry.doing(|| format!("look at {}", directory.display()))?;
        let random =
            entry.file_name().to_str().and_then(|name| name.strip_prefix(&prefix)).map(str::to_owned);
        let is_ours = random
            .is_some_and(|random| !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !is_ours {
            continue;
        }
        let path = entry.path();
        if let Err(error) = clear(&path, patience.saturating_sub(begun.elapsed())) {
            match error.kind() {
                Kind::Locked => {
                    return Err(Error::new(Kind::Locked, "another drill of this cluster runs")
                        .doing(format!("look at {}", path.display()))
                        .hint("wait for it to end, or use --wait"));
                }
                _ => progress::warn(&error.doing("remove what an earlier drill left")),
            }
        }
    }
    Ok(())
}

/// One directory that has the name of a drill's.
fn clear(path: &Path, patience: Duration) -> Result<()> {
    let meta = path.symlink_metadata().doing(|| format!("look at {}", path.display()))?;
    let own = nix::unistd::geteuid();
    if !meta.is_dir() || !(own.is_root() || meta.uid() == own.as_raw()) {
        return Ok(());
    }
    let kept = path.join(KEPT);
    if kept.try_exists().doing(|| format!("look at {}", kept.display()))? {
        return Ok(());
    }
    let _lock = match Lock::wait_for(path, patience) {
        Err(error) if error.kind() == Kind::Absent => return Ok(()),
        lock => lock?,
    };
    let mut entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(|| format!("look at {}", path.display()))?,
    };
    // One that was killed before its first step has nothing yet.
    if entries.next().is_some() && !path.join(MARK).is_file() {
        return Ok(());
    }
    end_server(path, meta.uid())?;
    remove(path)?;
    tracing::info!("removed {}, which an earlier drill left", path.display());
    Ok(())
}

/// Stops the server of a drill that was killed. It is the one that the `postmaster.pid` of the scratch directory
/// names *and* that runs in there as the owner of the directory; another process of that number is left alone.
fn end_server(path: &Path, owner: u32) -> Result<()> {
    let data = path.join("data");
    let lock = data.join("postmaster.pid");
    let text = match std::fs::read_to_string(&lock) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.doing(|| format!("read {}", lock.display()))?,
    };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw)
    else {
        return Ok(());
    };
    // Held while it is looked at, so that the number cannot come to mean another process.
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    let runs_here = || {
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let here = std::fs::read_link(proc.join("cwd")).ok();
        let is_here = here.zip(std::fs::canonicalize(&data).ok()).is_some_and(|(here, data)| here == data);
        let is_owned = proc.metadata().is_ok_and(|meta| meta.uid() == owner);
        let is_postgres = std::fs::read_link(proc.join("exe"))
            .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == OsStr::new("postgres")));
        is_here && is_owned && is_postgres
    };
    for signal in [Signal::QUIT, Signal::KILL] {
        if !runs_here() {
            return Ok(());
        }
        let _ = rustix::process::pidfd_send_signal(&process, signal);
        let told = Instant::now();
        while runs_here() && told.elapsed() < END {
            std::thread::sleep(POLL);
        }
    }
    match runs_here() {
        false => Ok(()),
        true => Err(Error::new(
            Kind::Failed,
            format!("its server, process {}, does not end", pid.as_raw_nonzero()),
        )),
    }
}
