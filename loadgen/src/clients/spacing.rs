//! Check of the distances between the sends of an open loop.
//!
//! They are compared with the distribution that was asked for, not with the schedule: otherwise a
//! mistake in the schedule would pass unseen. The wait for an idle connection is the server's, and
//! is subtracted first.
//!
//! Distances below a millisecond are not judged one by one: a thread that sleeps between requests
//! wakes tens of microseconds late, which the lateness shows. Here several requests in a row count
//! as one distance.

use crate::clients::schedule::Arrivals;

/// Shortest mean distance that is judged.
const RESOLUTION_NS: f64 = 1e6;

/// Number of distances kept, chosen at random: the standard error of a share is then below 1 %.
const SAMPLES: usize = 4096;

/// Fewest distances that are judged. With fewer, a single late send decides.
const SAMPLES_MIN: usize = 30;

/// Tolerance of the mean.
const MEAN_TOLERANCE: f64 = 0.005;

/// Lateness of single sends that is tolerated, nanoseconds.
const LATE_NS: f64 = 1e6;

/// Tolerance of the distribution, as the Kolmogorov distance: the largest difference between two
/// cumulative shares. Chance is added to it.
const FIT_TOLERANCE: f64 = 0.1;

/// Distance that chance exceeds once in a thousand, times the root of the number of samples (the
/// Kolmogorov distribution).
const CHANCE: f64 = 1.95;

/// Distances between the sends of one thread.
#[derive(Debug)]
pub struct Spacing {
    arrivals: Arrivals,
    mean_ns: f64,
    /// Requests in one judged distance.
    together: u32,
    since: u32,
    from_ns: u64,
    count: u64,
    first_ns: u64,
    last_ns: u64,
    distances: u64,
    samples: Vec<u64>,
    random: fastrand::Rng,
}

impl Spacing {
    /// Returns the check of requests that are `mean_ns` apart on average. Allocates all memory.
    pub fn new(arrivals: Arrivals, mean_ns: f64, seed: u64) -> Self {
        Self {
            arrivals,
            mean_ns,
            together: (RESOLUTION_NS / mean_ns).ceil().max(1.0) as u32,
            since: 0,
            from_ns: 0,
            count: 0,
            first_ns: 0,
            last_ns: 0,
            distances: 0,
            samples: Vec::with_capacity(SAMPLES),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Notes a send at that instant.
    #[inline]
    pub fn note(&mut self, at_ns: u64) {
        self.last_ns = at_ns;
        self.count += 1;
        if self.count == 1 {
            self.first_ns = at_ns;
            self.from_ns = at_ns;
            return;
        }
        self.since += 1;
        if self.since == self.together {
            self.keep(at_ns.saturating_sub(self.from_ns));
            self.from_ns = at_ns;
            self.since = 0;
        }
    }

    /// Keeps a sample of the distances in which each has the same probability (Vitter 1985,
    /// algorithm R).
    fn keep(&mut self, distance_ns: u64) {
        self.distances += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(distance_ns);
        } else if let Some(sample) =
            self.samples.get_mut(self.random.u64(..self.distances) as usize)
        {
            *sample = distance_ns;
        }
    }

    /// Returns a description of the fault, if there is one.
    pub fn fault(&self) -> Option<String> {
        self.mean_fault().or_else(|| self.fit_fault())
    }

    fn mean_fault(&self) -> Option<String> {
        if self.count <= SAMPLES_MIN as u64 {
            return None;
        }
        let distances = (self.count - 1) as f64;
        let expected_ns = distances * self.mean_ns;
        let chance_ns = match self.arrivals {
            Arrivals::Constant => 0.0,
            // Four standard deviations.
            Arrivals::Poisson => 4.0 * distances.sqrt() * self.mean_ns,
        };
        let found_ns = self.last_ns.saturating_sub(self.first_ns) as f64;
        let tolerance_ns = MEAN_TOLERANCE * expected_ns + LATE_NS + chance_ns;
        ((found_ns - expected_ns).abs() > tolerance_ns).then(|| {
            format!(
                "the sends of a thread were {:.2} us apart on average, {:+.1} % off the planned \
                 {:.2} us",
                found_ns / distances / 1e3,
                (found_ns / expected_ns - 1.0) * 100.0,
                self.mean_ns / 1e3
            )
        })
    }

    fn fit_fault(&self) -> Option<String> {
        if self.arrivals == Arrivals::Constant || self.samples.len() < SAMPLES_MIN {
            return None;
        }
        let found = self.kolmogorov_distance();
        let allowed = FIT_TOLERANCE + CHANCE / (self.samples.len() as f64).sqrt();
        (found > allowed).then(|| {
            format!(
                "the distances between sends were not those of Poisson arrivals: the Kolmogorov \
                 distance is {found:.2}, and {allowed:.2} is allowed"
            )
        })
    }

    /// Largest difference between the cumulative shares of the samples and those expected: of the
    /// sum of several exponential distances, which is an Erlang distribution.
    fn kolmogorov_distance(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let count = sorted.len() as f64;
        let differences = sorted.iter().enumerate().map(|(index, &distance_ns)| {
            let expected = erlang(self.together, distance_ns as f64 / self.mean_ns);
            let (below, with) = (index as f64 / count, (index + 1) as f64 / count);
            (expected - below).abs().max((expected - with).abs())
        });
        differences.fold(0.0, f64::max)
    }
}

/// Probability that the sum of `shape` exponential variables of mean 1 is at most `x`.
fn erlang(shape: u32, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    // The number of arrivals until x is Poisson-distributed. In logarithms, since e^-x alone is 0
    // from 746 on.
    let (mut logarithm, mut fewer) = (-x, 0.0);
    for arrivals in 0..shape {
        fewer += f64::exp(logarithm);
        logarithm += (x / f64::from(arrivals + 1)).ln();
    }
    1.0 - fewer
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clients::plan::Share;
    use crate::clients::schedule::{OpenLoop, Part, SECOND, Schedule};

    /// Checks a schedule whose instants are changed.
    fn fault(
        arrivals: Arrivals,
        rate: u64,
        judged_rate: u64,
        mut change: impl FnMut(u64) -> u64,
    ) -> Option<String> {
        let asked = OpenLoop { rate: rate as f64, arrivals, spin: Duration::ZERO, seed: 11 };
        let part = Part { share: Share::WHOLE, thread: 0, threads: 1, phase: 1 };
        let mut schedule = Schedule::new(&asked, part, SECOND);
        let mut spacing = Spacing::new(arrivals, 1e9 / judged_rate as f64, 1);
        while schedule.next_ns() < 11 * SECOND {
            spacing.note(change(schedule.next_ns()));
            schedule.advance();
        }
        spacing.fault()
    }

    #[test]
    fn erlang_distribution_has_the_known_values() {
        // The regularised lower incomplete gamma function P(shape, x).
        for (shape, x, probability) in [
            (1, 1.0, 0.6321205588285577),
            (3, 2.5, 0.4561868841166705),
            (50, 50.0, 0.5188083154720433),
            (1000, 1000.0, 0.5042052441985553),
            (1000, 950.0, 0.0550546862306265),
        ] {
            let found = erlang(shape, x);
            assert!((found - probability).abs() < 1e-6, "{shape} {x} {found}");
        }
        assert_eq!(erlang(1, 0.0), 0.0);
    }

    #[test]
    fn planned_distances_are_right() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            for rate in [5, 100, 1_000, 50_000] {
                assert_eq!(fault(arrivals, rate, rate, |at| at), None, "{arrivals:?} {rate}");
            }
        }
    }

    #[test]
    fn lateness_of_a_timer_is_right() {
        let mut random = fastrand::Rng::with_seed(5);
        for rate in [1_000, 50_000] {
            // Wake-ups every 60 us: what became due in between goes out together.
            let late = |at: u64| at.next_multiple_of(60_000) + random.u64(..5_000);
            assert_eq!(fault(Arrivals::Poisson, rate, rate, late), None, "{rate}");
        }
    }

    #[test]
    fn few_sends_are_not_judged() {
        // The last of 21 sends is late by as much as a busy machine may delay it.
        let late = |at: u64| if at >= 11 * SECOND - SECOND / 2 { at + 20_000_000 } else { at };
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            assert_eq!(fault(arrivals, 2, 2, late), None, "{arrivals:?}");
        }
    }

    #[test]
    fn other_rate_is_wrong() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let fault = fault(arrivals, 50_000, 51_000, |at| at).unwrap();
            assert!(fault.contains("20.00 us") && fault.contains("19.61 us"), "{fault}");
        }
    }

    #[test]
    fn other_distribution_is_wrong() {
        for rate in [500, 20_000] {
            // Bursts every 20 ms, at the right rate.
            let bursts = |at: u64| at.next_multiple_of(20_000_000);
            let found = fault(Arrivals::Poisson, rate, rate, bursts).unwrap();
            assert!(found.contains("Kolmogorov"), "{found}");
            // Equal distances are not random ones.
            let mut count = 0;
            let equal = |_| {
                count += 1;
                SECOND + count * SECOND / rate
            };
            let found = fault(Arrivals::Poisson, rate, rate, equal).unwrap();
            assert!(found.contains("Kolmogorov"), "{found}");
        }
    }
}
