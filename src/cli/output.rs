//! Standard output, and the results and progress of a verb on standard error.

use super::log::{self, Lines, LogMemory, StandardError, Verbosity};
use super::printable;
use super::render::Report;
use crate::config::LogConfig;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::runtime::thread;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// Interval at which the progress bar is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Records text for notices; shows nothing.
pub fn remember(text: &str) {
    tracing::info!(target: log::PRINTED, "{text}");
}

/// Prints the result of a verb on standard output, as JSON or as text.
pub fn print(json: bool, report: &impl Report) -> Result<()> {
    if json { print_json(&report.json()) } else { print_text(&report.text()) }
}

/// Prints text on standard output. A reader that closes the pipe (`| head`) is not an error.
pub fn print_text(text: &str) -> Result<()> {
    remember(text);
    write(&printable::lines(text))
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to standard output", &e))
        }
        _ => Ok(()),
    }
}

/// Prints one JSON document on standard output.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(Kind::Failed, format!("write JSON: {e}")))?;
    write(&(text + "\n"))
}

/// Standard error of `walkeep`: messages, and a progress bar on a terminal.
pub struct Console {
    verbosity: Verbosity,
    memory: LogMemory,
    bar: ProgressBar,
    /// Counters of the running operation, if there is one.
    progress: Arc<Mutex<Option<Progress>>>,
}

impl Console {
    /// Installs the log of `walkeep` with its console; see [`log::install`].
    pub fn install(error: &StandardError, file: Option<&LogConfig>) -> Console {
        let verbosity = error.verbosity;
        // indicatif hides the bar unless standard error is a terminal.
        let is_quiet = verbosity == Verbosity::Quiet;
        let bar = if is_quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
        let memory = log::install(error, file, bar.clone());
        Console { verbosity, memory, bar, progress: Arc::default() }
    }

    pub fn is_quiet(&self) -> bool {
        self.verbosity == Verbosity::Quiet
    }

    pub fn is_verbose(&self) -> bool {
        self.verbosity >= Verbosity::Steps
    }

    /// Returns the first lines of the warnings, errors and results until now.
    pub fn lines(&self) -> Lines {
        self.memory.lines()
    }

    /// Shows a line, unless `--quiet`.
    pub fn say(&self, message: &str) {
        tracing::info!("{message}");
    }

    /// Shows a line that reports a finding, also with `--quiet`.
    pub fn insist(&self, message: &str) {
        tracing::warn!(target: log::FINDING, "{message}");
    }

    /// Returns new counters for an operation; the progress bar shows them until
    /// [`Console::finish`].
    pub fn progress(&self) -> Progress {
        let progress = Progress::default();
        let before = self.progress.lock().replace(progress.clone());
        if before.is_none() && !self.bar.is_hidden() {
            let (bar, shown) = (self.bar.clone(), Arc::clone(&self.progress));
            // If the thread cannot be started, only the bar is missing.
            let _ = thread::spawn("progress", move || draw(&bar, &shown));
        }
        progress
    }

    /// Removes the progress bar.
    pub fn finish(&self) {
        *self.progress.lock() = None;
        self.bar.finish_and_clear();
    }
}

/// Draws the bar until no operation is running.
fn draw(bar: &ProgressBar, progress: &Mutex<Option<Progress>>) {
    let template = "{wide_bar} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.reset();
    loop {
        std::thread::sleep(DRAW_INTERVAL);
        // The lock is held while the bar is drawn, so nothing is drawn after its removal.
        let progress = progress.lock();
        let Some(progress) = &*progress else {
            return;
        };
        if progress.total() > 0 {
            bar.set_length(progress.total());
            bar.set_position(progress.done());
        }
    }
}
