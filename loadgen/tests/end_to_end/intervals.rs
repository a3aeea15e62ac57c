//! Intervals: lines during the run, interval logs, and the record agree.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use lockstep_results::{Interval, Latencies, Latency, Record, Stored};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Finished, Running, Server, echo, loadgen, run, skip};

/// The sum of an interval log's histograms by tag, and its number of lines.
fn sums(path: &Path) -> (BTreeMap<String, Histogram<u64>>, usize) {
    let text = fs::read(path).unwrap();
    let (mut sums, mut lines) = (BTreeMap::<String, Histogram<u64>>::new(), 0);
    for entry in IntervalLogIterator::new(&text) {
        let LogEntry::Interval(line) = entry.expect("every line parses") else { continue };
        let payload = base64_decode(line.encoded_histogram());
        let found: Histogram<u64> = Deserializer::new().deserialize(&mut &payload[..]).unwrap();
        let tag = line.tag().expect("every line has a tag").as_str().to_owned();
        // Each line has a range of its own.
        let sum = sums.entry(tag).or_insert_with(|| Histogram::new(3).unwrap());
        sum.add(&found).unwrap();
        lines += 1;
    }
    (sums, lines)
}

fn base64_decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.decode(text).unwrap()
}

/// Asserts that the intervals follow each other without gaps and add up to the record.
#[track_caller]
fn assert_adds_up(record: &Record, hlog: &Path) {
    let intervals = &record.intervals;
    let mut end_s = 0.0;
    for interval in intervals {
        assert!((interval.start_s - end_s).abs() < 1e-6, "{intervals:#?}");
        end_s = interval.start_s + interval.length_s;
    }
    assert!((end_s - record.duration_s).abs() < 1e-6, "{end_s} of {}", record.duration_s);
    let exchanges: u64 = intervals.iter().map(|interval| interval.exchanges).sum();
    assert_eq!(exchanges, record.exchanges);
    let (sums, _) = sums(hlog);
    let main = record.latency.response.as_ref().or(record.latency.exchange.as_ref()).unwrap();
    let max_ns = intervals.iter().filter_map(|interval| interval.max_ns).max();
    assert_eq!(max_ns, Some(main.max_ns));
    let Latencies { exchange, response, service, lateness, .. } = &record.latency;
    for (name, latency) in [
        ("exchange", exchange),
        ("response", response),
        ("service", service),
        ("lateness", lateness),
    ] {
        let whole = latency.as_ref().map(|latency| latency.histogram().unwrap());
        assert_eq!(sums.get(name), whole.as_ref(), "{name}");
    }
}

fn record(finished: &Finished) -> Record {
    serde_json::from_value(finished.record()).unwrap()
}

#[test]
fn intervals_add_up_to_the_record() {
    let server = Server::start(echo);
    let target = server.target();
    let directory = tempfile::tempdir().unwrap();
    for load in [&[][..], &["--rate", "2k"], &["--rate", "3k", "--arrivals", "poisson"]] {
        for threads in ["1", "2"] {
            for end in [["-d", "330ms"], ["-n", "700"]] {
                let name = format!("{}{threads}{}.hlog", load.join(""), end[0]);
                let hlog = directory.path().join(name);
                let args = ["--target", &target, "--conns", "8", "--threads", threads, "--json"];
                let more = ["--interval", "100ms", "--warmup", "50ms", "--hlog"];
                let hlog_text = hlog.to_str().unwrap();
                let finished = run(&[&args[..], load, &end, &more, &[hlog_text]].concat());
                finished.assert_measured();
                let record = record(&finished);
                assert_adds_up(&record, &hlog);
                match end[0] {
                    "-d" => {
                        assert_eq!(record.intervals.len(), 4);
                        assert!((record.intervals[3].length_s - 0.03).abs() < 1e-6);
                    }
                    _ => assert_eq!(record.exchanges, 700),
                }
            }
        }
    }
}

#[test]
fn failures_are_counted_in_their_interval() {
    // The first request of the loop ends each connection.
    let server = Server::start(|stream, _| {
        let mut first = true;
        crate::harness::echo_with(stream, move |_| std::mem::take(&mut first));
    });
    let args = ["--target", &server.target(), "--conns", "3", "--warmup", "0", "--json"];
    let record = record(&run(&[&args[..], &["-d", "60s"]].concat()));
    assert_eq!(record.intervals.iter().map(|interval| interval.errors).sum::<u64>(), 3);
    assert_eq!(record.intervals[0].errors, 3);
    assert_eq!(record.intervals[0].p50_ns, None, "a percentile of nothing");
}

/// The output of `--json-lines` from a run that is interrupted after its first line.
fn interrupt_after_one_interval(args: &[&str]) -> (Vec<Value>, Finished) {
    let mut running = Running::start(&mut loadgen(args));
    let stdout = running.0.as_mut().and_then(|child| child.stdout.take()).unwrap();
    let mut lines = BufReader::new(stdout).lines();
    let parse = |line: String| serde_json::from_str::<Value>(&line).unwrap();
    let mut values = vec![parse(lines.next().unwrap().unwrap())];
    running.signal(Signal::INT);
    values.extend(lines.map(|line| parse(line.unwrap())));
    (values, running.finish())
}

#[test]
fn json_lines_are_printed_during_the_run_and_survive_sigint() {
    let server = Server::start(echo);
    let target = server.target();
    let directory = tempfile::tempdir().unwrap();
    for (name, load) in [("closed", &[][..]), ("open", &["--rate", "1k"])] {
        let hlog = directory.path().join(name);
        let hlog_text = hlog.to_str().unwrap();
        let args = ["--target", &target, "--conns", "4", "-d", "100s", "--warmup", "0"];
        let stored = directory.path().join(format!("{name}-stored.json"));
        let stored_text = stored.to_str().unwrap();
        let more = ["--interval", "50ms", "--json-lines", "--hlog", hlog_text, "-o", stored_text];
        let (values, finished) = interrupt_after_one_interval(&[&args[..], load, &more].concat());
        assert_eq!(finished.code, Some(130), "{finished:#?}");
        let (run, intervals) = values.split_last().unwrap();
        assert_eq!((&run["kind"], &run["interrupted"]), (&"run".into(), &true.into()));
        let record: Record = serde_json::from_value(run.clone()).unwrap();
        assert_adds_up(&record, &hlog);
        let read = lockstep_results::store::read(&stored).unwrap();
        assert_eq!(read, Stored::Run(Box::new(record.clone())));
        assert!(intervals.iter().all(|interval| interval["kind"] == "interval"));
        let printed: Vec<Interval> =
            intervals.iter().map(|v| serde_json::from_value(v.clone()).unwrap()).collect();
        assert_eq!(printed, record.intervals);
        // The last line is a record.
        let path = directory.path().join(format!("{name}.json"));
        fs::write(&path, run.to_string()).unwrap();
        let report = crate::harness::run(&["report", path.to_str().unwrap()]);
        assert_eq!(report.code, Some(0), "{report:#?}");
        // All lines are read like the record alone, from a file or a pipe.
        let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
        fs::write(&path, lines).unwrap();
        let mut command = loadgen(&["report", "-", path.to_str().unwrap()]);
        let both = command.stdin(fs::File::open(&path).unwrap()).output().unwrap();
        let both = Finished::of(both);
        assert_eq!(both.code, Some(0), "{both:#?}");
        assert!(both.stdout.contains("standard input"), "{both:#?}");
    }
}

#[test]
fn interval_lines_precede_the_report() {
    let server = Server::start(echo);
    let target = server.target();
    let args = ["--target", &target, "--conns", "4", "-d", "250ms", "--warmup", "0"];
    let finished = run(&[&args[..], &["--interval", "100ms"]].concat());
    finished.assert_measured();
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert!(lines[0].starts_with("interval       exchanges/s      p50"), "{finished:#?}");
    for (line, start) in lines[1..4].iter().zip(["0.0-0.1 s ", "0.1-0.2 s ", "0.2-0.2 s "]) {
        assert!(line.starts_with(start), "{finished:#?}");
    }
    assert_eq!(lines[4], "");
    // --json prints only the record. Without --interval there are no lines.
    let record = record(&run(&[&args[..], &["--interval", "100ms", "--json"]].concat()));
    assert_eq!(record.intervals.len(), 3);
    let finished = run(&args);
    assert!(!finished.stdout.contains("interval "), "{finished:#?}");
}

#[test]
fn hlog_is_not_overwritten_without_force() {
    let server = Server::start(echo);
    let target = server.target();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.hlog");
    let path = path.to_str().unwrap();
    fs::write(path, "mine").unwrap();
    let args = ["--target", &target, "--conns", "1", "-n", "10", "--warmup", "0", "--hlog", path];
    run(&args).assert_complains(2, "exists");
    assert_eq!(fs::read_to_string(path).unwrap(), "mine");
    run(&[&args[..], &["--force"]].concat()).assert_measured();
    assert_eq!(sums(Path::new(path)).0["exchange"].len(), 10);
}

/// Prints the count and some percentiles for each tag of a log.
const DECODE: &str = "\
import sys
from hdrh.log import HistogramLogReader
from hdrh.histogram import HdrHistogram
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 3600000000000, 3))
sums = {}
while (found := reader.get_next_interval_histogram()) is not None:
    sums.setdefault(found.get_tag(), HdrHistogram(1, 3600000000000, 3)).add(found)
for tag, sum in sums.items():
    at = sum.get_value_at_percentile
    print(tag, sum.get_total_count(), at(50), at(99.9), sum.get_max_value())
";

/// The implementation of the standard tools, independent of the one used here.
#[test]
fn hlog_is_read_by_the_python_implementation() {
    let python = std::env::var("LOCKSTEP_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import hdrh.log"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skip("hdrhistogram", format!("{python} does not have this package"));
    }
    let server = Server::start(echo);
    let target = server.target();
    let directory = tempfile::tempdir().unwrap();
    // With 4,000 values the ranks are whole numbers, which the two do not round differently.
    for (name, load) in [("closed", &[][..]), ("open", &["--rate", "10k"])] {
        let path = directory.path().join(name);
        let path = path.to_str().unwrap();
        let args = ["--target", &target, "--conns", "8", "-n", "4000", "--warmup", "0"];
        let more = ["--interval", "100ms", "--json", "--hlog", path];
        let finished = run(&[&args[..], load, &more].concat());
        let record = record(&finished);
        let Latencies { exchange, response, service, lateness, .. } = record.latency;
        let expected = |(name, latency): (&str, Option<Latency>)| {
            let Latency { count, p50_ns, p999_ns, max_ns, .. } = latency?;
            Some(format!("{name} {count} {p50_ns} {p999_ns} {max_ns}\n"))
        };
        let latencies = [
            ("exchange", exchange),
            ("response", response),
            ("service", service),
            ("lateness", lateness),
        ];
        let expected: String = latencies.into_iter().filter_map(expected).collect();
        let decoded = Command::new(&python).args(["-c", DECODE, path]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&decoded.stdout), expected, "{decoded:?}");
    }
}
