//! Ranks started by MPICH's hydra, which agree on their start through it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Finished, Running, Server, counting_echo, echo, echo_with, skip, wait_until};

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

/// The launcher with these arguments, if it is installed.
#[track_caller]
fn mpiexec(args: &[&str]) -> Option<Command> {
    let version = Command::new("mpiexec.hydra").arg("--version").stdout(Stdio::null()).status();
    match version {
        Ok(status) if status.success() => {}
        other => {
            skip("hydra", format!("mpiexec.hydra --version: {other:?}"));
            return None;
        }
    }
    let mut command = Command::new("mpiexec.hydra");
    command.args(args).stdin(Stdio::null());
    Some(command)
}

/// Options of a short run of ranks.
fn options(target: &str, seconds: &str, directory: &Path) -> Vec<String> {
    let path = directory.to_str().unwrap();
    let load = format!("--target {target} --ranks auto -c 8 -d {seconds}s -w 100ms");
    format!("{load} --no-floor -o {path}").split(' ').map(str::to_owned).collect()
}

fn records(directory: &Path) -> Vec<Value> {
    let files = directory.read_dir().unwrap().map(|file| file.unwrap().path());
    // A record gets its name when it is whole.
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let read = |path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut records: Vec<Value> = files.map(read).collect();
    records.sort_by_key(|record| record["rank"]["index"].as_u64());
    records
}

#[test]
fn ranks_of_hydra_agree_on_their_start() {
    let Some(mut command) = mpiexec(&["-n", "4", LOADGEN]) else { return };
    let (server, directory) = (Server::start(echo), tempfile::tempdir().unwrap());
    command.args(options(&server.target(), "0.3", directory.path()));
    let finished = Finished::of(command.output().unwrap());
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let records = records(directory.path());
    assert_eq!(records.len(), 4);
    for (index, record) in records.iter().enumerate() {
        let (rank, first) = (&record["rank"], &records[0]["rank"]);
        assert_eq!((&rank["index"], &rank["count"]), (&index.into(), &4.into()));
        assert_eq!(rank["source"], "PMI_RANK, PMI_SIZE");
        assert_eq!(rank["start_source"], "PMI");
        for key in ["run_id", "options_digest", "planned_start_unix_us", "boot"] {
            assert!(rank[key] == first[key] && !rank[key].is_null(), "{key}: {rank} {first}");
        }
        // A busy machine may be late, but says so. None is early.
        let late = rank["start_unix_us"].as_i64().unwrap()
            - rank["planned_start_unix_us"].as_i64().unwrap();
        assert!(late >= 0, "{rank}");
        assert_eq!(rank["met_deadline"], late <= 10_000, "{rank}");
        assert!(record["exchanges"].as_u64() > Some(0), "{record}");
    }
}

#[test]
fn ranks_of_hydra_with_other_options_are_refused() {
    let Some(mut command) = mpiexec(&["-n", "2", LOADGEN]) else { return };
    let (server, directory) = (Server::start(echo), tempfile::tempdir().unwrap());
    let options = options(&server.target(), "0.3", directory.path());
    command.args(&options).args([":", "-n", "2", LOADGEN, "--size", "128"]).args(&options);
    let finished = Finished::of(command.output().unwrap());
    assert_eq!(finished.code, Some(2), "{finished:#?}");
    let error = "error: rank 2 has size 128, rank 0 has size 64";
    assert_eq!(finished.stderr.matches(error).count(), 4, "{finished:#?}");
    assert!(records(directory.path()).is_empty(), "nothing was measured");
}

#[test]
fn rank_of_hydra_that_cannot_connect_ends_all() {
    let Some(mut command) = mpiexec(&["-n", "3", LOADGEN]) else { return };
    let (server, directory) = (Server::start(echo), tempfile::tempdir().unwrap());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    command.args(options(&server.target(), "0.3", directory.path()));
    command.args([":", "-n", "1", LOADGEN]).args(options(&closed, "0.3", directory.path()));
    let finished = Finished::of(command.output().unwrap());
    assert_eq!(finished.code, Some(4), "{finished:#?}");
    let failed = format!("error: rank 3 failed: cannot connect to {closed}");
    assert_eq!(finished.stderr.matches(&failed).count(), 3, "{finished:#?}");
    assert_eq!(finished.stderr.matches("error: ").count(), 4, "{finished:#?}");
    // As without ranks, that of the failed rank has its errors.
    let exchanges: Vec<Value> =
        records(directory.path()).iter().map(|record| record["exchanges"].clone()).collect();
    assert_eq!(exchanges, [0]);
}

/// The launcher would end all ranks if one ended with an error before it has left the launcher.
#[test]
fn rank_of_hydra_that_ends_early_leaves_the_others_under_load() {
    let script = "echo $$ > \"$0.$PMI_RANK\"; exec \"$@\"";
    let Some(mut command) = mpiexec(&["-n", "3", "sh", "-c", script]) else { return };
    let requests: Arc<[AtomicU64; 8]> = Arc::default();
    let counters = requests.clone();
    let server = Server::start(move |stream, number| {
        echo_with(stream, |_| counters[number as usize].fetch_add(1, Relaxed) < u64::MAX);
    });
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pid = other.path().join("pid");
    let options = options(&server.target(), "600", directory.path());
    let running = Running::start(command.args([pid.as_os_str(), LOADGEN.as_ref()]).args(options));
    let total = || requests.iter().map(|count| count.load(Relaxed)).sum::<u64>();
    let under_load = || {
        let before = total();
        wait_until("the others are under load", || total() > before + 100);
    };
    let end = |rank: usize| {
        let pid = fs::read_to_string(format!("{}.{rank}", pid.display())).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    };
    // The first request of each connection is sent before the start.
    wait_until("all are under load", || requests.iter().all(|count| count.load(Relaxed) > 1));
    end(1);
    wait_until("a rank has ended", || records(directory.path()).len() == 1);
    under_load();
    end(0);
    wait_until("another rank has ended", || records(directory.path()).len() == 2);
    under_load();
    end(2);
    let finished = running.finish();
    assert_eq!(finished.code, Some(143), "{finished:#?}");
    assert_eq!(records(directory.path()).len(), 3, "{finished:#?}");
}

#[test]
fn rank_of_hydra_killed_in_the_barrier_ends_all() {
    let script = "echo $$ > \"$0\"; exec \"$@\"";
    let Some(mut command) = mpiexec(&["-n", "1", "sh", "-c", script]) else { return };
    let (server, requests) = counting_echo(Duration::ZERO);
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pid = other.path().join("pid");
    let options = options(&server.target(), "60", directory.path());
    command.args([pid.as_os_str(), LOADGEN.as_ref()]).args(&options);
    // A process that keeps the others waiting in the barrier.
    command.args([":", "-n", "1", LOADGEN]).args(&options).args([":", "-n", "1", "sleep", "60"]);
    let running = Running::start(&mut command);
    wait_until("the connections are open", || requests.load(Relaxed) >= 4);
    let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let start = Instant::now();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let finished = running.finish();
    assert!(start.elapsed() < Duration::from_secs(50), "{finished:#?}");
    assert_ne!(finished.code, Some(0), "{finished:#?}");
    assert!(records(directory.path()).is_empty(), "nothing was measured");
}
