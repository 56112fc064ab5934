//! Credentials: from key files, the environment, a profile, or the other sources that AWS defines
//! (web identity, containers, the instance's metadata), loaded when they are needed and again
//! before they expire.
//!
//! The sources behind [`KeySource::Chain`] are those of the AWS crates, which read the environment
//! and the files in `~/.aws` by themselves.

use super::failure::innermost;
use super::http::Http;
use super::{S3Options, Variable};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::named;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::imds;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::config::{Credentials, ProvideCredentials, Region};
use aws_smithy_async::time::{SystemTimeSource, TimeSource};
use parking_lot::Mutex;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Remaining lifetime of credentials below which they are renewed.
const RENEWAL_MARGIN: Duration = Duration::from_secs(60);

/// Minimum interval between renewals while the credentials are still valid.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// Time limit of all sources together.
const LOAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Time limit of one request to the instance's metadata, which most machines do not have.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of bytes that are read from a key file.
const MAX_KEY_SIZE: u64 = 4096;

const HINT: &str = "set `access_key_file` and `secret_key_file`, or a `profile`, or give the server that starts walkeep the AWS environment or role that it should use";

/// Source of the credentials.
enum KeySource {
    Files { access: PathBuf, secret: PathBuf },
    Environment(Variable),
    Chain(Box<dyn ProvideCredentials>),
}

/// The credentials in force.
pub(super) struct Keys {
    source: KeySource,
    /// Locked by the one request that renews the credentials.
    renewing: tokio::sync::Mutex<()>,
    held: Mutex<LoadedKeys>,
}

#[derive(Default)]
struct LoadedKeys {
    credentials: Option<Credentials>,
    loaded: Option<Instant>,
    /// Number of times that credentials were loaded, so that a request that failed with older
    /// credentials does not discard newer ones.
    generation: u64,
    /// Whether the store has refused the credentials of this generation as expired.
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
            (Some(access), Some(secret)) => {
                KeySource::Files { access: access.clone(), secret: secret.clone() }
            }
            _ if in_environment => KeySource::Environment(options.variable.clone()),
            _ => KeySource::Chain(chain(options.profile.as_deref(), region, http).await),
        };
        Keys { source, renewing: tokio::sync::Mutex::default(), held: Mutex::default() }
    }

    /// Loads or renews the credentials if necessary. Returns their generation.
    ///
    /// # Errors
    ///
    /// Those of the source, once the credentials in force have expired or were refused.
    pub(super) async fn ready(&self) -> Result<u64> {
        if let Some(generation) = self.fresh() {
            return Ok(generation);
        }
        let _alone = self.renewing.lock().await;
        if let Some(generation) = self.fresh() {
            return Ok(generation);
        }
        let loaded = self.load().await;
        let mut held = self.held.lock();
        held.loaded = Some(Instant::now());
        match loaded {
            Ok(credentials) => {
                held.credentials = Some(credentials);
                held.generation += 1;
                held.refused = false;
            }
            // The credentials in force are used until they expire.
            Err(error) if held.refused || held.left().is_none_or(|left| left.is_zero()) => return Err(error),
            Err(_) => {}
        }
        Ok(held.generation)
    }

    /// Marks the credentials of this generation as refused.
    pub(super) fn refuse(&self, generation: u64) {
        let mut held = self.held.lock();
        held.refused |= held.generation == generation;
    }

    /// Generation of the credentials; `None` when they have to be renewed.
    fn fresh(&self) -> Option<u64> {
        let held = self.held.lock();
        let left = held.left()?;
        let recent = held.loaded.is_some_and(|loaded| loaded.elapsed() < MIN_RENEWAL_INTERVAL);
        let holds = left > RENEWAL_MARGIN || recent && !left.is_zero();
        (holds && !held.refused).then_some(held.generation)
    }

    async fn load(&self) -> Result<Credentials> {
        let doing = "find credentials";
        match &self.source {
            KeySource::Files { access, secret } => {
                let access = read(access, false).doing(doing)?;
                let secret = read(secret, true).doing(doing)?;
                Ok(Credentials::new(access, secret, None, None, "key files"))
            }
            KeySource::Environment(variable) => from_environment(variable).ok_or_else(|| {
                Error::new(Kind::Config, "the environment has no credentials").doing(doing).hint(HINT)
            }),
            KeySource::Chain(chain) => match timeout(LOAD_TIMEOUT, chain.provide_credentials()).await {
                Ok(Ok(credentials)) => Ok(credentials),
                Ok(Err(error)) => Err(missing(&error).doing(doing)),
                Err(_) => {
                    Err(Error::new(Kind::Timeout, format!("no source answered within {LOAD_TIMEOUT:?}"))
                        .doing(doing)
                        .hint(HINT))
                }
            },
        }
    }
}

impl LoadedKeys {
    /// Time until the credentials expire: zero for expired ones, `None` when none are loaded.
    fn left(&self) -> Option<Duration> {
        let Some(expiry) = self.credentials.as_ref()?.expiry() else {
            return Some(Duration::MAX);
        };
        Some(expiry.duration_since(SystemTimeSource::new().now()).unwrap_or(Duration::ZERO))
    }
}

/// The credentials that [`Keys::ready`] has loaded, in the form that the SDK takes.
#[derive(Debug)]
pub(super) struct Signing(pub(super) Arc<Keys>);

impl ProvideCredentials for Signing {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        use aws_credential_types::provider::{error::CredentialsError, future};
        let credentials = self.0.held.lock().credentials.clone();
        future::ProvideCredentials::ready(credentials.ok_or_else(CredentialsError::not_loaded_no_source))
    }
}

fn from_environment(variable: &Variable) -> Option<Credentials> {
    let value = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
    let access = value("AWS_ACCESS_KEY_ID")?;
    let secret = value("AWS_SECRET_ACCESS_KEY")?;
    Some(Credentials::new(access, secret, value("AWS_SESSION_TOKEN"), None, "environment"))
}

/// Reads the one line of a key file. Errors contain no part of its content.
fn read(path: &Path, secret: bool) -> Result<String> {
    let doing = || format!("read {}", path.display());
    let opened = named::open_with_stat(path).and_then(|opened| opened.ok_or_else(|| named::missing(path)));
    let (file, stat) = opened.map_err(|error| {
        error.with_kind(Kind::Config).hint("the user that runs PostgreSQL must be able to read it")
    })?;
    let mode = stat.st_mode & 0o7777;
    if secret && mode & 0o007 != 0 {
        return Err(Error::new(
            Kind::Config,
            format!("the file contains a secret, and every user may open it (mode {mode:04o})"),
        )
        .doing(doing())
        .hint(format!("chmod 0640 {}, with the group of the user that runs PostgreSQL", path.display())));
    }
    let mut text = String::new();
    let read = file.take(MAX_KEY_SIZE).read_to_string(&mut text);
    read.doing(doing).map_err(|error| error.with_kind(Kind::Config))?;
    let key = text.trim();
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::new(Kind::Config, "the file must contain one key and nothing else").doing(doing()));
    }
    Ok(key.to_owned())
}

fn provider_config(region: Option<&Region>, http: &Http) -> ProviderConfig {
    ProviderConfig::without_region().with_region(region.cloned()).with_http_client(http.clone())
}

/// Returns the credential sources of the AWS crates: all of them, or only the given profile.
async fn chain(profile: Option<&str>, region: &Region, http: &Http) -> Box<dyn ProvideCredentials> {
    let config = provider_config(Some(region), http);
    if let Some(profile) = profile {
        let profile = ProfileFileCredentialsProvider::builder().profile_name(profile).configure(&config);
        return Box::new(profile.build());
    }
    let metadata = imds::Client::builder()
        .configure(&config)
        .connect_timeout(METADATA_TIMEOUT)
        .read_timeout(METADATA_TIMEOUT)
        .operation_timeout(3 * METADATA_TIMEOUT)
        .build();
    let chain = DefaultCredentialsChain::builder().region(region.clone()).imds_client(metadata);
    Box::new(chain.configure(config).build().await)
}

/// Region of a profile in `~/.aws`.
pub(super) async fn region_of_profile(profile: Option<&str>, http: &Http) -> Option<Region> {
    use aws_config::meta::region::ProvideRegion;
    let mut files = ProfileFileRegionProvider::builder().configure(&provider_config(None, http));
    if let Some(profile) = profile {
        files = files.profile_name(profile);
    }
    files.build().region().await
}

/// Converts the error of sources that returned no credentials.
fn missing(error: &aws_credential_types::provider::error::CredentialsError) -> Error {
    use aws_credential_types::provider::error::CredentialsError;
    let cause = innermost(error);
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            // The list of the results of all sources is long and adds nothing.
            let cause = cause.split_once(". Attempted").map_or(&*cause, |(cause, _)| cause);
            Error::new(Kind::Config, format!("no credentials found: {cause}")).hint(HINT)
        }
        CredentialsError::ProviderTimedOut(_) => Error::new(Kind::Timeout, cause).hint(HINT),
        CredentialsError::InvalidConfiguration(_) => Error::new(Kind::Config, cause).hint(HINT),
        // The failure of a service that provides credentials, which may be transient.
        _ => Error::new(Kind::Unavailable, cause).hint(HINT),
    }
}
