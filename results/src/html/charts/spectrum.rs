//! Latency by percentile: whole distributions, with the tail as wide as the middle.

use hdrhistogram::Histogram;

use crate::html::figure::Figure;
use crate::html::lines::{Lines, Point, Series};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::html::unit::Unit;
use crate::statistics::percentile_interval;
use crate::{Latency, format};

/// Points for each nine.
const STEPS: u32 = 16;

/// The most nines: beyond a ten-millionth nobody reads on.
const NINES_MAX: f64 = 7.0;

/// The confidence of the band.
const CONFIDENCE: f64 = 0.95;

/// With more samples than this the band is narrower than the histogram's resolution, and would
/// take long to compute.
const BANDED_MAX: u64 = 1 << 34;

/// The percentiles in the table.
const TABLE: [(f64, &str); 7] = [
    (0.5, "p50"),
    (0.75, "p75"),
    (0.9, "p90"),
    (0.99, "p99"),
    (0.999, "p99.9"),
    (0.9999, "p99.99"),
    (0.99999, "p99.999"),
];

/// A distribution and what it is called.
pub(crate) struct Named<'a> {
    pub(crate) name: String,
    /// Absent where nothing was timed; it keeps its colour all the same.
    pub(crate) latency: Option<&'a Latency>,
}

/// The chart of distributions, or `None` if none can be drawn; and what is wrong with those that
/// cannot.
pub(crate) fn spectrum(title: &str, named: &[Named]) -> (Option<Figure>, Vec<String>) {
    let mut problems = Vec::new();
    let mut histograms: Vec<(&str, Option<Histogram<u64>>)> = Vec::new();
    for Named { name, latency } in named {
        let histogram = latency.and_then(|latency| match latency.histogram() {
            Ok(histogram) => Some(histogram).filter(|histogram| !histogram.is_empty()),
            Err(error) => {
                problems.push(format!("{name}: the distribution cannot be drawn: {error}"));
                None
            }
        });
        histograms.push((name, histogram));
    }
    if histograms.iter().all(|(_, histogram)| histogram.is_none()) {
        return (None, problems);
    }
    let series: Vec<Series> = histograms
        .iter()
        .map(|(name, histogram)| Series {
            name: (*name).to_owned(),
            points: histogram.as_ref().map(points).unwrap_or_default(),
            marked: false,
            joined: true,
        })
        .collect();
    let all = || series.iter().flat_map(|series| &series.points);
    let lines = Lines {
        title: title.to_owned(),
        description: format!(
            "A line for each of {}: the latency below which so many percent of the exchanges lie.",
            series.len()
        ),
        x: Scale::between(Unit::Percentile, 0.0, all().map(|point| point.x).fold(1.0, f64::max)),
        x_label: "percentile".into(),
        y: Scale::spanning(Unit::Nanoseconds, all().map(|point| point.y)),
        y_label: "latency".into(),
        note: "Band: 95 % interval of each percentile by order statistics, which is the least \
               uncertainty it has: it takes the exchanges of a run for independent."
            .into(),
        data: table(&histograms),
        series,
    };
    (Some(lines.figure()), problems)
}

/// Percentiles at equal distances on the axis, up to the largest sample.
fn points(histogram: &Histogram<u64>) -> Vec<Point> {
    let count = histogram.len();
    let end = (count as f64).log10().clamp(0.1, NINES_MAX);
    let steps = (end * f64::from(STEPS)).ceil() as u32;
    let places = (0..=steps).map(|step| (f64::from(step) / f64::from(STEPS)).min(end));
    places
        .map(|nines| {
            let quantile = 1.0 - 10f64.powf(-nines);
            let value = match nines {
                0.0 => histogram.min(),
                _ if nines == end && end < NINES_MAX => histogram.max(),
                _ => histogram.value_at_quantile(quantile),
            };
            let band = (count <= BANDED_MAX && nines > 0.0)
                .then(|| percentile_interval(histogram, quantile, CONFIDENCE))
                .flatten()
                .map(|(low, high)| (low as f64, high as f64));
            Point { band, ..Point::new(nines, value as f64) }
        })
        .collect()
}

/// A percentile a row, a distribution a column; those that the samples bound on both sides with
/// their interval.
fn table(histograms: &[(&str, Option<Histogram<u64>>)]) -> Table {
    let names = histograms.iter().map(|(name, _)| (*name).to_owned());
    let mut table = Table::new(std::iter::once("percentile".to_owned()).chain(names));
    let mut row = |label: &str, cell: &dyn Fn(&Histogram<u64>) -> String| {
        let cells = histograms.iter().map(|(_, h)| h.as_ref().map_or("-".into(), cell));
        table.row(std::iter::once(label.to_owned()).chain(cells));
    };
    row("min", &|histogram| format::duration(histogram.min()));
    for (quantile, label) in TABLE {
        row(label, &|histogram| {
            let value = format::duration(histogram.value_at_quantile(quantile));
            let interval = (histogram.len() <= BANDED_MAX)
                .then(|| percentile_interval(histogram, quantile, CONFIDENCE))
                .flatten();
            interval.map_or_else(
                || "-".to_owned(),
                |(low, high)| {
                    let [low, high] = [low, high].map(format::duration);
                    format!("{value} [{low}, {high}]")
                },
            )
        });
    }
    row("max", &|histogram| format::duration(histogram.max()));
    row("samples", &|histogram| histogram.len().to_string());
    table
}
