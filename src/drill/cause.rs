//! Causes of errors that a drill meets: only an error about stored data refutes a backup. Errors
//! are classified by their SQLSTATE, which the lines of the server's log have too.
//!
//! Does not know which check met the error.

use super::log::{LogProblem, LogWriter};
use crate::error::{Error, Kind};

/// Cause of an error of the drill's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The data are damaged or incomplete: the backup or its WAL is wrong.
    Data,
    /// Code, settings, locks or encodings of the cluster, or a library that this host does not
    /// have. The data may be good; what the error kept from being checked is a note.
    Obstacle,
    /// The host of the drill, or an error that is not known: nothing is proved.
    Host,
}

/// SQLSTATEs of a text that cannot be converted into another encoding.
pub const ENCODING_CODES: [&str; 2] = ["22021", "22P05"];

/// Classes of SQLSTATE of errors that code, settings, permissions and locks cause.
const OBSTACLES: [&str; 36] = [
    "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25", "26",
    "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "54", "55", "F0",
    "HV", "P0",
];

/// Parts of messages about this host: some of them have the SQLSTATE of an internal error.
const HOST_MESSAGES: [&str; 16] = [
    "out of memory",
    "error while loading shared libraries",
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "could not create shared memory",
    "Permission denied",
    "Input/output error",
    "Too many open files",
    "Resource temporarily unavailable",
    "Read-only file system",
    "Structure needs cleaning",
    "Stale file handle",
    "was terminated by signal 7: Bus error",
    "resource manager with ID",
    "database files are incompatible with server",
];

/// Starts of messages about a library, a file of an extension, or a locale that this host does not
/// have (`dfmgr.c`, `extension.c`, `postinit.c`, `pg_locale.c`).
const MISSING_MESSAGES: [&str; 10] = [
    "database locale is incompatible with operating system",
    "could not create locale",
    "could not open collator for locale",
    "could not get collation version",
    "has no actual version, but a version was recorded",
    "could not access file \"",
    "could not load library",
    "could not open extension control file",
    "incompatible library \"",
    "could not find function \"",
];

/// Starts of the paths of files in a data directory that hold data of the cluster, as messages name
/// them: relative to the data directory.
const DATA_PATHS: [&str; 10] = [
    "base/",
    "global/",
    "pg_tblspc/",
    "pg_xact/",
    "pg_multixact/",
    "pg_subtrans/",
    "pg_commit_ts/",
    "pg_twophase/",
    "pg_wal/",
    "backup_label",
];

impl Cause {
    /// Returns the cause of an error of a session.
    pub fn of(error: &Error) -> Cause {
        match error.sqlstate() {
            Some(code) => Cause::of_message(code, &error.to_string()),
            None if is_about_the_backup(error.kind()) => Cause::Data,
            None => Cause::Host,
        }
    }

    /// Returns the cause of an error of a statement that runs no code of the cluster, and reads
    /// values of built-in types: such a value is never out of range unless it is damaged.
    pub fn of_plain_read(error: &Error) -> Cause {
        match error.sqlstate() {
            Some(code) if code.starts_with("22") && !ENCODING_CODES.contains(&code) => Cause::Data,
            _ => Cause::of(error),
        }
    }

    /// Returns the cause of an error of a statement that evaluates code of the cluster, which may
    /// raise an internal error. Damage of the code's input is found by other checks.
    pub fn of_code(error: &Error) -> Cause {
        match (error.sqlstate(), Cause::of(error)) {
            (Some("XX000"), Cause::Data) => Cause::Obstacle,
            (_, cause) => cause,
        }
    }

    /// Returns the cause of an error with this SQLSTATE and this message.
    pub fn of_message(code: &str, message: &str) -> Cause {
        let class = code.get(..2).unwrap_or(code);
        if is_missing_here(message) {
            Cause::Obstacle
        } else if matches!(class, "53" | "57") && code != "57014"
            || code == "58030"
            || is_about_the_host(message)
        {
            Cause::Host
        } else if class == "XX" || names_data_file(message) {
            Cause::Data
        } else if OBSTACLES.contains(&class) || matches!(code, "57014" | "58P01") {
            // 58P01 without a file of the cluster: code of the cluster reads a file of its host.
            Cause::Obstacle
        } else {
            Cause::Host
        }
    }

    /// Returns the cause of a message in the server's log.
    pub fn of_problem(problem: &LogProblem) -> Cause {
        let is_of_backend = problem.writer == LogWriter::Other;
        match (problem.code.as_str(), Cause::of_message(&problem.code, &problem.text)) {
            // `xlogrecovery.c` reports WAL that ends too early with 55000 and F0000, settings that
            // are too small with 22023.
            ("55000", _) if problem.writer == LogWriter::Startup => Cause::Data,
            ("F0000", _) if problem.text.contains("recovery ended before configured recovery target") => {
                Cause::Data
            }
            (_, Cause::Obstacle) if !is_of_backend => Cause::Host,
            ("XX000", Cause::Data)
                if problem.writer == LogWriter::Postmaster && !names_data_file(&problem.text) =>
            {
                Cause::Host
            }
            (_, cause) => cause,
        }
    }
}

/// Whether a message of the server is about a library, another file of an extension or a locale that
/// is not installed on this host.
pub fn is_missing_here(message: &str) -> bool {
    MISSING_MESSAGES.iter().any(|words| message.contains(words))
}

/// Whether a message of a server or program is about this host.
pub fn is_about_the_host(message: &str) -> bool {
    HOST_MESSAGES.iter().any(|words| message.contains(words))
}

/// Whether an error of this kind means that the backup or its WAL is bad.
pub fn is_about_the_backup(kind: Kind) -> bool {
    matches!(kind, Kind::Problem | Kind::Damage | Kind::Hole)
}

/// Whether a message names a file that holds data of the cluster, in quotes.
fn names_data_file(message: &str) -> bool {
    message.split('"').skip(1).step_by(2).any(|name| DATA_PATHS.iter().any(|path| name.starts_with(path)))
}
