//! Standard error: lines for people, or one JSON object on each line.

use super::FINDING;
use super::record::{Fields, LogRecord};
use crate::cli::printable;
use crate::config::LogFormat;
use indicatif::ProgressBar;
use std::fmt::Write as _;
use std::io::Write;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

pub(super) struct StderrLog {
    program: &'static str,
    format: LogFormat,
    /// Progress bar, which is hidden while a line is written.
    bar: Option<ProgressBar>,
}

impl StderrLog {
    pub(super) fn new(program: &'static str, format: LogFormat, bar: Option<ProgressBar>) -> StderrLog {
        StderrLog { program, format, bar }
    }

    /// Writes a record. A failure to write is ignored.
    pub(super) fn show(&self, record: &LogRecord) {
        let text = match self.format {
            LogFormat::Text => self.text(record),
            LogFormat::Json => record.json(self.program),
        };
        // One write, so that lines of processes that share standard error are not mixed.
        let write = || {
            let _ = std::io::stderr().write_all(text.as_bytes());
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn text(&self, record: &LogRecord) -> String {
        let (program, message) = (self.program, printable::message(&record.fields.message));
        if record.level >= Level::INFO || record.target == FINDING {
            return format!("{message}\n");
        }
        let severity = match (record.fields.kind.is_some(), record.level == Level::ERROR) {
            (false, _) => "",
            (true, true) => "error: ",
            (true, false) => "warning: ",
        };
        let mut text = format!("{program}: {severity}{message}\n");
        if let Some(hint) = &record.fields.hint {
            let _ = writeln!(text, "{program}: hint: {}", printable::message(hint));
        }
        text
    }
}

/// Complete log of a helper: warnings and errors, without spans.
impl Subscriber for StderrLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("walkeep")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let fields = Fields::of(metadata, |visitor| event.record(visitor));
        self.show(&LogRecord::new(*metadata.level(), metadata.target(), fields));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
