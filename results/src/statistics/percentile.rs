//! How surely a run knows one of its percentiles.

use hdrhistogram::Histogram;

use super::binomial::Binomial;

/// The interval of the `quantile` (0.99 for the 99th percentile) with at least this `confidence`,
/// by order statistics: how many samples lie below the true value is binomial, whatever the
/// distribution (Thompson 1936; David and Nagaraja, Order Statistics, 7.1).
///
/// `None` when there are too few samples to bound it on both sides: the 99th percentile takes 368
/// at 95 %. The ends have the histogram's resolution, rounded outwards.
///
/// It takes the samples for independent. Those of one run are not: a pause slows many in a row.
/// So it is the least uncertainty a percentile has, and says nothing about the next run.
pub fn percentile_interval(
    histogram: &Histogram<u64>,
    quantile: f64,
    confidence: f64,
) -> Option<(u64, u64)> {
    let (low, high) = ranks(histogram.len(), quantile, confidence)?;
    let low = value_at_rank(histogram, low)?;
    let high = value_at_rank(histogram, high)?;
    Some((histogram.lowest_equivalent(low), histogram.highest_equivalent(high)))
}

/// Ranks, from 1, of the samples that bound the quantile of `count` of them.
pub(crate) fn ranks(count: u64, quantile: f64, confidence: f64) -> Option<(u64, u64)> {
    let below = Binomial::new(count, quantile);
    let tail = (1.0 - confidence) / 2.0;
    let (low, high) = (below.low(tail), below.high(tail));
    (low >= 1 && high <= count).then_some((low, high))
}

fn value_at_rank(histogram: &Histogram<u64>, rank: u64) -> Option<u64> {
    let mut passed = 0;
    let mut values = histogram.iter_recorded();
    values
        .find(|value| {
            passed += value.count_since_last_iteration();
            passed >= rank
        })
        .map(|value| value.value_iterated_to())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::{percentile_interval, ranks};

    /// The largest `l` with `binom.cdf(l - 1, n, q) <= (1 - c) / 2` and the smallest `u` with
    /// `binom.sf(u - 1, n, q) <= (1 - c) / 2`, scipy 1.17.1; up to 10,000 samples also
    /// `quantile_test(range(1, n + 1), p=q).confidence_interval(c)`.
    #[test]
    fn ranks_are_scipys() {
        for (count, quantile, confidence, expected) in [
            (100, 0.5, 0.95, Some((40, 61))),
            (1000, 0.99, 0.95, Some((983, 997))),
            (10_000, 0.999, 0.95, Some((9983, 9997))),
            (100_000, 0.999, 0.99, Some((99_873, 99_926))),
            (2_419_716, 0.99, 0.95, Some((2_395_215, 2_395_823))),
            (2_419_716, 0.9999, 0.99, Some((2_419_433, 2_419_514))),
            (6, 0.5, 0.95, Some((1, 6))),
            (5, 0.5, 0.95, None),
            (300, 0.99, 0.95, None),
            (400, 0.99, 0.95, Some((392, 400))),
            (0, 0.99, 0.95, None),
        ] {
            assert_eq!(ranks(count, quantile, confidence), expected, "{count} {quantile}");
        }
    }

    #[test]
    fn the_ends_are_samples_rounded_outwards() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for microseconds in 1..=1000 {
            histogram.record(microseconds * 1000).unwrap();
        }
        let (low, high) = percentile_interval(&histogram, 0.99, 0.95).unwrap();
        assert!(low <= 983_000 && 983_000 - low < 1000, "{low}");
        assert!(high >= 997_000 && high - 997_000 < 1000, "{high}");
        assert_eq!(percentile_interval(&histogram, 0.9999, 0.95), None, "too few samples");
    }
}
