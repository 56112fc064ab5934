//! The chart of the archived WAL: every timeline, and what is missing in it.

use super::chart::{self, Figure, Mark, Scale};
use super::html::Html;
use super::{count, tables};
use crate::cli::contents::Contents;
use crate::cli::render;
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId};
use crate::repo::catalog::Gap;
use crate::repo::history::WalHistory;

const ROW: f64 = 26.0;
/// Timelines that have a row, the newest.
const TIMELINES: usize = 12;
/// Lines below the axis.
const TICKS: u64 = 4;
/// Rows of the table.
const STRETCHES: usize = 40;

const LEGEND: &[(Mark, &str)] = &[(Mark::Covered, "archived"), (Mark::Missing, "missing: a gap")];

/// Segments that follow each other, all there or all missing.
struct Stretch {
    timeline: TimelineId,
    first: SegmentName,
    last: SegmentName,
    /// `None`: they are missing.
    stored: Option<jiff::Timestamp>,
}

pub fn draw(html: &mut Html, id: &str, contents: &Contents) {
    let (Some(lines), gaps) = (&contents.wal, &contents.gaps) else {
        html.leaf("p", &[], "There is no WAL.");
        return;
    };
    let size = lines.inventory.segment_size();
    let all = stretches(lines, gaps);
    let (Some(first), Some(last)) = (
        all.iter().map(|stretch| stretch.first.number(size)).min(),
        all.iter().map(|stretch| stretch.last.number(size)).max(),
    ) else {
        html.leaf("p", &[], "There is no WAL.");
        return;
    };
    let mut timelines: Vec<TimelineId> = all.iter().map(|stretch| stretch.timeline).collect();
    timelines.dedup();
    let unseen = timelines.len().saturating_sub(TIMELINES);
    let shown = timelines.split_off(unseen);
    let figure = Figure {
        id: format!("{id}-wal"),
        title: "Archived WAL",
        said: said(contents, size, shown.len() + unseen, unseen, gaps),
        height: ROW * shown.len() as f64 + 12.0,
        legend: LEGEND,
    };
    let scale = Scale::across(first as f64, last as f64 + 1.0);
    figure.draw(html, |html| {
        let step = (last + 1 - first).div_ceil(TICKS).max(1);
        for number in (first..=last + 1).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let lsn = SegmentName::of_number(TimelineId(1), number, size).start(size);
            chart::tick(html, scale.at(number as f64), figure.height, &lsn.to_string());
        }
        for (row, timeline) in shown.iter().enumerate() {
            let y = ROW * row as f64 + 18.0;
            chart::row(html, y, &format!("timeline {timeline}"));
            let of = |is_there: bool| {
                all.iter().filter(move |stretch| {
                    stretch.timeline == *timeline && stretch.stored.is_some() == is_there
                })
            };
            // What is missing lies above: it is short, and has to be seen.
            draw_row(html, &scale, size, Mark::Covered, of(true), y);
            draw_row(html, &scale, size, Mark::Missing, of(false), y);
        }
    });
    table(html, &all, size);
}

/// Those that touch each other on the page are drawn as one: no row has more than the page has places.
fn draw_row<'s>(
    html: &mut Html,
    scale: &Scale,
    size: SegmentSize,
    mark: Mark,
    stretches: impl Iterator<Item = &'s Stretch>,
    y: f64,
) {
    let mut drawn: Vec<((f64, f64), usize, &Stretch)> = Vec::new();
    for stretch in stretches {
        let begin = scale.at(stretch.first.number(size) as f64);
        let end = scale.at(stretch.last.number(size) as f64 + 1.0);
        match drawn.last_mut() {
            Some(((_, last), number, _)) if begin < *last + 1.0 => {
                *last = last.max(end);
                *number += 1;
            }
            _ => drawn.push(((begin, end), 1, stretch)),
        }
    }
    for (place, number, stretch) in drawn {
        let what = if mark == Mark::Missing { "missing" } else { "archived" };
        let said = match number {
            1 => format!("{what}: {} to {}", stretch.first, stretch.last),
            _ => format!("{what}: {number} stretches from {} on", stretch.first),
        };
        chart::stretch(html, mark, place, y, &said);
    }
}

/// The chart in words.
fn said(contents: &Contents, size: SegmentSize, timelines: usize, unseen: usize, gaps: &[Gap]) -> String {
    let mut said = format!("{} of WAL on {}", render::size(contents.sizes.wal), count(timelines, "timeline"));
    if unseen > 0 {
        said += &format!(", of which the {TIMELINES} newest are shown");
    }
    let segments: u64 = gaps.iter().map(|gap| gap.last.number(size) + 1 - gap.first.number(size)).sum();
    said += &match gaps {
        [] => "; nothing is missing".to_owned(),
        gaps => {
            format!("; {} with {} missing", count(gaps.len(), "gap"), count(segments as usize, "segment"))
        }
    };
    said + ". From left to right by position in the WAL (LSN); what lies before the oldest backup may be pruned."
}

/// All stretches by timeline and place.
fn stretches(lines: &WalHistory, gaps: &[Gap]) -> Vec<Stretch> {
    let runs = lines.inventory.runs().values().flatten();
    let there = runs.map(|run| Stretch {
        timeline: run.first.timeline,
        first: run.first,
        last: run.last,
        stored: Some(run.stored),
    });
    let missing = gaps.iter().map(|gap| Stretch {
        timeline: gap.timeline,
        first: gap.first,
        last: gap.last,
        stored: None,
    });
    let mut all: Vec<Stretch> = there.chain(missing).collect();
    all.sort_by_key(|stretch| (stretch.timeline, stretch.first));
    all
}

fn table(html: &mut Html, all: &[Stretch], size: SegmentSize) {
    let columns = ["timeline", "first segment", "last segment", "segments", "the last was stored"];
    // The newest is what matters, and it is last.
    let newest = all.iter().rev().take(STRETCHES);
    tables::table(html, "Archived WAL, newest first", &columns, newest, |html, stretch| {
        tables::cell(html, stretch.timeline);
        tables::cell(html, stretch.first);
        tables::cell(html, stretch.last);
        tables::number(html, stretch.last.number(size) + 1 - stretch.first.number(size));
        match stretch.stored {
            Some(stored) => tables::moment(html, stored),
            None => tables::bad(html, "MISSING"),
        }
    });
    tables::rest(html, all.len(), STRETCHES, "older stretch", "`walkeep list` names every gap");
}
