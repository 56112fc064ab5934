//! Configuration and command line turned into the values that operations take.

pub use super::account::absolute;
use super::output::{self, Console};
use super::render::Report;
use super::{account, args};
use crate::codec::hash::block_hash;
use crate::config::{self, ClusterConfig, Config, RepositoryUrl};
use crate::error::{Doing, Error, Failures, Kind, Result};
use crate::observe;
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::progress;
use crate::repo::branches::ServerTimeline;
use crate::repo::{Archive, Lineage, RemoteHints, Repository};
use crate::storage::{Claims, Directory, Retry, RetryPolicy, S3, S3Options, Storage, Traced, Variable};
use jiff::SignedDuration;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Configuration, cluster, repositories and console of one run of a verb.
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

    /// Returns a context for the cluster that is named, or for each configured one.
    pub fn all(global: &args::GlobalArgs) -> Result<Vec<Context>> {
        let config = load(global.config.clone())?;
        let clusters = match global.cluster.as_deref() {
            Some(name) => vec![config.cluster(Some(name), Path::new(""))?.clone()],
            None => config.clusters.clone(),
        };
        clusters.into_iter().map(|cluster| Context::build(config.clone(), cluster, global)).collect()
    }

    /// Prints the result of a verb on standard output, as JSON with `--json`.
    pub fn print(&self, report: &impl Report) -> Result<()> {
        output::print(self.json, report)
    }

    fn build(config: Config, cluster: ClusterConfig, global: &args::GlobalArgs) -> Result<Context> {
        let repositories = stores(&config, &cluster, verb_policy(), None)?;
        let console = Console::install(&global.standard_error(), Some(&config.log));
        Ok(Context { config, cluster, repositories, console, json: global.json })
    }
}

/// Attempts at an object that cannot be read while the store answers other requests: about five
/// seconds.
const MAX_ATTEMPTS_AT_OBJECT: u32 = 7;

/// Retries of a verb. They last about a minute: a shorter outage must not end a backup of hours.
fn verb_policy() -> RetryPolicy {
    RetryPolicy { max_attempts_after_answer: 12, ..RetryPolicy::default() }
}

/// Returns the selected repositories for a verb that reads all objects: one that fails alone, while
/// the store answers other requests, is given up after a few seconds.
pub fn selected_for_reading(context: &Context, selection: &args::SelectionArgs) -> Result<Vec<Repository>> {
    let names: Vec<String> =
        selected(context, selection)?.iter().map(|repository| repository.name().to_owned()).collect();
    let mut repositories =
        stores(&context.config, &context.cluster, verb_policy(), Some(MAX_ATTEMPTS_AT_OBJECT))?;
    repositories.retain(|repository| names.iter().any(|name| name == repository.name()));
    Ok(repositories)
}

/// Reads the configuration; `option` is the value of `--config`.
pub fn load(option: Option<PathBuf>) -> Result<Config> {
    load_for(option, std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

/// Reads the configuration for a helper, which needs no number of threads: counting the CPUs would
/// take longer than reading the file.
pub fn load_for_helper(option: Option<PathBuf>) -> Result<Config> {
    load_for(option, NonZeroUsize::MIN)
}

fn load_for(option: Option<PathBuf>, cpus: NonZeroUsize) -> Result<Config> {
    let path = config::locate(option, std::env::var_os("WALKEEP_CONFIG"));
    let mut config = Config::load(&path, cpus)?;
    if account::is_root() {
        account::check(&config)?;
        config.log.owner = account::owner(&config)?.map(|owner| (owner.user, owner.group));
    }
    Ok(config)
}

pub fn working_directory() -> Result<PathBuf> {
    std::env::current_dir().map_err(|e| Error::io("read the working directory", &e))
}

/// Returns the repositories of a cluster for a helper, in the order of the configuration. They
/// retry less than those of a verb: PostgreSQL repeats the call itself, and the error has to be
/// reported before the time limit.
pub fn repositories(config: &Config, cluster: &ClusterConfig) -> Result<Vec<Repository>> {
    stores(config, cluster, RetryPolicy::default(), None)
}

/// Returns the repositories of a cluster; `at_object` as in [`Retry::at_object`].
fn stores(
    config: &Config,
    cluster: &ClusterConfig,
    policy: RetryPolicy,
    at_object: Option<u32>,
) -> Result<Vec<Repository>> {
    let owner = if account::is_root() { account::owner_of(&cluster.pgdata)? } else { None };
    let owner = owner.map(|owner| (owner.user, owner.group));
    config
        .repositories
        .iter()
        .map(|repository| {
            let store = store(repository, owner, policy, at_object)?;
            let built = Repository::new(&repository.name, &cluster.name, repository.required, store);
            Ok(match &repository.bucket {
                None => built,
                Some(bucket) => built.with_hints(hints(repository, bucket, &config.wal.spool, owner)),
            })
        })
        .collect()
}

/// Returns the hints about a bucket, which are kept in the spool. Their name has a hash of URL and
/// endpoint, so another bucket under this name of a repository has hints of its own.
fn hints(
    repository: &config::RepositoryConfig,
    bucket: &config::BucketConfig,
    spool: &Path,
    owner: Option<(u32, u32)>,
) -> RemoteHints {
    // Without an endpoint the store is AWS.
    let endpoint = bucket.options.endpoint.as_deref().unwrap_or("");
    let hash = block_hash(format!("{} {endpoint}", repository.url).as_bytes());
    let place = hex::encode(hash);
    RemoteHints::new(
        Arc::new(Directory::new(spool).with_new_owner(owner)),
        format!("{}-{place}", repository.name),
        jiff::Timestamp::now(),
    )
}

/// Returns the store of a repository. Nothing is read or connected yet. `owner` gets directories that
/// root creates.
fn store(
    repository: &config::RepositoryConfig,
    owner: Option<(u32, u32)>,
    policy: RetryPolicy,
    at_object: Option<u32>,
) -> Result<Arc<dyn Storage>> {
    let bucket = match (&repository.url, &repository.bucket) {
        (RepositoryUrl::File(path), _) => {
            return Ok(Arc::new(Traced::new(Directory::new(path).with_new_owner(owner))));
        }
        (RepositoryUrl::S3 { .. }, Some(bucket)) => bucket,
        (RepositoryUrl::S3 { .. }, None) => {
            let message = format!("repository {} has no settings of a bucket", repository.name);
            return Err(Error::defect(message));
        }
    };
    let variable: Variable = Arc::new(|name| std::env::var(name).ok());
    let s3 = Traced::new(S3::new(S3Options { variable, ..bucket.options.clone() }));
    if bucket.conditional_create {
        Ok(Arc::new(Retry::new(s3, policy).at_object(at_object)))
    } else {
        Ok(Arc::new(Retry::new(Claims::new(s3), policy).at_object(at_object)))
    }
}

/// Returns the connection to the server of the cluster.
pub fn connection(context: &Context) -> Result<ConnInfo> {
    // An empty connection string stands for the defaults of libpq.
    let text = context.cluster.connection.as_deref().unwrap_or("");
    connection_info(context, "connection", text)
}

/// Returns the connection to the primary, if that is another server.
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

/// Returns `N` random bytes.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut random = [0; N];
    crate::runtime::random(&mut random)?;
    Ok(random)
}

/// Returns `N` random bytes as hexadecimal digits.
pub fn random_hex<const N: usize>() -> Result<String> {
    Ok(hex::encode(random::<N>()?))
}

/// Age after which a file that a crashed writer left behind is removed.
const GARBAGE_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Returns the time before which an unfinished file counts as garbage of a crashed writer.
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

/// Reports a repository that could not be used. An optional one that was not selected by name is only
/// a warning; the others are failures.
pub fn away(selection: &args::SelectionArgs, repository: &Repository, error: Error, failures: &mut Failures) {
    if is_dispensable(selection, repository) {
        progress::warn(&error.doing(format!("optional repository {}", repository.name())));
    } else {
        failures.push(error);
    }
}

/// Whether a verb may do without a repository: an optional one that was not selected by name.
pub fn is_dispensable(selection: &args::SelectionArgs, repository: &Repository) -> bool {
    !repository.is_required() && selection.repository.is_none()
}

/// Opens the cluster's part of a repository: the selected lineage, else the lineage of the data
/// directory if that still exists, else the newest lineage that is registered.
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

/// Returns the lineage of the data directory if it exists. An unreadable one is only a warning: it
/// must not prevent a restore.
pub fn own_lineage(context: &Context) -> Option<Lineage> {
    match Lineage::of(&context.cluster.pgdata) {
        Ok(lineage) => Some(lineage),
        Err(error) => {
            if error.kind() != Kind::Absent {
                let error = error.doing("read the lineage of the cluster").hint(
                    "the newest lineage that is registered in the repository is used; --lineage selects another one",
                );
                progress::warn(&error);
            }
            None
        }
    }
}

/// Maximum time to wait for the server, which decides which timeline is alive.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);

/// Returns the timeline of the cluster's server: from its data directory, or by the configured
/// connection when the data directory does not show a server. Unknown when neither exists, or an
/// archive of another lineage was selected.
pub fn server_timeline(context: &Context, archive: &Archive) -> ServerTimeline {
    let info = context.cluster.connection.as_ref().map(|_| connection(context));
    observe::server_timeline(info, &context.cluster.pgdata, archive.lineage(), SERVER_TIMEOUT)
}

/// Returns the directories of walkeep itself, which are not part of the cluster wherever they lie.
pub fn foreign(context: &Context) -> Vec<PathBuf> {
    let config = &context.config;
    let repositories = config.repositories.iter().filter_map(|repository| match &repository.url {
        RepositoryUrl::File(path) => Some(path.clone()),
        RepositoryUrl::S3 { .. } => None,
    });
    repositories.chain([config.wal.spool.clone()]).collect()
}

/// Returns the roles that the cluster may have, the likeliest first.
pub fn roles(context: &Context) -> Vec<String> {
    let configured = connection(context).ok().map(|info| info.user);
    likely_roles(&context.config, &context.cluster, configured)
}

/// Returns the roles that a cluster may have, the likeliest first; `configured` is the one of its
/// connection.
pub fn likely_roles(config: &Config, cluster: &ClusterConfig, configured: Option<String>) -> Vec<String> {
    let name = |uid| nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let owner = account::owner_of(&cluster.pgdata).ok().flatten();
    let owner = owner.and_then(|owner| name(owner.user.into()));
    let own = name(nix::unistd::geteuid());
    let mut users: Vec<String> = Vec::new();
    let known = [config.drill.user.clone(), configured, owner, Some("postgres".to_owned()), own];
    for user in known.into_iter().flatten() {
        if !users.contains(&user) {
            users.push(user);
        }
    }
    users
}

/// Makes a command of root, whose program the configuration names, run as the user that may change
/// one of the two.
///
/// # Errors
///
/// Those of [`account::of_program`].
pub fn run_as_writer(command: &mut Command, config: &Path, program: &Path) -> Result<()> {
    use std::os::unix::process::CommandExt;
    if let Some(user) = account::of_program(config, program)? {
        command.uid(user.user).gid(user.group);
    }
    Ok(())
}

/// Makes a command of root run as the owner of a directory, as PostgreSQL's programs have to.
pub fn run_as_owner(command: &mut Command, directory: &Path) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let owner = account::owner_of(directory)?;
    if let Some(owner) = owner.filter(|owner| account::is_root() && owner.user != 0) {
        command.uid(owner.user).gid(owner.group);
    }
    Ok(())
}
