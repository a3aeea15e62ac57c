//! Servers on another host, started through a command prefix: `--host` and `--via`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::{Finished, Running, Server, has_ended, loadgen, run, skip, wait_until};

/// The program, which serves as `lockstep` does.
const PROGRAM: &str = env!("CARGO_BIN_EXE_loadgen");

/// Options of a short run on this machine.
const HERE: [&str; 8] = ["--host", "127.0.0.1", "-d", "200ms", "-w", "50ms", "-c", "2"];

/// A script in place of `lockstep` that notes its process number.
struct Script {
    directory: TempDir,
}

impl Script {
    fn new(lines: &str) -> Self {
        let script = Self { directory: tempfile::tempdir().unwrap() };
        let pids = script.directory.path().join("pids");
        let text = format!("#!/bin/sh\necho $$ >> {}\n{lines}\n", pids.display());
        fs::write(script.path(), text).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(script.path(), executable).unwrap();
        script
    }

    /// A `lockstep`.
    fn lockstep() -> Self {
        Self::new(&format!("exec {PROGRAM} \"$@\""))
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("lockstep")
    }

    fn pids(&self) -> Vec<i32> {
        let pids = fs::read_to_string(self.directory.path().join("pids")).unwrap_or_default();
        pids.lines().filter_map(|line| line.parse().ok()).collect()
    }

    #[track_caller]
    fn assert_gone(&self) {
        assert!(!self.pids().is_empty());
        wait_until("no server is left", || self.pids().into_iter().all(has_ended));
    }

    /// The arguments, followed by this program as that of the other host.
    fn args(&self, args: &[&str]) -> Vec<String> {
        let own = ["--remote-lockstep".to_owned(), self.path().display().to_string()];
        args.iter().map(|arg| (*arg).to_owned()).chain(own).collect()
    }

    fn run(&self, args: &[&str]) -> Finished {
        run(&self.args(args).iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn start(&self, args: &[&str]) -> Running {
        Running::start(&mut loadgen(
            &self.args(args).iter().map(String::as_str).collect::<Vec<_>>(),
        ))
    }
}

/// A network namespace with a host, connected to this one.
struct Host {
    name: String,
    addr: String,
}

impl Host {
    /// `None` if this process may not make one.
    #[track_caller]
    fn start() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let name = format!("remote-srv-{pid}-{number}");
        let (here, there) = (format!("rh{number}x{pid}"), format!("rt{number}x{pid}"));
        // Addresses that no other process of these tests has.
        let (high, low) = (64 + pid / 64 % 64, pid % 64 * 4 + number % 4);
        let [own, addr] = [1, 2].map(|host| format!("100.{high}.{low}.{host}"));
        let host = Self { name, addr };
        let name = &host.name;
        for line in [
            format!("netns add {name}"),
            format!("link add {here} type veth peer name {there} netns {name}"),
            format!("addr add {own}/24 dev {here}"),
            format!("link set {here} up"),
            format!("-n {name} addr add {}/24 dev {there}", host.addr),
            format!("-n {name} link set {there} up"),
            format!("-n {name} link set lo up"),
        ] {
            let output = Command::new("ip").args(line.split(' ')).output();
            if output.as_ref().is_ok_and(|output| output.status.success()) {
                continue;
            }
            skip("netns", format!("ip {line}: {output:?}"));
            return None;
        }
        Some(host)
    }

    fn via(&self) -> String {
        format!("ip netns exec {}", self.name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

#[test]
fn comparison_in_a_namespace_has_server_cpu_with_an_interval() {
    let Some(host) = Host::start() else { return };
    let script = Script::lockstep();
    let compare = ["compare", "mio", "blocking", "--host", &host.addr, "--via", &host.via()];
    let brief = ["--rounds", "6", "-d", "200ms", "-w", "20ms", "-c", "2", "--json"];
    let finished = script.run(&[&compare[..], &brief].concat());
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let comparison = finished.record();
    let subjects = comparison["cells"][0]["subjects"].as_array().unwrap();
    let ratio = &subjects[1]["metrics"]["server_cpu_us_per_exchange"]["ratio"];
    assert!(ratio["low"].as_f64() < ratio["high"].as_f64(), "{comparison}");
    for subject in subjects {
        assert!(subject["metrics"]["server_cpu_us_per_exchange"]["median"].as_f64() > Some(0.0));
        assert_eq!(subject["subject"]["via"], host.via());
        assert_eq!(subject["runs"].as_array().unwrap().len(), 6);
        // The namespace is on this machine.
        assert!(["apart", "shared"].contains(&subject["placement"].as_str().unwrap()));
    }
    script.assert_gone();
    assert_eq!(script.pids().len(), 2 + 2 * 6);
}

#[test]
fn server_in_a_namespace_is_known_to_share_the_cpus() {
    let Some(host) = Host::start() else { return };
    let listen = format!("{}:0", host.addr);
    let serve = [PROGRAM, "serve", "--backend", "mio", "--listen", &listen, "--metrics", &listen];
    let mut command = Command::new("ip");
    let mut server = Running::start(
        command.args(["netns", "exec", &host.name]).args(serve).args(["--pin", "0"]),
    );
    let mut line = String::new();
    let stdout = server.0.as_mut().unwrap().stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let value = |key| line.split_whitespace().find_map(|word| word.strip_prefix(key));
    let (addr, metrics) = (value("addr=").unwrap(), value("metrics=").unwrap());
    let args =
        [addr, "--server-metrics", metrics, "-d", "300ms", "-c", "2", "--no-floor", "--json"];
    let record = run(&args).record();
    let cost = &record["server"];
    assert!(cost["cpu_us_per_exchange"].as_f64() > Some(0.0), "{record}");
    assert!(cost["syscalls_per_exchange"].as_f64() > Some(1.0), "{record}");
    assert_eq!((&cost["counted_by"], &cost["cpus"]), (&"server".into(), &"0".into()), "{record}");
    assert_eq!(cost["source"], format!("http://{metrics}/metrics"));
    let apart = record["client"]["cpus"] != "0";
    assert_eq!(record["placement"], if apart { "apart" } else { "shared" }, "{record}");
}

#[test]
fn killed_generator_leaves_no_server() {
    let Some(host) = Host::start() else { return };
    for (servers, pause) in [(1, 0), (2, 0), (3, 100), (4, 300)] {
        let script = Script::lockstep();
        let compare = ["compare", "mio", "blocking", "--host", &host.addr, "--via", &host.via()];
        let running = script.start(&[&compare[..], &["-d", "1s", "-w", "100ms"]].concat());
        wait_until("the servers are started", || script.pids().len() >= servers);
        std::thread::sleep(Duration::from_millis(pause));
        running.signal(Signal::KILL);
        script.assert_gone();
    }
    let left = Command::new("ip").args(["netns", "pids", &host.name]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

/// Children of a process.
fn children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The prefix command may be unable to signal its server: ssh(1) is killed, or its connection lost.
#[test]
fn server_ends_with_its_standard_input_alone() {
    let script = Script::lockstep();
    let running = script.start(&[&["--backend", "mio", "--via", "env"], &HERE[..6]].concat());
    wait_until("the server is started", || script.pids().len() == 1);
    // Without its supervisor, nothing signals it.
    let raw = |pid: Pid| pid.as_raw_nonzero().get();
    let supervisor = children(raw(running.pid())).into_iter().next().expect("the supervisor");
    kill_process(Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
    wait_until("the supervisor has ended", || has_ended(supervisor));
    assert!(!has_ended(script.pids()[0]));
    running.signal(Signal::KILL);
    script.assert_gone();
}

#[test]
fn signal_ends_the_run_and_its_server() {
    let script = Script::lockstep();
    let args = ["--backend", "mio", "--via", "env", "--host", "127.0.0.1", "-d", "1m", "--json"];
    let running = script.start(&args);
    wait_until("the server is started", || script.pids().len() == 1);
    std::thread::sleep(Duration::from_millis(300));
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    script.assert_gone();
}

#[test]
fn run_takes_the_options_and_says_where_its_server_is() {
    let script = Script::lockstep();
    let options = ["--shards", "1", "--backlog", "77", "--service", "hi", "--server-spin", "10us"];
    for args in [&options[..], &["--rate", "500"]] {
        let brief = ["--backend", "mio", "--via", "env", "--json"];
        let finished = script.run(&[&brief[..], &HERE, args].concat());
        finished.assert_measured();
        let record = finished.record();
        let subject = &record["subject"];
        assert_eq!((&subject["backend"], &subject["via"]), (&"mio".into(), &"env".into()));
        let server = &record["server"];
        assert!(server["cpu_us_per_exchange"].as_f64() > Some(0.0), "{record}");
        assert!(server["source"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{record}");
        assert_eq!(server["counted_by"], "server");
        assert!(record["server_statistics"]["exchanges"].as_u64() >= record["exchanges"].as_u64());
        assert!(record["placement"].is_string(), "{record}");
        if args.len() > 2 {
            assert_eq!((&subject["shards"], &subject["backlog"]), (&1.into(), &77.into()));
            assert_eq!((&subject["service"], &subject["spin_ns"]), (&"hi".into(), &10_000.into()));
        }
    }
    script.assert_gone();
}

#[test]
fn sweep_starts_its_servers_through_the_prefix() {
    let script = Script::lockstep();
    let args = ["sweep", "--backend", "mio", "--via", "env", "--conns", "1,2", "--json"];
    let finished = script.run(&[&args[..], &HERE[..6]].concat());
    let sweep = finished.record();
    let points = sweep["points"].as_array().unwrap();
    assert!(points.len() >= 2 && script.pids().len() >= 2, "{sweep}");
    assert!(points.iter().all(|it| it["server_cpu_us_per_exchange"].as_f64() > Some(0.0)));
    script.assert_gone();
}

#[test]
fn greeting_of_the_host_is_ignored() {
    let greeting = "echo Welcome to host; echo; printf 'no line feed '; echo Banner >&2";
    let script = Script::new(&format!("{greeting}\nexec {PROGRAM} \"$@\""));
    let finished =
        script.run(&[&["--backend", "mio", "--via", "env", "--json"], &HERE[..]].concat());
    finished.assert_measured();
    assert_eq!(finished.stderr, "Banner\n");
}

#[test]
fn standard_error_may_be_lost() {
    let script = Script::new(&format!("exec {PROGRAM} \"$@\" 2>/dev/null"));
    let finished =
        script.run(&[&["--backend", "mio", "--via", "env", "--json"], &HERE[..]].concat());
    finished.assert_measured();
    let record = finished.record();
    assert_eq!(record.get("server_statistics"), None, "{record}");
    assert!(record["server"]["cpu_us_per_exchange"].as_f64() > Some(0.0), "{record}");
}

#[test]
fn server_that_dies_is_a_failure() {
    let script =
        Script::new(&format!("exec 3<&0\n{PROGRAM} \"$@\" <&3 &\nsleep 0.5; kill -9 $!; exit 3"));
    let args = ["--backend", "mio", "--via", "env", "--host", "127.0.0.1", "-d", "2s", "--json"];
    let finished = script.run(&[&args[..], &["-c", "2", "-w", "0s"]].concat());
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    let reasons = finished.record()["invalid_reasons"].to_string();
    assert!(reasons.contains("server-failed: the server did not end in order"), "{reasons}");
    script.assert_gone();
}

#[test]
fn prefix_that_fails_is_named_with_its_own_words() {
    let at_path = "lockstep has to be on the PATH there, or --remote-lockstep PATH names it";
    let by_hand = |via: &str| format!("try it by hand: {via} lockstep --version");
    for (via, code, words, hint) in [
        ("no-such-prefix", 1, "no-such-prefix: not found", by_hand("no-such-prefix")),
        ("env PATH=/nowhere", 1, "lockstep", at_path.to_owned()),
        ("sh -c 'exit 255'", 1, "exit status 255", by_hand("sh -c 'exit 255'")),
        ("true", 1, "exit status 0", by_hand("true")),
        ("cat;", 4, "not ready within --ready-timeout 1s", by_hand("cat;")),
        ("sh -c 'kill -9 $$'", 1, "signal 9", by_hand("sh -c 'kill -9 $$'")),
    ] {
        let args = ["--backend", "mio", "--via", via, "--ready-timeout", "1s"];
        let finished = run(&[&args[..], &HERE].concat());
        let what = format!("cannot start mio through '{via}': ");
        assert!(finished.stderr.starts_with(&format!("error: {what}")), "{finished:#?}");
        finished.assert_complains_with(code, words, Some(&hint));
    }
}

#[test]
fn error_of_the_server_is_reported_as_its_own() {
    let args = |host| ["--backend", "mio", "--via", "env", "--host", host, "-d", "200ms"];
    let script = Script::lockstep();
    // An address for documentation (RFC 5737).
    let finished = script.run(&args("192.0.2.1"));
    finished.assert_complains_with(
        4,
        "cannot listen on 192.0.2.1:0: cannot assign requested address (EADDRNOTAVAIL)",
        Some("this machine does not have that address"),
    );
    let script = Script::new("echo \"error: unexpected argument '--metrics' found\" >&2; exit 2");
    let finished = script.run(&args("127.0.0.1"));
    let hint = Some("the lockstep there is of another version");
    finished.assert_complains_with(2, "unexpected argument '--metrics'", hint);
}

/// A script that is ready, with these metrics, but serves nothing.
fn pretender(metrics: &str) -> Script {
    let line = "listening addr=127.0.0.1:1 backend=mio shards=1 backlog=1 pid=1";
    Script::new(&format!("echo {line}{metrics}\nexec cat"))
}

#[test]
fn other_versions_are_refused() {
    let page = |build: &'static str| {
        Server::start(move |mut stream, _| {
            use std::io::{Read, Write};
            let _request = stream.read(&mut [0; 4096]);
            let page = format!("process_cpu_seconds_total 1\n{build}\n");
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{page}");
        })
    };
    let args = [&["--backend", "mio", "--via", "env"], &HERE[..]].concat();
    for (build, words) in [
        (
            "lockstep_build_info{version=\"0.0.9\",backend=\"mio\"} 1",
            "its version is 0.0.9, that of",
        ),
        ("", "does not publish its version"),
    ] {
        let page = page(build);
        let script = pretender(&format!(" metrics={}", page.target()));
        let finished = script.run(&args);
        finished.assert_complains(3, words);
        assert!(finished.stderr.contains("hint: install the same version"), "{finished:#?}");
        script.assert_gone();
    }
    let script = pretender("");
    script.run(&args).assert_complains(1, "does not publish its metrics");
    pretender(" metrics=127.0.0.1:1").run(&args).assert_complains(4, "(ECONNREFUSED)");
}

#[test]
fn usage_errors_of_the_prefix() {
    for (args, words) in [
        (&["--via", "env"][..], "--host"),
        (&["--host", "127.0.0.1"], "--via"),
        (&["--remote-lockstep", "x"], "--via"),
        (&["--via", " ", "--host", "127.0.0.1"], "is empty"),
        (&["--via", "env", "--host", "127.0.0.1:80"], "the server chooses the port"),
        (&["--via", "env", "--host", "0.0.0.0"], "one address of the host"),
        (&["a:1", "--via", "env", "--host", "127.0.0.1"], "cannot be used with"),
        (&["--via", "env", "--host", "127.0.0.1", "--place", "steered"], "--place steered"),
        (&["storm", "--via", "env", "--host", "127.0.0.1"], "storm starts its servers on this"),
        (&["compare", "mio", "--peers", "--via", "env", "--host", "127.0.0.1"], "cannot be used"),
        (&["compare", "mio", "x=y {port}", "--via", "env", "--host", "127.0.0.1"], "command x"),
        (
            &["sweep", "--conns", "1,2", "--processes", "2", "--via", "e", "--host", "a"],
            "cannot be",
        ),
    ] {
        run(args).assert_complains(2, words);
    }
}

#[test]
fn prefix_that_never_answers_ends_at_the_timeout() {
    let began = Instant::now();
    let args = ["--via", "sh -c 'yes'", "--ready-timeout", "500ms", "--backend", "mio"];
    run(&[&args[..], &HERE].concat()).assert_complains(4, "--ready-timeout 500ms");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn text_names_the_prefix() {
    let script = Script::lockstep();
    let finished = script.run(&[&["--backend", "mio", "--via", "env"], &HERE[..]].concat());
    assert!(finished.stdout.contains("through 'env'"), "{finished:#?}");
}
