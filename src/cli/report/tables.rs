//! The tables: all that the charts show, in words, and bounded as they are.

use super::html::Html;
use super::{Known, count};
use crate::cli::contents::Contents;
use crate::cli::render;
use crate::cli::verbs::list;
use crate::observe::{Finding, Light, span};
use crate::repo::drills::{Drill, Outcome};
use jiff::Timestamp;
use std::fmt::Display;

/// Rows of each, the newest.
const BACKUPS: usize = 100;
const DRILLS: usize = 40;
const WINDOWS: usize = 40;
/// Labels of a backup.
const LABELS: usize = 8;

/// A table that can be moved sideways where it is too wide.
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

/// A cell for a text that may be long, or one word without end.
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

/// A moment, for people and for programs.
pub fn time(html: &mut Html, at: Timestamp) {
    html.leaf("time", &[("datetime", &render::time(at))], at.strftime("%Y-%m-%d %H:%M:%SZ"));
}

/// That a table does not have all.
pub fn rest(html: &mut Html, all: usize, shown: usize, one: &str, where_else: &str) {
    if all > shown {
        let others = count(all - shown, one);
        html.leaf("p", &[("class", &"note")], format!("And {others}: {where_else}."));
    }
}

/// Green, yellow or red, by shape and word too.
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
    table(html, name, &["state", "check", "what was seen"], findings, |html, finding| {
        html.element("td", &[], |html| light(html, finding.light));
        cell(html, finding.name);
        html.element("td", &[("class", &"wide")], |html| {
            html.text(&finding.detail);
            if let (Some(hint), true) = (&finding.hint, finding.light > Light::Green) {
                html.leaf("p", &[("class", &"note")], format!("hint: {hint}"));
            }
        });
    });
}

pub fn windows(html: &mut Html, contents: &Contents) {
    let columns = ["timeline", "from", "to", "length"];
    let newest = contents.windows.iter().rev().take(WINDOWS);
    table(html, "Moments that can be restored, newest first", &columns, newest, |html, window| {
        cell(html, window.timeline);
        moment(html, window.from);
        moment(html, window.to);
        number(html, span(window.to.duration_since(window.from).as_secs_f64()));
    });
    rest(html, contents.windows.len(), WINDOWS, "older window", "`walkeep list` has all");
}

pub fn backups(html: &mut Html, contents: &Contents, backups: &[Known<'_>]) {
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
    let newest = backups.iter().rev().take(BACKUPS);
    table(html, "Backups, newest first", &columns, newest, |html, known| {
        let record = known.record;
        html.leaf("th", &[("scope", &"row")], &record.id);
        cell(html, known.kind());
        match known.is_good() {
            true => cell(html, known.state()),
            false => bad(html, known.state()),
        }
        moment(html, record.stop_time);
        let own = contents.sizes.exclusive.get(&record.id).copied().unwrap_or_default();
        for bytes in [record.size, record.stored, record.new_bytes, own] {
            number(html, render::size(bytes));
        }
        cell(html, known.pin.map(list::describe).unwrap_or_default());
        match contents.drill(&record.id) {
            Some(drill) if drill.outcome == Outcome::Refuted => bad(html, outcome(drill)),
            drill => cell(html, drill.map(outcome).unwrap_or_default()),
        }
        wide(html, labels(known));
    });
    rest(html, backups.len(), BACKUPS, "older backup", "`walkeep list` has all");
}

fn labels(known: &Known<'_>) -> String {
    let labels = &known.record.labels;
    let mut shown: Vec<String> =
        labels.iter().take(LABELS).map(|(key, value)| format!("{key}={value}")).collect();
    if labels.len() > LABELS {
        shown.push(format!("and {} more", labels.len() - LABELS));
    }
    shown.join(" ")
}

fn outcome(drill: &Drill) -> &'static str {
    match drill.outcome {
        Outcome::Proved => "proved",
        Outcome::Refuted => "REFUTED",
        Outcome::Unknown => "could not tell",
    }
}

pub fn drills(html: &mut Html, contents: &Contents) {
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
        "what was wrong",
    ];
    let newest = contents.drills.iter().rev().take(DRILLS);
    table(html, "Drills, newest first", &columns, newest, |html, drill| {
        moment(html, drill.ended);
        match drill.outcome {
            Outcome::Proved => cell(html, outcome(drill)),
            Outcome::Refuted | Outcome::Unknown => bad(html, outcome(drill)),
        }
        cell(html, drill.backup.as_deref().unwrap_or("none"));
        cell(html, &drill.target);
        for seconds in [drill.restore_seconds, drill.recovery_seconds, drill.check_seconds] {
            number(html, seconds.map(span).unwrap_or_default());
        }
        cell(html, drill.reached_lsn.map(|lsn| lsn.to_string()).unwrap_or_default());
        wide(html, &drill.host);
        html.element("td", &[("class", &"wide")], |html| {
            for check in drill.checks.iter().filter(|check| check.ok == Some(false)) {
                html.leaf("p", &[], format!("{}: {}", check.name, check.detail));
            }
        });
    });
    rest(
        html,
        contents.drills.len(),
        DRILLS,
        "older drill",
        "`walkeep show BACKUP` has the last of each backup",
    );
}
