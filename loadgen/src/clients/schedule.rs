//! Schedule of an open loop: instants at which requests are due, fixed before the run.
//!
//! A schedule is a stream of instants, computed as it is consumed. So it needs no memory, however
//! long the run. The requests that are due and not sent yet are those between the next instant and
//! now, so no queue is needed, either.
//!
//! Each thread has its own part. Of *constant* arrivals, instant i belongs to rank i mod the number
//! of ranks, and there every n-th to each of n threads. The union is the same for any number of
//! ranks and threads. *Poisson* arrivals are the superposition of one Poisson process per thread,
//! which is again one (Kingman 1993, section 2.2); its instants depend on the seed and on the
//! numbers of ranks and threads.

use std::time::Duration;

use clap::ValueEnum;

use crate::clients::plan::Share;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Distribution of the send times of an open loop.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Arrivals {
    /// At equal distances
    #[default]
    Constant,
    /// At random, independent of each other, as from many users
    Poisson,
}

impl Arrivals {
    /// Name in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Poisson => "poisson",
        }
    }
}

/// Options of an open loop.
#[derive(Clone, Copy, Debug)]
pub struct OpenLoop {
    /// Requests per second, over all ranks and threads; at most one per nanosecond.
    pub rate: f64,
    /// Distribution of the instants.
    pub arrivals: Arrivals,
    /// Time to poll before a request is due, instead of sleeping until then.
    pub spin: Duration,
    /// Seed of this rank's Poisson arrivals.
    pub seed: u64,
}

impl OpenLoop {
    /// Mean distance of one thread's requests, nanoseconds.
    pub fn mean_gap_ns(&self, share: Share, threads: usize) -> f64 {
        f64::from(share.count) * threads as f64 * SECOND as f64 / self.rate
    }
}

/// Part of the schedule: of one thread, in one phase of the run.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Share of the rank.
    pub share: Share,
    /// Number of the thread.
    pub thread: usize,
    /// Number of threads.
    pub threads: usize,
    /// Phase of the run; each has its own instants.
    pub phase: usize,
}

/// Planned instants of one part, in order, without end.
#[derive(Debug)]
pub struct Schedule {
    next_ns: u64,
    gaps: Gaps,
}

#[derive(Debug)]
enum Gaps {
    /// Each instant is computed from its number in the whole schedule, so that it is exact however
    /// many there were before.
    Constant { number: u64, stride: u64, rate: f64, origin_ns: u64 },
    /// `place_ns` is the instant from `origin_ns` on, with its fraction.
    Poisson { random: fastrand::Rng, mean_ns: f64, place_ns: f64, origin_ns: u64 },
}

impl Schedule {
    /// Returns a part of the schedule, beginning at `origin_ns`.
    pub fn new(asked: &OpenLoop, part: Part, origin_ns: u64) -> Self {
        match asked.arrivals {
            Arrivals::Constant => {
                let (rank, ranks) = (u64::from(part.share.index), u64::from(part.share.count));
                let (number, stride) =
                    (rank + ranks * part.thread as u64, ranks * part.threads as u64);
                let gaps = Gaps::Constant { number, stride, rate: asked.rate, origin_ns };
                Self { next_ns: constant_ns(origin_ns, number, asked.rate), gaps }
            }
            Arrivals::Poisson => {
                let mut seeds = fastrand::Rng::with_seed(asked.seed);
                for _ in 0..part.phase * part.threads + part.thread {
                    seeds.u64(..);
                }
                let random = fastrand::Rng::with_seed(seeds.u64(..));
                let mean_ns = asked.mean_gap_ns(part.share, part.threads);
                let gaps = Gaps::Poisson { random, mean_ns, place_ns: 0.0, origin_ns };
                let mut schedule = Self { next_ns: origin_ns, gaps };
                // An instant at the origin would be one too many.
                schedule.advance();
                schedule
            }
        }
    }

    /// Returns the next planned instant.
    #[inline]
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Advances to the instant after the next.
    #[inline]
    pub fn advance(&mut self) {
        match &mut self.gaps {
            Gaps::Constant { number, stride, rate, origin_ns } => {
                *number += *stride;
                self.next_ns = constant_ns(*origin_ns, *number, *rate);
            }
            Gaps::Poisson { random, mean_ns, place_ns, origin_ns } => {
                // The distance to the next is exponential, by inversion; 1 - u is never 0.
                *place_ns -= *mean_ns * (1.0 - random.f64()).ln();
                self.next_ns = origin_ns.saturating_add(*place_ns as u64);
            }
        }
    }

    /// Number of instants left before `end_ns`: of constant arrivals exactly, of Poisson arrivals
    /// the expected number.
    pub fn remaining(&self, end_ns: u64) -> u64 {
        let left_ns = end_ns.saturating_sub(self.next_ns);
        match &self.gaps {
            &Gaps::Constant { number, stride, rate, origin_ns } => {
                let before_end =
                    |count| constant_ns(origin_ns, number + count * stride, rate) < end_ns;
                // A division may be off by one.
                let mut count = (left_ns as f64 * rate / (SECOND as f64 * stride as f64)) as u64;
                while before_end(count) {
                    count += 1;
                }
                while count > 0 && !before_end(count - 1) {
                    count -= 1;
                }
                count
            }
            Gaps::Poisson { mean_ns, .. } if left_ns > 0 => 1 + (left_ns as f64 / mean_ns) as u64,
            Gaps::Poisson { .. } => 0,
        }
    }
}

/// Instant of a request of constant arrivals, by its number in the whole schedule.
#[inline]
fn constant_ns(origin_ns: u64, number: u64, rate: f64) -> u64 {
    origin_ns.saturating_add((number as f64 * SECOND as f64 / rate) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::plan::ThreadLoad;

    fn asked(rate: u64, arrivals: Arrivals, seed: u64) -> OpenLoop {
        let rate = rate as f64;
        OpenLoop { rate, arrivals, spin: Duration::ZERO, seed }
    }

    /// The instants of all threads before `end_ns`, in order.
    fn union(asked: &OpenLoop, threads: usize, end_ns: u64) -> Vec<u64> {
        let mut instants = Vec::new();
        for thread in 0..threads {
            let mut schedule =
                Schedule::new(asked, Part { share: Share::WHOLE, thread, threads, phase: 0 }, 0);
            while schedule.next_ns() < end_ns {
                instants.push(schedule.next_ns());
                schedule.advance();
            }
        }
        instants.sort_unstable();
        instants
    }

    #[test]
    fn constant_arrivals_are_exact() {
        let asked = asked(50_000, Arrivals::Constant, 1);
        let instants = union(&asked, 1, 10 * SECOND);
        assert_eq!(instants.len(), 500_000);
        assert!(instants.iter().zip(0..).all(|(&instant, count)| instant == count * 20_000));
    }

    #[test]
    fn rate_that_divides_nothing_does_not_drift() {
        for rate in [3, 7, 44_100, 999_999, 1_000_001, 333_333_333] {
            let asked = asked(rate, Arrivals::Constant, 1);
            let end_ns = if rate < 2_000_000 { 3 * SECOND } else { SECOND / 100 };
            let instants = union(&asked, 1, end_ns);
            for (&instant, count) in instants.iter().zip(0u128..) {
                assert_eq!(u128::from(instant), count * u128::from(SECOND) / u128::from(rate));
            }
            if end_ns == 3 * SECOND {
                assert_eq!(instants.len() as u64, 3 * rate);
            }
        }
    }

    #[test]
    fn rates_below_one_a_second_are_kept() {
        let open = |rate, arrivals| OpenLoop { rate, ..asked(1, arrivals, 1) };
        for (rate, seconds) in [(0.5, 2), (1.0 / 60.0, 60), (1.0 / 86_400.0, 86_400)] {
            let constant = open(rate, Arrivals::Constant);
            for threads in [1, 3] {
                let instants = union(&constant, threads, 5 * seconds * SECOND);
                let expected: Vec<u64> = (0..5).map(|number| number * seconds * SECOND).collect();
                assert_eq!(instants, expected, "{rate}");
            }
            let part = Part { share: Share::WHOLE, thread: 0, threads: 1, phase: 0 };
            let schedule = Schedule::new(&constant, part, 7);
            assert_eq!(schedule.remaining(7 + 4 * seconds * SECOND), 4);
            assert_eq!(schedule.remaining(8 + 4 * seconds * SECOND), 5);
            let random = union(&open(rate, Arrivals::Poisson), 2, 2000 * seconds * SECOND);
            assert!((1800..2200).contains(&random.len()), "{rate}: {}", random.len());
        }
    }

    #[test]
    fn union_of_constant_arrivals_is_the_same_for_any_threads() {
        let asked = asked(70_001, Arrivals::Constant, 1);
        let alone = union(&asked, 1, SECOND);
        for threads in [2, 3, 7] {
            assert_eq!(union(&asked, threads, SECOND), alone);
        }
    }

    /// The parts of all ranks, which may have different numbers of threads.
    fn parts(threads: &[usize]) -> Vec<Part> {
        let count = threads.len() as u32;
        let parts = (0..count).zip(threads).flat_map(|(index, &threads)| {
            let share = Share { index, count };
            (0..threads).map(move |thread| Part { share, thread, threads, phase: 1 })
        });
        parts.collect()
    }

    #[test]
    fn union_of_constant_arrivals_is_the_same_for_any_ranks() {
        let mut random = fastrand::Rng::with_seed(14);
        for _ in 0..300 {
            let rate = f64::exp(random.f64() * 18.0 - 3.0);
            let (origin_ns, numbers) = (random.u64(..1 << 60), random.u64(1..2000));
            let asked = OpenLoop { rate, ..asked(1, Arrivals::Constant, 1) };
            let end_ns = origin_ns + (numbers as f64 * SECOND as f64 / rate) as u64;
            let instants = |part: Part| {
                let mut schedule = Schedule::new(&asked, part, origin_ns);
                let count = schedule.remaining(end_ns);
                let instants = (0..count).map(|_| {
                    let next_ns = schedule.next_ns();
                    schedule.advance();
                    next_ns
                });
                let instants: Vec<u64> = instants.collect();
                assert!(schedule.next_ns() >= end_ns, "{asked:?} {part:?}");
                instants
            };
            let whole = instants(Part { share: Share::WHOLE, thread: 0, threads: 1, phase: 1 });
            let threads: Vec<usize> =
                (0..random.usize(1..=9)).map(|_| random.usize(1..=5)).collect();
            let mut union: Vec<u64> = parts(&threads).into_iter().flat_map(instants).collect();
            union.sort_unstable();
            assert_eq!(union, whole, "{asked:?} {threads:?}");
        }
    }

    #[test]
    fn requests_of_all_ranks_are_the_first_of_the_schedule() {
        let mut random = fastrand::Rng::with_seed(15);
        for _ in 0..300 {
            let asked = asked(random.u64(1..10_000_000), Arrivals::Constant, 1);
            let requests = random.u64(1..500);
            let threads: Vec<usize> =
                (0..random.usize(1..=9)).map(|_| random.usize(1..=5)).collect();
            let mut instants = Vec::new();
            for part in parts(&threads) {
                let of_rank = part.share.of(requests);
                let load = ThreadLoad::divide(1, Some(of_rank), part.threads)[part.thread];
                let mut schedule = Schedule::new(&asked, part, 0);
                for _ in 0..load.requests {
                    instants.push(schedule.next_ns());
                    schedule.advance();
                }
            }
            instants.sort_unstable();
            let first: Vec<u64> =
                (0..requests).map(|number| constant_ns(0, number, asked.rate)).collect();
            assert_eq!(instants, first, "{asked:?} {threads:?}");
        }
    }

    #[test]
    fn poisson_arrivals_of_all_ranks_have_the_rate_and_are_independent() {
        let (rate, seed) = (10_000, 42);
        let of_part = |part: Part| {
            let asked = asked(rate, Arrivals::Poisson, part.share.seed(seed));
            let mut schedule = Schedule::new(&asked, part, 0);
            let mut instants = Vec::new();
            while schedule.next_ns() < 20 * SECOND {
                instants.push(schedule.next_ns());
                schedule.advance();
            }
            instants
        };
        let all: Vec<Vec<u64>> = parts(&[1, 2, 1, 3]).into_iter().map(of_part).collect();
        let mut instants = all.concat();
        instants.sort_unstable();
        // The number has the mean and the variance 200,000.
        assert!((198_000..202_000).contains(&instants.len()), "{}", instants.len());
        // The distances are exponential: the share longer than t is exp(-t / mean).
        let gaps: Vec<u64> = instants.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for means in [0.1, 0.5, 1.0, 2.0, 4.0] {
            let longer = gaps.iter().filter(|&&gap| gap as f64 > means * 100_000.0).count();
            let share = longer as f64 / gaps.len() as f64;
            assert!((share - (-means).exp()).abs() < 0.005, "{means} {share}");
        }
        let mut firsts: Vec<u64> = all.iter().map(|instants| instants[0]).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), all.len());
    }

    #[test]
    fn only_rank_has_the_schedule_of_a_run_without_ranks() {
        // Numbers of the version before ranks.
        for (arrivals, thread, phase, expected) in [
            (Arrivals::Poisson, 0, 0, [335_796, 728_368, 907_012]),
            (Arrivals::Poisson, 1, 1, [74_880, 1_359_023, 1_864_736]),
            (Arrivals::Constant, 1, 1, [333_333, 1_000_000, 1_666_666]),
        ] {
            let asked = asked(3_000, arrivals, Share::WHOLE.seed(7));
            let part = Part { share: Share::WHOLE, thread, threads: 2, phase };
            let mut schedule = Schedule::new(&asked, part, 0);
            let instants = [(); 3].map(|()| {
                let next_ns = schedule.next_ns();
                schedule.advance();
                next_ns
            });
            assert_eq!(instants, expected, "{part:?}");
        }
    }

    #[test]
    fn seed_determines_poisson_arrivals() {
        let instants = |seed| union(&asked(5_000, Arrivals::Poisson, seed), 2, SECOND);
        assert_eq!(instants(7), instants(7));
        assert_ne!(instants(7), instants(8));
    }

    #[test]
    fn threads_and_phases_have_their_own_instants() {
        let asked = asked(1_000, Arrivals::Poisson, 7);
        let first = |thread, phase| {
            Schedule::new(&asked, Part { share: Share::WHOLE, thread, threads: 2, phase }, 0)
                .next_ns()
        };
        let mut firsts = vec![first(0, 0), first(1, 0), first(0, 1), first(1, 1)];
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 4);
    }

    #[test]
    fn poisson_arrivals_are_a_poisson_process() {
        for threads in [1, 3] {
            let asked = asked(10_000, Arrivals::Poisson, 42);
            let instants = union(&asked, threads, 20 * SECOND);
            // The number has the mean and the variance 200,000.
            assert!((198_000..202_000).contains(&instants.len()), "{}", instants.len());
            // The distances are exponential: the share longer than t is exp(-t / mean).
            let gaps: Vec<u64> = instants.windows(2).map(|pair| pair[1] - pair[0]).collect();
            for means in [0.1, 0.5, 1.0, 2.0, 4.0] {
                let longer = gaps.iter().filter(|&&gap| gap as f64 > means * 100_000.0).count();
                let share = longer as f64 / gaps.len() as f64;
                assert!((share - (-means).exp()).abs() < 0.005, "{threads} {means} {share}");
            }
            // And independent: neighbours are uncorrelated.
            let mean = gaps.iter().sum::<u64>() as f64 / gaps.len() as f64;
            let product = |a: u64, b: u64| (a as f64 - mean) * (b as f64 - mean);
            let covariance: f64 = gaps.windows(2).map(|pair| product(pair[0], pair[1])).sum();
            let variance: f64 = gaps.iter().map(|&gap| product(gap, gap)).sum();
            assert!((covariance / variance).abs() < 0.02, "{}", covariance / variance);
        }
    }

    #[test]
    fn remaining_instants_are_counted_without_consuming_them() {
        let exact = asked(44_100, Arrivals::Constant, 1);
        for threads in [1, 3] {
            let part = Part { share: Share::WHOLE, thread: threads - 1, threads, phase: 1 };
            let mut schedule = Schedule::new(&exact, part, SECOND);
            for _ in 0..17 {
                schedule.advance();
            }
            for end_ns in [0, SECOND, schedule.next_ns(), schedule.next_ns() + 1, 3 * SECOND] {
                let mut ahead = Schedule::new(&exact, part, SECOND);
                (0..17).for_each(|_| ahead.advance());
                let mut count = 0;
                while ahead.next_ns() < end_ns {
                    count += 1;
                    ahead.advance();
                }
                assert_eq!(schedule.remaining(end_ns), count, "{threads} {end_ns}");
            }
        }
        let random = asked(1_000, Arrivals::Poisson, 5);
        let schedule = Schedule::new(
            &random,
            Part { share: Share::WHOLE, thread: 0, threads: 1, phase: 0 },
            0,
        );
        assert_eq!(schedule.remaining(0), 0);
        assert!((9_900..=10_001).contains(&schedule.remaining(10 * SECOND)));
    }
}
