//! Ratio of a subject to the baseline in one metric, and its verdict.

use serde::{Deserialize, Serialize};

use super::{median, median_interval, signed_rank};

/// Nominal probability that a family of intervals misses the truth.
const MISS: f64 = 0.01;

/// Highest probability of a claim between equals that a number of rounds may leave to a family, if
/// all rounds lean to one side.
const CHANCE_MAX: f64 = 0.04;

/// Values of a subject over those of the baseline, round by round.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ratio {
    /// Median of the rounds' ratios.
    pub median: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end of its interval.
    pub high: f64,
    /// Nominal confidence of the interval, a percentile bootstrap over rounds.
    pub confidence: f64,
    /// Rounds with a value of both sides.
    pub rounds: u32,
    /// Wilcoxon's signed-rank test of the logarithms, two-sided: for readers, not for the verdict.
    pub p_signed_rank: f64,
    /// Verdict.
    pub verdict: Verdict,
}

/// Verdict on a [`Ratio`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The subject's value is lower: the interval lies below 1.
    Lower,
    /// The subject's value is higher: the interval lies above 1.
    Higher,
    /// The interval holds 1: any difference is smaller than the noise lets see.
    NoDifference,
    /// There are too few rounds: even if all lean to one side, that is too probable by chance.
    TooFewRounds,
}

impl Ratio {
    /// Judges pairs of the baseline's and the subject's value, one a round. A pair with a value
    /// that is not positive has no ratio and is left out; `None` when no pair is left.
    ///
    /// `family` is the number of ratios that are looked at together, any of which would be a
    /// finding; the confidence is raised so that a finding by chance among all of them is no more
    /// probable than in a family of one (Bonferroni).
    ///
    /// Between equals all rounds lean to one side in `2^(1 - rounds)` of the comparisons, so that
    /// a claim takes 6 rounds (1 in 32), and in a family of 5 takes 8.
    pub fn of(pairs: &[(f64, f64)], family: u32) -> Option<Ratio> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        // Logarithms, so that exchanging the sides gives exactly the inverse.
        let logs: Vec<f64> = pairs
            .iter()
            .filter(|&&(baseline, subject)| positive(baseline) && positive(subject))
            .map(|(baseline, subject)| subject.ln() - baseline.ln())
            .collect();
        let family = f64::from(family.max(1));
        let confidence = 1.0 - MISS / family;
        let (low, high) = median_interval(&logs, confidence)?;
        let all_alike = 0.5f64.powf(logs.len() as f64 - 1.0);
        let verdict = if all_alike * family > CHANCE_MAX {
            Verdict::TooFewRounds
        } else if high < 0.0 {
            Verdict::Lower
        } else if low > 0.0 {
            Verdict::Higher
        } else {
            Verdict::NoDifference
        };
        Some(Ratio {
            median: median(&logs)?.exp(),
            low: low.exp(),
            high: high.exp(),
            confidence,
            rounds: logs.len() as u32,
            p_signed_rank: signed_rank(&logs),
            verdict,
        })
    }

    /// Half of the interval's width, as a share: 0.03 for `[0.97, 1.03]`.
    pub fn half_width(&self) -> f64 {
        (self.high / self.low).sqrt() - 1.0
    }

    /// True if a difference is claimed.
    pub fn claims(&self) -> bool {
        matches!(self.verdict, Verdict::Lower | Verdict::Higher)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ratio, Verdict};

    fn pairs(ratios: &[f64]) -> Vec<(f64, f64)> {
        // A baseline that drifts, which cancels.
        ratios.iter().enumerate().map(|(i, r)| (4.0 + i as f64, r * (4.0 + i as f64))).collect()
    }

    fn close(found: f64, expected: f64) -> bool {
        (found / expected - 1.0).abs() < 1e-12
    }

    #[test]
    fn ratio_is_the_median_of_the_rounds_ratios() {
        let ratio = Ratio::of(&pairs(&[0.9, 0.85, 0.88, 0.91, 0.84, 0.5, 0.87]), 1).unwrap();
        assert!(close(ratio.median, 0.87) && close(ratio.low, 0.5) && close(ratio.high, 0.91));
        assert_eq!((ratio.rounds, ratio.verdict), (7, Verdict::Lower));
        assert_eq!(ratio.p_signed_rank, 1.0 / 64.0);
        assert!(close(ratio.half_width(), (0.91f64 / 0.5).sqrt() - 1.0));
    }

    #[test]
    fn exchanged_sides_invert_the_ratio() {
        let there = pairs(&[1.2, 0.95, 1.3, 1.1, 1.15, 1.25, 1.22, 1.18]);
        let back: Vec<(f64, f64)> = there.iter().map(|&(a, b)| (b, a)).collect();
        let (there, back) = (Ratio::of(&there, 1).unwrap(), Ratio::of(&back, 1).unwrap());
        assert!(close(there.median, 1.0 / back.median));
        assert!(close(there.low, 1.0 / back.high) && close(there.high, 1.0 / back.low));
        assert_eq!((there.verdict, back.verdict), (Verdict::Higher, Verdict::Lower));
    }

    #[test]
    fn claim_needs_six_rounds_or_eight_in_a_family_of_five() {
        let same = pairs(&[0.5; 8]);
        let verdict = |rounds: usize, family| Ratio::of(&same[..rounds], family).unwrap().verdict;
        assert_eq!([5, 6].map(|n| verdict(n, 1)), [Verdict::TooFewRounds, Verdict::Lower]);
        assert_eq!([7, 8].map(|n| verdict(n, 5)), [Verdict::TooFewRounds, Verdict::Lower]);
    }

    #[test]
    fn larger_family_widens_the_interval() {
        let pairs = pairs(&[0.98, 0.97, 1.05, 0.96, 0.94, 0.97, 0.93, 0.95, 0.96, 0.98]);
        let (one, five) = (Ratio::of(&pairs, 1).unwrap(), Ratio::of(&pairs, 5).unwrap());
        assert_eq!((one.confidence, five.confidence), (0.99, 0.998));
        assert!(five.low <= one.low && one.high < five.high, "{one:?} {five:?}");
        assert_eq!((one.verdict, five.verdict), (Verdict::Lower, Verdict::NoDifference));
    }

    #[test]
    fn equal_values_are_no_difference() {
        let ratio = Ratio::of(&pairs(&[1.0; 12]), 1).unwrap();
        assert_eq!((ratio.low, ratio.high), (1.0, 1.0));
        assert_eq!((ratio.verdict, ratio.p_signed_rank), (Verdict::NoDifference, 1.0));
    }

    #[test]
    fn pairs_without_a_ratio_are_left_out() {
        let mut some = pairs(&[0.9; 6]);
        some.extend([(0.0, 1.0), (1.0, 0.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (-1.0, 1.0)]);
        assert_eq!(Ratio::of(&some, 1).unwrap().rounds, 6);
        assert_eq!(Ratio::of(&some[6..], 1), None);
    }
}
