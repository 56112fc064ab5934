//! Tables: everything that the charts show, as text, with a bound on the rows.

use super::html::Html;
use super::{Holdings, Known, count};
use crate::observe::{Finding, Light, size_text, span};
use crate::repo::drills::{Drill, Outcome};
use jiff::Timestamp;
use std::fmt::Display;

/// Maximum number of rows of each table; the newest are shown.
const MAX_BACKUPS: usize = 100;
const MAX_DRILLS: usize = 40;
const MAX_WINDOWS: usize = 40;
/// Maximum number of labels shown of one backup.
const MAX_LABELS: usize = 8;

/// Writes a table that scrolls sideways where it is too wide.
pub fn table<T>(
    html: &mut Html,
    name: &str,
    columns: &[&str],
    rows: impl Iterator<Item = T>,
    mut row: impl FnMut(&mut Html, T),
) {
    html.scroll(name, |html| {
        html.element("table", &[], |html| {
            html.leaf("caption", &[], name);
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    for column in columns {
                        html.leaf("th", &[("scope", &"col")], column);
                    }
                });
            });
            html.element("tbody", &[], |html| {
                for thing in rows {
                    html.element("tr", &[], |html| row(html, thing));
                    html.markup("\n");
                }
            });
        });
    });
}

pub fn cell(html: &mut Html, text: impl Display) {
    html.leaf("td", &[], text);
}

/// Writes a cell for text that may be long or hard to wrap.
pub fn wide(html: &mut Html, text: impl Display) {
    html.leaf("td", &[("class", &"wide")], text);
}

pub fn number(html: &mut Html, text: impl Display) {
    html.leaf("td", &[("class", &"number")], text);
}

pub fn bad(html: &mut Html, text: impl Display) {
    html.element("td", &[], |html| html.leaf("strong", &[("class", &"bad")], text));
}

pub fn moment(html: &mut Html, at: Timestamp) {
    html.element("td", &[("class", &"moment")], |html| time(html, at));
}

/// Writes a moment, readable for people and for programs.
pub fn time(html: &mut Html, at: Timestamp) {
    html.leaf("time", &[("datetime", &format_args!("{at:.6}"))], at.strftime("%Y-%m-%d %H:%M:%SZ"));
}

/// Writes a note about the rows that a table leaves out.
pub fn rest(html: &mut Html, all: usize, shown: usize, singular: &str, elsewhere: &str) {
    if all > shown {
        let others = count(all - shown, singular);
        html.leaf("p", &[("class", &"note")], format!("And {others}: {elsewhere}."));
    }
}

/// Writes green, yellow or red, distinguishable by shape and word too.
pub fn light(html: &mut Html, light: Light) {
    let shape = match light {
        Light::Green => "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1 -5 0Z",
        Light::Yellow => "M0 -6L6 5H-6Z",
        Light::Red => "M-5 -5H5V5H-5Z",
    };
    html.element("span", &[("class", &format!("light {}", light.as_str()))], |html| {
        html.element("svg", &[("viewBox", &"-7 -7 14 14"), ("aria-hidden", &"true")], |html| {
            html.empty("path", &[("d", &shape)]);
        });
        html.text(light.as_str());
    });
}

pub fn findings<'f>(html: &mut Html, name: &str, findings: impl Iterator<Item = &'f Finding>) {
    table(html, name, &["state", "check", "result"], findings, |html, finding| {
        html.element("td", &[], |html| light(html, finding.light));
        cell(html, finding.name);
        html.element("td", &[("class", &"wide")], |html| {
            html.text(&finding.detail);
            if let Some(hint) = &finding.hint
                && finding.light > Light::Green
            {
                html.leaf("p", &[("class", &"note")], format!("hint: {hint}"));
            }
        });
    });
}

pub fn windows(html: &mut Html, holdings: &Holdings) {
    let columns = ["timeline", "from", "to", "length"];
    let newest = holdings.windows.iter().rev().take(MAX_WINDOWS);
    table(html, "Moments that can be restored, newest first", &columns, newest, |html, window| {
        cell(html, window.timeline);
        moment(html, window.from);
        moment(html, window.to);
        number(html, span(window.to.duration_since(window.from).as_secs_f64()));
    });
    rest(html, holdings.windows.len(), MAX_WINDOWS, "older window", "`walkeep list` shows all");
}

pub fn backups(html: &mut Html, holdings: &Holdings, backups: &[Known<'_>]) {
    let columns = [
        "backup",
        "kind",
        "state",
        "ended",
        "size",
        "stored",
        "added",
        "its own",
        "pinned",
        "last drill",
        "labels",
    ];
    let newest = backups.iter().rev().take(MAX_BACKUPS);
    table(html, "Backups, newest first", &columns, newest, |html, known| {
        let record = known.record;
        html.leaf("th", &[("scope", &"row")], &record.id);
        cell(html, known.kind());
        if known.is_good() {
            cell(html, known.state());
        } else {
            bad(html, known.state());
        }
        moment(html, record.stop_time);
        for bytes in [record.size, record.stored, record.new_bytes] {
            number(html, size_text(bytes));
        }
        number(html, optional(holdings.exclusive.get(&record.id).copied().map(size_text)));
        cell(html, optional(known.pin));
        match holdings.drill(&record.id) {
            Some(drill) if drill.outcome == Outcome::Refuted => bad(html, outcome(drill)),
            drill => cell(html, optional(drill.map(outcome))),
        }
        wide(html, labels(known));
    });
    rest(html, backups.len(), MAX_BACKUPS, "older backup", "`walkeep list` shows all");
}

fn labels(known: &Known<'_>) -> String {
    let labels = &known.record.labels;
    let mut shown: Vec<String> =
        labels.iter().take(MAX_LABELS).map(|(key, value)| format!("{key}={value}")).collect();
    if labels.len() > MAX_LABELS {
        shown.push(format!("and {} more", labels.len() - MAX_LABELS));
    }
    shown.join(" ")
}

/// A value as text; an absent one leaves its cell empty.
fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn outcome(drill: &Drill) -> &'static str {
    match drill.outcome {
        Outcome::Proved => "proved",
        Outcome::Refuted => "REFUTED",
        Outcome::Unknown => "could not tell",
    }
}

pub fn drills(html: &mut Html, holdings: &Holdings) {
    let columns = [
        "ended",
        "outcome",
        "backup",
        "target",
        "restore",
        "recovery",
        "checks",
        "reached",
        "host",
        "failed checks",
    ];
    let newest = holdings.drills.iter().rev().take(MAX_DRILLS);
    table(html, "Drills, newest first", &columns, newest, |html, drill| {
        moment(html, drill.ended);
        match drill.outcome {
            Outcome::Proved => cell(html, outcome(drill)),
            Outcome::Refuted | Outcome::Unknown => bad(html, outcome(drill)),
        }
        cell(html, drill.backup.as_deref().unwrap_or("none"));
        cell(html, &drill.target);
        for seconds in [drill.restore_seconds, drill.recovery_seconds, drill.check_seconds] {
            number(html, optional(seconds.map(span)));
        }
        cell(html, optional(drill.reached_lsn));
        wide(html, &drill.host);
        html.element("td", &[("class", &"wide")], |html| {
            for check in drill.checks.iter().filter(|check| check.ok == Some(false)) {
                html.leaf("p", &[], format!("{}: {}", check.name, check.detail));
            }
        });
    });
    rest(
        html,
        holdings.drills.len(),
        MAX_DRILLS,
        "older drill",
        "`walkeep show BACKUP` shows the last one of a backup",
    );
}
