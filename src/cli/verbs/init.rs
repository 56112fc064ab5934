//! `walkeep init`: registers the cluster in every repository.

use crate::cli::args::InitArgs;
use crate::cli::exit::Exit;
use crate::cli::render::Report;
use crate::cli::setup::{self, Context};
use crate::config::RepositoryUrl;
use crate::error::{Doing, Error, Kind, Result};
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
        repositories.push((repository, registered));
    }
    context.print(&Initialized { cluster: &context.cluster.name, lineage, repositories })?;
    Ok(Exit::Done)
}

/// Refuses a repository inside the data directory: it would be backed up into itself, and lost with
/// it.
fn refuse_inside(path: &Path, context: &Context) -> Result<()> {
    let repository = Directory::new(path);
    let pgdata = std::fs::canonicalize(&context.cluster.pgdata)
        .doing(|| format!("resolve {}", context.cluster.pgdata.display()))?;
    let tablespaces = std::fs::read_dir(pgdata.join("pg_tblspc")).into_iter().flatten().flatten();
    let locations = tablespaces.filter_map(|link| std::fs::canonicalize(link.path()).ok());
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
