//! The binomial distribution, for any number of trials.

/// Masses below this share of the largest are left out: far less than rounding takes.
const NEGLIGIBLE: f64 = 1e-40;

/// Number of successes in independent trials.
pub(super) struct Binomial {
    /// Count that `masses[0]` is the probability of; those not listed are negligible.
    first: u64,
    masses: Vec<f64>,
}

impl Binomial {
    /// Takes time and memory of about 30 standard deviations.
    pub(super) fn new(trials: u64, probability: f64) -> Binomial {
        assert!((0.0..=1.0).contains(&probability), "{probability} is no probability");
        let odds = probability / (1.0 - probability);
        let mode = (((trials as f64 + 1.0) * probability) as u64).min(trials);
        // Outwards from the mode by the ratio of neighbours, and the sum made 1 afterwards: no
        // factorial, whose logarithm would cost digits.
        let mut masses = Vec::new();
        let mut mass = 1.0;
        let mut first = mode;
        while first > 0 {
            mass *= first as f64 / (trials - first + 1) as f64 / odds;
            if mass < NEGLIGIBLE {
                break;
            }
            masses.push(mass);
            first -= 1;
        }
        masses.reverse();
        masses.push(1.0);
        mass = 1.0;
        for count in mode..trials {
            mass *= (trials - count) as f64 / (count + 1) as f64 * odds;
            if mass < NEGLIGIBLE {
                break;
            }
            masses.push(mass);
        }
        let total: f64 = masses.iter().sum();
        masses.iter_mut().for_each(|mass| *mass /= total);
        Binomial { first, masses }
    }

    /// Probability of at least `count` successes.
    pub(super) fn at_least(&self, count: u64) -> f64 {
        let skipped = count.saturating_sub(self.first).min(self.masses.len() as u64);
        // From the small end, for the digits.
        self.masses[skipped as usize..].iter().rev().sum()
    }

    /// Largest count with a probability of at most `tail` for fewer successes.
    pub(super) fn low(&self, tail: f64) -> u64 {
        self.first + steps(self.masses.iter(), tail)
    }

    /// Smallest count with a probability of at most `tail` for as many successes.
    pub(super) fn high(&self, tail: f64) -> u64 {
        self.first + self.masses.len() as u64 - steps(self.masses.iter().rev(), tail)
    }
}

/// Ranks, from 1, of the samples that bound the `quantile` (0.99 for the 99th percentile) of
/// `count` samples from below and from above, together with at least this `confidence`.
///
/// The number of samples below the true value is binomial, whatever the distribution (Thompson
/// 1936; David and Nagaraja, Order Statistics, 7.1). `None` for a side with too few samples: to
/// bound the 99th percentile from above takes 368 at 95 %.
///
/// It takes the samples for independent. Those of one run are not: a pause slows many in a row. So
/// it is the least uncertainty that a percentile has, and says nothing about the next run.
pub(crate) fn ranks(count: u64, quantile: f64, confidence: f64) -> (Option<u64>, Option<u64>) {
    let below = Binomial::new(count, quantile);
    let tail = (1.0 - confidence) / 2.0;
    let (low, high) = (below.low(tail), below.high(tail));
    (Some(low).filter(|&low| low >= 1), Some(high).filter(|&high| high <= count))
}

/// Fewest samples for which [`ranks`] bounds the `quantile` on both sides: all of them are on one
/// side of it with a probability of at most half of what the `confidence` leaves.
pub(crate) fn samples_needed(quantile: f64, confidence: f64) -> u64 {
    let tail = (1.0 - confidence) / 2.0;
    let rarer_side = quantile.max(1.0 - quantile);
    (tail.ln() / rarer_side.ln()).ceil() as u64
}

/// Number of leading `masses` whose sum is at most `tail`.
fn steps<'a>(masses: impl Iterator<Item = &'a f64>, tail: f64) -> u64 {
    let mut sum = 0.0;
    masses
        .take_while(|&mass| {
            sum += mass;
            sum <= tail
        })
        .count() as u64
}

#[cfg(test)]
mod tests {
    use super::{Binomial, ranks, samples_needed};

    /// `scipy.stats.binom.sf(count - 1, trials, probability)`, scipy 1.17.1.
    #[test]
    fn tails_agree_with_scipy() {
        for (trials, probability, count, expected) in [
            (20, 0.3, 4, 0.8929131954962691),
            (10, 0.5, 5, 0.623046875),
            (1000, 0.999, 995, 0.999411929898237),
            (2_419_716, 0.99, 2_395_000, 0.9995881928951401),
        ] {
            let found = Binomial::new(trials, probability).at_least(count);
            assert!((found / expected - 1.0).abs() < 1e-9, "{trials}: {found} for {expected}");
        }
    }

    #[test]
    fn certain_and_impossible_events() {
        let (never, always) = (Binomial::new(9, 0.0), Binomial::new(9, 1.0));
        assert_eq!([never.at_least(0), never.at_least(1)], [1.0, 0.0]);
        assert_eq!([always.at_least(9), always.at_least(10)], [1.0, 0.0]);
        assert_eq!(Binomial::new(0, 0.5).at_least(0), 1.0);
    }

    #[test]
    fn low_and_high_leave_at_most_the_tail_outside() {
        // A coin thrown five times shows no head, or no tail, in 1 of 32 each.
        let coin = Binomial::new(5, 0.5);
        assert_eq!([coin.low(0.03), coin.high(0.03)], [0, 6]);
        assert_eq!([coin.low(0.04), coin.high(0.04)], [1, 5]);
    }

    /// The largest `l` with `binom.cdf(l - 1, n, q) <= (1 - c) / 2` and the smallest `u` with
    /// `binom.sf(u - 1, n, q) <= (1 - c) / 2`, scipy 1.17.1; up to 10,000 samples also
    /// `quantile_test(range(1, n + 1), p=q).confidence_interval(c)`.
    #[test]
    fn ranks_agree_with_scipy() {
        for (count, quantile, confidence, expected) in [
            (100, 0.5, 0.95, (Some(40), Some(61))),
            (1000, 0.99, 0.95, (Some(983), Some(997))),
            (10_000, 0.999, 0.95, (Some(9983), Some(9997))),
            (100_000, 0.999, 0.99, (Some(99_873), Some(99_926))),
            (2_419_716, 0.99, 0.95, (Some(2_395_215), Some(2_395_823))),
            (2_419_716, 0.9999, 0.99, (Some(2_419_433), Some(2_419_514))),
            (6, 0.5, 0.95, (Some(1), Some(6))),
            (5, 0.5, 0.95, (None, None)),
            (300, 0.99, 0.95, (Some(293), None)),
            (400, 0.99, 0.95, (Some(392), Some(400))),
            (20, 0.9999, 0.99, (Some(20), None)),
            (20, 0.01, 0.99, (None, Some(3))),
            (0, 0.99, 0.95, (None, None)),
        ] {
            assert_eq!(ranks(count, quantile, confidence), expected, "{count} {quantile}");
        }
    }

    #[test]
    fn needed_samples_are_the_fewest_with_both_bounds() {
        let bounded = |count, quantile| matches!(ranks(count, quantile, 0.99), (Some(_), Some(_)));
        for quantile in [0.01, 0.5, 0.75, 0.95, 0.99, 0.999, 0.9999] {
            let needed = samples_needed(quantile, 0.99);
            assert!(bounded(needed, quantile) && !bounded(needed - 1, quantile), "{quantile}");
        }
        assert_eq!([0.5, 0.99, 0.9999].map(|it| samples_needed(it, 0.99)), [8, 528, 52_981]);
    }
}
