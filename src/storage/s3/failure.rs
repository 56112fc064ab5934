//! Classification of the failures of an object store: transient failures, missing permissions,
//! failures that a corrected request avoids, and the message and hint of each. Does not know the
//! purpose of the requests.

use super::http::NoAnswer;
use crate::error::{Error, Kind, lowercase_first};
use crate::net::https::chain;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::fmt;
use tokio_rustls::rustls as tls;

/// A request that failed.
#[derive(Debug)]
pub(super) struct S3Failure {
    error: Error,
    /// HTTP status of the answer; 0 when there was none.
    pub(super) status: u16,
    /// Error code of S3, such as `NoSuchKey`; empty when the answer has none.
    pub(super) code: String,
    /// Region of the bucket, according to the answer.
    region: Option<String>,
    /// URL of a redirect.
    pub(super) location: Option<String>,
}

/// Kind of a request, which decides the permissions that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    Read,
    Write,
    List,
    Delete,
    Uploads,
}

/// Codes of a store that is busy.
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

/// Codes for a body, or an upload, that did not arrive as it was sent.
const GARBLED: [&str; 6] = [
    "BadDigest",
    "IncompleteBody",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "NoSuchUpload",
];

/// Codes for credentials that have expired.
const EXPIRED: [&str; 4] = ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"];

/// Codes for an unknown key or a wrong secret.
const UNKNOWN_KEY: [&str; 3] = ["InvalidAccessKeyId", "SignatureDoesNotMatch", "NotSignedUp"];

/// Codes for a quota or a disk that is full.
const FULL: [&str; 5] = [
    "QuotaExceeded",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "EntityTooLarge",
    "InsufficientStorage",
];

impl S3Failure {
    /// Converts an error of the SDK.
    pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> S3Failure
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let Some(answer) = error.raw_response() else {
            return no_answer(&error).into();
        };
        let status = answer.status().as_u16();
        let header = |name: &str| answer.headers().get(name).map(str::to_owned);
        // The answer to a GET is a stream, which has no bytes here.
        let body = answer.body().bytes().unwrap_or_default();
        let (code, message) = match error.as_service_error() {
            Some(service) => (service.code().unwrap_or_default(), service.message().unwrap_or_default()),
            None => ("", ""),
        };
        let region = header("x-amz-bucket-region").or_else(|| element(body, "Region"));
        let region = region.filter(|region| is_plain(region));
        let request = header("x-amz-request-id").filter(|_| status >= 500);
        let garbled = (code.is_empty() && status < 300).then(|| innermost(&error));
        S3Failure {
            error: Error::new(kind(status, code), describe(status, code, message, request, garbled)),
            status,
            code: code.to_owned(),
            region,
            location: header("location"),
        }
    }

    /// Failure of one object of a request that succeeded as a whole.
    pub(super) fn of_object(code: Option<&str>, message: Option<&str>, what: &str) -> S3Failure {
        let parts = [Some(what), code, message].into_iter().flatten();
        let text = parts.map(one_line).collect::<Vec<_>>().join(": ");
        let code = code.unwrap_or_default();
        S3Failure { code: code.to_owned(), ..Error::new(kind(0, code), text).into() }
    }

    /// Failure of a request that was not answered in time.
    pub(super) fn timeout(what: impl fmt::Display) -> S3Failure {
        Error::new(Kind::Timeout, what.to_string()).into()
    }

    /// Whether the answer has this error code.
    pub(super) fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// Whether the object does not exist. Only an S3 store gives this answer; a 404 of a proxy is
    /// another failure.
    pub(super) fn is_absent(&self) -> bool {
        self.status == 404 && self.is("NoSuchKey")
    }

    /// Whether a condition of the request was not met: the object exists, or has another ETag.
    pub(super) fn is_taken(&self) -> bool {
        self.status == 412
    }

    /// Whether the requested range begins after the end of the object.
    pub(super) fn is_beyond_end(&self) -> bool {
        self.status == 416
    }

    /// Whether the credentials have expired.
    pub(super) fn is_expired(&self) -> bool {
        EXPIRED.contains(&self.code.as_str())
    }

    /// Whether the store does not implement this kind of request.
    pub(super) fn is_unknown_request(&self) -> bool {
        self.status == 501 || self.status == 405 || self.is("NotImplemented")
    }

    /// Region of the bucket, when the request was signed for another region.
    pub(super) fn right_region(&self) -> Option<&str> {
        let is_wrong = matches!(self.status, 301 | 302 | 307 | 308 | 400 | 403);
        self.region.as_deref().filter(|_| is_wrong)
    }

    /// URL to which this request has to be sent instead.
    pub(super) fn redirect(&self) -> Option<&str> {
        let is_elsewhere = matches!(self.status, 301 | 302 | 307 | 308);
        self.location.as_deref().filter(|location| is_elsewhere && location.contains("://"))
    }

    /// Adds the hint for this failure, which may name the permission that `kind` requires.
    pub(super) fn with_permission_hint(mut self, kind: RequestKind) -> S3Failure {
        if let Some(hint) = self.hint(kind) {
            self.error = self.error.hint(hint);
        }
        self
    }

    fn hint(&self, kind: RequestKind) -> Option<String> {
        let code = self.code.as_str();
        if code == "RequestTimeTooSkewed" {
            return Some("the clocks of this machine and of the store differ by more than 15 minutes: set this machine's, with NTP".into());
        }
        if EXPIRED.contains(&code) {
            return Some(
                "the credentials of the session have expired and there are no newer ones: renew them".into(),
            );
        }
        if UNKNOWN_KEY.contains(&code) {
            return Some("is it the right key for this store, and its secret complete? `access_key_file`, `secret_key_file` and `profile` select the key; without them it is the one of the environment".into());
        }
        if code == "NoSuchBucket" {
            return Some("look at the url and at `endpoint`: walkeep does not create buckets".into());
        }
        if code == "InvalidObjectState" {
            return Some("the object is in an archive class such as GLACIER: restore it there first, and exempt the repository from the lifecycle rule that moved it".into());
        }
        if self.is_unknown_request() && kind == RequestKind::Write {
            return Some(
                "the store may not support conditional creates: set `conditional_create = false`".into(),
            );
        }
        match self.status {
            0 if code == "AccessDenied" => Some(kind.permission().into()),
            301 | 302 | 307 | 308 => Some(match (&self.region, &self.location) {
                (Some(region), _) => format!("the bucket is in {region}: set `region = \"{region}\"`"),
                (None, Some(location)) => format!("the store points to {location}: is `endpoint` right?"),
                (None, None) => "is `endpoint` right?".into(),
            }),
            400 => {
                let region = self.region.as_deref()?;
                Some(format!("the store is in the region {region}: set `region = \"{region}\"`"))
            }
            404 if code.is_empty() => Some(
                "this is not an answer of S3: is `endpoint` an S3 server, and does it need `path_style = true`?"
                    .into(),
            ),
            401 | 403 => Some(kind.permission().into()),
            _ => None,
        }
    }
}

impl RequestKind {
    /// Hint about the permission that the request requires.
    fn permission(self) -> &'static str {
        match self {
            RequestKind::Read => {
                "the key needs s3:GetObject, and s3:ListBucket too: without it the store gives the same answer for a missing object as for a forbidden one"
            }
            RequestKind::Write => {
                "the key needs s3:PutObject, and with `sse = \"aws:kms\"` kms:GenerateDataKey"
            }
            RequestKind::List => "the key needs s3:ListBucket on the bucket itself",
            RequestKind::Delete => {
                "the key needs s3:DeleteObject; an object lock or a retention rule of the bucket also refuses, until it expires"
            }
            RequestKind::Uploads => "the key needs s3:ListBucketMultipartUploads and s3:AbortMultipartUpload",
        }
    }
}

impl From<S3Failure> for Error {
    fn from(failure: S3Failure) -> Error {
        failure.error
    }
}

impl From<Error> for S3Failure {
    fn from(error: Error) -> S3Failure {
        S3Failure { error, status: 0, code: String::new(), region: None, location: None }
    }
}

/// Error for an answer that does not have the expected form.
pub(super) fn unexpected_answer(kind: Kind, what: &str) -> Error {
    Error::new(kind, format!("the store's answer {what}"))
}

/// Kind of the error in an answer.
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
            // An answer that cannot be parsed: it is cut off, or not from a store.
            200..300 => Kind::Unavailable,
            _ => Kind::Failed,
        },
    }
}

/// Formats the message of an answer with an error.
fn describe(
    status: u16,
    code: &str,
    message: &str,
    request: Option<String>,
    garbled: Option<String>,
) -> String {
    let mut text = format!("the store answers {status}");
    if !code.is_empty() {
        text += &format!(" {code}");
    }
    if !message.is_empty() {
        text += &format!(": {}", one_line(message));
    }
    if let Some(garbled) = garbled {
        text += &format!(", which cannot be parsed: {}", one_line(&garbled));
    }
    if let Some(request) = request {
        text += &format!(" (request {})", one_line(&request));
    }
    text
}

/// Converts text of a server to one line of limited length.
fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    let clean = text.trim_end_matches('.').chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MAX_CHARS).collect()
}

/// Error of a request whose connection failed or was lost.
fn no_answer<E>(error: &SdkError<E, HttpResponse>) -> Error
where
    E: std::error::Error + 'static,
{
    let below = || chain(error);
    // The cause may be an error of this program, such as certificates that cannot be read.
    if let Some(own) = below().find_map(|error| error.downcast_ref::<Error>()) {
        return own.clone();
    }
    let server = below().find_map(|error| error.downcast_ref::<NoAnswer>()).map(|lost| lost.server.clone());
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
        return error.hint("is `endpoint` right, and does the store need `path_style = true`?");
    }
    let io = below().filter_map(|error| error.downcast_ref::<std::io::Error>()).last();
    match error {
        SdkError::ConstructionFailure(_) => Error::new(Kind::Failed, message),
        SdkError::TimeoutError(_) => Error::new(Kind::Timeout, message),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Error::new(Kind::Timeout, message),
        SdkError::DispatchFailure(failure) if failure.is_user() => Error::new(Kind::Failed, message),
        _ => match io.map(|io| Error::io("connect", io).kind()) {
            Some(kind @ (Kind::Timeout | Kind::Denied | Kind::Full)) => Error::new(kind, message),
            // Any other loss of a connection is transient.
            _ => Error::new(Kind::Unavailable, message),
        },
    }
}

/// Text of the innermost cause.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let cause = chain(error).last().unwrap_or(error).to_string();
    lowercase_first(one_line(&cause))
}

/// Text of the first XML element of this name.
fn element(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once("</")?;
    Some(content.to_owned())
}

/// Whether `text` can be the name of a region.
fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..64).contains(&text.len()) && text.bytes().all(plain)
}
