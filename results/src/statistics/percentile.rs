//! Confidence interval of a percentile.

use super::binomial::Binomial;

/// Ranks, from 1, of the samples that bound the `quantile` (0.99 for the 99th percentile) of `count`
/// samples with at least this `confidence`.
///
/// The number of samples below the true value is binomial, whatever the distribution (Thompson
/// 1936; David and Nagaraja, Order Statistics, 7.1). `None` if there are too few samples to bound it
/// on both sides: the 99th percentile takes 368 at 95 %.
///
/// It takes the samples for independent. Those of one run are not: a pause slows many in a row. So
/// it is the least uncertainty that a percentile has, and says nothing about the next run.
pub(crate) fn ranks(count: u64, quantile: f64, confidence: f64) -> Option<(u64, u64)> {
    let below = Binomial::new(count, quantile);
    let tail = (1.0 - confidence) / 2.0;
    let (low, high) = (below.low(tail), below.high(tail));
    (low >= 1 && high <= count).then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::ranks;

    /// The largest `l` with `binom.cdf(l - 1, n, q) <= (1 - c) / 2` and the smallest `u` with
    /// `binom.sf(u - 1, n, q) <= (1 - c) / 2`, scipy 1.17.1; up to 10,000 samples also
    /// `quantile_test(range(1, n + 1), p=q).confidence_interval(c)`.
    #[test]
    fn ranks_agree_with_scipy() {
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
}
