//! Curve as a picture of characters: levels to the right, the response upward on a logarithmic
//! scale.

use super::{Axis, Level, Sweep};
use crate::format;
use crate::html::scale::{Kind, Scale};
use crate::html::unit::Unit;

/// Columns of the plot, without the axis.
const WIDTH: usize = 64;

/// Lines of the plot.
const HEIGHT: usize = 12;

/// From this ratio of the highest level to the lowest on, levels are spaced by their logarithm.
const WIDE: f64 = 30.0;

impl Sweep {
    /// The median and the 99th percentile of the response at every level; empty for fewer than two.
    pub fn picture(&self) -> Vec<String> {
        let levels: Vec<Level> =
            self.levels().into_iter().filter(|level| level.p50_ns.is_some()).collect();
        if levels.len() < 2 || self.servers().len() > 1 {
            return Vec::new();
        }
        let (first, last) = (levels[0].level, levels[levels.len() - 1].level);
        let wide = last / first.max(1.0) >= WIDE;
        let kind = if wide { Kind::Log } else { Kind::Linear };
        let across = Scale::new(kind, Unit::Count, first, last).over(0.0, (WIDTH - 1) as f64);
        let values = levels.iter().flat_map(|level| [level.p50_ns, level.p99_ns]).flatten();
        let (low, high) =
            values.fold((f64::MAX, 0.0f64), |(low, high), ns| (low.min(ns), high.max(ns)));
        let upward = Scale::new(Kind::Log, Unit::Nanoseconds, low, high);
        let upward = upward.over((HEIGHT - 1) as f64, 0.0);
        let mut rows = vec![vec![' '; WIDTH]; HEIGHT];
        for level in &levels {
            let column = across.at(level.level).round() as usize;
            let mut mark = |value: Option<f64>, mark: char| {
                if let Some(value) = value {
                    rows[upward.at(value).round() as usize][column] = mark;
                }
            };
            mark(level.p50_ns, 'o');
            mark(level.p99_ns, if level.overloaded { 'x' } else { '*' });
        }
        let label = |row: usize| match row {
            0 => format::duration(high as u64),
            row if row == HEIGHT - 1 => format::duration(low as u64),
            _ => String::new(),
        };
        let mut lines: Vec<String> = rows
            .iter()
            .enumerate()
            .map(|(row, cells)| {
                let cells: String = cells.iter().collect();
                format!("{:>8} |{cells}", label(row)).trim_end().to_owned()
            })
            .collect();
        lines.push(format!("{:>8} +{}", "", "-".repeat(WIDTH)));
        lines.push(self.axis_labels(first, last));
        let axes = if wide { "both axes" } else { "latency axis" };
        let overloaded = levels.iter().any(|level| level.overloaded);
        let overloaded = if overloaded { ", x p99 where overloaded" } else { "" };
        lines.push(format!("o p50, * p99{overloaded}; {axes} logarithmic"));
        lines
    }

    fn axis_labels(&self, first: f64, last: f64) -> String {
        let unit = match self.plan.axis {
            Axis::Rate => "/s",
            Axis::Conns => " connections",
        };
        let (first, last) = (format::count(first), format!("{}{unit}", format::count(last)));
        let gap = WIDTH.saturating_sub(first.len() + last.len());
        format!("{:>10}{first}{}{last}", "", " ".repeat(gap))
    }
}
