//! `loadgen merge`: the records of ranks, added.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use lockstep_results::{ErrorCount, Latency, Rank, Record, Stored, store};
use serde_json::Value;

use crate::harness::{Running, Server, echo, loadgen, run, skip};

/// A record of a run, written by hand.
const SAMPLE: &str = include_str!("../../../results/tests/results/sample.json");

/// Agreed start of the ranks.
const START_US: u64 = 1_795_436_645_000_000;

/// Record of a rank with a window of a second, that had these latencies.
fn rank(run_id: &str, index: u32, count: u32, samples: &[u64]) -> Record {
    let mut record: Record = serde_json::from_str(SAMPLE).unwrap();
    record.rank = Some(Rank {
        index,
        count,
        run_id: run_id.into(),
        source: "--rank".into(),
        start_source: "--start-at".into(),
        options_digest: "0123abcd".into(),
        boot: Some("b0071d".into()),
        planned_start_unix_us: START_US,
        start_unix_us: START_US,
        start_monotonic_us: 77_000_000,
        window_start_unix_us: START_US + 1_000_000,
        window_end_unix_us: START_US + 2_000_000,
        met_deadline: true,
        ..Rank::default()
    });
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
    samples.iter().for_each(|&sample| histogram.record(sample).unwrap());
    record.latency.exchange = Latency::from_histogram(&histogram);
    (record.duration_s, record.exchanges) = (1.0, samples.len() as u64);
    (record.errors, record.errors_total) = (Vec::new(), 0);
    (record.fairness, record.server) = (None, None);
    record
}

/// Writes the record as loadgen does, and returns the path.
fn write(directory: &Path, name: &str, record: &Record) -> String {
    let path = store::write(record, &directory.join(name), false).unwrap();
    path.into_os_string().into_string().unwrap()
}

/// A directory with the ranks of a run, 1,000 exchanges each, and their files.
fn directory(count: u32) -> (tempfile::TempDir, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let samples: Vec<u64> = (1..=1000).map(|i| i * 1000).collect();
    let file = |index| {
        let record = rank("run-7", index, count, &samples);
        write(directory.path(), &format!("{index}.json"), &record)
    };
    let files = (0..count).map(file).collect();
    (directory, files)
}

fn path(directory: &tempfile::TempDir) -> &str {
    directory.path().to_str().unwrap()
}

fn stored(path: &Path) -> Record {
    match store::read(path).unwrap() {
        Stored::Run(record) => *record,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ranks_of_a_directory_become_one_record() {
    let (directory, files) = directory(3);
    let out = tempfile::tempdir().unwrap();
    let finished = run(&["merge", path(&directory), "--json", "-o", path(&out)]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let record = finished.record();
    assert_eq!((&record["kind"], &record["exchanges"]), (&"run".into(), &3000.into()));
    assert_eq!(record["throughput_per_s"], 3000.0);
    assert_eq!(record["ranks"].as_array().unwrap().len(), 3);
    assert_eq!((&record["merge"]["expected"], record.get("rank")), (&3.into(), None));
    assert_eq!(record["argv"][1], "merge");
    let [written] = &fs::read_dir(out.path()).unwrap().collect::<Vec<_>>()[..] else { panic!() };
    let written = written.as_ref().unwrap().path();
    let name = written.file_name().unwrap().to_str().unwrap();
    assert!(name.contains("-run-7-3ranks"), "{name}");
    assert_eq!(serde_json::to_value(stored(&written)).unwrap(), record);
    // The order of the files has no effect.
    let args = ["merge", &files[2], &files[0], &files[1], "--json"];
    let mut other = run(&args).record();
    other["argv"] = record["argv"].clone();
    assert_eq!(other, record);

    // The text, also as a report and a page.
    let text = run(&["merge", path(&directory)]).stdout;
    assert!(text.contains("3 of 3 of run run-7 on 1 host"), "{text}");
    let written = written.to_str().unwrap();
    assert_eq!(run(&["report", written]).stdout, text);
    let page = out.path().join("page.html");
    let page = page.to_str().unwrap();
    assert_eq!(run(&["report", written, "-o", page]).code, Some(0));
    assert!(fs::read_to_string(page).unwrap().contains("Ranks of mio"));
    let report = run(&["report", &files[0], &files[1]]).stdout;
    assert!(report.contains("2 of the 3 ranks of run run-7: loadgen merge adds"), "{report}");
}

/// Three ranks that load a server.
#[test]
fn ranks_that_ran_are_added() {
    let server = Server::start(echo);
    let target = server.target();
    let directory = tempfile::tempdir().unwrap();
    let start = SystemTime::now() + Duration::from_millis(1500);
    let start = start.duration_since(UNIX_EPOCH).unwrap().as_secs_f64().to_string();
    let load = ["--target", &target, "--conns", "7", "--rate", "600", "-d", "300ms"];
    let place = ["--ranks", "3", "--start-at", &start, "--run-id", "e2e"];
    let rank = |rank: &str| {
        let more = ["--warmup", "50ms", "--timeout", "1m", "--rank", rank, "-o", path(&directory)];
        Running::start(&mut loadgen(&[&load[..], &place, &more].concat()))
    };
    let ranks = ["0", "1", "2"].map(rank);
    for rank in ranks {
        let finished = rank.finish();
        assert_eq!(finished.code, Some(0), "{finished:#?}");
    }
    let files = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
    let parts: Vec<Record> = files.map(|file| stored(&file)).collect();
    let finished = run(&["merge", path(&directory), "--json"]);
    assert!(matches!(finished.code, Some(0 | 8)), "{finished:#?}");
    let sum: Record = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((sum.conns, sum.ranks.len(), parts.len()), (7, 3, 3));
    assert_eq!(sum.exchanges, parts.iter().map(|part| part.exchanges).sum::<u64>());
    let planned = |record: &Record| record.rate.as_ref().unwrap().planned;
    assert_eq!(planned(&sum), parts.iter().map(planned).sum::<u64>());
    assert!((sum.rate.as_ref().unwrap().planned_per_s - 600.0).abs() < 1e-9);
    let response = |record: &Record| record.latency.response.clone().unwrap();
    let mut histogram = response(&parts[0]).histogram().unwrap();
    for part in &parts[1..] {
        histogram.add(response(part).histogram().unwrap()).unwrap();
    }
    let unanswered = parts.iter().filter_map(|part| response(part).unanswered).sum();
    assert_eq!(Some(response(&sum)), Latency::with_unanswered(&histogram, unanswered));
    assert_eq!(sum.merge.unwrap().run_id, "e2e");
}

#[test]
fn existing_output_is_not_overwritten() {
    let (directory, _) = directory(1);
    let out = directory.path().join("all.txt");
    fs::write(&out, "mine").unwrap();
    let out = out.to_str().unwrap();
    run(&["merge", path(&directory), "-o", out]).assert_complains(2, "EEXIST");
    assert_eq!(run(&["merge", path(&directory), "-o", out, "--force"]).code, Some(0));
    assert_eq!(stored(out.as_ref()).ranks.len(), 1);
}

#[test]
fn missing_rank_needs_partial() {
    let (directory, files) = directory(4);
    fs::remove_file(&files[2]).unwrap();
    let hint = Some("--partial adds the others");
    let finished = run(&["merge", path(&directory)]);
    finished.assert_complains_with(1, "1 of 4 ranks has no record: 2", hint);
    let finished = run(&["merge", path(&directory), "--partial", "--json"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let record = finished.record();
    assert_eq!(record["merge"]["missing"], serde_json::json!([2]));
    assert!(record["warnings"][0].as_str().unwrap().starts_with("missing-ranks: "));
    let text = run(&["merge", path(&directory), "--partial"]).stdout;
    assert!(text.contains("without a record: 2"), "{text}");
    assert!(text.contains("warning        missing-ranks: "), "{text}");
}

#[test]
fn runs_of_a_directory_are_listed_and_chosen() {
    let (directory, _) = directory(2);
    for index in 0..2 {
        let record = rank("4711.0", index, 2, &[5000; 10]);
        write(directory.path(), &format!("other{index}.json"), &record);
    }
    let finished = run(&["merge", path(&directory)]);
    let hint = Some("--run-id ID chooses one");
    finished.assert_complains_with(1, "ranks of 2 runs: 4711.0, run-7", hint);
    for (run_id, exchanges) in [("run-7", 2000), ("4711.0", 20)] {
        let finished = run(&["merge", path(&directory), "--run-id", run_id, "--json"]);
        assert_eq!(finished.record()["exchanges"], exchanges, "{finished:#?}");
    }
    run(&["merge", path(&directory), "--run-id", "x"])
        .assert_complains(1, "no record of run \"x\", but of: 4711.0, run-7");
}

#[test]
fn other_files_are_skipped_in_directories_only() {
    let (directory, files) = directory(2);
    let other = directory.path().join("sample.json");
    fs::write(&other, SAMPLE).unwrap();
    fs::write(directory.path().join("notes.txt"), "no record").unwrap();
    let finished = run(&["merge", path(&directory), "--json"]);
    assert_eq!(finished.record()["exchanges"], 2000);
    assert!(finished.stderr.contains("skipped 1 in "), "{finished:#?}");
    let other = other.to_str().unwrap();
    run(&["merge", &files[0], other]).assert_complains(1, "sample.json: not a record of a rank");
    let empty = tempfile::tempdir().unwrap();
    run(&["merge", path(&empty)]).assert_complains(1, "no record of a rank");
    // A merged record beside its ranks.
    let sum = directory.path().join("sum.json");
    let sum = sum.to_str().unwrap();
    for force in [&[][..], &["--force"]] {
        let finished = run(&[&["merge", path(&directory), "-o", sum][..], force].concat());
        assert_eq!(finished.code, Some(0), "{finished:#?}");
    }
    run(&["merge", sum]).assert_complains(1, "but of ranks that are merged");
}

#[test]
fn damaged_file_is_an_error() {
    let (directory, files) = directory(2);
    let whole = fs::read(&files[1]).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let nan = text.replace("\"duration_s\": 1.0", "\"duration_s\": null");
    let huge = text.replace("\"duration_s\": 1.0", "\"duration_s\": 1e999");
    let many = text.replace("\"exchanges\": 1000", "\"exchanges\": 18446744073709551615");
    let negative = text.replace("\"exchanges\": 1000", "\"exchanges\": -1");
    let count = text.replace("\"count\": 2,", "\"count\": 1000000000,");
    for (bytes, words) in [
        (&whole[..whole.len() / 2], "not JSON"),
        (&whole[..0], "not a record: empty"),
        (nan.as_bytes(), "not a record"),
        (huge.as_bytes(), "not JSON"),
        (many.as_bytes(), "the sum of exchanges over all ranks is too large"),
        (negative.as_bytes(), "not a record"),
        (count.as_bytes(), "1000000000 ranks, and at most 1000000 are possible"),
    ] {
        fs::write(&files[1], bytes).unwrap();
        run(&["merge", path(&directory), "--partial"]).assert_complains(1, words);
    }
    fs::remove_file(&files[1]).unwrap();
    run(&["merge", &files[0], &files[1]]).assert_complains(1, "ENOENT");
}

#[test]
fn result_never_replaces_a_rank() {
    let (directory, files) = directory(2);
    let before = fs::read(&files[1]).unwrap();
    let link = format!("{}/link", path(&directory));
    std::os::unix::fs::symlink(&files[1], &link).unwrap();
    for output in [&files[1], &link] {
        let finished = run(&["merge", path(&directory), "-o", output, "--force"]);
        finished.assert_complains(2, "is one of the records to add");
        assert_eq!(fs::read(&files[1]).unwrap(), before);
    }
}

#[test]
fn exit_code_is_that_of_a_run() {
    let code = |change: fn(&mut Record), args: &[&str]| {
        let (directory, files) = directory(2);
        let mut record = stored(files[1].as_ref());
        change(&mut record);
        fs::remove_file(&files[1]).unwrap();
        write(directory.path(), "1.json", &record);
        let finished = run(&[&["merge", path(&directory), "--json"], args].concat());
        (finished.code.unwrap(), finished.record())
    };
    fn failed(record: &mut Record, kind: &str) {
        let (kind, first) = (kind.to_owned(), "connection 3: it is so".to_owned());
        record.errors = vec![ErrorCount { kind, errno: None, count: 1, first }];
        record.errors_total = 1;
    }
    let nothing = |_: &mut Record| {};
    let (found, record) = code(nothing, &["--fail-if", "p99>5ms", "--fail-if", "errors>0"]);
    assert_eq!((found, &record["thresholds"][1]["held"]), (0, &true.into()));
    // The p99 of 2,000 samples between 1 us and 1 ms.
    let (found, record) = code(nothing, &["--fail-if", "p99>100us"]);
    assert_eq!((found, &record["thresholds"][0]["held"]), (7, &false.into()));
    let p99_ns = record["latency"]["exchange"]["p99_ns"].as_f64();
    assert_eq!(record["thresholds"][0]["value"].as_f64(), p99_ns);
    let (found, record) = code(nothing, &["--fail-if", "p99.99>1s"]);
    assert_eq!((found, &record["valid"]), (8, &false.into()));
    let late = |record: &mut Record| {
        let rank = record.rank.as_mut().unwrap();
        rank.start_unix_us += 40_000;
        rank.met_deadline = false;
    };
    let (found, record) = code(late, &["--fail-if", "p99>100us"]);
    assert_eq!(found, 8);
    let reasons = record["invalid_reasons"].as_array().unwrap();
    let reason = "rank-late: rank 1 started 40.0ms after the agreed instant";
    assert_eq!(reasons, &vec![Value::from(reason)]);
    assert_eq!(code(|record| failed(record, "eof"), &[]).0, 5);
    assert_eq!(code(|record| failed(record, "mismatch"), &["--fail-if", "errors>0"]).0, 6);
}

/// Adds the histograms of a latency of several records, and prints statistics. The rank of a
/// percentile is rounded up, as in the records; the package rounds it to the nearest.
const ADD: &str = "\
import json, math, sys
from hdrh.histogram import HdrHistogram
name, files = sys.argv[1], sys.argv[2:]
sum = HdrHistogram(1, 3600000000000, 3)
for file in files:
    sum.decode_and_add(json.load(open(file))['latency'][name]['hdr_v2'])
count = sum.get_total_count()
found = {'count': count, 'min_ns': sum.get_min_value(), 'max_ns': sum.get_max_value()}
for key, quantile in json.loads(sys.stdin.read()).items():
    rank = math.ceil(quantile * count)
    found[key] = sum.get_value_at_percentile(100 * rank / count)
print(json.dumps(found))
";

/// Quantiles of a record's latencies, by their keys.
const QUANTILES: [(&str, f64); 7] = [
    ("p50_ns", 0.5),
    ("p75_ns", 0.75),
    ("p90_ns", 0.9),
    ("p99_ns", 0.99),
    ("p999_ns", 0.999),
    ("p9995_ns", 0.9995),
    ("p9999_ns", 0.9999),
];

/// The implementation of the standard tools, independent of the one used here.
#[test]
fn merged_percentiles_are_those_of_the_python_implementation() {
    let python = std::env::var("LOCKSTEP_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import hdrh.histogram"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skip("hdrhistogram", format!("{python} does not have this package"));
    }
    let directory = tempfile::tempdir().unwrap();
    let asked = ["p75", "p99.95"].map(|name| name.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(7);
    let mut files = Vec::new();
    for index in 0..4 {
        // Of different sizes and scales, with a long tail.
        let count = 1_000 + 3_000 * index as usize;
        let sample = |_| {
            let exponent = random.f64() * f64::from(14 + index);
            exponent.exp2() as u64 * 1000
        };
        let samples: Vec<u64> = (0..count).map(sample).collect();
        let mut record = rank("run-7", index, 4, &samples);
        record.latency.exchange = record.latency.exchange.map(|latency| latency.with(&asked));
        files.push(write(directory.path(), &format!("{index}.json"), &record));
    }
    let merged = run(&["merge", path(&directory), "--json"]).record();
    let quantiles: serde_json::Map<String, Value> =
        QUANTILES.iter().map(|&(key, quantile)| (key.to_owned(), quantile.into())).collect();
    let input = directory.path().join("quantiles");
    fs::write(&input, Value::from(quantiles).to_string()).unwrap();
    let output = Command::new(&python)
        .args(["-c", ADD, "exchange"])
        .args(&files)
        .stdin(fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let latency = &merged["latency"]["exchange"];
    assert_eq!(latency["count"], 22_000);
    let keys = ["count", "min_ns", "max_ns"];
    for key in keys.into_iter().chain(QUANTILES.map(|(key, _)| key)) {
        assert_eq!(latency[key], found[key], "{key}: {latency} {found}");
    }
}
