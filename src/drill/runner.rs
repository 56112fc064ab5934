//! Starts programs of PostgreSQL for a drill, and ends them when the drill is cancelled or has
//! timed out.

use super::workdir::Workdir;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::programs::Programs;
use crate::progress::Cancel;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Interval at which the state of a process is checked.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// File in the working directory with the output of a program.
const OUTPUT: &str = "output";

/// Maximum number of bytes of it that are read.
const MAX_OUTPUT: u64 = 1 << 20;

/// Environment and limits of the programs of one drill.
#[derive(Clone)]
pub struct Runner<'a> {
    pub programs: &'a Programs,
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
        command
    }

    /// Runs a program to its end. Returns its status and its output, both streams together.
    pub fn run(&self, program: &Path, arguments: &[&str], workdir: &Workdir) -> Result<(ExitStatus, String)> {
        let doing = || format!("run {}", program.display());
        let mut written = workdir.create(OUTPUT).doing(doing)?;
        let output = written.try_clone().doing(doing)?;
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
        let mut text = Vec::new();
        written.rewind().doing(doing)?;
        written.take(MAX_OUTPUT).read_to_end(&mut text).doing(doing)?;
        Ok((ended.doing(doing)?, String::from_utf8_lossy(&text).into_owned()))
    }
}
