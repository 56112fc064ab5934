//! `walkeep init`: registers the cluster in every repository.

use crate::cli::account;
use crate::cli::args::InitArgs;
use crate::cli::exit::Exit;
use crate::cli::render::Report;
use crate::cli::setup::{self, Context};
use crate::config::RepositoryUrl;
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use crate::fs::trail::user_name;
use crate::progress;
use crate::repo::{Lineage, Registered, Repository};
use crate::storage::Directory;
use serde::Serialize;
use serde_json::json;
use std::path::Path;

struct Initialized<'a> {
    cluster: &'a str,
    lineage: Lineage,
    repositories: Vec<(&'a Repository, Registered)>,
}

impl Report for Initialized<'_> {
    fn json(&self) -> impl Serialize {
        let repositories = self.repositories.iter().map(|(repository, registered)| {
            json!({
                "name": repository.name(),
                "url": repository.url(),
                "registered": match registered {
                    Registered::New => "new",
                    Registered::Already => "already",
                    Registered::Upgraded => "upgraded",
                },
            })
        });
        json!({
            "cluster": self.cluster,
            "system_identifier": self.lineage.system_identifier.to_string(),
            "pg": self.lineage.major,
            "repositories": repositories.collect::<Vec<_>>(),
        })
    }
}

pub fn run(context: &Context, args: &InitArgs) -> Result<Exit> {
    let lineage = Lineage::of(&context.cluster.pgdata)
        .doing(|| format!("read the data directory of cluster {}", context.cluster.name))
        .map_err(|error| error.hint("`pgdata` has to be the data directory, and readable for this user"))?;
    let fresh = setup::random_hex::<16>()?;
    let mut repositories = Vec::new();
    for (repository, configured) in context.repositories.iter().zip(&context.config.repositories) {
        let doing = || format!("init repository {}", repository.name());
        if let RepositoryUrl::File(path) = &configured.url {
            refuse_inside(path, context).doing(doing)?;
        }
        let is_there = match &configured.url {
            RepositoryUrl::File(path) => account::owner_of(path)?.is_some(),
            RepositoryUrl::S3 { .. } => true,
        };
        repository.prepare().doing(doing)?;
        let registered =
            repository.register(lineage, args.upgrade, jiff::Timestamp::now(), &fresh).doing(doing)?;
        repository.open(lineage)?;
        let what = match registered {
            Registered::New => "registered",
            Registered::Already => "was registered already",
            Registered::Upgraded => "registered as an upgrade",
        };
        context.console.say(&format!(
            "cluster {} (system identifier {}, PostgreSQL {}) {what} in repository {} at {}",
            context.cluster.name,
            lineage.system_identifier,
            lineage.major,
            repository.name(),
            repository.url()
        ));
        if let RepositoryUrl::File(path) = &configured.url {
            report_owner(context, path, is_there)?;
        }
        repositories.push((repository, registered));
    }
    context.print(&Initialized { cluster: &context.cluster.name, lineage, repositories })?;
    Ok(Exit::Done)
}

/// Prints the owner of a new directory, and warns about one whose owner is not the user of the
/// server, which archives into it.
fn report_owner(context: &Context, path: &Path, is_old: bool) -> Result<()> {
    let owner = account::owner_of(path)?;
    let Some((owner, server)) = owner.zip(account::owner_of(&context.cluster.pgdata)?) else {
        return Ok(());
    };
    let (path, owner_name, server_name) = (path.display(), user_name(owner.user), user_name(server.user));
    if !is_old {
        context.console.say(&format!("created the directory {path}; it belongs to {owner_name}"));
    }
    if owner.user != server.user {
        let message = format!(
            "{path} belongs to {owner_name}, and the server runs as {server_name}: can it archive there?"
        );
        progress::warn(
            &Error::new(Kind::Denied, message).hint(format!("`sudo chown -R {server_name}: {path}`")),
        );
    }
    Ok(())
}

/// Refuses a repository inside the data directory: it would be backed up into itself, and lost with
/// it.
fn refuse_inside(path: &Path, context: &Context) -> Result<()> {
    let repository = Directory::new(path);
    let Some(pgdata) = named::real(&context.cluster.pgdata)? else {
        return Ok(());
    };
    let links = pgdata.join("pg_tblspc");
    let tablespaces = named::list(&links).ok().flatten().unwrap_or_default();
    let locations = tablespaces.iter().filter_map(|(name, _)| named::real(&links.join(name)).ok()?);
    let locations: Vec<_> = locations.collect();
    for directory in std::iter::once(pgdata).chain(locations) {
        if repository.is_inside(&directory) {
            return Err(Error::new(
                Kind::Refused,
                format!("{} lies inside {}", path.display(), directory.display()),
            )
            .hint("put the repository on another disk, at least outside of the data directory"));
        }
    }
    Ok(())
}
