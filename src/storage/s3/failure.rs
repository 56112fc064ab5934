//! What an object store's answers mean: which failures pass, which are permissions, which can be cured by one
//! more request, and how each is told.

use super::http::Lost;
use crate::error::{Error, Kind};
use crate::net::https::chain;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::fmt;
use tokio_rustls::rustls as tls;

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    error: Error,
    /// Of an answer; 0 when there was none.
    pub(super) status: u16,
    /// As S3 calls it: `NoSuchKey`. Empty when the answer names none.
    pub(super) code: String,
    /// Where the store says that the bucket is.
    region: Option<String>,
    /// Where the store says that the request should go.
    pub(super) location: Option<String>,
}

/// What was asked for, to name the permission that may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Read,
    Write,
    List,
    Delete,
    Uploads,
}

/// Codes that say: not now.
const BUSY: [&str; 13] = [
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "ServiceUnavailable",
    "InternalError",
    "InternalFailure",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "OperationAborted",
    "ConditionalRequestConflict",
    "Busy",
];

/// Codes that say that a body did not arrive as it was sent: another attempt may fare better.
const GARBLED: [&str; 6] = [
    "BadDigest",
    "IncompleteBody",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "NoSuchUpload",
];

/// Codes that say that the session's credentials are over.
const EXPIRED: [&str; 4] = ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"];

/// Codes of whoever cannot sign.
const UNKNOWN_KEY: [&str; 3] = ["InvalidAccessKeyId", "SignatureDoesNotMatch", "NotSignedUp"];

const FULL: [&str; 5] = [
    "QuotaExceeded",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "EntityTooLarge",
    "InsufficientStorage",
];

impl Failure {
    pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> Failure
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let Some(answer) = error.raw_response() else {
            return no_answer(&error).into();
        };
        let status = answer.status().as_u16();
        let header = |name: &str| answer.headers().get(name).map(str::to_owned);
        let body = answer.body().bytes().unwrap_or_default();
        let (code, message) = match error.as_service_error() {
            Some(service) => (service.code().unwrap_or_default(), service.message().unwrap_or_default()),
            None => ("", ""),
        };
        let region = header("x-amz-bucket-region").or_else(|| element(body, "Region"));
        let region = region.filter(|region| is_plain(region));
        let request = header("x-amz-request-id").filter(|_| status >= 500);
        let garbled = (code.is_empty() && status < 300).then(|| innermost(&error));
        Failure {
            error: Error::new(kind(status, code), told(status, code, message, request, garbled)),
            status,
            code: code.to_owned(),
            region,
            location: header("location"),
        }
    }

    /// One of many in an answer that is none itself.
    pub(super) fn of_one(code: &str, message: &str, story: &str) -> Failure {
        let told = format!("{story}: {code}: {}", one_line(message));
        Failure { code: code.to_owned(), ..Error::new(kind(0, code), told).into() }
    }

    /// No answer came in time.
    pub(super) fn late(what: impl fmt::Display) -> Failure {
        Error::new(Kind::Timeout, what.to_string()).into()
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// There is no such object, and the store knows what it is talking about.
    pub(super) fn is_absent(&self) -> bool {
        self.status == 404 && self.is("NoSuchKey")
    }

    /// An object was there already.
    pub(super) fn is_taken(&self) -> bool {
        self.status == 412
    }

    /// The object is not as long as the range that was asked for.
    pub(super) fn is_beyond_end(&self) -> bool {
        self.status == 416
    }

    pub(super) fn is_expired(&self) -> bool {
        EXPIRED.contains(&self.code.as_str())
    }

    /// The store does not know this kind of request.
    pub(super) fn is_unknown_request(&self) -> bool {
        self.status == 501 || self.status == 405 || self.is("NotImplemented")
    }

    /// Where the bucket is, when the request was signed for somewhere else.
    pub(super) fn right_region(&self) -> Option<&str> {
        let is_wrong = matches!(self.status, 301 | 302 | 307 | 308 | 400 | 403);
        self.region.as_deref().filter(|_| is_wrong)
    }

    /// Where this one request has to be sent again.
    pub(super) fn redirect(&self) -> Option<&str> {
        let is_elsewhere = matches!(self.status, 301 | 302 | 307 | 308);
        self.location.as_deref().filter(|location| is_elsewhere && location.contains("://"))
    }

    /// Adds what helps for what was wished.
    pub(super) fn wished(mut self, wish: Wish) -> Failure {
        if let Some(hint) = self.hint(wish) {
            self.error = self.error.hint(hint);
        }
        self
    }

    fn hint(&self, wish: Wish) -> Option<String> {
        let code = self.code.as_str();
        if code == "RequestTimeTooSkewed" {
            return Some("the clocks of this machine and of the store differ by more than 15 minutes: set this machine's, with NTP".into());
        }
        if EXPIRED.contains(&code) {
            return Some("the session's credentials are over and there are no newer ones: renew them".into());
        }
        if UNKNOWN_KEY.contains(&code) {
            return Some("is it the right key for this store, and its secret whole? `access_key_file`, `secret_key_file` and `profile` say which one is taken, else it is the one of the environment".into());
        }
        if code == "NoSuchBucket" {
            return Some("look at the url and at `endpoint`: walkeep makes no buckets".into());
        }
        if code == "InvalidObjectState" {
            return Some("it lies in an archive class such as GLACIER: restore it there first, and exempt the repository from the rule that moved it".into());
        }
        if self.is_unknown_request() && wish == Wish::Write {
            return Some("the store may know no conditional create: set `conditional_create = false`".into());
        }
        match self.status {
            0 if code == "AccessDenied" => Some(wish.permission().into()),
            301 | 302 | 307 | 308 => Some(match (&self.region, &self.location) {
                (Some(region), _) => format!("the bucket is in {region}: set `region = \"{region}\"`"),
                (None, Some(location)) => format!("the store points to {location}: is `endpoint` right?"),
                (None, None) => "is `endpoint` right?".into(),
            }),
            400 if self.region.is_some() => {
                let region = self.region.as_deref().unwrap_or_default();
                Some(format!("the store is in the region {region}: set `region = \"{region}\"`"))
            }
            404 if code.is_empty() => Some(
                "that is no S3 answer: is `endpoint` an S3 server, and does it want `path_style = true`?"
                    .into(),
            ),
            401 | 403 => Some(wish.permission().into()),
            _ => None,
        }
    }
}

impl Wish {
    fn permission(self) -> &'static str {
        match self {
            Wish::Read => {
                "the key needs s3:GetObject, and s3:ListBucket too: without that one the store answers for a missing object as for a forbidden one"
            }
            Wish::Write => "the key needs s3:PutObject, and with `sse = \"aws:kms\"` kms:GenerateDataKey",
            Wish::List => "the key needs s3:ListBucket on the bucket itself",
            Wish::Delete => {
                "the key needs s3:DeleteObject; an object lock or a retention rule of the bucket refuses too, until its time is over"
            }
            Wish::Uploads => "the key needs s3:ListBucketMultipartUploads and s3:AbortMultipartUpload",
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, status: 0, code: String::new(), region: None, location: None }
    }
}

/// What sort of failure an answer is.
fn kind(status: u16, code: &str) -> Kind {
    match code {
        "NoSuchBucket" => Kind::Identity,
        "RequestTimeTooSkewed" | "InvalidObjectState" => Kind::Failed,
        code if BUSY.contains(&code) || GARBLED.contains(&code) => Kind::Unavailable,
        "AccessDenied" => Kind::Denied,
        code if EXPIRED.contains(&code) || UNKNOWN_KEY.contains(&code) => Kind::Denied,
        code if FULL.contains(&code) => Kind::Full,
        _ => match status {
            401 | 403 => Kind::Denied,
            408 | 429 | 500 | 502 | 503 | 504 => Kind::Unavailable,
            507 => Kind::Full,
            501 => Kind::Refused,
            // An answer that was not understood: cut off, or not from a store.
            200..300 => Kind::Unavailable,
            _ => Kind::Failed,
        },
    }
}

fn told(status: u16, code: &str, message: &str, request: Option<String>, garbled: Option<String>) -> String {
    let mut text = format!("the store answers {status}");
    if !code.is_empty() {
        text += &format!(" {code}");
    }
    if !message.is_empty() {
        text += &format!(": {}", one_line(message));
    }
    if let Some(garbled) = garbled {
        text += &format!(", which cannot be understood: {}", one_line(&garbled));
    }
    if let Some(request) = request {
        text += &format!(" (request {})", one_line(&request));
    }
    text
}

/// Text from outside, so that it cannot break out of its line or fill the log.
fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let clean = text.trim_end_matches('.').chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MOST).collect()
}

/// A connection that was not made or was lost.
fn no_answer<E>(error: &SdkError<E, HttpResponse>) -> Error
where
    E: std::error::Error + 'static,
{
    // An error of ours, met on the way: certificates that cannot be read.
    let below = || chain(error);
    if let Some(own) = below().find_map(|error| error.downcast_ref::<Error>()) {
        let told = Error::new(own.kind(), own.to_string());
        return match own.advice() {
            Some(advice) => told.hint(advice),
            None => told,
        };
    }
    let server = below().find_map(|error| error.downcast_ref::<Lost>()).map(|lost| lost.server.clone());
    let cause = innermost(error);
    let message = match server {
        Some(server) => format!("{server}: {cause}"),
        None => cause,
    };
    match below().find_map(|error| error.downcast_ref::<tls::Error>()) {
        Some(tls::Error::InvalidCertificate(_)) => {
            return Error::new(Kind::Identity, message).hint("`ca_file` names the certificates to trust instead of the system's; `endpoint` has to be a name of the server's certificate");
        }
        Some(_) => {
            let error = Error::new(Kind::Failed, message);
            return error.hint("look at `endpoint`: is it https://, at that port?");
        }
        None => {}
    }
    if message.contains("lookup address") {
        let error = Error::new(Kind::Unavailable, message);
        return error.hint("is `endpoint` right, and does the store want `path_style = true`?");
    }
    let io = below().filter_map(|error| error.downcast_ref::<std::io::Error>()).last();
    match error {
        SdkError::ConstructionFailure(_) => Error::new(Kind::Failed, message),
        SdkError::TimeoutError(_) => Error::new(Kind::Timeout, message),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Error::new(Kind::Timeout, message),
        SdkError::DispatchFailure(failure) if failure.is_user() => Error::new(Kind::Failed, message),
        _ => match io.map(|io| Error::io("connect", io).kind()) {
            Some(kind @ (Kind::Timeout | Kind::Denied | Kind::Full)) => Error::new(kind, message),
            // Whatever else was lost on the way may arrive the next time.
            _ => Error::new(Kind::Unavailable, message),
        },
    }
}

/// What it comes down to.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let cause = chain(error).last().map(ToString::to_string).unwrap_or_default();
    let mut cause = one_line(&cause);
    // The operating system's texts start with a capital; ours are part of a line.
    if let Some(first) = cause.get_mut(0..1) {
        first.make_ascii_lowercase();
    }
    cause
}

/// The text of the first XML element of this name.
fn element(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once("</")?;
    Some(content.to_owned())
}

/// Whether it can be the name of a region.
fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..64).contains(&text.len()) && text.bytes().all(plain)
}
