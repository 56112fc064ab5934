//! A notice as one POST. Redirects are not followed and answers are not read: a status of 200 to 299 says that it was
//! taken.

use super::Notice;
use crate::error::{Error, Kind, Result};
use crate::net::https::{self, Roots};
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// What the other side understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// [`Notice::json`].
    Json,
    /// A message in the way of Slack, which others understand too.
    Slack,
}

impl Format {
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Slack => "slack",
        }
    }
}

/// An address that takes notices. Whoever knows it can send there, so it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    url: Uri,
    pub format: Format,
    /// Certificates to trust instead of those of the system.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("host", &self.host())
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Webhook {
    /// Reads `https://host/path` or `http://host/path`; the error repeats nothing of it.
    pub fn parse(text: &str) -> Result<Webhook> {
        let wrong = || {
            Error::new(Kind::Config, "not the address of a webhook")
                .hint("write it as in `https://hooks.example.com/services/…`, without a user and a password")
        };
        let url: Uri = text.parse().map_err(|_| wrong())?;
        let is_fine = matches!(url.scheme_str(), Some("https" | "http"))
            && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && url.host().is_some_and(|host| !host.is_empty());
        match is_fine {
            true => Ok(Webhook { url, format: Format::Json, ca_file: None }),
            false => Err(wrong()),
        }
    }

    /// Of the machine that it leads to; this much may be shown.
    pub fn host(&self) -> &str {
        self.url.host().unwrap_or_default()
    }

    /// Whether everybody on the way can read what is sent.
    pub fn is_open(&self) -> bool {
        let is_near = matches!(self.host(), "localhost" | "[::1]") || self.host().starts_with("127.");
        self.url.scheme_str() != Some("https") && !is_near
    }

    /// The address with nothing secret in it.
    pub fn shown(&self, mask: &str) -> String {
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}/{mask}", self.url.scheme_str().unwrap_or_default())
    }

    pub(super) fn post(&self, notice: &Notice, limit: Duration) -> Result<()> {
        let failed = |why: String| Error::new(Kind::Failed, why);
        let content = match self.format {
            Format::Json => notice.json(),
            Format::Slack => notice.slack(),
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("walkeep/", env!("CARGO_PKG_VERSION")))
            .body(Whole(Some(content.to_string().into())))
            .map_err(|_| failed("the request cannot be written".to_owned()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::io("start the HTTP client", &e))?;
        let client = https::client(self.ca_file.clone().map_or(Roots::System, Roots::File));
        let answer = runtime.block_on(async { tokio::time::timeout(limit, client.request(request)).await });
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
        match answer {
            Err(_) => Err(Error::new(
                Kind::Timeout,
                format!("no answer from {} within {} s", self.host(), limit.as_secs_f64()),
            )),
            Ok(Err(error)) => {
                let why = https::chain(&error).last().map(ToString::to_string).unwrap_or_default();
                Err(Error::new(Kind::Unavailable, format!("no answer from {}: {why}", self.host())))
            }
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) if answer.status().is_redirection() => Err(failed(format!(
                "{} answers {}, and redirects are not followed",
                self.host(),
                answer.status().as_u16()
            ))
            .hint("let `webhook` in [notify] lead to where it has moved")),
            Ok(Ok(answer)) => Err(failed(format!("{} answers {}", self.host(), answer.status().as_u16()))
                .hint(
                    "is the address in `webhook` of [notify] still right, and `format` what it understands?",
                )),
        }
    }
}

/// A body that is there already.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
