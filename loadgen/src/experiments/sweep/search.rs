//! The search for the highest rate that holds: a state machine without clock or socket. It is told
//! what a run came to, and says which rate is to be measured next.
//!
//! The rate is doubled until one does not hold, then the gap is halved, geometrically, until it is
//! narrow enough. A single bad run is not believed: a rate is rejected by two of three. Nor is the
//! result: it is measured again, longer, and if it does not hold then, the search steps down, in
//! growing steps, until a rate does.

use lockstep_results::Bound;

/// From a rate that holds to the next one, while none is known that does not.
const RAMP: u64 = 2;

/// From a rate that did not hold when it was measured again to the next lower one, the first time;
/// the second time twice, and so on.
const STEP_DOWN: f64 = 0.9;

/// Rates no further apart than this share are one result: runs differ by more.
pub(super) const TOLERANCE: f64 = 0.05;

/// What a run at a rate came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Observation {
    /// All was sent when it was due, and the objectives were met.
    Held,
    /// The server did not keep up, or missed the objectives.
    Missed,
    /// The run says nothing of the server: the generator was the limit, or was disturbed.
    Unusable,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Measure at this rate.
    Look(u64),
    /// Measure at this rate again, longer.
    Confirm(u64),
    /// Nothing.
    Done(Found),
}

/// What the search has found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Found {
    /// The highest rate that held, twice.
    pub(super) rate: Option<u64>,
    /// The lowest above it that missed.
    pub(super) missed: Option<u64>,
    /// What ended the search upward.
    pub(super) bound: Bound,
}

/// The search.
#[derive(Clone, Debug)]
pub(super) struct Search {
    lowest: u64,
    highest: u64,
    /// The highest rate that held.
    held: Option<u64>,
    /// The lowest that was rejected, and whether it was the server's doing.
    rejected: Option<(u64, Observation)>,
    /// What the runs at the present rate came to.
    seen: Vec<Observation>,
    /// How often the result did not hold again.
    failed: i32,
    next: Next,
}

impl Search {
    /// A search between two rates, both included, requests a second.
    pub(super) fn new(lowest: u64, highest: u64) -> Self {
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

    /// What is to be done next.
    pub(super) fn next(&self) -> Next {
        self.next
    }

    /// Takes what the run came to that was to be made.
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
                self.next = match observation {
                    Observation::Held => Next::Done(self.found(Some(rate))),
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
            (Some(held), None) => Next::Look(held.saturating_mul(RAMP).min(self.highest)),
            (Some(held), Some((rejected, _))) => match between(held, rejected) {
                Some(middle) => Next::Look(middle),
                None => Next::Confirm(held),
            },
        }
    }

    fn step_down(&mut self, rate: u64, why: Observation) -> Next {
        self.rejected = Some((rate, why));
        self.failed += 1;
        let lower = (rate as f64 * STEP_DOWN.powi(self.failed)) as u64;
        match () {
            () if rate <= self.lowest => Next::Done(self.found(None)),
            () => Next::Confirm(lower.max(self.lowest)),
        }
    }

    fn found(&self, rate: Option<u64>) -> Found {
        let bound = match self.rejected {
            None => Bound::Highest,
            Some((_, Observation::Unusable)) => Bound::Generator,
            Some(_) => Bound::Objectives,
        };
        let missed = self.rejected.filter(|_| bound == Bound::Objectives).map(|(rate, _)| rate);
        Found { rate, missed, bound }
    }

    /// What is known when it is ended before its time.
    pub(super) fn so_far(&self) -> Found {
        match self.next {
            Next::Done(found) => found,
            _ => Found { bound: Bound::Unfinished, ..self.found(None) },
        }
    }
}

/// What some runs at one rate come to; `None` if there should be another.
fn decide(seen: &[Observation]) -> Option<Observation> {
    use Observation::{Held, Missed, Unusable};
    let count = |wanted| seen.iter().filter(|&&observation| observation == wanted).count();
    match seen {
        [Held] => Some(Held),
        _ if count(Held) >= 2 => Some(Held),
        _ if count(Missed) >= 2 => Some(Missed),
        // One of each, or no run that says anything: it cannot be measured.
        _ if count(Unusable) >= 2 || seen.len() >= 3 => Some(Unusable),
        _ => None,
    }
}

/// The rate in the middle, as a ratio; `None` when they are close enough.
fn between(held: u64, rejected: u64) -> Option<u64> {
    let middle = (held as f64 * rejected as f64).sqrt().round() as u64;
    let apart = rejected as f64 > held as f64 * (1.0 + TOLERANCE);
    (apart && held < middle && middle < rejected).then_some(middle)
}

#[cfg(test)]
mod tests {
    use super::Observation::{Held, Missed, Unusable};
    use super::*;

    /// Lets a search run against a server, given as what it answers to a rate and to the number of
    /// the run; returns what was found and every rate that was measured.
    fn search(
        (lowest, highest): (u64, u64),
        mut server: impl FnMut(u64, usize) -> Observation,
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
            assert!(made.len() < 120, "it goes on for ever: {made:?}");
        }
    }

    fn capacity(rate: u64, most: u64) -> Observation {
        if rate <= most { Held } else { Missed }
    }

    /// Whether a found rate is the capacity, within the tolerance.
    fn close(rate: u64, capacity: u64) -> bool {
        rate <= capacity && capacity as f64 <= rate as f64 * (1.0 + TOLERANCE) + 1.0
    }

    #[test]
    fn every_capacity_is_found() {
        for most in (1..3000).chain((3000..2_000_000).step_by(997)) {
            let (found, made) = search((1, 1_000_000), |rate, _| capacity(rate, most));
            let rate = found.rate.unwrap();
            assert!(close(rate, most.min(1_000_000)), "{most}: {found:?}");
            assert_eq!(made.last(), Some(&Next::Confirm(rate)), "it was measured again");
            // A ramp of 20, two runs at each rejected rate.
            assert!(made.len() <= 20 + 2 + 2 * 5 + 1, "{most}: {} runs", made.len());
            match found.bound {
                Bound::Objectives => {
                    assert!(found.missed.unwrap() > most, "{most}: {found:?}");
                }
                Bound::Highest => assert!(rate == 1_000_000 && most >= rate, "{most}: {found:?}"),
                other => panic!("{most}: {other:?}"),
            }
        }
    }

    #[test]
    fn when_none_holds_that_is_known_after_two_runs() {
        let (found, made) = search((1000, 1_000_000), |_, _| Missed);
        let missed = Some(1000);
        assert_eq!(found, Found { rate: None, missed, bound: Bound::Objectives });
        assert_eq!(made, [Next::Look(1000); 2]);
    }

    #[test]
    fn when_all_hold_the_highest_is_found() {
        let (found, made) = search((1000, 100_000), |_, _| Held);
        assert_eq!(found, Found { rate: Some(100_000), missed: None, bound: Bound::Highest });
        assert_eq!(made.last(), Some(&Next::Confirm(100_000)));
        let (found, made) = search((500, 500), |_, _| Held);
        assert_eq!((found.rate, made.len()), (Some(500), 2));
    }

    #[test]
    fn one_bad_run_anywhere_changes_nothing() {
        for most in [1_500, 10_000, 77_777, 500_000] {
            let plain = search((1000, 1_000_000), |rate, _| capacity(rate, most));
            for wild in [Missed, Unusable] {
                // The last run is the confirmation, after which it would step down.
                for bad in 0..plain.1.len() - 1 {
                    let (found, _) = search((1000, 1_000_000), |rate, run| match run {
                        run if run == bad => wild,
                        _ => capacity(rate, most),
                    });
                    assert_eq!(found.rate, plain.0.rate, "{most}: {wild:?} in run {bad}");
                }
            }
        }
    }

    #[test]
    fn one_good_run_of_a_rate_too_high_is_not_the_result() {
        // A good run is believed at once, but the result is measured again.
        for lucky in 0..12 {
            let (found, _) = search((1000, 1_000_000), |rate, run| match run {
                run if run == lucky => Held,
                _ => capacity(rate, 20_000),
            });
            let rate = found.rate.unwrap();
            assert!(rate <= 20_000, "run {lucky}: {found:?}");
            assert!(rate >= 12_000, "run {lucky}: {found:?}");
        }
    }

    #[test]
    fn a_result_that_does_not_hold_again_is_stepped_down_from() {
        // Short runs hold up to 80,000, long ones to 50,000.
        let mut search = Search::new(1000, 1_000_000);
        let mut confirmed = Vec::new();
        let found = loop {
            let observation = match search.next() {
                Next::Look(rate) => capacity(rate, 80_000),
                Next::Confirm(rate) => {
                    confirmed.push(rate);
                    capacity(rate, 50_000)
                }
                Next::Done(found) => break found,
            };
            search.observe(observation);
        };
        assert!(confirmed.is_sorted_by(|a, b| a > b), "{confirmed:?}");
        assert_eq!(found.rate, confirmed.last().copied());
        assert!(found.rate.unwrap() > 35_000 && found.rate.unwrap() <= 50_000, "{found:?}");
        assert_eq!(found.missed, Some(confirmed[confirmed.len() - 2]));
    }

    #[test]
    fn a_server_that_never_holds_again_ends_the_search_with_nothing() {
        let mut search = Search::new(1000, 1_000_000);
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
            assert!(run < 40, "it goes on");
        }
    }

    #[test]
    fn the_generators_limit_is_named_as_such() {
        // The server could do more than the generator.
        let (found, _) =
            search((1000, 1_000_000), |rate, _| if rate <= 30_000 { Held } else { Unusable });
        assert!(close(found.rate.unwrap(), 30_000), "{found:?}");
        assert_eq!((found.bound, found.missed), (Bound::Generator, None));
        // The generator could do more than the server, but not twice as much.
        let (found, _) = search((1000, 1_000_000), |rate, _| match rate {
            ..=30_000 => Held,
            30_001..=36_000 => Missed,
            _ => Unusable,
        });
        assert!(close(found.rate.unwrap(), 30_000), "{found:?}");
        assert_eq!(found.bound, Bound::Objectives);
        let (found, _) = search((1000, 1_000_000), |_, _| Unusable);
        assert_eq!(found, Found { rate: None, missed: None, bound: Bound::Generator });
    }

    #[test]
    fn a_server_with_noise_is_found_within_its_noise() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let most = rng.u64(2_000..500_000);
            // Each run has a capacity of its own, a tenth around the server's.
            let (found, made) = search((1000, 1_000_000), |rate, _| {
                capacity(rate, (most as f64 * (0.9 + 0.2 * rng.f64())) as u64)
            });
            let rate = found.rate.unwrap_or_else(|| panic!("seed {seed}: {made:?}")) as f64;
            let share = rate / most as f64;
            assert!((0.55..=1.1).contains(&share), "seed {seed}: {share} of {most}");
        }
    }

    #[test]
    fn any_answers_end_it() {
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let lowest = rng.u64(1..5000);
            let highest = lowest + rng.u64(0..1_000_000);
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
    fn what_was_not_finished_is_not_found() {
        let mut search = Search::new(1000, 1_000_000);
        assert_eq!(search.so_far().bound, Bound::Unfinished);
        search.observe(Held);
        let so_far = search.so_far();
        assert_eq!((so_far.rate, so_far.bound), (None, Bound::Unfinished));
    }
}
