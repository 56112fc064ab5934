//! One start of a program: as the account, with a clean environment, within a deadline, and
//! everything it said.

use super::account;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// A start being prepared.
#[derive(Clone)]
pub struct Run {
    /// What stands before the program: `strace …`, `prlimit …`, `sh -c 'umask 0; exec "$@"' sh`.
    before: Vec<OsString>,
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    deadline: Duration,
    /// User and group, if not those of the account.
    user: Option<(u32, u32)>,
}

impl Run {
    /// Any program, by its path or found in `/usr/bin` and `/bin`.
    pub fn new(program: impl Into<OsString>) -> Run {
        Run {
            before: Vec::new(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: PathBuf::from("/"),
            deadline: super::wait::LONG,
            user: None,
        }
    }

    /// One of the three programs under test.
    pub fn of(name: &str) -> Run {
        Run::new(program(name))
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Run {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Run {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The working directory; `/` unless told.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Run {
        self.directory = directory.into();
        self
    }

    /// Puts another program in front, which is to start this one.
    pub fn under<A: AsRef<OsStr>>(mut self, before: impl IntoIterator<Item = A>) -> Run {
        let mut front: Vec<OsString> = before.into_iter().map(|a| a.as_ref().to_owned()).collect();
        front.append(&mut self.before);
        self.before = front;
        self
    }

    /// How long it may take before it is killed and the test fails.
    pub fn deadline(mut self, deadline: Duration) -> Run {
        self.deadline = deadline;
        self
    }

    /// Runs it as root, where the tests run as root.
    pub fn by_root(self) -> Run {
        if account::account().root { self.user(0, 0) } else { self }
    }

    /// Runs it as another user and group; root is 0 and 0.
    pub fn user(mut self, user: u32, group: u32) -> Run {
        self.user = Some((user, group));
        self
    }

    fn command(&self) -> Command {
        let mut words = self.before.iter().chain(std::iter::once(&self.program)).chain(&self.arguments);
        let program = words.next().expect("a program");
        let mut command = match self.user {
            Some((user, group)) => account::command_as(program, user, group),
            None => account::command(program),
        };
        command
            .args(words)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it and returns at once; the calling thread has to live until the program ended.
    #[track_caller]
    pub fn spawn(&self) -> Child {
        self.command().spawn().unwrap_or_else(|error| panic!("start {self:?}: {error}"))
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn go(&self) -> Outcome {
        let child = self.spawn();
        self.finish(child)
    }

    /// Waits for the end of what [`Run::spawn`] started; kills it and panics at the deadline.
    #[track_caller]
    pub fn finish(&self, child: Child) -> Outcome {
        let pid = child.id();
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || send.send(child.wait_with_output()));
        match receive.recv_timeout(self.deadline) {
            Ok(output) => Outcome::new(format!("{self:?}"), output.expect("wait for a program")),
            Err(_) => {
                signal(pid, "KILL");
                panic!("{self:?} did not end within {:?}", self.deadline);
            }
        }
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program);
        write!(f, "{}", name.to_string_lossy())?;
        for argument in &self.arguments {
            write!(f, " {}", argument.to_string_lossy())?;
        }
        Ok(())
    }
}

/// Sends a signal (`TERM`, `KILL`, `STOP`, `CONT`) to one process.
pub fn signal(pid: u32, name: &str) {
    // A process that is gone already is as good as one that got it.
    let _ = Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status();
}

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub what: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    fn new(what: String, output: Output) -> Outcome {
        Outcome {
            what,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The exit status; none after death by a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// It ended with 0.
    #[track_caller]
    pub fn ok(self) -> Outcome {
        assert_eq!(self.code(), Some(0), "expected success\n{self}");
        self
    }

    /// It ended with exactly this status.
    #[track_caller]
    pub fn is(self, code: i32) -> Outcome {
        assert_eq!(self.code(), Some(code), "expected status {code}\n{self}");
        self
    }

    /// A push that said no: a status that PostgreSQL counts (1 to 125), and an error.
    #[track_caller]
    pub fn refused(self) -> Outcome {
        assert!(matches!(self.code(), Some(1..=125)), "expected a status from 1 to 125\n{self}");
        self.told()
    }

    /// A fetch that says "this is the end of the archive": status 1.
    #[track_caller]
    pub fn absent(self) -> Outcome {
        self.is(1)
    }

    /// A fetch that could not do its work: status 200, and an error.
    #[track_caller]
    pub fn fatal(self) -> Outcome {
        self.is(200).told()
    }

    /// A verb of `walkeep` that did not do what it was asked for: status 1 or 2, and an error.
    #[track_caller]
    pub fn failed(self) -> Outcome {
        assert!(matches!(self.code(), Some(1 | 2)), "expected status 1 or 2\n{self}");
        self.told()
    }

    /// Standard error says what is wrong, and not by a panic.
    #[track_caller]
    pub fn told(self) -> Outcome {
        assert!(self.stderr.contains("error:"), "no line says what is wrong\n{self}");
        assert!(!self.stderr.contains("panicked at"), "a panic is not an error message\n{self}");
        self
    }

    /// Standard error mentions this.
    #[track_caller]
    pub fn says(self, text: &str) -> Outcome {
        assert!(self.stderr.contains(text), "expected the message to contain {text:?}\n{self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("status {code}"),
            (None, signal) => format!("signal {signal:?}"),
        };
        write!(f, "--- {}\n--- {end}\n--- stdout\n{}\n--- stderr\n{}", self.what, self.stdout, self.stderr)
    }
}

/// The path of a program under test. They are copied once for each test process, because the
/// checkout they were built in may be closed to the account.
pub fn program(name: &str) -> PathBuf {
    programs().join(name)
}

/// The directory with the copies of `walpush`, `walfetch` and `walkeep`.
pub fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let base = std::env::temp_dir();
        sweep(&base);
        let directory = base.join(format!("{COPIES}{}", std::process::id()));
        // `install` and not this process writes the files: a thread that forks while a file is open
        // for writing makes starting that file fail with "text file busy".
        let status = Command::new("install")
            .args(["-D", "-m", "0755", "-t"])
            .arg(&directory)
            .arg(env!("CARGO_BIN_EXE_walpush"))
            .arg(env!("CARGO_BIN_EXE_walfetch"))
            .arg(env!("CARGO_BIN_EXE_walkeep"))
            .status()
            .expect("start install");
        assert!(status.success(), "copy the programs to {}", directory.display());
        std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("open the directory of the programs");
        directory
    })
}

const COPIES: &str = "walkeep-programs-";

/// Removes the copies of test processes that are gone: nothing runs at the end of a test process,
/// so the next one cleans up.
fn sweep(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(COPIES));
        if let Some(Ok(pid)) = pid.map(str::parse::<u32>)
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
