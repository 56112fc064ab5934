//! What root does leaves nothing behind that the user of the server cannot read, replace or remove,
//! and root does nothing that another user chose.

mod left;
mod trusted;

use crate::support::account::account;
use crate::support::*;
use std::path::Path;
use std::time::Duration;

/// How long a verb may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Whether the tests may start programs as root.
fn may_be_root() -> bool {
    let root = account().root;
    if !root {
        skipped("root", "only root can start a program as root");
    }
    root
}

/// A start of a verb as root.
fn by_root(archive: &Archive, verb: &[&str]) -> Run {
    archive.run("walkeep").args(verb).by_root().deadline(PATIENCE)
}

/// Everything at and below a path that does not belong to the account.
fn foreign(path: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let account = account();
    let mut found = Vec::new();
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return found;
    };
    if (meta.uid(), meta.gid()) != (account.uid, account.gid) {
        found.push(format!("{} {}:{}", path.display(), meta.uid(), meta.gid()));
    }
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).expect("list").flatten() {
            found.append(&mut foreign(&entry.path()));
        }
    }
    found
}

/// A script of the account that writes the number of the user that runs it into a file of the account,
/// and then becomes `program`.
fn tattler(scratch: &Scratch, name: &str, program: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let users = scratch.write("users", "");
    let script = scratch.write(name, format!("#!/bin/sh\nid -u >> {}\n{program}\n", users.display()));
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("make it a program");
    (script, users)
}
