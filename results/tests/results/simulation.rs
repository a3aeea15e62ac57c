//! Error rates of comparisons: claims between equals, and differences that are found.
//!
//! Simulated with fixed seeds; every bound is at least three standard errors from the documented
//! share.

use fastrand::Rng;
use lockstep_results::statistics::{Ratio, Stopping, Verdict};

/// Disturbances of a run.
#[derive(Clone, Copy)]
struct Noise {
    /// Standard deviation of the logarithm, from run to run.
    run: f64,
    /// Probability of a bad run, 30 % off.
    bad: f64,
}

const QUIET: Noise = Noise { run: 0.01, bad: 0.0 };
const USUAL: Noise = Noise { run: 0.03, bad: 0.0 };
const LOUD: Noise = Noise { run: 0.08, bad: 0.0 };
const BAD_RUNS: Noise = Noise { run: 0.03, bad: 0.03 };

fn gaussian(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// Values of the baseline and of a subject that is `slowdown` times as slow, in each round. The
/// machine drifts as a whole, and the first run of a round is 2 % slower.
fn rounds(rng: &mut Rng, count: u32, slowdown: f64, noise: Noise) -> Vec<(f64, f64)> {
    let mut machine = 0.0;
    let value = |rng: &mut Rng, machine: f64, first: bool| {
        let bad = if rng.f64() < noise.bad { 0.7 } else { 1.0 };
        let first = if first { 1.02 } else { 1.0 };
        4.0 * (machine + noise.run * gaussian(rng)).exp() * bad * first
    };
    (0..count)
        .map(|_| {
            machine += 0.05 * gaussian(rng);
            let first = rng.bool();
            (value(rng, machine, first), slowdown * value(rng, machine, !first))
        })
        .collect()
}

/// A whole comparison with two subjects.
fn compare(rng: &mut Rng, rule: Stopping, slowdown: f64, noise: Noise) -> Ratio {
    let pairs = rounds(rng, rule.rounds_max, slowdown, noise);
    // The rule looks at even numbers, from the fewest rounds on.
    let mut ratios = (rule.rounds_min..=rule.rounds_max).step_by(2).map(|count| {
        let ratio = Ratio::of(&pairs[..count as usize], 1).unwrap();
        (rule.stop(count, &[Some(&ratio)]), ratio)
    });
    ratios.find(|(stopped, _)| stopped.is_some()).expect("the maximum stops it").1
}

const TRIALS: u32 = 1000;

/// Share of `trials` that are true.
fn share(trials: u32, mut trial: impl FnMut() -> bool) -> f64 {
    f64::from((0..trials).map(|_| u32::from(trial())).sum::<u32>()) / f64::from(trials)
}

/// Small enough for a check of minutes.
const SHORT: Stopping = Stopping { rounds_min: 8, rounds_max: 10, precision: 0.03 };

#[test]
fn single_decision_misses_as_rarely_as_documented() {
    let mut rng = Rng::with_seed(1);
    let documented = [
        (6, 0.031),
        (7, 0.016),
        (8, 0.016),
        (9, 0.039),
        (10, 0.023),
        (12, 0.018),
        (15, 0.035),
        (20, 0.019),
    ];
    for (count, expected) in documented {
        for (slowdown, noise) in [(1.0, USUAL), (1.0, BAD_RUNS), (0.87, BAD_RUNS)] {
            let missed = share(TRIALS, || {
                let ratio = Ratio::of(&rounds(&mut rng, count, slowdown, noise), 1).unwrap();
                !(ratio.low..=ratio.high).contains(&slowdown)
            });
            let error = (expected * (1.0 - expected) / f64::from(TRIALS)).sqrt();
            assert!((missed - expected).abs() < 4.0 * error + 0.002, "{count} rounds: {missed}");
        }
    }
}

#[test]
fn stopping_when_precise_adds_few_claims_between_equals() {
    let mut rng = Rng::with_seed(2);
    for rule in [Stopping::default(), SHORT] {
        for noise in [QUIET, Noise { run: 0.02, ..QUIET }, USUAL, BAD_RUNS] {
            let claimed = share(TRIALS, || compare(&mut rng, rule, 1.0, noise).claims());
            assert!(claimed < 0.05, "{claimed}");
        }
    }
}

#[test]
fn tenth_slower_is_found() {
    let mut rng = Rng::with_seed(3);
    for (rule, noise, at_least) in [
        (Stopping::default(), USUAL, 0.995),
        (Stopping::default(), BAD_RUNS, 0.99),
        (SHORT, USUAL, 0.97),
        (SHORT, BAD_RUNS, 0.9),
    ] {
        let found =
            share(TRIALS, || compare(&mut rng, rule, 1.1, noise).verdict == Verdict::Higher);
        assert!(found >= at_least, "{found} for {at_least}");
    }
}

/// Short rounds on a noisy machine, as `loadgen compare` makes them.
#[test]
fn many_short_rounds_find_it_in_noise_of_eight_percent() {
    let mut rng = Rng::with_seed(7);
    let rule = Stopping { rounds_min: 8, rounds_max: 50, precision: 0.04 };
    let found = share(100, || compare(&mut rng, rule, 1.1, LOUD).verdict == Verdict::Higher);
    assert!(found >= 0.9, "{found}");
}

/// The project's promise: between equals at most 2 of 20 comparisons claim a difference, and a
/// server slowed by a tenth is found in at least 18 of 20.
#[test]
fn error_rates_hold_for_twenty_comparisons() {
    let mut rng = Rng::with_seed(4);
    let mut twenty = |slowdown, noise| {
        (0..20).filter(|_| compare(&mut rng, Stopping::default(), slowdown, noise).claims()).count()
    };
    for noise in [USUAL, BAD_RUNS] {
        let broken = (0..50).filter(|_| twenty(1.0, noise) > 2).count();
        assert!(broken <= 5, "{broken} of 50 times more than 2 of 20 claimed");
        let broken = (0..50).filter(|_| twenty(1.1, noise) < 18).count();
        assert!(broken <= 1, "{broken} of 50 times fewer than 18 of 20 found");
    }
}

#[test]
fn family_of_five_claims_as_rarely_as_one() {
    let mut rng = Rng::with_seed(5);
    for count in [8, 10, 20] {
        let claimed = share(TRIALS, || {
            (0..5).any(|_| Ratio::of(&rounds(&mut rng, count, 1.0, USUAL), 5).unwrap().claims())
        });
        assert!(claimed < 0.055, "{count} rounds: {claimed}");
    }
}
