//! Metrics of a server that runs already, read around the window: `--server-metrics`.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Finished, Server, counting_echo, run};

/// Options of a short run.
const SHORT: [&str; 4] = ["-d", "300ms", "-c", "2"];

/// The warm-up of most runs.
const WARMUP: [&str; 2] = ["-w", "50ms"];

/// An echo server and the page with its number of exchanges.
struct Lab {
    echo: Server,
    exchanges: Arc<AtomicU64>,
    page: Server,
}

impl Lab {
    /// The script gets the number of exchanges and that of the reading: 0 for the check, 1 before
    /// the window, 2 behind it. It returns the body of the answer, or `None` to close.
    fn start(script: impl Fn(u64, u64) -> Option<String> + Send + Sync + 'static) -> Self {
        let (echo, exchanges) = counting_echo(Duration::from_micros(100));
        let counted = exchanges.clone();
        let page = Server::start(move |mut stream, number| {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|it| it > 0) {
                request.push(byte[0]);
            }
            assert!(request.starts_with(b"GET /metrics HTTP/1.0\r\n"));
            let Some(body) = script(counted.load(Relaxed), number) else { return };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _closed = stream.write_all((head + &body).as_bytes());
        });
        Self { echo, exchanges, page }
    }

    fn run(&self, args: &[&str]) -> Finished {
        let (target, page) = (self.echo.target(), self.page.target());
        run(&[&["--target", &target, "--server-metrics", &page], &SHORT[..], args].concat())
    }
}

/// The page of a lockstep whose exchanges take 10 us each, 4 of them in user mode, and a context
/// switch for every other.
fn lockstep(exchanges: u64) -> String {
    let us = |each: u64| (exchanges * each) as f64 / 1e6;
    format!(
        "# TYPE process_cpu_seconds_total counter\n\
         process_cpu_seconds_total {:.6}\nprocess_user_cpu_seconds_total {:.6}\n\
         process_system_cpu_seconds_total {:.6}\nprocess_context_switches_total {}\n\
         process_start_time_seconds 1700000000.125\nprocess_threads 3\n\
         process_cpus_info{{list=\"100-101\"}} 1\nlockstep_exchanges_total {exchanges}\n",
        us(10),
        us(4),
        us(6),
        exchanges / 2,
    )
}

fn close(value: &Value, expected: f64) -> bool {
    value.as_f64().is_some_and(|value| (value / expected - 1.0).abs() < 0.02)
}

fn warnings(record: &Value) -> Vec<String> {
    let warnings = record["warnings"].as_array().into_iter().flatten();
    warnings
        .filter_map(|it| it.as_str())
        .filter(|it| it.starts_with("server-"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn cost_is_the_server_s_own_between_two_readings() {
    for load in [&WARMUP[..], &["--rate", "1k"], &["-w", "0s"], &["-w", "auto"]] {
        let lab = Lab::start(|exchanges, _| Some(lockstep(exchanges)));
        let finished = lab.run(&[load, &["--json"]].concat());
        finished.assert_measured();
        let record = finished.record();
        let server = &record["server"];
        assert!(close(&server["cpu_us_per_exchange"], 10.0), "{record}");
        assert!(close(&server["user_us_per_exchange"], 4.0), "{record}");
        assert!(close(&server["system_us_per_exchange"], 6.0), "{record}");
        assert!(close(&server["context_switches_per_exchange"], 0.5), "{record}");
        assert_eq!(server["cpus"], "100-101");
        assert_eq!(server["source"], format!("http://{}/metrics", lab.page.addr));
        assert_eq!(server["counted_by"], "server");
        let share = record["throughput_per_s"].as_f64().unwrap() * 10e-6 / 2.0;
        let busy = server["busy"].as_f64().unwrap();
        assert!((share / 3.0..share * 3.0).contains(&busy), "{busy}, {share}: {record}");
        assert_eq!(warnings(&record), [""; 0]);
        assert_eq!(lab.page.accepted.load(Relaxed), 3);
        assert!(lab.exchanges.load(Relaxed) >= record["exchanges"].as_u64().unwrap());
    }
}

#[test]
fn text_and_page_show_the_source() {
    let lab = Lab::start(|exchanges, _| Some(lockstep(exchanges)));
    let finished = lab.run(&WARMUP);
    let source = format!("from http://{}/metrics; exchanges as the server", lab.page.addr);
    assert!(finished.stdout.contains(&source), "{finished:#?}");
    assert!(finished.stdout.contains("of CPU 100-101"), "{finished:#?}");
}

#[test]
fn server_with_another_client_library_has_a_cost() {
    let lab = Lab::start(|exchanges, _| {
        let cpu_s = exchanges as f64 * 10e-6;
        Some(format!("process_cpu_seconds_total {cpu_s}\nprocess_start_time_seconds 1.7e+09\n"))
    });
    let record = lab.run(&["-w", "50ms", "--json"]).record();
    let server = &record["server"];
    // The generator's count is a little older or newer than the reading.
    let cost = server["cpu_us_per_exchange"].as_f64().unwrap();
    assert!((8.0..12.5).contains(&cost), "{record}");
    assert_eq!(server["counted_by"], "generator");
    for absent in ["user_us_per_exchange", "busy", "cpus", "context_switches_per_exchange"] {
        assert_eq!(server.get(absent), None, "{record}");
    }
    assert_eq!((&record["limit"], warnings(&record).len()), (&"unknown".into(), 0), "{record}");
    let text = lab.run(&WARMUP).stdout;
    assert!(text.contains("exchanges as the generator"), "{text}");
    assert!(text.contains("unknown: the server does not publish its CPUs"), "{text}");
}

#[test]
fn page_that_is_none_is_an_error_before_the_load() {
    let none = |words: &str, lab: Lab| {
        let finished = lab.run(&[]);
        finished.assert_complains(4, words);
        assert!(finished.stderr.contains("hint: lockstep serve --metrics ADDR"), "{finished:#?}");
        assert_eq!(lab.exchanges.load(Relaxed), 0);
    };
    none("the answer is not HTTP", Lab::start(|_, _| None));
    none("does not have process_cpu_seconds_total", Lab::start(|_, _| Some("up 1\n".to_owned())));
    none(
        "no answer within 1 s",
        Lab::start(|_, _| {
            thread::sleep(Duration::from_secs(3));
            None
        }),
    );
    let (echo, _) = counting_echo(Duration::ZERO);
    for (page, words) in [
        ("127.0.0.1:1".to_owned(), "(ECONNREFUSED)"),
        (echo.target(), "the answer is not HTTP"),
        ("no-such-host.invalid:1".to_owned(), "cannot look up"),
    ] {
        let args = ["--target", &echo.target(), "--server-metrics", &page];
        run(&[&args[..], &SHORT].concat()).assert_complains(4, words);
    }
}

#[test]
fn failure_behind_the_window_costs_only_the_cost() {
    type Script = fn(u64, u64) -> Option<String>;
    let scripts: [(&str, Script); 6] = [
        ("not HTTP", |exchanges, number| (number < 2).then(|| lockstep(exchanges))),
        ("restarted", |exchanges, number| {
            let page = lockstep(exchanges);
            Some(if number < 2 { page } else { page.replace(".125", ".126") })
        }),
        ("restarted", |exchanges, number| Some(lockstep(if number < 2 { exchanges } else { 1 }))),
        ("other counters", |exchanges, number| {
            let page = lockstep(exchanges);
            Some(if number < 2 { page } else { page.replace("lockstep_", "other_") })
        }),
        ("page is that of another server", |_, _| Some(lockstep(77))),
        ("no answer within 1 s", |exchanges, number| {
            if number == 1 {
                thread::sleep(Duration::from_secs(2));
            }
            Some(lockstep(exchanges))
        }),
    ];
    for (words, script) in scripts {
        let record = Lab::start(script).run(&["-w", "50ms", "--json"]).record();
        assert_eq!(record.get("server"), None, "{words}: {record}");
        let warnings = warnings(&record);
        let known = warnings.len() == 1 && warnings[0].starts_with("server-unknown: http://");
        assert!(known && warnings[0].contains(words), "{words}: {warnings:?}");
        assert!(record["exchanges"].as_u64().unwrap() > 0 && record["limit"] == "unknown");
    }
}

#[test]
fn load_of_another_client_is_noticed() {
    let lab = Lab::start(|exchanges, _| Some(lockstep(2 * exchanges)));
    let record = lab.run(&["-w", "50ms", "--json"]).record();
    assert!(close(&record["server"]["cpu_us_per_exchange"], 10.0), "{record}");
    let [warning] = &warnings(&record)[..] else { panic!("{record}") };
    assert!(warning.starts_with("server-shared: ") && warning.contains("another client"));
}

#[test]
fn sweep_reads_the_page_at_each_level() {
    let lab = Lab::start(|exchanges, _| Some(lockstep(exchanges)));
    let (target, page) = (lab.echo.target(), lab.page.target());
    let args = ["sweep", "--target", &target, "--server-metrics", &page, "--conns", "1,2"];
    let finished = run(&[&args[..], &["-d", "200ms", "-w", "50ms", "--json"]].concat());
    let record = finished.record();
    let points = record["points"].as_array().unwrap();
    assert!(points.len() >= 2, "{record}");
    for point in points {
        assert!(close(&point["server_cpu_us_per_exchange"], 10.0), "{record}");
    }
}

#[test]
fn usage_errors_of_the_page() {
    for (args, words) in [
        (&["--server-metrics", "a:1"][..], "is for a server that runs already"),
        (&["a:1", "--server-metrics", "a"], "write it as 10.0.0.2:9100"),
        (&["a:1", "--server-metrics", "https://a:1"], "https is not supported"),
        (&["--server-metrics", "a:1", "--backend", "mio"], "cannot be used with"),
        (&["sweep", "--conns", "1,2", "--server-metrics", "a:1"], "that runs already"),
    ] {
        run(args).assert_complains(2, words);
    }
}
