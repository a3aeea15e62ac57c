//! Bursts of new connections: text and files.

use lockstep_results::backlog::{Counters, Depth, Kernel};
use lockstep_results::storm::{BySyn, Queue};
use lockstep_results::{Document, ErrorCount, Latencies, Stored, Storm, Storms, store};
use tempfile::tempdir;

use crate::{header, sample};

/// 2,000 connections, by the number of SYNs they needed.
fn storm(by_syn: &[u64], overflows: i64) -> Storm {
    let sample = sample();
    let by_syn = by_syn.iter().zip(1..).map(|(&connections, syn)| BySyn {
        syn,
        connections,
        connect_p50_ns: u64::from(syn - 1) * 1_020_000_000 + 30_000,
    });
    Storm {
        header: header("storm"),
        interrupted: false,
        subject: sample.subject.clone(),
        placement: None,
        kernel: Kernel::default(),
        conns: 2000,
        rate_per_s: None,
        exchanges_each: 1,
        sources: Vec::new(),
        size: 64,
        close: "fin".into(),
        issued_s: 0.0425,
        length_s: 2.0,
        completed: 2000,
        unfinished: 0,
        errors_total: 0,
        errors: Vec::new(),
        latency: Latencies { connect: sample.latency.exchange.clone(), ..Latencies::default() },
        by_syn: by_syn.collect(),
        resent: 0,
        queue: Some(Queue {
            listeners: 2,
            limit: 16,
            depth: vec![Depth { at_s: 0.0, depth: 34 }, Depth { at_s: 1.0, depth: 0 }],
        }),
        counters: Counters::from([("ListenOverflows".to_owned(), overflows)]),
        notes: Vec::new(),
        environment: sample.environment,
    }
}

#[test]
fn storm_text_names_the_signature_of_an_overflow() {
    assert_eq!(
        storm(&[1990, 10], 312).signature(),
        [
            "p99.9 of connect is one SYN retry: the accept queue overflowed 312 times, and 10 of 2000 \
          connections needed more than one SYN"
        ]
    );
    for (by_syn, words) in [
        (&[1999, 1][..], "max of connect is one SYN retry: "),
        (&[1990, 0, 10], "p99.9 of connect is 2 SYN retries: "),
        (&[1900, 100], "p99 of connect is one SYN retry: "),
        (&[1500, 400, 100], "p90 of connect is one SYN retry: "),
        (&[400, 1500, 100], "p50 of connect is one SYN retry: "),
    ] {
        let [sentence] = &storm(by_syn, 1).signature()[..] else { panic!("one sentence") };
        assert!(sentence.starts_with(words), "{sentence}");
        assert!(sentence.contains("overflowed 1 time,"), "{sentence}");
    }
}

#[test]
fn storm_text_without_a_lost_syn_does_not_blame_the_queue() {
    assert_eq!(storm(&[2000], 0).signature(), ["no SYN was lost: the accept queue had room"]);
    let [sentence] = &storm(&[2000], 7).signature()[..] else { panic!("one sentence") };
    assert!(sentence.contains("or another in this network namespace"), "{sentence}");
    let [sentence] = &storm(&[1000, 1000], 0).signature()[..] else { panic!("one sentence") };
    assert!(sentence.contains("lost elsewhere"), "{sentence}");
    let mut unknown = storm(&[], 0);
    unknown.counters.clear();
    unknown.resent = 1;
    let [none, resent] = &unknown.signature()[..] else { panic!("two sentences") };
    assert!(none.starts_with("no SYN was lost") && resent.starts_with("1 connection had to send"));
}

#[test]
fn storm_text_has_all_parts_and_fits() {
    let mut storm = storm(&[1500, 450, 0, 50], 312);
    storm.resent = 20;
    storm.errors_total = 3;
    storm.errors.push(ErrorCount {
        kind: "timeout".into(),
        errno: None,
        count: 3,
        first: "connection 7: connected, but no whole reply within 30s \x1b[2J ".repeat(4),
    });
    storm.notes.push("rate-missed: the last connect was issued 70 ms later than planned".into());
    let text = Storms::from(storm).text();
    let flat = text.replace("\n    ", " ");
    for words in [
        "\nnote           rate-missed: the last",
        "2000 connections at once (in 42.5 ms), 1 exchange of 64 bytes each, closed by FIN",
        "2000 served, 3 failed, 0 unfinished in 2.00 s: 1.000k connections/s",
        "SYN 2      1.02s      450 █",
        "SYN 3          -        0\n",
        "max 34 of 34",
        "p90 of connect is one SYN retry: the accept queue overflowed 312 times",
        "20 connections had to send a request again",
        "timeout      -                      3   connection 7",
    ] {
        assert!(flat.contains(words), "{words} is missing in\n{text}");
    }
    assert!(!text.contains('\x1b'));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn storm_file_round_trips() {
    let folder = tempdir().unwrap();
    let stored = Storms::from(storm(&[2000], 0));
    let path = store::write(&stored, folder.path(), false).unwrap();
    assert!(path.to_str().unwrap().contains("-storm-"), "{path:?}");
    match store::read(&path).unwrap() {
        Stored::Storms(read) => assert_eq!(*read, stored),
        other => panic!("{other:?}"),
    }
    let file: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!((&file["kind"], &file["conns"]), (&"storm".into(), &2000.into()));
}

#[test]
fn several_storms_are_one_table_and_one_file() {
    let mut shards = storm(&[1000, 1000], 1000);
    (shards.subject.shards, shards.subject.backlog) = (Some(12), Some(16));
    shards.subject.name = "io-uring".into();
    let mut unknown = storm(&[], 0);
    unknown.subject.name = "a target with a name that is long".into();
    (unknown.latency, unknown.counters) = (Latencies::default(), Counters::new());
    let stored = Storms::of(vec![shards, unknown]);
    let text = stored.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    let row: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(row[..6], ["io-uring", "x", "12", "16", "2000", "1.000k"], "{text}");
    assert_eq!(row[8..], ["1000", "1000", "0"], "{text}");
    assert!(lines[2].contains("  -  "), "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    let folder = tempdir().unwrap();
    let path = store::write(&stored, folder.path(), false).unwrap();
    assert!(path.to_str().unwrap().ends_with("-storms-2.json"), "{path:?}");
    match store::read(&path).unwrap() {
        Stored::Storms(read) => assert_eq!(*read, stored),
        other => panic!("{other:?}"),
    }
}
