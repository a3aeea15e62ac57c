//! The search for the highest rate that meets the objectives: a state machine without clock or
//! socket. It takes the observation of a run, and returns the rate to measure next.
//!
//! The rate is doubled until one misses, then the gap is bisected, geometrically, down to the
//! tolerance. Two of three runs reject a rate, so that a single bad run does not. An unusable run
//! is repeated. The result is measured again in a longer run; if it misses, the search steps down,
//! in growing steps, until a rate holds.

use lockstep_results::Bound;

use super::ATTEMPTS;
use super::levels::tidy;

/// Factor from a rate that held to the next, while no rate has missed.
const RAMP: f64 = 2.0;

/// Factor from a rate that missed when it was measured again to the next lower one; applied once
/// the first time, twice the second time, and so on.
const STEP_DOWN: f64 = 0.9;

/// Distance between rates, as a share, at which the search ends: runs differ by more.
pub(super) const TOLERANCE: f64 = 0.05;

/// Observation of a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Observation {
    /// The requests were sent when they were due, and the objectives were met.
    Held,
    /// The server did not keep up, or missed the objectives.
    Missed,
    /// The generator was the limit, or was disturbed: the run is not evidence about the server.
    Unusable,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// Measure at this rate.
    Look(f64),
    /// Measure at this rate again, longer.
    Confirm(f64),
    /// End: the result.
    Done(Found),
}

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    /// The highest rate that held, twice.
    pub(super) rate: Option<f64>,
    /// The lowest above it that missed.
    pub(super) missed: Option<f64>,
    /// Reason why the search went no higher.
    pub(super) bound: Bound,
}

/// The search.
#[derive(Clone, Debug)]
pub(super) struct Search {
    lowest: f64,
    highest: f64,
    /// The highest rate that held.
    held: Option<f64>,
    /// The lowest rate that was rejected, and by which observation.
    rejected: Option<(f64, Observation)>,
    /// Observations at the present rate.
    seen: Vec<Observation>,
    /// Number of results that missed when they were measured again.
    failed: i32,
    next: Next,
}

impl Search {
    /// A search between two rates, both included, requests a second.
    pub(super) fn new(lowest: f64, highest: f64) -> Self {
        Self {
            lowest,
            highest,
            held: None,
            rejected: None,
            seen: Vec::new(),
            failed: 0,
            next: Next::Look(lowest.min(highest)),
        }
    }

    /// The next step.
    pub(super) fn next(&self) -> Next {
        self.next
    }

    /// Takes the observation of the run that [`next`](Self::next) asked for.
    pub(super) fn observe(&mut self, observation: Observation) {
        match self.next {
            Next::Look(rate) => {
                self.seen.push(observation);
                if let Some(decided) = decide(&self.seen) {
                    self.seen.clear();
                    match decided {
                        Observation::Held => self.held = Some(rate),
                        why => self.rejected = Some((rate, why)),
                    }
                    self.next = self.after_look();
                }
            }
            Next::Confirm(rate) => {
                self.seen.push(observation);
                self.next = match observation {
                    Observation::Held => Next::Done(self.found(Some(rate))),
                    Observation::Unusable if self.seen.len() < ATTEMPTS => self.next,
                    why => self.step_down(rate, why),
                }
            }
            Next::Done(_) => {}
        }
    }

    fn after_look(&self) -> Next {
        match (self.held, self.rejected) {
            (None, _) => Next::Done(self.found(None)),
            (Some(held), None) if held >= self.highest => Next::Confirm(held),
            (Some(held), None) => Next::Look((held * RAMP).min(self.highest)),
            (Some(held), Some((rejected, _))) => match between(held, rejected) {
                Some(middle) => Next::Look(middle),
                None => Next::Confirm(held),
            },
        }
    }

    fn step_down(&mut self, rate: f64, why: Observation) -> Next {
        self.rejected = Some((rate, why));
        self.seen.clear();
        self.failed += 1;
        let lower = tidy(rate * STEP_DOWN.powi(self.failed));
        match () {
            () if rate <= self.lowest => Next::Done(self.found(None)),
            () => Next::Confirm(lower.max(self.lowest)),
        }
    }

    fn found(&self, rate: Option<f64>) -> Found {
        let bound = match self.rejected {
            None => Bound::Highest,
            Some((_, Observation::Unusable)) => Bound::Generator,
            Some(_) => Bound::Objectives,
        };
        let missed = self.rejected.filter(|_| bound == Bound::Objectives).map(|(rate, _)| rate);
        Found { rate, missed, bound }
    }

    /// The result so far, of a search that is cut short.
    pub(super) fn so_far(&self) -> Found {
        match self.next {
            Next::Done(found) => found,
            _ => Found { bound: Bound::Unfinished, ..self.found(None) },
        }
    }
}

/// Verdict on a rate by the observations; `None` if another run is needed.
fn decide(seen: &[Observation]) -> Option<Observation> {
    use Observation::{Held, Missed, Unusable};
    let count = |wanted| seen.iter().filter(|&&observation| observation == wanted).count();
    match (count(Held), count(Missed)) {
        (1, 0) | (2.., _) => Some(Held),
        (_, 2..) => Some(Missed),
        // One of each, or hardly any evidence: the rate cannot be measured.
        _ if seen.len() >= ATTEMPTS => Some(Unusable),
        _ => None,
    }
}

/// The geometric mean; `None` if the rates are within the tolerance.
fn between(held: f64, rejected: f64) -> Option<f64> {
    let middle = tidy((held * rejected).sqrt());
    let apart = rejected > held * (1.0 + TOLERANCE);
    (apart && held < middle && middle < rejected).then_some(middle)
}

#[cfg(test)]
mod tests {
    use super::Observation::{Held, Missed, Unusable};
    use super::*;

    /// Runs a search against `server`, a function of the rate and the number of the run; returns
    /// the result and the steps.
    fn search(
        (lowest, highest): (f64, f64),
        mut server: impl FnMut(f64, usize) -> Observation,
    ) -> (Found, Vec<Next>) {
        let mut search = Search::new(lowest, highest);
        let mut made = Vec::new();
        loop {
            let next = search.next();
            match next {
                Next::Done(found) => return (found, made),
                Next::Look(rate) | Next::Confirm(rate) => {
                    assert!((lowest..=highest).contains(&rate), "{made:?} {next:?}");
                    let observation = server(rate, made.len());
                    made.push(next);
                    search.observe(observation);
                }
            }
            assert!(made.len() < 120, "no end: {made:?}");
        }
    }

    fn capacity(rate: f64, most: f64) -> Observation {
        if rate <= most { Held } else { Missed }
    }

    /// True if a rate is the capacity, within the tolerance.
    fn close(rate: f64, capacity: f64) -> bool {
        rate <= capacity && capacity <= rate * (1.0 + TOLERANCE) + 1.0
    }

    #[test]
    fn every_capacity_is_found() {
        for most in (1..3000).chain((3000..2_000_000).step_by(997)) {
            let most = f64::from(most);
            let (found, made) = search((1.0, 1_000_000.0), |rate, _| capacity(rate, most));
            let rate = found.rate.unwrap();
            assert!(close(rate, most.min(1_000_000.0)), "{most}: {found:?}");
            assert_eq!(made.last(), Some(&Next::Confirm(rate)), "it was measured again");
            // A ramp of 20, two runs at each rejected rate.
            assert!(made.len() <= 20 + 2 + 2 * 5 + 1, "{most}: {} runs", made.len());
            match found.bound {
                Bound::Objectives => {
                    assert!(found.missed.unwrap() > most, "{most}: {found:?}");
                }
                Bound::Highest => assert!(rate == 1_000_000.0 && most >= rate, "{most}: {found:?}"),
                other => panic!("{most}: {other:?}"),
            }
        }
    }

    #[test]
    fn capacity_below_one_a_second_is_found() {
        for most in [0.02, 0.3, 0.77, 1.5, 42.0] {
            let (found, made) = search((0.01, 100.0), |rate, _| capacity(rate, most));
            let rate = found.rate.unwrap();
            assert!(rate <= most && most <= rate * (1.0 + 2.0 * TOLERANCE), "{most}: {found:?}");
            assert!(made.len() < 30, "{most}: {made:?}");
        }
    }

    #[test]
    fn no_rate_is_found_after_two_misses_at_the_lowest() {
        let (found, made) = search((1000.0, 1_000_000.0), |_, _| Missed);
        let missed = Some(1000.0);
        assert_eq!(found, Found { rate: None, missed, bound: Bound::Objectives });
        assert_eq!(made, [Next::Look(1000.0); 2]);
    }

    #[test]
    fn highest_rate_is_found_if_all_hold() {
        let (found, made) = search((1000.0, 100_000.0), |_, _| Held);
        assert_eq!(found, Found { rate: Some(100_000.0), missed: None, bound: Bound::Highest });
        assert_eq!(made.last(), Some(&Next::Confirm(100_000.0)));
        let (found, made) = search((500.0, 500.0), |_, _| Held);
        assert_eq!((found.rate, made.len()), (Some(500.0), 2));
    }

    #[test]
    fn one_bad_run_changes_nothing() {
        for most in [1_500.0, 10_000.0, 77_777.0, 500_000.0] {
            let plain = search((1000.0, 1_000_000.0), |rate, _| capacity(rate, most));
            for wild in [Missed, Unusable] {
                // The last run is the confirmation, after which it would step down.
                for bad in 0..plain.1.len() - 1 {
                    let (found, _) = search((1000.0, 1_000_000.0), |rate, run| match run {
                        run if run == bad => wild,
                        _ => capacity(rate, most),
                    });
                    assert_eq!(found.rate, plain.0.rate, "{most}: {wild:?} in run {bad}");
                }
            }
        }
    }

    #[test]
    fn one_good_run_above_the_capacity_is_not_the_result() {
        // A good run is believed at once, but the result is measured again.
        for lucky in 0..12 {
            let (found, _) = search((1000.0, 1_000_000.0), |rate, run| match run {
                run if run == lucky => Held,
                _ => capacity(rate, 20_000.0),
            });
            let rate = found.rate.unwrap();
            assert!(rate <= 20_000.0, "run {lucky}: {found:?}");
            assert!(rate >= 12_000.0, "run {lucky}: {found:?}");
        }
    }

    #[test]
    fn search_steps_down_from_a_result_that_misses_again() {
        // Short runs hold up to 80,000, long ones to 50,000.
        let mut search = Search::new(1000.0, 1_000_000.0);
        let mut confirmed = Vec::new();
        let found = loop {
            let observation = match search.next() {
                Next::Look(rate) => capacity(rate, 80_000.0),
                Next::Confirm(rate) => {
                    confirmed.push(rate);
                    capacity(rate, 50_000.0)
                }
                Next::Done(found) => break found,
            };
            search.observe(observation);
        };
        assert!(confirmed.is_sorted_by(|a, b| a > b), "{confirmed:?}");
        assert_eq!(found.rate, confirmed.last().copied());
        assert!(found.rate.unwrap() > 35_000.0 && found.rate.unwrap() <= 50_000.0, "{found:?}");
        assert_eq!(found.missed, Some(confirmed[confirmed.len() - 2]));
    }

    #[test]
    fn search_ends_if_no_result_holds_again() {
        let mut search = Search::new(1000.0, 1_000_000.0);
        for run in 0.. {
            let observation = match search.next() {
                Next::Look(_) => Held,
                Next::Confirm(_) => Missed,
                Next::Done(found) => {
                    assert_eq!((found.rate, found.bound), (None, Bound::Objectives));
                    break;
                }
            };
            search.observe(observation);
            assert!(run < 40, "no end");
        }
    }

    #[test]
    fn unusable_runs_are_repeated_up_to_three_in_all() {
        for (seen, decided) in [
            (&[Unusable][..], None),
            (&[Unusable, Unusable], None),
            (&[Unusable, Unusable, Unusable], Some(Unusable)),
            (&[Unusable, Held], Some(Held)),
            (&[Unusable, Unusable, Held], Some(Held)),
            (&[Unusable, Missed], None),
            (&[Unusable, Missed, Missed], Some(Missed)),
            (&[Unusable, Missed, Unusable], Some(Unusable)),
            (&[Missed, Held], None),
            (&[Missed, Held, Held], Some(Held)),
        ] {
            assert_eq!(decide(seen), decided, "{seen:?}");
        }
        // The longer run is repeated, too.
        let mut search = Search::new(1000.0, 1000.0);
        search.observe(Held);
        for last in [Unusable, Unusable, Held] {
            assert_eq!(search.next(), Next::Confirm(1000.0));
            search.observe(last);
        }
        assert_eq!(search.so_far().rate, Some(1000.0));
    }

    #[test]
    fn generator_limit_is_reported() {
        // The server could do more than the generator.
        let (found, _) =
            search((1000.0, 1_000_000.0), |rate, _| if rate <= 30_000.0 { Held } else { Unusable });
        assert!(close(found.rate.unwrap(), 30_000.0), "{found:?}");
        assert_eq!((found.bound, found.missed), (Bound::Generator, None));
        // The generator could do more than the server, but not twice as much.
        let (found, _) = search((1000.0, 1_000_000.0), |rate, _| match rate {
            ..=30_000.0 => Held,
            30_000.0..=36_000.0 => Missed,
            _ => Unusable,
        });
        assert!(close(found.rate.unwrap(), 30_000.0), "{found:?}");
        assert_eq!(found.bound, Bound::Objectives);
        let (found, _) = search((1000.0, 1_000_000.0), |_, _| Unusable);
        assert_eq!(found, Found { rate: None, missed: None, bound: Bound::Generator });
    }

    #[test]
    fn capacity_with_noise_is_found_within_the_noise() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let most = rng.u64(2_000..500_000) as f64;
            // Each run has a capacity of its own, a tenth around the server's.
            let (found, made) = search((1000.0, 1_000_000.0), |rate, _| {
                capacity(rate, most * (0.9 + 0.2 * rng.f64()))
            });
            let rate = found.rate.unwrap_or_else(|| panic!("seed {seed}: {made:?}"));
            let share = rate / most;
            assert!((0.55..=1.1).contains(&share), "seed {seed}: {share} of {most}");
        }
    }

    #[test]
    fn search_ends_for_any_observations() {
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let lowest = rng.u64(1..5000) as f64 / 100.0;
            let highest = lowest + rng.u64(0..1_000_000) as f64;
            let (found, made) =
                search((lowest, highest), |_, _| [Held, Missed, Unusable][rng.usize(0..3)]);
            if let Some(rate) = found.rate {
                assert!((lowest..=highest).contains(&rate), "seed {seed}");
                assert_eq!(made.last(), Some(&Next::Confirm(rate)), "seed {seed}");
            }
            if let (Some(rate), Some(missed)) = (found.rate, found.missed) {
                assert!(rate < missed, "seed {seed}: {found:?}");
            }
        }
    }

    #[test]
    fn unfinished_search_has_no_rate() {
        let mut search = Search::new(1000.0, 1_000_000.0);
        assert_eq!(search.so_far().bound, Bound::Unfinished);
        search.observe(Held);
        let so_far = search.so_far();
        assert_eq!((so_far.rate, so_far.bound), (None, Bound::Unfinished));
    }
}
