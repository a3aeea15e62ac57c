//! Ports and source addresses of connections, in a network namespace with few ports.

use std::process::Command;

use crate::harness::{Finished, loadgen, run, skip};

/// Runs the command where each source address has the ports of `range`; `None` if this process may
/// not have a network namespace.
fn run_with_ports(range: &str, args: &[&str]) -> Option<Finished> {
    let setup = "ip link set lo up && echo $0 > /proc/sys/net/ipv4/ip_local_port_range || exit 99
        exec \"$@\"";
    let plain = loadgen(args);
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "sh", "-c", setup, range]);
    command.arg(plain.get_program()).args(plain.get_args());
    match command.output() {
        Ok(output)
            if output.status.code() != Some(99) && !output.stderr.starts_with(b"unshare") =>
        {
            Some(Finished::of(output))
        }
        other => {
            skip("network-namespace", format!("{other:?}"));
            None
        }
    }
}

const HUNDRED: &str = "40000 40099";

#[test]
fn loopback_connections_have_as_many_source_addresses_as_they_need() {
    let args = ["--conns", "200", "-b", "mio", "-n", "2000", "-w", "0s", "--json"];
    let Some(finished) = run_with_ports(HUNDRED, &args) else { return };
    let record = finished.record();
    assert_eq!((&record["errors_total"], &record["exchanges"]), (&0.into(), &2000.into()));
    // A third of the ports each.
    assert_eq!(record["sources"].as_array().unwrap().len(), 200usize.div_ceil(33), "{record}");
}

#[test]
fn lack_of_ports_is_named_before_the_run() {
    let source = ["--source", "127.0.0.1,127.0.0.2", "-b", "mio"];
    let args = [&["--conns", "201", "-d", "1s"], &source[..]].concat();
    let Some(finished) = run_with_ports(HUNDRED, &args) else { return };
    finished.assert_complains(2, "--conns 201 needs a port for each, and there are 200: ");
    assert!(finished.stderr.contains("40000-40099 of 2 source addresses"), "{finished:#?}");
}

#[test]
fn burst_ends_when_no_port_is_free() {
    let args = ["storm", "--conns", "5000", "--source", "127.0.0.1", "-b", "mio", "--json"];
    let Some(finished) = run_with_ports(HUNDRED, &args) else { return };
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    let storm = finished.record();
    let note = storm["notes"][0].as_str().unwrap_or_default();
    assert!(note.starts_with("no-port: ") && note.contains("40000-40099 of 1"), "{storm}");
    assert_eq!(storm["errors"][0]["errno"], "EADDRNOTAVAIL", "{storm}");
    assert_eq!(
        (&storm["errors_total"], &storm["sources"]),
        (&1.into(), &serde_json::json!(["127.0.0.1"]))
    );
}

#[test]
fn hint_for_lack_of_ports_does_not_ask_for_a_server() {
    // The server has the only port.
    let args = ["--conns", "1", "--source", "127.0.0.1", "-b", "mio", "-d", "1s"];
    let Some(finished) = run_with_ports("40000 40000", &args) else { return };
    finished.assert_complains(4, "(EADDRNOTAVAIL)");
    assert!(finished.stderr.contains("hint: no port is free: 40000-40000 of 1"), "{finished:#?}");
}

#[test]
fn source_addresses_are_checked() {
    for (source, words) in [("192.0.2.77", "does not have"), ("::1", "another family")] {
        for command in
            [&["-b", "blocking"][..], &["storm", "-b", "blocking"], &["backlog", "--n", "1"]]
        {
            let args = [command, &["--source", source]].concat();
            run(&args).assert_complains(2, words);
        }
    }
}
