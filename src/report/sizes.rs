//! Charts of the sizes of backups and the durations of drills.

use super::chart::{Bar, ChartMark, Figure, Measure, bars};
use super::html::Html;
use super::{Holdings, Known, count};
use crate::observe::span;
use crate::repo::drills::Drill;
use crate::repo::record::Record;

/// Maximum number of bars in a chart.
const MAX_BARS: usize = 60;
const HEIGHT: f64 = 120.0;

/// The number of bytes of a backup that a bar shows.
type SizeOf = fn(&Record) -> u64;

/// Draws the stored size of each backup, and the bytes that it added.
pub fn backups(html: &mut Html, id: &str, backups: &[Known<'_>]) {
    let each = backups.len().div_ceil(MAX_BARS).max(1);
    let kinds: [(_, _, _, SizeOf); 2] = [
        (
            "stored",
            "Stored",
            "All blocks of a backup, including those that earlier backups stored",
            |record| record.stored,
        ),
        ("added", "Added", "Blocks that a backup wrote because no earlier one had them", |record| {
            record.new_bytes
        }),
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
        let mut caption =
            format!("{what}: {} to {}, {} for the newest.", text(least), text(most), text(last));
        if each > 1 {
            caption += &format!(" A bar is the mean of {each} backups in a row.");
        }
        let figure = Figure { id: format!("{id}-{name}"), title, caption, height: HEIGHT, legend: &[] };
        bars(html, &figure, Measure::Bytes, &all);
    }
}

fn bar(group: &[Known<'_>], of: SizeOf) -> Option<Bar> {
    let (first, last) = (group.first()?.record, group.last()?.record);
    let mean = group.iter().map(|backup| of(backup.record) as f64).sum::<f64>() / group.len() as f64;
    let text = Measure::Bytes.text(mean);
    let label = match group.len() {
        1 => format!("{}: {text}", first.id),
        number => format!("{number} backups from {} to {}: {text} each", first.id, last.id),
    };
    Some(Bar { time: last.stop_time, parts: vec![(ChartMark::First, mean)], label })
}

/// A phase of a drill: its mark, its name and its duration in seconds.
type Phase = (ChartMark, &'static str, fn(&Drill) -> Option<f64>);

const PHASES: [Phase; 3] = [
    (ChartMark::First, "restore", |drill| drill.restore_seconds),
    (ChartMark::Second, "recovery", |drill| drill.recovery_seconds),
    (ChartMark::Third, "checks", |drill| drill.check_seconds),
];

/// Draws the durations of drills.
pub fn drills(html: &mut Html, id: &str, holdings: &Holdings) {
    let hidden = holdings.drills.len().saturating_sub(MAX_BARS);
    let (_, shown) = holdings.drills.split_at(hidden);
    let all: Vec<Bar> = shown.iter().map(drilled).collect();
    let Some(last) = shown.last() else {
        return;
    };
    let of = |drill: &Drill| drill.restore_seconds.zip(drill.recovery_seconds);
    let total = |drill: &Drill| of(drill).map(|(restore, recovery)| restore + recovery);
    let slowest = shown.iter().filter_map(total).reduce(f64::max);
    let mut caption = match (of(last), slowest) {
        (Some((restore, recovery)), Some(slowest)) => format!(
            "The last one restored in {} and recovered in {}; the slowest took {} for both.",
            span(restore),
            span(recovery),
            span(slowest)
        ),
        (None, Some(slowest)) => {
            format!(
                "The last one did not reach the end of recovery; the slowest took {} to restore and recover.",
                span(slowest)
            )
        }
        _ => "None of them reached the end of recovery.".to_owned(),
    };
    if hidden > 0 {
        caption += &format!(" The newest {MAX_BARS} of {}.", count(holdings.drills.len(), "drill"));
    }
    let figure = Figure {
        id: format!("{id}-drills"),
        title: "Time of drills",
        caption,
        height: HEIGHT,
        legend: &PHASES.map(|(mark, name, _)| (mark, name)),
    };
    bars(html, &figure, Measure::Seconds, &all);
}

fn drilled(drill: &Drill) -> Bar {
    let parts: Vec<_> =
        PHASES.iter().filter_map(|(mark, name, of)| Some((*mark, *name, of(drill)?))).collect();
    let words: Vec<String> = parts
        .iter()
        .map(|(_, name, seconds)| format!("{name} {}", Measure::Seconds.text(*seconds)))
        .collect();
    let label = format!(
        "{}: {} {}",
        drill.ended.strftime("%Y-%m-%d %H:%M"),
        drill.outcome.as_str(),
        words.join(", ")
    );
    Bar {
        time: drill.ended,
        parts: parts.into_iter().map(|(mark, _, seconds)| (mark, seconds)).collect(),
        label,
    }
}
