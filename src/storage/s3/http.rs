//! HTTP client of the SDK. Does not know S3.

use crate::net::https::{BoxError, CONNECT_TIMEOUT, Connect, Late, chain, client};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use hyper_util::client::legacy::Client;
use std::fmt;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tracing::{Level, debug};

pub(super) use crate::net::https::Roots;

/// An HTTP client with its own pool of connections.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<Connect, SdkBody>,
}

impl Http {
    pub(super) fn new(roots: Roots) -> Http {
        Http { client: client(roots) }
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl HttpClient for Http {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // Only the sources of credentials set timeouts here. The timeouts of requests to S3 are set
        // where the requests are sent.
        let connect = settings.connect_timeout().unwrap_or(CONNECT_TIMEOUT);
        let limit = settings.read_timeout().map(|read| connect + read);
        SharedHttpConnector::new(Requests { http: self.clone(), limit })
    }
}

/// The connector that the SDK uses: the client, and the time limit of a request.
#[derive(Debug)]
struct Requests {
    http: Http,
    limit: Option<Duration>,
}

impl HttpConnector for Requests {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        let uri = request.uri();
        // The query and the headers are not logged: they contain the signature.
        let asked = tracing::enabled!(Level::DEBUG).then(|| format!("{} {}", request.method(), uri.path()));
        let begun = Instant::now();
        let server = uri.authority().map_or_else(|| uri.to_string(), ToString::to_string);
        let (answer, limit) = (self.http.client.request(request), self.limit);
        HttpConnectorFuture::new(async move {
            let answer = match limit {
                None => answer.await,
                Some(limit) => match timeout(limit, answer).await {
                    Ok(answer) => answer,
                    Err(late) => return Err(ConnectorError::timeout(late.into())),
                },
            };
            if let Some(asked) = asked {
                let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                match &answer {
                    Ok(answer) => {
                        let status = answer.status().as_u16();
                        let id = answer.headers().get("x-amz-request-id").and_then(|id| id.to_str().ok());
                        debug!(status, request_id = id, ms, "{asked}: {status}, {ms} ms");
                    }
                    Err(_) => debug!(ms, "{asked}: no answer, {ms} ms"),
                }
            }
            match answer {
                Ok(answer) => HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                    .map_err(|error| ConnectorError::other(error.into(), None)),
                Err(cause) => {
                    let lost = NoAnswer { server, cause: cause.into() };
                    let is_late = lost.is_late();
                    Err(if is_late {
                        ConnectorError::timeout(lost.into())
                    } else {
                        ConnectorError::io(lost.into())
                    })
                }
            }
        })
    }
}

/// Failure of a request that got no answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// Host and port of the server.
    pub(super) server: String,
    cause: BoxError,
}

impl NoAnswer {
    fn is_late(&self) -> bool {
        chain(&*self.cause).any(|error| error.is::<Late>())
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer from {}", self.server)
    }
}

impl std::error::Error for NoAnswer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}
