//! The chart of what there is over time: backups, what can be restored, drills.

use super::chart::{self, Figure, Mark, Times};
use super::html::Html;
use super::{Known, count};
use crate::cli::contents::Contents;
use crate::observe::span;
use crate::repo::drills::{Drill, Outcome};
use jiff::Timestamp;

/// Between rows.
const ROW: f64 = 30.0;
/// Marks that are nearer to each other than this become one.
const NEAR: f64 = 16.0;
/// Timelines that have a row, the newest.
const TIMELINES: usize = 8;

const LEGEND: &[(Mark, &str)] = &[
    (Mark::Full, "full backup"),
    (Mark::Incremental, "incremental backup"),
    (Mark::Damaged, "damaged backup"),
    (Mark::Pinned, "pinned"),
    (Mark::Covered, "any moment can be restored"),
    (Mark::Proved, "drill: proved"),
    (Mark::Refuted, "drill: refuted"),
    (Mark::Unknown, "drill: could not tell"),
];

pub fn draw(html: &mut Html, id: &str, contents: &Contents, backups: &[Known<'_>], now: Timestamp) {
    let oldest = backups.iter().map(|backup| backup.record.stop_time);
    let Some(from) = oldest.chain(contents.windows.iter().map(|window| window.from)).min() else {
        return;
    };
    let drills: Vec<&Drill> = contents.drills.iter().filter(|drill| drill.ended >= from).collect();
    let mut timelines: Vec<u32> = contents.windows.iter().map(|window| window.timeline.0).collect();
    timelines.dedup();
    let unseen = timelines.len().saturating_sub(TIMELINES);
    let timelines = timelines.split_off(unseen);
    let rows = 1 + timelines.len() + usize::from(!drills.is_empty());
    let figure = Figure {
        id: format!("{id}-history"),
        title: "Backups and what can be restored",
        said: said(backups, &timelines, unseen, &drills),
        height: ROW * rows as f64 + 12.0,
        legend: LEGEND,
    };
    let times = Times::new(from, now.max(from));
    figure.draw(html, |html| {
        times.draw(html, figure.height);
        let mut y = ROW / 2.0 + 8.0;
        chart::row(html, y, "backups");
        for group in grouped(backups, |backup| times.at(backup.record.stop_time)) {
            draw_backups(html, &times, group, y);
        }
        for timeline in timelines {
            y += ROW;
            chart::row(html, y, &format!("timeline {timeline}"));
            for window in contents.windows.iter().filter(|window| window.timeline.0 == timeline) {
                let said = format!("restorable from {} to {}", minute(window.from), minute(window.to));
                chart::stretch(html, Mark::Covered, (times.at(window.from), times.at(window.to)), y, &said);
            }
        }
        if !drills.is_empty() {
            y += ROW;
            chart::row(html, y, "drills");
            for group in grouped(&drills, |drill| times.at(drill.ended)) {
                draw_drills(html, &times, group, y);
            }
        }
    });
}

/// The chart in words.
fn said(backups: &[Known<'_>], timelines: &[u32], unseen: usize, drills: &[&Drill]) -> String {
    let mut said = format!("{}; ", words(backups));
    said += &match timelines {
        [] => "no moment can be restored".to_owned(),
        [one] => format!("moments of timeline {one} can be restored"),
        [.., last] => format!(
            "moments of {} can be restored, up to timeline {last}",
            count(timelines.len() + unseen, "timeline")
        ),
    };
    if unseen > 0 {
        said += &format!(", of which the {TIMELINES} newest are shown");
    }
    if !drills.is_empty() {
        let of = |outcome| drills.iter().filter(|drill| drill.outcome == outcome).count();
        said += &format!(
            "; {}: {} proved, {} refuted, {} could not tell",
            count(drills.len(), "drill"),
            of(Outcome::Proved),
            of(Outcome::Refuted),
            of(Outcome::Unknown)
        );
    }
    said + ". A number stands for so many at one place. Times are in UTC, up to now."
}

/// `12 backups: 1 full, 11 incremental, 1 of them damaged, 2 pinned`.
fn words(backups: &[Known<'_>]) -> String {
    let full = backups.iter().filter(|backup| backup.is_full()).count();
    let damaged = backups.iter().filter(|backup| !backup.is_good()).count();
    let pinned = backups.iter().filter(|backup| backup.pin.is_some()).count();
    let mut words =
        format!("{}: {full} full, {} incremental", count(backups.len(), "backup"), backups.len() - full);
    for (number, what) in [(damaged, "damaged"), (pinned, "pinned")] {
        if number > 0 {
            words += &format!(", {number} {what}");
        }
    }
    words
}

fn draw_backups(html: &mut Html, times: &Times, group: &[Known<'_>], y: f64) {
    let [first, .., last] = group else {
        if let [one] = group {
            let record = one.record;
            let pinned = if one.pin.is_some() { ", pinned" } else { "" };
            let said = format!(
                "{}: {}, {}{pinned}, ended {}",
                record.id,
                one.kind(),
                one.state(),
                minute(record.stop_time)
            );
            draw_backup(html, mark(one), one.pin.is_some(), (times.at(record.stop_time), y), &said);
        }
        return;
    };
    let (begin, end) = (first.record.stop_time, last.record.stop_time);
    let said = format!("{}; from {} to {}", words(group), minute(begin), minute(end));
    let worst = group.iter().map(mark).max_by_key(|mark| match mark {
        Mark::Damaged => 2,
        Mark::Full => 1,
        _ => 0,
    });
    let x = (times.at(begin) + times.at(end)) / 2.0;
    let is_pinned = group.iter().any(|backup| backup.pin.is_some());
    draw_backup(html, worst.unwrap_or(Mark::Incremental), is_pinned, (x, y), &said);
    number(html, x, y, group.len());
}

fn draw_backup(html: &mut Html, mark: Mark, is_pinned: bool, (x, y): (f64, f64), said: &str) {
    mark.draw(html, x, y, said);
    if is_pinned {
        Mark::Pinned.draw(html, x, y - 12.0, said);
    }
}

fn mark(backup: &Known<'_>) -> Mark {
    match (backup.is_good(), backup.is_full()) {
        (false, _) => Mark::Damaged,
        (true, true) => Mark::Full,
        (true, false) => Mark::Incremental,
    }
}

fn draw_drills(html: &mut Html, times: &Times, group: &[&Drill], y: f64) {
    let [.., last] = group else {
        return;
    };
    let mark = |drill: &Drill| match drill.outcome {
        Outcome::Proved => Mark::Proved,
        Outcome::Refuted => Mark::Refuted,
        Outcome::Unknown => Mark::Unknown,
    };
    let worst = group.iter().map(|drill| mark(drill)).max_by_key(|mark| match mark {
        Mark::Refuted => 2,
        Mark::Unknown => 1,
        _ => 0,
    });
    let took = last.restore_seconds.map_or_else(String::new, |took| format!(", restored in {}", span(took)));
    let said = format!(
        "{}, the last ended {}: {}{took}",
        count(group.len(), "drill"),
        minute(last.ended),
        last.outcome.as_str()
    );
    let x = times.at(last.ended);
    worst.unwrap_or(Mark::Unknown).draw(html, x, y, &said);
    number(html, x, y, group.len());
}

/// How many a mark stands for.
fn number(html: &mut Html, x: f64, y: f64, number: usize) {
    if number > 1 {
        html.leaf("text", &[("x", &x), ("y", &(y + 17.0)), ("class", &"middle small")], number);
    }
}

/// Things in the order of their places, in groups of those that are too near to each other.
fn grouped<T>(things: &[T], place: impl Fn(&T) -> f64) -> Vec<&[T]> {
    let mut groups = Vec::new();
    let mut rest = things;
    while let Some(first) = rest.first() {
        let begin = place(first);
        let near = rest.iter().take_while(|thing| place(thing) < begin + NEAR).count();
        let (group, behind) = rest.split_at(near.max(1));
        groups.push(group);
        rest = behind;
    }
    groups
}

fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M").to_string()
}
