//! Files: whole or not at all, never overwritten by accident, and errors of one line.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::Path;

use lockstep_results::statistics::Stopping;
use lockstep_results::{Comparison, Interval, Plan, Record, Run, SCHEMA, Stored, store};
use tempfile::tempdir;

use crate::{SAMPLE, header, sample};

fn stored() -> Stored {
    Stored::Run(Box::new(sample()))
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// The text of an error, which is one line.
fn one_line(error: &io::Error) -> String {
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

fn write_error(record: &Record, path: &Path, force: bool) -> (ErrorKind, String) {
    let error: io::Error = store::write(record, path, force).unwrap_err();
    (error.kind(), one_line(&error))
}

#[test]
fn record_reads_back_as_written() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("run.json");
    assert_eq!(store::write(&sample(), &path, false).unwrap(), path);
    assert_eq!(store::read(&path).unwrap(), stored());
    assert_eq!(names(directory.path()), ["run.json"], "no temporary file stays");
}

#[test]
fn directory_gets_a_named_file_and_never_loses_one() {
    let directory = tempdir().unwrap();
    let write = |force| store::write(&sample(), directory.path(), force).unwrap();
    let stem = "20261123T122405Z-9f86d081-mio-1000x64";
    assert_eq!(write(false), directory.path().join(format!("{stem}.json")));
    assert_eq!(write(false), directory.path().join(format!("{stem}-2.json")));
    assert_eq!(write(true), directory.path().join(format!("{stem}-3.json")));
    assert_eq!(names(directory.path()).len(), 3);
}

#[test]
fn generated_name_has_plain_characters_and_no_host_name() {
    let directory = tempdir().unwrap();
    let mut record = sample();
    record.subject.name = "[::1]:80/../x".into();
    record.environment.host = None;
    record.header.started = "2026-11-23T12:24:05.678Z".into();
    let path = store::write(&record, directory.path(), false).unwrap();
    let name = "20261123T122405Z-unknown-___1__80_.._x-1000x64.json";
    assert_eq!(path, directory.path().join(name));
}

/// One round of two subjects.
fn comparison() -> Comparison {
    let plan = Plan {
        header: header("comparison"),
        subjects: vec!["mio".into(), "io-uring".into()],
        baseline: "mio".into(),
        aa: false,
        stopping: Stopping::default(),
        absent: Vec::new(),
        asked: None,
    };
    let run =
        |subject: &str| Run { round: 1, subject: subject.into(), record: sample(), file: None };
    Comparison::judge(plan, &[run("mio"), run("io-uring")])
}

#[test]
fn comparison_file_is_distinguished_from_a_record() {
    let directory = tempdir().unwrap();
    let path = store::write(&comparison(), directory.path(), false).unwrap();
    let name = "20261123T122405Z-9f86d081-mio-vs-io-uring.json";
    assert_eq!(path, directory.path().join(name));
    let Stored::Comparison(read) = store::read(&path).unwrap() else {
        panic!("it is taken for something else");
    };
    // Without floats, which reading may change in their last bit.
    assert_eq!((&read.plan, read.cells.len()), (&comparison().plan, 1));

    let record = directory.path().join("run.json");
    store::write(&sample(), &record, false).unwrap();
    assert_eq!(store::read(&record).unwrap(), Stored::Run(Box::new(sample())));
    fs::write(&record, r#"{"schema":1,"kind":"survey"}"#).unwrap();
    assert!(one_line(&store::read(&record).unwrap_err()).contains("unknown kind \"survey\""));
}

#[test]
fn file_is_not_overwritten_without_force() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("run.json");
    fs::write(&path, "precious").unwrap();
    let (kind, line) = write_error(&sample(), &path, false);
    assert_eq!((kind, &*line), (ErrorKind::AlreadyExists, "File exists (os error 17)"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(names(directory.path()), ["run.json"]);

    store::write(&sample(), &path, true).unwrap();
    assert_eq!(store::read(&path).unwrap(), stored());
}

/// An error of the temporary file, whose path the user has not given, has the number alone.
#[test]
fn error_of_the_temporary_file_has_its_number() {
    let error = store::write(&sample(), Path::new("/proc"), false).unwrap_err();
    assert!(error.raw_os_error().is_some(), "{error:?}");
}

/// A rename would replace /dev/null.
#[test]
fn device_is_not_overwritten() {
    let path = Path::new("/dev/null");
    let (kind, line) = write_error(&sample(), path, true);
    assert_eq!((kind, &*line), (ErrorKind::InvalidInput, "is neither a file nor a directory"));
    assert!(fs::metadata(path).is_ok_and(|found| !found.is_file()));
}

#[test]
fn missing_directory_is_an_error() {
    let directory = tempdir().unwrap();
    for path in ["none/run.json", "none/"] {
        let (kind, _) = write_error(&sample(), &directory.path().join(path), false);
        assert_eq!(kind, ErrorKind::NotFound);
    }
    assert_eq!(names(directory.path()).len(), 0);
}

/// The check before a run and the write after it agree.
#[test]
fn check_rejects_the_same_as_write() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("run.json");
    assert!(store::check(&file, false).is_ok());
    assert!(store::check(directory.path(), false).is_ok());
    assert!(store::check(Path::new("in_the_working_directory.json"), false).is_ok());
    fs::write(&file, "").unwrap();
    for path in [&*file, Path::new("/dev/null"), Path::new("/none/run.json"), &file.join("below")] {
        let checked = store::check(path, false).unwrap_err().to_string();
        assert_eq!(checked, store::write(&sample(), path, false).unwrap_err().to_string());
    }
}

#[test]
fn failed_write_leaves_no_file() {
    let directory = tempdir().unwrap();
    // A dangling link passes the check and fails at the rename.
    let path = directory.path().join("run.json");
    symlink("/none/nowhere", &path).unwrap();
    let (kind, _) = write_error(&sample(), &path, false);
    assert_eq!(kind, ErrorKind::AlreadyExists);
    assert_eq!(names(directory.path()), ["run.json"], "the temporary file is removed");

    // So does a name that is too long for the file system.
    let (_, line) = write_error(&sample(), &directory.path().join("x".repeat(300)), false);
    assert!(line.contains("too long"), "{line}");
    assert_eq!(names(directory.path()), ["run.json"]);
}

#[test]
fn record_that_would_not_read_back_is_rejected() {
    let directory = tempdir().unwrap();
    let record = Record { throughput_per_s: f64::NAN, ..sample() };
    let (kind, line) = write_error(&record, &directory.path().join("run.json"), false);
    assert_eq!(kind, ErrorKind::InvalidData);
    assert!(line.starts_with("the record is not a record: "), "{line}");
    assert_eq!(names(directory.path()).len(), 0);
}

#[test]
fn concurrent_writers_get_a_file_each() {
    let directory = tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| store::write(&sample(), directory.path(), false).unwrap());
        }
    });
    let names = names(directory.path());
    assert_eq!(names.len(), 8, "{names:?}");
    for name in names {
        assert_eq!(store::read(&directory.path().join(name)).unwrap(), stored());
    }
}

#[test]
fn files_that_are_no_record_are_errors() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("run.json");
    let error = |text: &str| {
        fs::write(&path, text).unwrap();
        one_line(&store::read(&path).unwrap_err())
    };

    for text in ["throughput: 241.9k/s\n", &SAMPLE[..SAMPLE.len() / 2], "\u{0}\u{1}"] {
        let line = error(text);
        assert!(line.starts_with("not JSON: "), "{line}");
    }
    for (text, reason) in [
        ("", "empty"),
        (" \n", "empty"),
        ("{}", "no schema number"),
        ("[1]", "no schema number"),
        ("7", "no schema number"),
        (r#"{"schema": "one"}"#, "a strange schema number"),
        (r#"{"schema": 0}"#, "a strange schema number"),
        (r#"{"schema": 1}"#, "missing field `valid`"),
        (
            &*SAMPLE.replace("\"conns\": 1000", "\"conns\": -1"),
            "invalid value: integer `-1`, expected u32",
        ),
    ] {
        let line = error(text);
        assert_eq!(line, format!("not a record: {reason}"));
    }
    let newer = SAMPLE.replacen("\"schema\": 1", "\"schema\": 2", 1);
    let line = error(&newer);
    assert_eq!(line, format!("written by a newer version: schema 2, {SCHEMA} is known here"));
}

#[test]
fn record_is_read_behind_its_intervals() {
    let record = serde_json::to_string(&sample()).unwrap();
    let interval = "{\"kind\":\"interval\",\"start_s\":0.0}\n";
    let read = |text: &str| store::read_from(text.as_bytes());
    assert_eq!(read(&format!("{interval}{interval}{record}\n")).unwrap(), stored());
    for (text, cause) in [
        (interval.to_owned(), "not JSON: no result"),
        (format!("{record}\n{record}\n"), "not a record: several results"),
        (format!("{interval}{}", &record[..record.len() / 2]), "not JSON: EOF while parsing"),
        (format!("{interval}{record} and"), "not JSON: "),
    ] {
        let error = one_line(&read(&text).unwrap_err());
        assert!(error.starts_with(cause), "{error}");
    }
}

#[test]
fn unreadable_files_are_errors() {
    let directory = tempdir().unwrap();
    let missing = directory.path().join("none.json");
    let error = store::read(&missing).unwrap_err();
    assert_eq!(one_line(&error), "No such file or directory (os error 2)");

    let error = store::read(directory.path()).unwrap_err();
    assert_eq!(one_line(&error), "Is a directory (os error 21)");

    // An endless file is not read into memory whole.
    let error = store::read(Path::new("/dev/zero")).unwrap_err();
    assert_eq!(one_line(&error), "not a record: larger than 64 MiB");
}

/// The most that a run writes.
#[test]
fn record_of_100_000_intervals_is_read() {
    let mut record = sample();
    let start_s = |number: usize| number as f64 * 0.123_456_789;
    let interval = Interval {
        start_s: 0.0,
        length_s: 0.123_456_789,
        exchanges: u64::MAX >> 11,
        errors: u64::MAX >> 11,
        p50_ns: Some(3_600_000_000_000),
        p90_ns: Some(3_600_000_000_000),
        p99_ns: Some(3_600_000_000_000),
        max_ns: Some(3_600_000_000_000),
    };
    record.intervals =
        (0..100_000).map(|n| Interval { start_s: start_s(n), ..interval.clone() }).collect();
    let directory = tempdir().unwrap();
    let path = store::write(&record, &directory.path().join("run.json"), false).unwrap();
    let Stored::Run(read) = store::read(&path).unwrap() else { panic!("a run") };
    assert_eq!(read.intervals.len(), 100_000);
}
