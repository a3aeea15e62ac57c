//! Files where there is no room for them: told in one line, and none is torn.

use std::path::Path;
use std::process::Command;

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use crate::harness::{Finished, Server, echo, skip};

/// A run by a shell, which is given the program, the target and a folder. The first word says how
/// room is made scarce there.
fn run_in(scarce: &str, folder: &Path, options: &str) -> Finished {
    let server = Server::start(echo);
    let script = format!(
        "{scarce} && \"$0\" --target \"$1\" --conns 2 -d 500ms --warmup 0 --json {options}
        code=$?; cd \"$2\"; ls -A >&2; cat *.hlog 2>/dev/null | cat >&2; exit $code"
    );
    let mut command = Command::new("unshare");
    let program = env!("CARGO_BIN_EXE_loadgen");
    match scarce.starts_with("mount") {
        true => command.args(["-m", "sh", "-c", &script, program]),
        false => {
            command = Command::new("sh");
            command.args(["-c", &script, program])
        }
    };
    command.args([&server.target(), folder.to_str().unwrap()]);
    Finished::of(command.output().expect("there is a shell"))
}

/// Ways to make room scarce, and the name of the error; those that this machine allows.
fn ways() -> Vec<(&'static str, &'static str)> {
    let mut ways = vec![("ulimit -f 8", "File too large")]; // 4 KiB
    let mount = "mount -t tmpfs -o size=4k,nr_inodes=10 none";
    let probe = Command::new("unshare").args(["-m", "sh", "-c", &format!("{mount} /mnt")]).output();
    match probe.is_ok_and(|output| output.status.success()) {
        true => ways.push((
            "mount -t tmpfs -o size=4k,nr_inodes=10 none \"$2\"",
            "No space left on device",
        )),
        false => skip("tmpfs", "mount(8) in a mount namespace needs root"),
    }
    ways
}

#[test]
fn record_on_a_full_disk_is_absent() {
    for (scarce, words) in ways() {
        let folder = tempfile::tempdir().unwrap();
        let finished = run_in(scarce, folder.path(), "-o \"$2/record.json\"");
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        assert!(finished.record()["exchanges"].as_u64() > Some(0), "it is printed all the same");
        let lines: Vec<&str> = finished.stderr.lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with("error: "), "no file: {finished:#?}");
        assert!(lines[0].contains(words), "{finished:#?}");
    }
}

#[test]
fn hlog_on_a_full_disk_ends_with_a_whole_line() {
    for (scarce, _) in ways() {
        let folder = tempfile::tempdir().unwrap();
        let finished = run_in(scarce, folder.path(), "--interval 10ms --hlog \"$2/run.hlog\"");
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        assert!(finished.record()["exchanges"].as_u64() > Some(0), "{finished:#?}");
        let (told, log) = finished.stderr.split_once("run.hlog\n").expect("the file is there");
        assert!(told.contains("run.hlog: ") && told.contains("hint: "), "{told}");
        let mut intervals = 0;
        for entry in IntervalLogIterator::new(log.as_bytes()) {
            let entry = entry.unwrap_or_else(|error| panic!("{error:?}: {log}"));
            intervals += usize::from(matches!(entry, LogEntry::Interval(_)));
        }
        assert!(log.ends_with('\n') && intervals > 0, "{log}");
    }
}
