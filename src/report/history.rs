//! Chart of backups, restorable moments and drills over time.

use super::chart::{self, ChartMark, Figure, Times};
use super::html::Html;
use super::{Holdings, Known, count};
use crate::observe::span;
use crate::repo::drills::{Drill, Outcome};
use jiff::Timestamp;

/// Distance between rows.
const ROW_HEIGHT: f64 = 30.0;
/// Minimum distance of two marks; nearer ones are drawn as one mark.
const MIN_DISTANCE: f64 = 16.0;
/// Maximum number of timelines with a row; the newest are shown.
const MAX_TIMELINES: usize = 8;

const LEGEND: &[(ChartMark, &str)] = &[
    (ChartMark::Full, "full backup"),
    (ChartMark::Incremental, "incremental backup"),
    (ChartMark::Damaged, "damaged backup"),
    (ChartMark::Pinned, "pinned"),
    (ChartMark::Covered, "any moment can be restored"),
    (ChartMark::Proved, "drill: proved"),
    (ChartMark::Refuted, "drill: refuted"),
    (ChartMark::Unknown, "drill: could not tell"),
];

pub fn draw(html: &mut Html, id: &str, holdings: &Holdings, backups: &[Known<'_>], now: Timestamp) {
    let oldest = backups.iter().map(|backup| backup.record.stop_time);
    let Some(from) = oldest.chain(holdings.windows.iter().map(|window| window.from)).min() else {
        return;
    };
    let drills: Vec<&Drill> = holdings.drills.iter().filter(|drill| drill.ended >= from).collect();
    let mut timelines: Vec<u32> = holdings.windows.iter().map(|window| window.timeline.0).collect();
    timelines.dedup();
    let hidden = timelines.len().saturating_sub(MAX_TIMELINES);
    let timelines = timelines.split_off(hidden);
    let rows = 1 + timelines.len() + usize::from(!drills.is_empty());
    let figure = Figure {
        id: format!("{id}-history"),
        title: "Backups and what can be restored",
        caption: caption(backups, &timelines, hidden, &drills),
        height: ROW_HEIGHT * rows as f64 + 12.0,
        legend: LEGEND,
    };
    let times = Times::new(from, now.max(from));
    figure.draw(html, |html| {
        times.draw(html, figure.height);
        let mut y = ROW_HEIGHT / 2.0 + 8.0;
        chart::row(html, y, "backups");
        for group in grouped(backups, |backup| times.at(backup.record.stop_time)) {
            draw_backups(html, &times, group, y);
        }
        for timeline in timelines {
            y += ROW_HEIGHT;
            chart::row(html, y, &format!("timeline {timeline}"));
            for window in holdings.windows.iter().filter(|window| window.timeline.0 == timeline) {
                let label = format!("restorable from {} to {}", minute(window.from), minute(window.to));
                let place = (times.at(window.from), times.at(window.to));
                chart::bar_in_row(html, ChartMark::Covered, place, y, &label);
            }
        }
        if !drills.is_empty() {
            y += ROW_HEIGHT;
            chart::row(html, y, "drills");
            for group in grouped(&drills, |drill| times.at(drill.ended)) {
                draw_drills(html, &times, group, y);
            }
        }
    });
}

/// The content of the chart in words.
fn caption(backups: &[Known<'_>], timelines: &[u32], hidden: usize, drills: &[&Drill]) -> String {
    let mut caption = format!("{}; ", summary(backups));
    caption += &match timelines {
        [] => "no moment can be restored".to_owned(),
        [one] => format!("moments of timeline {one} can be restored"),
        [.., last] => format!(
            "moments of {} can be restored, up to timeline {last}",
            count(timelines.len() + hidden, "timeline")
        ),
    };
    if hidden > 0 {
        caption += &format!(", of which the {MAX_TIMELINES} newest are shown");
    }
    if !drills.is_empty() {
        let of = |outcome| drills.iter().filter(|drill| drill.outcome == outcome).count();
        caption += &format!(
            "; {}: {} proved, {} refuted, {} could not tell",
            count(drills.len(), "drill"),
            of(Outcome::Proved),
            of(Outcome::Refuted),
            of(Outcome::Unknown)
        );
    }
    caption
        + ". A number below a mark counts the backups or drills that it stands for. Times are in UTC, up to now."
}

/// `12 backups: 1 full, 11 incremental, 1 of them damaged, 2 pinned`.
fn summary(backups: &[Known<'_>]) -> String {
    let full = backups.iter().filter(|backup| backup.is_full()).count();
    let damaged = backups.iter().filter(|backup| !backup.is_good()).count();
    let pinned = backups.iter().filter(|backup| backup.pin.is_some()).count();
    let mut summary =
        format!("{}: {full} full, {} incremental", count(backups.len(), "backup"), backups.len() - full);
    for (number, what) in [(damaged, "damaged"), (pinned, "pinned")] {
        if number > 0 {
            summary += &format!(", {number} {what}");
        }
    }
    summary
}

fn draw_backups(html: &mut Html, times: &Times, group: &[Known<'_>], y: f64) {
    let [first, .., last] = group else {
        if let [one] = group {
            let record = one.record;
            let pinned = if one.pin.is_some() { ", pinned" } else { "" };
            let label = format!(
                "{}: {}, {}{pinned}, ended {}",
                record.id,
                one.kind(),
                one.state(),
                minute(record.stop_time)
            );
            draw_backup(html, mark(one), one.pin.is_some(), (times.at(record.stop_time), y), &label);
        }
        return;
    };
    let (begin, end) = (first.record.stop_time, last.record.stop_time);
    let label = format!("{}; from {} to {}", summary(group), minute(begin), minute(end));
    let mark = group.iter().map(mark).max_by_key(|mark| match mark {
        ChartMark::Damaged => 2,
        ChartMark::Full => 1,
        _ => 0,
    });
    let x = (times.at(begin) + times.at(end)) / 2.0;
    let is_pinned = group.iter().any(|backup| backup.pin.is_some());
    draw_backup(html, mark.unwrap_or(ChartMark::Incremental), is_pinned, (x, y), &label);
    number(html, x, y, group.len());
}

fn draw_backup(html: &mut Html, mark: ChartMark, is_pinned: bool, (x, y): (f64, f64), label: &str) {
    mark.draw(html, x, y, label);
    if is_pinned {
        ChartMark::Pinned.draw(html, x, y - 12.0, label);
    }
}

fn mark(backup: &Known<'_>) -> ChartMark {
    match (backup.is_good(), backup.is_full()) {
        (false, _) => ChartMark::Damaged,
        (true, true) => ChartMark::Full,
        (true, false) => ChartMark::Incremental,
    }
}

fn draw_drills(html: &mut Html, times: &Times, group: &[&Drill], y: f64) {
    let [.., last] = group else {
        return;
    };
    let mark = |drill: &Drill| match drill.outcome {
        Outcome::Proved => ChartMark::Proved,
        Outcome::Refuted => ChartMark::Refuted,
        Outcome::Unknown => ChartMark::Unknown,
    };
    let mark = group.iter().map(|drill| mark(drill)).max_by_key(|mark| match mark {
        ChartMark::Refuted => 2,
        ChartMark::Unknown => 1,
        _ => 0,
    });
    let took = last.restore_seconds.map_or_else(String::new, |took| format!(", restored in {}", span(took)));
    let label = format!(
        "{}, the last ended {}: {}{took}",
        count(group.len(), "drill"),
        minute(last.ended),
        last.outcome.as_str()
    );
    let x = times.at(last.ended);
    mark.unwrap_or(ChartMark::Unknown).draw(html, x, y, &label);
    number(html, x, y, group.len());
}

/// Writes below a mark the number of backups or drills that it stands for, if there are several.
fn number(html: &mut Html, x: f64, y: f64, number: usize) {
    if number > 1 {
        html.leaf("text", &[("x", &x), ("y", &(y + 17.0)), ("class", &"middle small")], number);
    }
}

/// Splits items, ordered by place, into groups that are too close together to be drawn apart.
fn grouped<T>(things: &[T], place: impl Fn(&T) -> f64) -> Vec<&[T]> {
    let mut groups = Vec::new();
    let mut rest = things;
    while let Some(first) = rest.first() {
        let begin = place(first);
        let near = rest.iter().take_while(|thing| place(thing) < begin + MIN_DISTANCE).count();
        let (group, behind) = rest.split_at(near.max(1));
        groups.push(group);
        rest = behind;
    }
    groups
}

fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M").to_string()
}
