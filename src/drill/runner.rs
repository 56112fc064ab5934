//! Starts programs of PostgreSQL for a drill, and ends them when the drill is cancelled or has
//! timed out.

use super::workdir::Workdir;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::programs::Programs;
use crate::progress::Cancel;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Interval at which the state of a process is checked.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Environment and limits of the programs of one drill.
#[derive(Clone)]
pub struct Runner<'a> {
    pub programs: &'a Programs,
    /// User and group of the data directory, when this process is root and switches to them; else
    /// `None`.
    pub user: Option<(u32, u32)>,
    /// Environment variables to remove, since they would change what the programs do.
    pub cleared_variables: &'a [String],
    pub cancel: &'a Cancel,
    pub deadline: Instant,
}

impl Runner<'_> {
    /// Fails when the drill was cancelled or has timed out.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(Kind::Failed, "the drill was interrupted"));
        }
        if Instant::now() > self.deadline {
            return Err(Error::new(Kind::Timeout, "the drill timed out")
                .hint("raise `timeout` in [drill] of the configuration, or use --timeout"));
        }
        Ok(())
    }

    /// Time left until the deadline.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Returns a command with the environment of the drill.
    pub fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory).stdin(Stdio::null());
        // A signal from the terminal reaches the whole process group; only walkeep handles it.
        command.process_group(0);
        for name in self.cleared_variables {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Runs a program to its end. Returns its status and its output, both streams together.
    pub fn run(&self, program: &Path, arguments: &[&str], workdir: &Workdir) -> Result<(ExitStatus, String)> {
        let doing = || format!("run {}", program.display());
        let path = workdir.join("output");
        let output = File::create(&path).doing(doing)?;
        let mut command = self.command(program, workdir.path());
        command.args(arguments);
        command.stdout(output.try_clone().doing(doing)?).stderr(output);
        let mut child = command.spawn().doing(doing)?;
        let ended = loop {
            if let Some(status) = child.try_wait().doing(doing)? {
                break Ok(status);
            }
            if let Err(error) = self.check() {
                break Err(error);
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let text = std::fs::read(&path).doing(doing)?;
        Ok((ended.doing(doing)?, String::from_utf8_lossy(&text).into_owned()))
    }
}
