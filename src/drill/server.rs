//! The server of a drill. This process starts it on the working directory alone, and stops it
//! without a checkpoint, since its data are thrown away.

use super::log::{ServerLog, ServerLogFile, of_host};
use super::runner::{POLL_INTERVAL, Runner};
use super::workdir::Workdir;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::client::{Session, SessionOptions};
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::pg::major_version;
use crate::pg::running::LockFile;
use rustix::process::{Pid, Signal};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time that the server has to end after each signal. It kills its own processes after five
/// seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Settings of every session, which take precedence over settings of roles and databases: those
/// could load libraries, change the role, hide damage, translate messages or end a statement.
const SESSION_OPTIONS: &str = "-c session_preload_libraries= -c local_preload_libraries= -c jit=off \
     -c role=none -c default_transaction_read_only=off -c default_transaction_deferrable=off \
     -c default_transaction_isolation=read\\ committed -c row_security=off -c exit_on_error=off \
     -c zero_damaged_pages=off -c ignore_checksum_failure=off -c ignore_system_indexes=off \
     -c lc_messages=C -c default_tablespace= -c temp_tablespaces= -c statement_timeout=0 \
     -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0";

/// Settings that servers of PostgreSQL 17 and later know besides: triggers on login could fail.
const SESSION_OPTIONS_17: &str = " -c event_triggers=off -c transaction_timeout=0";

/// Settings of every session that its preparation has reset. A prepared transaction holds its locks
/// until it is ended by hand.
const AFTER_SETUP: &str = "SET lock_timeout = '10s'";

/// A running server; dropping it stops it.
pub struct DrillServer {
    child: Child,
    status: Option<ExitStatus>,
    data: PathBuf,
    socket: PathBuf,
    options: String,
    log: Arc<ServerLogFile>,
}

impl DrillServer {
    /// Starts a server on the data directory and the configuration of the working directory.
    pub fn start(workdir: &Workdir, runner: &Runner<'_>) -> Result<DrillServer> {
        let doing = "start the server";
        let data = workdir.join("data");
        let later = if major_version(&data)? >= 17 { SESSION_OPTIONS_17 } else { "" };
        let options = format!("{SESSION_OPTIONS}{later}");
        let log = Arc::clone(workdir.log());
        let output = log.open().doing(doing)?;
        let mut command = runner.command(&runner.programs.postgres(), &data);
        command.arg("-D").arg(&data);
        command.arg("-c").arg(format!("config_file={}", workdir.join("etc/postgresql.conf").display()));
        command.stdout(output.try_clone().doing(doing)?).stderr(output);
        let child = command.spawn().doing(doing)?;
        Ok(DrillServer { child, status: None, data, socket: workdir.join("socket"), options, log })
    }

    /// Waits until recovery is over and the server accepts connections.
    ///
    /// # Errors
    /// [`Kind::Problem`] when the server ends before that.
    pub fn await_ready(&mut self, runner: &Runner<'_>) -> Result<()> {
        loop {
            if let Some(status) = self.ended()? {
                return Err(unexpected_end(status));
            }
            if self.is_ready()? {
                return Ok(());
            }
            runner.check()?;
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits for the end of a server that stops by itself.
    ///
    /// # Errors
    /// [`Kind::Problem`] when it ends with a status other than 0.
    pub fn await_end(&mut self, runner: &Runner<'_>) -> Result<()> {
        loop {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(unexpected_end(status)),
                None => runner.check()?,
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether `postmaster.pid` has the status `ready`, which `pg_ctl` waits for too.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(of_host(LockFile::read(&self.data))?.is_some_and(|lock| lock.status() == "ready"))
    }

    /// Process id. It is not reused before [`DrillServer::ended`] has returned a status.
    pub fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Exit status of the server; `None` while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().doing("look at the server")?;
        }
        Ok(self.status)
    }

    /// Opens a session of this user.
    pub fn session(&self, user: &str, database: &str) -> Result<Session> {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        let text = format!(
            "host='{}' port=5432 user='{}' dbname='{}' options='{}'",
            quoted(&self.socket.to_string_lossy()),
            quoted(user),
            quoted(database),
            quoted(&self.options),
        );
        let environment = Environment { variable: &|_| None, home: None, user: None };
        let session = Session::connect(&ConnInfo::parse(&text, &environment)?, &SessionOptions::default())?;
        session.batch(AFTER_SETUP, None)?;
        Ok(session)
    }

    /// Reads the messages of all servers of the drill, each until it was stopped.
    pub fn log(&self) -> Result<ServerLog> {
        self.log.read()
    }

    /// Stops the server at once and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let logged = self.log.len();
        for signal in [Signal::QUIT, Signal::KILL] {
            let sent = Instant::now();
            if self.ended()?.is_none()
                && let Some(pid) = self.pid()
            {
                let _ = rustix::process::kill_process(pid, signal);
            }
            while self.ended()?.is_none() && sent.elapsed() < STOP_TIMEOUT {
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        match self.ended()? {
            Some(_) => self.log.exclude_since(logged?),
            None => Err(Error::new(Kind::Failed, "the server does not end")),
        }
    }
}

impl Drop for DrillServer {
    fn drop(&mut self) {
        // If this fails, the next drill stops the server.
        let _ = self.stop();
    }
}

/// Returns the error of a server that ended by itself.
pub fn unexpected_end(status: ExitStatus) -> Error {
    let status = match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    };
    Error::new(Kind::Problem, format!("the server ended with {status}"))
}
