//! How bytes go out: piece by piece from where they lie, so that no body is copied as a whole, with their hash in
//! the signature, and watched: a body may take as long as it moves.

use super::Checksums;
use super::failure::Failure;
use crate::error::{Error, Kind};
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Bytes handed over at a time; small enough that the allocator gives the same memory again.
const PIECE: usize = 64 << 10;

/// Pieces on their way to the connection.
const QUEUE: usize = 2;

/// A body of which nothing moves for so long has stalled.
pub(super) const STALLED: Duration = Duration::from_secs(30);

/// How long an answer may take once all of a request is under way.
const ANSWER: Duration = Duration::from_secs(60);

type Answer<T> = Result<T, Failure>;

/// The answer to a request without a body.
pub(super) async fn answered<T>(answer: impl Future<Output = Answer<T>>) -> Answer<T> {
    answered_within(STALLED, answer).await
}

pub(super) async fn answered_within<T>(
    limit: Duration,
    answer: impl Future<Output = Answer<T>>,
) -> Answer<T> {
    match timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::late(format!("no answer within {limit:?}"))),
    }
}

/// Sends a request whose body are these bytes.
pub(super) async fn upload<T>(bytes: &[u8], request: impl AsyncFnOnce(ByteStream) -> Answer<T>) -> Answer<T> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let pieces = Pieces { receiver, left: bytes.len() as u64 };
    let mut request = pin!(request(ByteStream::new(SdkBody::from_body_1_x(pieces))));
    // Ends only when the time is over.
    let mut feeding = pin!(async {
        for piece in bytes.chunks(PIECE) {
            match timeout(STALLED, sender.send(Bytes::copy_from_slice(piece))).await {
                Ok(Ok(())) => {}
                // Nobody wants the rest: the answer is there, or the connection is not.
                Ok(Err(_)) => break,
                Err(_) => return Failure::late(format!("the store took nothing for {STALLED:?}")),
            }
        }
        sleep(ANSWER).await;
        Failure::late(format!("no answer within {ANSWER:?}"))
    });
    std::future::poll_fn(|cx| {
        if let Poll::Ready(answer) = request.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        feeding.as_mut().poll(cx).map(Err)
    })
    .await
}

/// The body of a request, as the connection asks for it.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    left: u64,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.receiver.poll_recv(cx).map(|piece| {
            piece.map(|piece| {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Ok(Frame::data(piece))
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The SHA-256 of a body, in the forms that requests want.
#[derive(Debug, Clone)]
pub(super) struct Sum {
    hex: String,
    /// For the header of its own, unless the store takes none.
    pub(super) header: Option<String>,
}

impl Sum {
    pub(super) fn of(bytes: &[u8], checksums: Checksums) -> Sum {
        let sum = Sha256::digest(bytes);
        Sum {
            hex: hex::encode(sum),
            header: (checksums == Checksums::Header).then(|| BASE64_STANDARD.encode(sum)),
        }
    }

    /// Compares with what the store says that it has, if it says so.
    pub(super) fn check(&self, answered: Option<&str>) -> crate::error::Result<()> {
        match (answered, self.header.as_deref()) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                let message = format!("the store has SHA-256 {theirs}, it was sent {ours}");
                Err(Error::new(Kind::Damage, message))
            }
            _ => Ok(()),
        }
    }

    /// Puts the sum into the signature, which is how every store checks what arrives.
    pub(super) fn signed(&self) -> SignedSum {
        SignedSum(self.hex.clone())
    }
}

#[derive(Debug)]
pub(super) struct SignedSum(String);

impl Intercept for SignedSum {
    fn name(&self) -> &'static str {
        "SignedSum"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(PayloadSigningOverride::Precomputed(self.0.clone()));
        Ok(())
    }
}

/// Adds `Content-MD5`, without which older stores refuse to delete many objects at once. The SDK's own
/// checksum, without which AWS would, goes only where such headers may.
#[derive(Debug)]
pub(super) struct ContentMd5(pub(super) Checksums);

impl Intercept for ContentMd5 {
    fn name(&self) -> &'static str {
        "ContentMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        if let Some(body) = request.body().bytes() {
            let sum = BASE64_STANDARD.encode(Md5::digest(body));
            request.headers_mut().insert("content-md5", sum);
        }
        if self.0 == Checksums::None {
            request.headers_mut().remove("x-amz-checksum-crc32");
            request.headers_mut().remove("x-amz-sdk-checksum-algorithm");
        }
        Ok(())
    }
}
