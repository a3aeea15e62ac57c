//! Limits of processes, memory and descriptors: one line that names them, and no abort.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Finished, loadgen, skip};

/// Runs the command in a shell after `setup`.
fn run_after(setup: &str, args: &[&str]) -> Finished {
    let plain = loadgen(args);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{setup}\nexec \"$@\""), "sh"]);
    command.arg(plain.get_program()).args(plain.get_args());
    Finished::of(command.output().expect("there is sh(1)"))
}

/// A cgroup for one test, which limits its processes and threads.
struct Pids(PathBuf);

impl Pids {
    /// `None` if this process may not make one.
    fn new(name: &str) -> Option<Self> {
        let name = format!("lockstep-test-{name}-{}", std::process::id());
        let groups =
            ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|root| Path::new(root).join(&name));
        for group in groups {
            if fs::create_dir(&group).is_ok() {
                let group = Self(group);
                if group.0.join("pids.max").exists() {
                    return Some(group);
                }
            }
        }
        skip("cgroup-pids", "no writable controller of processes");
        None
    }

    fn limit(&self, processes: u32) {
        fs::write(self.0.join("pids.max"), processes.to_string()).unwrap();
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn limit_of_processes_is_named() {
    let Some(group) = Pids::new("named") else { return };
    let enter = format!("echo $$ > {}", group.0.join("cgroup.procs").display());
    let run = ["--conns", "1", "-b", "mio", "-n", "10"];
    for (most, args) in [
        (1, &run[..]),
        (2, &run),
        (3, &run),
        (1, &["storm", "-b", "mio"]),
        (2, &["compare", "mio", "blocking"]),
        (2, &["sweep", "--conns", "1", "-b", "mio"]),
        (1, &["floor"]),
        (1, &["backlog", "--n", "1"]),
        (2, &["serve", "--backend", "mio", "--shards", "9", "--listen", "127.0.0.1:0"]),
    ] {
        group.limit(most);
        let finished = run_after(&enter, args);
        finished.assert_complains(1, "(EAGAIN)");
        let named = format!("pids.max of the cgroup ({most})");
        assert!(finished.stderr.contains(&named), "{args:?}: {finished:#?}");
    }
}

#[test]
fn limit_of_address_space_is_named() {
    let threads = ["--conns", "512", "--threads", "512", "-b", "mio", "-n", "1000"];
    let shards = ["serve", "--backend", "mio", "--shards", "512", "--listen", "127.0.0.1:0"];
    for args in [&threads[..], &shards] {
        let finished = run_after("ulimit -v 300000", args);
        assert_eq!(finished.code, Some(1), "{args:?}: {finished:#?}");
        assert!(finished.stderr.starts_with("error: "), "{finished:#?}");
        assert!(finished.stderr.contains("ulimit -v"), "{finished:#?}");
        assert_eq!(finished.stderr.lines().count(), 2, "{finished:#?}");
    }
}

#[test]
fn command_keeps_the_soft_limit_of_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits");
    let program = env!("CARGO_BIN_EXE_loadgen");
    let serve = format!("exec '{program}' serve --backend blocking --listen {{addr}}");
    let subject = format!("other=ulimit -Sn >> {}; {serve}", file.display());
    let args =
        ["compare", "blocking", &subject, "--rounds", "1", "-d", "50ms", "-w", "0s", "-c", "2"];
    let finished = run_after("ulimit -Sn 300", &args);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "300\n300\n");
}
