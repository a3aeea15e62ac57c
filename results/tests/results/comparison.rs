//! Verdicts of runs.

mod file;
mod shown;

use fastrand::Rng;
use lockstep_results::statistics::{Ratio, Stopped, Stopping, Verdict};
use lockstep_results::{
    Comparison, Document, Exchange, Floor, Metric, Plan, RoundFloor, Run, Spread,
};

use crate::{header, sample};

const RULE: Stopping = Stopping { rounds_min: 8, rounds_max: 12, precision: 0.03 };

fn plan(subjects: &[&str]) -> Plan {
    Plan {
        header: header("comparison"),
        subjects: subjects.iter().map(|&name| name.to_owned()).collect(),
        baseline: subjects[0].to_owned(),
        aa: false,
        stopping: RULE,
        absent: Vec::new(),
        asked: None,
    }
}

/// A run whose server needs `cost` times the sample's CPU time.
fn run(round: u32, subject: &str, cost: f64) -> Run {
    let mut record = sample();
    record.subject.name = subject.into();
    record.errors_total = 0;
    record.errors.clear();
    record.header.started = format!("2026-11-23T12:{round:02}:00Z");
    record.server.as_mut().unwrap().cpu_us_per_exchange *= cost;
    Run { round, subject: subject.into(), record, file: None }
}

/// Deterministic noise: a different half percent in each round and for each subject.
fn wobble(round: u32, subject: usize) -> f64 {
    1.0 + 0.005 * (f64::from(round * 7 % 5) - 2.0) * if subject == 0 { 1.0 } else { -0.5 }
}

/// `count` rounds of subjects with these costs.
fn runs(count: u32, subjects: &[(&str, f64)]) -> Vec<Run> {
    let round = |round| {
        let subjects = subjects.iter().enumerate();
        subjects.map(move |(i, &(name, cost))| run(round, name, cost * wobble(round, i)))
    };
    (1..=count).flat_map(round).collect()
}

const THREE: [(&str, f64); 3] = [("mio", 1.0), ("io-uring", 0.87), ("blocking", 1.0)];

pub(crate) fn three(count: u32) -> Comparison {
    Comparison::judge(plan(&["mio", "io-uring", "blocking"]), &runs(count, &THREE))
}

fn verdict(comparison: &Comparison, subject: usize) -> Verdict {
    comparison.cells[0].subjects[subject].ratio(comparison.primary).unwrap().verdict
}

#[test]
fn subjects_are_judged_against_the_baseline() {
    let comparison = three(8);
    let [cell] = &comparison.cells[..] else { panic!("one cell") };
    assert_eq!((cell.conns, cell.size, cell.rounds), (1000, 64, 8));
    assert_eq!(cell.stopped, Some(Stopped::Precise));
    assert_eq!(comparison.primary, Metric::ServerCpuUsPerExchange);
    assert_eq!(comparison.cells[0].subjects[0].ratio(comparison.primary), None);
    assert_eq!(verdict(&comparison, 1), Verdict::Lower);
    assert_eq!(verdict(&comparison, 2), Verdict::NoDifference);
    let ratio = cell.subjects[1].ratio(Metric::ServerCpuUsPerExchange).unwrap();
    assert_eq!((ratio.rounds, ratio.confidence), (8, 0.99));
    assert!((ratio.median - 0.87).abs() < 0.01, "{ratio:?}");
    let ratio = cell.subjects[1].ratio(Metric::ThroughputPerS).unwrap();
    assert_eq!((ratio.confidence, ratio.verdict), (0.998, Verdict::NoDifference));
}

#[test]
fn too_few_rounds_claim_nothing() {
    let comparison = three(5);
    assert_eq!(verdict(&comparison, 1), Verdict::TooFewRounds);
    assert_eq!(comparison.cells[0].stopped, None);
    assert_eq!(
        comparison.sentences()[0],
        "io-uring and mio: too few rounds for a claim (0.87x of the server CPU per exchange over 5)"
    );
    assert!(comparison.text().contains("5 rounds: there should be more"));
}

#[test]
fn invalid_runs_are_left_out_and_reported() {
    let mut runs = runs(10, &THREE);
    for index in [1, 4] {
        // Wild values that must not count.
        runs[index].record.server.as_mut().unwrap().cpu_us_per_exchange = 1e6;
        runs[index].record.valid = false;
        runs[index].record.invalid_reasons = vec!["miscount: by one".into()];
    }
    runs[7].record.server.as_mut().unwrap().cpu_us_per_exchange = 1e6;
    runs[7].record.interrupted = true;
    let comparison = Comparison::judge(plan(&["mio", "io-uring", "blocking"]), &runs);
    let ring = &comparison.cells[0].subjects[1];
    assert_eq!((ring.excluded, ring.runs.len()), (3, 10));
    assert_eq!(ring.runs[0].excluded, ["miscount: by one"]);
    assert_eq!(ring.runs[0].left_out_of, Metric::ALL);
    assert_eq!(ring.ratio(comparison.primary).unwrap().rounds, 7);
    assert_eq!(verdict(&comparison, 1), Verdict::Lower);
    assert_eq!(comparison.cells[0].stopped, None, "seven pairs are fewer than eight");
    assert!(comparison.interrupted);
    let sentences = comparison.sentences();
    assert_eq!(
        sentences[sentences.len() - 2..],
        [
            "io-uring: 2 of 10 runs do not count (miscount: by one)",
            "io-uring: 1 of 10 runs does not count (interrupted: a signal cut it short)",
        ]
    );
    // The latencies of the seven that count are pooled.
    let pooled = ring.pooled.as_ref().unwrap();
    assert_eq!(pooled.count, 7 * sample().latency.exchange.unwrap().count);
}

/// The best runs of a cheap server fill the generator.
#[test]
fn full_generator_does_not_exclude_server_cpu() {
    let mut runs = runs(8, &THREE);
    for (number, run) in runs.iter_mut().filter(|run| run.subject == "io-uring").enumerate() {
        if number < 3 {
            run.record.server.as_mut().unwrap().cpu_us_per_exchange *= 0.5;
            run.record.valid = false;
            run.record.invalid_reasons = vec![format!("generator-full: {number} %")];
        }
    }
    let comparison = Comparison::judge(plan(&["mio", "io-uring", "blocking"]), &runs);
    let ring = &comparison.cells[0].subjects[1];
    let rounds = |metric| (ring.rounds(metric), ring.ratio(metric).unwrap().rounds);
    assert_eq!(rounds(Metric::ServerCpuUsPerExchange), (8, 8));
    assert_eq!(rounds(Metric::ClientCpuUsPerExchange), (8, 8));
    assert_eq!(rounds(Metric::ThroughputPerS), (5, 5));
    assert_eq!(rounds(Metric::P99Ns), (5, 5));
    assert_eq!(ring.ratio(Metric::ServerCpuUsPerExchange).unwrap().low, ring_low(&runs));
    assert_eq!(ring.pooled.as_ref().unwrap().count, 5 * sample().latency.exchange.unwrap().count);
    assert_eq!(ring.exclusions.len(), 1, "one kind, whatever the numbers in it");
    let text = comparison.text();
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        flat.contains(
            "throughput and latency of io-uring: 3 of 8 runs do not count (generator-full: 0 %)"
        ),
        "{text}"
    );
    assert!(
        flat.contains("(5) ? 1.00x [1.00, 1.00]") && flat.contains("faster than these say"),
        "{text}"
    );
}

/// Lower end of io-uring's ratio of costs over all rounds.
fn ring_low(runs: &[Run]) -> f64 {
    let cost = |run: &Run| run.record.server.as_ref().unwrap().cpu_us_per_exchange;
    let pairs: Vec<(f64, f64)> =
        runs.chunks(3).map(|round| (cost(&round[0]), cost(&round[1]))).collect();
    Ratio::of(&pairs, 1).unwrap().low
}

#[test]
fn uneven_shards_are_named_with_their_runs() {
    let mut runs = runs(8, &THREE);
    runs[0].record.warnings = vec!["uneven-shards: the busiest of 2 shards had all".into()];
    let text = Comparison::judge(plan(&["mio", "io-uring", "blocking"]), &runs).text();
    let found = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let words =
        "in 1 of 8 runs the load was uneven, which costs throughput and latency: the busiest";
    assert!(found.contains(words), "{text}");
}

#[test]
fn warnings_are_counted_and_leave_nothing_out() {
    let mut runs = runs(8, &THREE);
    for run in runs.iter_mut().take(4) {
        run.record.warnings = vec!["disturbed: by 7 %".into(), "not-steady: at all".into()];
    }
    runs[0].record.warnings.truncate(1);
    let comparison = Comparison::judge(plan(&["mio", "io-uring", "blocking"]), &runs);
    assert_eq!(comparison.cells[0].subjects[0].excluded, 0);
    let table = comparison.text();
    assert!(
        table.contains("of 24 runs some have warnings: disturbed (4), not-steady (3)"),
        "{table}"
    );
}

#[test]
fn repeated_round_counts_once() {
    let mut runs = runs(8, &THREE);
    runs[0].record.valid = false;
    runs.push(run(1, "mio", 1.0));
    runs.push(run(1, "mio", 50.0));
    let comparison = Comparison::judge(plan(&["mio", "io-uring", "blocking"]), &runs);
    let mio = &comparison.cells[0].subjects[0];
    assert_eq!((mio.excluded, mio.runs.len()), (1, 10));
    let ratio = comparison.cells[0].subjects[1].ratio(comparison.primary).unwrap();
    assert_eq!(ratio.rounds, 8);
    assert!(ratio.low > 0.8, "the second valid run is not taken: {ratio:?}");
}

#[test]
fn subject_without_a_valid_run_prevents_stopping() {
    let mut runs = runs(10, &THREE);
    for run in runs.iter_mut().filter(|run| run.subject == "blocking") {
        run.record.valid = false;
    }
    let comparison = Comparison::judge(plan(&["mio", "io-uring", "blocking"]), &runs);
    assert_eq!(comparison.cells[0].stopped, None);
    let sentences = comparison.sentences();
    assert_eq!(sentences[1], "blocking and mio: no round with a valid run of both");
    assert_eq!(sentences[2], "blocking: 10 of 10 runs do not count (other: not valid)");
    assert!(comparison.text().contains("\n-: not measured, or too few values\n"));
    assert!(comparison.cells[0].subjects[2].pooled.is_none());
}

#[test]
fn throughput_is_primary_without_server_cpu() {
    let mut runs = runs(8, &THREE);
    for run in &mut runs {
        if run.subject == "blocking" {
            run.record.server = None;
        }
        if run.subject == "io-uring" {
            run.record.throughput_per_s *= 1.2 * wobble(run.round, 1);
        }
    }
    let plan = plan(&["mio", "io-uring", "blocking"]);
    let comparison = Comparison::judge(plan.clone(), &runs);
    assert_eq!(comparison.primary, Metric::ThroughputPerS);
    assert_eq!(
        comparison.sentences()[0],
        "io-uring reaches 1.20x [1.19, 1.20] of mio's throughput",
    );
    assert!(comparison.text().contains("the claim rests on the throughput"));
    // A planned rate fixes the throughput.
    runs.iter_mut().for_each(|run| run.record.load = "open".into());
    assert_eq!(Comparison::judge(plan, &runs).primary, Metric::P99Ns);
}

#[test]
fn percentile_with_few_samples_beyond_is_not_compared() {
    let mut record = sample();
    let mut beyond = |count| {
        record.latency.exchange.as_mut().unwrap().count = count;
        [Metric::P50Ns, Metric::P99Ns, Metric::P999Ns].map(|metric| metric.of(&record).is_some())
    };
    assert_eq!(beyond(10_000), [true, true, true]);
    assert_eq!(beyond(9_999), [true, true, false]);
    assert_eq!(beyond(999), [true, false, false]);
    // The rounds with enough samples are the fast ones, and would represent all.
    let mut runs = runs(8, &THREE);
    runs[3 * 4 + 1].record.latency.exchange.as_mut().unwrap().count = 9_999;
    let comparison = Comparison::judge(plan(&["mio", "io-uring", "blocking"]), &runs);
    let [mio, ring, _] = &comparison.cells[0].subjects[..] else { panic!("three subjects") };
    assert!(mio.metrics.p999_ns.is_some() && ring.metrics.p99_ns.is_some());
    assert!(ring.metrics.p999_ns.is_none());
}

#[test]
fn cells_stop_separately_and_are_named() {
    let mut runs = runs(8, &THREE[..2]);
    for round in 1..=8 {
        for (subject, noise) in [("mio", 1.0), ("io-uring", 1.0 + 0.2 * wobble(round, 0))] {
            let sign = if round % 2 == 0 { noise } else { 1.0 / noise };
            let mut noisy = run(round, subject, sign);
            noisy.record.conns = 64;
            runs.push(noisy);
        }
    }
    let comparison = Comparison::judge(plan(&["mio", "io-uring"]), &runs);
    let stopped: Vec<_> = comparison.cells.iter().map(|cell| (cell.conns, cell.stopped)).collect();
    assert_eq!(stopped, [(64, None), (1000, Some(Stopped::Precise))]);
    let sentences = comparison.sentences();
    assert!(
        sentences[0].starts_with(
            "64 connections x 64 bytes: mio and io-uring: no difference within noise ("
        )
    );
    assert!(sentences[0].ends_with("; the noise could hide 21 %)"), "{}", sentences[0]);
    assert!(
        sentences[1].starts_with("1,000 connections x 64 bytes: io-uring needs 0.87x"),
        "{}",
        sentences[1]
    );
}

#[test]
fn floor_ratio_uses_the_floor_of_the_same_round() {
    let spread = |ns| Some(Spread { median: ns, low: ns, high: ns });
    let exchange = |conns, ns| spread(ns).map(|ns| Exchange { conns, ns }).into_iter().collect();
    let floor = |one_thread_ns| Floor {
        measured: "2026-11-23T12:24:05Z".into(),
        duration_s: 0.1,
        rounds: 5,
        size: 64,
        client_cpu: Some(1),
        server_cpu: Some(0),
        connections: 0,
        one_thread: exchange(1000, one_thread_ns),
        two_threads: exchange(1000, 5000.0),
        blocking_ns: None,
        calls: None,
    };
    let mut runs = runs(3, &[("mio", 1.0)]);
    for (run, slower) in runs.iter_mut().zip([1.0, 2.0, 1.5]) {
        run.record.throughput_per_s = 80e3 / slower;
        // The third round has none.
        run.record.floor = (run.round < 3).then(|| floor(10_000.0 * slower));
    }
    let comparison = Comparison::judge(plan(&["mio"]), &runs);
    let [cell] = &comparison.cells[..] else { panic!("one cell") };
    let rounds: Vec<_> = cell.floors.iter().map(|it| (it.round, it.one_thread_ns)).collect();
    assert_eq!(rounds, [(1, 10_000.0), (2, 20_000.0)]);
    let most = |floor: &RoundFloor| Some(1e9 / floor.one_thread_ns);
    let share = cell.over_the_floor(&cell.subjects[0], Metric::ThroughputPerS, most).unwrap();
    assert_eq!(share.rounds, 2);
    for end in [share.median, share.low, share.high] {
        assert!((end - 0.8).abs() < 1e-9, "{share:?}: what drifts cancels");
    }
    assert_eq!(cell.at_the_floor(|floor| floor.two_threads_ns), Some(5000.0));
    let table = comparison.text().replace("\n    ", " ");
    let line = "\nfloor of this machine, without a server: 15.0us of CPU for both sides of an \
                exchange; two spinning threads reach 200.0k/s\n";
    assert!(table.contains(line), "{table}");
    let line = "the machine changed its speed: its floor took 10.0us in round 1 and 20.0us in round \
                2 (2.00x). Ratios";
    assert!(table.contains(line), "{table}");
    let mut steady = comparison.clone();
    steady.cells[0].floors.truncate(1);
    assert!(!steady.text().contains("changed its speed"));
}

#[test]
fn noise_floor_of_the_same_server_twice() {
    let mut plan = plan(&["mio", "mio#2"]);
    plan.aa = true;
    let comparison = Comparison::judge(plan.clone(), &runs(8, &[("mio", 1.0), ("mio#2", 1.0)]));
    let floor = comparison.noise_floor();
    assert_eq!(floor.len(), 1);
    assert!(
        floor[0].starts_with(
            "noise floor: the same server twice is only known to differ by less than 1.6 % in \
             server CPU per exchange, 0.1 % in throughput, 0.1 % in p50,"
        ),
        "{floor:?}"
    );
    let conclusion = comparison.text();
    assert!(conclusion.contains("\nnoise floor: "), "{conclusion}");
    // A difference between the same server is reported as such.
    let comparison = Comparison::judge(plan, &runs(8, &[("mio", 1.0), ("mio#2", 1.2)]));
    let floor = comparison.noise_floor();
    assert!(floor[1].starts_with("mio#2 is claimed to differ from mio, which is the same server"));
}

/// Twenty comparisons each, from whole records.
#[test]
fn equal_servers_do_not_differ_and_a_tenth_is_found() {
    let mut rng = Rng::with_seed(20);
    let mut claims = |slowdown: f64| {
        let mut comparison = || {
            let mut runs = Vec::new();
            for round in 1..=RULE.rounds_max {
                let drift = 1.0 + 0.2 * rng.f64();
                for (subject, cost) in [("mio", 1.0), ("mio#2", slowdown)] {
                    // Uniform with a standard deviation of 3 %, and now and then a bad run.
                    let noise = 1.0 + 0.104 * (rng.f64() - 0.5);
                    let bad = if rng.f64() < 0.02 { 0.7 } else { 1.0 };
                    runs.push(run(round, subject, drift * cost * noise * bad));
                    runs.last_mut().unwrap().record.latency = Default::default();
                }
                let comparison = Comparison::judge(plan(&["mio", "mio#2"]), &runs);
                if comparison.cells[0].stopped.is_some() {
                    return verdict(&comparison, 1);
                }
            }
            unreachable!("the last round stops it")
        };
        (0..20).filter(|_| matches!(comparison(), Verdict::Higher | Verdict::Lower)).count()
    };
    let (equal, slowed) = (claims(1.0), claims(1.1));
    assert!(equal <= 2 && slowed >= 18, "{equal} {slowed}");
}
