//! The log file: opened for appending, one write for each line. It is opened again after it was
//! renamed or removed.

use super::record::LogRecord;
use crate::config::LogFormat;
use crate::error::{Error, Result};
use crate::fs::acting::as_user;
use crate::fs::named;
use parking_lot::Mutex;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Interval at which the path is compared with the open file.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Mode of a new file, before the umask.
const MODE: u32 = 0o640;

pub(super) struct LogFile {
    path: PathBuf,
    program: &'static str,
    format: LogFormat,
    /// User and group as which root opens the file.
    owner: Option<(u32, u32)>,
    /// `None` before the first line, and after a failure.
    open: Mutex<Option<OpenFile>>,
}

struct OpenFile {
    file: File,
    device: u64,
    inode: u64,
    checked: Instant,
}

impl LogFile {
    pub(super) fn new(
        path: PathBuf,
        program: &'static str,
        format: LogFormat,
        owner: Option<(u32, u32)>,
    ) -> LogFile {
        LogFile { path, program, format, owner, open: Mutex::new(None) }
    }

    /// Appends a record.
    ///
    /// # Errors
    ///
    /// An error of the operating system; the next record opens the file again.
    pub(super) fn write(&self, record: &LogRecord) -> Result<()> {
        let line = match self.format {
            LogFormat::Text => record.text(self.program),
            LogFormat::Json => record.json(self.program),
        };
        let mut open = self.open.lock();
        let mut kept = open.take().filter(|open| self.is_current(open));
        let file = match &mut kept {
            Some(file) => file,
            None => kept.insert(self.open()?),
        };
        if file.checked.elapsed() >= CHECK_INTERVAL {
            file.checked = Instant::now();
        }
        file.file.write_all(line.as_bytes()).map_err(|error| self.error("write", &error))?;
        *open = kept;
        Ok(())
    }

    /// Whether the path still names the open file; true without a look at the path within
    /// [`CHECK_INTERVAL`] after the last one.
    fn is_current(&self, open: &OpenFile) -> bool {
        open.checked.elapsed() < CHECK_INTERVAL
            || matches!(named::stat(&self.path), Ok(Some(stat)) if (stat.st_dev, stat.st_ino) == (open.device, open.inode))
    }

    fn open(&self) -> Result<OpenFile> {
        let open = || named::append(&self.path, MODE);
        let opened = match self.owner {
            Some((user, group)) => as_user(user, group, open),
            None => open(),
        };
        let file = opened.map_err(|error| self.error("open", &error))?;
        let meta = file.metadata().map_err(|error| self.error("read the metadata of", &error))?;
        Ok(OpenFile { file, device: meta.dev(), inode: meta.ino(), checked: Instant::now() })
    }

    fn error(&self, doing: &str, error: &std::io::Error) -> Error {
        let message = format!("{doing} the log file {}", self.path.display());
        Error::io(message, error).hint(
            "`file` in [log] of the configuration names it; what is logged is lost until it can be written",
        )
    }
}
