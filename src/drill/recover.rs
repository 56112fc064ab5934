//! Recovery of the drill's server: its configuration, its signal file, and the cause of a failure.

use super::cause::{Cause, is_about_the_host};
use super::runner::Runner;
use super::server::DrillServer;
use super::settings::ServerConfig;
use super::workdir::Workdir;
use crate::error::{Error, Kind, Result};
use crate::pg::control::Control;
use crate::pg::lsn::Lsn;
use crate::pg::record::Parameters;

/// Name and value of a setting.
pub type RecoverySetting = (&'static str, String);

/// Files that make a server recover: to a target, or as a standby.
const SIGNAL_FILES: [&str; 2] = ["recovery.signal", "standby.signal"];

/// Parts of the messages about a process that has crashed.
const CRASHED: [&str; 2] = ["was terminated by signal 11", "was terminated by signal 6"];

/// A restored data directory to recover.
#[derive(Clone)]
pub struct Recovering<'a> {
    pub workdir: &'a Workdir,
    pub runner: &'a Runner<'a>,
    /// Libraries that replaying the WAL needs; usually empty.
    pub preload: &'a str,
    /// Settings of the recovery.
    pub settings: Vec<RecoverySetting>,
    /// Highest values that the settings have in the WAL to replay.
    pub raised: Parameters,
}

impl Recovering<'_> {
    /// Writes the configuration. `overrides` replace settings of the same name.
    pub fn configure(&self, overrides: &[RecoverySetting]) -> Result<()> {
        let workdir = self.workdir;
        let stays = |setting: &&RecoverySetting| !overrides.iter().any(|other| other.0 == setting.0);
        let recovery: Vec<RecoverySetting> =
            self.settings.iter().filter(stays).chain(overrides).cloned().collect();
        let config = ServerConfig {
            etc: &workdir.join("etc"),
            socket: &workdir.join("socket"),
            control: &Control::read(&workdir.join("data"))?,
            raised: self.raised,
            preload: self.preload,
            recovery: &recovery,
        };
        workdir.write("etc/postgresql.conf", &config.postgresql_conf())?;
        workdir.write("etc/pg_hba.conf", config.pg_hba_conf())?;
        workdir.write("etc/pg_ident.conf", "")
    }

    /// Starts the server with this signal file alone and these overrides.
    pub fn start(&self, signal: &str, overrides: &[RecoverySetting]) -> Result<DrillServer> {
        for name in SIGNAL_FILES {
            let below = format!("data/{name}");
            if name == signal {
                self.workdir.write(&below, "")?;
            } else {
                self.workdir.remove(&below)?;
            }
        }
        self.configure(overrides)?;
        DrillServer::start(self.workdir, self.runner)
    }

    /// Recovers to the target, and waits until the server accepts connections.
    pub fn run(&self) -> Result<DrillServer> {
        let mut server = self.start(SIGNAL_FILES[0], &[])?;
        match server.await_ready(self.runner) {
            Ok(()) => Ok(server),
            Err(error) => Err(explain_failure(error, &server)),
        }
    }

    /// Recovers until the record that begins at `last` is replayed, and shuts the server down
    /// there, so that another server can continue the recovery.
    pub fn to_record(&self, last: Lsn) -> Result<()> {
        let target =
            [("recovery_target_lsn", last.to_string()), ("recovery_target_action", "shutdown".to_owned())];
        let mut server = self.start(SIGNAL_FILES[0], &target)?;
        server.await_end(self.runner).map_err(|error| explain_failure(error, &server))?;
        if Control::read(&self.workdir.join("data"))?.is_shut_down_in_recovery() {
            return Ok(());
        }
        let error = Error::new(Kind::Problem, "the server ended before the end of the archive");
        Err(explain_failure(error, &server))
    }
}

/// Adds the cause from the log to the error of a server that ended. The error remains a `Problem`
/// of the backup only when neither this host nor the repository was the cause: all WAL was read
/// before, so a failed fetch is an outage.
pub fn explain_failure(error: Error, server: &DrillServer) -> Error {
    if error.kind() != Kind::Problem {
        return error;
    }
    let log = match server.log() {
        Ok(log) => log,
        // Without the log the cause is unknown.
        Err(unreadable) => return unreadable,
    };
    let error = Error::new(Kind::Problem, format!("{error}: {}", log.reason()));
    if let Some(fetch_error) = log.fetch_error() {
        return Error::new(Kind::Unavailable, format!("{error}: {fetch_error}")).hint(
            "the WAL could be read before: can the user that runs the server still reach the repository?",
        );
    }
    let causes: Vec<Cause> = log.problems(0, &["PANIC", "FATAL"]).iter().map(Cause::of_problem).collect();
    // A crash may be the work of damaged data. A server that ends without a word about data was killed,
    // or had no process, memory or file left.
    let is_of_data = causes.contains(&Cause::Data) || CRASHED.iter().any(|words| log.mentions(words));
    if !is_of_data || log.last_line(is_about_the_host).is_some() {
        return error.with_kind(Kind::Unavailable).hint(
            "the cause is this host and not the backup: its memory, its disk, its permissions, or a library. Name libraries that the WAL needs in `preload` in [drill] of the configuration",
        );
    }
    error.hint("`walkeep drill --keep` leaves the directory with the server's log")
}
