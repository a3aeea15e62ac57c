//! Chart of lines over an axis: percentiles, time or rate.

use std::fmt::Write as _;

use super::escape;
use super::figure::{Figure, WIDTH, number, style};
use super::scale::Scale;
use super::table::Table;

const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 44.0;

/// A chart of lines.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) x: Scale,
    pub(crate) x_label: String,
    pub(crate) y: Scale,
    pub(crate) y_label: String,
    /// True if the series are percentiles of one subject: they have colours of their own.
    pub(crate) percentiles: bool,
    pub(crate) series: Vec<Series>,
    pub(crate) note: String,
    pub(crate) data: Table,
}

/// A line.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
    /// True if its points are marked.
    pub(crate) marked: bool,
    /// True if its points are joined.
    pub(crate) joined: bool,
}

/// A point of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Interval of `y`.
    pub(crate) band: Option<(f64, f64)>,
    /// True if the point is doubtful.
    pub(crate) doubtful: bool,
}

impl Point {
    pub(crate) fn new(x: f64, y: f64) -> Point {
        Point { x, y, band: None, doubtful: false }
    }
}

impl Lines {
    /// Draws it.
    pub(crate) fn figure(self) -> Figure {
        let x = self.x.over(LEFT, WIDTH - RIGHT);
        let y = self.y.over(HEIGHT - BOTTOM, TOP);
        let mut drawing = axes(&x, &self.x_label, &y, &self.y_label);
        // A nested drawing clips what a zoom moves out of it.
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let _ = write!(
            drawing,
            "<svg class=\"plot\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"{LEFT} {TOP} {width} {height}\"><g class=\"zoomed\">"
        );
        for (index, series) in self.series.iter().enumerate() {
            drawing += &series.svg(&style(index, self.percentiles), index, &x, &y);
        }
        drawing += "</g></svg>";
        Figure {
            title: self.title,
            description: self.description,
            height: HEIGHT,
            attributes: format!(
                "class=\"lines\" data-x=\"{}\" data-y=\"{}\"",
                x.describe(),
                y.describe()
            ),
            drawing,
            // A series without a point keeps its style, but has no entry.
            legend: self
                .series
                .into_iter()
                .map(|series| (!series.points.is_empty()).then_some(series.name))
                .collect(),
            percentiles: self.percentiles,
            note: self.note,
            data: self.data,
        }
    }
}

impl Series {
    fn svg(&self, style: &str, index: usize, x: &Scale, y: &Scale) -> String {
        let values: Vec<String> = self
            .points
            .iter()
            .map(|point| {
                let band = point.band.map(|(low, high)| format!(" {} {}", brief(low), brief(high)));
                format!("{} {}{}", brief(point.x), brief(point.y), band.unwrap_or_default())
            })
            .collect();
        let mut svg = format!(
            "<g class=\"series {}\" data-series=\"{index}\" data-name=\"{}\" data-points=\"{}\">",
            style,
            escape(&self.name),
            values.join(";")
        );
        let band: Vec<(f64, f64, f64)> = self
            .points
            .iter()
            .filter_map(|point| {
                point.band.map(|(low, high)| (x.at(point.x), y.at(low), y.at(high)))
            })
            .collect();
        if band.len() > 1 {
            let lower = band.iter().map(|&(x, low, _)| (x, low));
            let upper = band.iter().rev().map(|&(x, _, high)| (x, high));
            let _ = write!(svg, "<path class=\"band\" d=\"{}Z\"/>", path(lower.chain(upper)));
        }
        if self.joined {
            let places = self.points.iter().map(|point| (x.at(point.x), y.at(point.y)));
            let _ = write!(svg, "<path class=\"line\" d=\"{}\"/>", path(places));
        }
        if self.marked || self.points.len() == 1 {
            svg += &dots(self.points.iter().filter(|point| !point.doubtful), "dots", x, y);
        }
        svg += &dots(self.points.iter().filter(|point| point.doubtful), "doubtful", x, y);
        svg + "</g>"
    }
}

/// Strokes of no length with round ends: dots that stay round if a zoom stretches the drawing.
fn dots<'a>(points: impl Iterator<Item = &'a Point>, class: &str, x: &Scale, y: &Scale) -> String {
    let place = |point: &Point| format!("M{} {}h0", number(x.at(point.x)), number(y.at(point.y)));
    let places: String = points.map(place).collect();
    if places.is_empty() { places } else { format!("<path class=\"{class}\" d=\"{places}\"/>") }
}

fn path(places: impl Iterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (index, (x, y)) in places.enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{command}{} {}", number(x), number(y));
    }
    path
}

/// Value for the script, in four digits.
fn brief(value: f64) -> String {
    let value = if value.is_finite() { value } else { 0.0 };
    let rounded: f64 = format!("{value:.4e}").parse().unwrap_or(0.0);
    if rounded.abs() < 1e15 { format!("{rounded}") } else { format!("{rounded:e}") }
}

/// Both axes with their grids and names.
fn axes(x: &Scale, x_label: &str, y: &Scale, y_label: &str) -> String {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut grid = String::from("<g class=\"axis y\">");
    for tick in y.ticks() {
        let place = number(y.at(tick));
        let _ = write!(
            grid,
            "<path class=\"grid\" d=\"M{LEFT} {place}H{right}\"/>\
             <text x=\"{}\" y=\"{place}\" dy=\".33em\">{}</text>",
            LEFT - 7.0,
            escape(&y.unit.show(tick))
        );
    }
    grid += "</g><g class=\"axis x\">";
    grid += &x.grid(TOP, bottom);
    let _ = write!(
        grid,
        "</g><path class=\"frame\" d=\"M{LEFT} {bottom}H{right}\"/>\
         <text class=\"label\" x=\"{right}\" y=\"{}\" text-anchor=\"end\">{}</text>\
         <text class=\"label\" x=\"6\" y=\"13\">{}</text>",
        HEIGHT - 8.0,
        escape(x_label),
        escape(y_label)
    );
    grid
}
