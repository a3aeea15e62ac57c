//! The embedded server, with every backend.

use std::fs;
use std::path::Path;

use lockstep_sys::cpus::format_list;
use rustix::process::Signal;

use crate::harness::{Finished, Running, has_ended, loadgen, run, skip, two_cpus, wait_until};

const BACKENDS: [&str; 4] = ["blocking", "poll", "mio", "io-uring"];

/// True if the machine has the backend.
#[track_caller]
fn ran(backend: &str, finished: &Finished) -> bool {
    let unavailable = finished.code == Some(3);
    if unavailable {
        skip(backend, finished.stderr.trim_end());
    }
    !unavailable
}

#[test]
fn embedded_server_counts_match_the_generator() {
    for backend in BACKENDS {
        for (service, exchanges) in [("echo", 2000), ("hi", 200)] {
            let finished = run(&[
                "--backend",
                backend,
                "--service",
                service,
                "--conns",
                "16",
                "-n",
                &exchanges.to_string(),
                "--warmup",
                "50ms",
                "--backlog",
                "77",
                "--json",
            ]);
            if !ran(backend, &finished) {
                continue;
            }
            // The command itself compares the counts of both sides.
            finished.assert_measured();
            let record = finished.record();
            assert_eq!(record["exchanges"], exchanges, "{backend} {service}");
            assert_eq!(record["subject"]["name"], backend);
            assert_eq!(record["subject"]["backend"], backend);
            assert_eq!(record["subject"]["backlog"], 77);
            assert!(record["server_statistics"]["exchanges"].as_u64() >= Some(exchanges));
            assert!(record["server"]["cpu_us_per_exchange"].is_f64());
        }
    }
}

#[test]
fn large_requests_pass_every_backend() {
    for backend in BACKENDS {
        let finished = run(&[
            "--backend",
            backend,
            "--conns",
            "4",
            "-n",
            "12",
            "--size",
            "300k",
            "--warmup",
            "0",
            "--json",
        ]);
        if ran(backend, &finished) {
            finished.assert_measured();
            let record = finished.record();
            assert_eq!(record["exchanges"], 12);
        }
    }
}

#[test]
fn client_and_server_use_different_cpus() {
    let Some(cpus) = two_cpus() else { return };
    let finished =
        run(&["--backend", "blocking", "--conns", "2", "-n", "500", "--warmup", "0", "--json"]);
    finished.assert_measured();
    let record = finished.record();
    let (client, server) = (&record["client"]["cpus"], &record["server"]["cpus"]);
    assert_ne!(client, server);
    assert_ne!(client.as_str(), Some(&*format_list(&cpus)));
    assert_eq!(record["placement"], "apart");
}

#[test]
fn server_spin_is_in_the_statistics() {
    for backend in ["mio", "io-uring"] {
        for (spin, spins) in [("0", false), ("50us", true)] {
            let args = ["--server-spin", spin, "--conns", "1", "-n", "500", "--warmup", "0"];
            let args = [&args[..], &["--backend", backend, "--no-floor", "--json"]].concat();
            let finished = run(&args);
            if ran(backend, &finished) {
                finished.assert_measured();
                let spun = finished.record()["server_statistics"]["spun_us"].as_u64();
                assert_eq!(spun > Some(0), spins, "{backend}, {spin}: {spun:?}");
            }
        }
    }
}

/// Each CPU has a thread of the generator and a shard, which serves that thread's connections.
#[test]
fn steered_connections_are_spread_evenly_over_shards() {
    let Some(cpus) = two_cpus().map(|cpus| cpus.len()) else { return };
    for backend in BACKENDS {
        let conns = (cpus * 3).to_string();
        let args = ["--place", "steered", "--no-floor", "-n", "2000", "--warmup", "0", "--json"];
        let finished = run(&[&args[..], &["--backend", backend, "--conns", &conns]].concat());
        if !ran(backend, &finished) {
            continue;
        }
        finished.assert_measured();
        let record = finished.record();
        assert_eq!(record["placement"], "steered", "{backend}");
        assert_eq!(record["client"]["cpus"], record["server"]["cpus"], "{backend}");
        let accepted = &record["server_statistics"]["accepted_per_shard"];
        assert_eq!(*accepted, serde_json::json!(vec![3; cpus]), "{backend}");
    }
}

/// Child processes of `pid`, without zombies.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let stat = |path: &Path| fs::read_to_string(path.join("stat")).unwrap_or_default();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let children = processes.filter_map(|process| {
        let child = process.file_name().to_str()?.parse().ok()?;
        let stat = stat(&process.path());
        let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?);
        (state != "Z" && parent.parse() == Ok(pid)).then_some(child)
    });
    children.collect()
}

#[test]
fn embedded_server_ends_with_the_command() {
    for (signal, code) in [(Signal::KILL, None), (Signal::INT, Some(130))] {
        let args = ["--backend", "blocking", "--conns", "2", "-d", "100s"];
        let running = Running::start(&mut loadgen(&args));
        let own = running.pid().as_raw_nonzero().get();
        let mut server = None;
        wait_until("the server listens", || {
            server = children(own).first().copied();
            server.is_some_and(|server| {
                // A server that listens has threads.
                fs::read_dir(format!("/proc/{server}/task")).is_ok_and(|tasks| tasks.count() > 1)
            })
        });
        running.signal(signal);
        let finished = running.finish();
        assert_eq!(finished.code, code, "{finished:#?}");
        let server = server.unwrap();
        wait_until("the server has ended", || has_ended(server));
    }
}

#[test]
fn embedded_server_has_its_own_process_group() {
    // Ctrl-C signals the foreground process group. A server in that group would end before its last
    // reply.
    let args = ["--backend", "blocking", "--conns", "2", "-d", "100s"];
    let running = Running::start(&mut loadgen(&args));
    let own = running.pid();
    let mut server = None;
    wait_until("the server has started", || {
        server = children(own.as_raw_nonzero().get()).first().copied();
        server.is_some()
    });
    let group = |pid| rustix::process::getpgid(rustix::process::Pid::from_raw(pid)).ok();
    // The server leaves the group after fork(2).
    let own_group = group(own.as_raw_nonzero().get());
    wait_until("the server has its own group", || group(server.unwrap()) != own_group);
    running.signal(Signal::INT);
    assert_eq!(running.finish().code, Some(130));
}
