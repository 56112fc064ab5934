//! The life of a session on its thread: drives the connection, collects what the server tells, asks
//! something while nobody else does, and writes down why the session was lost.

use super::super::wire::{Address, Encryption, Wire};
use super::connect::Connected;
use super::{KeepAlive, Shared, error, lock};
use crate::error::{Error, Kind, Result};
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_postgres::{CancelToken, Client, Connection, SimpleQueryMessage};

/// The time after which a keep-alive that is not answered means that the server is gone. A busy
/// machine answers late; a dead one is noticed by TCP before.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time for the goodbye of a session that is dropped.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the thread hands to the one who connects.
pub(super) struct Started {
    pub client: Arc<Client>,
    pub cancel: CancelToken,
    pub shared: Arc<Shared>,
    pub address: Address,
    pub encryption: Encryption,
    pub tls: bool,
    pub backend_pid: i32,
    pub version: u32,
}

/// Tells the thread to end and gives it the time to say goodbye.
pub(super) struct End {
    pub stop: Option<oneshot::Sender<()>>,
    /// A lock because a receiver alone may not be shared, and sessions are.
    pub finish: Mutex<mpsc::Receiver<()>>,
}

impl Drop for End {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = lock(&self.finish).recv_timeout(GOODBYE * 2);
    }
}

/// Runs a session until `stopped`.
pub(super) async fn live(
    connected: Connected,
    keep_alive: &KeepAlive,
    tell: &mpsc::SyncSender<Result<Started>>,
    stopped: oneshot::Receiver<()>,
) {
    let shared = Arc::new(Shared::new(connected.place));
    for message in connected.messages {
        shared.notice(message);
    }
    let client = Arc::new(connected.client);
    let mut driver = tokio::spawn(drive(connected.connection, shared.clone()));
    let mut watch = pin!(watch(Arc::downgrade(&client), &shared, keep_alive));
    let started = Started {
        cancel: client.cancel_token(),
        client,
        shared: shared.clone(),
        address: connected.address,
        encryption: connected.encryption,
        tls: connected.tls,
        backend_pid: connected.backend_pid,
        version: connected.version,
    };
    if tell.send(Ok(started)).is_err() {
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
        let _ = timeout(GOODBYE, driver).await;
    }
}

/// Moves bytes until the connection ends, and says why it did.
async fn drive(mut connection: Connection<Wire, Wire>, shared: Arc<Shared>) {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(message)) => shared.notice(message),
            // Written down before the connection is dropped and its callers hear of it.
            Some(Err(cause)) => return shared.lose(error::of(&cause)),
            None => return,
        }
    }
}

/// Asks at intervals, until the session is lost; never ends by itself.
async fn watch(client: Weak<Client>, shared: &Shared, keep_alive: &KeepAlive) {
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
        let answer = timeout(PATIENCE, ask(&client, keep_alive)).await.unwrap_or_else(|_| {
            let message = format!("no answer to the keep-alive within {} s", PATIENCE.as_secs());
            Err(Error::new(Kind::Unavailable, message))
        });
        if let Err(error) = answer {
            shared.lose(error);
        }
        drop(turn);
    }
    pending().await
}

async fn ask(client: &Client, keep_alive: &KeepAlive) -> Result<()> {
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

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread for what the session's thread brings about, `None` when it is too late. The
/// future may borrow from the caller, which a task on the other thread could not.
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
