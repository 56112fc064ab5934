//! The user that a program runs as when root starts it.
//!
//! A verb becomes the owner of the repositories: then its files belong to the user of the server,
//! and the configuration, which that user may change, cannot have root run a program, read a file or
//! write one. The program starts itself again, as `sudo -u USER` would start it. It stays root where
//! one user cannot do the work: `restore` and `init` create directories at any place and give them
//! away, and repositories may belong to several users. What the configuration names is then run as
//! the user that may change the configuration.

use crate::config::{Config, RepositoryUrl};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::Folder;
use crate::fs::named;
use crate::fs::trail::{PathWriter, Trail, user_name};
use crate::pg::shell;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// User and group of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunAs {
    pub user: u32,
    pub group: u32,
}

/// Group without rights (`nogroup`).
const NO_GROUP: u32 = 65534;

/// Permissions as in a mode.
const READ: u32 = 4;
const CREATE: u32 = 3;

/// Requirement of a verb on the user that it runs as.
#[derive(Clone, Copy)]
pub enum Need<'a> {
    /// Reads, and writes nothing outside of the repositories, the spool and the log.
    Owner,
    /// Writes a file in this directory, too.
    OwnerIn(&'a Path),
    /// Starts a server, which refuses to run as root.
    Server,
    /// Gives files to several users.
    Root,
}

/// Returns a path from the root; links are not resolved.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("read the working directory", &e))
}

/// Directory of a file that the command line names.
pub fn parent(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Has root become the user that `need` demands. Does not return when the program was started again.
///
/// # Errors
///
/// `Refused` when a server has to be started and its user is unknown, and those of the operating
/// system.
pub fn settle(config: &Config, need: Need<'_>) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let author = author(&config.path)?;
    let owner = match need {
        Need::Root => None,
        Need::Server => server_owner(config)?,
        Need::Owner | Need::OwnerIn(_) => owner(config)?,
    };
    let owner = owner.filter(|owner| author.is_none_or(|author| author == owner.user));
    let is_able = |owner: &RunAs| -> Result<bool> {
        let groups = groups(*owner)?;
        let may = |path: &Path, wanted| -> Result<bool> {
            Ok(Trail::to(path)?.permits(owner.user, &groups, wanted))
        };
        let writes = match need {
            Need::OwnerIn(directory) => may(&absolute(directory)?, CREATE)?,
            _ => true,
        };
        Ok(writes && may(&absolute(&config.path)?, READ)?)
    };
    match (owner, need) {
        (Some(owner), Need::Server) => Err(become_user(owner)),
        (Some(owner), _) if is_able(&owner)? => Err(become_user(owner)),
        (None, Need::Server) => Err(Error::new(
            Kind::Refused,
            "root starts no server, and the owners of the configuration, the repositories and the data directory do not say which user should",
        )
        .hint(format!("run it as the user of the server: `{}`", command_line(Some("postgres"))))),
        _ => refuse_denied(config),
    }
}

/// Returns the owner of the repositories in directories, or of the data directories if there are none;
/// `None` for root and for several owners. Only a user that also owns the data directories can read
/// them.
///
/// # Errors
///
/// Those of the operating system.
pub fn owner(config: &Config) -> Result<Option<RunAs>> {
    let (stores, data) = (owners(directories(config))?, data_owners(config)?);
    let owner = sole(if stores.is_empty() { &data } else { &stores });
    Ok(owner.filter(|owner| data.iter().all(|other| other.user == owner.user)))
}

/// Returns the user for a drill's server: the owner of the repositories, else of the data directories.
fn server_owner(config: &Config) -> Result<Option<RunAs>> {
    Ok(sole(&owners(directories(config))?).or(sole(&data_owners(config)?)))
}

fn data_owners(config: &Config) -> Result<BTreeSet<RunAs>> {
    owners(config.clusters.iter().map(|cluster| cluster.pgdata.as_path()))
}

/// The only element, unless it is root.
fn sole(owners: &BTreeSet<RunAs>) -> Option<RunAs> {
    owners.first().copied().filter(|owner| owners.len() == 1 && owner.user != 0)
}

/// Returns the owner of what is at a path; `None` when nothing is there.
///
/// # Errors
///
/// Those of the operating system.
pub fn owner_of(path: &Path) -> Result<Option<RunAs>> {
    Ok(named::stat(path)?.map(|stat| RunAs { user: stat.st_uid, group: stat.st_gid }))
}

/// Returns the owners of the directories that exist.
fn owners<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<BTreeSet<RunAs>> {
    let mut found = BTreeSet::new();
    for path in paths {
        found.extend(owner_of(path)?);
    }
    Ok(found)
}

/// Directories of the repositories.
fn directories(config: &Config) -> impl Iterator<Item = &Path> {
    config.repositories.iter().filter_map(|repository| match &repository.url {
        RepositoryUrl::File(path) => Some(path.as_path()),
        RepositoryUrl::S3 { .. } => None,
    })
}

/// Returns the groups of a user.
fn groups(of: RunAs) -> Result<Vec<u32>> {
    let Some(user) = nix::unistd::User::from_uid(of.user.into()).ok().flatten() else {
        return Ok(vec![of.group]);
    };
    let name = CString::new(user.name).map_err(|_| Error::defect("the name of a user has a zero byte"))?;
    let groups = nix::unistd::getgrouplist(&name, user.gid)
        .map_err(|e| Error::io(format!("list the groups of {}", user_name(of.user)), &e.into()))?;
    Ok(groups.into_iter().map(nix::unistd::Gid::as_raw).chain([of.group]).collect())
}

/// Starts this program again as another user, with the same arguments. Returns only an error.
fn become_user(owner: RunAs) -> Error {
    let name = user_name(owner.user);
    let switched = || -> Result<()> {
        let doing = || format!("become {name}");
        let io = |e: nix::Error| Error::io(doing(), &e.into());
        let groups: Vec<nix::unistd::Gid> = groups(owner)?.into_iter().map(Into::into).collect();
        nix::unistd::setgroups(&groups).map_err(io)?;
        nix::unistd::setgid(owner.group.into()).map_err(io)?;
        nix::unistd::setuid(owner.user.into()).map_err(io)
    };
    let program = match std::env::current_exe().doing("find this program") {
        Ok(program) => program,
        Err(error) => return error,
    };
    if let Err(error) = switched() {
        return error;
    }
    let mut command = Command::new(&program);
    let mut arguments = std::env::args_os();
    if let Some(first) = arguments.next() {
        command.arg0(first);
    }
    command.args(arguments).env("USER", &name).env("LOGNAME", &name);
    if let Ok(Some(user)) = nix::unistd::User::from_uid(owner.user.into()) {
        command.env("HOME", user.dir);
    }
    let error = command.exec();
    Error::io(format!("start {} as {name}", program.display()), &error)
        .hint("install the programs where every user may start them")
}

/// Refuses to work as root in a repository whose files root may not give to its owner, as on NFS with
/// `root_squash`, before anything is written.
fn refuse_denied(config: &Config) -> Result<()> {
    for repository in config.repositories.iter().filter(|repository| repository.required) {
        let RepositoryUrl::File(path) = &repository.url else {
            continue;
        };
        let Some(folder) = Folder::root(path)? else {
            continue;
        };
        let owner = user_name(folder.own_stat()?.st_uid);
        if !folder.can_give()? {
            return Err(Error::new(
                Kind::Denied,
                format!("root may not write files for {owner}, the owner of {}", path.display()),
            )
            .hint(format!("`{}`", command_line(Some(&owner)))));
        }
    }
    Ok(())
}

/// Returns the only user other than root that may change the configuration; `None` when only root
/// may.
///
/// # Errors
///
/// `Config` when several users may: root must not do what any of them wants.
pub fn author(path: &Path) -> Result<Option<u32>> {
    sole_writer(&Trail::to(&absolute(path)?)?, path, "root does not act on it")
        .map_err(|e| e.with_kind(Kind::Config))
}

fn sole_writer(way: &Trail, path: &Path, consequence: &str) -> Result<Option<u32>> {
    let mut user = None;
    for (entry, writer) in way.writers() {
        match writer {
            PathWriter::User(id) if user.is_none_or(|user| user == id) => user = Some(id),
            _ => {
                return Err(Error::new(
                    Kind::Refused,
                    format!("{}, so {consequence}", can_be_changed(path, entry, writer)),
                )
                .hint(remedy(entry, writer, "root")));
            }
        }
    }
    Ok(user)
}

/// Says that a path can be changed through an entry on its way.
pub fn can_be_changed(path: &Path, entry: &Path, writer: PathWriter) -> String {
    let through = if path == entry { String::new() } else { format!(", since {} can", entry.display()) };
    format!("{} can be changed by {writer}{through}", path.display())
}

/// Command after which a user can no longer change an entry, which `owner` may own.
pub fn remedy(entry: &Path, writer: PathWriter, owner: &str) -> String {
    let entry = shell::quoted(&entry.to_string_lossy());
    match writer {
        PathWriter::User(_) => format!("`chown {owner} {entry}`, or run walkeep as that user"),
        PathWriter::Group(_) => format!("`chmod g-w {entry}`"),
        PathWriter::Everyone => format!("`chmod o-w {entry}`"),
    }
}

/// Refuses a configuration, as root, that several users may change, and one whose repositories or
/// spool users may change that do not own them.
///
/// # Errors
///
/// `Config` for the configuration, `Refused` for the others.
pub fn check(config: &Config) -> Result<()> {
    if let Some(author) = author(&config.path)? {
        refuse_closed(config, author)?;
    }
    for path in directories(config).chain([config.wal.spool.as_path()]) {
        let way = Trail::to(path)?;
        if let Some((entry, writer)) =
            way.writers().into_iter().find(|(_, writer)| !matches!(writer, PathWriter::User(_)))
        {
            return Err(Error::new(
                Kind::Refused,
                format!("{}, so root does not use it", can_be_changed(path, entry, writer)),
            )
            .hint(remedy(entry, writer, "root")));
        }
    }
    Ok(())
}

/// Refuses files with keys that the author of the configuration may not read: root would use them
/// for this user.
fn refuse_closed(config: &Config, author: u32) -> Result<()> {
    let groups = groups(of_user(author))?;
    let buckets = config.repositories.iter().filter_map(|repository| repository.bucket.as_ref());
    let files = buckets.flat_map(|bucket| {
        let options = &bucket.options;
        [&options.access_key_file, &options.secret_key_file, &options.ca_file].into_iter().flatten()
    });
    for file in files {
        let trail = Trail::to(file)?;
        if trail.is_complete() && !trail.permits(author, &groups, READ) {
            let (file, author) = (file.display(), user_name(author));
            return Err(Error::new(
                Kind::Config,
                format!("{file} is closed to {author}, who may change the configuration that names it"),
            )
            .hint(format!("`sudo chown {author} {file}`")));
        }
    }
    Ok(())
}

/// A user with its own group.
fn of_user(user: u32) -> RunAs {
    let found = nix::unistd::User::from_uid(user.into()).ok().flatten();
    // Without an entry of its own, the user gets the rights of no group.
    RunAs { user, group: found.map_or(NO_GROUP, |found| found.gid.as_raw()) }
}

/// Returns the user to run a program as that the configuration names; `None` for the user of this
/// process. Root runs only what no other user may change, and the rest as the user that may.
///
/// # Errors
///
/// `Refused` when more than one user may change the program or the configuration.
pub fn of_program(config: &Path, program: &Path) -> Result<Option<RunAs>> {
    if !is_root() {
        return Ok(None);
    }
    let writers = [author(config)?, sole_writer(&Trail::to(program)?, program, "root does not run it")?];
    let users: BTreeSet<u32> = writers.into_iter().flatten().collect();
    match (users.first(), users.len()) {
        (None, _) => Ok(None),
        (Some(user), 1) => Ok(Some(of_user(*user))),
        _ => {
            let message = format!(
                "several users may change {} and {}, so root does not run it",
                program.display(),
                config.display()
            );
            Err(Error::new(Kind::Refused, message)
                .hint(format!("`chown root {}`", shell::quoted(&program.to_string_lossy()))))
        }
    }
}

/// Placeholder for the command line in hints of rooms that do not know it.
const PLACEHOLDER: &str = "walkeep …`";

/// Completes a hint that names a command, with the arguments of this process.
pub fn with_command_line(hint: String) -> String {
    if hint.contains(PLACEHOLDER) {
        hint.replace(PLACEHOLDER, &format!("{}`", command_line(None)))
    } else {
        hint
    }
}

/// Returns the command line of this process, to be typed in a shell, by this user.
pub fn command_line(user: Option<&str>) -> String {
    let words = std::env::args_os().map(|word| shell::quoted(&word.to_string_lossy()));
    let words: Vec<String> = words.collect();
    match user {
        Some(user) => format!("sudo -u {} {}", shell::quoted(user), words.join(" ")),
        None => words.join(" "),
    }
}
