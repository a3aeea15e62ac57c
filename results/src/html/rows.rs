//! Chart of rows along one axis: a name, marks, and a number at the end.

use std::fmt::Write as _;

use super::escape;
use super::figure::{Figure, WIDTH, number, style};
use super::scale::Scale;
use super::table::Table;
use crate::text;

/// Place of the axis: names are before it, numbers behind it.
const LEFT: f64 = 146.0;
const RIGHT: f64 = 60.0;
/// Width of a character of a number, about.
const CHARACTER: f64 = 6.9;
const ROW: f64 = 24.0;
const HEADING: f64 = 26.0;
const BOTTOM: f64 = 26.0;
const TOP: f64 = 8.0;

/// Longest name, in characters.
const NAME: usize = 20;

/// A chart of rows.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) scale: Scale,
    /// Value to compare the others with, drawn through all rows.
    pub(crate) reference: Option<f64>,
    pub(crate) rows: Vec<Row>,
    pub(crate) note: String,
    pub(crate) data: Table,
}

/// A row, or a heading over those that follow.
#[derive(Debug)]
pub(crate) enum Row {
    Heading(String),
    Marks {
        name: String,
        /// Series that gives the colour.
        series: usize,
        /// Drawn in this order.
        marks: Vec<Mark>,
        /// Number at its end.
        value: String,
    },
}

/// A mark in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// Interval.
    Interval(f64, f64),
    /// Value.
    Value(f64),
    /// Sample.
    Sample(f64),
    /// Sample that was left out.
    Excluded(f64),
    /// Bar between two values.
    Bar(f64, f64),
    /// Bar in a lighter shade: another part of a sum.
    Part(f64, f64),
}

impl Rows {
    /// Draws it.
    pub(crate) fn figure(self) -> Figure {
        let values = self.rows.iter().map(|row| match row {
            Row::Heading(_) => 0,
            Row::Marks { value, .. } => value.chars().count(),
        });
        let right = (values.max().unwrap_or(0) as f64 * CHARACTER + 20.0).clamp(RIGHT, WIDTH / 2.0);
        let scale = self.scale.over(LEFT, WIDTH - right);
        let rows: f64 = self.rows.iter().map(Row::height).sum();
        let bottom = TOP + rows;
        let mut drawing = axis(&scale, WIDTH - right, bottom);
        let mut y = TOP;
        for row in &self.rows {
            if let (Some(reference), Row::Marks { .. }) = (self.reference, row) {
                let x = number(scale.at(reference));
                let _ = write!(drawing, "<path class=\"reference\" d=\"M{x} {y}v{ROW}\"/>");
            }
            drawing += &row.svg(&scale, y);
            y += row.height();
        }
        Figure {
            title: self.title,
            description: self.description,
            height: bottom + BOTTOM,
            attributes: "class=\"rows\"".into(),
            drawing,
            legend: Vec::new(),
            percentiles: false,
            note: self.note,
            data: self.data,
        }
    }
}

impl Row {
    fn height(&self) -> f64 {
        match self {
            Self::Heading(_) => HEADING,
            Self::Marks { .. } => ROW,
        }
    }

    fn svg(&self, scale: &Scale, top: f64) -> String {
        match self {
            Self::Heading(name) => {
                let y = number(top + HEADING - 8.0);
                format!("<text class=\"heading\" x=\"4\" y=\"{y}\">{}</text>", escape(name))
            }
            Self::Marks { name, series, marks, value } => {
                let middle = top + ROW / 2.0;
                let y = number(middle);
                let marks: String = marks.iter().map(|mark| mark.svg(scale, middle)).collect();
                // The whole row answers the pointer, and its title has the whole name.
                format!(
                    "<g class=\"row {}\"><title>{}: {}</title>\
                     <path class=\"hit\" d=\"M0 {}h{WIDTH}v{ROW}H0Z\"/>\
                     <text class=\"name\" x=\"4\" y=\"{y}\" dy=\".33em\">{}</text>{marks}\
                     <text class=\"value\" x=\"{}\" y=\"{y}\" dy=\".33em\">{}</text></g>",
                    style(*series, false),
                    escape(name),
                    escape(value),
                    number(top),
                    escape(&text::shorten(name, NAME)),
                    WIDTH - 4.0,
                    escape(value)
                )
            }
        }
    }
}

impl Mark {
    fn svg(self, scale: &Scale, y: f64) -> String {
        let span = |class: &str, low: f64, high: f64, half: f64| {
            let (low, high) = (scale.at(low), scale.at(high));
            format!(
                "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>",
                number(low.min(high)),
                number(y - half),
                number((high - low).abs()),
                number(half * 2.0)
            )
        };
        let x = |value| number(scale.at(value));
        let y_text = number(y);
        match self {
            Self::Interval(low, high) => format!(
                "<path class=\"interval\" d=\"M{low} {top}V{bottom}M{low} {y_text}H{high}M{high} \
                 {top}V{bottom}\"/>",
                low = x(low),
                high = x(high),
                top = number(y - 4.0),
                bottom = number(y + 4.0)
            ),
            Self::Value(value) => {
                format!("<circle class=\"median\" cx=\"{}\" cy=\"{y_text}\" r=\"4.5\"/>", x(value))
            }
            Self::Sample(value) => {
                format!("<circle class=\"sample\" cx=\"{}\" cy=\"{y_text}\" r=\"2.6\"/>", x(value))
            }
            Self::Excluded(value) => {
                let x = scale.at(value);
                format!(
                    "<path class=\"excluded\" d=\"M{0} {2}L{1} {3}M{0} {3}L{1} {2}\"/>",
                    number(x - 3.0),
                    number(x + 3.0),
                    number(y - 3.0),
                    number(y + 3.0)
                )
            }
            Self::Bar(low, high) => span("bar", low, high, 6.0),
            Self::Part(low, high) => span("part", low, high, 6.0),
        }
    }
}

fn axis(scale: &Scale, right: f64, bottom: f64) -> String {
    let grid = scale.grid(TOP, bottom);
    format!("<g class=\"axis x\">{grid}</g><path class=\"frame\" d=\"M{LEFT} {bottom}H{right}\"/>")
}
