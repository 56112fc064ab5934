//! Delivery of a notice to a program: JSON on its standard input, variables in its environment, no
//! shell.

use super::Notice;
use crate::error::{Doing, Error, Kind, Result};
use crate::runtime::thread;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Runs the command as a user and a group, `None` for those of this process, in a process group of its own, which is killed after `limit`.
pub fn run(words: &[String], notice: &Notice, limit: Duration, run_as: Option<(u32, u32)>) -> Result<()> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| Error::defect("an empty command for notices"))?;
    let doing = || format!("run {program}");
    let text = notice.json().to_string() + "\n";
    let mut command = Command::new(program);
    if let Some((user, group)) = run_as {
        command.uid(user).gid(group);
    }
    let mut child = command
        .args(arguments)
        .envs(notice.environment())
        .stdin(Stdio::piped())
        // The output of the command is discarded; its standard error is that of walkeep.
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .doing(doing)?;
    if let Some(mut input) = child.stdin.take() {
        // The command need not read its input, so a thread writes: a full pipe must not block.
        let write = move || drop(input.write_all(text.as_bytes()));
        let _detached = thread::spawn("notice", write).doing(doing)?;
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::defect("a child process without a valid id").doing(doing()))?;
    let (sender, ended) = mpsc::sync_channel(1);
    let wait = move || {
        // NOWAIT keeps the process as a zombie until `child.wait` below, so its id is not reused
        // before the kill.
        let status = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _ = sender.send(status.map(|_| ()));
    };
    let _detached = thread::spawn("notice", wait).doing(doing)?;
    let is_late = ended.recv_timeout(limit).is_err();
    if is_late {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait().doing(doing)?;
    if is_late {
        let message = format!("timed out after {} s and was killed", limit.as_secs_f64());
        return Err(Error::new(Kind::Timeout, message)
            .doing(doing())
            .hint("raise `timeout` in [notify], or let the command work in the background"));
    }
    if !status.success() {
        return Err(Error::new(Kind::Failed, format!("ended with {status}")).doing(doing()));
    }
    Ok(())
}
