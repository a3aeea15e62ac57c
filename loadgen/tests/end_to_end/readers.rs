//! Readers of standard output that stop reading.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lockstep_results::{Record, Stored, store};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Signal;

use crate::harness::{Finished, Running, counting_echo, loadgen, wait_until};

/// A pipe without room, its reader, and the number of bytes in it.
fn full_pipe() -> (File, OwnedFd, usize) {
    let (reader, writer) = std::io::pipe().unwrap();
    let (reader, mut writer) =
        (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)));
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    let mut filled = 0;
    for size in [4096, 1] {
        while let Ok(count) = writer.write(&vec![b'\n'; size]) {
            filled += count;
        }
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer.into(), filled)
}

#[test]
fn intervals_that_nobody_reads_are_counted() {
    let (server, _) = counting_echo(Duration::from_millis(1));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.json");
    let (mut reader, stdout, filled) = full_pipe();
    let args = ["--target", &server.target(), "--conns", "1", "-d", "2700ms", "--warmup", "0"];
    let mut command = loadgen(&[&args[..], &["--interval", "10ms", "--json-lines"]].concat());
    command.arg("-o").arg(&file).stdout(stdout).stderr(std::process::Stdio::piped());
    let mut running = Running(Some(command.spawn().unwrap()));
    drop(command); // It holds the pipe open.
    wait_until("the record is written", || file.exists());
    assert_eq!(running.0.as_mut().unwrap().try_wait().unwrap(), None, "it waits for its reader");
    let Stored::Run(record) = store::read(&file).unwrap() else { panic!("a run") };
    let unprinted = |record: &Record| -> Option<usize> {
        let warning = record.warnings.iter().find_map(|text| text.strip_prefix("unprinted: "))?;
        warning.split(' ').find_map(|word| word.parse().ok())
    };
    let missing = unprinted(&record).expect("a warning");

    let mut printed = Vec::new();
    reader.read_to_end(&mut printed).unwrap();
    let printed = String::from_utf8(printed.split_off(filled)).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    let (last, intervals) = lines.split_last().unwrap();
    assert_eq!(serde_json::from_str::<Record>(last).unwrap(), *record);
    assert_eq!((record.intervals.len(), intervals.len() + missing), (270, 270));
    let finished = running.finish();
    assert!(finished.stderr.contains("\nwarning: unprinted: "), "{finished:#?}");
}

#[test]
fn signal_ends_a_run_whose_output_nobody_reads() {
    for (format, output) in [
        (&["--interval", "10ms", "--json-lines"][..], true),
        (&["--interval", "10ms"], false),
        (&["--json"], true),
        (&["--json"], false),
    ] {
        let (server, requests) = counting_echo(Duration::ZERO);
        let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (_reader, stdout, _) = full_pipe();
        let args = ["--target", &server.target(), "--conns", "1", "-d", "100s", "--warmup", "0"];
        let mut command = loadgen(&[&args[..], &["--no-floor"], format].concat());
        if output {
            command.arg("-o").arg(directory.path());
        }
        command.env("TMPDIR", elsewhere.path()).stdout(stdout);
        command.stderr(std::process::Stdio::piped());
        let running = Running(Some(command.spawn().unwrap()));
        wait_until("the run measures", || requests.load(Relaxed) > 100);
        running.signal(Signal::INT);
        let finished = running.finish();
        assert_eq!(finished.code, Some(130), "{finished:#?}");
        assert!(finished.stderr.contains("standard output: nothing reads it"), "{finished:#?}");
        let place = if output { &directory } else { &elsewhere };
        let [file] = &fs::read_dir(place).unwrap().collect::<Vec<_>>()[..] else {
            panic!("{finished:#?}")
        };
        let path = file.as_ref().unwrap().path();
        assert!(finished.stderr.contains(path.to_str().unwrap()), "{finished:#?}");
        assert!(matches!(store::read(&path).unwrap(), Stored::Run(record) if record.interrupted));
    }
}

#[test]
fn signal_ends_the_wait_for_a_reader() {
    let (server, _) = counting_echo(Duration::ZERO);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.json");
    let (_reader, stdout, _) = full_pipe();
    let args = ["--target", &server.target(), "--conns", "1", "-n", "10", "--warmup", "0"];
    let mut command = loadgen(&args);
    command.arg("-o").arg(&file).stdout(stdout).stderr(std::process::Stdio::piped());
    let running = Running(Some(command.spawn().unwrap()));
    wait_until("the record is written", || file.exists());
    running.signal(Signal::TERM);
    let finished: Finished = running.finish();
    assert_eq!(finished.code, Some(143), "{finished:#?}");
}
