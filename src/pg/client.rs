//! SQL session with a server: blocking, usable from any thread, and monitored while it is idle.
//! Does not know what the statements are for.
//!
//! A base backup depends on its session: when the session ends, so does the server's backup mode.
//! Therefore a session is never reconnected. A thread of its own drives the connection and runs a
//! keep-alive statement at intervals, and [`Session::check`] reports immediately whether the
//! session is lost.
//!
//! Promises: each wait with a time limit ends; no time limit of a role or database ends the
//! session; no transaction stays open; no secret and no statement is part of an error.

mod connect;
mod error;
mod life;

use super::conninfo::ConnInfo;
use super::wire::{Address, Encryption, NoHandshake, Wire};
use crate::error::{Doing, Error, Kind, Result};
use crate::runtime::thread;
use life::{StartedSession, StopOnDrop, wait};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::row::RowIndex;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{AsyncMessage, CancelToken, Client, SimpleQueryMessage};

pub use tokio_postgres::Row;

/// Parameters of a statement, `$1` first.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Settings of a session.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Name in pg_stat_activity, unless the connection string has one.
    pub application_name: String,
    /// Time limit of each attempt (one address, with or without TLS), unless the connection string
    /// has one.
    pub connect_timeout: Duration,
    pub keep_alive: KeepAlive,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions {
            application_name: "walkeep".into(),
            connect_timeout: Duration::from_secs(10),
            keep_alive: KeepAlive::default(),
        }
    }
}

/// Statement that is run while the session is idle.
#[derive(Debug, Clone)]
pub struct KeepAlive {
    /// Idle time after which the statement is run.
    pub every: Duration,
    pub statement: String,
    /// Result that the statement must have; `None` accepts any.
    pub expect: Option<Expect>,
}

impl Default for KeepAlive {
    fn default() -> KeepAlive {
        KeepAlive { every: Duration::from_secs(5), statement: "SELECT 1".into(), expect: None }
    }
}

/// Result of the keep-alive statement without which the session is useless: a backup from a standby
/// fails when the standby is promoted.
#[derive(Debug, Clone)]
pub struct Expect {
    /// First column of the first row, as text: `t`.
    pub answer: String,
    /// Message of the error for any other result.
    pub otherwise: String,
}

/// Message of the server that is not an error: NOTICE, WARNING and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    pub severity: String,
    /// SQLSTATE, five characters.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// Time limit for a cancelled statement to end, and for the delivery of a request to cancel.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which a wait without a time limit checks its condition again.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of messages that are kept until they are taken; the oldest are dropped.
const MAX_NOTICES: usize = 1000;

/// Session. The session ends on drop, and with it everything that the server holds for it.
pub struct Session {
    // The first field is dropped before the thread stops, so that the server receives a Terminate
    // message.
    client: Arc<Client>,
    cancel: CancelToken,
    shared: Arc<SessionState>,
    runtime: tokio::runtime::Handle,
    address: Address,
    encryption: Encryption,
    tls: bool,
    backend_pid: i32,
    version: u32,
    _stop: StopOnDrop,
}

/// State that the session's thread and its callers share.
struct SessionState {
    place: String,
    /// Why the session was lost; `None` as long as it is not.
    lost: Mutex<Option<Error>>,
    notices: Mutex<VecDeque<ServerMessage>>,
    turn: Mutex<TurnState>,
    free: Condvar,
}

struct TurnState {
    is_taken: bool,
    /// End of the last statement.
    since: Instant,
}

/// Exclusive use of the connection. No statement is sent while another one runs, since a cancel
/// request ends whichever statement the server runs at that moment.
struct Turn<'a>(&'a SessionState);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.turn.lock() = TurnState { is_taken: false, since: Instant::now() };
        self.0.free.notify_one();
    }
}

impl Session {
    /// Connects, logs in and prepares a long session: `search_path` is `pg_catalog`, the encoding
    /// UTF8, and all time limits of the server that could end the session are off. Each statement
    /// commits.
    ///
    /// # Errors
    ///
    /// [`Kind::Unavailable`] when no server accepts the connection, [`Kind::Denied`] when it
    /// rejects the login, [`Kind::Identity`] when its certificate is not the right one,
    /// [`Kind::Refused`] when it does not support the required TLS, [`Kind::Config`] for files and
    /// settings.
    pub fn connect(info: &ConnInfo, options: &SessionOptions) -> Result<Session> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing("start the session's runtime")?;
        let handle = runtime.handle().clone();
        let (info, options) = (info.clone(), options.clone());
        let (started, start) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let (finished, finish) = mpsc::sync_channel::<()>(1);
        let session = move || {
            let _finished = finished; // dropped last, which ends the wait of StopOnDrop
            runtime.block_on(async {
                match connect::connect(&info, &options).await {
                    Ok(connected) => life::run(connected, &options.keep_alive, &started, stopped).await,
                    Err(error) => drop(started.send(Err(error))),
                }
            });
            runtime.shutdown_background();
        };
        let _detached = thread::spawn("sql session", session).doing("connect")?;
        let ended = |_| Error::defect("the session's thread ended without a session or an error");
        let started: StartedSession = start.recv().map_err(ended)??;
        Ok(Session {
            client: started.client,
            cancel: started.cancel,
            shared: started.shared,
            runtime: handle,
            address: started.address,
            encryption: started.encryption,
            tls: started.tls,
            backend_pid: started.backend_pid,
            version: started.version,
            _stop: StopOnDrop { stop: Some(stop), finish: Mutex::new(finish) },
        })
    }

    /// Checks that the session is not known to be lost. Takes a lock, and sends nothing to the
    /// server.
    ///
    /// # Errors
    ///
    /// The reason of the loss, once the session is lost.
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// Runs one statement and returns all rows. `bound` is the time limit; `None` sets none.
    ///
    /// # Errors
    ///
    /// The server's message; [`Kind::Timeout`] when `bound` passed and the statement was cancelled;
    /// the reason when the session is lost.
    pub fn query(&self, sql: &str, params: Params<'_>, bound: Option<Duration>) -> Result<Vec<Row>> {
        self.run(bound, self.client.query(sql, params))
    }

    /// Runs one statement and returns its only row.
    ///
    /// # Errors
    ///
    /// Those of [`Session::query`]; [`Kind::Failed`] for no row or more than one.
    pub fn query_one(&self, sql: &str, params: Params<'_>, bound: Option<Duration>) -> Result<Row> {
        let mut rows = self.query(sql, params, bound)?;
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            (None, _) => Err(Error::new(Kind::Failed, "expected one row, got none")),
            (Some(_), more) => Err(Error::new(Kind::Failed, format!("expected one row, got {}", more + 1))),
        }
    }

    /// Runs one statement and returns the number of rows that it affected.
    ///
    /// # Errors
    ///
    /// Those of [`Session::query`].
    pub fn execute(&self, sql: &str, params: Params<'_>, bound: Option<Duration>) -> Result<u64> {
        self.run(bound, self.client.execute(sql, params))
    }

    /// Runs statements without parameters, separated by semicolons: in one transaction, unless the
    /// statements control transactions themselves.
    ///
    /// # Errors
    ///
    /// Those of [`Session::query`].
    pub fn batch(&self, sql: &str, bound: Option<Duration>) -> Result<()> {
        self.run(bound, self.client.batch_execute(sql))
    }

    /// Runs statements, and returns the rows of the last statement that has rows, with all values
    /// as text.
    ///
    /// # Errors
    ///
    /// Those of [`Session::query`].
    pub fn text(&self, sql: &str, bound: Option<Duration>) -> Result<Vec<Vec<Option<String>>>> {
        let mut rows = Vec::new();
        let mut is_over = false;
        for message in self.run(bound, self.client.simple_query(sql))? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    if std::mem::take(&mut is_over) {
                        rows.clear();
                    }
                    rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::CommandComplete(_) => is_over = true,
                _ => {}
            }
        }
        Ok(rows)
    }

    /// Takes the messages that the server has sent since the last call.
    pub fn notices(&self) -> Vec<ServerMessage> {
        self.shared.notices.lock().drain(..).collect()
    }

    /// Process id of the server process, as in pg_stat_activity.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Version of the server: `150004` for 15.4.
    pub fn server_version_num(&self) -> u32 {
        self.version
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.tls
    }

    /// Description of the server: `host db1 port 5432`.
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// Waits for a statement, and cancels it on the server when its time limit has passed. If the
    /// statement does not end even then, the session is lost: the result would be mistaken for the
    /// one of the next statement.
    fn run<T>(
        &self,
        bound: Option<Duration>,
        work: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let until = bound.and_then(|bound| Instant::now().checked_add(bound));
        let late = || {
            let limit =
                bound.map_or("the time limit".to_owned(), |bound| format!("{} s", bound.as_secs_f64()));
            Error::new(Kind::Timeout, format!("no answer within {limit}"))
        };
        self.check()?;
        let Some(_turn) = self.shared.wait_turn(until) else {
            self.check()?;
            return Err(late());
        };
        self.check()?; // the session may have been lost during the wait
        let mut work = pin!(work);
        if let Some(result) = wait(work.as_mut(), until) {
            return result.map_err(|cause| self.failed(&cause));
        }
        self.cancel();
        match wait(work.as_mut(), Instant::now().checked_add(CANCEL_TIMEOUT)) {
            // The statement ended before the cancel request arrived. It has taken effect, so it is
            // not reported as cancelled.
            Some(Ok(value)) => Ok(value),
            Some(Err(cause)) if cause.code() == Some(&SqlState::QUERY_CANCELED) => Err(late()),
            Some(Err(cause)) => Err(self.failed(&cause)),
            None => {
                self.shared.lose(late().hint(
                    "the statement could not be cancelled; check whether the server or the network hangs",
                ));
                self.check()?;
                Err(late())
            }
        }
    }

    /// Sends a request to cancel the running statement, and waits until the server has handled the
    /// request, so that it cannot cancel a later statement.
    fn cancel(&self) {
        let (token, address, encryption) =
            (self.cancel.clone(), self.address.clone(), self.encryption.clone());
        let (sender, handled) = mpsc::sync_channel::<()>(1);
        self.runtime.spawn(async move {
            let _sender = sender;
            // After a failure the statement does not end, which the caller handles.
            let _ = timeout(CANCEL_TIMEOUT, async {
                let mut wire = Wire::open(&address, &encryption).await?;
                let sent = token.cancel_query_raw(&mut wire, NoHandshake).await;
                // The server closes the connection after it has signalled its process.
                wire.drain().await;
                sent.map_err(|cause| error::of(&cause))
            })
            .await;
        });
        let _ = handled.recv_timeout(CANCEL_TIMEOUT * 2);
    }

    fn failed(&self, cause: &tokio_postgres::Error) -> Error {
        let error = error::of(cause);
        if error::is_fatal(cause) {
            self.shared.lose(error);
        } else if !cause.is_closed() {
            return error;
        }
        self.check().err().unwrap_or_else(|| error::of(cause))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} at {}", self.backend_pid, self.place())
    }
}

/// Returns a column of a row, by name or by position from 0.
///
/// # Errors
///
/// [`Kind::Failed`] when the column does not exist, has another type or is NULL.
pub fn column<'a, T: FromSql<'a>>(row: &'a Row, index: impl RowIndex + Display) -> Result<T> {
    row.try_get(index).map_err(|cause| error::of(&cause))
}

impl SessionState {
    fn new(place: String) -> SessionState {
        SessionState {
            place,
            lost: Mutex::new(None),
            notices: Mutex::default(),
            turn: Mutex::new(TurnState { is_taken: false, since: Instant::now() }),
            free: Condvar::new(),
        }
    }

    fn check(&self) -> Result<()> {
        let lost = self.lost.lock();
        lost.clone().map_or(Ok(()), |error| Err(error.doing(format!("session at {} lost", self.place))))
    }

    /// Records why the session was lost. The first reason stays, unless it is only a closed
    /// connection: a message of the server is more specific.
    fn lose(&self, error: Error) {
        let mut lost = self.lost.lock();
        let closed = error::closed().to_string();
        if lost.as_ref().is_none_or(|lost| lost.to_string() == closed) {
            *lost = Some(error);
        }
    }

    fn notice(&self, message: AsyncMessage) {
        let AsyncMessage::Notice(notice) = message else {
            return;
        };
        let mut notices = self.notices.lock();
        if notices.len() == MAX_NOTICES {
            notices.pop_front();
        }
        notices.push_back(ServerMessage {
            severity: notice.severity().into(),
            code: notice.code().code().into(),
            message: error::one_line(notice.message()),
            detail: notice.detail().map(error::one_line),
            hint: notice.hint().map(error::one_line),
        });
    }

    /// Waits for the turn; `None` when `until` has passed.
    fn wait_turn(&self, until: Option<Instant>) -> Option<Turn<'_>> {
        let mut state = self.turn.lock();
        while state.is_taken {
            let left = match until {
                None => RECHECK_INTERVAL,
                Some(until) => until.checked_duration_since(Instant::now())?,
            };
            self.free.wait_for(&mut state, left);
        }
        state.is_taken = true;
        Some(Turn(self))
    }

    /// Takes the turn if the connection is not in use and has been idle for `every`; otherwise
    /// returns the time to wait before the next attempt.
    fn idle_turn(&self, every: Duration) -> std::result::Result<Turn<'_>, Duration> {
        let mut state = self.turn.lock();
        match (state.is_taken, every.checked_sub(state.since.elapsed())) {
            (true, _) => Err(every),
            (false, Some(left)) if !left.is_zero() => Err(left),
            (false, _) => {
                state.is_taken = true;
                Ok(Turn(self))
            }
        }
    }
}
