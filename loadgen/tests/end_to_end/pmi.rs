//! Ranks whose launcher speaks PMI-1, played by the test.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;

use crate::harness::{Finished, Running, Server, echo, loadgen};

/// Rank 1 of 2, and its launcher.
struct Rank {
    running: Running,
    launcher: BufReader<UnixStream>,
}

impl Rank {
    fn start(args: &[&str]) -> Self {
        let (theirs, ours) = UnixStream::pair().unwrap();
        // A command that does not answer fails the test.
        ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut command = loadgen(args);
        command.env("PMI_FD", theirs.as_raw_fd().to_string());
        command.envs([("PMI_RANK", "1"), ("PMI_SIZE", "2")]);
        // SAFETY: the closure only calls fcntl(2), which is async-signal-safe.
        unsafe {
            command.pre_exec(move || Ok(fcntl_setfd(&theirs, FdFlags::empty())?));
        }
        Self { running: Running::start(&mut command), launcher: BufReader::new(ours) }
    }

    /// The next request, without its end of line.
    #[track_caller]
    fn request(&mut self) -> String {
        let mut line = String::new();
        self.launcher.read_line(&mut line).expect("the rank sends a request");
        line.trim_end().to_owned()
    }

    fn answer(&mut self, line: &str) {
        self.launcher.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Answers the requests before the first barrier, and returns the value that was stored.
    #[track_caller]
    fn serve_until_barrier(&mut self) -> String {
        let mut stored = String::new();
        loop {
            let request = self.request();
            let answer = match request.split(' ').next().unwrap_or_default() {
                "cmd=init" => "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0",
                "cmd=get_maxes" => "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024",
                "cmd=get_my_kvsname" => "cmd=my_kvsname kvsname=kvs_1_0_2_host",
                "cmd=put" => {
                    let (_, value) = request.rsplit_once("value=").unwrap();
                    value.clone_into(&mut stored);
                    "cmd=put_result rc=0 msg=success"
                }
                "cmd=barrier_in" => return stored,
                _ => panic!("unexpected request {request:?}"),
            };
            self.answer(answer);
        }
    }

    /// Passes the barriers, and answers with this verdict.
    #[track_caller]
    fn serve_to_the_end(&mut self, verdict: &str) {
        self.answer("cmd=barrier_out");
        assert_eq!(self.request(), "cmd=barrier_in");
        self.answer("cmd=barrier_out rc=0");
        assert!(self.request().starts_with("cmd=get kvsname=kvs_1_0_2_host key="));
        self.answer(&format!("cmd=get_result rc=0 msg=success value={verdict}"));
        assert_eq!(self.request(), "cmd=finalize");
        self.answer("cmd=finalize_ack");
    }
}

/// A rank of a run of two with its records in `directory`.
fn rank(server: &Server, directory: &tempfile::TempDir) -> Rank {
    let (target, path) = (server.target(), directory.path().to_str().unwrap().to_owned());
    Rank::start(&[
        "--ranks", "auto", "--target", &target, "-c", "2", "-d", "200ms", "-w", "0", "-o", &path,
    ])
}

#[test]
fn launcher_that_fails_in_the_barrier_is_an_error() {
    for (answer, words) in [
        (None, "cmd=barrier_in: the launcher closed the socket"),
        (Some("cmd=barrier_out rc=-1"), "answered cmd=barrier_out rc=-1"),
        (Some("\u{1b}[2Jgarbage"), "answered \\x1b[2Jgarbage"),
        (Some("cmd=barrier_out\ncmd=barrier_out\ncmd=x"), "answered cmd=x"),
    ] {
        let (server, directory) = (Server::start(echo), tempfile::tempdir().unwrap());
        let mut rank = rank(&server, &directory);
        rank.serve_until_barrier();
        let Rank { running, mut launcher } = rank;
        if let Some(answer) = answer {
            launcher.get_mut().write_all(format!("{answer}\n").as_bytes()).unwrap();
        } else {
            drop(launcher);
        }
        let finished = running.finish();
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        let error = finished.stderr.lines().find(|line| line.starts_with("error: PMI: "));
        assert!(error.is_some_and(|error| error.contains(words)), "{words}: {finished:#?}");
        assert_eq!(directory.path().read_dir().unwrap().count(), 0, "nothing was measured");
    }
}

#[test]
fn refusal_of_rank_0_ends_a_rank_with_its_code() {
    let (server, directory) = (Server::start(echo), tempfile::tempdir().unwrap());
    let mut rank = rank(&server, &directory);
    assert!(rank.serve_until_barrier().starts_with("ready,"));
    rank.serve_to_the_end("failed,4,rank%200%20failed:%20no%1b%20route");
    let finished = rank.running.finish();
    assert_eq!(finished.code, Some(4), "{finished:#?}");
    assert!(finished.stderr.contains("error: rank 0 failed: no? route\n"), "{finished:#?}");
    assert_eq!(directory.path().read_dir().unwrap().count(), 0, "nothing was measured");
}

#[test]
fn signal_ends_the_wait_in_the_barrier() {
    let (server, directory) = (Server::start(echo), tempfile::tempdir().unwrap());
    let mut rank = rank(&server, &directory);
    rank.serve_until_barrier();
    rank.running.signal(Signal::INT);
    let finished = rank.running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
}

#[test]
fn rank_that_cannot_connect_reports_it_to_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut rank = Rank::start(&["--ranks", "auto", "--target", &closed, "-c", "2", "-o", path]);
    let stored = rank.serve_until_barrier();
    assert!(stored.starts_with("failed,4,") && stored.contains("ECONNREFUSED"), "{stored}");
    rank.serve_to_the_end("failed,4,rank%201%20failed");
    let finished = rank.running.finish();
    assert_eq!(finished.code, Some(4), "{finished:#?}");
    assert_eq!(finished.stderr.matches("error: ").count(), 1, "{finished:#?}");
}

#[test]
fn rank_with_impossible_options_reports_it_to_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let missing = format!("{path}/missing");
    for (args, words) in [
        (&["-c", "2", "-o", path][..], "start%20no%20server"),
        (&["--target", "127.0.0.1:1", "-c", "2", "-o", &missing], "missing"),
        (&["--target", "127.0.0.1:1", "-c", "1", "-o", path], "--conns%201"),
        (&["--target", "127.0.0.1:1", "-c", "2", "--pin", "1023", "-o", path], "1023"),
    ] {
        let mut rank = Rank::start(&[&["--ranks", "auto"], args].concat());
        let stored = rank.serve_until_barrier();
        assert!(stored.starts_with("failed,2,") && stored.contains(words), "{stored}");
        rank.serve_to_the_end("failed,2,rank%201%20failed");
        let finished = rank.running.finish();
        assert_eq!(finished.code, Some(2), "{finished:#?}");
        assert_eq!(finished.stderr.matches("error: ").count(), 1, "{finished:#?}");
    }
}

/// A launch of other processes, too, or a descriptor that a program in between has closed.
#[test]
fn launcher_that_cannot_help_is_needed_only_without_start_at() {
    let (server, directory) = (Server::start(echo), tempfile::tempdir().unwrap());
    let (target, path) = (server.target(), directory.path().to_str().unwrap().to_owned());
    let args = ["--target", &target, "--rank", "0", "--ranks", "2", "-c", "2", "-d", "200ms"];
    let args = [&args[..], &["-w", "0", "-o", &path]].concat();
    let (socket, _launcher) = UnixStream::pair().unwrap();
    // Not passed on, so not open in the command.
    let closed = socket.as_raw_fd().to_string();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    for (variables, words) in [
        (&[("PMI_FD", "0"), ("PMI_RANK", "0"), ("PMI_SIZE", "2")][..], "PMI_FD=\"0\" is no socket"),
        (&[("PMI_FD", &closed), ("PMI_RANK", "0"), ("PMI_SIZE", "2")], "is no socket"),
        (&[("PMI_PORT", "host:34180"), ("PMI_ID", "0")], "without -pmi-port"),
    ] {
        let run = |args: &[&str]| {
            let mut command = loadgen(args);
            Finished::of(command.envs(variables.iter().copied()).output().unwrap())
        };
        run(&args).assert_complains(1, words);
        let finished = run(&[&args[..], &["--start-at", &now()]].concat());
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        let warning = finished.stderr.lines().next().unwrap();
        assert!(warning.starts_with("warning: the ranks do not agree: PMI: "), "{finished:#?}");
        assert!(warning.contains(words), "{finished:#?}");
    }
}

/// Another process of the launch would be waited for in vain.
#[test]
fn rank_with_another_place_than_the_launcher_gave_is_refused() {
    let (server, directory) = (Server::start(echo), tempfile::tempdir().unwrap());
    let (target, path) = (server.target(), directory.path().to_str().unwrap().to_owned());
    let rank = Rank::start(&["--target", &target, "--rank", "0", "--ranks", "1", "-o", &path]);
    let finished = rank.running.finish();
    finished.assert_complains(2, "rank 0 of 1 is 1 of 2 to its launcher");
}
