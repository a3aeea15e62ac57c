//! The page: complete, harmless with any text, and drawn with finite numbers only.

use fastrand::Rng;
use lockstep_results::Stored;
use lockstep_results::report;
use lockstep_results::{Comparison, Record};
use serde_json::{Number, Value, json};

use crate::{comparison, sample, sweep};

/// A server's name that tries to break out of the escaping.
const HOSTILE: &str =
    "</title></svg><script>alert(1)</script>\"'><img src=x onerror=y>]]>&amp;\u{0}\n";

fn run() -> Record {
    let mut record = sample();
    let interval = |index: u32| {
        json!({
            "start_s": index, "length_s": 1, "exchanges": 1000 + index, "errors": index / 3,
            "p50_ns": 500_000, "p90_ns": 700_000, "p99_ns": 900_000 * (1 + index),
            "max_ns": 40_000_000
        })
    };
    let intervals = (0..5).map(interval).collect();
    record.intervals = serde_json::from_value(Value::Array(intervals)).unwrap();
    record
}

fn documents() -> Vec<(String, Stored)> {
    let sweep = sweep::levels(&[
        (1000, 1, &[]),
        (2000, 1, &[]),
        (4000, 9, &["overloaded: behind"]),
        (3000, 2, &["late: the generator"]),
    ]);
    let mut invalid = run();
    (invalid.valid, invalid.invalid_reasons) = (false, vec!["late: by a millisecond".into()]);
    invalid.environment.kernel = Some("5.19.0-other".into());
    invalid.warnings = vec!["not-steady: it still rose".into()];
    vec![
        ("runs/one.json".into(), Stored::Run(Box::new(run()))),
        ("runs/two.json".into(), Stored::Run(Box::new(invalid))),
        ("runs/three.json".into(), Stored::Comparison(Box::new(comparison::three(8)))),
        ("runs/four.json".into(), Stored::Sweep(Box::new(sweep))),
    ]
}

/// A tag: its name and attributes.
type Tag = (String, Vec<(String, String)>);

/// Tags of a page with their attributes, without style and script; fails if they are not nested.
fn tags(page: &str) -> Vec<Tag> {
    const VOID: [&str; 1] = ["meta"];
    let (mut tags, mut open): (Vec<Tag>, Vec<String>) = Default::default();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("it begins so");
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a bare > in {:?}", &rest[..start]);
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(
                open.pop().as_deref(),
                Some(name),
                "before {:?}",
                &rest[..rest.len().min(80)]
            );
            continue;
        }
        let closed = tag.strip_suffix('/');
        let (name, mut attributes) = split_name(closed.unwrap_or(tag));
        let mut found = Vec::new();
        while let Some((key, after)) = attributes.trim_start().split_once("=\"") {
            let (value, after) = after.split_once('"').expect("a value ends");
            found.push((key.to_owned(), value.to_owned()));
            attributes = after;
        }
        assert_eq!(attributes.trim(), "", "in <{tag}>");
        if closed.is_none() && !VOID.contains(&name) {
            open.push(name.to_owned());
        }
        if name == "style" || name == "script" {
            rest = &rest[rest.find("</").expect("it ends")..];
        }
        tags.push((name.to_owned(), found));
    }
    assert!(open.is_empty(), "{open:?} are not closed");
    tags
}

fn split_name(tag: &str) -> (&str, &str) {
    tag.split_once(' ').unwrap_or((tag, ""))
}

fn count(page: &str, what: &str) -> usize {
    page.matches(what).count()
}

/// Replaces every string or number of a document.
fn change(value: &mut Value, key: &str, with: &mut impl FnMut(&str, &mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, key, with)),
        Value::Object(fields) => fields.iter_mut().for_each(|(key, item)| change(item, key, with)),
        leaf => with(key, leaf),
    }
}

/// The documents after a change of their files; unchanged if they can no longer be read.
fn changed(mut with: impl FnMut(&str, &mut Value)) -> Vec<(String, Stored)> {
    let mut documents = documents();
    for (_, document) in &mut documents {
        match document {
            Stored::Run(record) => **record = altered(&**record, &mut with),
            Stored::Comparison(comparison) => **comparison = altered(&**comparison, &mut with),
            Stored::Sweep(sweep) => **sweep = altered(&**sweep, &mut with),
            _ => {}
        }
    }
    documents
}

fn altered<T>(document: &T, with: &mut impl FnMut(&str, &mut Value)) -> T
where
    T: serde::Serialize + serde::de::DeserializeOwned + Clone,
{
    // One value after the other, so that a rejected one does not prevent the others.
    let mut current = document.clone();
    let leaves = {
        let mut leaves = 0;
        change(&mut serde_json::to_value(document).unwrap(), "", &mut |_, _| leaves += 1);
        leaves
    };
    let mut whole = serde_json::to_value(document).unwrap();
    change(&mut whole, "", with);
    if let Ok(all) = serde_json::from_value(whole.clone()) {
        return all;
    }
    let mut replacements = Vec::new();
    change(&mut whole, "", &mut |_, leaf| replacements.push(leaf.clone()));
    for (index, replacement) in replacements.iter().enumerate().take(leaves) {
        let mut value = serde_json::to_value(&current).unwrap();
        let mut at = 0;
        change(&mut value, "", &mut |_, leaf| {
            if at == index {
                *leaf = replacement.clone();
            }
            at += 1;
        });
        if let Ok(changed) = serde_json::from_value(value) {
            current = changed;
        }
    }
    current
}

#[test]
fn every_chart_has_title_description_and_data() {
    let page = report::page(&documents());
    let tags = tags(&page);
    let charts = count(&page, "<figure class=\"chart\">");
    // The cell: ratios, two metrics, a spectrum. The sweep: three. The runs: a spectrum, two
    // timelines, costs, throughput, fairness.
    assert_eq!(charts, 4 + 3 + 6, "{charts}");
    for part in ["role=\"img\"", "<desc id=", "</title><desc", "<summary>Data</summary>"] {
        assert_eq!(count(&page, part), charts, "{part}");
    }
    for words in [
        "io-uring and blocking against mio",
        "io-uring needs 0.87x",
        "Latency by percentile",
        "Latency over time",
        "Latency against throughput",
        "Fairness",
        "INVALID: these numbers may not be quoted",
        "late: by a millisecond",
        "not-steady: it still rose",
        "1 of 4 runs are INVALID",
        "not the same in all",
        "\u{2260} kernel",
    ] {
        let escaped = words.replace('\'', "&#39;");
        assert!(page.contains(&escaped), "{words}");
    }
    let ids: Vec<&String> = (tags.iter().flat_map(|(_, attributes)| attributes))
        .filter(|(key, _)| key == "id")
        .map(|(_, value)| value)
        .collect();
    for (index, id) in ids.iter().enumerate() {
        assert!(!ids[..index].contains(id), "{id} twice");
    }
}

#[test]
fn page_loads_nothing_from_outside() {
    let page = report::page(&documents());
    assert!(page.contains("default-src 'none'"));
    for (name, attributes) in tags(&page) {
        assert!(!["link", "img", "iframe", "base", "object"].contains(&name.as_str()), "{name}");
        for (key, value) in attributes {
            assert!(!key.starts_with("on") && key != "src" && key != "style", "{key} of {name}");
            assert!(key != "href" || value.starts_with('#'), "{value}");
        }
    }
}

#[test]
fn text_of_a_file_never_becomes_markup() {
    let harmless: Vec<String> =
        tags(&report::page(&documents())).into_iter().map(|(name, _)| name).collect();
    let documents = changed(|key, leaf| {
        if leaf.is_string() && !["hdr_v2", "kind"].contains(&key) {
            *leaf = Value::String(HOSTILE.into());
        }
    });
    let Stored::Run(record) = &documents[0].1 else { panic!("the order is kept") };
    assert_eq!((record.subject.name.as_str(), record.header.argv[0].as_str()), (HOSTILE, HOSTILE));
    let page = report::page(&documents);
    assert!(page.contains("&lt;script&gt;alert(1)"));
    let known = |name: &String| harmless.contains(name);
    for (name, attributes) in tags(&page) {
        assert!(known(&name) && name != "img", "<{name}>");
        assert!(attributes.iter().all(|(key, _)| !key.starts_with("on")), "{attributes:?}");
    }
    assert_eq!(count(&page, "<script>"), 1);
}

#[test]
fn places_are_finite_for_any_numbers() {
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    for round in 0..6 {
        let documents = changed(|key, leaf| {
            let Value::Number(number) = &leaf else { return };
            if key != "schema" && rng.u8(..4) == 0 {
                *leaf = Value::Number(extreme(&mut rng, number));
            }
        });
        let page = report::page(&documents);
        for (name, attributes) in tags(&page) {
            for (key, value) in attributes {
                let place = format!("seed {seed}, round {round}: {name} {key}={value}");
                match key.as_str() {
                    "d" => {
                        let drawn =
                            value.chars().all(|c| "MLHVhvZ. -".contains(c) || c.is_ascii_digit());
                        assert!(drawn, "{place}");
                    }
                    "x" | "y" | "cx" | "cy" | "width" | "height" | "r" => {
                        let number: f64 = value.parse().unwrap_or(f64::NAN);
                        assert!(number.abs() < 1e5, "{place}");
                    }
                    "data-x" | "data-y" | "data-points" | "viewBox" => {
                        assert!(!value.contains("NaN") && !value.contains("inf"), "{place}");
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Another number of the same kind, at an end of the range.
fn extreme(rng: &mut Rng, number: &Number) -> Number {
    if number.is_f64() {
        let values = [0.0, -1.0, 1e-320, 1e308, -1e308, 1e-12, 0.5, 3e9];
        Number::from_f64(values[rng.usize(..values.len())]).unwrap()
    } else {
        [0, 1, 2, 1000, u32::MAX.into(), u64::MAX][rng.usize(..6)].into()
    }
}

#[test]
fn unreadable_distribution_is_reported_and_the_rest_drawn() {
    let (mut broken, whole) = (run(), run());
    broken.subject.name = "broken".into();
    broken.latency.exchange.as_mut().unwrap().hdr_v2 = "no histogram".into();
    let documents = [
        ("a".to_owned(), Stored::Run(Box::new(broken))),
        ("b".to_owned(), Stored::Run(Box::new(whole))),
    ];
    let page = report::page(&documents);
    assert!(page.contains("broken: the distribution cannot be drawn: hdr_v2 is not base64"));
    assert!(page.contains("Latency by percentile"));
}

#[test]
fn page_of_eight_cells_is_below_two_megabytes() {
    let comparison = comparison::three(8);
    let mut cell = comparison.cells[0].clone();
    let names: Vec<String> = (0..8).map(|index| format!("subject-{index}")).collect();
    let one = cell.subjects[1].clone();
    cell.subjects = names
        .iter()
        .map(|name| {
            let mut subject = one.clone();
            subject.name.clone_from(name);
            subject
        })
        .collect();
    let cells = (0..8).map(|index| {
        let mut cell = cell.clone();
        cell.conns = 1 << index;
        cell
    });
    let mut plan = comparison.plan.clone();
    (plan.baseline, plan.subjects) = (names[0].clone(), names);
    let large = Comparison { cells: cells.collect(), plan, ..comparison };
    let page = report::page(&[("large.json".to_owned(), Stored::Comparison(Box::new(large)))]);
    assert!(page.len() < 2 << 20, "{} bytes", page.len());
    tags(&page);
}
