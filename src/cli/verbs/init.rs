//! `walkeep init`.

use crate::cli::setup::{self, Context};
use crate::cli::{args, output};
use crate::config::Url;
use crate::error::{Doing, Error, Kind, Result};
use crate::repo::{Lineage, Registered};
use crate::storage::Directory;
use std::path::Path;

pub fn run(context: &Context, args: &args::InitArgs) -> Result<u8> {
    let lineage = Lineage::of(&context.cluster.pgdata)
        .doing(|| format!("look at the data directory of cluster {}", context.cluster.name))
        .map_err(|error| error.hint("is `pgdata` the data directory, and may this user read it?"))?;
    let fresh = setup::random_hex::<16>()?;
    let mut registered = Vec::new();
    for (repository, configured) in context.repositories.iter().zip(&context.config.repositories) {
        let doing = || format!("init repository {}", repository.name());
        if let Url::File(path) = &configured.url {
            refuse_inside(path, context).doing(doing)?;
        }
        repository.prepare().doing(doing)?;
        let done = repository.register(lineage, args.upgrade, jiff::Timestamp::now(), &fresh).doing(doing)?;
        repository.open(lineage)?;
        let what = match done {
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
        registered.push(serde_json::json!({
            "name": repository.name(),
            "url": repository.url(),
            "registered": match done {
                Registered::New => "new",
                Registered::Already => "already",
                Registered::Upgraded => "upgraded",
            },
        }));
    }
    if context.json {
        output::print_json(&serde_json::json!({
            "cluster": context.cluster.name,
            "system_identifier": lineage.system_identifier.to_string(),
            "pg": lineage.major,
            "repositories": registered,
        }))?;
    }
    Ok(0)
}

/// A repository inside the data directory would be backed up into itself, and lost with it.
fn refuse_inside(path: &Path, context: &Context) -> Result<()> {
    let directory = Directory::new(path);
    let pgdata = std::fs::canonicalize(&context.cluster.pgdata)
        .doing(|| format!("look at {}", context.cluster.pgdata.display()))?;
    let tablespaces = std::fs::read_dir(pgdata.join("pg_tblspc")).into_iter().flatten().flatten();
    let places = tablespaces.filter_map(|link| std::fs::canonicalize(link.path()).ok());
    for place in std::iter::once(pgdata).chain(places) {
        if directory.is_inside(&place) {
            return Err(Error::new(
                Kind::Refused,
                format!("{} lies inside {}", path.display(), place.display()),
            )
            .hint("put the repository on another disk, at least outside of the data directory"));
        }
    }
    Ok(())
}
