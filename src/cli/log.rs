//! Destinations of the events of `tracing`: standard error, the log file, and the memory that notices are made of.
//! Knows nothing of verbs.
//!
//! `walkeep` installs [`Log`], which also follows spans. The helpers install [`Console`] alone as long as nothing but
//! warnings is asked for: it has no spans and no state, since PostgreSQL starts a helper for every WAL file.

use crate::progress;
use indicatif::ProgressBar;
use std::fmt::{Debug, Write as _};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Target of the lines that report a finding as they are, also with `--quiet`.
pub const FINDING: &str = "walkeep::finding";

/// Target of what a verb prints on standard output, for notices alone.
pub const PRINTED: &str = "walkeep::printed";

/// Lines of each kind that a notice holds: what follows the first failures is mostly their consequence.
const MAX_LINES: usize = 20;

/// What standard error shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Results and notes too.
    Normal,
    /// Steps too.
    Steps,
    /// Requests to stores too, and warnings of libraries.
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

/// First lines of the warnings and errors of this program, and of what it printed.
#[derive(Debug, Default, Clone)]
pub struct Lines {
    pub wrong: Vec<String>,
    pub printed: Vec<String>,
}

/// Memory of an installed log; clones share it.
#[derive(Debug, Default, Clone)]
pub struct Memory(Arc<Mutex<Lines>>);

impl Memory {
    /// Returns the lines until now.
    pub fn lines(&self) -> Lines {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, metadata: &Metadata<'_>, fields: &Fields) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = if metadata.target() == PRINTED { &mut lines.printed } else { &mut lines.wrong };
        let hint = fields.hint.as_ref().map(|hint| format!("hint: {hint}"));
        for text in std::iter::once(&fields.message).chain(&hint) {
            let left = MAX_LINES.saturating_sub(list.len());
            let more = text.lines().map(str::trim).filter(|line| !line.is_empty());
            list.extend(more.take(left).map(str::to_owned));
        }
    }
}

/// Installs the log of `walkeep`. Another log that is installed already stays.
pub fn install(verbosity: Verbosity, bar: ProgressBar) -> Memory {
    let memory = Memory::default();
    let log = Log {
        console: Console { program: "walkeep", bar: Some(bar) },
        shown: verbosity.filter(),
        memory: memory.clone(),
        kept: Targets::new()
            .with_target("walkeep", LevelFilter::WARN)
            .with_target(PRINTED, LevelFilter::INFO),
    };
    let _ = tracing::subscriber::set_global_default(Registry::default().with(log));
    memory
}

/// Installs the log of a helper: warnings and errors on standard error, which PostgreSQL's log receives.
pub fn install_helper(program: &'static str) {
    let _ = tracing::subscriber::set_global_default(Console { program, bar: None });
}

/// The log of `walkeep`: each event goes to the destinations that want it.
struct Log {
    console: Console,
    shown: Targets,
    memory: Memory,
    kept: Targets,
}

impl Log {
    fn wants(filter: &Targets, metadata: &Metadata<'_>) -> bool {
        filter.would_enable(metadata.target(), metadata.level())
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        [&self.shown, &self.kept].into_iter().any(|filter| Log::wants(filter, metadata))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let fields = Fields::of(event);
        if Log::wants(&self.shown, metadata) {
            self.console.show(metadata, &fields);
        }
        if Log::wants(&self.kept, metadata) {
            self.memory.keep(metadata, &fields);
        }
    }
}

/// Standard error.
struct Console {
    program: &'static str,
    /// Bar that must not stand on the line while something is written.
    bar: Option<ProgressBar>,
}

impl Console {
    /// Writes an event. That nobody reads it is no reason to fail.
    fn show(&self, metadata: &Metadata<'_>, fields: &Fields) {
        let text = self.text(metadata, fields);
        // One write, so that lines of processes which share a log are not mixed.
        let write = || {
            let _ = std::io::stderr().write_all(text.as_bytes());
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn text(&self, metadata: &Metadata<'_>, fields: &Fields) -> String {
        let (program, message) = (self.program, &fields.message);
        let level = *metadata.level();
        if level >= Level::INFO || metadata.target() == FINDING {
            return format!("{message}\n");
        }
        let severity = if level == Level::ERROR { "error: " } else { "warning: " };
        let severity = if fields.kind.is_some() { severity } else { "" };
        let mut text = format!("{program}: {severity}{message}\n");
        if let Some(hint) = &fields.hint {
            let _ = writeln!(text, "{program}: hint: {hint}");
        }
        text
    }
}

/// A helper's whole log.
impl Subscriber for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("walkeep")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        self.show(event.metadata(), &Fields::of(event));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Fields of an event.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    kind: Option<String>,
    hint: Option<String>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Fields {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "kind" => self.kind = Some(value.to_owned()),
            "hint" => self.hint = Some(value.to_owned()),
            "message" => value.clone_into(&mut self.message),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}
