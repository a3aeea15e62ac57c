//! Statistics of several noisy runs: pure functions, without clock, file or randomness.
//!
//! A comparison measures its subjects in rounds. A round runs every subject once, in random order:
//! drift between rounds is common to the subjects of a round and cancels in their ratio.
//!
//! **The statistic** is the median of the paired ratios, one for each round. The ratio of the two
//! medians is at best as precise, and if rounds drift by 10 % its interval is half as wide again,
//! since each median picks its own rounds. The Hodges-Lehmann estimate is more precise under
//! Gaussian noise, but its bootstrap claims a difference between equals in 9 of 100 comparisons of
//! 5 rounds and 7 of 6, and one bad run in ten rounds is enough to hide a true 10 % from it.
//!
//! **The interval** is the percentile bootstrap over rounds, at a nominal 99 %, computed exactly
//! ([`median_interval`]). With few rounds a bootstrap holds less often than it promises: between
//! equals this one misses the true ratio of 1 in 3.1 of 100 comparisons of 6 rounds, in 1.6 of 7
//! or 8, in 3.9 of 9, in 1.2 to 2.3 of 10 to 20 but 3.5 of 15, and in 0.8 to 2.7 of more. For odd
//! numbers of rounds its ends are order statistics, so these shares are the same for every noise
//! (Thompson 1936); for even ones they are means of two, and Gaussian, exponential, bimodal and
//! Cauchy noise differ by no more than 0.3. BCa (Efron 1987) is no better here: its acceleration
//! comes from leaving out one round at a time, which is not consistent for a median.
//!
//! **A claim** is an interval without 1, from enough rounds ([`Ratio::of`]). It rests on nothing
//! but the random order: between equals, a round favours either side with the same probability,
//! whatever the noise. The exact signed-rank test is reported for readers who know it; the verdict
//! does not use it, as one bad run in ten rounds is enough to silence it.
//!
//! **When to stop**: [`Stopping`].
//!
//! Tests and ranks are checked against scipy's values, the shares above by simulation.

mod binomial;
mod bootstrap;
mod rank;
mod ratio;
mod stopping;

pub(crate) use binomial::{ranks, samples_needed};
pub use bootstrap::median_interval;
pub use rank::signed_rank;
pub use ratio::{Ratio, Verdict};
pub use stopping::{Stopped, Stopping};

/// Median; `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let &high = values.get(middle)?;
    let low = if values.len().is_multiple_of(2) { values[middle - 1] } else { high };
    Some(f64::midpoint(low, high))
}

/// Spread of values around their median, as a share of it: the median distance, scaled to be the
/// standard deviation of Gaussian noise. Half of the values may be wild without moving it far.
///
/// `None` without values, or around zero.
pub fn spread(values: &[f64]) -> Option<f64> {
    /// 1 over the third quartile of the normal distribution.
    const TO_DEVIATION: f64 = 1.482_602_218_505_602;
    let center = median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - center).abs()).collect();
    (center != 0.0).then_some(TO_DEVIATION * median(&distances)? / center.abs())
}

#[cfg(test)]
mod tests {
    use super::{median, spread};

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    /// `scipy.stats.median_abs_deviation(x, scale="normal") / numpy.median(x)`, scipy 1.17.1.
    #[test]
    fn spread_agrees_with_scipy() {
        let found = spread(&[3.1, 4.7, 2.2, 6.4, 5.1, 2.9]).unwrap();
        assert!((found / 0.41816985650157995 - 1.0).abs() < 1e-9, "{found}");
        assert_eq!(spread(&[2.0, 2.0, 100.0]), Some(0.0), "one wild value does not count");
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[0.0]), None);
    }
}
