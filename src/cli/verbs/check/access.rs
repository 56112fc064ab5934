//! Looks for users that may change the configuration, the repositories or the spool, and should not.

use super::{CheckResult, Checks};
use crate::cli::account::{self, can_be_changed, remedy};
use crate::cli::setup::{self, Context};
use crate::config::RepositoryUrl;
use crate::error::Result;
use crate::fs::trail::{PathWriter, Trail, user_name};
use std::path::{Path, PathBuf};

/// Notes a warning for each path that another user than root, the user of this process and the owner
/// of the data directory may change.
pub fn look(context: &Context, checks: &mut Checks<'_>) {
    match results(context) {
        Ok(results) => results.into_iter().for_each(|result| checks.note("access", result)),
        Err(error) => checks.note("access", error),
    }
}

fn results(context: &Context) -> Result<Vec<CheckResult>> {
    let config = &context.config;
    let mut paths: Vec<PathBuf> = vec![setup::absolute(&config.path)?, config.wal.spool.clone()];
    paths.extend(config.repositories.iter().filter_map(|repository| match &repository.url {
        RepositoryUrl::File(path) => Some(path.clone()),
        RepositoryUrl::S3 { .. } => None,
    }));
    let own = nix::unistd::geteuid().as_raw();
    let server = account::owner_of(&context.cluster.pgdata)?.map_or(own, |owner| owner.user);
    let mut results = Vec::new();
    for path in &paths {
        results.extend(foreign_writer(path, &[0, own, server], &user_name(server))?);
    }
    if results.is_empty() {
        let users = if own == 0 || own == server {
            user_name(server)
        } else {
            format!("{}, {}", user_name(own), user_name(server))
        };
        results.push(CheckResult::ok(format!(
            "only root and {users} can change the configuration, the repositories and the spool"
        )));
    }
    Ok(results)
}

/// Returns a warning about the first entry that another user than these may change.
fn foreign_writer(path: &Path, trusted: &[u32], server: &str) -> Result<Option<CheckResult>> {
    let way = Trail::to(path)?;
    let is_foreign = |writer: PathWriter| match writer {
        PathWriter::User(user) => !trusted.contains(&user),
        PathWriter::Group(_) | PathWriter::Everyone => true,
    };
    let found = way.writers().into_iter().find(|(_, writer)| is_foreign(*writer));
    Ok(found.map(|(entry, writer)| {
        // The directories above belong to root.
        let owner = if entry == path { server } else { "root" };
        CheckResult::warning(can_be_changed(path, entry, writer), remedy(entry, writer, owner))
    }))
}
