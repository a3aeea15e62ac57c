//! Files of results: checked before a measurement, and a result that its file does not get is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lockstep_results::{Stored, store};
use rustix::process::Signal;

use crate::harness::{
    Finished, Running, Server, counting_echo, echo, loadgen, loadgen_with_floor, run, wait_until,
};

/// Every command with every option that names a file. `{}` stands for the file.
fn command_lines(target: &str, record: &Path) -> Vec<Vec<String>> {
    let record = record.display();
    [
        format!("--target {target} -o {{}}"),
        format!("--target {target} --json -o {{}}"),
        format!("--target {target} --json-lines -o {{}}"),
        format!("--target {target} --hlog {{}}"),
        "compare blocking mio -o {}".to_owned(),
        "compare blocking mio --keep-runs {}".to_owned(),
        format!("sweep --target {target} --conns 1,2 -o {{}}"),
        format!("storm --target {target} -o {{}}"),
        format!("backlog --target {target} -o {{}}"),
        "floor -o {}".to_owned(),
        format!("report {record} -o {{}}"),
    ]
    .iter()
    .map(|line| line.split(' ').map(str::to_owned).collect())
    .collect()
}

/// Runs a command line with the file `path`.
fn run_with(line: &[String], path: &str) -> Finished {
    let args: Vec<&str> = line.iter().map(|word| if word == "{}" { path } else { word }).collect();
    Finished::of(loadgen_with_floor(&args).output().unwrap())
}

#[test]
fn every_destination_is_checked_before_measuring() {
    let server = Server::start(echo);
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (record, existing) = (file("record.json"), file("existing.html"));
    let link = file("link.html");
    fs::write(&existing, "mine").unwrap();
    std::os::unix::fs::symlink("nowhere.html", &link).unwrap();
    let args = ["--target", &server.target(), "--conns", "1", "-n", "10", "--warmup", "0"];
    run(&[&args[..], &["-o", &record]].concat()).assert_measured();
    let before = server.accepted.load(Relaxed);

    let missing = file("missing/a.html");
    let not_a_directory = file("record.json/a.html");
    for line in command_lines(&server.target(), record.as_ref()) {
        for (path, words) in [
            (&*missing, "(ENOENT)"),
            (&not_a_directory, "(ENOTDIR)"),
            ("/proc/a.html", "/proc/a.html: "),
            ("/dev/full", ""),
            ("-", ""),
            (&existing, ""),
            (&link, ""),
        ] {
            let finished = run_with(&line, path);
            assert_eq!(finished.code, Some(2), "{line:?} {path}: {finished:#?}");
            finished.assert_complains(2, words);
        }
    }
    assert_eq!(server.accepted.load(Relaxed), before, "a server was loaded");
    assert_eq!(fs::read_to_string(&existing).unwrap(), "mine");
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 3, "{left:?}");
    // A page and a log are files.
    let page = file("directory.html");
    fs::create_dir(&page).unwrap();
    for args in [&["report", &record, "-o", &page][..], &["--hlog", &page]] {
        run(args).assert_complains(2, "directory.html: is a directory (EISDIR)");
    }
    run(&["-o", &file("new"), "--hlog", &file("new")]).assert_complains(2, "the same file");
}

#[test]
fn refused_run_leaves_files_that_it_may_overwrite() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (record, log) = (file("a.json"), file("a.hlog"));
    for path in [&record, &log] {
        fs::write(path, "mine").unwrap();
    }
    let files = ["-o", &record, "--hlog", &log, "--force"];
    run(&[&["--pin", "1023"], &files[..]].concat()).assert_complains(2, "no CPU 1023");
    for path in [&record, &log] {
        assert_eq!(fs::read_to_string(path).unwrap(), "mine");
    }
}

#[test]
fn link_is_followed_when_its_file_is_overwritten() {
    let server = Server::start(echo);
    let directory = tempfile::tempdir().unwrap();
    let (file, link) = (directory.path().join("a.json"), directory.path().join("link.json"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink("a.json", &link).unwrap();
    let args = ["--target", &server.target(), "--conns", "1", "-n", "10", "--warmup", "0"];
    run(&[&args[..], &["-o", link.to_str().unwrap(), "--force"]].concat()).assert_measured();
    assert!(link.is_symlink());
    assert!(matches!(store::read(&file).unwrap(), Stored::Run(_)));
}

/// The files of a directory.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn result_without_its_directory_is_kept_elsewhere() {
    for (format, kept) in [(&[][..], true), (&["--json"], false)] {
        let (server, requests) = counting_echo(Duration::ZERO);
        let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let output = directory.path().join("a.json");
        let args = ["--target", &server.target(), "--conns", "1", "-d", "100s", "--warmup", "0"];
        let mut command = loadgen(&[&args[..], &["--no-floor"], format].concat());
        command.arg("-o").arg(&output).env("TMPDIR", elsewhere.path());
        let running = Running::start(&mut command);
        wait_until("the run measures", || requests.load(Relaxed) > 100);
        fs::remove_dir(directory.path()).unwrap();
        // After a signal, its exit code says more.
        running.signal(Signal::INT);
        let finished = running.finish();
        assert_eq!(finished.code, Some(130), "{finished:#?}");
        assert!(finished.stderr.contains("a.json: no such file or directory (ENOENT)"));
        let files = files_in(elsewhere.path());
        assert_eq!(files.len(), usize::from(kept), "{finished:#?}");
        match files.first() {
            None => assert_eq!(finished.record()["interrupted"], true),
            Some(file) => {
                let hint = format!("hint: the result is in {}\n", file.display());
                assert!(finished.stderr.ends_with(&hint), "{finished:#?}");
                assert!(matches!(store::read(file).unwrap(), Stored::Run(_)));
                assert!(finished.stdout.contains("exchanges/s"), "{finished:#?}");
            }
        }
    }
}
