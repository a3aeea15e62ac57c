//! `loadgen sweep`: curves and the search for the highest rate, against a server of known capacity.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Finished, Running, Server, delayed_echo, echo, loadgen, run, wait_until};

fn sweep(target: &str, args: &[&str]) -> Finished {
    run(&[&["sweep", "--target", target, "--json"], args].concat())
}

/// A level, which is whole in these tests.
fn whole(level: &Value) -> u64 {
    level.as_f64().expect("a number") as u64
}

fn points(sweep: &Value) -> Vec<(u64, String)> {
    let points = sweep["points"].as_array().expect("a list").iter();
    points
        .map(|point| (whole(&point["level"]), point["outcome"].as_str().unwrap().into()))
        .collect()
}

/// Repeats a sweep while it fails because of the machine's load, at most five times.
fn undisturbed(sweep: impl Fn() -> Finished) -> Finished {
    for _ in 0..4 {
        let finished = sweep();
        if finished.code == Some(0) {
            return finished;
        }
    }
    sweep()
}

#[test]
fn rate_sweep_finds_the_knee_and_the_overload() {
    // Eight connections at 300 ms each do 26.7 a second at most.
    let server = delayed_echo(Duration::from_millis(300));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sweep.json");
    let file = file.to_str().unwrap();
    let args = ["--rates", "10,20,60", "--conns", "8", "-d", "1s", "--warmup", "0", "--seed", "3"];
    let more = ["-o", file, "--force", "--timeout", "10s"];
    let finished = undisturbed(|| sweep(&server.target(), &[&args[..], &more].concat()));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let record = finished.record();
    assert_eq!((&record["kind"], &record["axis"]), (&"sweep".into(), &"rate".into()));
    assert_eq!(record["levels"], serde_json::json!([10, 20, 60]));
    // Runs that were INVALID are repeated.
    let mut found = points(&record);
    found.retain(|(_, outcome)| outcome != "invalid");
    found.sort();
    let expected = [(10, "ok"), (20, "ok"), (60, "overloaded")];
    assert_eq!(found, expected.map(|(level, outcome)| (level, outcome.to_owned())));
    assert_eq!(record["knee"]["level"], 20.0, "{}", record["knee"]);
    for point in record["points"].as_array().unwrap() {
        let p50 = point["latency"]["response"]["p50_ns"].as_u64().unwrap();
        assert!(p50 >= 299_000_000, "{p50}");
        let achieved = point["achieved_per_s"].as_f64().unwrap();
        assert!(achieved <= 27.0, "{achieved}");
    }
    let report = run(&["report", file]);
    assert_eq!(report.code, Some(0), "{report:#?}");
    assert!(report.stdout.contains("the knee is at 20/s"), "{}", report.stdout);
    let unwrapped = report.stdout.replace("\n    ", " ");
    assert!(unwrapped.contains("at 60/s the server is overloaded"), "{}", report.stdout);
    assert!(report.stdout.lines().all(|line| line.chars().count() <= 80), "{report:#?}");
}

#[test]
fn conns_sweep_runs_levels_in_random_order() {
    let args = ["sweep", "--conns", "1..8*2", "--backend", "blocking", "--rounds", "3"];
    let args = [&args[..], &["-d", "50ms", "--warmup", "10ms", "--seed", "5", "--json"]].concat();
    let record = run(&args).record();
    // Runs that are repeated since they were INVALID follow those of their round.
    let first = |record: &Value| {
        let mut seen = Vec::new();
        for point in record["points"].as_array().expect("a list") {
            let run = (point["round"].as_u64(), whole(&point["level"]));
            if !seen.contains(&run) {
                seen.push(run);
            }
        }
        seen.into_iter().map(|(_, level)| level).collect::<Vec<_>>()
    };
    assert_eq!((&record["axis"], &record["subject"]), (&"conns".into(), &"blocking".into()));
    let levels = first(&record);
    assert_eq!(levels.len(), 12);
    for round in levels.chunks(4) {
        let mut round = round.to_vec();
        round.sort_unstable();
        assert_eq!(round, [1, 2, 4, 8]);
    }
    assert!(!levels.is_sorted());
    assert_eq!(first(&run(&args).record()), levels, "the same seed draws the same order");
    for point in record["points"].as_array().unwrap() {
        assert_eq!(point["conns"], whole(&point["level"]), "{point}");
    }
}

#[test]
fn slo_search_finds_and_confirms_the_highest_rate() {
    // Four connections at 100 ms each do 40 a second at most.
    let server = delayed_echo(Duration::from_millis(100));
    let args = ["--slo", "max<5s", "--rate-min", "9", "--rate-max", "300", "--conns", "4"];
    let more = ["-d", "400ms", "--warmup", "100ms", "--timeout", "20s"];
    let rate = |finished: &Finished| {
        finished.record()["slo"]["rate_per_s"].as_f64().map(|rate| rate as u64)
    };
    let mut finished = sweep(&server.target(), &[&args[..], &more].concat());
    // The machine's load can end a search too early.
    for _ in 0..4 {
        if rate(&finished) < Some(18) {
            finished = sweep(&server.target(), &[&args[..], &more].concat());
        }
    }
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let record = finished.record();
    let rate = rate(&finished).unwrap();
    assert!((18..=44).contains(&rate), "{rate}: {:?}", points(&record));
    let of = |purpose: &str| -> Vec<u64> {
        let all = record["points"].as_array().unwrap().iter();
        let of = all.filter(|point| point["purpose"] == purpose);
        of.map(|point| whole(&point["level"])).collect()
    };
    assert_eq!(of("confirm").last(), Some(&rate));
    let mut shares = of("share");
    shares.dedup(); // one that was INVALID is repeated
    let near = |(share, &found): (f64, &u64)| (rate as f64 * share - found as f64).abs() < 2.0;
    assert!(shares.len() == 3 && [0.5, 0.7, 0.9].into_iter().zip(&shares).all(near), "{shares:?}");
    let mut confirmed = record["points"].as_array().unwrap().iter();
    let confirmed = confirmed.rfind(|point| point["purpose"] == "confirm").unwrap();
    assert_eq!(confirmed["held"], true);
    assert!(
        confirmed["duration_s"].as_f64() >= Some(0.79),
        "confirmed for twice the time: {confirmed}"
    );
}

#[test]
fn unreachable_slo_exits_with_7() {
    let server = delayed_echo(Duration::from_millis(150));
    let args = ["--slo", "max<100ms", "--rate-min", "5", "--conns", "4", "-d", "300ms"];
    let search = || sweep(&server.target(), &[&args[..], &["--warmup", "0"]].concat());
    // The machine's load can make all runs INVALID.
    let finished = (0..9).map(|_| search()).find(|finished| finished.code != Some(8));
    let finished = finished.expect("one of nine searches has valid runs");
    assert_eq!(finished.code, Some(7), "{finished:#?}");
    let record = finished.record();
    assert!(record["slo"].get("rate_per_s").is_none(), "{record}");
    // Two of three runs miss the objective.
    assert!(matches!(points(&record).len(), 2 | 3), "{record}");
    assert_eq!(record["slo"]["bound"], "objectives");
}

#[test]
fn slo_on_a_percentile_without_enough_samples_is_undecided() {
    let server = delayed_echo(Duration::from_millis(1));
    let args = ["--slo", "p99.9<10s", "--rate-min", "20", "--rate-max", "20", "--conns", "4"];
    let finished =
        sweep(&server.target(), &[&args[..], &["-d", "500ms", "--warmup", "0"]].concat());
    assert_eq!(finished.code, Some(8), "{finished:#?}");
    let record = finished.record();
    assert!(record["slo"].get("rate_per_s").is_none(), "{record}");
    // Measured up to three times, and each says why it does not count.
    assert_eq!(points(&record), vec![(20, "invalid".to_owned()); 3]);
    let reasons = record["points"][0]["reasons"].to_string();
    let undecided = "10 samples do not bound p99.9, which takes 5,296; set a longer --duration";
    let other = record["slo"]["bound"] == "generator" && !reasons.contains("undecided");
    assert!(other || reasons.contains(undecided), "{record}");
    if !other {
        assert_eq!(record["slo"]["bound"], "undecided", "{record}");
    }
}

#[test]
fn sweep_accepts_a_command() {
    let program = env!("CARGO_BIN_EXE_loadgen");
    let subject = format!("mine='{program}' serve --backend blocking --listen {{addr}}");
    let args = ["sweep", "--command", &subject, "--conns", "1,2", "-d", "50ms", "--warmup", "10ms"];
    let finished = run(&args);
    assert!(finished.stdout.starts_with("mine, 64 bytes (echo), closed loop"), "{finished:#?}");
}

#[test]
fn sweep_usage_errors() {
    for (args, words) in [
        (&[][..], "give it several levels"),
        (&["--rates", "5k"], "give it several levels"),
        (&["--rates", "5k,6k", "--conns", "1,2"], "not both"),
        (&["--rates", "5k..1k/3"], "LOW must be below HIGH"),
        (&["--slo", "p99"], "write it as"),
        (&["--slo", "p99>1ms"], "did you mean 'p99<1ms'?"),
        (&["--slo", "throughput<5k"], "did you mean 'throughput>5k'?"),
        (&["--slo", "p99<1ms", "--rates", "5k,6k"], "cannot be used with"),
        (&["--slo", "p99<1ms", "--conns", "1,2"], "one number of --conns"),
        (&["--slo", "p99<1ms", "--rate-min", "5k", "--rate-max", "1k"], "more than --rate-max"),
        (&["--rate-min", "5k", "--rates", "1,2"], "are for --slo"),
        (&["--conns", "1,2", "--arrivals", "poisson"], "give --rates"),
        (&["--conns", "1,2M"], "at most 1000000"),
        (&["--conns", "1", "--processes", "3"], "--processes 3 is more than --conns 1"),
        (&["--conns", "1,2", "--command", "mio"], "is a --backend"),
        (&["--rates", "1,2", "--threads", "3", "--conns", "2"], "nothing to do"),
        (&["--rates", "1,2", "--pin", "1023"], "no CPU 1023"),
    ] {
        run(&[&["sweep"], args].concat()).assert_complains(2, words);
    }
    let args = ["sweep", "--target", "127.0.0.1:1", "--rates", "5,6"];
    let refused = "cannot connect to 127.0.0.1:1: connection refused (ECONNREFUSED)";
    run(&args).assert_complains(4, refused);
}

#[test]
fn target_that_never_replies_ends_the_sweep_at_the_first_level() {
    // The kernel accepts for a server that is stopped.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    for levels in [["--conns", "1,2,4"], ["--rates", "50,60,70"], ["--slo", "max<1s"]] {
        let args = ["sweep", "--target", &target, "--timeout", "300ms", "-d", "100ms"];
        let finished = run(&[&args[..], &levels].concat());
        finished.assert_complains(5, &format!("no reply from {target}: "));
    }
}

#[test]
fn target_that_ends_keeps_the_levels_measured() {
    let args = ["--rates", "50,60,70", "--conns", "1", "-d", "100ms", "--warmup", "0"];
    // The second run's connections are closed before any reply.
    let server = Server::start(|stream, number| {
        if number == 0 {
            echo(stream, number);
        }
    });
    let finished = sweep(&server.target(), &args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    assert_eq!(finished.record()["points"].as_array().unwrap().len(), 1, "{finished:#?}");
    assert!(finished.stderr.starts_with("error: no reply from "), "{finished:#?}");
}

#[test]
fn sighup_keeps_the_finished_points() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sweep.json");
    let mark = directory.path().join("starts");
    let program = env!("CARGO_BIN_EXE_loadgen");
    let subject = format!(
        "mine=echo x >> {}; exec '{program}' serve --backend blocking --listen {{addr}}",
        mark.display()
    );
    let args = ["sweep", "--command", &subject, "--conns", "1,2,3", "--rounds", "100"];
    let more = ["-d", "50ms", "--warmup", "10ms", "-o", file.to_str().unwrap()];
    let running = Running::start(&mut loadgen(&[&args[..], &more].concat()));
    wait_until("the third run has started", || {
        fs::read_to_string(&mark).unwrap_or_default().lines().count() >= 3
    });
    running.signal(Signal::HUP);
    let finished = running.finish();
    assert_eq!(finished.code, Some(129), "{finished:#?}");
    assert!(finished.stdout.contains("ended early: there should be more runs"), "{finished:#?}");
    let stored: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(stored["interrupted"], true);
    assert!(stored["points"].as_array().unwrap().len() >= 2, "{stored}");
}
