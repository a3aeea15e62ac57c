//! Full disks: one line of error, and no torn file.

use std::path::Path;
use std::process::Command;

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use crate::harness::{Finished, Server, echo, skip};

/// A run started by a shell. `limit` is the command that limits the space for files in `folder`.
fn run_in(limit: &str, folder: &Path, options: &str) -> Finished {
    let server = Server::start(echo);
    let script = format!(
        "{limit} && \"$0\" --target \"$1\" --conns 2 -d 500ms --warmup 0 --no-floor --json {options}
        code=$?; cd \"$2\"; ls -A >&2; cat *.hlog 2>/dev/null | cat >&2; exit $code"
    );
    let mut command = Command::new("unshare");
    let program = env!("CARGO_BIN_EXE_loadgen");
    match limit.starts_with("mount") {
        true => command.args(["-m", "sh", "-c", &script, program]),
        false => {
            command = Command::new("sh");
            command.args(["-c", &script, program])
        }
    };
    command.args([&server.target(), folder.to_str().unwrap()]);
    Finished::of(command.output().expect("there is a shell"))
}

/// Commands that limit the space, as far as this machine allows them, each with its error.
fn limits() -> Vec<(&'static str, &'static str)> {
    let mut limits = vec![("ulimit -f 8", "EFBIG")]; // 4 KiB
    let mount = "mount -t tmpfs -o size=4k,nr_inodes=10 none";
    let probe = Command::new("unshare").args(["-m", "sh", "-c", &format!("{mount} /mnt")]).output();
    match probe.is_ok_and(|output| output.status.success()) {
        true => limits.push(("mount -t tmpfs -o size=4k,nr_inodes=10 none \"$2\"", "ENOSPC")),
        false => skip("tmpfs", "mount(8) in a mount namespace needs root"),
    }
    limits
}

#[test]
fn record_on_a_full_disk_is_absent() {
    for (limit, words) in limits() {
        let folder = tempfile::tempdir().unwrap();
        let finished = run_in(limit, folder.path(), "-o \"$2/record.json\"");
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        assert!(finished.record()["exchanges"].as_u64() > Some(0), "not printed: {finished:#?}");
        let lines: Vec<&str> = finished.stderr.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("error: "),
            "a file or a second line: {finished:#?}"
        );
        assert!(lines[0].contains(words), "{finished:#?}");
    }
}

#[test]
fn hlog_on_a_full_disk_ends_with_a_whole_line() {
    for (limit, _) in limits() {
        let folder = tempfile::tempdir().unwrap();
        let finished = run_in(limit, folder.path(), "--interval 10ms --hlog \"$2/run.hlog\"");
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        assert!(finished.record()["exchanges"].as_u64() > Some(0), "{finished:#?}");
        let (message, log) = finished.stderr.split_once("run.hlog\n").expect("the log exists");
        assert!(message.contains("run.hlog: ") && message.contains("hint: "), "{message}");
        let mut intervals = 0;
        for entry in IntervalLogIterator::new(log.as_bytes()) {
            let entry = entry.unwrap_or_else(|error| panic!("{error:?}: {log}"));
            intervals += usize::from(matches!(entry, LogEntry::Interval(_)));
        }
        assert!(log.ends_with('\n') && intervals > 0, "{log}");
    }
}
