//! One error for the whole program: what kind it is, what was being done, with what, why it failed,
//! and what to do about it. Knows nothing of terminals and exit statuses; `cli` turns kinds into those.
//!
//! Read as text an error is one line, from the outside in:
//! `push 00000001000000000000002A: repository local: write /r/main/…: no space left on device (os error 28)`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub type Result<T> = std::result::Result<T, Error>;

/// What sort of failure it is. The kind alone decides whether an operation is tried again and with
/// which status a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// The configuration is wrong or cannot be read.
    Config,
    /// What was asked for does not exist, and that is certain.
    Absent,
    /// The name is taken by other bytes.
    Conflict,
    /// Bytes are not what they were when they were stored.
    Damage,
    /// The repository, or the cluster, is not the one that was meant.
    Identity,
    /// A file of the archive is missing although later ones are there.
    Hole,
    /// Another run holds the lock.
    Locked,
    /// The deadline is over.
    Timeout,
    /// It may work when tried again: a lost connection, a busy server.
    Unavailable,
    /// Permission, ownership or grants are missing.
    Denied,
    /// No space, no quota, no descriptors.
    Full,
    /// What was asked for would lose data or could not be carried out as asked; nothing was changed.
    Refused,
    /// The work was done and it found a problem in what it looked at.
    Problem,
    /// Any other failure: an I/O error, a failed statement.
    Failed,
    /// A state that this program should never reach: a defect of walkeep itself.
    Defect,
}

impl Kind {
    /// Whether the same attempt may succeed a moment later.
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

/// A failure: its kind, the steps during which it happened, the reason, and a hint. One pointer to move.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: Kind,
    /// The steps during which it happened, the outermost last.
    doing: Vec<String>,
    message: String,
    hint: Option<String>,
    /// The operating system's error, where it was the cause.
    source: Option<Arc<std::io::Error>>,
}

impl Error {
    /// A new error; `message` is lower case and has no full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, doing: Vec::new(), message: message.into(), hint: None, source: None }))
    }

    /// An internal error: `message` names the state that should be impossible.
    pub fn defect(message: impl Into<String>) -> Error {
        Error::new(Kind::Defect, format!("internal error: {}", message.into()))
    }

    /// An error of the operating system, met while `doing` something (`"write /r/x"`).
    pub fn io(doing: impl Into<String>, error: &std::io::Error) -> Error {
        Error::of_io(error).doing(doing)
    }

    /// The same for an error that is not needed any more: it becomes the source.
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
        Error::new(kind, error.to_string().to_lowercase_first())
    }

    /// Adds the step around it: `push 000000010000000000000001`.
    pub fn doing(mut self, step: impl Into<String>) -> Error {
        self.0.doing.push(step.into());
        self
    }

    /// Says what the reader can do about it. The innermost hint stays: it knows most.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// The same story under another kind, where an outer step knows better what the failure means.
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.0.kind = kind;
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What to do about it, without the word `hint:`: what was said where it happened, else what mostly helps
    /// with errors of this kind.
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref().or(match self.0.kind {
            Kind::Usage => Some("`--help` shows how it is meant"),
            Kind::Config => Some("`walkeep config` shows the configuration in force"),
            Kind::Absent => Some("look at the path: is it right, is its disk mounted?"),
            Kind::Damage => Some("the bytes are not what was once written: nothing was taken from it. Look for another copy, and at the disk"),
            Kind::Identity => Some("check that configuration, data directory and repository are of the same cluster"),
            Kind::Locked => Some("wait for the other run to end"),
            Kind::Timeout => Some("is the other side reachable, and how busy is it?"),
            Kind::Unavailable => Some("try again; if it stays, look at the other side"),
            Kind::Denied => Some("look at owner and mode of the path and of the directories above it; walkeep has to run as the user that owns the cluster's files"),
            Kind::Full => Some("make room there, or raise the quota"),
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

/// The description of a step: a literal, or a closure that formats one only when it is needed.
pub trait Step {
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

/// Adds the step during which a failure happened: `.doing("begin")`, `.doing(|| format!("read {key}"))`.
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

/// The elements of `slice` in `range`, which the caller has established to lie inside of it.
///
/// # Errors
///
/// `Defect` when `range` does not lie inside of `slice`.
pub fn part<T>(slice: &[T], range: Range<usize>) -> Result<&[T]> {
    let (start, end) = (range.start, range.end);
    slice
        .get(range)
        .ok_or_else(|| Error::defect(format!("elements {start} to {end} of a slice of {}", slice.len())))
}

trait LowercaseFirst {
    fn to_lowercase_first(self) -> String;
}

impl LowercaseFirst for String {
    /// The operating system's texts start with a capital; ours are part of a line.
    fn to_lowercase_first(mut self) -> String {
        if let Some(first) = self.get_mut(0..1) {
            first.make_ascii_lowercase();
        }
        self
    }
}
