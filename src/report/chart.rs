//! Parts of charts: a frame with a caption in words, axes, marks and bars. No fact is shown by
//! colour alone, and every chart has a bound on what it draws.

use super::bytes_text;
use super::html::{Attribute, Html};
use crate::observe::span;
use jiff::{SignedDuration, Timestamp};

/// Width of a chart in units of its `viewBox`; the page scales it.
const WIDTH: f64 = 760.0;
/// Left edge of the plot; names of rows and values are to the left of it.
const LEFT: f64 = 116.0;
const RIGHT: f64 = 744.0;
/// Height of the area below the plot.
const FOOT: f64 = 24.0;

/// A chart with its title and caption.
pub struct Figure<'a> {
    /// Unique in the document.
    pub id: String,
    pub title: &'a str,
    /// The content of the chart in words.
    pub caption: String,
    /// Height of the plot.
    pub height: f64,
    pub legend: &'a [(ChartMark, &'static str)],
}

impl Figure<'_> {
    pub fn draw(&self, html: &mut Html, plot: impl FnOnce(&mut Html)) {
        let (title, caption) = (format!("{}-title", self.id), format!("{}-caption", self.id));
        let names = format!("{title} {caption}");
        html.element("figure", &[], |html| {
            html.element("figcaption", &[], |html| {
                html.leaf("h4", &[], self.title);
                html.leaf("p", &[], &self.caption);
            });
            html.scroll(self.title, |html| {
                let size = format!("0 0 {WIDTH} {}", self.height + FOOT);
                let frame: [Attribute<'_>; 3] =
                    [("viewBox", &size), ("role", &"img"), ("aria-labelledby", &names)];
                html.element("svg", &frame, |html| {
                    html.leaf("title", &[("id", &title)], self.title);
                    html.leaf("desc", &[("id", &caption)], &self.caption);
                    plot(html);
                });
            });
            if !self.legend.is_empty() {
                html.element("ul", &[("class", &"legend")], |html| {
                    for (mark, name) in self.legend {
                        html.element("li", &[], |html| {
                            html.element(
                                "svg",
                                &[("viewBox", &"-8 -8 16 16"), ("aria-hidden", &"true")],
                                |html| mark.shape(html),
                            );
                            html.text(name);
                        });
                    }
                });
            }
        });
    }
}

/// A mark of a chart. Marks that mean different things in one chart differ in shape or pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChartMark {
    Full,
    Incremental,
    Damaged,
    Pinned,
    Proved,
    Refuted,
    Unknown,
    Covered,
    Missing,
    /// The parts of a bar, from the bottom up.
    First,
    Second,
    Third,
}

impl ChartMark {
    /// Draws the mark around the origin.
    fn shape(self, html: &mut Html) {
        let class = self.class();
        let path = match self {
            ChartMark::Full => "M-5 -5H5V5H-5Z",
            ChartMark::Incremental => "M-4.5 0A4.5 4.5 0 1 1 4.5 0A4.5 4.5 0 1 1 -4.5 0Z",
            ChartMark::Damaged | ChartMark::Refuted => "M-5 -5L5 5M5 -5L-5 5",
            ChartMark::Pinned => "M-4 -4H4L0 3Z",
            ChartMark::Proved => "M-5 0L-1.5 4.5L5.5 -5",
            ChartMark::Unknown => "M-3 -3A3 3 0 1 1 0 0.5V2M0 4.5V6",
            ChartMark::Covered
            | ChartMark::Missing
            | ChartMark::First
            | ChartMark::Second
            | ChartMark::Third => "M-7 -5H7V5H-7Z",
        };
        html.empty("path", &[("class", &class), ("d", &path)]);
    }

    pub fn class(self) -> &'static str {
        match self {
            ChartMark::Full | ChartMark::Incremental => "mark",
            ChartMark::Pinned => "pin",
            ChartMark::Damaged | ChartMark::Refuted => "cross",
            ChartMark::Proved => "tick",
            ChartMark::Unknown => "query",
            ChartMark::Covered | ChartMark::First => "first",
            ChartMark::Missing => "missing",
            ChartMark::Second => "second",
            ChartMark::Third => "third",
        }
    }

    pub fn draw(self, html: &mut Html, x: f64, y: f64, label: &str) {
        let place = format!("translate({x} {y})");
        html.element("g", &[("transform", &place)], |html| {
            html.leaf("title", &[], label);
            self.shape(html);
        });
    }
}

/// Maps values to positions, rounded to a tenth of a unit.
pub struct Scale {
    from: f64,
    to: f64,
    begin: f64,
    end: f64,
}

impl Scale {
    /// A scale along the width of the plot.
    pub fn across(from: f64, to: f64) -> Scale {
        Scale { from, to, begin: LEFT, end: RIGHT }
    }

    pub fn at(&self, value: f64) -> f64 {
        let share = if self.to > self.from {
            ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
        } else {
            0.5
        };
        tenth(self.begin + share * (self.end - self.begin))
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Writes the name of a row to the left of the plot.
pub fn row(html: &mut Html, y: f64, name: &str) {
    html.leaf("text", &[("x", &(LEFT - 12.0)), ("y", &(y + 4.0)), ("class", &"end")], name);
}

/// Draws a horizontal bar in a row. One that is too short to be seen is drawn longer.
pub fn bar_in_row(html: &mut Html, mark: ChartMark, (begin, end): (f64, f64), y: f64, label: &str) {
    let least = if mark == ChartMark::Missing { 4.0 } else { 2.0 };
    let width = tenth((end - begin).max(least));
    let begin = begin.min(RIGHT - width);
    let place: [Attribute<'_>; 5] =
        [("class", &mark.class()), ("x", &begin), ("y", &(y - 6.0)), ("width", &width), ("height", &12)];
    html.element("rect", &place, |html| html.leaf("title", &[], label));
}

/// Draws a vertical line through the plot, with its label below.
pub fn tick(html: &mut Html, x: f64, height: f64, label: &str) {
    html.empty("path", &[("class", &"grid"), ("d", &format!("M{x} 4V{height}"))]);
    // Centred labels at the edges would be cut off.
    let class = match x {
        x if x < LEFT + 40.0 => "start",
        x if x > RIGHT - 40.0 => "end",
        _ => "middle",
    };
    html.leaf("text", &[("x", &x), ("y", &(height + 16.0)), ("class", &class)], label);
}

/// Seconds between the lines of a time axis.
const TIME_STEPS: &[i64] = &[
    1,
    5,
    15,
    60,
    300,
    900,
    3600,
    3 * 3600,
    6 * 3600,
    12 * 3600,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
    30 * DAY,
    90 * DAY,
    365 * DAY,
    1826 * DAY,
];
const DAY: i64 = 86_400;
/// Maximum number of intervals of a time axis: more labels do not fit beside each other.
const MAX_INTERVALS: i64 = 5;
/// Maximum number of labels below bars.
const MAX_BAR_LABELS: usize = 5;
/// Maximum number of intervals of a vertical axis.
const MAX_LEVELS: u32 = 4;

/// A time axis.
pub struct Times {
    pub from: Timestamp,
    pub to: Timestamp,
    scale: Scale,
}

impl Times {
    pub fn new(from: Timestamp, to: Timestamp) -> Times {
        Times { from, to, scale: Scale::across(seconds(from), seconds(to)) }
    }

    pub fn at(&self, time: Timestamp) -> f64 {
        self.scale.at(seconds(time))
    }

    pub fn draw(&self, html: &mut Html, height: f64) {
        let (from, to) = (self.from.as_second(), self.to.as_second());
        let step = TIME_STEPS.iter().copied().find(|step| (to - from) / step <= MAX_INTERVALS);
        let step = step.unwrap_or_else(|| (to - from) / MAX_INTERVALS);
        let first = from.div_euclid(step) + i64::from(from.rem_euclid(step) > 0);
        let seconds = (first..).map(|number| number * step).take_while(|second| *second <= to);
        for time in seconds.filter_map(|second| Timestamp::from_second(second).ok()) {
            tick(html, self.at(time), height, &label(time, step));
        }
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_microsecond() as f64 / 1e6
}

/// A time as text, with the precision that steps of this many seconds need.
fn label(time: Timestamp, step: i64) -> String {
    let form = match step {
        step if step < 60 => "%H:%M:%S",
        step if step < 3 * 3600 => "%H:%M",
        step if step < DAY => "%m-%d %H:%M",
        _ => "%Y-%m-%d",
    };
    time.strftime(form).to_string()
}

/// The quantity that the height of a bar shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Bytes,
    Seconds,
}

impl Measure {
    /// The distance between the lines of the axis, so that there are at most `MAX_LEVELS`
    /// intervals.
    fn step(self, most: f64) -> f64 {
        let least = (most / f64::from(MAX_LEVELS)).max(f64::MIN_POSITIVE);
        match self {
            Measure::Bytes => least.log2().ceil().exp2().max(1.0),
            Measure::Seconds => {
                let steps = [
                    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0,
                ];
                let hours = |step: f64| 3600.0 * (step / 3600.0).log2().ceil().exp2();
                steps.into_iter().find(|step| *step >= least).unwrap_or_else(|| hours(least))
            }
        }
    }

    pub fn text(self, value: f64) -> String {
        match self {
            Measure::Bytes => bytes_text(value).replace(".00 ", " "),
            Measure::Seconds if value > 0.0 && value < 10.0 => format!("{value:.1} s"),
            Measure::Seconds => span(value),
        }
    }
}

/// A bar made of parts on top of each other.
pub struct Bar {
    pub time: Timestamp,
    pub parts: Vec<(ChartMark, f64)>,
    pub label: String,
}

/// Draws bars beside each other, oldest first.
pub fn bars(html: &mut Html, figure: &Figure<'_>, measure: Measure, bars: &[Bar]) {
    let sum = |bar: &Bar| bar.parts.iter().map(|(_, value)| value).sum::<f64>();
    let most = bars.iter().map(sum).fold(0.0, f64::max);
    let step = measure.step(most);
    let levels = (most / step).ceil().max(1.0);
    let up = Scale { from: 0.0, to: step * levels, begin: figure.height, end: 8.0 };
    figure.draw(html, |html| {
        for level in (0..=MAX_LEVELS).map(f64::from).take_while(|level| *level <= levels) {
            let value = level * step;
            let y = up.at(value);
            html.empty("path", &[("class", &"grid"), ("d", &format!("M{LEFT} {y}H{RIGHT}"))]);
            row(html, y, &measure.text(value));
        }
        let slot = (RIGHT - LEFT) / bars.len().max(1) as f64;
        let width = tenth((slot - 2.0).clamp(1.0, 36.0));
        for (number, bar) in bars.iter().enumerate() {
            let x = tenth(LEFT + slot * (number as f64 + 0.5) - width / 2.0);
            html.element("g", &[], |html| {
                html.leaf("title", &[], &bar.label);
                let mut below = 0.0;
                for (mark, value) in &bar.parts {
                    let (y, height) = (up.at(below + value), tenth(up.at(below) - up.at(below + value)));
                    below += value;
                    let place: [Attribute<'_>; 5] = [
                        ("class", &mark.class()),
                        ("x", &x),
                        ("y", &y),
                        ("width", &width),
                        ("height", &height),
                    ];
                    html.empty("rect", &place);
                }
            });
        }
        bar_labels(html, figure.height, slot, bars);
    });
}

/// Writes the times of some bars below them, as many as fit.
fn bar_labels(html: &mut Html, height: f64, slot: f64, bars: &[Bar]) {
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else {
        return;
    };
    let is_short = last.time.duration_since(first.time) < SignedDuration::from_hours(48);
    let form = if is_short { "%H:%M" } else { "%Y-%m-%d" };
    let every = bars.len().div_ceil(MAX_BAR_LABELS).max(1);
    for (number, bar) in bars.iter().enumerate().step_by(every) {
        let x = tenth(LEFT + slot * (number as f64 + 0.5));
        let label = bar.time.strftime(form).to_string();
        html.leaf("text", &[("x", &x), ("y", &(height + 16.0)), ("class", &"middle")], label);
    }
}
