//! Layout that scripts rely on.

use lockstep_results::{Document, Latency, Record, SCHEMA, Sent};
use serde_json::Value;

use crate::{SAMPLE, sample};

#[test]
fn sample_round_trips() {
    let written = serde_json::to_value(sample()).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(SAMPLE).unwrap());
}

/// Keys of `loadgen --json` that are promised to scripts. Renaming one of them is a change of
/// [`SCHEMA`].
#[test]
fn promised_keys_exist() {
    let record = serde_json::to_value(sample()).unwrap();
    let mut promised: Vec<String> = [
        "/schema",
        "/valid",
        "/invalid_reasons",
        "/subject",
        "/conns",
        "/size",
        "/duration_s",
        "/exchanges",
        "/throughput_per_s",
        "/errors_total",
        "/errors/0/kind",
        "/errors/0/errno",
        "/errors/0/count",
        "/errors/0/first",
        "/client/cpu_us_per_exchange",
        "/server/cpu_us_per_exchange",
        "/fairness/min",
        "/fairness/max",
        "/fairness/jain",
        "/unserved",
        "/environment",
        "/argv",
        "/seed",
    ]
    .map(str::to_owned)
    .into();
    for timed in ["connect", "first_exchange", "exchange"] {
        for value in
            ["count", "min_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "p9999_ns", "max_ns"]
        {
            promised.push(format!("/latency/{timed}/{value}"));
        }
    }
    for key in promised {
        assert!(record.pointer(&key).is_some(), "{key} is missing");
    }
    assert_eq!(record["schema"], SCHEMA);
}

#[test]
fn inapplicable_keys_are_absent() {
    let mut record = sample();
    record.server = None;
    record.server_statistics = None;
    record.fairness = None;
    record.latency = Default::default();
    record.environment = Default::default();
    record.subject.backend = None;
    record.subject.shards = None;
    record.subject.backlog = None;
    let text = serde_json::to_string(&record).unwrap();
    assert!(!text.contains("null"), "{text}");
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
}

/// A reader of this version accepts a record of a later version with the same schema number.
#[test]
fn unknown_keys_are_ignored() {
    let mut value: Value = serde_json::from_str(SAMPLE).unwrap();
    value["later"] = serde_json::json!({ "planned_per_s": 1000.0 });
    value["environment"]["new"] = true.into();
    assert_eq!(serde_json::from_value::<Record>(value).unwrap(), sample());
}

#[test]
fn percentiles_agree_with_another_implementation() {
    let latency = sample().latency;
    for stated in [latency.connect, latency.first_exchange, latency.exchange] {
        let stated = stated.unwrap();
        let found = Latency::from_histogram(&stated.histogram().unwrap()).unwrap();
        assert_eq!(Latency { hdr_v2: stated.hdr_v2.clone(), ..found }, stated);
    }
}

#[test]
fn run_text_explains_what_it_does_not_know() {
    let mut record = sample();
    (record.latency.connect, record.latency.first_exchange) = (None, None);
    record.client.syscalls_per_exchange = Some(2.0);
    assert!(!record.text().contains("\n-: "), "{}", record.text());
    record.latency.exchange.as_mut().unwrap().count = 5;
    record.client.syscalls_per_exchange = None;
    record.limit = "unknown".into();
    record.subject.spin_ns = Some(50_000);
    let text = record.text();
    for words in [
        "\n-: too few values for this percentile\n",
        "\n-: not measured\n",
        "unknown: the server polls, so it is busy even without load",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    record.server = None;
    assert!(record.text().contains("unknown: the server's CPU time cannot be read from here"));
}

#[test]
fn run_text_ends_where_nothing_was_sent() {
    let nothing = Sent { first_exchanges: 0, warmup: 0, window: 0, after: 0, total: 0 };
    let text = Record { sent: Some(nothing), ..sample() }.text();
    assert!(text.contains("\nsent           0 requests\n"), "{text}");
    let some = Sent { first_exchanges: 2, total: 2, ..nothing };
    let text = Record { sent: Some(some), ..sample() }.text();
    assert!(text.contains("\nsent           2 requests in all: 2 first exchanges\n"), "{text}");
}
