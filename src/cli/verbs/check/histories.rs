//! Archives the histories of the server's own timelines, and looks for histories that recoveries
//! need and the repository does not have.

use super::{CheckResult, Checks, Severity};
use crate::backup::BackupServer;
use crate::cli::histories::{self, OwnHistories};
use crate::cli::setup::Context;
use crate::error::Result;
use crate::repo::Archive;
use crate::repo::survey::{Survey, Want};

/// Notes nothing when all is well: most clusters have one timeline.
pub fn look(context: &Context, server: Option<&BackupServer>, archive: &Archive, checks: &mut Checks<'_>) {
    let repository = archive.repository();
    let name = format!("histories in {}", repository.name());
    match results(context, server, archive) {
        Ok(results) => {
            let worst = Severity::worst_in(repository);
            results.into_iter().for_each(|result| checks.note(&name, result.at_most(worst)));
        }
        Err(error) => checks.note(&name, CheckResult::from(error).at_most(Severity::worst_in(repository))),
    }
}

fn results(context: &Context, server: Option<&BackupServer>, archive: &Archive) -> Result<Vec<CheckResult>> {
    let own = server.map_or_else(|| Ok(OwnHistories::default()), |server| own(context, server, archive))?;
    let archived = own.archived.iter();
    let mut results: Vec<CheckResult> = archived
        .map(|name| CheckResult::ok(format!("{name} was missing, and was archived from pg_wal now")))
        .collect();
    for missing in Survey::read(archive, Want::default())?.missing_histories() {
        if missing.is_needed() {
            results.push(missing.error().into());
        } else if own.missing.contains(&missing.name()) {
            results.push(CheckResult::warning(
                format!("{} is neither in pg_wal nor in the repository; no backup needs it", missing.name()),
                missing.hint(),
            ));
        }
    }
    Ok(results)
}

/// Archives the histories of the server. Nothing is archived from another data directory than the
/// server's, or for a server that does not archive into the repositories.
fn own(context: &Context, server: &BackupServer, archive: &Archive) -> Result<OwnHistories> {
    let is_its_own = server.check_runs_on(&context.cluster.pgdata).is_ok();
    if !is_its_own || !server.archiving_problems().is_empty() {
        return Ok(OwnHistories::default());
    }
    histories::archive(context, server.found.lineage, server.found.timeline, archive.repository())
}
