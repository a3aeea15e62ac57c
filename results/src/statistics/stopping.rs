//! Rule that ends the rounds of a cell.

use serde::{Deserialize, Serialize};

use super::{Ratio, Verdict};

/// Rounds are repeated until the interval of every ratio is narrow enough, or up to a maximum.
///
/// The rule depends on the width of the interval, never on the place of 1 in it: stopping as soon
/// as a difference shows would sooner or later find one between equals. A narrow interval may still
/// come by luck, so the rule is applied at even numbers of rounds only: it claims a difference
/// between equals in at most 3 of 100 comparisons with the default numbers, where a single decision
/// at the end does in 2, and one after every round would in nearly 4; with 4 % and up to 50 rounds
/// in 3.6 (by simulation, over noise of 1 to 10 % from run to run).
///
/// In the same time, many short runs are more precise than a few long ones: disturbances of a
/// shared machine last, so that neighbouring runs are disturbed alike (between runs 0.2 s apart a
/// correlation of 0.5 was measured) and a longer run is hardly less noisy.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stopping {
    /// Fewest rounds in which both sides are valid.
    pub rounds_min: u32,
    /// Most rounds, valid or not.
    pub rounds_max: u32,
    /// Half width that is narrow enough, as a share: 0.03 for `[0.97, 1.03]`.
    pub precision: f64,
}

impl Default for Stopping {
    fn default() -> Stopping {
        Stopping { rounds_min: 8, rounds_max: 30, precision: 0.03 }
    }
}

/// Reason for the last round.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// Every interval was narrow enough.
    Precise,
    /// The most rounds were made.
    Maximum,
}

impl Stopping {
    /// Reason to stop after `rounds`, given the ratios that are to be precise; `None` among them is
    /// a ratio that cannot be computed yet.
    pub fn stop(&self, rounds: u32, ratios: &[Option<&Ratio>]) -> Option<Stopped> {
        let look = rounds.is_multiple_of(2) || rounds >= self.rounds_max;
        let precise = |ratio: &Ratio| {
            ratio.verdict != Verdict::TooFewRounds
                && ratio.rounds >= self.rounds_min
                && ratio.half_width() <= self.precision
        };
        if look && !ratios.is_empty() && ratios.iter().all(|ratio| ratio.is_some_and(precise)) {
            Some(Stopped::Precise)
        } else {
            (rounds >= self.rounds_max).then_some(Stopped::Maximum)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Stopped, Stopping};
    use crate::statistics::Ratio;

    /// Rounds with ratios this far around one.
    fn ratio(rounds: u32, noise: f64) -> Ratio {
        let pairs: Vec<(f64, f64)> = (0..rounds)
            .map(|round| (1.0, if round % 2 == 0 { 1.0 + noise } else { 1.0 / (1.0 + noise) }))
            .collect();
        Ratio::of(&pairs, 1).unwrap()
    }

    const RULE: Stopping = Stopping { rounds_min: 8, rounds_max: 13, precision: 0.03 };

    #[test]
    fn stops_when_all_intervals_are_narrow() {
        let (narrow, wide) = (ratio(8, 0.02), ratio(8, 0.04));
        assert_eq!(RULE.stop(8, &[Some(&narrow), Some(&narrow)]), Some(Stopped::Precise));
        assert_eq!(RULE.stop(8, &[Some(&narrow), Some(&wide)]), None);
        assert_eq!(RULE.stop(8, &[Some(&narrow), None]), None);
        assert_eq!(RULE.stop(8, &[]), None, "nothing is not precise");
    }

    #[test]
    fn stops_at_even_rounds_and_at_the_last() {
        let narrow = ratio(9, 0.02);
        assert_eq!(RULE.stop(9, &[Some(&narrow)]), None);
        assert_eq!(RULE.stop(10, &[Some(&narrow)]), Some(Stopped::Precise));
        assert_eq!(RULE.stop(13, &[Some(&narrow)]), Some(Stopped::Precise));
        assert_eq!(RULE.stop(13, &[Some(&ratio(13, 0.04))]), Some(Stopped::Maximum));
        assert_eq!(RULE.stop(13, &[None]), Some(Stopped::Maximum));
    }

    #[test]
    fn invalid_rounds_do_not_count_as_evidence() {
        assert_eq!(RULE.stop(10, &[Some(&ratio(7, 0.0))]), None);
        let one_round = Stopping { rounds_min: 1, ..RULE };
        assert_eq!(one_round.stop(4, &[Some(&ratio(4, 0.0))]), None, "a claim takes six");
        assert_eq!(one_round.stop(6, &[Some(&ratio(6, 0.0))]), Some(Stopped::Precise));
    }
}
