//! From a configuration file to the values that operations take.

use super::args;
use super::output::{self, Console};
use super::render::Report;
use crate::codec::hash::block_hash;
use crate::config::{self, ClusterConfig, Config, RepositoryUrl};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::progress;
use crate::repo::{Archive, Lineage, RemoteHints, Repository};
use crate::storage::{Claims, Directory, Retry, RetryPolicy, S3, S3Options, Storage, Traced, Variable};
use jiff::SignedDuration;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What every verb needs.
pub struct Context {
    pub config: Config,
    pub cluster: ClusterConfig,
    pub repositories: Vec<Repository>,
    pub console: Console,
    pub json: bool,
}

impl Context {
    pub fn new(global: &args::GlobalArgs) -> Result<Context> {
        let config = load(global.config.clone())?;
        let cluster = config.sole_cluster(global.cluster.as_deref(), &working_directory()?)?.clone();
        Context::build(config, cluster, global)
    }

    /// Of the cluster that was named, or of each that is configured.
    pub fn all(global: &args::GlobalArgs) -> Result<Vec<Context>> {
        let config = load(global.config.clone())?;
        let clusters = match global.cluster.as_deref() {
            Some(name) => vec![config.cluster(Some(name), Path::new(""))?.clone()],
            None => config.clusters.clone(),
        };
        clusters.into_iter().map(|cluster| Context::build(config.clone(), cluster, global)).collect()
    }

    /// Prints the result of a verb on standard output, in the form that was asked for.
    pub fn print(&self, report: &impl Report) -> Result<()> {
        output::print(self.json, report)
    }

    fn build(config: Config, cluster: ClusterConfig, global: &args::GlobalArgs) -> Result<Context> {
        // For about a minute: a backup of hours must not end over less.
        let policy = RetryPolicy { max_attempts_after_answer: 12, ..RetryPolicy::default() };
        let repositories = stores(&config, &cluster, policy)?;
        let console = Console::install(&global.standard_error(), Some(&config.log));
        Ok(Context { config, cluster, repositories, console, json: global.json })
    }
}

/// Reads the configuration: `option` is `--config`.
pub fn load(option: Option<PathBuf>) -> Result<Config> {
    load_for(option, std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

/// The same for a program that never asks how many threads a backup takes: to count the CPUs would cost the
/// helpers more than to read the file.
pub fn load_for_helper(option: Option<PathBuf>) -> Result<Config> {
    load_for(option, NonZeroUsize::MIN)
}

fn load_for(option: Option<PathBuf>, cpus: NonZeroUsize) -> Result<Config> {
    let path = config::locate(option, std::env::var_os("WALKEEP_CONFIG"));
    Config::load(&path, cpus)
}

pub fn working_directory() -> Result<PathBuf> {
    std::env::current_dir().map_err(|e| Error::io("find the working directory", &e))
}

/// The repositories of a cluster for a helper, in the order of the configuration. PostgreSQL calls it again by
/// itself, and has to hear what is wrong before the deadline.
pub fn repositories(config: &Config, cluster: &ClusterConfig) -> Result<Vec<Repository>> {
    stores(config, cluster, RetryPolicy::default())
}

fn stores(config: &Config, cluster: &ClusterConfig, policy: RetryPolicy) -> Result<Vec<Repository>> {
    config
        .repositories
        .iter()
        .map(|repository| {
            let store = store(repository, policy)?;
            let built = Repository::new(&repository.name, &cluster.name, repository.required, store);
            Ok(match &repository.bucket {
                None => built,
                Some(bucket) => built.with_hints(hints(repository, bucket, &config.wal.spool)),
            })
        })
        .collect()
}

/// Hints about a bucket, in the spool. Another bucket under the same name in the configuration has hints of its own.
fn hints(repository: &config::RepositoryConfig, bucket: &config::BucketConfig, spool: &Path) -> RemoteHints {
    let endpoint = bucket.options.endpoint.as_deref().unwrap_or_default();
    let hash = block_hash(format!("{} {endpoint}", repository.url).as_bytes());
    let place = hex::encode(hash);
    RemoteHints::new(
        Arc::new(Directory::new(spool)),
        format!("{}-{place}", repository.name),
        jiff::Timestamp::now(),
    )
}

/// The store of a repository. It costs nothing before it is asked for something.
fn store(repository: &config::RepositoryConfig, policy: RetryPolicy) -> Result<Arc<dyn Storage>> {
    let bucket = match (&repository.url, &repository.bucket) {
        (RepositoryUrl::File(path), _) => return Ok(Arc::new(Traced::new(Directory::new(path)))),
        (RepositoryUrl::S3 { .. }, Some(bucket)) => bucket,
        (RepositoryUrl::S3 { .. }, None) => {
            let message = format!("repository {} has no settings of a bucket", repository.name);
            return Err(Error::new(Kind::Config, message));
        }
    };
    let variable: Variable = Arc::new(|name| std::env::var(name).ok());
    let s3 = Traced::new(S3::new(S3Options { variable, ..bucket.options.clone() }));
    Ok(match bucket.conditional_create {
        true => Arc::new(Retry::new(s3, policy)),
        false => Arc::new(Retry::new(Claims::new(s3), policy)),
    })
}

/// How to reach the server of the cluster.
pub fn connection(context: &Context) -> Result<ConnInfo> {
    let text = context.cluster.connection.as_deref().unwrap_or_default();
    connection_info(context, "connection", text)
}

/// How to reach the primary, where that is another server.
pub fn primary(context: &Context) -> Result<Option<ConnInfo>> {
    let text = context.cluster.primary.as_deref();
    text.map(|text| connection_info(context, "primary", text)).transpose()
}

fn connection_info(context: &Context, key: &str, text: &str) -> Result<ConnInfo> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let environment = Environment {
        variable: &|name| std::env::var(name).ok(),
        home: std::env::home_dir(),
        user: user.map(|user| user.name),
    };
    let info = ConnInfo::parse(text, &environment)
        .doing(|| format!("read `{key}` of cluster {}", context.cluster.name))?;
    for warning in &info.warnings {
        progress::warn(&Error::new(Kind::Config, warning.as_str()));
    }
    Ok(info)
}

/// Returns a path from the root; links are not resolved.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("read the working directory", &e))
}

/// Returns `N` random bytes.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut random = [0; N];
    getrandom::fill(&mut random).map_err(|e| Error::new(Kind::Failed, format!("read random bytes: {e}")))?;
    Ok(random)
}

/// Returns `N` random bytes as hexadecimal digits.
pub fn random_hex<const N: usize>() -> Result<String> {
    Ok(hex::encode(random::<N>()?))
}

/// Age after which a file that a crashed writer left behind is removed.
const GARBAGE_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Returns the time before which files of crashed writers were written, if they are garbage.
pub fn garbage_before(now: jiff::Timestamp) -> Result<jiff::Timestamp> {
    now.checked_sub(GARBAGE_AGE)
        .map_err(|e| Error::new(Kind::Failed, format!("compute the age of unfinished files at {now}: {e}")))
}

/// Duration of `--wait` without a bound: ten years.
const UNBOUNDED_WAIT: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Returns the maximum time to wait for a lock; zero without `--wait`.
pub fn lock_timeout(args: &args::WaitArgs) -> Duration {
    args.wait.map_or(Duration::ZERO, |bound| bound.unwrap_or(UNBOUNDED_WAIT))
}

/// Returns the error for a backup that no selected repository has.
pub fn no_backup(id: &str) -> Error {
    Error::new(Kind::Absent, format!("backup {id} does not exist")).hint("`walkeep list` shows the backups")
}

/// Returns the selected repositories: all, or the one that is named.
pub fn selected(context: &Context, selection: &args::SelectionArgs) -> Result<Vec<Repository>> {
    let name = selection.repository.as_deref();
    if let Some(name) = name {
        context.config.repository(name)?;
    }
    let all = context.repositories.iter();
    Ok(all.filter(|repository| name.is_none_or(|name| repository.name() == name)).cloned().collect())
}

/// The cluster's part of a repository: of the life that was asked for, of the data directory's own where there
/// still is one, else of the newest that is registered.
pub fn archive(
    context: &Context,
    repository: &Repository,
    selection: &args::SelectionArgs,
) -> Result<Archive> {
    match selection.lineage.or_else(|| own_lineage(context)) {
        Some(lineage) => repository.open(lineage),
        None => repository.open_newest(),
    }
}

/// Of the data directory, where there still is one. One that cannot be read stops nobody who needs a backup, but is told.
pub fn own_lineage(context: &Context) -> Option<Lineage> {
    match Lineage::of(&context.cluster.pgdata) {
        Ok(lineage) => Some(lineage),
        Err(error) => {
            if error.kind() != Kind::Absent {
                let error = error.doing("find out which life of the cluster this is").hint(
                    "the newest that is registered in the repository is taken; --lineage names another one",
                );
                progress::warn(&error);
            }
            None
        }
    }
}

/// Directories that belong to us and not to the cluster, wherever they lie.
pub fn foreign(context: &Context) -> Vec<PathBuf> {
    let config = &context.config;
    let repositories = config.repositories.iter().filter_map(|repository| match &repository.url {
        RepositoryUrl::File(path) => Some(path.clone()),
        RepositoryUrl::S3 { .. } => None,
    });
    repositories.chain([config.wal.spool.clone()]).collect()
}

/// Roles that the cluster may have, the likeliest first.
pub fn roles(context: &Context) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let name = |uid| nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let configured = connection(context).ok().map(|info| info.user);
    let owner = context.cluster.pgdata.metadata().ok().and_then(|meta| name(meta.uid().into()));
    let own = name(nix::unistd::geteuid());
    let mut users: Vec<String> = Vec::new();
    let known = [context.config.drill.user.clone(), configured, owner, Some("postgres".to_owned()), own];
    for user in known.into_iter().flatten() {
        if !users.contains(&user) {
            users.push(user);
        }
    }
    users
}
