//! The open loop (`--rate`): requests are due at planned instants, whatever the server does.
//!
//! The server's script dominates every asserted number. The machine's part is far smaller, or the
//! assertion has one bound.

use std::io::{BufRead, BufReader};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::embedded::children;
use crate::harness::{
    Finished, Running, Server, counting_echo, delayed_echo, echo, echo_with, loadgen, run,
    run_with, wait_until, with_each_engine,
};

with_each_engine! {
    planned_requests_are_all_sent_and_measured
    requests_limit_ends_the_schedule
    server_delay_is_in_service_and_response
    server_stall_is_in_response_not_service
    slow_server_is_reported_as_overloaded
    unreachable_rate_is_invalid
    failed_request_is_not_retried
    one_shot_service_in_open_loop
    idle_connections_are_used_round_robin
}

/// The value of a latency in milliseconds.
fn ms(record: &Value, latency: &str, key: &str) -> f64 {
    let ns = record["latency"][latency][key].as_u64();
    ns.unwrap_or_else(|| panic!("latency.{latency}.{key} in {record}")) as f64 / 1e6
}

fn reasons(record: &Value) -> String {
    record["invalid_reasons"].to_string()
}

fn against(engine: &str, target: &str, more: &[&str]) -> Finished {
    let mut args = vec!["--target", target, "--json"];
    args.extend(more);
    run_with(engine, &args)
}

fn planned_requests_are_all_sent_and_measured(engine: &str) {
    let server = Server::start(echo);
    for (arrivals, threads) in [("constant", "1"), ("constant", "3"), ("poisson", "2")] {
        let args = ["--rate", "2k", "--arrivals", arrivals, "--threads", threads];
        let finished = against(
            engine,
            &server.target(),
            &[&args[..], &["-d", "500ms", "--warmup", "100ms"]].concat(),
        );
        finished.assert_measured();
        let record = finished.record();
        let rate = &record["rate"];
        let planned = rate["planned"].as_u64().unwrap();
        match arrivals {
            "constant" => assert_eq!(planned, 1000, "{rate}"),
            // Seven standard deviations.
            _ => assert!((779..=1221).contains(&planned), "{rate}"),
        }
        assert_eq!((&record["load"], &rate["arrivals"]), (&"open".into(), &arrivals.into()));
        assert_eq!((&rate["planned_per_s"], &rate["unsent"]), (&2000.0.into(), &0.into()));
        for latency in ["response", "service", "lateness"] {
            assert_eq!(record["latency"][latency]["count"], planned, "{latency}");
        }
        assert!(record["latency"].get("exchange").is_none());
        // A response is the lateness and then the service.
        let max = |latency| ms(&record, latency, "max_ns");
        assert!(max("response") <= (max("lateness") + max("service")) * 1.002);
        assert!(max("response") * 1.002 >= max("lateness").max(max("service")));
    }
}

fn requests_limit_ends_the_schedule(engine: &str) {
    let server = Server::start(echo);
    let begin = Instant::now();
    let args = ["--rate", "1k", "-n", "300", "--conns", "5", "--threads", "2", "--warmup", "0"];
    let finished = against(engine, &server.target(), &args);
    finished.assert_measured();
    let record = finished.record();
    assert_eq!((&record["exchanges"], &record["rate"]["planned"]), (&300.into(), &300.into()));
    // The last is due after 299 ms.
    assert!(begin.elapsed() >= Duration::from_millis(299), "faster than planned");
    assert!(record["duration_s"].as_f64() >= Some(0.299), "{record}");
    let achieved = record["rate"]["achieved_per_s"].as_f64().unwrap();
    assert!(achieved <= 1000.0 * 1.001, "{achieved}");
}

#[test]
fn closed_loop_record_has_no_rate() {
    let server = Server::start(echo);
    let finished = against("epoll", &server.target(), &["-n", "100", "--warmup", "0"]);
    let record = finished.record();
    assert_eq!(record["load"], "closed");
    assert!(record.get("rate").is_none());
    for latency in ["response", "service", "lateness"] {
        assert!(record["latency"].get(latency).is_none(), "{latency}");
    }
    assert_eq!(record["latency"]["exchange"]["count"], 100);
}

fn server_delay_is_in_service_and_response(engine: &str) {
    let server = delayed_echo(Duration::from_millis(10));
    let args = ["--rate", "100", "--conns", "10", "-d", "1s", "--warmup", "100ms"];
    let finished = against(engine, &server.target(), &args);
    finished.assert_measured();
    let record = finished.record();
    assert_eq!(record["rate"]["planned"], 100);
    for latency in ["service", "response"] {
        assert!(ms(&record, latency, "min_ns") >= 9.99, "{record}");
        let p50 = ms(&record, latency, "p50_ns");
        assert!((9.99..20.0).contains(&p50), "{latency} {p50}");
    }
    // Every request found an idle connection.
    assert_eq!(record["rate"]["waited"], 0, "{record}");
}

/// A server that does not reply in the first `stall` of every `period`.
fn stalling(stall: Duration, period: Duration) -> Server {
    let begin = Instant::now();
    Server::start(move |stream, _| {
        echo_with(stream, move |_| {
            let into =
                Duration::from_nanos((begin.elapsed().as_nanos() % period.as_nanos()) as u64);
            thread::sleep(stall.saturating_sub(into));
            true
        });
    })
}

fn server_stall_is_in_response_not_service(engine: &str) {
    // A tenth of the requests is planned in a stall of 300 ms, evenly spread. A share x of all
    // waits longer than 300 ms * (1 - 10 x): p95 is 150 ms and p99 is 270 ms.
    let server = stalling(Duration::from_millis(300), Duration::from_secs(3));
    let args = ["--rate", "1000", "--conns", "10", "-d", "3s", "--warmup", "100ms"];
    let finished = against(engine, &server.target(), &args);
    finished.assert_measured();
    let record = finished.record();
    assert_eq!(record["latency"]["response"]["count"], 3000);
    let (p95, p99) = (quantile(&record, "response", 0.95), ms(&record, "response", "p99_ns"));
    // The machine can only add to it. Requests that are due after the stall wait for those before.
    assert!((135.0..=225.0).contains(&p95), "p95 {p95}");
    assert!((243.0..=330.0).contains(&p99), "p99 {p99}");
    // Only the ten requests sent into the stall waited for the server.
    let service_p99 = ms(&record, "service", "p99_ns");
    assert!(service_p99 < p95 / 2.0, "{service_p99}");
    assert!(record["rate"]["waited"].as_u64() >= Some(270), "{record}");
    // The requests were late because of the server, not of the generator.
    assert!(ms(&record, "lateness", "p99_ns") > 200.0, "{record}");
    assert!(!reasons(&record).contains("generator itself"), "{record}");
    let own = record["rate"]["own_lateness_p99_ns"].as_u64().unwrap();
    assert!(own < 100_000_000, "{own}");
}

/// A percentile from the record's histogram, in milliseconds.
fn quantile(record: &Value, latency: &str, quantile: f64) -> f64 {
    let latency: lockstep_results::Latency =
        serde_json::from_value(record["latency"][latency].clone()).unwrap();
    latency.histogram().unwrap().value_at_quantile(quantile) as f64 / 1e6
}

#[test]
fn stopped_server_is_in_response_not_service() {
    // The server stands still for 400 ms of 4 s. A share x waits longer than 400 ms * (1 - 10 x).
    let args = ["--backend", "mio", "--rate", "1000", "--conns", "10", "-d", "4s", "--json-lines"];
    let args = [&args[..], &["--warmup", "100ms", "--interval", "500ms"]].concat();
    let mut running = Running::start(&mut loadgen(&args));
    let stdout = running.0.as_mut().and_then(|child| child.stdout.take()).unwrap();
    let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
    lines.next().expect("the line of the first interval");
    let server = children(running.pid().as_raw_nonzero().get())[0];
    let server = Pid::from_raw(server).unwrap();
    kill_process(server, Signal::STOP).unwrap();
    thread::sleep(Duration::from_millis(400));
    kill_process(server, Signal::CONT).unwrap();
    let record = lines.last().expect("the record");
    let finished = Finished { stdout: record + "\n", ..running.finish() };
    finished.assert_measured();
    let record = finished.record();
    assert_eq!(record["latency"]["response"]["count"], 4000);
    let p99 = ms(&record, "response", "p99_ns");
    assert!((324.0..=450.0).contains(&p99), "{p99}");
    assert!(ms(&record, "service", "p99_ns") < p99 / 2.0, "{record}");
    assert!(!reasons(&record).contains("generator itself"), "{record}");
}

fn slow_server_is_reported_as_overloaded(engine: &str) {
    // Two connections at 10 ms each do 200 a second at most. 1,000 are planned.
    let server = delayed_echo(Duration::from_millis(10));
    let args = ["--rate", "1k", "--conns", "2", "-d", "500ms", "--warmup", "0", "--timeout", "1s"];
    let finished = against(engine, &server.target(), &args);
    assert_eq!(finished.code, Some(8), "nothing failed: {finished:#?}");
    let record = finished.record();
    assert_eq!(record["valid"], false);
    let reasons = reasons(&record);
    // On a disturbed machine the cause is not known.
    if !reasons.contains("disturbed") && !reasons.contains("while other programs used the CPUs") {
        assert!(reasons.contains("\"overloaded: "), "{reasons}");
    }
    assert!(reasons.contains("never sent"), "{reasons}");
    assert!(!reasons.contains("generator itself"), "{reasons}");
    let rate = &record["rate"];
    let count = |key: &str| rate[key].as_u64().unwrap();
    assert_eq!(count("planned"), 500);
    let sent = record["latency"]["response"]["count"].as_u64().unwrap();
    assert_eq!(sent + count("unsent"), 500, "not all are accounted for: {rate}");
    // At most 1.5 s of sending, two at a time.
    assert!((100..=302).contains(&sent), "{sent}");
    assert!(rate["achieved_per_s"].as_f64() <= Some(204.0), "{rate}");
    assert!(ms(&record, "response", "max_ns") > 900.0, "the response lacks the wait: {record}");
    assert!(ms(&record, "service", "p50_ns") < 100.0, "the service has the wait: {record}");
}

fn unreachable_rate_is_invalid(engine: &str) {
    let server = Server::start(echo);
    let args = ["--rate", "100M", "-d", "50ms", "--warmup", "0", "--timeout", "500ms"];
    let finished = against(engine, &server.target(), &args);
    assert_eq!(finished.code, Some(8), "{finished:#?}");
    assert_eq!(finished.record()["valid"], false);
    let shown = run_with(engine, &[&["--target", &server.target()][..], &args].concat());
    assert_eq!(shown.code, Some(8), "{shown:#?}");
    let lines: Vec<&str> =
        shown.stdout.lines().filter(|line| line.starts_with("INVALID")).collect();
    assert!(lines.len() > 1 && lines[0].contains("the last lines say why"), "{shown:#?}");
}

fn failed_request_is_not_retried(engine: &str) {
    // The server closes a connection at its fifth request.
    let server = Server::start(|stream, _| {
        let mut requests = 0;
        echo_with(stream, move |_| {
            requests += 1;
            requests < 5
        });
    });
    let args = ["--rate", "1k", "-n", "100", "--conns", "4", "--warmup", "0"];
    let finished = against(engine, &server.target(), &args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    let record = finished.record();
    // Of each connection, the first exchange is not measured and the fourth after it fails.
    assert_eq!(record["exchanges"], 12);
    assert_eq!(record["latency"]["lateness"]["count"], 16);
    assert_eq!((&record["rate"]["planned"], &record["rate"]["unsent"]), (&100.into(), &84.into()));
    assert!(reasons(&record).contains("84 of 100 requests were never sent"), "{record}");
}

fn one_shot_service_in_open_loop(engine: &str) {
    let args = ["--backend", "blocking", "--service", "hi", "--rate", "200", "--conns", "8"];
    let more = ["-d", "500ms", "--warmup", "100ms", "--json"];
    let finished = run_with(engine, &[&args[..], &more].concat());
    finished.assert_measured();
    let record = finished.record();
    for latency in ["response", "service", "lateness"] {
        assert_eq!(record["latency"][latency]["count"], 100, "{latency}");
    }
}

fn idle_connections_are_used_round_robin(engine: &str) {
    let server = Server::start(echo);
    let args = ["--rate", "500", "--conns", "10", "-d", "1s", "--warmup", "0"];
    let finished = against(engine, &server.target(), &args);
    let fairness = &finished.record()["fairness"];
    // Fifty each, more or less if a reply is late. If the connection that was idle last were used
    // first, it would do most of the work.
    let (min, max) = (fairness["min"].as_u64(), fairness["max"].as_u64());
    assert!(min >= Some(20) && max <= Some(120), "{finished:#?}");
}

#[test]
fn sigint_ends_the_schedule() {
    let (server, requests) = counting_echo(Duration::ZERO);
    let target = server.target();
    let args = ["--target", &target, "--rate", "1k", "--warmup", "0", "-d", "100s", "--json"];
    let running = Running::start(&mut loadgen(&args));
    wait_until("the run measures", || requests.load(Relaxed) > 300);
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    let record = finished.record();
    assert_eq!(record["interrupted"], true);
    assert!(!reasons(&record).contains("never sent"), "{record}");
    let sent = record["latency"]["lateness"]["count"].as_u64().unwrap();
    let rate = &record["rate"];
    assert_eq!(rate["planned"].as_u64().unwrap() - rate["unsent"].as_u64().unwrap(), sent);
}

#[test]
fn text_report_explains_the_three_latencies() {
    let server = Server::start(echo);
    let target = server.target();
    let args = ["--target", &target, "--rate", "1k", "-d", "300ms", "--warmup", "0"];
    let finished = run(&[&args[..], &["--spin", "100us", "--arrivals", "poisson"]].concat());
    finished.assert_measured();
    for words in [
        "open loop, 1,000/s poisson",
        "requests/s sent of 1,000 planned",
        "response       planned instant to whole reply",
        "service        send to whole reply",
        "lateness       planned instant to send",
        "the generator's own part",
    ] {
        assert!(finished.stdout.contains(words), "{words} is missing in\n{}", finished.stdout);
    }
    for line in finished.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
