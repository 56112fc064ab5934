//! A program that is given a notice: JSON on its standard input, facts in its environment, and no shell.

use super::Notice;
use crate::error::{Doing, Error, Kind, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Runs it in a process group of its own, which is killed when the time is over.
pub fn run(words: &[String], notice: &Notice, limit: Duration) -> Result<()> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| Error::new(Kind::Config, "there is no command"))?;
    let doing = || format!("run {program}");
    let text = notice.json().to_string() + "\n";
    let mut child = Command::new(program)
        .args(arguments)
        .envs(notice.environment())
        .stdin(Stdio::piped())
        // What it prints is not what was asked for; its errors are for whoever reads ours.
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .doing(doing)?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read must not hold anybody up, and need not read.
        let write = move || drop(input.write_all(text.as_bytes()));
        std::thread::Builder::new().name("notice".into()).spawn(write).doing(doing)?;
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::new(Kind::Failed, "it has no process").doing(doing()))?;
    let (tell, told) = mpsc::sync_channel(1);
    let wait = move || {
        // It stays there until it is waited for below, so nobody else gets its number.
        let ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _ = tell.send(ended.map(|_| ()));
    };
    std::thread::Builder::new().name("notice".into()).spawn(wait).doing(doing)?;
    let is_late = told.recv_timeout(limit).is_err();
    if is_late {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait().doing(doing)?;
    match (is_late, status.success()) {
        (true, _) => Err(Error::new(
            Kind::Timeout,
            format!("it took more than {} s, and was ended", limit.as_secs_f64()),
        )
        .doing(doing())
        .hint("raise `timeout` in [notify], or let it work in the background")),
        (false, true) => Ok(()),
        (false, false) => Err(Error::new(Kind::Failed, format!("it ended with {status}")).doing(doing())),
    }
}
