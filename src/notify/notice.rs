//! The content of a notice as JSON, as a chat message and as environment variables. Its length is
//! bounded.

use jiff::Timestamp;
use serde_json::{Value, json};

/// Reason of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeEvent {
    Failure,
    /// The verb works again after it had failed.
    Recovery,
    Drill,
    /// A test of the delivery.
    Test,
}

impl NoticeEvent {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NoticeEvent::Failure => "failure",
            NoticeEvent::Recovery => "recovery",
            NoticeEvent::Drill => "drill",
            NoticeEvent::Test => "test",
        }
    }
}

/// Maximum number of lines of the details.
const MAX_LINES: usize = 10;
/// Maximum number of characters of a line.
const MAX_LINE_LENGTH: usize = 400;

/// The facts of a notice.
#[derive(Debug, Clone)]
pub struct Notice {
    pub event: NoticeEvent,
    pub cluster: String,
    pub verb: String,
    /// Exit status of the program.
    pub status: u8,
    /// The failure in one line.
    pub reason: Option<String>,
    /// First lines that were logged or printed.
    pub details: Vec<String>,
    /// Start of the failure, which lasts or has just ended.
    pub since: Option<Timestamp>,
    pub host: String,
    pub time: Timestamp,
}

impl Notice {
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status == 0
    }

    /// The notice in one line.
    #[must_use]
    pub fn text(&self) -> String {
        let what = format!("walkeep {} of cluster {} on {}", self.verb, self.cluster, self.host);
        let since = self.since.map(|since| since.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
        match (self.event, since) {
            (NoticeEvent::Test, _) => format!(
                "walkeep on {}: this is a test, notices of cluster {} arrive",
                self.host, self.cluster
            ),
            (NoticeEvent::Recovery, Some(since)) => {
                format!("{what} works again; it had failed since {since}")
            }
            (NoticeEvent::Recovery, None) => format!("{what} works again"),
            (_, _) if self.is_ok() => format!("{what} is good"),
            (_, Some(since)) if since != self.time.strftime("%Y-%m-%d %H:%M:%SZ").to_string() => {
                format!("{what} fails since {since}: {}", self.why())
            }
            _ => format!("{what} failed: {}", self.why()),
        }
    }

    fn why(&self) -> String {
        match (&self.reason, self.status) {
            (Some(reason), _) => short(reason),
            (None, 3) => "it found a problem".to_owned(),
            (None, 4) => "another run holds the lock".to_owned(),
            (None, status) => format!("it ended with status {status}"),
        }
    }

    /// The first lines of the details, each cut to [`MAX_LINE_LENGTH`].
    fn details(&self) -> impl Iterator<Item = String> {
        self.details.iter().take(MAX_LINES).map(|line| short(line))
    }

    /// The notice as a JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "event": self.event.as_str(),
            "ok": self.is_ok(),
            "cluster": self.cluster,
            "verb": self.verb,
            "status": self.status,
            "text": self.text(),
            "details": self.details().collect::<Vec<_>>(),
            "since": self.since.map(time),
            "host": self.host,
            "time": time(self.time),
        })
    }

    /// The notice as a message of Slack and of chats that accept its webhooks.
    #[must_use]
    pub fn slack(&self) -> Value {
        let mut text = self.text();
        let reason = self.reason.as_deref().map(short);
        // The text contains the reason already.
        for line in self.details().filter(|line| Some(line) != reason.as_ref()) {
            text += "\n";
            text += &line;
        }
        // These three characters begin links and mentions.
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        json!({ "text": text })
    }

    /// The notice as environment variables.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("WALKEEP_EVENT", self.event.as_str().to_owned()),
            ("WALKEEP_OK", self.is_ok().to_string()),
            ("WALKEEP_CLUSTER", self.cluster.clone()),
            ("WALKEEP_VERB", self.verb.clone()),
            ("WALKEEP_STATUS", self.status.to_string()),
            ("WALKEEP_TEXT", self.text()),
            ("WALKEEP_SINCE", self.since.map_or_else(String::new, time)),
            ("WALKEEP_HOST", self.host.clone()),
            ("WALKEEP_TIME", time(self.time)),
        ]
    }
}

/// Returns a line, cut to [`MAX_LINE_LENGTH`].
fn short(line: &str) -> String {
    line.chars().take(MAX_LINE_LENGTH).collect()
}

/// Formats a time as RFC 3339 in UTC with microseconds.
fn time(time: Timestamp) -> String {
    format!("{time:.6}")
}
