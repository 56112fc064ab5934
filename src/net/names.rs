//! Addresses of host names. Resolution blocks, so a thread of its own does it.

use crate::error::{Error, Kind, Result};
use crate::runtime::thread;
use hyper_util::client::legacy::connect::dns::Name;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use tower_service::Service;

/// Returns the addresses of a host name. The thread that resolves it goes on when the future is
/// dropped.
///
/// # Errors
///
/// [`Kind::Unavailable`] when the name cannot be resolved, [`Kind::Full`] when the thread cannot be
/// started.
pub async fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let (sender, found) = oneshot::channel();
    let host = name.to_owned();
    let _detached = thread::spawn("resolve", move || {
        let found = (host.as_str(), port).to_socket_addrs();
        drop(sender.send(found.map(Vec::from_iter)));
    })?;
    let found = found.await.map_err(|_| thread::panicked("resolve"))?;
    found.map_err(|error| Error::from_io("resolve the host name", error).with_kind(Kind::Unavailable))
}

/// Resolver of HTTP connections.
#[derive(Clone)]
pub struct Resolver;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        // The connector replaces the port.
        Box::pin(async move { Ok(resolve(name.as_str(), 0).await?.into_iter()) })
    }
}
