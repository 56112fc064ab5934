//! Upload of a body: in pieces, so that the body is never copied as a whole, with its hash in the
//! signature, and without a time limit as long as the upload makes progress.

use super::Checksums;
use super::failure::S3Failure;
use crate::error::{Error, Kind};
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
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

/// Size of a piece in bytes, small enough that the allocator reuses the memory.
const PIECE_SIZE: usize = 64 << 10;

/// Maximum number of pieces that wait for the connection.
const QUEUE_CAPACITY: usize = 2;

/// Time limit of a body that makes no progress, and of the answer to a request without a body.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit of the answer after the last piece of a body was handed over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

type Answered<T> = Result<T, S3Failure>;

/// Waits for the answer to a request of the SDK, up to `limit`.
pub(super) async fn with_timeout<T, E>(
    limit: Duration,
    answer: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Answered<T>
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match timeout(limit, answer).await {
        Ok(answer) => answer.map_err(S3Failure::of),
        Err(_) => Err(S3Failure::timeout(format!("no answer within {limit:?}"))),
    }
}

/// Value of `Content-Length` for a body.
pub(super) fn length(bytes: &[u8]) -> crate::error::Result<i64> {
    i64::try_from(bytes.len()).map_err(|_| Error::defect(format!("a body of {} bytes", bytes.len())))
}

/// Sends a request with the body `bytes`.
pub(super) async fn upload<T>(
    bytes: &[u8],
    request: impl AsyncFnOnce(ByteStream) -> Answered<T>,
) -> Answered<T> {
    let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
    let pieces = BodyPieces { receiver, left: bytes.len() as u64 };
    let mut request = pin!(request(ByteStream::new(SdkBody::from_body_1_x(pieces))));
    // This future completes only by a timeout.
    let mut feeding = pin!(async {
        for piece in bytes.chunks(PIECE_SIZE) {
            match timeout(STALL_TIMEOUT, sender.send(Bytes::copy_from_slice(piece))).await {
                Ok(Ok(())) => {}
                // The receiver was dropped: the answer arrived early, or the connection was lost.
                Ok(Err(_)) => break,
                Err(_) => {
                    return S3Failure::timeout(format!("the store accepted no data for {STALL_TIMEOUT:?}"));
                }
            }
        }
        sleep(ANSWER_TIMEOUT).await;
        S3Failure::timeout(format!("no answer within {ANSWER_TIMEOUT:?}"))
    });
    std::future::poll_fn(|cx| {
        if let Poll::Ready(answer) = request.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        feeding.as_mut().poll(cx).map(Err)
    })
    .await
}

/// The body of a request, which the connection reads piece by piece.
struct BodyPieces {
    receiver: mpsc::Receiver<Bytes>,
    /// Number of bytes that were not read yet.
    left: u64,
}

impl Body for BodyPieces {
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

/// SHA-256 of a body, in the forms that requests need.
#[derive(Debug, Clone)]
pub(super) struct Sum {
    hex: String,
    /// Value of `x-amz-checksum-sha256`; `None` when the store refuses that header.
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

    /// Compares the sum with the one in the answer, if the answer has one.
    ///
    /// # Errors
    ///
    /// `Damage` when the two differ.
    pub(super) fn check(&self, stored: Option<&str>) -> crate::error::Result<()> {
        match (stored, self.header.as_deref()) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                let message = format!("the store has SHA-256 {theirs}, but {ours} was sent");
                Err(Error::new(Kind::Damage, message))
            }
            _ => Ok(()),
        }
    }

    /// Returns the interceptor that signs a request with this sum. Every store compares the signed
    /// sum with the body that it receives.
    pub(super) fn signed(&self) -> SignedSum {
        SignedSum(self.hex.clone())
    }
}

/// The interceptor that signs a request with the sum of its body.
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

/// The interceptor that adds `Content-MD5`, without which older stores refuse to delete several
/// objects by one request. AWS requires the SDK's own checksum instead; it is removed for stores
/// that refuse checksum headers.
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
