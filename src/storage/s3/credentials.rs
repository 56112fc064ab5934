//! Who signs the requests: key files, the environment, a profile, or whatever else AWS knows (web identity,
//! containers, the instance's metadata), asked when they are needed and again before they expire.
//!
//! The sources behind [`Source::Chain`] are those of the AWS crates, which read the environment and the files in
//! `~/.aws` by themselves.

use super::failure::innermost;
use super::http::Http;
use super::{S3Options, Variable};
use crate::error::{Doing, Error, Kind, Result};
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::imds;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::config::{Credentials, ProvideCredentials, Region};
use aws_smithy_async::time::{SystemTimeSource, TimeSource};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Credentials are renewed when they have this long to live.
const MARGIN: Duration = Duration::from_secs(60);

/// A source is not asked more often than this while what it gave still holds.
const PAUSE: Duration = Duration::from_secs(10);

/// For all sources together.
const LOAD: Duration = Duration::from_secs(15);

/// An instance without metadata must not hold up the answer that there are no credentials.
const METADATA: Duration = Duration::from_secs(1);

/// No key is longer.
const LONGEST_KEY: u64 = 4096;

const HINT: &str = "name `access_key_file` and `secret_key_file`, or a `profile`, or give the server that starts walkeep the AWS environment or role that it should use";

/// Where credentials come from.
enum Source {
    Files { access: PathBuf, secret: PathBuf },
    Environment(Variable),
    Chain(Box<dyn ProvideCredentials>),
}

/// The credentials in force.
pub(super) struct Keys {
    source: Source,
    /// Held by the one request that renews them.
    renewing: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    credentials: Option<Credentials>,
    loaded: Option<Instant>,
    /// Counts what was loaded, so that a request which failed with older ones does not throw newer ones away.
    generation: u64,
    refused: bool,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    pub(super) async fn new(options: &S3Options, region: &Region, http: &Http) -> Keys {
        let in_environment = options.profile.is_none() && from_environment(&options.variable).is_some();
        let source = match (&options.access_key_file, &options.secret_key_file) {
            (Some(access), Some(secret)) => Source::Files { access: access.clone(), secret: secret.clone() },
            _ if in_environment => Source::Environment(options.variable.clone()),
            _ => Source::Chain(chain(options.profile.as_deref(), region, http).await),
        };
        Keys { source, renewing: tokio::sync::Mutex::default(), held: Mutex::default() }
    }

    /// Sees to it that there are credentials that hold for a while. Says which ones.
    pub(super) async fn ready(&self) -> Result<u64> {
        if let Some(generation) = self.fresh() {
            return Ok(generation);
        }
        let _alone = self.renewing.lock().await;
        if let Some(generation) = self.fresh() {
            return Ok(generation);
        }
        let loaded = self.load().await;
        let mut held = self.held();
        held.loaded = Some(Instant::now());
        match loaded {
            Ok(credentials) => {
                held.credentials = Some(credentials);
                held.generation += 1;
                held.refused = false;
            }
            // What is there may do for as long as it lasts.
            Err(error) if held.refused || held.left().is_none_or(|left| left.is_zero()) => return Err(error),
            Err(_) => {}
        }
        Ok(held.generation)
    }

    /// The store refused these as expired.
    pub(super) fn refused(&self, generation: u64) {
        let mut held = self.held();
        held.refused |= held.generation == generation;
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn fresh(&self) -> Option<u64> {
        let held = self.held();
        let left = held.left()?;
        let recent = held.loaded.is_some_and(|loaded| loaded.elapsed() < PAUSE);
        let holds = left > MARGIN || recent && !left.is_zero();
        (holds && !held.refused).then_some(held.generation)
    }

    async fn load(&self) -> Result<Credentials> {
        let doing = || "find credentials".to_owned();
        match &self.source {
            Source::Files { access, secret } => {
                let access = read(access, false).doing(doing)?;
                let secret = read(secret, true).doing(doing)?;
                Ok(Credentials::new(access, secret, None, None, "key files"))
            }
            Source::Environment(variable) => from_environment(variable).ok_or_else(|| {
                Error::new(Kind::Config, "the environment has none").doing(doing()).hint(HINT)
            }),
            Source::Chain(chain) => match timeout(LOAD, chain.provide_credentials()).await {
                Ok(Ok(credentials)) => Ok(credentials),
                Ok(Err(error)) => Err(missing(&error).doing(doing())),
                Err(_) => {
                    Err(Error::new(Kind::Timeout, format!("no source of them answers within {LOAD:?}"))
                        .doing(doing())
                        .hint(HINT))
                }
            },
        }
    }
}

impl Held {
    /// How long the credentials hold; `None` when there are none.
    fn left(&self) -> Option<Duration> {
        const EVER: Duration = Duration::MAX;
        let credentials = self.credentials.as_ref()?;
        let Some(expiry) = credentials.expiry() else {
            return Some(EVER);
        };
        Some(expiry.duration_since(SystemTimeSource::new().now()).unwrap_or_default())
    }
}

/// For the SDK: what [`Keys::ready`] has seen to.
#[derive(Debug)]
pub(super) struct Signing(pub(super) Arc<Keys>);

impl ProvideCredentials for Signing {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        use aws_credential_types::provider::{error::CredentialsError, future};
        let credentials = self.0.held().credentials.clone();
        future::ProvideCredentials::ready(credentials.ok_or_else(CredentialsError::not_loaded_no_source))
    }
}

fn from_environment(variable: &Variable) -> Option<Credentials> {
    let value = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
    let access = value("AWS_ACCESS_KEY_ID")?;
    let secret = value("AWS_SECRET_ACCESS_KEY")?;
    Some(Credentials::new(access, secret, value("AWS_SESSION_TOKEN"), None, "environment"))
}

/// The one line that a key file holds. Errors repeat nothing of it.
fn read(path: &Path, secret: bool) -> Result<String> {
    let doing = || format!("read {}", path.display());
    let file = std::fs::File::open(path).doing(doing).map_err(|error| {
        error.with_kind(Kind::Config).hint("the user that PostgreSQL runs as must be able to read it")
    })?;
    let mode = file.metadata().doing(doing)?.mode() & 0o7777;
    if secret && mode & 0o007 != 0 {
        return Err(Error::new(
            Kind::Config,
            format!("it holds a secret, and every user may open it (mode {mode:04o})"),
        )
        .doing(doing())
        .hint(format!("chmod 0640 {}, with the group that PostgreSQL runs in", path.display())));
    }
    let mut text = String::new();
    let read = file.take(LONGEST_KEY).read_to_string(&mut text);
    read.doing(doing).map_err(|error| error.with_kind(Kind::Config))?;
    let key = text.trim();
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::new(Kind::Config, "it has to hold one key and nothing else").doing(doing()));
    }
    Ok(key.to_owned())
}

fn provider_config(region: Option<&Region>, http: &Http) -> ProviderConfig {
    ProviderConfig::without_region().with_region(region.cloned()).with_http_client(http.clone())
}

async fn chain(profile: Option<&str>, region: &Region, http: &Http) -> Box<dyn ProvideCredentials> {
    let config = provider_config(Some(region), http);
    if let Some(profile) = profile {
        let profile = ProfileFileCredentialsProvider::builder().profile_name(profile).configure(&config);
        return Box::new(profile.build());
    }
    let metadata = imds::Client::builder()
        .configure(&config)
        .connect_timeout(METADATA)
        .read_timeout(METADATA)
        .operation_timeout(3 * METADATA)
        .build();
    let chain = DefaultCredentialsChain::builder().region(region.clone()).imds_client(metadata);
    Box::new(chain.configure(config).build().await)
}

/// The region of a profile in `~/.aws`.
pub(super) async fn region_of_profile(profile: Option<&str>, http: &Http) -> Option<Region> {
    use aws_config::meta::region::ProvideRegion;
    let mut files = ProfileFileRegionProvider::builder().configure(&provider_config(None, http));
    if let Some(profile) = profile {
        files = files.profile_name(profile);
    }
    files.build().region().await
}

fn missing(error: &aws_credential_types::provider::error::CredentialsError) -> Error {
    use aws_credential_types::provider::error::CredentialsError;
    let cause = innermost(error);
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            // What each source of the chain said fills lines, and says that there is none.
            let cause = cause.split(". Attempted").next().unwrap_or_default();
            Error::new(Kind::Config, format!("there are none: {cause}")).hint(HINT)
        }
        CredentialsError::ProviderTimedOut(_) => Error::new(Kind::Timeout, cause).hint(HINT),
        CredentialsError::InvalidConfiguration(_) => Error::new(Kind::Config, cause).hint(HINT),
        // A service that gives them, which may be back in a moment.
        _ => Error::new(Kind::Unavailable, cause).hint(HINT),
    }
}
