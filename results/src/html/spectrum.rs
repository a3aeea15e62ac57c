//! Chart of latency by percentile: whole distributions, with the tail as wide as the middle.

use hdrhistogram::Histogram;

use crate::html::figure::Figure;
use crate::html::lines::{Lines, Point, Series};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::html::unit::Unit;
use crate::statistics::ranks;
use crate::{Latency, format};

/// Points for each nine.
const STEPS: u32 = 12;

/// Most nines: the ten-millionth part.
const NINES_MAX: f64 = 7.0;

/// Nines from which on values determine the axis, about the 20th percentile: the fastest exchange
/// may be thousands of times as fast as most.
const SHOWN_FROM: f64 = 0.1;

/// Confidence of the band.
const CONFIDENCE: f64 = 0.95;

/// Most samples with a band. Beyond, it is narrower than the histogram's resolution and slow to
/// compute.
const BANDED_MAX: u64 = 1 << 34;

/// Percentiles in the table.
const TABLE: [(f64, &str); 7] = [
    (0.5, "p50"),
    (0.75, "p75"),
    (0.9, "p90"),
    (0.99, "p99"),
    (0.999, "p99.9"),
    (0.9999, "p99.99"),
    (0.99999, "p99.999"),
];

/// A histogram as its samples in order, for fast look-ups.
struct Ordered {
    count: u64,
    min: u64,
    max: u64,
    /// Number of samples up to a value, and the value: the largest with its resolution.
    upto: Vec<(u64, u64)>,
    histogram: Histogram<u64>,
}

impl Ordered {
    fn new(histogram: Histogram<u64>) -> Ordered {
        let mut passed = 0;
        let upto = histogram.iter_recorded().map(|value| {
            passed += value.count_since_last_iteration();
            (passed, value.value_iterated_to())
        });
        Ordered {
            upto: upto.collect(),
            count: histogram.len(),
            min: histogram.min(),
            max: histogram.max(),
            histogram,
        }
    }

    /// Value of the sample with this rank, from 1.
    fn at(&self, rank: u64) -> u64 {
        let place = self.upto.partition_point(|&(passed, _)| passed < rank);
        self.upto.get(place).map_or(self.max, |&(_, value)| value)
    }

    fn quantile(&self, quantile: f64) -> u64 {
        let rank = (quantile * self.count as f64).ceil() as u64;
        self.histogram.highest_equivalent(self.at(rank.clamp(1, self.count)))
    }

    /// Interval of a percentile, rounded outwards to the resolution of the histogram.
    fn interval(&self, quantile: f64) -> Option<(u64, u64)> {
        let few = self.count <= BANDED_MAX && quantile > 0.0;
        let (low, high) = few.then(|| ranks(self.count, quantile, CONFIDENCE))?;
        let low = self.histogram.lowest_equivalent(self.at(low?));
        Some((low, self.histogram.highest_equivalent(self.at(high?))))
    }
}

/// A distribution and its name.
pub(crate) struct Named<'a> {
    pub(crate) name: String,
    /// Absent if nothing was timed; the colour is reserved all the same.
    pub(crate) latency: Option<&'a Latency>,
}

/// Chart of distributions, or `None` if none can be drawn; and the errors of those that cannot.
pub(crate) fn spectrum(title: &str, named: &[Named]) -> (Option<Figure>, Vec<String>) {
    let mut problems = Vec::new();
    let mut histograms: Vec<(&str, Option<Ordered>)> = Vec::new();
    for Named { name, latency } in named {
        let histogram = latency.and_then(|latency| match latency.histogram() {
            Ok(histogram) => (!histogram.is_empty()).then(|| Ordered::new(histogram)),
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
    let above = |point: &&Point| point.x >= SHOWN_FROM;
    let all = || series.iter().flat_map(|series| &series.points);
    let lines = Lines {
        title: title.to_owned(),
        description: format!(
            "A line for each of {}: the latency below which so many percent of the exchanges lie.",
            series.len()
        ),
        x: Scale::between(Unit::Percentile, 0.0, all().map(|point| point.x).fold(1.0, f64::max)),
        x_label: "percentile".into(),
        y: Scale::spanning(Unit::Nanoseconds, all().filter(above).map(|point| point.y)),
        y_label: "latency".into(),
        percentiles: false,
        note: "Band: 95 % interval of each percentile by order statistics, which is the least \
               uncertainty it has: it takes the exchanges of a run for independent."
            .into(),
        data: table(&histograms),
        series,
    };
    (Some(lines.figure()), problems)
}

/// Percentiles at equal distances on the axis, up to the largest sample.
fn points(samples: &Ordered) -> Vec<Point> {
    let end = (samples.count as f64).log10().clamp(0.1, NINES_MAX);
    let steps = (end * f64::from(STEPS)).ceil() as u32;
    let places = (0..=steps).map(|step| (f64::from(step) / f64::from(STEPS)).min(end));
    places
        .map(|nines| {
            let quantile = 1.0 - 10f64.powf(-nines);
            let value = match nines {
                0.0 => samples.min,
                _ if nines == end && end < NINES_MAX => samples.max,
                _ => samples.quantile(quantile),
            };
            let band = samples.interval(quantile).map(|(low, high)| (low as f64, high as f64));
            Point { band, ..Point::new(nines, value as f64) }
        })
        .collect()
}

/// A percentile a row, a distribution a column; those that the samples bound on both sides with
/// their interval.
fn table(distributions: &[(&str, Option<Ordered>)]) -> Table {
    let names = distributions.iter().map(|(name, _)| (*name).to_owned());
    let mut table = Table::new(std::iter::once("percentile".to_owned()).chain(names));
    let mut row = |label: &str, cell: &dyn Fn(&Ordered) -> String| {
        let cells =
            distributions.iter().map(|(_, samples)| samples.as_ref().map_or("-".into(), cell));
        table.row(std::iter::once(label.to_owned()).chain(cells));
    };
    row("min", &|samples| format::duration(samples.min));
    for (quantile, label) in TABLE {
        row(label, &|samples| {
            let value = format::duration(samples.quantile(quantile));
            samples.interval(quantile).map_or_else(
                || "-".to_owned(),
                |(low, high)| {
                    let [low, high] = [low, high].map(format::duration);
                    format!("{value} [{low}, {high}]")
                },
            )
        });
    }
    row("max", &|samples| format::duration(samples.max));
    row("samples", &|samples| samples.count.to_string());
    table
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::Ordered;

    #[test]
    fn ordered_samples_agree_with_the_histogram() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for index in 0..20_000u64 {
            histogram.record(1000 + index * index % 9_999_991).unwrap();
        }
        let samples = Ordered::new(histogram.clone());
        for quantile in [0.01, 0.25, 0.5, 0.9, 0.99, 0.999] {
            assert_eq!(samples.quantile(quantile), histogram.value_at_quantile(quantile));
            let (low, high) = samples.interval(quantile).unwrap();
            assert!(low <= samples.quantile(quantile) && samples.quantile(quantile) <= high);
        }
    }
    /// An exponential distribution with a mean of a millisecond.
    #[test]
    fn interval_of_a_percentile_holds_it_as_often_as_promised() {
        let mut rng = fastrand::Rng::with_seed(6);
        let held = (0..1000).filter(|_| {
            let mut histogram = Histogram::<u64>::new(3).unwrap();
            for _ in 0..2000 {
                let ns = -1e6 * (1.0 - rng.f64()).ln();
                histogram.record(ns as u64).unwrap();
            }
            let (low, high) = Ordered::new(histogram).interval(0.99).unwrap();
            (low..=high).contains(&((100f64.ln() * 1e6) as u64))
        });
        let held = held.count();
        assert!((930..990).contains(&held), "{held}");
    }
}
