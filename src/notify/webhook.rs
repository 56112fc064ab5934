//! Delivery of a notice by one POST request. Redirects are not followed and answers are not read: a
//! status from 200 to 299 means that the notice was accepted.

use super::Notice;
use crate::error::{Error, Kind, Result};
use crate::net::https::{self, Roots};
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::Full;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Format that the receiver of a webhook understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookFormat {
    /// The object of [`Notice::json`].
    Json,
    /// A message as Slack and other chats accept it.
    Slack,
}

impl WebhookFormat {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WebhookFormat::Json => "json",
            WebhookFormat::Slack => "slack",
        }
    }
}

/// An address that accepts notices. Knowing it is enough to send there, so it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    url: Uri,
    host: String,
    /// Scheme, host and port: `https://hooks.example.com:8443`.
    origin: String,
    pub format: WebhookFormat,
    /// PEM certificates to trust instead of those of the system.
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
    /// Parses `https://host/path` or `http://host/path`.
    ///
    /// # Errors
    ///
    /// `Config`, without any of the text.
    pub fn parse(text: &str) -> Result<Webhook> {
        let invalid = || {
            Error::new(Kind::Config, "not the address of a webhook")
                .hint("write it as in `https://hooks.example.com/services/…`, without a user and a password")
        };
        let url: Uri = text.parse().map_err(|_| invalid())?;
        let scheme = url.scheme_str().filter(|scheme| matches!(*scheme, "https" | "http"));
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'));
        let host = url.host().filter(|host| !host.is_empty());
        let (Some(scheme), Some(authority), Some(host)) = (scheme, authority, host) else {
            return Err(invalid());
        };
        let (host, origin) = (host.to_owned(), format!("{scheme}://{authority}"));
        Ok(Webhook { url, host, origin, format: WebhookFormat::Json, ca_file: None })
    }

    /// Host of the address, which may be shown.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether notices leave this host unencrypted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let is_local = matches!(self.host(), "localhost" | "[::1]") || self.host().starts_with("127.");
        self.url.scheme_str() != Some("https") && !is_local
    }

    /// The address with `mask` in place of its secret part.
    #[must_use]
    pub fn shown(&self, mask: &str) -> String {
        format!("{}/{mask}", self.origin)
    }

    pub(super) fn post(&self, notice: &Notice, limit: Duration) -> Result<()> {
        let failed = |why: String| Error::new(Kind::Failed, why);
        let content = match self.format {
            WebhookFormat::Json => notice.json(),
            WebhookFormat::Slack => notice.slack(),
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("walkeep/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(content.to_string())))
            .map_err(|_| failed("the request cannot be built".to_owned()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::io("start the HTTP client", &e))?;
        let client = https::client(self.ca_file.clone().map_or(Roots::System, Roots::File));
        let answer = runtime.block_on(async { tokio::time::timeout(limit, client.request(request)).await });
        // Does not wait for a DNS lookup that is still running.
        runtime.shutdown_background();
        match answer {
            Err(_) => Err(Error::new(
                Kind::Timeout,
                format!("no answer from {} within {} s", self.host(), limit.as_secs_f64()),
            )),
            Ok(Err(error)) => {
                let why = https::chain(&error).fold(String::new(), |_, cause| cause.to_string());
                Err(Error::new(Kind::Unavailable, format!("no answer from {}: {why}", self.host())))
            }
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) if answer.status().is_redirection() => Err(failed(format!(
                "{} answers {}, and redirects are not followed",
                self.host(),
                answer.status().as_u16()
            ))
            .hint("set `webhook` in [notify] to the new address")),
            Ok(Ok(answer)) => Err(failed(format!("{} answers {}", self.host(), answer.status().as_u16()))
                .hint(
                    "check that the address in `webhook` of [notify] is valid, and that the receiver understands `format`",
                )),
        }
    }
}
