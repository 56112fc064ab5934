//! What charts are made of: a frame that says in words what it shows, axes, marks, bars. Nothing is told by colour
//! alone, and every chart has a bound on what it draws.

use super::html::{Attribute, Html};
use crate::cli::render;
use crate::observe::span;
use jiff::{SignedDuration, Timestamp};

/// Units of the drawing, whatever its size on the screen.
const WIDTH: f64 = 760.0;
/// Where the plot begins: names of rows and values stand to the left.
const LEFT: f64 = 116.0;
const RIGHT: f64 = 744.0;
/// For what stands below the plot.
const FOOT: f64 = 24.0;

/// A chart, and what it says.
pub struct Figure<'a> {
    /// Of the document's own.
    pub id: String,
    pub title: &'a str,
    pub said: String,
    /// Of the plot.
    pub height: f64,
    pub legend: &'a [(Mark, &'static str)],
}

impl Figure<'_> {
    pub fn draw(&self, html: &mut Html, plot: impl FnOnce(&mut Html)) {
        let (title, said) = (format!("{}-title", self.id), format!("{}-said", self.id));
        let names = format!("{title} {said}");
        html.element("figure", &[], |html| {
            html.element("figcaption", &[], |html| {
                html.leaf("h4", &[], self.title);
                html.leaf("p", &[], &self.said);
            });
            html.scroll(self.title, |html| {
                let size = format!("0 0 {WIDTH} {}", self.height + FOOT);
                let frame: [Attribute<'_>; 3] =
                    [("viewBox", &size), ("role", &"img"), ("aria-labelledby", &names)];
                html.element("svg", &frame, |html| {
                    html.leaf("title", &[("id", &title)], self.title);
                    html.leaf("desc", &[("id", &said)], &self.said);
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

/// What stands at one place of a chart. No two have the same shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    Full,
    Incremental,
    Damaged,
    Pinned,
    Proved,
    Refuted,
    Unknown,
    Covered,
    Missing,
    /// The parts of a bar.
    First,
    Second,
    Third,
}

impl Mark {
    /// Around the middle of nowhere.
    fn shape(self, html: &mut Html) {
        let class = self.class();
        let path = match self {
            Mark::Full => "M-5 -5H5V5H-5Z",
            Mark::Incremental => "M-4.5 0A4.5 4.5 0 1 1 4.5 0A4.5 4.5 0 1 1 -4.5 0Z",
            Mark::Damaged | Mark::Refuted => "M-5 -5L5 5M5 -5L-5 5",
            Mark::Pinned => "M-4 -4H4L0 3Z",
            Mark::Proved => "M-5 0L-1.5 4.5L5.5 -5",
            Mark::Unknown => "M-3 -3A3 3 0 1 1 0 0.5V2M0 4.5V6",
            Mark::Covered | Mark::Missing | Mark::First | Mark::Second | Mark::Third => "M-7 -5H7V5H-7Z",
        };
        html.empty("path", &[("class", &class), ("d", &path)]);
    }

    pub fn class(self) -> &'static str {
        match self {
            Mark::Full | Mark::Incremental => "mark",
            Mark::Pinned => "pin",
            Mark::Damaged | Mark::Refuted => "cross",
            Mark::Proved => "tick",
            Mark::Unknown => "query",
            Mark::Covered | Mark::First => "first",
            Mark::Missing => "missing",
            Mark::Second => "second",
            Mark::Third => "third",
        }
    }

    pub fn draw(self, html: &mut Html, x: f64, y: f64, said: &str) {
        let place = format!("translate({x} {y})");
        html.element("g", &[("transform", &place)], |html| {
            html.leaf("title", &[], said);
            self.shape(html);
        });
    }
}

/// From values to places, rounded to a tenth.
pub struct Scale {
    from: f64,
    to: f64,
    begin: f64,
    end: f64,
}

impl Scale {
    /// Along the width of the plot.
    pub fn across(from: f64, to: f64) -> Scale {
        Scale { from, to, begin: LEFT, end: RIGHT }
    }

    pub fn at(&self, value: f64) -> f64 {
        let share = match self.to > self.from {
            true => ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0),
            false => 0.5,
        };
        tenth(self.begin + share * (self.end - self.begin))
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The name of a row, to the left of the plot.
pub fn row(html: &mut Html, y: f64, name: &str) {
    html.leaf("text", &[("x", &(LEFT - 12.0)), ("y", &(y + 4.0)), ("class", &"end")], name);
}

/// A stretch of a row; one that is too short to be seen is drawn longer.
pub fn stretch(html: &mut Html, mark: Mark, (begin, end): (f64, f64), y: f64, said: &str) {
    let least = if mark == Mark::Missing { 4.0 } else { 2.0 };
    let width = tenth((end - begin).max(least));
    let begin = begin.min(RIGHT - width);
    let place: [Attribute<'_>; 5] =
        [("class", &mark.class()), ("x", &begin), ("y", &(y - 6.0)), ("width", &width), ("height", &12)];
    html.element("rect", &place, |html| html.leaf("title", &[], said));
}

/// A line down the plot with its label below it.
pub fn tick(html: &mut Html, x: f64, height: f64, label: &str) {
    html.empty("path", &[("class", &"grid"), ("d", &format!("M{x} 4V{height}"))]);
    // The first and the last would not fit in the middle.
    let class = match x {
        x if x < LEFT + 40.0 => "start",
        x if x > RIGHT - 40.0 => "end",
        _ => "middle",
    };
    html.leaf("text", &[("x", &x), ("y", &(height + 16.0)), ("class", &class)], label);
}

/// Seconds between the lines of a time axis.
const STEPS: &[i64] = &[
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
/// More labels do not fit beside each other.
const MOST_TICKS: i64 = 5;

/// The axis of a time, from the one to the other.
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
        let step = STEPS.iter().copied().find(|step| (to - from) / step <= MOST_TICKS);
        let step = step.unwrap_or_else(|| (to - from) / MOST_TICKS);
        let first = from.div_euclid(step) + i64::from(from.rem_euclid(step) > 0);
        for second in (first * step..=to).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            if let Ok(time) = Timestamp::from_second(second) {
                tick(html, self.at(time), height, &label(time, step));
            }
        }
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_microsecond() as f64 / 1e6
}

/// A time as finely as steps of so many seconds need it.
fn label(time: Timestamp, step: i64) -> String {
    let form = match step {
        step if step < 60 => "%H:%M:%S",
        step if step < 3 * 3600 => "%H:%M",
        step if step < DAY => "%m-%d %H:%M",
        _ => "%Y-%m-%d",
    };
    time.strftime(form).to_string()
}

/// What a bar's height is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Bytes,
    Seconds,
}

impl Measure {
    /// The distance between the lines: no more than five of them.
    fn step(self, most: f64) -> f64 {
        let least = (most / 4.0).max(f64::MIN_POSITIVE);
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
            Measure::Bytes => render::size(value as u64).replace(".00 ", " "),
            Measure::Seconds if value > 0.0 && value < 10.0 => format!("{value:.1} s"),
            Measure::Seconds => span(value),
        }
    }
}

/// One bar, of parts that stand on each other.
pub struct Bar {
    pub time: Timestamp,
    pub parts: Vec<(Mark, f64)>,
    pub said: String,
}

/// Bars beside each other, oldest first.
pub fn bars(html: &mut Html, figure: &Figure<'_>, measure: Measure, bars: &[Bar]) {
    let sum = |bar: &Bar| bar.parts.iter().map(|(_, value)| value).sum::<f64>();
    let most = bars.iter().map(sum).fold(0.0, f64::max);
    let step = measure.step(most);
    let lines = (most / step).ceil().max(1.0);
    let up = Scale { from: 0.0, to: step * lines, begin: figure.height, end: 8.0 };
    figure.draw(html, |html| {
        for line in 0..=lines as u32 {
            let value = f64::from(line) * step;
            let y = up.at(value);
            html.empty("path", &[("class", &"grid"), ("d", &format!("M{LEFT} {y}H{RIGHT}"))]);
            row(html, y, &measure.text(value));
        }
        let slot = (RIGHT - LEFT) / bars.len().max(1) as f64;
        let width = tenth((slot - 2.0).clamp(1.0, 36.0));
        for (number, bar) in bars.iter().enumerate() {
            let x = tenth(LEFT + slot * (number as f64 + 0.5) - width / 2.0);
            html.element("g", &[], |html| {
                html.leaf("title", &[], &bar.said);
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
        names(html, figure.height, slot, bars);
    });
}

/// The times of some bars, as many as fit below them.
fn names(html: &mut Html, height: f64, slot: f64, bars: &[Bar]) {
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else {
        return;
    };
    let is_short = last.time.duration_since(first.time) < SignedDuration::from_hours(48);
    let form = if is_short { "%H:%M" } else { "%Y-%m-%d" };
    let every = bars.len().div_ceil(MOST_TICKS as usize).max(1);
    for (number, bar) in bars.iter().enumerate().step_by(every) {
        let x = tenth(LEFT + slot * (number as f64 + 0.5));
        let label = bar.time.strftime(form).to_string();
        html.leaf("text", &[("x", &x), ("y", &(height + 16.0)), ("class", &"middle")], label);
    }
}
