//! Files of comparisons.

use lockstep_results::statistics::Ratio;
use lockstep_results::{Comparison, SCHEMA};
use serde_json::Value;

use super::{plan, runs, three};

#[test]
fn comparison_file_round_trips_and_stays_readable() {
    let subjects = [("a", 1.0), ("b", 1.1), ("c", 0.9), ("d", 1.0), ("e", 1.2)];
    let names: Vec<&str> = subjects.iter().map(|&(name, _)| name).collect();
    let mut all = Vec::new();
    for (conns, size) in [(64, 64), (64, 1024), (1000, 64), (1000, 1024)] {
        for mut run in runs(10, &subjects) {
            (run.record.conns, run.record.size) = (conns, size);
            run.file = Some(format!("runs/{}-{}-{conns}x{size}.json", run.round, run.subject));
            all.push(run);
        }
    }
    let comparison = Comparison::judge(plan(&names), &all);
    let text = serde_json::to_string_pretty(&comparison).unwrap();
    assert!(!text.contains("null"), "what does not apply is absent");
    let read: Comparison = serde_json::from_str(&text).unwrap();
    assert!(same(
        &serde_json::to_value(&read).unwrap(),
        &serde_json::to_value(&comparison).unwrap()
    ));
    assert!(text.len() < 400_000 && text.lines().count() < 8000, "{} bytes", text.len());

    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["schema"], SCHEMA);
    for key in [
        "/kind",
        "/tool",
        "/version",
        "/started",
        "/argv",
        "/seed",
        "/baseline",
        "/rounds",
        "/environment/kernel",
        "/cells/0/conns",
        "/cells/0/size",
        "/cells/0/subjects/1/name",
        "/cells/0/subjects/1/runs/0/values/server_cpu_us_per_exchange",
        "/cells/0/subjects/1/runs/0/record",
        "/cells/0/subjects/1/metrics/server_cpu_us_per_exchange/median",
        "/cells/0/subjects/1/metrics/server_cpu_us_per_exchange/ratio/low",
        "/cells/0/subjects/1/metrics/server_cpu_us_per_exchange/ratio/verdict",
    ] {
        assert!(value.pointer(key).is_some(), "{key} is missing");
    }
    assert_eq!(value["kind"], "comparison");
    assert_eq!(value["primary"], "server_cpu_us_per_exchange");
    // A reader of this version accepts a file of a later version with the same schema number.
    let mut later = value;
    later["cells"][0]["new"] = true.into();
    later["cells"][0]["subjects"][0]["metrics"]["new"] = true.into();
    assert_eq!(serde_json::from_value::<Comparison>(later).unwrap(), read);
}

/// Equal except for the last digit of a number, which the parser may miss.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-15 * b.abs()
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[test]
fn verdicts_follow_from_the_file() {
    let comparison = three(10);
    let values = |subject: usize| {
        comparison.cells[0].subjects[subject]
            .runs
            .iter()
            .map(|run| run.values.server_cpu_us_per_exchange.unwrap())
    };
    let pairs: Vec<(f64, f64)> = values(0).zip(values(1)).collect();
    let stated = comparison.cells[0].subjects[1].ratio(comparison.primary);
    assert_eq!(Ratio::of(&pairs, 1).as_ref(), stated);
}
