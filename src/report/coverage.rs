//! Chart and table of the archived WAL: every timeline, and its gaps.

use super::chart::{self, ChartMark, Figure, Scale};
use super::html::Html;
use super::{Holdings, count, tables};
use crate::observe::size_text;
use crate::pg::segment::{SegmentName, SegmentSize, TimelineId};
use crate::repo::catalog::Gap;
use crate::repo::history::WalHistory;
use jiff::Timestamp;

const ROW_HEIGHT: f64 = 26.0;
/// Maximum number of timelines in the chart; the newest are shown.
const MAX_TIMELINES: usize = 12;
/// Maximum number of intervals of the axis.
const MAX_TICKS: u64 = 4;
/// Maximum number of rows of the table.
const MAX_ROWS: usize = 40;

const LEGEND: &[(ChartMark, &str)] =
    &[(ChartMark::Covered, "archived"), (ChartMark::Missing, "missing: a gap")];

/// Consecutive segments that are all archived or all missing.
struct Stretch {
    timeline: TimelineId,
    first: SegmentName,
    last: SegmentName,
    /// Time when the last segment was stored. `None`: the segments are missing.
    stored: Option<Timestamp>,
}

impl Stretch {
    fn segments(&self, size: SegmentSize) -> u64 {
        self.last.number(size) + 1 - self.first.number(size)
    }
}

pub fn draw(html: &mut Html, id: &str, holdings: &Holdings) {
    let stretches =
        holdings.wal.as_ref().map(|wal| (wal.inventory.segment_size(), stretches(wal, &holdings.gaps)));
    let Some((size, all)) = stretches.filter(|(_, all)| !all.is_empty()) else {
        html.leaf("p", &[], "There is no WAL.");
        return;
    };
    let first = all.iter().map(|stretch| stretch.first.number(size)).fold(u64::MAX, u64::min);
    let last = all.iter().map(|stretch| stretch.last.number(size)).fold(first, u64::max);
    let mut timelines: Vec<TimelineId> = all.iter().map(|stretch| stretch.timeline).collect();
    timelines.dedup();
    let hidden = timelines.len().saturating_sub(MAX_TIMELINES);
    let shown = timelines.split_off(hidden);
    let figure = Figure {
        id: format!("{id}-wal"),
        title: "Archived WAL",
        caption: caption(holdings, size, shown.len() + hidden, hidden),
        height: ROW_HEIGHT * shown.len() as f64 + 12.0,
        legend: LEGEND,
    };
    let scale = Scale::across(first as f64, last as f64 + 1.0);
    figure.draw(html, |html| {
        let step = (last + 1 - first).div_ceil(MAX_TICKS).max(1);
        for number in (0..=MAX_TICKS).map(|tick| first + tick * step).take_while(|number| *number <= last + 1)
        {
            let lsn = SegmentName::of_number(TimelineId(1), number, size).start(size);
            chart::tick(html, scale.at(number as f64), figure.height, &lsn.to_string());
        }
        for (row, timeline) in shown.iter().enumerate() {
            let y = ROW_HEIGHT * row as f64 + 18.0;
            chart::row(html, y, &format!("timeline {timeline}"));
            let of = |is_stored: bool| {
                all.iter().filter(move |stretch| {
                    stretch.timeline == *timeline && stretch.stored.is_some() == is_stored
                })
            };
            // Gaps are drawn on top: they are short and must be visible.
            draw_row(html, &scale, size, ChartMark::Covered, of(true), y);
            draw_row(html, &scale, size, ChartMark::Missing, of(false), y);
        }
    });
    table(html, &all, size);
}

/// Draws stretches that touch each other on the page as one bar, so that the width of the page
/// bounds the number of bars.
fn draw_row<'s>(
    html: &mut Html,
    scale: &Scale,
    size: SegmentSize,
    mark: ChartMark,
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
        let state = if mark == ChartMark::Missing { "missing" } else { "archived" };
        let label = match number {
            1 => format!("{state}: {} to {}", stretch.first, stretch.last),
            _ => format!("{state}: {number} stretches from {} on", stretch.first),
        };
        chart::bar_in_row(html, mark, place, y, &label);
    }
}

/// The content of the chart in words.
fn caption(holdings: &Holdings, size: SegmentSize, timelines: usize, hidden: usize) -> String {
    let mut caption = format!("{} of WAL on {}", size_text(holdings.wal_bytes), count(timelines, "timeline"));
    if hidden > 0 {
        caption += &format!(", of which the {MAX_TIMELINES} newest are shown");
    }
    if holdings.gaps.is_empty() {
        caption += "; nothing is missing";
    } else {
        let segments = |gap: &Gap| gap.last.number(size) + 1 - gap.first.number(size);
        let segments: u64 = holdings.gaps.iter().map(segments).sum();
        caption +=
            &format!("; {} with {} missing", count(holdings.gaps.len(), "gap"), count(segments, "segment"));
    }
    caption
        + ". From left to right by position in the WAL (LSN); `walkeep prune` may have removed WAL from before the \
           oldest backup."
}

/// All stretches by timeline and position.
fn stretches(wal: &WalHistory, gaps: &[Gap]) -> Vec<Stretch> {
    let archived = wal.inventory.runs().values().flatten().map(|run| Stretch {
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
    let mut all: Vec<Stretch> = archived.chain(missing).collect();
    all.sort_by_key(|stretch| (stretch.timeline, stretch.first));
    all
}

fn table(html: &mut Html, all: &[Stretch], size: SegmentSize) {
    let columns = ["timeline", "first segment", "last segment", "segments", "last one stored"];
    // The newest stretch matters most, and is the last one.
    let newest = all.iter().rev().take(MAX_ROWS);
    tables::table(html, "Archived WAL, newest first", &columns, newest, |html, stretch| {
        tables::cell(html, stretch.timeline);
        tables::cell(html, stretch.first);
        tables::cell(html, stretch.last);
        tables::number(html, stretch.segments(size));
        match stretch.stored {
            Some(stored) => tables::moment(html, stored),
            None => tables::bad(html, "MISSING"),
        }
    });
    tables::rest(html, all.len(), MAX_ROWS, "older stretch", "`walkeep list` names every gap");
}
