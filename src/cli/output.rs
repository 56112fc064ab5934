//! Words for people: standard error for messages, standard output for what was asked for.

use crate::error::{Error, Kind, Result};
use crate::event::{Event, Observer};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// What this program has said, for a notice.
#[derive(Default, Clone)]
pub struct Said {
    pub wrong: Vec<String>,
    /// Whatever it was asked for.
    pub printed: Vec<String>,
}

static SAID: Mutex<Said> = Mutex::new(Said { wrong: Vec::new(), printed: Vec::new() });

/// Lines of each that are kept, the first: what follows a failure is mostly its consequence.
const KEPT: usize = 20;

fn keep(lines: &mut Vec<String>, text: &str) {
    let left = KEPT.saturating_sub(lines.len());
    let more = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.extend(more.take(left).map(str::to_owned));
}

fn complained(text: &str) {
    keep(&mut SAID.lock().unwrap_or_else(PoisonError::into_inner).wrong, text);
}

/// Words that belong into a notice, whether they are shown or not.
pub fn remember(text: &str) {
    keep(&mut SAID.lock().unwrap_or_else(PoisonError::into_inner).printed, text);
}

/// The first lines of what was said until now.
pub fn said() -> Said {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A message on standard error. That nobody reads it is no reason to fail.
pub fn say(program: &str, message: &str) {
    let _ = writeln!(std::io::stderr(), "{program}: {message}");
}

/// An error with its hint.
pub fn complain(program: &str, error: &Error) {
    tell(program, "error", error);
}

fn tell(program: &str, severity: &str, error: &Error) {
    // One write, so that lines of processes which share a log are not mixed.
    let mut text = format!("{program}: {severity}: {error}\n");
    if let Some(hint) = error.advice() {
        text.push_str(&format!("{program}: hint: {hint}\n"));
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
    complained(&error.to_string());
    if let Some(hint) = error.advice() {
        complained(&format!("hint: {hint}"));
    }
}

/// Passes warnings on to standard error and nothing else: for the helpers, whose words go into the
/// server's log.
pub struct Warnings(pub &'static str);

impl Observer for Warnings {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(error) = event {
            tell(self.0, "warning", error);
        }
    }
}

/// Text on standard output. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Result<()> {
    remember(text);
    write(text)
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

/// One JSON document on standard output.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(Kind::Failed, format!("write JSON: {e}")))?;
    write(&(text + "\n"))
}

/// Where `walkeep` tells people what it does: standard error, with a progress bar on a terminal.
pub struct Console {
    quiet: bool,
    verbose: bool,
    bar: indicatif::ProgressBar,
}

impl Console {
    pub fn new(quiet: bool, verbose: bool) -> Console {
        // Hidden unless standard error is a terminal: indicatif looks itself.
        let bar = if quiet { indicatif::ProgressBar::hidden() } else { indicatif::ProgressBar::no_length() };
        Console { quiet, verbose, bar }
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// A line, unless `--quiet`.
    pub fn say(&self, message: &str) {
        if !self.quiet {
            self.show(message);
        }
    }

    /// A line, also with `--quiet`: something went wrong.
    pub fn insist(&self, message: &str) {
        complained(message);
        self.show(message);
    }

    fn show(&self, message: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{message}");
        });
    }

    /// Takes the progress bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Console {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Step(step) => {
                self.bar.set_message(step.to_owned());
                if self.verbose {
                    self.say(step);
                }
            }
            Event::Progress { done, total } => {
                if self.bar.length() != Some(total) {
                    let template = "{wide_bar} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left";
                    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
                        self.bar.set_style(style);
                    }
                    self.bar.set_length(total);
                }
                self.bar.set_position(done);
            }
            Event::Note(note) => self.say(note),
            Event::Warning(error) => self.bar.suspend(|| tell("walkeep", "warning", error)),
        }
    }
}
