//! The `restore_command` of a cluster: how it is built, and how a server runs it.

use super::account;
use super::setup::{self, Context};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::{Folder, Rights};
use crate::fs::named;
use crate::pg::segment::WalName;
use crate::restore;
use rustix::fs::FileType;
use std::path::Path;
use std::process::Command;

/// Returns the `restore_command` of a cluster, with more arguments for `walfetch`.
pub fn build(context: &Context, more: &[&str]) -> Result<String> {
    let walfetch =
        std::env::current_exe().map(|path| path.with_file_name("walfetch")).doing("find walfetch")?;
    if named::kind_at(&walfetch)? != Some(FileType::RegularFile) {
        return Err(Error::new(Kind::Config, format!("{} does not exist", walfetch.display()))
            .hint("install walpush, walfetch and walkeep in one directory"));
    }
    let config = setup::absolute(&context.config.path)?;
    let word = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            Error::new(
                Kind::Config,
                format!("{} is not UTF-8, so it cannot be part of restore_command", path.display()),
            )
        })
    };
    let (walfetch, config) = (word(&walfetch)?, word(&config)?);
    let words = [&walfetch, "--config", &config, "--cluster", &context.cluster.name];
    let words: Vec<&str> = words.into_iter().chain(more.iter().copied()).collect();
    Ok(restore::restore_command(&words))
}

/// Runs a `restore_command` as a server does: through a shell, in a directory, as the owner of that
/// directory.
pub fn call(command: &str, name: WalName, directory: &Path, destination: &Path) -> Result<()> {
    let command = fill_in(command, &name.to_string(), destination);
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(&command).current_dir(directory);
    setup::run_as_owner(&mut shell, directory)?;
    let output = shell.output().doing("try the restore_command")?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(Kind::Failed, format!("`{command}`: {}: {}", output.status, stderr.trim())))
}

/// Age in seconds of a directory that no process uses any more.
const MAX_AGE: i64 = 24 * 3600;

/// Beginning of the names of directories for fetched files.
const PREFIX: &str = "walkeep-fetch-";

/// Directory of the user that runs the server, for files that a command fetches; removed when it is
/// dropped, or by a later process when this one is killed.
pub struct Scratch {
    parent: Folder,
    name: String,
    folder: Folder,
    rights: Rights,
}

impl Scratch {
    /// Creates a directory among the temporary files. `owner` are the ids of the user and the group.
    pub fn make(owner: (u32, u32)) -> Result<Scratch> {
        let parent = std::env::temp_dir();
        let parent = Folder::root(&parent)?.ok_or_else(|| {
            Error::new(Kind::Absent, format!("directory {} does not exist", parent.display()))
        })?;
        remove_left(&parent, owner.0);
        let name = format!("{PREFIX}{}", setup::random_hex::<8>()?);
        let rights = Rights::new(account::is_root().then_some(owner), 0o600, 0o700);
        let folder = parent.make_folder(&name, &rights)?;
        Ok(Scratch { parent, name, folder, rights })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file for the user that runs the server.
    pub fn write(&self, below: &str, content: &[u8]) -> Result<()> {
        let below = Path::new(below);
        let (Some(parent), Some(name)) = (below.parent(), below.file_name()) else {
            return Err(Error::defect("a fetched file without a name"));
        };
        self.folder.make(parent, &self.rights)?.put(name, content, &self.rights)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A failure is ignored: it lies in the directory for temporary files.
        let _ = self.parent.remove_tree(&self.name);
    }
}

/// Removes the directories that killed processes have left: those of this user that are older than
/// any command that fetches a file may take.
fn remove_left(parent: &Folder, user: u32) {
    let end = jiff::Timestamp::now().as_second() - MAX_AGE;
    for (name, _) in parent.names().unwrap_or_default() {
        if !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // A failure is ignored: they lie in the directory for temporary files.
        if let Ok(Some(found)) = parent.entry(Path::new(&name))
            && found.st_uid == user
            && found.st_mtime < end
        {
            let _ = parent.remove_tree(&name);
        }
    }
}

/// Replaces `%f`, `%p` and `%%` as a server does (`BuildRestoreCommand` of PostgreSQL 15,
/// src/common/archive.c).
fn fill_in(command: &str, name: &str, destination: &Path) -> String {
    let destination = destination.display().to_string();
    let mut filled = String::new();
    let mut rest = command;
    while let Some((before, after)) = rest.split_once('%') {
        filled.push_str(before);
        let placeholders = [("f", name), ("p", &destination), ("%", "%")];
        let found =
            placeholders.iter().find_map(|(letter, value)| Some((after.strip_prefix(letter)?, value)));
        let (left, value) = found.unwrap_or((after, &"%"));
        filled.push_str(value);
        rest = left;
    }
    filled + rest
}
