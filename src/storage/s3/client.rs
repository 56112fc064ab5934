//! The client: one runtime, one pool of connections and one set of credentials for all threads,
//! created by the first request.
//!
//! The runtime has no thread of its own: a thread that waits for an answer drives it, also for the
//! other threads. The SDK neither retries nor sets timeouts. A request that failed because of the
//! clock, the credentials, the region or a redirect is corrected and sent again from here; all
//! other retries are left to [`Retry`](crate::storage::Retry).

use super::S3Options;
use super::credentials::{Keys, Signing, region_of_profile};
use super::failure::{RequestKind, S3Failure};
use super::http::{Http, Roots};
use crate::error::{Error, Kind, Result};
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    AppName, BehaviorVersion, ConfigBag, IdentityCache, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::{Client, Config};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Maximum number of redirects that one request follows.
const MAX_REDIRECTS: u32 = 3;

/// Everything that requests need, shared by all threads.
pub(super) struct Engine {
    /// `None` only while the engine is dropped.
    runtime: Option<Runtime>,
    keys: Arc<Keys>,
    /// Replaced when the bucket is found to be in another region.
    client: Mutex<Client>,
    /// Whether the endpoint is HTTPS, which no redirect may change.
    is_encrypted: bool,
}

impl Engine {
    /// Starts the runtime and reads certificates and settings. Sends no request to the store.
    pub(super) fn start(options: &S3Options) -> Result<Engine> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::io("start the S3 client", &e))?;
        let endpoint = endpoint(options);
        let is_encrypted = endpoint.as_deref().is_none_or(|endpoint| endpoint.starts_with("https://"));
        let (keys, client) = runtime.block_on(connect(options, endpoint))?;
        Ok(Engine { runtime: Some(runtime), keys, client: Mutex::new(client), is_encrypted })
    }

    /// Waits for a future; another thread may drive the runtime meanwhile.
    pub(super) fn wait<T, E: From<Error>>(
        &self,
        future: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, E> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => Err(Error::defect("the S3 client is used after its end").into()),
        }
    }

    /// Sends a request. When it fails because of the clock, the credentials, the region or a
    /// redirect, `attempt` is called again with a corrected client.
    pub(super) fn request<T>(
        &self,
        kind: RequestKind,
        attempt: impl AsyncFn(&Client) -> std::result::Result<T, S3Failure>,
    ) -> std::result::Result<T, S3Failure> {
        self.wait(async {
            let mut client = self.client();
            let (mut corrected_clock, mut renewed_keys, mut moved, mut redirects) = (false, false, false, 0);
            loop {
                let generation = self.keys.ready().await?;
                // Lets the runtime detect idle connections that the store has closed, before one of
                // them is reused.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                let failure = match attempt(&client).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                };
                if failure.is("RequestTimeTooSkewed") && !corrected_clock {
                    // The SDK takes the store's time from this answer, and uses it to date all
                    // further requests.
                    corrected_clock = true;
                } else if failure.is_expired() && !renewed_keys {
                    self.keys.refuse(generation);
                    renewed_keys = true;
                } else if let Some(region) = failure.right_region()
                    && !moved
                    && client.config().region().is_none_or(|known| known.as_ref() != region)
                {
                    client = self.move_to(region);
                    moved = true;
                } else if let Some(location) = failure.redirect()
                    && redirects < MAX_REDIRECTS
                {
                    if self.is_encrypted && !location.starts_with("https://") {
                        let message = format!("the store redirects to {location}, which is not encrypted");
                        return Err(Error::new(Kind::Refused, message).into());
                    }
                    let config = client.config().to_builder().interceptor(Redirected(location.to_owned()));
                    client = Client::from_conf(config.build());
                    redirects += 1;
                } else {
                    return Err(failure.with_permission_hint(kind));
                }
            }
        })
    }

    fn client(&self) -> Client {
        self.client.lock().clone()
    }

    fn move_to(&self, region: &str) -> Client {
        let mut client = self.client.lock();
        let config = client.config().to_builder().region(Region::new(region.to_owned()));
        *client = Client::from_conf(config.build());
        client.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A name server that does not answer must not delay the end of the program.
            runtime.shutdown_background();
        }
    }
}

/// Makes the client and its credentials. Opens no connection to the store.
async fn connect(options: &S3Options, endpoint: Option<String>) -> Result<(Arc<Keys>, Client)> {
    let http_of_aws = Http::new(roots(options));
    // `ca_file` applies to the store only: the other services of AWS have public certificates.
    let http =
        options.ca_file.clone().map_or_else(|| http_of_aws.clone(), |path| Http::new(Roots::File(path)));
    let region = region(options, endpoint.is_some(), &http_of_aws).await?;
    let keys = Arc::new(Keys::new(options, &region, &http_of_aws).await);
    let mut config = Config::builder();
    config.set_endpoint_url(endpoint);
    // Appears in the store's access log.
    config.set_app_name(AppName::new(concat!("walkeep-", env!("CARGO_PKG_VERSION"))).ok());
    let config = config
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(region)
        .force_path_style(options.path_style)
        .http_client(http)
        .credentials_provider(SharedCredentialsProvider::new(Signing(keys.clone())))
        .identity_cache(IdentityCache::no_cache())
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Ok((keys, Client::from_conf(config)))
}

/// Value of an environment variable, if it is set and not empty.
fn variable(options: &S3Options, name: &str) -> Option<String> {
    (options.variable)(name).filter(|value| !value.is_empty())
}

fn endpoint(options: &S3Options) -> Option<String> {
    let ignored = || {
        variable(options, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    };
    let of_environment =
        || variable(options, "AWS_ENDPOINT_URL_S3").or_else(|| variable(options, "AWS_ENDPOINT_URL"));
    options.endpoint.clone().or_else(|| if ignored() { None } else { of_environment() })
}

fn roots(options: &S3Options) -> Roots {
    let named = variable(options, "AWS_CA_BUNDLE").or_else(|| variable(options, "SSL_CERT_FILE"));
    named.map_or(Roots::System, |path| Roots::File(path.into()))
}

async fn region(options: &S3Options, has_endpoint: bool, http: &Http) -> Result<Region> {
    let of_environment =
        || variable(options, "AWS_REGION").or_else(|| variable(options, "AWS_DEFAULT_REGION"));
    if let Some(region) = options.region.clone().or_else(of_environment) {
        return Ok(Region::new(region));
    }
    match region_of_profile(options.profile.as_deref(), http).await {
        Some(region) => Ok(region),
        // Most stores that are not AWS accept this region.
        None if has_endpoint => Ok(Region::from_static("us-east-1")),
        None => Err(Error::new(Kind::Config, "the region of the bucket is unknown")
            .hint("set `region`, or `endpoint` for a store that is not AWS")),
    }
}

/// The interceptor that sends a request to the URL of a redirect, and signs it for that URL.
#[derive(Debug)]
struct Redirected(String);

impl Intercept for Redirected {
    fn name(&self) -> &'static str {
        "Redirected"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        context.request_mut().set_uri(self.0.as_str())?;
        Ok(())
    }
}
