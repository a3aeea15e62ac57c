//! Records of ranks, added.

use hdrhistogram::Histogram;
use lockstep_results::{
    ClockState, Cost, Document, ErrorCount, Fairness, Interval, Latency, Merge, MergeError, Rank,
    Rate, Record, Sent, Statistic, Stored, merge, report, table,
};

use serde_json::Value;

use crate::sample;

/// Agreed start of the ranks.
const START_US: u64 = 1_795_436_645_000_000;

/// Length of the warm-up and of the window.
const SECOND_US: u64 = 1_000_000;

fn histogram(samples: impl IntoIterator<Item = u64>) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
    samples.into_iter().for_each(|sample| histogram.record(sample).unwrap());
    histogram
}

fn latency(samples: &[u64]) -> Option<Latency> {
    Latency::from_histogram(&histogram(samples.iter().copied()))
}

/// Record of a rank that had these latencies, all on one machine.
fn rank(index: u32, count: u32, samples: &[u64]) -> (String, Record) {
    let mut record = sample();
    record.rank = Some(Rank {
        index,
        count,
        run_id: "run-7".into(),
        source: "--rank".into(),
        start_source: "--start-at".into(),
        options_digest: "0123abcd".into(),
        boot: Some("b0071d".into()),
        planned_start_unix_us: START_US,
        start_unix_us: START_US + u64::from(index),
        start_monotonic_us: 77_000_000 + u64::from(index),
        window_start_unix_us: START_US + SECOND_US + u64::from(index),
        window_end_unix_us: START_US + 2 * SECOND_US + u64::from(index),
        met_deadline: true,
        ..Rank::default()
    });
    record.conns = 2;
    record.duration_s = 1.0;
    record.exchanges = samples.len() as u64;
    record.throughput_per_s = samples.len() as f64;
    (record.errors, record.errors_total) = (Vec::new(), 0);
    record.latency.exchange = latency(samples);
    record.latency.first_exchange = latency(&samples[..samples.len().min(2)]);
    record.latency.connect = latency(&[40_000, 95_000]);
    let half = samples.len() as u64 / 2;
    record.fairness = Fairness::from_counts([half, samples.len() as u64 - half]);
    (record.server, record.server_statistics) = (None, None);
    record.limit = "unknown".into();
    (format!("rank{index}.json"), record)
}

/// Ranks with these numbers of the same sample each.
fn ranks<const N: usize>(counts: [usize; N]) -> Vec<(String, Record)> {
    let ranks = counts.iter().enumerate();
    ranks.map(|(index, &count)| rank(index as u32, N as u32, &vec![1_000_000; count])).collect()
}

fn place(record: &mut Record) -> &mut Rank {
    record.rank.as_mut().unwrap()
}

fn merged(files: &[(String, Record)]) -> Record {
    merge(files, false, vec!["loadgen".into(), "merge".into()]).unwrap()
}

#[track_caller]
fn assert_refused(files: &[(String, Record)], words: &str) -> MergeError {
    let refused = merge(files, false, Vec::new()).unwrap_err();
    assert!(refused.error.contains(words), "{refused:?}");
    assert!(!refused.error.contains('\n'), "{refused:?}");
    refused
}

/// Whatever the samples and however they are divided: the merged record is that of all samples.
#[test]
fn merged_latencies_are_those_of_all_samples() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let asked: Vec<Statistic> =
        ["mean", "p75", "p99.95"].map(|name| name.parse().unwrap()).to_vec();
    for _ in 0..5 {
        let count = random.u32(1..9);
        let mut all = Vec::new();
        let mut files = Vec::new();
        let mut unanswered = 0;
        for index in 0..count {
            let scale = random.u64(1_000..100_000_000);
            let samples: Vec<u64> =
                (0..random.usize(0..3000)).map(|_| random.u64(1..scale)).collect();
            let (file, mut record) = rank(index, count, &samples);
            let own = random.u64(0..=samples.len() as u64 / 50);
            let own_histogram = histogram(samples.iter().copied());
            record.latency.exchange =
                Latency::with_unanswered(&own_histogram, own).map(|it| it.with(&asked));
            unanswered += own;
            all.extend(samples);
            files.push((file, record));
        }
        random.shuffle(&mut files);
        let sum = merged(&files);
        let whole = Latency::with_unanswered(&histogram(all.iter().copied()), unanswered);
        assert_eq!(sum.latency.exchange, whole.map(|it| it.with(&asked)));
        assert_eq!(sum.exchanges, all.len() as u64);
        assert_eq!(sum.conns, 2 * count);
        assert_eq!(sum.latency.connect.as_ref().unwrap().count, 2 * u64::from(count));
        random.shuffle(&mut files);
        assert_eq!(merged(&files), sum, "the order of the files has no effect");
        let text = serde_json::to_string(&sum).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), sum);
    }
}

#[test]
fn counters_are_added() {
    let mut files = ranks([100, 300]);
    for (index, (_, record)) in files.iter_mut().enumerate() {
        let n = index as u64 + 1;
        let error = |kind: &str, errno: Option<&str>, count| ErrorCount {
            kind: kind.into(),
            errno: errno.map(str::to_owned),
            count,
            first: format!("connection {n}: no luck"),
        };
        record.errors =
            vec![error("receive", Some("ECONNRESET"), n), error("receive", Some("EPIPE"), 10 * n)];
        if index == 1 {
            record.errors.insert(0, error("timeout", None, 7));
        }
        record.errors_total = record.errors.iter().map(|error| error.count).sum();
        record.unserved = n;
        record.outstanding = (index == 1).then_some(5);
        record.threads = 3;
        let sent =
            Sent { first_exchanges: n, warmup: 2 * n, window: 3 * n, after: 0, total: 6 * n };
        record.sent = Some(sent);
        record.load = "open".into();
        record.rate = Some(Rate {
            planned_per_s: 500.0,
            achieved_per_s: 499.0 + index as f64,
            arrivals: "constant".into(),
            planned: 500,
            unsent: n,
            waited: 2 * n,
            own_lateness_p99_ns: Some(1000),
            spin_ns: 0,
        });
    }
    let sum = merged(&files);
    let errors = sum.errors.iter().map(|it| (it.kind.as_str(), it.errno.as_deref(), it.count));
    let expected =
        [("receive", Some("ECONNRESET"), 3), ("receive", Some("EPIPE"), 30), ("timeout", None, 7)];
    assert_eq!(errors.collect::<Vec<_>>(), expected);
    assert_eq!(sum.errors_total, 40);
    assert_eq!(sum.errors[0].first, "connection 1 of rank 0: no luck");
    assert_eq!(sum.errors[2].first, "connection 2 of rank 1: no luck");
    assert_eq!(sum.errors[0].cause(), "no luck (ECONNRESET)");
    assert_eq!((sum.unserved, sum.outstanding, sum.threads, sum.conns), (3, Some(5), 6, 4));
    let sent = Sent { first_exchanges: 3, warmup: 6, window: 9, after: 0, total: 18 };
    assert_eq!(sum.sent, Some(sent));
    let rate = sum.rate.unwrap();
    assert_eq!((rate.planned_per_s, rate.achieved_per_s), (1000.0, 999.0));
    assert_eq!((rate.planned, rate.unsent, rate.waited), (1000, 3, 6));
    assert_eq!(rate.own_lateness_p99_ns, None, "a mean of percentiles is none");
    assert_eq!((sum.exchanges, sum.throughput_per_s, sum.duration_s), (400, 400.0, 1.0));
    let [a, b] = &sum.ranks[..] else { panic!("{:?}", sum.ranks) };
    assert_eq!((a.rank.index, a.exchanges, a.errors_total), (0, 100, 11));
    assert_eq!((b.rank.index, b.exchanges, b.errors_total), (1, 300, 29));
    // A rank that does not state what it sent.
    files[1].1.sent = None;
    assert_eq!(merged(&files).sent, None);
}

#[test]
fn throughput_is_the_sum_of_rates_and_divides_the_exchanges() {
    let mut files = ranks([1000, 1000]);
    files[1].1.duration_s = 0.95;
    place(&mut files[1].1).window_end_unix_us -= SECOND_US / 20;
    let sum = merged(&files);
    assert!((sum.throughput_per_s - (1000.0 + 1000.0 / 0.95)).abs() < 1e-9);
    assert!((sum.exchanges as f64 / sum.duration_s - sum.throughput_per_s).abs() < 1e-9);
    assert!(sum.valid, "{:?}", sum.invalid_reasons);
    assert!((sum.merge.unwrap().overlap - 0.95).abs() < 1e-4);
}

#[test]
fn fairness_is_that_of_all_connections() {
    let counts: [&[u64]; 3] = [&[10, 20, 30], &[5, 5, 5], &[0, 70, 1]];
    let mut files = ranks([60, 15, 71]);
    for ((_, record), counts) in files.iter_mut().zip(counts) {
        record.conns = 3;
        record.fairness = Fairness::from_counts(counts.iter().copied());
    }
    let sum = merged(&files).fairness.unwrap();
    let expected = Fairness::from_counts(counts.into_iter().flatten().copied()).unwrap();
    assert_eq!((sum.min, sum.max), (expected.min, expected.max));
    assert!((sum.jain - expected.jain).abs() < 1e-12, "{} {}", sum.jain, expected.jain);
    // A rank without an exchange has no index, and counts.
    files[1].1.fairness = None;
    assert_eq!(merged(&files).fairness, None);
    (files[1].1.exchanges, files[1].1.latency.exchange) = (0, None);
    let all = [10, 20, 30, 0, 0, 0, 0, 70, 1];
    let (sum, expected) = (merged(&files).fairness.unwrap(), Fairness::from_counts(all).unwrap());
    assert!(sum.min == 0 && (sum.jain - expected.jain).abs() < 1e-12);
    files[0].1.interrupted = true;
    assert_eq!(merged(&files).fairness, None, "not all connections were tried");
}

#[test]
fn client_cost_is_total_cpu_over_total_exchanges() {
    let mut files = ranks([100, 300]);
    let cost = |us: f64, busy: f64| Cost {
        cpu_us_per_exchange: us,
        user_us_per_exchange: Some(us / 4.0),
        system_us_per_exchange: Some(us * 0.75),
        context_switches_per_exchange: Some(us / 100.0),
        busy: Some(busy),
        cpus: "1".into(),
        syscalls_per_exchange: None,
        quota: None,
        source: None,
        counted_by: None,
    };
    files[0].1.client = cost(800.0, 0.08);
    files[1].1.client = cost(400.0, 0.12);
    let sum = merged(&files).client;
    assert_eq!(sum.cpu_us_per_exchange, 500.0);
    assert_eq!((sum.user_us_per_exchange, sum.system_us_per_exchange), (Some(125.0), Some(375.0)));
    assert_eq!(sum.context_switches_per_exchange, Some(5.0));
    // 0.2 s in a second, of one CPU that both use.
    assert!((sum.busy.unwrap() - 0.2).abs() < 1e-9);
    assert_eq!(sum.cpus, "1");
    files[0].1.client.cpus = "0-1,3".into();
    files[1].1.threads = 2;
    let sum = merged(&files).client;
    assert_eq!((sum.cpus.as_str(), sum.busy), ("0-1,3", Some(0.2 / 3.0)));
    files[1].1.client.context_switches_per_exchange = None;
    files[1].1.environment.host = Some("b479c01b".into());
    place(&mut files[1].1).boot = Some("b0072d".into());
    let sum = merged(&files).client;
    assert_eq!(sum.context_switches_per_exchange, None);
    // One thread on three CPUs, and two on one CPU.
    assert_eq!(sum.busy, Some(0.1));
    assert_eq!(sum.cpus, "0-1,3 of 9f86d081; 1 of b479c01b");
    files[0].1.client.cpus = "1".into();
    assert_eq!(merged(&files).client.cpus, "1 of 2 hosts");
    for list in ["", "x", "1-", "3,,4", "0-4294967295", "-1"] {
        files[1].1.client.cpus = list.into();
        let sum = merged(&files).client;
        assert_eq!((sum.cpus.contains(list), sum.busy), (true, None), "{list}");
    }
}

#[test]
fn numbers_of_a_damaged_file_fit_their_columns() {
    let mut files = ranks([10, 10]);
    let last = &mut files[1].1;
    last.valid = false;
    let latency = last.latency.exchange.as_mut().unwrap();
    (latency.p50_ns, latency.p99_ns) = (1 << 62, u64::MAX);
    last.client.cpu_us_per_exchange = 1e15;
    place(last).start_unix_us = (1 << 53) - 1;
    let text = merged(&files).text();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

/// Whatever the files contain, the result is a record that can be printed, or an error.
#[test]
fn damaged_records_do_not_panic() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut files = ranks([10, 10]);
    files[0].1.server = sample().server;
    files[1].1.intervals = vec![Interval {
        start_s: 0.0,
        length_s: 1.0,
        exchanges: 10,
        errors: 0,
        p50_ns: Some(1),
        p90_ns: Some(1),
        p99_ns: Some(1),
        max_ns: Some(1),
    }];
    let whole: Vec<Value> =
        files.iter().map(|(_, record)| serde_json::to_value(record).unwrap()).collect();
    let mut accepted = 0;
    for _ in 0..60 {
        let mut files = Vec::new();
        for (index, value) in whole.iter().enumerate() {
            let mut value = value.clone();
            let mut leaves = Vec::new();
            collect(&mut value, &mut leaves);
            for _ in 0..random.usize(0..3) {
                let leaf = random.usize(..leaves.len());
                *leaves[leaf] = damaged(leaves[leaf], &mut random);
            }
            if let Ok(record) = serde_json::from_value(value) {
                files.push((format!("{index}.json"), record));
            }
        }
        if let Ok(sum) = merge(&files, random.bool(), Vec::new()) {
            accepted += 1;
            let text = sum.text();
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            let text = serde_json::to_string(&sum).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), sum);
        }
    }
    assert!(accepted > 0);
}

/// Adds all values that contain no others.
fn collect<'a>(value: &'a mut Value, leaves: &mut Vec<&'a mut Value>) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| collect(value, leaves)),
        Value::Object(values) => values.values_mut().for_each(|value| collect(value, leaves)),
        leaf => leaves.push(leaf),
    }
}

fn damaged(leaf: &Value, random: &mut fastrand::Rng) -> Value {
    let numbers = [0, 1, 2, 3, 1 << 31, u32::MAX.into(), 1 << 53, 1 << 62, 1 << 63, u64::MAX];
    let fractions = [-1.0, -0.0, 5e-324, 1e-9, 0.5, 1.5, 1e15, 1e300, f64::MAX, -f64::MAX];
    match leaf {
        Value::Number(number) if number.is_f64() => {
            fractions[random.usize(..fractions.len())].into()
        }
        Value::Number(_) => numbers[random.usize(..numbers.len())].into(),
        Value::Bool(flag) => (!flag).into(),
        _ => ["", "x", "\u{1b}[2J", "0-9", "a: b: c"][random.usize(..5)].into(),
    }
}

#[test]
fn server_cost_is_for_the_exchanges_of_all_ranks() {
    let mut files = ranks([100, 300]);
    assert_eq!(merged(&files).server, None);
    // Read from the kernel by a rank that divided by its own exchanges.
    files[0].1.server = sample().server;
    files[0].1.limit = "server".into();
    let sum = merged(&files);
    let server = sum.server.unwrap();
    assert!((server.cpu_us_per_exchange - 4.125 / 4.0).abs() < 1e-9);
    assert_eq!(server.busy, Some(0.998));
    assert_eq!(sum.limit, "server");
    // Not if the exchanges of a rank are unknown.
    let partial = [files[0].clone()];
    assert_eq!(merge(&partial, true, Vec::new()).unwrap().server, None);
    // The server's own count is that of all.
    let counted = files[0].1.server.as_mut().unwrap();
    counted.source = Some("http://10.0.0.2:9100/metrics".into());
    counted.counted_by = Some("server".into());
    files[1].1.server = sample().server;
    let server = merged(&files).server.unwrap();
    assert_eq!(server.cpu_us_per_exchange, 4.125);
    assert_eq!(server, files[0].1.server.clone().unwrap());
}

#[test]
fn intervals_are_added_if_they_are_the_same_time() {
    let interval = |start_s: f64, exchanges, max_ns| Interval {
        start_s,
        length_s: 0.5,
        exchanges,
        errors: 1,
        p50_ns: Some(5),
        p90_ns: Some(5),
        p99_ns: Some(5),
        max_ns,
    };
    let mut files = ranks([10, 10]);
    files[0].1.intervals = vec![interval(0.0, 1, Some(7)), interval(0.5, 2, None)];
    files[1].1.intervals = vec![interval(0.0, 10, Some(9)), interval(0.5, 20, None)];
    let sum = merged(&files).intervals;
    let Interval { exchanges, errors, p50_ns, max_ns, .. } = sum[0];
    assert_eq!((exchanges, errors, p50_ns, max_ns), (11, 2, None, Some(9)));
    assert_eq!((sum[1].exchanges, sum[1].max_ns, sum.len()), (22, None, 2));
    // Another number, other lengths, another time.
    for change in [
        |record: &mut Record| record.intervals.truncate(1),
        |record: &mut Record| record.intervals[1].length_s = 0.3,
        |record: &mut Record| {
            let rank = place(record);
            rank.window_start_unix_us += 30_000;
            rank.window_end_unix_us += 30_000;
        },
    ] {
        let mut files = files.clone();
        change(&mut files[1].1);
        assert_eq!(merged(&files).intervals, []);
    }
}

/// Each property that ranks must have in common.
#[test]
fn any_differing_option_is_refused() {
    type Change = fn(&mut Record);
    let rate = |rate: Option<Rate>| rate.unwrap();
    let changes: [(&str, Change); 28] = [
        ("program", |it| it.header.version = "0.0.9".into()),
        ("program", |it| it.header.tool = "other".into()),
        ("schema", |it| it.header.schema = 0),
        ("revision", |it| it.environment.build.git_revision = Some("f00".into())),
        ("revision", |it| it.environment.build.git_revision = None),
        ("revision", |it| it.environment.build.git_dirty = Some(true)),
        ("profile", |it| it.environment.build.profile = Some("debug".into())),
        ("number of ranks", |it| place(it).count = 3),
        ("agreed start", |it| place(it).planned_start_unix_us += 1),
        ("start source", |it| place(it).start_source = "PMI".into()),
        ("digest of the options", |it| place(it).options_digest = "89".into()),
        ("service", |it| it.subject.service = "hi".into()),
        ("server", |it| it.subject.name = "other".into()),
        ("address", |it| it.subject.addr = "127.0.0.1:1".into()),
        ("backend", |it| it.subject.backend = Some("blocking".into())),
        ("shards", |it| it.subject.shards = Some(7)),
        ("backlog", |it| it.subject.backlog = Some(7)),
        ("load", |it| it.load = "closed".into()),
        ("rate", |it| it.rate = None),
        ("rate", |it| it.rate.as_mut().unwrap().planned_per_s += 1.0),
        ("arrivals", |it| it.rate.as_mut().unwrap().arrivals = "poisson".into()),
        ("rate spin_ns", |it| it.rate.as_mut().unwrap().spin_ns = 1),
        ("size", |it| it.size = 65),
        ("engine", |it| it.engine = "io-uring".into()),
        ("spin_ns", |it| it.spin_ns = Some(50_000)),
        ("warm-up end", |it| it.warmup_end = Some("steady".into())),
        ("seed", |it| it.header.seed = Some(1)),
        ("kind", |it| it.header.kind = "other".into()),
    ];
    let mut files = ranks([10, 10]);
    for (_, record) in &mut files {
        record.load = "open".into();
        record.rate = Some(Rate {
            planned_per_s: 10.0,
            achieved_per_s: 10.0,
            arrivals: "constant".into(),
            planned: 10,
            unsent: 0,
            waited: 0,
            own_lateness_p99_ns: None,
            spin_ns: 0,
        });
    }
    assert_eq!(rate(merged(&files).rate).planned, 20);
    for (name, change) in changes {
        for index in [0, 1] {
            let mut files = files.clone();
            change(&mut files[index].1);
            let refused = assert_refused(&files, &format!(": {name} is "));
            assert!(refused.error.contains("rank0.json"), "{refused:?}");
            assert!(refused.error.contains("rank1.json"), "{refused:?}");
        }
    }
    // What only one rank knows of the server is no difference.
    files[0].1.subject.backend = None;
    assert_eq!(merged(&files).subject.backend.as_deref(), Some("mio"));
}

#[test]
fn other_runs_and_doubled_ranks_are_refused() {
    let mut files = ranks([10, 10]);
    place(&mut files[1].1).run_id = "run-8".into();
    let refused = assert_refused(&files, "ranks of 2 runs: run-7, run-8");
    let hint = "ranks of one run need the same options and start; argv states them";
    assert_eq!(refused.hint.as_deref(), Some(hint));
    files.push(rank(1, 2, &[1000]));
    let refused = assert_refused(&files, "ranks of 2 runs: run-7, run-8");
    assert_eq!(refused.hint.as_deref(), Some("--run-id ID chooses one"));
    let mut files = ranks([10, 10]);
    place(&mut files[1].1).index = 0;
    assert_refused(&files, "rank 0 has two records: rank0.json, rank1.json");
    files.push(rank(1, 2, &[1000]));
    assert_refused(&files, "rank 0 has two records");
    assert_refused(&[], "no record of a rank");
    assert_refused(&[("\u{1b}[2J\n".into(), sample())], "?[2J?: not a record of a rank");
    assert_refused(&[("a.json".into(), sample())], "a.json: not a record of a rank");
    let sum = ("sum.json".into(), merged(&ranks([10, 10])));
    assert_refused(&[sum], "sum.json: not a record of a rank, but of ranks that are merged");
}

#[test]
fn missing_rank_is_refused_or_stated() {
    let files = ranks([10, 20, 30, 40]);
    let some = [files[0].clone(), files[3].clone()];
    let refused = assert_refused(&some, "2 of 4 ranks have no record: 1-2");
    assert_eq!(refused.hint.as_deref(), Some("--partial adds the others"));
    assert_refused(&files[1..], "1 of 4 ranks has no record: 0");
    let sum = merge(&some, true, Vec::new()).unwrap();
    let Merge { expected, missing, .. } = sum.merge.unwrap();
    assert_eq!((expected, missing), (4, vec![1, 2]));
    assert_eq!((sum.exchanges, sum.ranks.len(), sum.valid), (50, 2, true));
    let warning = "missing-ranks: 2 of 4 ranks without a record (1-2): ";
    assert!(sum.warnings.iter().any(|it| it.starts_with(warning)), "{:?}", sum.warnings);
    let whole = merge(&files, true, Vec::new()).unwrap();
    assert!(whole.merge.unwrap().missing.is_empty());
    assert_eq!(whole.warnings, [""; 0]);
}

#[test]
fn skew_of_one_machine_is_measured_on_its_common_clock() {
    let mut files = ranks([10, 10, 10]);
    // The realtime clock was set between their starts.
    place(&mut files[1].1).start_unix_us += 5000;
    place(&mut files[1].1).window_start_unix_us += 5000;
    place(&mut files[1].1).window_end_unix_us += 5000;
    let merge = merged(&files).merge.unwrap();
    assert_eq!((merge.clock.as_str(), merge.start_skew_us), ("monotonic", Some(2)));
    assert_eq!(merge.first_start_unix_us, Some(START_US));
    assert_eq!(merge.common_start_unix_us, Some(START_US + SECOND_US + 2));
    assert_eq!(merge.common_end_unix_us, Some(START_US + 2 * SECOND_US));
    assert_eq!(merge.last_end_unix_us, Some(START_US + 2 * SECOND_US + 2));
    assert!((merge.overlap - 0.999998).abs() < 1e-9);
    for boot in [Some("another".to_owned()), None] {
        place(&mut files[2].1).boot = boot;
        let merge = merged(&files).merge.unwrap();
        assert_eq!((merge.clock.as_str(), merge.start_skew_us), ("realtime", Some(5001)));
    }
}

#[test]
fn late_ranks_and_separate_windows_are_invalid() {
    let shifted = |us: i64| {
        let mut files = ranks([10, 10, 10]);
        let rank = place(&mut files[2].1);
        for instant in [
            &mut rank.start_unix_us,
            &mut rank.start_monotonic_us,
            &mut rank.window_start_unix_us,
            &mut rank.window_end_unix_us,
        ] {
            *instant = instant.checked_add_signed(us - 2).unwrap();
        }
        merged(&files).invalid_reasons
    };
    assert_eq!(shifted(9_000), [""; 0]);
    assert_eq!(shifted(-9_000), [""; 0]);
    let late = "rank-late: rank 2 started 40.0ms after the agreed instant";
    assert_eq!(shifted(40_000), [late]);
    assert_eq!(shifted(-40_000), ["rank-early: rank 2 started 40.0ms before the agreed instant"]);
    let reasons = shifted(150_000);
    assert!(reasons[1].starts_with("overlap: all ranks measured concurrently for 85 % "));
    let reasons = shifted(3_000_000);
    assert!(reasons[1].starts_with("overlap: all ranks measured concurrently for 0 % "));
    assert_eq!(reasons.len(), 2);
}

#[test]
fn rank_without_a_window_is_invalid_and_its_failures_count() {
    let mut files = ranks([10, 10]);
    let record = &mut files[1].1;
    let rank = place(record);
    rank.window_start_unix_us = rank.start_unix_us;
    rank.window_end_unix_us = rank.start_unix_us;
    (rank.planned_start_unix_us, rank.met_deadline) = (START_US - 9, false);
    rank.start_source = "none".into();
    (record.exchanges, record.duration_s, record.warmup_s) = (0, 0.0, 0.0);
    (record.latency, record.fairness) = (Default::default(), None);
    record.unserved = 2;
    let sum = merged(&files);
    assert_eq!((sum.exchanges, sum.unserved, sum.throughput_per_s), (10, 2, 10.0));
    assert_eq!(sum.invalid_reasons, ["rank-absent: rank 1 did not start its load"]);
    // The others have a window.
    let merge = sum.merge.clone().unwrap();
    assert_eq!((merge.start_skew_us, merge.overlap), (Some(0), 1.0));
    let text = sum.text();
    let row = text.lines().find(|line| line.starts_with("1  ")).unwrap();
    assert!(row.ends_with(" -"), "no start: {text}");
    // None has.
    let mut none = files[1].clone();
    place(&mut none.1).index = 0;
    files[0] = none;
    let sum = merged(&files);
    let merge = sum.merge.clone().unwrap();
    assert_eq!((merge.start_skew_us, merge.overlap, merge.last_end_unix_us), (None, 0.0, None));
    assert_eq!(sum.invalid_reasons.len(), 2);
    assert!(!sum.text().contains("start skew"));
}

#[test]
fn reasons_and_warnings_name_their_ranks() {
    let mut files = ranks([10, 10, 10, 10]);
    for index in [0, 1, 3] {
        let record = &mut files[index].1;
        record.warnings = vec!["stolen: 5 % of it".into(), "no word for programs".into()];
    }
    files[2].1.warnings = vec!["stolen: 7 % of it".into()];
    files[3].1.warnings.push("late-start: the load started late".into());
    let sum = merged(&files);
    assert!(sum.valid);
    let expected = [
        "stolen: ranks 0-1,3: 5 % of it",
        "ranks 0-1,3: no word for programs",
        "stolen: rank 2: 7 % of it",
    ];
    assert_eq!(sum.warnings, expected);
    files[2].1.valid = false;
    assert_eq!(merged(&files).invalid_reasons, ["rank-invalid: rank 2: no reason given"]);
    files[2].1.invalid_reasons = vec!["generator-full: it was".into()];
    let sum = merged(&files);
    assert_eq!((sum.valid, sum.ranks[2].valid), (false, false));
    assert_eq!(sum.invalid_reasons, ["generator-full: rank 2: it was"]);
}

/// A thousand ranks print no thousand lines.
#[test]
fn reasons_of_many_ranks_are_shortened() {
    let mut files = ranks([10; 64]);
    for (index, (_, record)) in files.iter_mut().enumerate() {
        record.valid = false;
        record.invalid_reasons = vec![format!("late: by {index} us"), "throttled: all".into()];
        let late = if index < 10 { 0 } else { 20_000 };
        place(record).start_unix_us = START_US + late;
        place(record).start_monotonic_us = 77_000_000 + late;
    }
    let reasons = merged(&files).invalid_reasons;
    assert_eq!(reasons.len(), 11, "{reasons:#?}");
    assert_eq!(reasons[3], "rank-late: rank 13 started 20.0ms after the agreed instant");
    assert_eq!(reasons[4], "rank-late: ranks 14-63: likewise, with figures of their own");
    assert_eq!(reasons[5], "late: rank 0: by 0 us");
    assert_eq!(reasons[6], "throttled: ranks 0-63: all");
    assert_eq!(reasons[10], "late: ranks 4-63: likewise, with figures of their own");
}

#[test]
fn hosts_that_differ_are_a_warning() {
    let mut files = ranks([10, 10, 10]);
    let environment = &mut files[1].1.environment;
    environment.host = Some("b479c01b".into());
    environment.cpus_allowed = Some("0".into());
    environment.kernel = Some("6.12.1".into());
    environment.mitigations.insert("meltdown".into(), "Vulnerable".into());
    let sum = merged(&files);
    let expected = [
        "hosts-differ: kernel: 6.1.0-18-amd64 (ranks 0,2), 6.12.1 (rank 1)",
        "hosts-differ: mitigation meltdown: Not affected (ranks 0,2), Vulnerable (rank 1)",
    ];
    assert_eq!(sum.warnings, expected);
    assert_eq!(sum.environment, files[0].1.environment);
}

#[test]
fn histograms_of_other_bounds_are_refused() {
    for (low, high, digits) in [(1, 3_600_000_000_000, 2), (2, 3_600_000_000_000, 3), (1, 60, 3)] {
        let mut files = ranks([10, 10]);
        let mut other = Histogram::<u64>::new_with_bounds(low, high, digits).unwrap();
        other.record(17).unwrap();
        files[1].1.latency.exchange = Latency::from_histogram(&other);
        assert_refused(&files, "rank1.json: latency.exchange: a histogram from ");
    }
}

/// The load starts with the last thread's first request, which may be after a short warm-up.
#[test]
fn load_that_starts_within_its_window_is_added() {
    let mut files = ranks([10, 10]);
    let late = place(&mut files[1].1);
    late.window_start_unix_us = START_US;
    late.window_end_unix_us = START_US + SECOND_US;
    late.start_unix_us = START_US + 4_000;
    place(&mut files[0].1).window_start_unix_us = START_US;
    place(&mut files[0].1).window_end_unix_us = START_US + SECOND_US;
    let sum = merged(&files);
    assert!(sum.valid, "{:?}", sum.invalid_reasons);
    assert_eq!(sum.exchanges, 20);
    // A thread that was stopped through the whole window.
    place(&mut files[1].1).start_unix_us = START_US + 2 * SECOND_US;
    let sum = merged(&files);
    assert!(sum.invalid_reasons[0].starts_with("rank-late: rank 1 "), "{:?}", sum.invalid_reasons);
}

/// Counts that contradict the distribution, and numbers that cannot be.
#[test]
fn implausible_records_are_errors() {
    type Change = fn(&mut Record);
    let changes: [(&str, Change); 23] = [
        ("rank 2 of 2", |it| place(it).index = 2),
        ("rank 1 of 0", |it| place(it).count = 0),
        ("4294967295 ranks, and at most", |it| place(it).count = u32::MAX),
        ("its window ends before", |it| place(it).window_end_unix_us = START_US),
        ("out of range", |it| place(it).start_unix_us = u64::MAX),
        ("out of range", |it| place(it).start_monotonic_us = 1 << 53),
        ("duration_s is NaN", |it| it.duration_s = f64::NAN),
        ("duration_s is -1e0", |it| it.duration_s = -1.0),
        ("duration_s is 5e-324", |it| it.duration_s = 5e-324),
        ("duration_s is 2, but its window lasts 1000000 us", |it| it.duration_s = 2.0),
        ("warmup_s is inf", |it| it.warmup_s = f64::INFINITY),
        ("cpu_us_per_exchange is 1e16", |it| it.client.cpu_us_per_exchange = 1e16),
        ("busy is -1", |it| it.client.busy = Some(-1.0)),
        ("fairness is not", |it| it.fairness.as_mut().unwrap().jain = 0.0),
        ("fairness is not", |it| it.fairness.as_mut().unwrap().jain = f64::NAN),
        ("fairness is not", |it| it.fairness.as_mut().unwrap().min = u64::MAX),
        ("without connections", |it| it.conns = 0),
        ("without connections", |it| it.threads = 0),
        ("latency.exchange: 11 of 10 values are unanswered", |it| {
            it.latency.exchange.as_mut().unwrap().unanswered = Some(11);
        }),
        ("latency.exchange: hdr_v2 holds 10 samples", |it| {
            it.latency.exchange.as_mut().unwrap().count = u64::MAX;
        }),
        ("latency.connect: hdr_v2 is not base64", |it| {
            it.latency.connect.as_mut().unwrap().hdr_v2 = "\u{1b}[2J".into();
        }),
        ("the sum of conns over all ranks is too large", |it| it.conns = u32::MAX),
        ("the sum of exchanges over all ranks is too large", |it| it.exchanges = u64::MAX),
    ];
    for (words, change) in changes {
        let mut files = ranks([10, 10]);
        change(&mut files[1].1);
        if words.contains("conns over") {
            files[1].1.fairness = None;
        }
        assert_refused(&files, words);
    }
}

#[test]
fn sums_that_are_too_large_are_errors() {
    let mut files = ranks([10, 10]);
    let mut half = histogram([]);
    half.record_n(1000, 1 << 42).unwrap();
    for (_, record) in &mut files {
        record.latency.exchange = Latency::from_histogram(&half);
    }
    assert_refused(&files, "the sum of latency.exchange.count over all ranks is too large");
    let mut files = ranks([10, 10]);
    for (_, record) in &mut files {
        let count = u64::MAX / 2 + 1;
        let error =
            |kind: &str| ErrorCount { kind: kind.into(), errno: None, count, first: String::new() };
        record.errors = vec![error("eof"), error("eof")];
    }
    assert_refused(&files, "the sum of errors over all ranks is too large");
}

#[test]
fn text_has_a_row_for_each_rank_in_80_columns() {
    for (count, rows) in [(1, 1), (64, 64), (130, 128)] {
        let mut files = vec![rank(0, count, &[1_000_000; 10]); count as usize];
        for (index, (_, record)) in files.iter_mut().enumerate() {
            place(record).index = index as u32;
        }
        let last = &mut files[count as usize - 1].1;
        (last.valid, last.conns) = (false, 1_000_000);
        last.environment.host = Some("\u{1b}[31mb479c01b".into());
        last.duration_s = 0.000_001;
        let place = place(last);
        place.window_end_unix_us = place.window_start_unix_us + 1;
        place.start_unix_us = START_US - 999_000;
        place.boot = Some("other".into());
        let sum = merged(&files);
        let text = sum.text();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\u{1b}'));
        let found = text.lines().filter(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.len() >= 9 && words[0].parse::<u32>().is_ok() && words[4] == "1.00ms"
        });
        assert_eq!(found.count(), rows, "{text}");
        assert_eq!(text.contains("\nand 2 more ranks in the record\n"), count == 130, "{text}");
        let hosts = if count == 1 { "1 host" } else { "2 hosts" };
        assert!(
            text.contains(&format!("ranks          {count} of {count} of run run-7 on {hosts}"))
        );
        assert!(count == 130 || text.contains("10.00M"), "the rate of the last rank: {text}");
    }
    let text = merged(&ranks([10, 10])).text();
    assert!(
        text.contains("start skew     1.00us between the first and the last, on the monotonic")
    );
    let mut files = ranks([10, 10]);
    let known = ClockState { synchronized: true, max_error_us: Some(2000), ..Default::default() };
    for (index, (_, record)) in files.iter_mut().enumerate() {
        let rank = place(record);
        rank.boot = Some(index.to_string());
        (rank.clock_before, rank.clock_after) = (Some(known), Some(known));
    }
    let text = merged(&files).text().replace("\n               ", " ");
    let clocks = "by the realtime clocks, and only as good as they are: 2 clocks, all synchronized: \
                  they differ by at most 4.00ms\n";
    assert!(text.contains(clocks), "{text}");
    let partial = merge(&ranks([10, 10, 10])[..2], true, Vec::new()).unwrap().text();
    assert!(partial.contains("2 of 3 of run run-7 on 1 host; without a record: 2\n"));
}

#[test]
fn page_has_a_row_for_each_rank() {
    let sum = merged(&ranks([10, 10, 10]));
    let document = Stored::Run(Box::new(sum.clone()));
    let page = report::page(&[("sum.json".into(), document)]);
    assert!(page.contains("<h3>Ranks of mio</h3>"), "{page}");
    for index in 0..3 {
        assert!(page.contains(&format!("<tr><th scope=\"row\">{index}</th><td>9f86d081</td>")));
    }
    assert!(page.contains("3 of 3 of run run-7"));
    // A merged record beside another one.
    let both = [("sum", &sum), ("one", &sample())];
    assert!(table(&both).contains("  ranks: 3 (sum) | - (one)"), "{}", table(&both));
}

#[test]
fn ranks_side_by_side_get_a_hint() {
    let files: Vec<(String, Stored)> = ranks([10, 10, 10])
        .into_iter()
        .map(|(file, record)| (file, Stored::Run(Box::new(record))))
        .collect();
    let hint = "2 of the 3 ranks of run run-7: loadgen merge adds them to one result";
    assert!(report::text(&files[..2]).contains(hint));
    assert!(report::page(&files[..2]).contains(hint));
    assert!(!report::text(&files[..1]).contains("loadgen merge adds them"));
}
