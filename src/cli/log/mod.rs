//! Destinations of the events of `tracing`: standard error, the log file, and the memory from which
//! notices are made. Knows nothing of verbs.
//!
//! `walkeep` installs [`LogLayer`], which also follows spans. A helper installs [`StderrLog`] alone
//! unless options, configuration or environment ask for more than its warnings: that log has no
//! spans and no state, since PostgreSQL starts a helper for every WAL file.

mod console;
mod file;
mod record;

use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::error::{Error, Kind};
use crate::progress;
use console::StderrLog;
use file::LogFile;
use indicatif::ProgressBar;
use parking_lot::Mutex;
use record::{Fields, LogRecord};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber, span};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Target of lines that report a finding; they are shown without a prefix, also with `--quiet`.
pub const FINDING: &str = "walkeep::finding";

/// Target of the text that a verb prints on standard output; only notices use it.
pub const PRINTED: &str = "walkeep::printed";

/// Variable of the environment with more targets and levels, for standard error and the log file.
const VARIABLE: &str = "WALKEEP_LOG";

/// Maximum number of lines of each kind in a memory: later failures are mostly consequences of the
/// first ones.
const MAX_LINES: usize = 20;

/// Amount of detail on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Results and notes, and all of the above.
    Normal,
    /// Steps, and all of the above.
    Steps,
    /// Requests to stores and warnings of libraries, and all of the above.
    Requests,
}

impl Verbosity {
    fn filter(self) -> Targets {
        let (level, steps, libraries) = match self {
            Verbosity::Quiet => (LevelFilter::WARN, LevelFilter::OFF, LevelFilter::OFF),
            Verbosity::Normal => (LevelFilter::INFO, LevelFilter::OFF, LevelFilter::OFF),
            Verbosity::Steps => (LevelFilter::INFO, LevelFilter::INFO, LevelFilter::OFF),
            Verbosity::Requests => (LevelFilter::DEBUG, LevelFilter::INFO, LevelFilter::WARN),
        };
        Targets::new()
            .with_default(libraries)
            .with_target("walkeep", level)
            .with_target(progress::STEP, steps)
            .with_target(PRINTED, LevelFilter::OFF)
    }
}

/// Returns the filter of the log file. Events of libraries may hold secrets, so the file receives
/// only their warnings and errors.
fn file_filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("walkeep", level)
        .with_target(PRINTED, LevelFilter::OFF)
}

/// Adds the targets of [`VARIABLE`] to a filter, where they replace its own. A level for all of
/// walkeep applies to steps too.
fn extended(filter: Targets, asked: Option<&Targets>) -> Targets {
    let Some(asked) = asked else {
        return filter;
    };
    let mut filter = filter;
    if let Some(level) = asked.default_level() {
        filter = filter.with_default(level).with_target("walkeep", level).with_target(progress::STEP, level);
    }
    for (target, level) in asked.iter() {
        filter = filter.with_target(target, level);
        if target == "walkeep" {
            filter = filter.with_target(progress::STEP, level);
        }
    }
    filter.with_target(PRINTED, LevelFilter::OFF)
}

/// First lines of the warnings and errors of this program, and of what it printed.
#[derive(Debug, Default, Clone)]
pub struct Lines {
    pub wrong: Vec<String>,
    pub printed: Vec<String>,
}

/// First lines that an installed log received; clones share them.
#[derive(Debug, Default, Clone)]
pub struct LogMemory(Arc<Mutex<Lines>>);

impl LogMemory {
    /// Returns the lines until now.
    pub fn lines(&self) -> Lines {
        self.0.lock().clone()
    }

    fn filter() -> Targets {
        Targets::new().with_target("walkeep", LevelFilter::WARN).with_target(PRINTED, LevelFilter::INFO)
    }

    fn keep(&self, target: &str, fields: &Fields) {
        let mut lines = self.0.lock();
        let list = if target == PRINTED { &mut lines.printed } else { &mut lines.wrong };
        let hint = fields.hint.as_ref().map(|hint| format!("hint: {hint}"));
        for text in std::iter::once(&fields.message).chain(&hint) {
            let left = MAX_LINES.saturating_sub(list.len());
            let more = text.lines().map(str::trim).filter(|line| !line.is_empty());
            list.extend(more.take(left).map(str::to_owned));
        }
    }
}

/// Standard error of a program.
#[derive(Debug, Clone)]
pub struct StandardError {
    pub program: &'static str,
    pub verbosity: Verbosity,
    pub format: LogFormat,
}

/// Installs the log of `walkeep`; `file` is `None` until the configuration was read. Does nothing
/// when a log is installed already.
pub fn install(error: &StandardError, file: Option<&LogConfig>, bar: ProgressBar) -> LogMemory {
    let memory = LogMemory::default();
    if !tracing::dispatcher::has_been_set() {
        let asked = asked();
        let filter = asked.as_ref().ok().and_then(Option::as_ref);
        LogLayer::install(error, file, filter, Some(bar), Some(memory.clone()));
        warn_of(asked.as_ref().err());
    }
    memory
}

/// Installs the log of a helper, whose standard error is the log of PostgreSQL. Does nothing when a
/// log is installed already.
pub fn install_helper(error: &StandardError, file: Option<&LogConfig>) {
    if tracing::dispatcher::has_been_set() {
        return;
    }
    let asked = asked();
    let filter = asked.as_ref().ok().and_then(Option::as_ref);
    let has_file = file.is_some_and(|options| options.file.is_some());
    if filter.is_none() && !has_file && error.verbosity == Verbosity::Quiet && error.format == LogFormat::Text
    {
        let console = StderrLog::new(error.program, error.format, None);
        let _ = tracing::subscriber::set_global_default(console);
    } else {
        LogLayer::install(error, file, filter, None, None);
    }
    warn_of(asked.as_ref().err());
}

/// Returns the filter of [`VARIABLE`], if it is set and not empty.
fn asked() -> Result<Option<Targets>, Error> {
    let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let invalid = |why: String| {
        Error::new(Kind::Config, format!("{VARIABLE} is ignored: {why}"))
            .hint(format!("set it to targets and levels, such as {VARIABLE}=walkeep::storage=debug"))
    };
    let text = value.to_str().ok_or_else(|| invalid("not UTF-8".to_owned()))?;
    Targets::from_str(text).map(Some).map_err(|error| invalid(error.to_string()))
}

fn warn_of(error: Option<&Error>) {
    if let Some(error) = error {
        progress::warn(error);
    }
}

/// Complete log: each event goes to the destinations whose filters accept it.
struct LogLayer {
    console: (Targets, StderrLog),
    file: Option<(Targets, LogFile)>,
    /// Whether a failure to write the file was reported; one report is enough.
    file_failed: AtomicBool,
    memory: Option<(Targets, LogMemory)>,
}

impl LogLayer {
    fn install(
        error: &StandardError,
        file: Option<&LogConfig>,
        asked: Option<&Targets>,
        bar: Option<ProgressBar>,
        memory: Option<LogMemory>,
    ) {
        let console = StderrLog::new(error.program, error.format, bar);
        let file = file.and_then(|options| {
            let path = options.file.clone()?;
            let file = LogFile::new(path, error.program, options.format, options.owner);
            Some((extended(file_filter(options.level), asked), file))
        });
        let log = LogLayer {
            console: (extended(error.verbosity.filter(), asked), console),
            file,
            file_failed: AtomicBool::new(false),
            memory: memory.map(|memory| (LogMemory::filter(), memory)),
        };
        let _ = tracing::subscriber::set_global_default(Registry::default().with(log));
    }

    fn filters(&self) -> impl Iterator<Item = &Targets> {
        let (file, memory) = (self.file.as_ref(), self.memory.as_ref());
        std::iter::once(&self.console.0).chain(file.map(|file| &file.0)).chain(memory.map(|memory| &memory.0))
    }
}

fn wants(filter: &Targets, metadata: &Metadata<'_>) -> bool {
    filter.would_enable(metadata.target(), metadata.level())
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.filters().any(|filter| wants(filter, metadata))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.filters().filter_map(Layer::<Registry>::max_level_hint).max()
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Fields::of(span.metadata(), |visitor| attributes.record(visitor)));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let fields = Fields::of(metadata, |visitor| event.record(visitor));
        if let Some((filter, memory)) = &self.memory
            && wants(filter, metadata)
        {
            memory.keep(metadata.target(), &fields);
        }
        let (shown, console) = &self.console;
        let is_shown = wants(shown, metadata);
        let file = self.file.as_ref().filter(|(filter, _)| wants(filter, metadata));
        if !is_shown && file.is_none() {
            return;
        }
        let mut record = LogRecord::new(*metadata.level(), metadata.target(), fields);
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            record.add_span(span.name(), span.extensions().get::<Fields>());
        }
        if is_shown {
            console.show(&record);
        }
        if let Some((_, file)) = file
            && let Err(error) = file.write(&record)
            && !self.file_failed.swap(true, Ordering::Relaxed)
        {
            console.show(&LogRecord::of_warning(&error));
        }
    }
}
