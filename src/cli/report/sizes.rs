//! The charts of backups' sizes and of drills' times.

use super::chart::{Bar, Figure, Mark, Measure, bars};
use super::html::Html;
use super::{Known, count};
use crate::cli::contents::Contents;
use crate::observe::span;
use crate::repo::drills::Drill;
use crate::repo::record::Record;

/// Bars that fit beside each other.
const MOST: usize = 60;
const HEIGHT: f64 = 120.0;

/// What of a backup a bar shows.
type Bytes = fn(&Record) -> u64;

/// What each backup takes, and what it added.
pub fn backups(html: &mut Html, id: &str, backups: &[Known<'_>]) {
    let each = backups.len().div_ceil(MOST).max(1);
    let kinds: [(_, _, _, Bytes); 2] = [
        ("stored", "Stored", "All blocks of a backup, whoever stored them first", |record| record.stored),
        ("added", "Added", "What a backup wrote that no earlier one had", |record| record.new_bytes),
    ];
    for (name, title, what, of) in kinds {
        let all: Vec<Bar> = backups.chunks(each).filter_map(|group| bar(group, of)).collect();
        let (Some(least), Some(most), Some(last)) = (
            backups.iter().map(|backup| of(backup.record)).min(),
            backups.iter().map(|backup| of(backup.record)).max(),
            backups.last().map(|backup| of(backup.record)),
        ) else {
            continue;
        };
        let text = |bytes: u64| Measure::Bytes.text(bytes as f64);
        let mut said = format!("{what}: {} to {}, {} for the newest.", text(least), text(most), text(last));
        if each > 1 {
            said += &format!(" A bar is the mean of {each} backups in a row.");
        }
        let figure = Figure { id: format!("{id}-{name}"), title, said, height: HEIGHT, legend: &[] };
        bars(html, &figure, Measure::Bytes, &all);
    }
}

fn bar(group: &[Known<'_>], of: Bytes) -> Option<Bar> {
    let (first, last) = (group.first()?.record, group.last()?.record);
    let mean = group.iter().map(|backup| of(backup.record) as f64).sum::<f64>() / group.len() as f64;
    let text = Measure::Bytes.text(mean);
    let said = match group.len() {
        1 => format!("{}: {text}", first.id),
        number => format!("{number} backups from {} to {}: {text} each", first.id, last.id),
    };
    Some(Bar { time: last.stop_time, parts: vec![(Mark::First, mean)], said })
}

/// A part of a drill that takes time.
type Part = (Mark, &'static str, fn(&Drill) -> Option<f64>);

const PARTS: [Part; 3] = [
    (Mark::First, "restore", |drill| drill.restore_seconds),
    (Mark::Second, "recovery", |drill| drill.recovery_seconds),
    (Mark::Third, "checks", |drill| drill.check_seconds),
];

/// How long drills took.
pub fn drills(html: &mut Html, id: &str, contents: &Contents) {
    let newest = contents.drills.len().saturating_sub(MOST);
    let shown = contents.drills.get(newest..).unwrap_or_default();
    let all: Vec<Bar> = shown.iter().map(drilled).collect();
    let Some(last) = shown.last() else {
        return;
    };
    let of = |drill: &Drill| drill.restore_seconds.zip(drill.recovery_seconds);
    let total = |drill: &Drill| of(drill).map(|(restore, recovery)| restore + recovery);
    let slowest = shown.iter().filter_map(total).reduce(f64::max);
    let mut said = match (of(last), slowest) {
        (Some((restore, recovery)), Some(slowest)) => format!(
            "The last one restored in {} and recovered in {}; the slowest took {} for both.",
            span(restore),
            span(recovery),
            span(slowest)
        ),
        (None, Some(slowest)) => {
            format!(
                "The last one did not get that far; the slowest took {} to restore and recover.",
                span(slowest)
            )
        }
        _ => "None of them got that far.".to_owned(),
    };
    if newest > 0 {
        said += &format!(" The newest {MOST} of {}.", count(contents.drills.len(), "drill"));
    }
    let figure = Figure {
        id: format!("{id}-drills"),
        title: "Time of drills",
        said,
        height: HEIGHT,
        legend: &PARTS.map(|(mark, name, _)| (mark, name)),
    };
    bars(html, &figure, Measure::Seconds, &all);
}

fn drilled(drill: &Drill) -> Bar {
    let parts: Vec<_> =
        PARTS.iter().filter_map(|(mark, name, of)| Some((*mark, *name, of(drill)?))).collect();
    let words: Vec<String> = parts
        .iter()
        .map(|(_, name, seconds)| format!("{name} {}", Measure::Seconds.text(*seconds)))
        .collect();
    let said = format!(
        "{}: {} {}",
        drill.ended.strftime("%Y-%m-%d %H:%M"),
        drill.outcome.as_str(),
        words.join(", ")
    );
    Bar {
        time: drill.ended,
        parts: parts.into_iter().map(|(mark, _, seconds)| (mark, seconds)).collect(),
        said,
    }
}
