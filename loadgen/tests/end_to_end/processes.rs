//! Servers of several processes: all are accounted, and all end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};
use serde_json::Value;

use crate::harness::{Running, has_ended, loadgen, run, skip, two_cpus, wait_until};

/// Starts a server that shares its port, on one CPU. Returns its address.
fn share(addr: &str, cpu: &str) -> (Running, String) {
    let args = ["serve", "--backend", "mio", "--reuse-port", "--listen", addr, "--pin", cpu];
    let mut server = Running::start(&mut loadgen(&args));
    let stdout = server.0.as_mut().unwrap().stdout.as_mut().unwrap();
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let addr = line.split(' ').find_map(|word| word.strip_prefix("addr="));
    let addr = addr.unwrap_or_else(|| panic!("ready: {line}")).to_owned();
    (server, addr)
}

#[test]
fn reuse_port_servers_are_accounted_together() {
    let Some(&[first, second, ..]) = two_cpus().as_deref() else { return };
    let (one, addr) = share("127.0.0.1:0", &first.to_string());
    let (other, _) = share(&addr, &second.to_string());
    // The kernel spreads connections by a hash of their ports.
    let args = ["--target", &addr, "--conns", "64", "-d", "1s", "-w", "20ms", "--json"];
    let record = run(&args).record();
    let expected = lockstep_sys::cpus::format_list(&[first, second]);
    assert_eq!(record["server"]["cpus"], expected, "{record}");
    assert!(!record["warnings"].to_string().contains("server-changed"), "{record}");
    let processes = record["server_processes"].as_array().unwrap();
    let mut pids: Vec<_> = processes.iter().map(|process| process["pid"].as_i64()).collect();
    let mut expected = [one, other].map(|it| Some(it.pid().as_raw_nonzero().get().into()));
    pids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(pids, expected, "{record}");
    assert!(processes.iter().all(|process| process["name"] == "loadgen"), "{record}");
}

/// Duplicates the listening socket of a process (pidfd_getfd(2)).
fn listener_of(process: Pid) -> Option<OwnedFd> {
    let pidfd = pidfd_open(process, PidfdFlags::empty()).ok()?;
    let folder = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).ok()?;
    let fds = folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    fds.filter_map(|fd| pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()).ok())
        .find(|fd| socket_acceptconn(fd) == Ok(true))
}

/// As a shell that has inherited the listener of its server.
#[test]
fn idle_holder_of_the_listener_is_not_counted() {
    let Some(&[cpu, ..]) = two_cpus().as_deref() else { return };
    let (server, addr) = share("127.0.0.1:0", &cpu.to_string());
    let Some(listener) = listener_of(server.pid()) else {
        return skip("pidfd", "pidfd_getfd(2) is not allowed");
    };
    let _idle = Running(Some(Command::new("sleep").arg("600").stdin(listener).spawn().unwrap()));
    let mapped = addr.replace("127.0.0.1:", "[::ffff:127.0.0.1]:");
    for target in [addr, mapped] {
        if target.starts_with('[') && TcpListener::bind("[::1]:0").is_err() {
            skip("ipv6", "[::1] cannot be bound");
            continue;
        }
        let args = ["--target", &target, "--conns", "2", "-n", "500", "-w", "20ms", "--json"];
        let record = run(&args).record();
        let processes = record["server_processes"].as_array().unwrap();
        let pids: Vec<_> = processes.iter().map(|process| process["pid"].as_u64()).collect();
        assert_eq!(pids, [Some(server.pid().as_raw_nonzero().get() as u64)], "{record}");
        assert!(record["server"]["cpu_us_per_exchange"].as_f64() > Some(0.0), "{record}");
    }
}

/// A server that leaves its process group, its session and the shell that started it, as daemons
/// do. It appends its process id to the file.
fn daemon(mark: &Path) -> String {
    let program = env!("CARGO_BIN_EXE_loadgen");
    let serve = format!("exec \"{program}\" serve --backend blocking --listen {{addr}}");
    format!("away=setsid sh -c 'echo $$ >> {}; {serve}' >/dev/null 2>&1 &", mark.display())
}

#[test]
fn daemonized_server_is_accounted_and_ended() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("pids");
    let pids = || -> Vec<i32> {
        let text = fs::read_to_string(&mark).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let subject = daemon(&mark);
    let brief = ["--duration", "200ms", "--warmup", "20ms", "--conns", "2"];
    let args = [&["compare", "blocking", &subject, "--rounds", "2", "--json"], &brief[..]].concat();
    let finished = run(&args);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let comparison = finished.record();
    let runs = comparison["cells"][0]["subjects"][1]["runs"].as_array().unwrap();
    let cost = |run: &Value| run["values"]["server_cpu_us_per_exchange"].as_f64();
    assert!(runs.len() == 2 && runs.iter().all(|run| cost(run) > Some(0.0)), "{runs:?}");
    // The preflight and two rounds have started one server each, and ended it.
    assert!(pids().len() == 3 && pids().into_iter().all(has_ended), "{:?}", pids());

    let args = [&["compare", "blocking", &subject], &brief[..]].concat();
    let running = Running::start(&mut loadgen(&args));
    wait_until("the first round has begun", || pids().len() > 4);
    running.signal(Signal::KILL);
    running.finish();
    wait_until("the servers have ended", || pids().into_iter().all(has_ended));
}
