//! Sweeps: points of runs, text, and files.

use lockstep_results::{
    Axis, Bound, Document, IdleMemory, Latencies, Opening, Outcome, Point, Purpose, Rate, Record,
    SloResult, Stored, Sweep, SweepPlan, report, store,
};
use tempfile::tempdir;

use crate::{header, sample};

/// A run at a rate, with latencies that are multiples of the sample's.
fn run(rate: u64, p99_ms: u64, reasons: &[&str]) -> Record {
    let mut record = sample();
    let mut response = record.latency.exchange.take().unwrap();
    (response.p50_ns, response.p99_ns) = (p99_ms * 500_000, p99_ms * 1_000_000);
    record.latency = Latencies { response: Some(response), ..Latencies::default() };
    record.load = "open".into();
    record.rate = Some(Rate {
        planned_per_s: rate as f64,
        achieved_per_s: rate as f64,
        arrivals: "constant".into(),
        planned: rate,
        unsent: 0,
        waited: 0,
        own_lateness_p99_ns: None,
        spin_ns: 0,
    });
    record.throughput_per_s = rate as f64;
    record.errors_total = 0;
    record.invalid_reasons = reasons.iter().map(|&reason| reason.to_owned()).collect();
    record.valid = reasons.is_empty();
    record
}

fn sweep(points: Vec<Point>) -> Sweep {
    let plan = SweepPlan {
        header: header("sweep"),
        subject: "mio".into(),
        service: "echo".into(),
        axis: Axis::Rate,
        levels: points.iter().map(|point| point.level).collect(),
        rounds: 1,
        conns: Some(64),
        rate_per_s: None,
        arrivals: Some("constant".into()),
        placement: None,
        server_spin_ns: None,
        size: 64,
        warmup_s: 0.5,
        duration_s: 2.0,
    };
    let mut sweep = Sweep {
        plan,
        interrupted: false,
        points,
        omitted: Vec::new(),
        knee: None,
        slo: None,
        floor: None,
        environment: sample().environment,
    };
    sweep.knee = sweep.find_knee();
    sweep
}

pub(crate) fn levels(runs: &[(u64, u64, &[&str])]) -> Sweep {
    let point = |&(rate, p99_ms, reasons): &(u64, u64, &[&str])| {
        Point::of(rate as f64, 1, Purpose::Level, &run(rate, p99_ms, reasons))
    };
    sweep(runs.iter().map(point).collect())
}

#[test]
fn overload_is_a_point_and_generator_limit_is_invalid() {
    let outcome = |reasons| Point::of(1000.0, 1, Purpose::Level, &run(1000, 1, reasons)).outcome;
    assert_eq!(outcome(&[]), Outcome::Ok);
    assert_eq!(outcome(&["overloaded: the server kept all busy"]), Outcome::Overloaded);
    assert_eq!(outcome(&["overloaded: so", "rate-missed: 80 %"]), Outcome::Overloaded);
    assert_eq!(outcome(&["rate-missed: 80 %"]), Outcome::Invalid);
    assert_eq!(outcome(&["overloaded: so", "late: the generator"]), Outcome::Invalid);
    assert_eq!(outcome(&["something without a group"]), Outcome::Invalid);
}

#[test]
fn sweep_text_names_the_knee() {
    let sweep = levels(&[
        (40_000, 90, &["overloaded: the server was the limit"]),
        (10_000, 1, &[]),
        (30_000, 2, &[]),
        (20_000, 50, &["late: the generator itself was late"]),
    ]);
    let knee = sweep.knee.as_ref().unwrap();
    assert_eq!((knee.level, knee.p99_ns), (30_000.0, Some(2e6)));
    let text = sweep.text();
    for words in [
        "the knee is at 30.00k/s: p99 of the response is 2.00ms; at 40.00k/s the server is",
        "INVALID at 20.00k/s: late: the generator itself was late",
        "|    20.00k |     20.00k | 25.0ms | 50.0ms |",
        "| INVALID late |",
        "|   overloaded |",
        "random order, seed 1",
    ] {
        assert!(text.replace("\n    ", " ").contains(words), "{words} is missing in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    // One row for each level, in their order.
    let rows: Vec<&str> = text.lines().filter(|line| line.contains("00k |")).collect();
    assert_eq!(rows.len(), 4, "{text}");
    assert!(rows.is_sorted(), "{text}");
}

#[test]
fn sweep_picture_has_every_level_that_counts() {
    let sweep = levels(&[
        (10_000, 1, &[]),
        (20_000, 3, &[]),
        (30_000, 9, &["late: so"]),
        (40_000, 81, &["overloaded: so"]),
    ]);
    let picture = sweep.picture().join("\n");
    let plot = picture.rsplit_once('+').unwrap().0;
    let marks = |mark| plot.matches(mark).count();
    assert_eq!((marks('o'), marks('*'), marks('x')), (3, 2, 1), "{picture}");
    let top = picture.lines().next().unwrap();
    assert!(top.trim_start().starts_with("81.0ms |") && top.ends_with('x'), "{picture}");
    assert!(levels(&[(10_000, 1, &[])]).picture().is_empty());
}

#[test]
fn sweep_text_without_a_knee_says_why() {
    let (ok, full) = (&[][..], &["overloaded: so"][..]);
    for (runs, words) in [
        (&[(10_000, 1, ok), (15_000, 1, ok), (20_000, 1, ok)][..], "no knee up to 20.00k/s"),
        (&[(10_000, 1, full), (15_000, 1, full), (20_000, 1, full)], "knee is below 10.00k/s"),
        (&[(10_000, 1, ok), (15_000, 1, full), (20_000, 1, ok)], "kept up at 20.00k/s but not at"),
        (&[(10_000, 1, ok), (20_000, 1, full)], "2 levels with a valid run, and it takes three"),
        (&[(10_000, 1, ok), (15_000, 1, &["late: so"]), (20_000, 1, full)], "2 levels with"),
        (&[(10_000, 1, &["late: so"])], "no level counts"),
    ] {
        let text = levels(runs).text();
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
}

#[test]
fn sweep_table_has_one_row_for_a_level() {
    let mut points = Vec::new();
    for (round, p99_ms) in [(1, 1), (2, 9), (3, 2)] {
        points.push(Point::of(10_000.0, round, Purpose::Level, &run(10_000, p99_ms, &[])));
    }
    points.push(Point::of(10_000.0, 4, Purpose::Level, &run(10_000, 99, &["late: so"])));
    let text = sweep(points).text();
    assert!(text.contains("2.00ms |"), "the median: {text}");
    assert!(text.contains("ok (1 of 4 "), "{text}");
}

#[test]
fn sweep_text_of_a_search_names_the_rate() {
    let held = |rate, p99_ms, purpose, held| {
        let point = Point::of(rate as f64, 1, purpose, &run(rate, p99_ms, &[]));
        Point { held: Some(held), ..point }
    };
    let mut sweep = sweep(vec![
        held(10_000, 1, Purpose::Search, true),
        held(20_000, 4, Purpose::Search, false),
        held(10_000, 2, Purpose::Confirm, true),
        held(5_000, 1, Purpose::Share, true),
    ]);
    sweep.slo = Some(SloResult {
        objectives: vec!["p99<3ms".into()],
        rate_per_s: Some(10_000.0),
        missed_per_s: Some(20_000.0),
        bound: Bound::Objectives,
        tolerance: 0.05,
    });
    let text = sweep.text();
    for words in [
        "10.00k/s holds p99<3ms; 20.00k/s does not",
        "measured again for 10.0 s: p50 1.00ms, p99 2.00ms",
        "at 50 % of it, 5.000k/s: p50 500us, p99 1.00ms",
        "held, again",
        "missed",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    assert_eq!(sweep.find_knee(), None, "the search's points are not spread over the curve");
    let slo = sweep.slo.as_mut().unwrap();
    (slo.rate_per_s, slo.missed_per_s) = (None, Some(10_000.0));
    assert!(
        sweep.sentences()[0].contains("no rate holds p99<3ms: 5.000k/s does not"),
        "{}",
        sweep.text()
    );
    sweep.slo.as_mut().unwrap().bound = Bound::Generator;
    assert!(sweep.sentences()[0].contains("the generator was the limit or"), "{}", sweep.text());
    sweep.slo.as_mut().unwrap().rate_per_s = Some(10_000.0);
    assert!(
        sweep.sentences()[0].contains("the generator's limit, not the server's"),
        "{}",
        sweep.text()
    );
}

#[test]
fn sweep_file_round_trips() {
    let directory = tempdir().unwrap();
    let sweep = levels(&[(10_000, 1, &[]), (20_000, 9, &["overloaded: so"])]);
    let path = store::write(&sweep, directory.path(), false).unwrap();
    assert_eq!(path, directory.path().join("20261123T122405Z-9f86d081-mio-sweep.json"));
    assert_eq!(store::read(&path).unwrap(), Stored::Sweep(Box::new(sweep)));
}

#[test]
fn file_of_many_is_read_as_a_sweep() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/runs/20261123T203308Z-many.json");
    let Stored::Sweep(sweep) = store::read(file.as_ref()).unwrap() else { panic!("no sweep") };
    assert_eq!((sweep.plan.axis, sweep.plan.header.kind.as_str()), (Axis::Conns, "sweep"));
    let point = &sweep.points[0];
    assert_eq!(point.level, f64::from(point.conns));
    assert!(point.subject.is_some() && point.latency.exchange.is_some());
    assert!(point.opening.as_ref().is_some_and(|opening| opening.opened_per_s > 0.0));
    assert!(point.idle_memory.is_some() && point.server_processes.is_some());
    assert!(sweep.points.iter().any(|point| point.outcome == Outcome::Ok));
}

/// The random order of the first round must not show.
#[test]
fn rows_of_several_servers_are_in_the_order_asked_for() {
    let point = |subject: &str, rate: u64, reasons: &[&str]| Point {
        subject: Some(subject.to_owned()),
        ..Point::of(rate as f64, 1, Purpose::Level, &run(rate, 1, reasons))
    };
    let mut sweep = sweep(vec![
        point("io-uring", 20_000, &["late: so"]),
        point("io-uring", 10_000, &[]),
        point("mio", 20_000, &["late: so"]),
        point("mio", 10_000, &[]),
    ]);
    sweep.plan.subject = "mio, io-uring".to_owned();
    let text = sweep.text();
    let rows: Vec<String> = text
        .lines()
        .filter(|line| line.contains("00k |"))
        .map(|line| line.split('|').take(3).map(str::trim).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(rows, [" mio 10.00k", " io-uring 10.00k", " mio 20.00k", " io-uring 20.00k"]);
    let page = report::page(&[("sweep.json".to_owned(), Stored::Sweep(sweep.into()))]);
    assert!(page.contains("INVALID runs of mio<") && page.contains("INVALID runs of io-uring<"));
}

#[test]
fn costs_of_connections_are_in_the_text_and_on_the_page() {
    let mut sweep = sweep(Vec::new());
    sweep.plan.axis = Axis::Conns;
    for conns in [100, 1000] {
        let mut point = Point::of(conns as f64, 1, Purpose::Level, &run(1000, 1, &[]));
        point.conns = conns as u32;
        point.opening = Some(Opening {
            opening_s: 0.1,
            opened_per_s: 43_210.0,
            open_cpu_us_per_connection: 17.0,
            accepted: Vec::new(),
        });
        point.idle_memory = Some(IdleMemory {
            server_memory_bytes: 777 * conns,
            kernel_memory_bytes: 8888 * conns as i64,
            tcp_memory_bytes: 0,
        });
        sweep.points.push(point);
    }
    let text = sweep.text();
    let page = report::page(&[("s.json".to_owned(), Stored::Sweep(sweep.into()))]);
    for shown in [text, page] {
        for words in ["43.21k", "17.0us", "777B", "8888B", "-: not shown below 1,000"] {
            let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(words), "{words} is missing in\n{shown}");
        }
    }
}

#[test]
fn server_with_invalid_runs_only_has_no_empty_legend_entry() {
    let mut points = Vec::new();
    for (subject, reasons) in [("mio", &[][..]), ("blocking", &["late: so"])] {
        let point = Point::of(10_000.0, 1, Purpose::Level, &run(10_000, 1, reasons));
        points.push(Point { subject: Some(subject.into()), ..point });
    }
    let mut sweep = sweep(points);
    sweep.plan.subject = "mio, blocking".into();
    let page = report::page(&[("sweep.json".into(), Stored::Sweep(Box::new(sweep)))]);
    assert!(page.contains("<span>mio</span>"), "{page}");
    assert!(page.contains("<span>INVALID runs of blocking</span>"), "{page}");
    assert!(!page.contains("<span>blocking</span>"), "{page}");
}
