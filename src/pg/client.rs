//! One SQL session with a server: blocking, usable from any thread, and watched while it is idle. Knows
//! nothing of what the statements are for.
//!
//! A base backup lives and dies with its session: when the session ends, so does the server's backup
//! mode. Therefore a session is never reconnected. A thread of its own drives the connection, asks
//! something at intervals, and [`Session::check`] answers at once whether it is still alive.
//!
//! Promises: every wait that is given a bound ends; no time-out of a role or database ends the session;
//! no transaction stays open; no secret and no statement is part of an error.

mod connect;
mod error;
mod life;

use super::conninfo::ConnInfo;
use super::wire::{Address, Encryption, Opened, Wire};
use crate::error::{Doing, Error, Kind, Result};
use life::{End, Started, wait};
use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::row::RowIndex;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{AsyncMessage, CancelToken, Client, SimpleQueryMessage};

pub use tokio_postgres::Row;

/// The parameters of a statement, `$1` first.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How a session begins and is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Shown in pg_stat_activity, unless the connection string names another.
    pub application_name: String,
    /// The bound of each attempt, unless the connection string has one: an address, with TLS or without.
    pub connect_timeout: Duration,
    pub keep_alive: KeepAlive,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            application_name: "walkeep".into(),
            connect_timeout: Duration::from_secs(10),
            keep_alive: KeepAlive::default(),
        }
    }
}

/// What is asked while nobody else asks anything.
#[derive(Debug, Clone)]
pub struct KeepAlive {
    /// The time without a statement after which it is asked.
    pub every: Duration,
    pub statement: String,
    pub expect: Option<Expect>,
}

impl Default for KeepAlive {
    fn default() -> KeepAlive {
        KeepAlive { every: Duration::from_secs(5), statement: "SELECT 1".into(), expect: None }
    }
}

/// The answer without which the session is of no use: a backup from a standby ends when it is promoted.
#[derive(Debug, Clone)]
pub struct Expect {
    /// The first column of the first row, as text: `t`.
    pub answer: String,
    /// The error text when it is anything else.
    pub otherwise: String,
}

/// A message of the server that is no error: NOTICE, WARNING and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub severity: String,
    /// SQLSTATE, five characters.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// The time for a statement to end once it is cancelled, and for a request to cancel to be delivered.
const GRACE: Duration = Duration::from_secs(5);
/// Notices that are kept until somebody asks; older ones go first.
const MAX_NOTICES: usize = 1000;

/// A session. Dropping it ends it, and with it whatever the server holds for it.
pub struct Session {
    // Dropped before the thread is told to end, so that the server hears a goodbye.
    client: Arc<Client>,
    cancel: CancelToken,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    address: Address,
    encryption: Encryption,
    tls: bool,
    backend_pid: i32,
    version: u32,
    _end: End,
}

/// What the session's thread and its callers both see.
struct Shared {
    place: String,
    lost: Mutex<Option<Lost>>,
    notices: Mutex<VecDeque<Notice>>,
    turn: Mutex<TurnState>,
    free: Condvar,
}

struct Lost {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

struct TurnState {
    taken: bool,
    /// When the last statement ended.
    since: Instant,
}

/// Exclusive use of the connection. Statements are not sent while another runs: a request to cancel
/// would hit whichever the server is at.
struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.turn) = TurnState { taken: false, since: Instant::now() };
        self.0.free.notify_one();
    }
}

impl Session {
    /// Connects, logs in and makes the session fit for a long life: `search_path` is `pg_catalog`, the
    /// encoding UTF8, every time-out of the server that could end it is off. Autocommit always.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] when no server answers, [`Kind::Denied`] when it refuses the login,
    /// [`Kind::Identity`] when its certificate does not prove it, [`Kind::Refused`] when it cannot do the
    /// TLS that is asked for, [`Kind::Config`] for files and settings.
    pub fn connect(info: &ConnInfo, options: &Options) -> Result<Session> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing(|| "start the session's runtime".into())?;
        let handle = runtime.handle().clone();
        let (info, options) = (info.clone(), options.clone());
        let (tell, told) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let (finished, finish) = mpsc::sync_channel::<()>(1);
        thread::Builder::new()
            .name("sql session".into())
            .spawn(move || {
                let _finished = finished; // dropped last: the other end hears it
                runtime.block_on(async {
                    match connect::connect(&info, &options).await {
                        Ok(connected) => life::live(connected, &options.keep_alive, &tell, stopped).await,
                        Err(error) => drop(tell.send(Err(error))),
                    }
                });
                // A host name may still be looked up, and nobody waits for it any more.
                runtime.shutdown_background();
            })
            .doing(|| "start the session's thread".into())?;
        let started: Started =
            told.recv().map_err(|_| Error::new(Kind::Failed, "the session's thread ended"))??;
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
            _end: End { stop: Some(stop), finish: Mutex::new(finish) },
        })
    }

    /// Whether the session is alive, as far as is known. Costs a lock; asks the server nothing.
    ///
    /// # Errors
    /// Why it was lost; the same at every call from then on.
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// All rows of one statement.
    ///
    /// # Errors
    /// The server's message; [`Kind::Timeout`] when `bound` passed and the statement was cancelled;
    /// the reason when the session is lost.
    pub fn query(&self, sql: &str, params: Params<'_>, bound: Option<Duration>) -> Result<Vec<Row>> {
        self.run(bound, self.client.query(sql, params))
    }

    /// The one row of a statement.
    ///
    /// # Errors
    /// As [`Session::query`]; [`Kind::Failed`] for no row or more than one.
    pub fn query_one(&self, sql: &str, params: Params<'_>, bound: Option<Duration>) -> Result<Row> {
        let mut rows = self.query(sql, params, bound)?;
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            (None, _) => Err(Error::new(Kind::Failed, "one row was expected, and none came")),
            (Some(_), more) => {
                Err(Error::new(Kind::Failed, format!("one row was expected, and {} came", more + 1)))
            }
        }
    }

    /// Runs one statement and answers the number of rows that it touched.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub fn execute(&self, sql: &str, params: Params<'_>, bound: Option<Duration>) -> Result<u64> {
        self.run(bound, self.client.execute(sql, params))
    }

    /// Runs statements without parameters, divided by semicolons, as one transaction unless they say otherwise.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub fn batch(&self, sql: &str, bound: Option<Duration>) -> Result<()> {
        self.run(bound, self.client.batch_execute(sql))
    }

    /// What statements answer, all values as text: the rows of the last one that has any.
    ///
    /// # Errors
    /// As [`Session::query`].
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

    /// Takes what the server has told besides answers since the last call.
    pub fn notices(&self) -> Vec<Notice> {
        lock(&self.shared.notices).drain(..).collect()
    }

    /// The process id of the server process, as in pg_stat_activity.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// `150004` for 15.4.
    pub fn server_version_num(&self) -> u32 {
        self.version
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.tls
    }

    /// The server in words: `host db1 port 5432`.
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// Waits for a statement. When its time is over it is cancelled at the server; one that does not
    /// even end then takes the session with it, since its answer would come to somebody else.
    fn run<T>(
        &self,
        bound: Option<Duration>,
        work: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let until = bound.and_then(|bound| Instant::now().checked_add(bound));
        let late = || {
            let seconds = bound.unwrap_or_default().as_secs_f64();
            Error::new(Kind::Timeout, format!("no answer within {seconds} s"))
        };
        self.check()?;
        let Some(_turn) = self.shared.wait_turn(until) else {
            self.check()?;
            return Err(late());
        };
        self.check()?; // it may have been lost while this waited
        let mut work = pin!(work);
        if let Some(result) = wait(work.as_mut(), until) {
            return result.map_err(|cause| self.failed(&cause));
        }
        self.cancel();
        match wait(work.as_mut(), Instant::now().checked_add(GRACE)) {
            // It was done before the request arrived. What it did is done, so say so.
            Some(Ok(value)) => Ok(value),
            Some(Err(cause)) if cause.code() == Some(&SqlState::QUERY_CANCELED) => Err(late()),
            Some(Err(cause)) => Err(self.failed(&cause)),
            None => {
                self.shared.lose(
                    late().hint("the statement could not be cancelled: the server or the network hangs"),
                );
                self.check()?;
                Err(late())
            }
        }
    }

    /// Asks the server to cancel the running statement and waits until it has taken note, so that the
    /// request cannot hit a later one.
    fn cancel(&self) {
        let (token, address, encryption) =
            (self.cancel.clone(), self.address.clone(), self.encryption.clone());
        let (tell, told) = mpsc::sync_channel::<()>(1);
        self.runtime.spawn(async move {
            let _tell = tell;
            // Failure shows in the statement, which then does not end.
            let _ = timeout(GRACE, async {
                let mut wire = Wire::open(&address, &encryption).await?;
                let sent = token.cancel_query_raw(&mut wire, Opened).await;
                // The server closes the connection after it has sent the signal.
                wire.drain().await;
                sent.map_err(|cause| error::of(&cause))
            })
            .await;
        });
        let _ = told.recv_timeout(GRACE * 2);
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

/// A column of a row, by name or position from 0.
///
/// # Errors
/// [`Kind::Failed`] when there is no such column, or it holds another type or NULL.
pub fn column<'a, T: FromSql<'a>>(row: &'a Row, index: impl RowIndex + Display) -> Result<T> {
    row.try_get(index).map_err(|cause| error::of(&cause))
}

impl Shared {
    fn new(place: String) -> Shared {
        Shared {
            place,
            lost: Mutex::new(None),
            notices: Mutex::default(),
            turn: Mutex::new(TurnState { taken: false, since: Instant::now() }),
            free: Condvar::new(),
        }
    }

    fn check(&self) -> Result<()> {
        let lost = lock(&self.lost);
        let Some(lost) = lost.as_ref() else {
            return Ok(());
        };
        let error =
            Error::new(lost.kind, lost.message.clone()).doing(format!("session at {} lost", self.place));
        Err(match &lost.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        })
    }

    /// The first reason stays, except that a message of the server says more than a closed connection.
    fn lose(&self, error: Error) {
        let mut lost = lock(&self.lost);
        let closed = error::closed().to_string();
        if lost.as_ref().is_none_or(|lost| lost.message == closed) {
            *lost = Some(Lost {
                kind: error.kind(),
                message: error.to_string(),
                hint: error.advice().map(str::to_string),
            });
        }
    }

    fn notice(&self, message: AsyncMessage) {
        let AsyncMessage::Notice(said) = message else {
            return;
        };
        let mut notices = lock(&self.notices);
        if notices.len() == MAX_NOTICES {
            notices.pop_front();
        }
        notices.push_back(Notice {
            severity: said.severity().into(),
            code: said.code().code().into(),
            message: error::one_line(said.message()),
            detail: said.detail().map(error::one_line),
            hint: said.hint().map(error::one_line),
        });
    }

    fn wait_turn(&self, until: Option<Instant>) -> Option<Turn<'_>> {
        let mut state = lock(&self.turn);
        while state.taken {
            let left = match until {
                None => Duration::from_secs(1), // looked at again, whatever happens
                Some(until) => until.checked_duration_since(Instant::now())?,
            };
            state = self.free.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.taken = true;
        Some(Turn(self))
    }

    /// The turn if nobody has it and nothing was asked for `every`, or the time to wait until then.
    fn idle_turn(&self, every: Duration) -> std::result::Result<Turn<'_>, Duration> {
        let mut state = lock(&self.turn);
        match (state.taken, every.checked_sub(state.since.elapsed())) {
            (true, _) => Err(every),
            (false, Some(left)) if !left.is_zero() => Err(left),
            (false, _) => {
                state.taken = true;
                Ok(Turn(self))
            }
        }
    }
}

/// A lock whose holder panicked still guards plain values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
