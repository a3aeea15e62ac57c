//! `loadgen compare`: backends, commands, and signals.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Finished, Running, has_ended, loadgen, run, wait_until};

/// A command line that starts an echo server.
fn echo() -> String {
    let program = env!("CARGO_BIN_EXE_loadgen");
    format!("'{program}' serve --backend blocking --listen {{addr}}")
}

/// Options that make a round short.
const SHORT: [&str; 6] = ["--duration", "300ms", "--warmup", "20ms", "--conns", "2"];

fn compare(args: &[&str]) -> Vec<String> {
    let args = ["compare"].iter().chain(args).chain(&SHORT);
    args.map(|arg| (*arg).to_owned()).collect()
}

fn run_compare(args: &[&str]) -> Finished {
    let args = compare(args);
    run(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The subjects of each cell, with the rounds in which each ran.
fn rounds(comparison: &Value) -> Vec<Vec<(String, Vec<u64>)>> {
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let subject = |subject: &Value| {
        let rounds = list(&subject["runs"]).into_iter().map(|run| run["round"].as_u64().unwrap());
        (subject["name"].as_str().unwrap().to_owned(), rounds.collect())
    };
    list(&comparison["cells"])
        .iter()
        .map(|cell| list(&cell["subjects"]).iter().map(subject).collect())
        .collect()
}

fn named(names: &[&str], rounds: u64) -> Vec<(String, Vec<u64>)> {
    names.iter().map(|name| ((*name).to_owned(), (1..=rounds).collect())).collect()
}

#[test]
fn subjects_run_once_per_round_in_every_cell() {
    let args = [
        "compare",
        "blocking",
        "mio",
        "--conns",
        "1,3",
        "--size",
        "64,2000",
        "--rounds",
        "2",
        "--seed",
        "7",
        "--duration",
        "50ms",
        "--warmup",
        "10ms",
        "--json",
    ];
    let finished = run(&args);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let comparison = finished.record();
    assert_eq!(comparison["kind"], "comparison");
    assert_eq!((&comparison["seed"], &comparison["baseline"]), (&7.into(), &"blocking".into()));
    assert_eq!(rounds(&comparison), vec![named(&["blocking", "mio"], 2); 4]);
    for cell in comparison["cells"].as_array().unwrap() {
        assert_eq!(cell["stopped"], "maximum");
        let floors = cell["floors"].as_array().unwrap();
        assert_eq!(floors.iter().map(|floor| &floor["round"]).collect::<Vec<_>>(), [1, 2]);
        assert!(floors.iter().all(|floor| floor["one_thread_ns"].as_f64() > Some(0.0)));
    }
    // The same seed gives the same order, which the runs' instants show.
    let order = |comparison: &Value| {
        let mut runs: Vec<(String, String)> = Vec::new();
        for cell in comparison["cells"].as_array().unwrap() {
            for subject in cell["subjects"].as_array().unwrap() {
                for run in subject["runs"].as_array().unwrap() {
                    let what = format!("{} {} {}", cell["conns"], cell["size"], subject["name"]);
                    runs.push((run["started"].as_str().unwrap().to_owned(), what));
                }
            }
        }
        runs.sort();
        runs.into_iter().map(|(_, what)| what).collect::<Vec<_>>()
    };
    assert_eq!(order(&comparison), order(&run(&args).record()));
}

#[test]
fn command_is_a_subject() {
    // The server is a child of the shell that is started.
    let subject = format!("other={} 2>&1 & wait", echo());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("comparison.json");
    let file = file.to_str().unwrap();
    let finished = run_compare(&["blocking", &subject, "--rounds", "2", "-o", file]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(
        finished.stdout.contains("| blocking |") && finished.stdout.contains("ratio to blocking |"),
        "{}",
        finished.stdout
    );
    assert!(finished.stdout.lines().all(|line| line.chars().count() <= 80), "{finished:#?}");
    let stored: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(rounds(&stored), [named(&["blocking", "other"], 2)]);
    for run in stored["cells"][0]["subjects"][1]["runs"].as_array().unwrap() {
        assert!(run["values"]["server_cpu_us_per_exchange"].as_f64() > Some(0.0), "{run}");
        assert!(run["values"]["throughput_per_s"].as_f64() > Some(0.0), "{run}");
        let excluded = run["excluded"].to_string();
        assert!(!excluded.contains("server-failed"), "{run}");
    }
    let report = run(&["report", file]);
    assert_eq!((report.code, report.stdout), (Some(0), finished.stdout));
    run_compare(&["mio", "blocking", "-o", file]).assert_complains(2, "exists");
}

#[test]
fn aa_compares_a_server_with_itself() {
    let finished = run_compare(&["blocking", "--aa", "--rounds", "1", "--json"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let comparison = finished.record();
    assert_eq!(comparison["aa"], true);
    assert_eq!(rounds(&comparison), [named(&["blocking", "blocking-2"], 1)]);
}

#[test]
fn comparison_names_its_options_and_kept_runs() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("runs");
    fs::create_dir(&kept).unwrap();
    let subject = format!("other={}", echo());
    let mut args = vec!["blocking", &subject, "--rounds", "2", "--rate", "500", "--json"];
    args.extend(["--arrivals", "poisson", "--backlog", "77", "--timeout", "4s"]);
    let output = directory.path().to_str().unwrap();
    args.extend(["-o", output, "--keep-runs", kept.to_str().unwrap()]);
    let finished = run_compare(&args);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let comparison = finished.record();
    let asked = &comparison["asked"];
    for (key, value) in [
        ("rate_per_s", Value::from(500)),
        ("arrivals", "poisson".into()),
        ("duration_s", 0.3.into()),
        ("warmup_s", 0.02.into()),
        ("timeout_s", 4.0.into()),
        ("backlog", 77.into()),
        ("conns", vec![2].into()),
    ] {
        assert_eq!(asked[key], value, "{asked}");
    }
    assert_eq!(asked["commands"][0]["command"], echo(), "{asked}");
    assert_eq!(comparison["cells"][0]["load"], "open");
    // The subjects of a round have the same seed, the rounds different ones.
    let mut seeds = Vec::new();
    for (index, backlog) in [(0, Value::from(77)), (1, Value::Null)] {
        for run in comparison["cells"][0]["subjects"][index]["runs"].as_array().unwrap() {
            let file = run["record"].as_str().expect("the run was kept");
            assert!(file.starts_with("runs/"), "not relative to the comparison: {file}");
            let record = fs::read_to_string(directory.path().join(file)).unwrap();
            let record: Value = serde_json::from_str(&record).unwrap();
            // With two CPUs the floor uses both, whatever the runs may use.
            let two = std::thread::available_parallelism().unwrap().get() > 1;
            assert_eq!(record["floor"]["server_cpu"].is_u64(), two, "{}", record["floor"]);
            assert_eq!(record["subject"]["backlog"], backlog);
            assert_eq!(record["rate"]["arrivals"], "poisson");
            seeds.push(record["seed"].clone());
        }
    }
    assert_eq!(seeds[..2], seeds[2..]);
    assert_ne!(seeds[0], seeds[1]);
    let nowhere = directory.path().join("nowhere");
    run_compare(&["blocking", "--aa", "--keep-runs", nowhere.to_str().unwrap()])
        .assert_complains(2, "(ENOENT)");
}

#[test]
fn unfit_peer_is_left_out_with_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_loadgen");
    let fit = format!("exec '{program}' serve --backend blocking \"$@\"");
    for (name, script) in [("peer-fit", fit.as_str()), ("peer-unfit", "echo no ring >&2; exit 3")] {
        let path = directory.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let peers = format!("--peers={}", directory.path().display());
    let finished = run_compare(&["blocking", &peers, "--rounds", "1"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(finished.stderr.starts_with("warning: goes on without unfit: "), "{finished:#?}");
    let flat = finished.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("fit against blocking") && flat.contains("no ring"), "{finished:#?}");
    // One subject is not enough.
    fs::remove_file(directory.path().join("peer-fit")).unwrap();
    let finished = run_compare(&["blocking", &peers, "--rounds", "1"]);
    assert_eq!(finished.code, Some(3), "{finished:#?}");
    assert!(finished.stderr.contains("fewer than two subjects"), "{finished:#?}");
}

#[test]
fn peers_are_found_beside_the_executable() {
    // A directory of its own, since the build may have real peers.
    let program = Path::new(env!("CARGO_BIN_EXE_loadgen"));
    let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let moved = directory.path().join("loadgen");
    fs::hard_link(program, &moved).unwrap();
    let mut command = Command::new(&moved);
    command.args(compare(&["blocking", "--peers", "--rounds", "1"]));
    let how = "build them: cargo build --release -p lockstep-bench --features peers";
    let finished = Finished::of(command.output().unwrap());
    finished.assert_complains_with(2, "no reference server in ", Some(how));

    // An empty file is found, but does not start.
    fs::write(directory.path().join("peer-beside"), "").unwrap();
    let finished = Finished::of(command.output().unwrap());
    assert_eq!(finished.code, Some(3), "{finished:#?}");
    assert!(finished.stderr.contains("beside: "), "{finished:#?}");
}

#[test]
fn cause_of_a_failure_is_named() {
    // While the other subject is under load, its connections are idle. On a slow machine they are
    // idle for long before the first round, too.
    let short = format!("short={} --idle-timeout 250ms", echo());
    let subjects = ["compare", "blocking", &short, "--conns", "2", "--rounds", "1"];
    let finished = run(&[&subjects[..], &["-d", "800ms", "--slice", "400ms", "-w", "0"]].concat());
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    let said = (finished.stdout.clone() + &finished.stderr).replace("\n    ", " ");
    assert!(said.contains("the server closed an idle connection"), "{finished:#?}");
    assert!(said.contains("short: "), "{finished:#?}");
}

#[test]
fn preflight_rejects_subjects_that_cannot_start() {
    for (subject, code, words) in [
        ("absent=no-such-program {addr}", 1, "absent: sh: "),
        ("silent=sleep 100 # {addr}", 4, "after --ready-timeout 5s"),
        ("brief=sleep 0.1; echo it did not work >&2; exit 7 # {port}", 1, "it did not work"),
    ] {
        let finished = run_compare(&["blocking", subject, "--ready-timeout", "5s"]);
        finished.assert_complains(code, words);
        assert!(finished.stderr.contains("\nhint: it has to go on running"), "{finished:#?}");
    }
    let curt = format!("curt={} --service hi", echo());
    run_compare(&["blocking", &curt]).assert_complains(6, "curt: ");
    for (args, words) in [
        (&["mio"][..], "--aa"),
        (&["mio", "no-such"], "NAME='COMMAND'"),
        (&["mio", "blocking", "--pin", "1023"], "no CPU 1023"),
        (&["mio", "blocking", "--threads", "3"], "nothing to do"),
        (&["mio", "blocking", "--peers=/no/such/directory"], "/no/such/directory"),
    ] {
        run_compare(args).assert_complains(2, words);
    }
}

#[test]
fn signal_prints_finished_rounds_and_ends_the_servers() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("pid");
    let subject = format!("other=echo $$ >> {}; exec {}", mark.display(), echo());
    let pids = || -> Vec<i32> {
        let text = fs::read_to_string(&mark).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    for (signal, code) in [(Signal::QUIT, Some(131)), (Signal::KILL, None)] {
        let before = pids().len();
        let args = compare(&["blocking", &subject, "--json"]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let running = Running::start(&mut loadgen(&args));
        // One start is the preflight's.
        wait_until("the third round has begun", || pids().len() > before + 3);
        running.signal(signal);
        let finished = running.finish();
        assert_eq!(finished.code, code, "{finished:#?}");
        if code.is_some() {
            let comparison = finished.record();
            assert_eq!(comparison["interrupted"], true);
            assert!(comparison["rounds"].as_u64() >= Some(2), "{comparison}");
        }
        wait_until("the servers have ended", || pids().into_iter().all(has_ended));
    }
}
