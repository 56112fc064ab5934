//! Log of the drill's servers, without the messages that the drill itself causes by stopping them:
//! these say nothing about the backup.

use crate::error::{Doing, Error, Kind, Result};
use crate::fs::folder::{Folder, Rights};
use crate::fs::named;
use parking_lot::Mutex;
use rustix::fs::{OFlags, fcntl_setfl};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// SQLSTATE and severity of a failed login: the drill tried a role that does not exist or may not
/// log in.
const UNKNOWN_ROLE: &str = " 28000 FATAL:  ";

/// Prefix of messages of the WAL receiver. It ends with an error even when recovery has reached its
/// target; `compare.rs` checks whether it streamed.
const WAL_RECEIVER: &str = "] walreceiver ";

/// Severities of messages about a problem.
pub const PROBLEMS: [&str; 3] = ["ERROR", "FATAL", "PANIC"];

/// Name of the file in the working directory.
const LOG: &str = "server.log";

/// Maximum size in bytes of a log that is read.
const MAX_SIZE: u64 = 64 << 20;

/// Maximum number of lines that [`ServerLog::reason`] shows.
const MAX_LINES: usize = 5;

/// File to which all servers of a drill append their messages.
pub struct ServerLogFile {
    /// Working directory, in which the file lies.
    folder: Folder,
    /// Ranges of bytes that were written while servers were being stopped, in their order.
    stops: Mutex<Vec<Range<usize>>>,
}

impl ServerLogFile {
    /// Creates a log in a working directory.
    pub fn new(folder: Folder) -> ServerLogFile {
        ServerLogFile { folder, stops: Mutex::new(Vec::new()) }
    }

    /// Opens the file to append to it, and creates it if necessary.
    pub fn open(&self) -> Result<File> {
        let file = match of_host(self.folder.file_rw(Path::new(LOG)))? {
            Some(file) => file,
            None => self.folder.create(LOG, &Rights::new(None, 0o600, 0o700))?,
        };
        fcntl_setfl(&file, OFlags::APPEND).doing(|| format!("open {}", self.path().display()))?;
        Ok(file)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(LOG)
    }

    /// Number of bytes in the file. Processes of PostgreSQL write each message with one call, so
    /// the file ends with a complete line.
    pub fn len(&self) -> Result<usize> {
        let bytes = of_host(self.folder.stat(Path::new(LOG)))?.map_or(0, |stat| stat.st_size);
        usize::try_from(bytes).map_err(|_| Error::new(Kind::Failed, "the log of the server is too large"))
    }

    /// Excludes the messages that were written since the file had `begin` bytes.
    pub fn exclude_since(&self, begin: usize) -> Result<()> {
        let end = self.len()?;
        self.stops.lock().push(begin..end);
        Ok(())
    }

    /// Reads the messages of all servers, except the excluded ones.
    pub fn read(&self) -> Result<ServerLog> {
        let bytes = of_host(self.folder.read(Path::new(LOG), MAX_SIZE))?;
        let bytes = bytes.ok_or_else(|| named::missing(&self.path()))?;
        let mut lines = Vec::new();
        let mut add = |range: Range<usize>| -> Result<()> {
            let text = bytes.get(range).map(String::from_utf8_lossy).ok_or_else(|| {
                Error::new(Kind::Failed, format!("{} was truncated", self.path().display()))
            })?;
            lines.extend(text.lines().map(str::to_owned));
            Ok(())
        };
        let mut begin = 0;
        for stop in self.stops.lock().iter() {
            add(begin..stop.start)?;
            begin = stop.end;
        }
        add(begin..bytes.len())?;
        Ok(ServerLog(lines))
    }
}

/// Marks the error of a file that the drill itself made, which is not a fault of the backup.
pub fn of_host<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| match error.kind() {
        Kind::Damage => error.with_kind(Kind::Failed),
        _ => error,
    })
}

/// Lines of the log.
pub struct ServerLog(Vec<String>);

/// Process that wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogWriter {
    /// The process that starts all others. It reads no data but the control file.
    Postmaster,
    /// The process that recovers. It runs no code of the cluster.
    Startup,
    Other,
}

impl LogWriter {
    /// Reads the prefix of a line.
    fn of(prefix: &str) -> LogWriter {
        if prefix.contains("] postmaster ") {
            LogWriter::Postmaster
        } else if prefix.contains("] startup ") {
            LogWriter::Startup
        } else {
            LogWriter::Other
        }
    }
}

/// Message about a problem.
pub struct LogProblem {
    /// SQLSTATE.
    pub code: String,
    /// Message from its severity on, with its detail.
    pub text: String,
    pub writer: LogWriter,
}

impl ServerLog {
    /// Number of lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Messages from line number `from` on that have one of these severities.
    pub fn problems(&self, from: usize, severities: &[&str]) -> Vec<LogProblem> {
        let mut lines = self.lines().skip(from).peekable();
        let mut found = Vec::new();
        while let Some(line) = lines.next() {
            let at = severities.iter().find_map(|severity| line.find(&format!(" {severity}:  ")));
            let is_expected = [UNKNOWN_ROLE, WAL_RECEIVER].iter().any(|words| line.contains(words));
            let Some((prefix, text)) = at.and_then(|at| line.split_at_checked(at)).filter(|_| !is_expected)
            else {
                continue;
            };
            let mut text = text.trim_start().to_owned();
            if let Some((_, detail)) = lines.peek().and_then(|next| next.split_once(" DETAIL:  ")) {
                text = format!("{text}: {detail}");
            }
            let code = prefix.rsplit(' ').next().map_or_else(String::new, str::to_owned);
            found.push(LogProblem { code, text, writer: LogWriter::of(prefix) });
        }
        found
    }

    /// The last line with these words, from its severity on.
    pub fn line_with(&self, words: &str) -> Option<&str> {
        self.lines().rev().find(|line| line.contains(words)).map(without_prefix)
    }

    /// The last line about a problem, else the last line.
    pub fn last_problem(&self) -> &str {
        let is_problem =
            |line: &&str| PROBLEMS.iter().any(|severity| line.contains(&format!("{severity}:  ")));
        let last = self.lines().rev().find(is_problem).or_else(|| self.lines().last());
        last.map_or("the log is empty", without_prefix)
    }

    /// Whether any line contains these words.
    pub fn mentions(&self, words: &str) -> bool {
        self.lines().any(|line| line.contains(words))
    }

    /// The last line for which `is_wanted` holds, from its severity on.
    pub fn last_line(&self, is_wanted: impl Fn(&str) -> bool) -> Option<&str> {
        self.lines().rev().find(|line| is_wanted(line)).map(without_prefix)
    }

    /// The last error of `restore_command`; its lines have no prefix.
    pub fn fetch_error(&self) -> Option<&str> {
        self.lines().rev().find(|line| line.starts_with("walfetch: error:"))
    }

    /// Reason for the end of the server: the last lines about a problem, else the last lines.
    pub fn reason(&self) -> String {
        let mut texts: Vec<String> =
            self.problems(0, &PROBLEMS).into_iter().map(|problem| problem.text).collect();
        if texts.is_empty() {
            texts = self.lines().map(|line| without_prefix(line).to_owned()).collect();
        }
        texts.split_off(texts.len().saturating_sub(MAX_LINES)).join("; ")
    }

    fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// The part of a line from its severity on, without time and process.
pub fn without_prefix(line: &str) -> &str {
    let severities = ["ERROR:", "FATAL:", "PANIC:", "WARNING:", "LOG:"];
    let at = severities.iter().filter_map(|severity| line.find(severity)).min();
    at.and_then(|at| line.get(at..)).unwrap_or(line)
}
