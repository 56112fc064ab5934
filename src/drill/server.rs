//! The server of a drill: started by this process, on the scratch directory alone, stopped without mercy, since nothing
//! of it is kept. Other programs of PostgreSQL run in the same way.

use super::place::Place;
use crate::error::{Doing, Error, Kind, Result};
use crate::progress::Cancel;

use crate::pg::client::{Options, Session};
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::pg::programs::Programs;
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a process is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// How long the server may take to end when it is told to; it kills its own processes after five seconds.
const END: Duration = Duration::from_secs(15);

/// A role was tried that does not exist, or may not log in.
const NO_ROLE: &str = " 28000 FATAL:  ";

/// The process that streams. It ends with the words of an error also when it is told to, and what it cannot do counts
/// where it matters.
const RECEIVER: &str = "] walreceiver ";

/// Lines of the drill in the log, around what the server says because it is told to stop: that says nothing of what was
/// restored. A kept log tells by them which of the server's ends were wanted.
const TOLD: &str = "walkeep drill: the server is told to stop";
const ENDED: &str = "walkeep drill: the server has ended";

/// How much of a log is shown.
const SHOWN: usize = 5;

/// How programs are started here.
#[derive(Clone)]
pub struct Surroundings<'a> {
    pub cancel: &'a Cancel,
    pub programs: &'a Programs,
    /// The user and group of the files, when that is not who runs this.
    pub user: Option<(u32, u32)>,
    /// Variables of the environment that would steer PostgreSQL's programs.
    pub forgotten: &'a [String],
    pub until: Instant,
}

impl Surroundings<'_> {
    /// Whether it has to end: somebody wants that, or its time is over.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(Kind::Failed, "it was interrupted"));
        }
        if Instant::now() > self.until {
            return Err(Error::new(Kind::Timeout, "the time for the drill is over")
                .hint("`timeout` in [drill] of the configuration, or --timeout, gives it more"));
        }
        Ok(())
    }

    fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory).stdin(Stdio::null());
        // A signal that the terminal sends to all is for this program to answer.
        command.process_group(0);
        for name in self.forgotten {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Runs a program to its end; what it said, on both outputs.
    pub fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
        place: &Place,
    ) -> Result<(ExitStatus, String)> {
        let doing = || format!("run {}", program.display());
        let path = place.join("said");
        let said = File::create(&path).doing(doing)?;
        let mut command = self.command(program, place.path());
        command.args(arguments).envs(variables.iter().copied());
        command.stdout(said.try_clone().doing(doing)?).stderr(said);
        let mut child = command.spawn().doing(doing)?;
        let ended = loop {
            if let Some(status) = child.try_wait().doing(doing)? {
                break Ok(status);
            }
            if let Err(error) = self.check() {
                break Err(error);
            }
            std::thread::sleep(POLL);
        };
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let text = std::fs::read(&path).doing(doing)?;
        Ok((ended.doing(doing)?, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// A running server; stopped when it is dropped.
pub struct Server {
    child: Child,
    status: Option<ExitStatus>,
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts it on the data directory of the place, with the configuration that lies there.
    pub fn start(place: &Place, surroundings: &Surroundings<'_>) -> Result<Server> {
        let (data, log) = (place.join("data"), place.join("server.log"));
        let doing = || "start the server".to_owned();
        let out = File::options().append(true).create(true).open(&log).doing(doing)?;
        let mut command = surroundings.command(&surroundings.programs.postgres(), &data);
        command.arg("-D").arg(&data);
        command.arg("-c").arg(format!("config_file={}", place.join("etc/postgresql.conf").display()));
        command.stdout(out.try_clone().doing(doing)?).stderr(out);
        let child = command.spawn().doing(doing)?;
        Ok(Server { child, status: None, data, socket: place.join("socket"), log })
    }

    /// Waits until recovery is over and the server takes connections.
    pub fn await_ready(&mut self, surroundings: &Surroundings<'_>) -> Result<()> {
        loop {
            if let Some(status) = self.ended()? {
                return Err(Error::new(Kind::Problem, format!("the server ended with {}", words(status))));
            }
            if self.is_ready() {
                return Ok(());
            }
            surroundings.check()?;
            std::thread::sleep(POLL);
        }
    }

    /// Waits for the end of a server that stops by itself.
    pub fn await_end(&mut self, surroundings: &Surroundings<'_>) -> Result<()> {
        loop {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(Error::new(
                        Kind::Problem,
                        format!("the server ended with {}", words(status)),
                    ));
                }
                None => surroundings.check()?,
            }
            std::thread::sleep(POLL);
        }
    }

    /// What the server writes behind its addresses: it is the sign that `pg_ctl` waits for.
    pub fn is_ready(&self) -> bool {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        text.lines().nth(7).is_some_and(|status| status.trim() == "ready")
    }

    /// Its number: its own until [`Server::ended`] has said that it ended.
    pub fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().doing(|| "look at the server".to_owned())?;
        }
        Ok(self.status)
    }

    /// A session of this user.
    pub fn session(&self, user: &str, database: &str) -> Result<Session> {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        let text = format!(
            "host='{}' port=5432 user='{}' dbname='{}' options='{}'",
            quoted(&self.socket.to_string_lossy()),
            quoted(user),
            quoted(database),
            quoted(self.options()),
        );
        let environment = Environment { variable: &|_| None, home: None, user: None };
        Session::connect(&ConnInfo::parse(&text, &environment)?, &Options::default())
    }

    /// Settings of a role or a database come before those of the configuration; these come before them.
    pub fn options(&self) -> &'static str {
        "-c session_preload_libraries= -c local_preload_libraries= -c jit=off \
         -c default_transaction_read_only=off -c row_security=off"
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What all servers of this place wrote until they were told to stop.
    pub fn log(&self) -> Result<Log> {
        let text = std::fs::read(&self.log).doing(|| format!("read {}", self.log.display()))?;
        Ok(Log::new(&String::from_utf8_lossy(&text)))
    }

    fn note(&self, line: &str) -> Result<()> {
        let doing = || format!("write {}", self.log.display());
        let mut log = File::options().append(true).open(&self.log).doing(doing)?;
        log.write_all(format!("{line}\n").as_bytes()).doing(doing)
    }

    /// Stops it at once, and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let noted = self.note(TOLD);
        for signal in [Signal::QUIT, Signal::KILL] {
            let told = Instant::now();
            if self.ended()?.is_none()
                && let Some(pid) = self.pid()
            {
                let _ = rustix::process::kill_process(pid, signal);
            }
            while self.ended()?.is_none() && told.elapsed() < END {
                std::thread::sleep(POLL);
            }
        }
        match self.ended()? {
            Some(_) => noted.and(self.note(ENDED)),
            None => Err(Error::new(Kind::Failed, "the server does not end")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What stays is stopped by the next drill.
        let _ = self.stop();
    }
}

/// What the server wrote.
pub struct Log(String);

impl Log {
    fn new(text: &str) -> Log {
        let mut judged = String::with_capacity(text.len());
        let mut is_told = false;
        for line in text.split_inclusive('\n') {
            // The server may have been in the middle of a line.
            let end = line.trim_end();
            if end.ends_with(TOLD) || end.ends_with(ENDED) {
                is_told = end.ends_with(TOLD);
            } else if !is_told {
                judged.push_str(line);
            }
        }
        Log(judged)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The lines from a position on that tell of something wrong.
    pub fn problems(&self, from: usize, severities: &[&str]) -> Vec<&str> {
        let lines = self.0.get(from..).unwrap_or_default().lines();
        let is_meant =
            |line: &&str| severities.iter().any(|severity| line.contains(&format!(" {severity}:  ")));
        let is_ours = |line: &&str| [NO_ROLE, RECEIVER].iter().any(|words| line.contains(words));
        lines.filter(|line| is_meant(line) && !is_ours(line)).collect()
    }

    /// The last line with these words, without what stands before them all.
    pub fn line_with(&self, words: &str) -> Option<&str> {
        self.0.lines().rev().find(|line| line.contains(words)).map(short)
    }

    /// The last line that tells of something wrong, else the last one.
    pub fn last_word(&self) -> &str {
        let is_bad =
            |line: &&str| ["ERROR:  ", "FATAL:  ", "PANIC:  "].iter().any(|word| line.contains(word));
        let last = self.0.lines().rev().find(is_bad).or(self.0.lines().last());
        last.map(short).unwrap_or("it says nothing")
    }

    pub fn mentions(&self, text: &str) -> bool {
        self.0.contains(text)
    }

    /// The last lines of `restore_command` itself, which have no prefix.
    pub fn complaint(&self) -> Option<&str> {
        self.0.lines().rev().find(|line| line.starts_with("walfetch: error:"))
    }

    /// Why it ended, in few words.
    pub fn reason(&self) -> String {
        let problems = self.problems(0, &["ERROR", "FATAL", "PANIC"]);
        let lines = if problems.is_empty() { self.0.lines().collect() } else { problems };
        let from = lines.len().saturating_sub(SHOWN);
        lines.get(from..).unwrap_or_default().iter().map(|line| short(line)).collect::<Vec<_>>().join("; ")
    }
}

/// A line without its time and process.
pub fn short(line: &str) -> &str {
    let severity =
        ["ERROR:", "FATAL:", "PANIC:", "WARNING:", "LOG:"].iter().filter_map(|word| line.find(word)).min();
    severity.and_then(|at| line.get(at..)).unwrap_or(line)
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}
