//! A program run under `strace`: system calls that fail, kill or take long at a chosen place, and
//! the calls it made in their order.

use super::{Outcome, Run, Scratch, skipped, wait};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::OnceLock;

/// How to trace.
pub struct Strace {
    options: Vec<String>,
    log: PathBuf,
    scratch: Scratch,
}

impl Strace {
    /// None where `strace` is missing or forbidden; then the test's output says that it was
    /// skipped.
    pub fn new() -> Option<Strace> {
        static WORKS: OnceLock<bool> = OnceLock::new();
        let works = *WORKS.get_or_init(|| {
            let mut probe = super::account::command("strace");
            let probe = probe.args(["-o", "/dev/null", "true"]).output();
            probe.is_ok_and(|output| output.status.success())
        });
        if !works {
            skipped("strace", "strace is not installed or may not trace here");
            return None;
        }
        let scratch = Scratch::new();
        Some(Strace { options: Vec::new(), log: scratch.join("strace"), scratch })
    }

    /// Which calls to record: `openat,fsync`; all unless told.
    pub fn trace(mut self, calls: &str) -> Strace {
        self.options.extend(["-e".into(), format!("trace={calls}")]);
        self
    }

    /// A fault: `fsync:error=EIO:when=1`, `rename,linkat:signal=KILL:when=2`,
    /// `read:delay_enter=100000` (in microseconds). `when` counts in each thread by itself.
    pub fn inject(mut self, fault: &str) -> Strace {
        self.options.extend(["-e".into(), format!("inject={fault}")]);
        self
    }

    /// Records, and makes fail, only calls on exactly this path.
    pub fn only(mut self, path: &Path) -> Strace {
        self.options.extend(["-P".into(), path.display().to_string()]);
        self
    }

    /// The program that is started is the traced one, and strace its grandchild: signals and the
    /// death of the parent reach it as they would without strace.
    pub fn detached(mut self) -> Strace {
        self.options.push("-D".into());
        self
    }

    /// What has to stand before a command for it to be traced.
    pub fn prefix(&self) -> Vec<String> {
        let mut words: Vec<String> = ["strace", "-f", "-y", "-s", "256", "-o"].map(String::from).to_vec();
        words.push(self.log.display().to_string());
        words.extend(self.options.iter().cloned());
        words.push("--".into());
        words
    }

    /// The start of this program under strace.
    pub fn around(&self, run: &Run) -> Run {
        run.clone().under(self.prefix())
    }

    /// Runs a program to its end.
    #[track_caller]
    pub fn go(&self, run: &Run) -> Traced {
        let outcome = self.around(run).go();
        Traced { outcome, calls: self.calls() }
    }

    /// Starts it and returns at once.
    #[track_caller]
    pub fn spawn(&self, run: &Run) -> Child {
        self.around(run).spawn()
    }

    /// The calls recorded so far.
    pub fn calls(&self) -> Vec<Call> {
        parse(&String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()))
    }

    /// The record as it is.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Awaits the first recorded call and returns the process that made it.
    #[track_caller]
    pub fn await_call(&self) -> u32 {
        wait::until("a traced call is made", || !self.text().trim().is_empty());
        let text = self.text();
        let pid = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
        pid.unwrap_or_else(|| panic!("strace wrote {text:?}"))
    }
}

/// A program that ran under strace.
pub struct Traced {
    pub outcome: Outcome,
    pub calls: Vec<Call>,
}

impl Traced {
    /// Whether any call was tampered with.
    pub fn was_hit(&self) -> bool {
        self.calls.iter().any(|call| call.injected)
    }

    /// The record, for a failure's message.
    pub fn story(&self) -> String {
        let lines: Vec<String> = self
            .calls
            .iter()
            .map(|call| format!("{} {}({}) = {}", call.pid, call.name, call.arguments, call.result))
            .collect();
        format!("{}\n--- calls\n{}", self.outcome, lines.join("\n"))
    }
}

/// One system call.
#[derive(Debug, Clone)]
pub struct Call {
    pub pid: u32,
    pub name: String,
    pub arguments: String,
    /// What it returned: `0`, `3</path>`, `-1 EIO (Input/output error)`, `?` when it never did.
    pub result: String,
    /// Where in the record it began and ended: with several threads calls overlap.
    pub began: usize,
    pub ended: usize,
    /// Whether strace tampered with it.
    pub injected: bool,
}

impl Call {
    pub fn succeeded(&self) -> bool {
        !self.result.starts_with("-1") && !self.result.starts_with('?')
    }

    /// The path behind the first descriptor among the arguments.
    pub fn descriptor_path(&self) -> Option<&Path> {
        let (before, rest) = self.arguments.split_once('<')?;
        if before.contains('"') {
            return None;
        }
        rest.split_once('>').map(|(path, _)| Path::new(path))
    }

    /// All paths among the arguments: the quoted ones, with the directory before each put in front.
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut rest = self.arguments.as_str();
        while let Some((before, after)) = rest.split_once('"') {
            let Some((quoted, behind)) = after.split_once('"') else {
                break;
            };
            let directory = before.rsplit_once('<').and_then(|(_, d)| d.split_once('>'));
            let directory = directory.map(|(directory, _)| directory).unwrap_or("/");
            found.push(Path::new(directory).join(quoted));
            rest = behind;
        }
        found
    }

    /// A call that makes what was written before it durable.
    pub fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync" | "syncfs") && self.succeeded()
    }

    /// A call that gives a file another name.
    pub fn is_publish(&self) -> bool {
        matches!(self.name.as_str(), "rename" | "renameat" | "renameat2" | "link" | "linkat")
    }
}

fn parse(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: std::collections::BTreeMap<u32, (String, usize)> = Default::default();
    for (number, line) in text.lines().enumerate() {
        let Some((pid, rest)) = line.split_once(' ') else {
            continue;
        };
        let (Ok(pid), rest) = (pid.parse::<u32>(), rest.trim_start()) else {
            continue;
        };
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            open.insert(pid, (begun.trim_end().to_owned(), number));
        } else if rest.starts_with("<... ") {
            let tail = rest.split_once("resumed>").map(|(_, tail)| tail).unwrap_or("");
            if let Some((head, began)) = open.remove(&pid) {
                calls.extend(call(pid, &format!("{head}{tail}"), began, number));
            }
        } else {
            calls.extend(call(pid, rest, number, number));
        }
    }
    for (pid, (head, began)) in open {
        calls.extend(call(pid, &format!("{head}) = ?"), began, usize::MAX));
    }
    calls.sort_by_key(|call| (call.ended, call.began));
    calls
}

fn call(pid: u32, text: &str, began: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end();
    Some(Call {
        pid,
        name: name.to_owned(),
        arguments: arguments.strip_suffix(')').unwrap_or(arguments).to_owned(),
        result: result.to_owned(),
        began,
        ended,
        injected: result.contains("(INJECTED)") || result.contains("(DELAYED)"),
    })
}
