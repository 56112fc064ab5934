//! What is told, as JSON, as a message for a chat, and as variables of an environment. Short, whatever happened.

use jiff::Timestamp;
use serde_json::{Value, json};

/// Why it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Failure,
    /// It worked again after it had failed.
    Recovery,
    Drill,
    /// Somebody wants to see that notices arrive.
    Test,
}

impl Event {
    pub fn as_str(self) -> &'static str {
        match self {
            Event::Failure => "failure",
            Event::Recovery => "recovery",
            Event::Drill => "drill",
            Event::Test => "test",
        }
    }
}

/// Lines of the story, and characters of each.
const LINES: usize = 10;
const LENGTH: usize = 400;

#[derive(Debug, Clone)]
pub struct Notice {
    pub event: Event,
    pub cluster: String,
    pub verb: String,
    /// That the program ends with.
    pub status: u8,
    /// What is wrong, in a line.
    pub reason: Option<String>,
    /// What was said about it.
    pub details: Vec<String>,
    /// Since when it fails, or did.
    pub since: Option<Timestamp>,
    pub host: String,
    pub time: Timestamp,
}

impl Notice {
    pub fn is_ok(&self) -> bool {
        self.status == 0
    }

    /// One line.
    pub fn text(&self) -> String {
        let what = format!("walkeep {} of cluster {} on {}", self.verb, self.cluster, self.host);
        let since = self.since.map(|since| since.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
        match (self.event, since) {
            (Event::Test, _) => format!(
                "walkeep on {}: this is a test, notices of cluster {} arrive",
                self.host, self.cluster
            ),
            (Event::Recovery, Some(since)) => format!("{what} works again; it had failed since {since}"),
            (Event::Recovery, None) => format!("{what} works again"),
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

    /// The first lines of the story, none too long.
    fn details(&self) -> impl Iterator<Item = String> {
        self.details.iter().take(LINES).map(|line| short(line))
    }

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

    /// As Slack and those that understand its webhooks take it.
    pub fn slack(&self) -> Value {
        let mut text = self.text();
        // The reason stands in the text.
        for line in self.details().filter(|line| Some(line) != self.reason.as_ref()) {
            text += "\n";
            text += &line;
        }
        // These three begin links and mentions there.
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        json!({ "text": text })
    }

    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("WALKEEP_EVENT", self.event.as_str().to_owned()),
            ("WALKEEP_OK", self.is_ok().to_string()),
            ("WALKEEP_CLUSTER", self.cluster.clone()),
            ("WALKEEP_VERB", self.verb.clone()),
            ("WALKEEP_STATUS", self.status.to_string()),
            ("WALKEEP_TEXT", self.text()),
            ("WALKEEP_SINCE", self.since.map(time).unwrap_or_default()),
            ("WALKEEP_HOST", self.host.clone()),
            ("WALKEEP_TIME", time(self.time)),
        ]
    }
}

fn short(line: &str) -> String {
    line.chars().take(LENGTH).collect()
}

/// RFC 3339 in UTC with microseconds.
fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
