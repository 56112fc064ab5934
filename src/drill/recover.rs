//! Recovery of the drill's server: its configuration, its signal file, and what it means when it ends.

use super::place::Place;
use super::server::{Server, Surroundings};
use super::settings::Settings;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::control::Control;
use crate::pg::lsn::Lsn;

/// A setting and its value.
pub type Setting = (&'static str, String);

const SIGNALS: [&str; 2] = ["recovery.signal", "standby.signal"];

/// What a server says when this machine is in the way, and not the backup.
const MACHINE: [&str; 8] = [
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "could not create shared memory",
    "could not load library",
    "could not access file \"",
    "resource manager with ID",
    "Permission denied",
];

/// A restored directory that is to be recovered.
pub struct Recovering<'a> {
    pub place: &'a Place,
    pub surroundings: &'a Surroundings<'a>,
    /// Libraries without which the WAL cannot be replayed; mostly none.
    pub preload: &'a str,
    /// How, by the names of the settings.
    pub settings: Vec<Setting>,
}

impl Recovering<'_> {
    /// Writes the configuration, with these settings instead of those of the same name.
    pub fn configure(&self, instead: &[Setting]) -> Result<()> {
        let place = self.place;
        let stays = |setting: &&Setting| !instead.iter().any(|other| other.0 == setting.0);
        let recovery: Vec<Setting> = self.settings.iter().filter(stays).chain(instead).cloned().collect();
        let settings = Settings {
            etc: &place.join("etc"),
            socket: &place.join("socket"),
            control: &Control::read(&place.join("data"))?,
            preload: self.preload,
            recovery: &recovery,
        };
        place.write("etc/postgresql.conf", &settings.postgresql_conf())?;
        place.write("etc/pg_hba.conf", settings.pg_hba_conf())?;
        place.write("etc/pg_ident.conf", "")?;
        match self.surroundings.user {
            Some((user, group)) => place.give(user, group),
            None => Ok(()),
        }
    }

    /// Starts the server, by this signal file.
    pub fn start(&self, signal: &str, instead: &[Setting]) -> Result<Server> {
        for name in SIGNALS {
            let path = self.place.join("data").join(name);
            let doing = || format!("write {}", path.display());
            if name == signal {
                std::fs::write(&path, "").doing(doing)?;
                if let Some((user, group)) = self.surroundings.user {
                    std::os::unix::fs::lchown(&path, Some(user), Some(group)).doing(doing)?;
                }
            } else if path.exists() {
                std::fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
            }
        }
        self.configure(instead)?;
        Server::start(self.place, self.surroundings)
    }

    /// Recovers, and waits until the server takes connections.
    pub fn run(&self) -> Result<Server> {
        let mut server = self.start(SIGNALS[0], &[])?;
        match server.await_ready(self.surroundings) {
            Ok(()) => Ok(server),
            Err(error) => Err(why_not(error, &server)),
        }
    }

    /// Recovers until the record that begins there is replayed, and stops the server: recovery can go on.
    pub fn to_record(&self, last: Lsn) -> Result<()> {
        let target =
            [("recovery_target_lsn", last.to_string()), ("recovery_target_action", "shutdown".to_owned())];
        let mut server = self.start(SIGNALS[0], &target)?;
        server.await_end(self.surroundings).map_err(|error| why_not(error, &server))?;
        match Control::read(&self.place.join("data"))?.is_shut_down_in_recovery() {
            true => Ok(()),
            false => Err(why_not(
                Error::new(Kind::Problem, "the server ended before it came to the end of the archive"),
                &server,
            )),
        }
    }
}

/// What a server that ended says about the backup: nothing, when this machine or the way to the archive was in the
/// way. All WAL had been read before, so a fetch that failed was an outage.
pub fn why_not(error: Error, server: &Server) -> Error {
    if error.kind() != Kind::Problem {
        return error;
    }
    let log = match server.log() {
        Ok(log) => log,
        // It would have said whose fault it is.
        Err(unread) => return unread,
    };
    let reason = log.reason();
    let error = Error::new(Kind::Problem, format!("{error}: {reason}"));
    if let Some(complaint) = log.complaint() {
        return Error::new(Kind::Unavailable, format!("{error}: {complaint}")).hint(
            "the WAL could be read before: is the repository in reach of the user that runs the server?",
        );
    }
    match MACHINE.iter().any(|words| log.mentions(words)) {
        true => error.with_kind(Kind::Unavailable).hint(
            "this machine is in the way, not the backup. Libraries that the WAL needs are named by `preload` in [drill] of the configuration",
        ),
        false => error.hint("look at it: `walkeep drill --keep` leaves the directory with the server's log"),
    }
}
