//! An event with the spans around it, as text and as JSON. Secrets that libraries log are masked
//! here.

use crate::cli::account::with_command_line;
use crate::cli::printable;
use crate::error::Error;
use jiff::Timestamp;
use serde::Serializer;
use serde_json::Value;
use std::fmt::{Debug, Write as _};
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

/// Words in a name or text of a library's event that may hold a secret: headers, signatures, keys
/// and tokens of requests.
const SECRET_WORDS: [&str; 9] = [
    "authorization",
    "signature",
    "secret",
    "token",
    "credential",
    "access_key",
    "accesskey",
    "password",
    "cookie",
];

/// Replacement of a value that may hold a secret.
const MASK: &str = "********";

/// Fields of an event or a span.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) message: String,
    /// Kind of the error that is reported.
    pub(super) kind: Option<String>,
    pub(super) hint: Option<String>,
    pub(super) others: Vec<(&'static str, Value)>,
    /// Whether values that may hold a secret are masked.
    masks: bool,
}

impl Fields {
    /// Collects the fields that `record` passes to its visitor. Only events of libraries are
    /// masked: events of walkeep contain no secrets.
    pub(super) fn of(metadata: &Metadata<'_>, record: impl FnOnce(&mut Fields)) -> Fields {
        let mut fields = Fields { masks: !metadata.target().starts_with("walkeep"), ..Fields::default() };
        record(&mut fields);
        fields
    }

    fn set(&mut self, name: &'static str, value: Value) {
        match self.others.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.others.push((name, value)),
        }
    }

    fn text(&mut self, field: &Field, text: String) {
        let text = if self.masks && is_secret(field.name(), &text) { MASK.to_owned() } else { text };
        match field.name() {
            "message" => self.message = text,
            "kind" => self.kind = Some(text),
            "hint" => self.hint = Some(with_command_line(text)),
            name => self.set(name, text.into()),
        }
    }
}

/// Whether a field of a library may hold a secret.
fn is_secret(name: &str, text: &str) -> bool {
    [name, text].iter().any(|part| {
        let part = part.to_ascii_lowercase();
        SECRET_WORDS.iter().any(|word| part.contains(word))
    })
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }
}

/// An event, and the fields of the spans around it.
pub(super) struct LogRecord {
    time: Timestamp,
    pub(super) level: Level,
    pub(super) target: String,
    pub(super) fields: Fields,
    /// Names of the spans, the outermost first.
    spans: Vec<&'static str>,
    span_fields: Vec<(&'static str, Value)>,
}

impl LogRecord {
    pub(super) fn new(level: Level, target: &str, fields: Fields) -> LogRecord {
        let (spans, span_fields) = (Vec::new(), Vec::new());
        LogRecord { time: Timestamp::now(), level, target: target.to_owned(), fields, spans, span_fields }
    }

    /// Returns the record of an error of the log itself.
    pub(super) fn of_warning(error: &Error) -> LogRecord {
        let fields = Fields {
            message: error.to_string(),
            kind: Some(error.kind().as_str().to_owned()),
            hint: error.advice().map(str::to_owned).map(with_command_line),
            ..Fields::default()
        };
        LogRecord::new(Level::WARN, module_path!(), fields)
    }

    /// Adds a span; spans come from the outermost to the innermost.
    pub(super) fn add_span(&mut self, name: &'static str, fields: Option<&Fields>) {
        self.spans.push(name);
        for (field, value) in fields.into_iter().flat_map(|fields| &fields.others) {
            match self.span_fields.iter_mut().find(|(known, _)| known == field) {
                Some((_, old)) => old.clone_from(value),
                None => self.span_fields.push((field, value.clone())),
            }
        }
    }

    /// Returns one line for people: time, level, program, spans, message, fields.
    pub(super) fn text(&self, program: &str) -> String {
        let mut line = format!("{:.6} {:<5} {program}[{}] ", self.time, self.level, std::process::id());
        for span in &self.spans {
            let _ = write!(line, "{span}: ");
        }
        line.push_str(&printable::value(self.fields.message.trim_end()));
        if let Some(hint) = &self.fields.hint {
            let _ = write!(line, " (hint: {})", printable::value(hint.trim_end()));
        }
        for (name, value) in self.span_fields.iter().chain(&self.fields.others) {
            let _ = write!(line, " {name}={value}");
        }
        line.push('\n');
        line
    }

    /// Returns one JSON object on a line of its own. For a name that occurs twice, the value of the
    /// event or of the innermost span is used.
    pub(super) fn json(&self, program: &str) -> String {
        let mut all: Vec<(&str, Value)> = vec![
            ("time", format!("{:.6}", self.time).into()),
            ("level", self.level.as_str().to_ascii_lowercase().into()),
            ("program", program.into()),
            ("pid", std::process::id().into()),
            ("target", self.target.as_str().into()),
            ("message", self.fields.message.as_str().into()),
        ];
        all.extend(self.fields.kind.as_deref().map(|kind| ("kind", kind.into())));
        all.extend(self.fields.hint.as_deref().map(|hint| ("hint", hint.into())));
        all.extend((!self.spans.is_empty()).then(|| ("spans", self.spans.clone().into())));
        for (name, value) in self.fields.others.iter().chain(&self.span_fields) {
            if !all.iter().any(|(known, _)| known == name) {
                all.push((name, value.clone()));
            }
        }
        let mut line = Vec::new();
        let mut serializer = serde_json::Serializer::new(&mut line);
        // Writing text into memory does not fail.
        let _ = (&mut serializer).collect_map(all);
        line.push(b'\n');
        String::from_utf8_lossy(&line).into_owned()
    }
}
