//! Curve as a picture of characters: levels to the right, the response upward on a logarithmic
//! scale.

use super::{Axis, Level, Sweep};
use crate::format;

/// Columns of the plot, without the axis.
const WIDTH: usize = 64;

/// Lines of the plot.
const HEIGHT: usize = 12;

/// From this ratio of the highest level to the lowest on, levels are spaced by their logarithm.
const WIDE: f64 = 30.0;

/// A scale from values to cells.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    cells: usize,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64> + Clone, logarithmic: bool, cells: usize) -> Scale {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        Scale { low, high, logarithmic, cells }
    }

    /// The cell of a value; all in the middle if they are the same.
    fn cell(&self, value: f64) -> usize {
        let at = |value: f64| if self.logarithmic { value.max(1.0).ln() } else { value };
        let (low, high) = (at(self.low), at(self.high));
        let share = if high > low { (at(value) - low) / (high - low) } else { 0.5 };
        (share.clamp(0.0, 1.0) * (self.cells - 1) as f64).round() as usize
    }
}

impl Sweep {
    /// The median and the 99th percentile of the response at every level; empty for fewer than two.
    pub fn picture(&self) -> Vec<String> {
        let levels: Vec<Level> =
            self.levels().into_iter().filter(|level| level.p50_ns.is_some()).collect();
        if levels.len() < 2 || self.servers().len() > 1 {
            return Vec::new();
        }
        let (first, last) = (levels[0].level as f64, levels[levels.len() - 1].level as f64);
        let wide = last / first.max(1.0) >= WIDE;
        let across = Scale::of(levels.iter().map(|level| level.level as f64), wide, WIDTH);
        let values = levels.iter().flat_map(|level| [level.p50_ns, level.p99_ns]).flatten();
        let upward = Scale::of(values, true, HEIGHT);
        let mut rows = vec![vec![' '; WIDTH]; HEIGHT];
        for level in &levels {
            let column = across.cell(level.level as f64);
            let mut mark = |value: Option<f64>, mark: char| {
                if let Some(value) = value {
                    rows[HEIGHT - 1 - upward.cell(value)][column] = mark;
                }
            };
            mark(level.p50_ns, 'o');
            mark(level.p99_ns, if level.overloaded { 'x' } else { '*' });
        }
        let label = |row: usize| match row {
            0 => format::duration(upward.high as u64),
            row if row == HEIGHT - 1 => format::duration(upward.low as u64),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_maps_ends_to_end_cells() {
        let linear = Scale::of([10.0, 20.0, 30.0].into_iter(), false, 11);
        assert_eq!([10.0, 20.0, 30.0].map(|value| linear.cell(value)), [0, 5, 10]);
        let logarithmic = Scale::of([10.0, 1000.0].into_iter(), true, 11);
        assert_eq!([10.0, 100.0, 1000.0].map(|value| logarithmic.cell(value)), [0, 5, 10]);
        assert_eq!(Scale::of([7.0].into_iter(), true, 11).cell(7.0), 5);
    }
}
