//! A table of few connections and many: what its text says, and its file.

use lockstep_results::store::{self, Document};
use lockstep_results::{Crowd, ErrorCount, Latencies, Many, Omitted, SCHEMA};
use tempfile::tempdir;

use crate::sample;

fn crowd(conns: u32) -> Crowd {
    let sample = sample();
    Crowd {
        subject: sample.subject,
        conns,
        server_processes: 3,
        client_processes: 3,
        server_cpus: "0".into(),
        client_cpus: "1".into(),
        invalid_reasons: Vec::new(),
        warnings: Vec::new(),
        opening_s: 4.0,
        opened_per_s: 12_500.4,
        open_cpu_us_per_connection: 40.07,
        accepted: vec![3, 4, 5],
        server_memory_bytes: u64::from(conns) * 45,
        kernel_memory_bytes: i64::from(conns) * 10_752,
        tcp_memory_bytes: -4096,
        warmup_s: 2.5,
        duration_s: 1.0,
        exchanges: 48_976,
        throughput_per_s: 48_976.0,
        server_cpu_us_per_exchange: 15.84,
        client_cpu_us_per_exchange: 13.02,
        limit: "both".into(),
        latency: Latencies { exchange: sample.latency.exchange, ..Latencies::default() },
        unserved: 0,
        errors_total: 0,
        errors: Vec::new(),
    }
}

fn many(crowds: Vec<Crowd>) -> Many {
    Many {
        schema: SCHEMA,
        kind: "many".into(),
        tool: "loadgen".into(),
        version: "0.1.0".into(),
        started: "2026-11-23T12:24:05.678Z".into(),
        argv: vec!["loadgen".into(), "many".into()],
        seed: 1,
        interrupted: false,
        size: 64,
        engine: "epoll".into(),
        placement: "apart".into(),
        server_spin_ns: None,
        crowds,
        omitted: Vec::new(),
        environment: sample().environment,
    }
}

#[test]
fn memory_is_told_where_it_is_that_of_connections() {
    let text = many(vec![crowd(10), crowd(50_000)]).text();
    let row = |line: usize| text.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>();
    let few = row(3);
    assert_eq!(few[1..7], ["10", "3", "12.50k", "40.1us", "-", "-"], "{text}");
    let crowd = row(4);
    assert_eq!(crowd[1..9], ["50000", "3", "12.50k", "40.1us", "45B", "10KiB", "48.98k", "15.8us"]);
    assert_eq!(crowd[10..], ["both", "0"], "{text}");
}

#[test]
fn what_is_wrong_is_said_and_fits() {
    let mut wrong = crowd(1000);
    wrong.invalid_reasons.push("miscount: the server counted 1 exchanges, the generator 2".into());
    wrong.warnings.push("debug-build: \x1b[2J".repeat(20));
    (wrong.errors_total, wrong.exchanges, wrong.unserved) = (7, 0, 9);
    let first = "connection 7: reset".to_owned();
    wrong.errors.push(ErrorCount { kind: "receive".into(), errno: None, count: 7, first });
    let mut many = many(vec![wrong]);
    many.interrupted = true;
    many.server_spin_ns = Some(50_000);
    let omitted = Omitted { backend: "blocking".into(), conns: 50_000, reason: "threads".into() };
    many.omitted.push(omitted);
    let text = many.text();
    for words in [
        "64 bytes a request, apart, polling for 50.0us",
        " INVALID      9\n",
        "with 1000: miscount: the server counted 1 exchanges",
        "receive - 7: connection 7: reset",
        "left out: blocking with 50000: threads",
        "interrupted",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    assert!(!text.contains('\x1b'));
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn a_file_gives_back_what_was_stored() {
    let folder = tempdir().unwrap();
    let stored = many(vec![crowd(10)]);
    let path = store::write(&stored, folder.path(), false).unwrap();
    assert!(path.to_str().unwrap().ends_with("-many.json"), "{path:?}");
    match store::read_any(&path).unwrap() {
        Document::Many(read) => assert_eq!(*read, stored),
        other => panic!("{other:?}"),
    }
    let error = store::read(&path).unwrap_err().to_string();
    assert!(error.contains("shown alone"), "{error}");
}
