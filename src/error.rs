//! The error type of the whole program: kind, steps, reason and hint of a failure. Does not know
//! terminals and exit statuses; `cli` maps kinds to those.
//!
//! As text, an error is one line with the outermost step first: `push 00000001000000000000002A:
//! repository local: write /r/main/…: no space left on device (os error 28)`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Result of everything that can fail with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Kind of a failure. It alone decides whether an operation is retried, and the exit status of the
/// program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// The configuration is wrong or cannot be read.
    Config,
    /// The requested object does not exist, for certain.
    Absent,
    /// The name exists already, with different content.
    Conflict,
    /// Stored bytes have changed or cannot be decoded.
    Damage,
    /// The repository, the cluster or the server is not the intended one.
    Identity,
    /// A file of the archive is missing although later ones exist.
    Hole,
    /// Another process holds the lock.
    Locked,
    /// The time limit has passed.
    Timeout,
    /// A failure that may go away: a lost connection, a busy server.
    Unavailable,
    /// Permission, ownership or grants are missing.
    Denied,
    /// No space, quota or file descriptors left.
    Full,
    /// The request would lose data or cannot be carried out as given; nothing was changed.
    Refused,
    /// The operation completed and found a problem in the examined objects.
    Problem,
    /// Any other failure: an I/O error, a failed statement.
    Failed,
    /// A state that should be impossible: a defect of walkeep itself.
    Defect,
}

impl Kind {
    /// Whether a retry may succeed.
    pub fn is_transient(self) -> bool {
        matches!(self, Kind::Unavailable | Kind::Timeout)
    }

    /// The kind as one word of a log.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Config => "config",
            Kind::Absent => "absent",
            Kind::Conflict => "conflict",
            Kind::Damage => "damage",
            Kind::Identity => "identity",
            Kind::Hole => "hole",
            Kind::Locked => "locked",
            Kind::Timeout => "timeout",
            Kind::Unavailable => "unavailable",
            Kind::Denied => "denied",
            Kind::Full => "full",
            Kind::Refused => "refused",
            Kind::Problem => "problem",
            Kind::Failed => "failed",
            Kind::Defect => "defect",
        }
    }
}

/// A failure: its kind, the steps during which it happened, its reason and a hint. Has the size of
/// a pointer.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: Kind,
    /// Steps during which the failure happened, outermost last.
    doing: Vec<String>,
    message: String,
    hint: Option<String>,
    /// Error of the operating system that caused the failure; `None` when there was none, or when
    /// it was not kept.
    source: Option<Arc<std::io::Error>>,
    /// SQLSTATE of the server's error that caused the failure.
    sqlstate: Option<[u8; 5]>,
}

impl Error {
    /// Creates an error; `message` is lower case and has no full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            doing: Vec::new(),
            message: message.into(),
            hint: None,
            source: None,
            sqlstate: None,
        }))
    }

    /// Creates an internal error; `message` describes the state that should be impossible.
    pub fn defect(message: impl Into<String>) -> Error {
        Error::new(Kind::Defect, format!("internal error: {}", message.into()))
    }

    /// Converts an error of the operating system that happened while `doing` something (`"write
    /// /r/x"`).
    pub fn io(doing: impl Into<String>, error: &std::io::Error) -> Error {
        Error::of_io(error).doing(doing)
    }

    /// Converts an error of the operating system and keeps it as the source.
    pub fn from_io(doing: impl Into<String>, error: std::io::Error) -> Error {
        let mut failure = Error::of_io(&error).doing(doing);
        failure.0.source = Some(Arc::new(error));
        failure
    }

    fn of_io(error: &std::io::Error) -> Error {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound => Kind::Absent,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => Kind::Denied,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Kind::Full,
            Io::TimedOut => Kind::Timeout,
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::NotConnected
            | Io::BrokenPipe
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::StaleNetworkFileHandle
            | Io::Interrupted
            | Io::WouldBlock => Kind::Unavailable,
            _ => Kind::Failed,
        };
        Error::new(kind, lowercase_first(error.to_string()))
    }

    /// Adds an outer step: `push 000000010000000000000001`.
    pub fn doing(mut self, step: impl Into<String>) -> Error {
        self.0.doing.push(step.into());
        self
    }

    /// Adds a hint for the user. The first (innermost) hint stays, since it is the most specific.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Replaces the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Replaces the kind, for an outer step in which the failure has another meaning.
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.0.kind = kind;
        self
    }

    /// Adds the SQLSTATE of the server's error, five characters.
    pub fn with_sqlstate(mut self, code: &str) -> Error {
        self.0.sqlstate = code.as_bytes().try_into().ok();
        self
    }

    /// SQLSTATE of the server's error that caused the failure; `None` when no server reported it.
    pub fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_ref().and_then(|code| std::str::from_utf8(code).ok())
    }

    /// The kind of this error.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The hint, without the word `hint:`: the added one, else the general one for this kind, if
    /// any.
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref().or(match self.0.kind {
            Kind::Usage => Some("`--help` shows the usage"),
            Kind::Config => Some("`walkeep config` shows the configuration in force"),
            Kind::Absent => Some("check that the path is right and its file system is mounted"),
            Kind::Damage => Some("the damaged bytes were not used; look for another copy, and check the disk"),
            Kind::Identity => Some("check that configuration, data directory and repository belong to the same cluster"),
            Kind::Locked => Some("wait until the other process has ended"),
            Kind::Timeout => Some("check whether the server or disk is reachable, and how busy it is"),
            Kind::Unavailable => Some("retry; if the error persists, check the server or disk"),
            Kind::Denied => Some("check owner and mode of the path and of its parent directories; walkeep has to run as the owner of the cluster's files"),
            Kind::Full => Some("free some space there, or raise the quota"),
            Kind::Defect => Some("this is a defect of walkeep, not of your data; please report it with this message and `walkeep --version`"),
            Kind::Conflict | Kind::Hole | Kind::Refused | Kind::Problem | Kind::Failed => None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.0.doing.iter().rev() {
            write!(f, "{step}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Failures of an operation that continues after each of them: all but the last are reported, the
/// last is returned.
#[derive(Debug)]
pub struct Failures {
    report: fn(&Error),
    last: Option<Error>,
}

impl Failures {
    /// Starts without failures; `report` reports each one that is not returned.
    pub fn new(report: fn(&Error)) -> Failures {
        Failures { report, last: None }
    }

    /// Adds a failure, and reports the one before it.
    pub fn push(&mut self, error: Error) {
        if let Some(earlier) = self.last.replace(error) {
            (self.report)(&earlier);
        }
    }

    /// Ends the operation with its last failure.
    ///
    /// # Errors
    ///
    /// The last failure, if there was one.
    pub fn finish(self) -> Result<()> {
        self.last.map_or(Ok(()), Err)
    }

    /// Reports the last failure too: the operation succeeded in another way.
    pub fn dismiss(self) {
        if let Some(error) = self.last {
            (self.report)(&error);
        }
    }
}

/// Description of a step: a literal, or a closure that formats one only when it is needed.
pub trait Step {
    /// Returns the description.
    fn text(self) -> String;
}

impl Step for &'static str {
    fn text(self) -> String {
        self.to_owned()
    }
}

impl<F: FnOnce() -> String> Step for F {
    fn text(self) -> String {
        self()
    }
}

/// Adds a step to the error of a result: `.doing("begin")`, `.doing(|| format!("read {key}"))`.
pub trait Doing<T> {
    /// Adds `step` to the error of this result.
    fn doing(self, step: impl Step) -> Result<T>;
}

impl<T> Doing<T> for Result<T> {
    fn doing(self, step: impl Step) -> Result<T> {
        self.map_err(|error| error.doing(step.text()))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, step: impl Step) -> Result<T> {
        self.map_err(|error| Error::from_io(step.text(), error))
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, step: impl Step) -> Result<T> {
        self.map_err(std::io::Error::from).doing(step)
    }
}

/// Returns the elements of `slice` in `range`, for callers that have established that `slice`
/// contains `range`.
///
/// # Errors
///
/// `Defect` when `slice` does not contain `range`.
pub fn part<T>(slice: &[T], range: Range<usize>) -> Result<&[T]> {
    let (start, end) = (range.start, range.end);
    slice
        .get(range)
        .ok_or_else(|| Error::defect(format!("elements {start} to {end} of a slice of {}", slice.len())))
}

/// Converts the first letter of a message of the operating system, a capital, to lower case, since
/// the message becomes part of a line.
pub(crate) fn lowercase_first(mut message: String) -> String {
    if let Some(first) = message.get_mut(0..1) {
        first.make_ascii_lowercase();
    }
    message
}
