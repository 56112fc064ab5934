//! The thread of a session: drives the connection, collects messages of the server, runs the
//! keep-alive statement, and records why the session was lost.

use super::super::wire::{Address, Encryption, Wire};
use super::connect::Connected;
use super::{KeepAlive, SessionState, error};
use crate::error::{Error, Kind, Result};
use parking_lot::Mutex;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_postgres::{CancelToken, Client, Connection, SimpleQueryMessage};

/// Time limit of a keep-alive statement, after which the session counts as lost. Long enough for a
/// busy server; a server that is down is detected earlier, by TCP.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for the Terminate message of a session that is dropped.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(1);

/// Session that is ready, which the thread sends to the caller of `connect`.
pub(super) struct StartedSession {
    pub client: Arc<Client>,
    pub cancel: CancelToken,
    pub shared: Arc<SessionState>,
    pub address: Address,
    pub encryption: Encryption,
    pub tls: bool,
    pub backend_pid: i32,
    pub version: u32,
}

/// Stops the thread on drop, and waits until it has sent the Terminate message.
pub(super) struct StopOnDrop {
    pub stop: Option<oneshot::Sender<()>>,
    /// Receiver of the end, behind a lock: sessions are `Sync`, and a receiver is not.
    pub finish: Mutex<mpsc::Receiver<()>>,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.finish.lock().recv_timeout(TERMINATE_TIMEOUT * 2);
    }
}

/// Runs a session until `stopped` is ready.
pub(super) async fn run(
    connected: Connected,
    keep_alive: &KeepAlive,
    started_to: &mpsc::SyncSender<Result<StartedSession>>,
    stopped: oneshot::Receiver<()>,
) {
    let shared = Arc::new(SessionState::new(connected.place));
    for message in connected.messages {
        shared.notice(message);
    }
    let client = Arc::new(connected.client);
    let mut driver = tokio::spawn(drive(connected.connection, shared.clone()));
    let mut watch = pin!(watch(Arc::downgrade(&client), &shared, keep_alive));
    let started = StartedSession {
        cancel: client.cancel_token(),
        client,
        shared: shared.clone(),
        address: connected.address,
        encryption: connected.encryption,
        tls: connected.tls,
        backend_pid: connected.backend_pid,
        version: connected.version,
    };
    if started_to.send(Ok(started)).is_err() {
        return;
    }
    let mut stopped = pin!(stopped);
    let mut driven = true;
    poll_fn(|context| {
        if stopped.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if driven && Pin::new(&mut driver).poll(context).is_ready() {
            driven = false;
            shared.lose(error::closed());
        }
        watch.as_mut().poll(context)
    })
    .await;
    if driven {
        let _ = timeout(TERMINATE_TIMEOUT, driver).await;
    }
}

/// Drives the connection until it ends, and records the reason.
async fn drive(mut connection: Connection<Wire, Wire>, shared: Arc<SessionState>) {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(message)) => shared.notice(message),
            // The reason is recorded before the connection is dropped, since that makes the
            // statements of the callers fail.
            Some(Err(cause)) => return shared.lose(error::of(&cause)),
            None => return,
        }
    }
}

/// Runs the keep-alive statement at intervals until the session is lost. The future never
/// completes.
async fn watch(client: Weak<Client>, shared: &SessionState, keep_alive: &KeepAlive) {
    while shared.check().is_ok() {
        let turn = match shared.idle_turn(keep_alive.every) {
            Ok(turn) => turn,
            Err(left) => {
                sleep(left).await;
                continue;
            }
        };
        let Some(client) = client.upgrade() else {
            break;
        };
        let answer = timeout(KEEP_ALIVE_TIMEOUT, keep(&client, keep_alive)).await.unwrap_or_else(|_| {
            let message = format!("no answer to the keep-alive within {} s", KEEP_ALIVE_TIMEOUT.as_secs());
            Err(Error::new(Kind::Unavailable, message))
        });
        if let Err(error) = answer {
            shared.lose(error);
        }
        drop(turn);
    }
    pending().await
}

/// Runs the keep-alive statement and checks its result.
async fn keep(client: &Client, keep_alive: &KeepAlive) -> Result<()> {
    let answer = client.simple_query(&keep_alive.statement).await.map_err(|cause| error::of(&cause))?;
    let Some(expect) = &keep_alive.expect else {
        return Ok(());
    };
    let first = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten(),
        _ => None,
    });
    match first {
        Some(answer) if answer == expect.answer => Ok(()),
        _ => Err(Error::new(Kind::Failed, expect.otherwise.clone())),
    }
}

/// Waker that unparks a waiting thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread for a future that the session's thread completes; `None` when `until` has
/// passed. The future may borrow from the caller, which a task on the other thread could not.
pub(super) fn wait<F: Future>(mut future: Pin<&mut F>, until: Option<Instant>) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        match until {
            None => thread::park(),
            Some(until) => match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                _ => return None,
            },
        }
    }
}
