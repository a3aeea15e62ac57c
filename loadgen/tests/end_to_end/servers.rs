//! Servers: how they are started, found and left alone before the load.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv6Addr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Finished, Running, loadgen, run, skip, wait_until};

/// Options that make a round short.
const SHORT: [&str; 6] = ["--duration", "50ms", "--warmup", "20ms", "--conns", "2"];

/// A command line that appends its process number to a file and starts an echo server, which
/// appends its statistics to another.
fn echo(program: &str, pids: &Path, statistics: &Path) -> String {
    let (pids, statistics) = (pids.display(), statistics.display());
    let serve = format!("'{program}' serve --backend blocking --json --listen {{addr}}");
    format!("other=echo $$ >> {pids}; exec {serve} 2>> {statistics}")
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Starts a server, and returns it with the address of its readiness line.
fn started(command: &mut Command) -> (Running, String) {
    let mut server = Running::start(command);
    let mut line = String::new();
    BufReader::new(server.0.as_mut().unwrap().stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let addr = line.split(' ').find_map(|word| word.strip_prefix("addr="));
    let addr = addr.unwrap_or_else(|| panic!("ready: {line}")).to_owned();
    (server, addr)
}

#[test]
fn started_server_gets_no_connection_but_those_of_the_load() {
    let directory = tempfile::tempdir().unwrap();
    let (pids, statistics) = (directory.path().join("pids"), directory.path().join("statistics"));
    let subject = echo(env!("CARGO_BIN_EXE_loadgen"), &pids, &statistics);
    let finished = run(&[&["compare", "blocking", &subject, "--rounds", "2"], &SHORT[..]].concat());
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let accepted =
        |line: String| serde_json::from_str::<Value>(&line).unwrap()["accepted"].as_u64();
    let accepted: Vec<_> = lines(&statistics).into_iter().map(accepted).collect();
    // The preflight makes one exchange with a server of its own.
    assert_eq!(accepted, [Some(1), Some(2), Some(2)]);
}

#[test]
fn server_that_ends_with_its_client_has_not_failed() {
    if let Err(error) = Command::new("python3").arg("--version").output() {
        return skip("python3", error);
    }
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("one.py");
    let lines = [
        "import socket, sys",
        "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))",
        "client = listener.accept()[0]",
        "while request := client.recv(1024):",
        "    client.sendall(request)",
    ];
    fs::write(&script, lines.join("\n")).unwrap();
    let subject = format!("one=python3 '{}' {{port}}", script.display());
    let brief = ["-d", "200ms", "--warmup", "20ms", "--no-floor", "--json"];
    let args = ["sweep", "--command", &subject, "--conns", "1"];
    let finished = run(&[&args[..], &brief].concat());
    finished.assert_measured();
    assert!(!finished.stdout.contains("server-failed"), "{finished:#?}");
}

#[test]
fn replaced_program_goes_on() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = directory.path().join("loadgen");
    fs::hard_link(env!("CARGO_BIN_EXE_loadgen"), &program).unwrap();
    let (pids, statistics) = (directory.path().join("pids"), directory.path().join("statistics"));
    let subject = echo(env!("CARGO_BIN_EXE_loadgen"), &pids, &statistics);
    let mut command = Command::new(&program);
    command.args(["compare", "blocking", &subject, "--rounds", "2"]).args(SHORT);
    let running = Running::start(&mut command);
    wait_until("the preflight has begun", || !lines(&pids).is_empty());
    fs::remove_file(&program).unwrap();
    fs::write(&program, "not a program").unwrap();
    let finished = running.finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(lines(&pids).len(), 3);
}

/// Runs a command in a mount namespace in which the name `two` stands for 127.0.0.5 and 127.0.0.6.
fn with_two_addresses(directory: &Path, args: &[&str]) -> Command {
    let hosts = directory.join("hosts");
    fs::write(&hosts, "127.0.0.5 two\n127.0.0.6 two\n").unwrap();
    let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &mount, "sh"]).args(args);
    command
}

#[test]
fn name_with_several_addresses_means_the_one_with_a_listener() {
    let directory = tempfile::tempdir().unwrap();
    match with_two_addresses(directory.path(), &["true"]).status() {
        Ok(status) if status.success() => {}
        other => return skip("mount-namespace", format!("{other:?}")),
    }
    let program = env!("CARGO_BIN_EXE_loadgen");
    for listen in ["127.0.0.5:0", "127.0.0.6:0", "two:0"] {
        let serve = [program, "serve", "--backend", "blocking", "--listen", listen];
        let (mut server, addr) = started(&mut with_two_addresses(directory.path(), &serve));
        let (ip, port) = addr.split_once(':').unwrap();
        if listen == "two:0" {
            let mut note = String::new();
            BufReader::new(server.0.as_mut().unwrap().stderr.as_mut().unwrap())
                .read_line(&mut note)
                .unwrap();
            let other = if ip == "127.0.0.5" { "127.0.0.6" } else { "127.0.0.5" };
            assert_eq!(note, format!("two:0 also is {other}:{port}: not listening there\n"));
        }
        let target = format!("two:{port}");
        let args = [program, &target, "-n", "20", "-c", "2", "-w", "0s", "--no-floor", "--json"];
        let finished = with_two_addresses(directory.path(), &args).output().unwrap();
        let record = Finished::of(finished).record();
        assert_eq!((&record["subject"]["addr"], &record["exchanges"]), (&addr.into(), &20.into()));
    }
    // The error is that of a connect, not of a missing address.
    let args = [program, "two:1", "-d", "100ms", "--no-floor"];
    let finished = Finished::of(with_two_addresses(directory.path(), &args).output().unwrap());
    finished.assert_complains(4, "(ECONNREFUSED)");
}

/// A link-local address of this machine, and the name of its interface (`/proc/net/if_inet6`).
fn link_local() -> Option<(Ipv6Addr, String)> {
    let interfaces = fs::read_to_string("/proc/net/if_inet6").ok()?;
    interfaces.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, "20", _, name] = fields[..] else { return None };
        Some((u128::from_str_radix(address, 16).ok()?.into(), name.to_owned()))
    })
}

#[test]
fn interface_of_an_address_is_named() {
    let Some((ip, interface)) = link_local() else { return skip("link-local", "no address") };
    let listen = format!("[{ip}%{interface}]:0");
    let serve = ["serve", "--backend", "blocking", "--listen", &listen];
    let (_server, addr) = started(&mut loadgen(&serve));
    let port = addr.rsplit_once(':').unwrap().1;
    let target = format!("[{ip}%{interface}]:{port}");
    let record = run(&["--target", &target, "-n", "20", "-c", "2", "-w", "0s", "--json"]).record();
    assert_eq!(record["exchanges"], 20, "{record}");
    assert_eq!(record["subject"]["addr"], addr);
}
