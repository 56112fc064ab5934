//! Traces each request to a store: a span `store.request` with `op`, `key` and `attempt`, and an
//! event at its end with `status`, `bytes` and `ms`. While events of level DEBUG are disabled, only
//! forwards the requests.

use super::{Body, ForeignEntry, Key, ListedObject, Mode, Object, OpenBody, Page, Put, Storage};
use crate::error::Result;
use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tracing::{Level, Span, debug, debug_span};

thread_local! {
    /// Number of the attempt that this thread makes, from 1 on; set by [`Retry`](super::Retry).
    pub(super) static ATTEMPT: Cell<u32> = const { Cell::new(1) };
}

/// A store whose requests are traced.
pub struct Traced<S>(S);

impl<S: Storage> Traced<S> {
    pub fn new(store: S) -> Traced<S> {
        Traced(store)
    }
}

/// A request that has begun.
struct TracedRequest {
    op: &'static str,
    key: String,
    begun: Instant,
    span: Span,
}

impl TracedRequest {
    /// Begins the span of a request; `None` while events of level DEBUG are disabled.
    fn begin(op: &'static str, key: &Key) -> Option<TracedRequest> {
        tracing::enabled!(Level::DEBUG).then(|| {
            let key = key.as_str().to_owned();
            let span = debug_span!("store.request", op, key, attempt = ATTEMPT.get());
            TracedRequest { op, key, begun: Instant::now(), span }
        })
    }

    fn end(&self, status: &str, bytes: Option<u64>) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut text = format!("{} {}: {status}", self.op, self.key);
        if let Some(bytes) = bytes {
            // Formatting into memory does not fail.
            let _ = write!(text, ", {bytes} bytes");
        }
        self.span.in_scope(|| debug!(status, bytes, ms, "{text}, {ms} ms"));
    }
}

/// Does the work of a request; `status` formats its result for the event at its end.
fn traced<T>(
    op: &'static str,
    key: &Key,
    work: impl FnOnce() -> Result<T>,
    status: impl FnOnce(&T) -> String,
) -> Result<T> {
    let Some(request) = TracedRequest::begin(op, key) else {
        return work();
    };
    let result = request.span.in_scope(work);
    match &result {
        Ok(answer) => request.end(&status(answer), None),
        Err(error) => request.end(error.kind().as_str(), None),
    }
    result
}

/// A body whose bytes are counted while they are read.
struct CountedBody<'a> {
    body: &'a dyn Body,
    bytes: AtomicU64,
}

impl Body for CountedBody<'_> {
    fn open(&self) -> Result<OpenBody<'_>> {
        Ok(match self.body.open()? {
            OpenBody::Whole(bytes) => {
                self.bytes.store(bytes.len() as u64, Ordering::Relaxed);
                OpenBody::Whole(bytes)
            }
            OpenBody::Stream(stream) => {
                self.bytes.store(0, Ordering::Relaxed);
                OpenBody::Stream(Box::new(CountedStream { stream, bytes: &self.bytes }))
            }
        })
    }
}

struct CountedStream<'a> {
    stream: Box<dyn Read + 'a>,
    bytes: &'a AtomicU64,
}

impl Read for CountedStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.stream.read(buffer)?;
        self.bytes.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// An object whose request ends when it is dropped.
struct TracedObject {
    object: Object,
    request: TracedRequest,
    bytes: u64,
    failed: bool,
}

impl Read for TracedObject {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let _inside = self.request.span.enter();
        let got = self.object.read(buffer);
        match &got {
            Ok(got) => self.bytes += *got as u64,
            Err(_) => self.failed = true,
        }
        got
    }
}

impl Drop for TracedObject {
    fn drop(&mut self) {
        self.request.end(if self.failed { "broken" } else { "read" }, Some(self.bytes));
    }
}

impl<S: Storage> Storage for Traced<S> {
    fn put(&self, key: &Key, body: &dyn Body, mode: Mode) -> Result<Put> {
        let Some(request) = TracedRequest::begin("put", key) else {
            return self.0.put(key, body, mode);
        };
        let counted = CountedBody { body, bytes: AtomicU64::new(0) };
        let result = request.span.in_scope(|| self.0.put(key, &counted, mode));
        let status = match &result {
            Ok(Put::Stored) => "stored",
            Ok(Put::Exists) => "exists",
            Err(error) => error.kind().as_str(),
        };
        request.end(status, Some(counted.bytes.into_inner()));
        result
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let Some(request) = TracedRequest::begin("get", key) else {
            return self.0.get(key, range);
        };
        match request.span.in_scope(|| self.0.get(key, range)) {
            Ok(Some(object)) => Ok(Some(Box::new(TracedObject { object, request, bytes: 0, failed: false }))),
            Ok(None) => {
                request.end("absent", None);
                Ok(None)
            }
            Err(error) => {
                request.end(error.kind().as_str(), None);
                Err(error)
            }
        }
    }

    fn head(&self, key: &Key) -> Result<Option<ListedObject>> {
        let status =
            |found: &Option<ListedObject>| if found.is_some() { "found" } else { "absent" }.to_owned();
        traced("head", key, || self.0.head(key), status)
    }

    fn list(&self, folder: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let status = |page: &Page| format!("{} objects", page.entries.len());
        traced("list", folder, || self.0.list(folder, after, limit), status)
    }

    fn foreign(&self, folder: &Key) -> Result<Vec<ForeignEntry>> {
        self.0.foreign(folder)
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        match keys.first() {
            Some(first) => {
                traced("delete", first, || self.0.delete(keys), |()| format!("{} deleted", keys.len()))
            }
            None => self.0.delete(keys),
        }
    }

    fn clean(&self, before: jiff::Timestamp) -> Result<u64> {
        self.0.clean(before)
    }

    fn url(&self) -> String {
        self.0.url()
    }

    fn prepare(&self) -> Result<()> {
        self.0.prepare()
    }

    fn prove(&self) -> Result<()> {
        self.0.prove()
    }
}
