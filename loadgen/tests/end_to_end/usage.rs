//! Usage errors, limits and targets.

use std::net::TcpListener;
use std::process::Command;

use crate::harness::{Finished, Server, echo, run, skip};

#[test]
fn usage_errors_are_one_line_and_exit_with_2() {
    for (args, words) in [
        (&["--conns", "0"][..], "at least 1"),
        (&["--size", "0"], "at least 1"),
        (&["--duration", "10"], "write 10s"),
        (&["--duration", "1M"], "did you mean 1m?"),
        (&["--size", "64kb"], "did you mean 64kB?"),
        (&["sweep", "--conns", "1,2", "--warmup", "1S"], "did you mean 1s?"),
        (&["compare", "mio", "--aa", "--slice", "5MS"], "did you mean 5ms?"),
        (&["floor", "-d", "1M"], "did you mean 1m?"),
        (&["floor", "-d", "1ns"], "at least 100ms"),
        (&["--conns", "5", "compare", "mio", "blocking"], "loadgen compare ..."),
        (&["storm", "--timeout", "1M"], "did you mean 1m?"),
        (&["backlog", "--hold", "1H"], "did you mean 1h?"),
        (&["--fail-if", "p99>1M"], "did you mean 1m?"),
        (&["--seed", "9007199254740992"], "9007199254740992"),
        (&["storm", "--seed", "9007199254740992"], "9007199254740992"),
        (&["--bogus"], "--bogus"),
        (&["--service", "chat"], "possible values: echo, hi"),
        (&["--service", "hi", "--size", "2000"], "at most 1024"),
        (&["--backend", "no-such"], "blocking"),
        (&["--target", "127.0.0.1:1", "--backend", "mio"], "cannot be used"),
        (&["--target", "127.0.0.1"], "not an address with a port"),
        (&["--pin", "1023"], "no CPU 1023"),
        (&["--place", "steered", "--server-pin", "0"], "--place steered"),
        (&["--conns", "2", "--threads", "3"], "nothing to do"),
        (&["--output", "/no/such/directory/record.json"], "/no/such/directory"),
        (&["report"], "RECORD"),
        (&["no-such-command"], "no-such-command"),
        (&["sweep", "--rates", "10k..1k*2"], "LOW must be below HIGH"),
        (&["backlog", "--somaxconn", "10"], "--somaxconn needs --netns"),
        (&["--fail-if", "foo>5ms"], "unknown metric \"foo\""),
    ] {
        let finished = run(args);
        finished.assert_complains(2, words);
        assert!(finished.stderr.lines().all(|line| line.chars().count() <= 140), "{finished:#?}");
    }
}

#[test]
fn file_errors_have_the_name_of_the_error_number() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (text, page, none) = (file("text.md"), file("page.html"), file("none/run.json"));
    std::fs::write(&text, "# no record").unwrap();
    std::fs::write(&page, "").unwrap();
    let reads = Some("loadgen report reads files written by -o");
    let force = Some("--force overwrites it");
    for (args, code, words, hint) in [
        (&["report", &none][..], 1, "no such file or directory (ENOENT)", None),
        (&["report", directory.path().to_str().unwrap()], 1, "is a directory (EISDIR)", None),
        (&["report", &text], 1, "not JSON", reads),
        (&["report", &text, "-o", &page], 2, "file exists (EEXIST)", force),
        (&["-o", &text], 2, "file exists (EEXIST)", force),
        (&["--hlog", &text], 2, "file exists (EEXIST)", force),
        (&["-o", &none], 2, "(ENOENT)", Some("create its directory first")),
    ] {
        run(args).assert_complains_with(code, words, hint);
    }
}

#[test]
fn hint_names_the_help_of_the_command_that_failed() {
    for (args, hint) in [
        (&["--conns", "0"][..], "see loadgen --help"),
        (&["--warmup", "auto", "--rate", "5"], "see loadgen --help"),
        (&["sweep", "--conns", "0"], "see loadgen sweep --help"),
        (&["sweep", "--rates", "5"], "see loadgen sweep --help"),
        (&["compare", "mio"], "see loadgen compare --help"),
        (&["--bogus"], "see loadgen --help"),
        (&["storm", "--bogus"], "see loadgen storm --help"),
        (&["floor", "--size", "0"], "see loadgen floor --help"),
        (&["backlog", "--mode", "x"], "see loadgen backlog --help"),
        (&["report"], "see loadgen report --help"),
        (&["comapre", "mio", "io-uring"], "a similar subcommand exists: 'compare'"),
        (&["localhost"], "a server is HOST:PORT, such as localhost:8898; see loadgen --help"),
        (&["127.0.0.1"], "write it as 127.0.0.1:8898, [::1]:8898 or localhost:8898"),
    ] {
        let finished = run(args);
        assert_eq!(finished.code, Some(2), "{finished:#?}");
        let lines: Vec<&str> = finished.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "an error and a hint: {finished:#?}");
        assert_eq!(lines[1], format!("hint: {hint}"), "{finished:#?}");
    }
}

#[test]
fn options_without_effect_in_a_command_are_refused() {
    for args in [
        &["floor", "--place", "steered"][..],
        &["floor", "--shards", "2"],
        &["floor", "--timeout", "5s"],
        &["storm", "--threads", "2"],
        &["storm", "--engine", "epoll"],
        &["storm", "--arrivals", "poisson"],
        &["backlog", "--pin", "0"],
        &["backlog", "--seed", "5"],
        &["compare", "mio", "blocking", "--service", "hi"],
        &["compare", "mio", "blocking", "--target", "127.0.0.1:1"],
        &["compare", "mio", "blocking", "--requests", "5"],
        &["sweep", "--conns", "1,2", "--requests", "5"],
        &["--rounds", "5"],
    ] {
        run(args).assert_complains(2, "unexpected argument");
    }
    let commands = ["compare", "a=true {port}", "b=true {port}"];
    for option in ["--shards", "--backlog"] {
        run(&[&commands[..], &[option, "2"]].concat()).assert_complains(2, "none of the servers");
    }
    for (slice, cause) in [("1ns", "at least 1ms"), ("1s", "more than half of --duration")] {
        run(&["compare", "mio", "--aa", "--slice", slice]).assert_complains(2, cause);
    }
    for args in [&[][..], &["sweep", "--conns", "1,2"], &["compare", "mio", "--aa"]] {
        run(&[args, &["--arrivals", "poisson"]].concat()).assert_complains(2, "--arrivals is for");
    }
}

#[test]
fn address_without_an_option_is_the_target() {
    let server = Server::start(echo);
    let rest = ["--conns", "2", "-n", "10", "--warmup", "0", "--json"];
    for args in
        [[&[&*server.target()][..], &rest].concat(), [&rest[..], &[&server.target()]].concat()]
    {
        let finished = run(&args);
        finished.assert_measured();
        assert_eq!(finished.record()["subject"]["addr"], server.target());
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Examples:") && help.stdout.contains("Exit codes:"));
    assert!(help.stderr.is_empty());
    let version = run(&["--version"]);
    assert_eq!((version.code, version.stdout.starts_with("loadgen ")), (Some(0), true));
}

#[test]
fn help_of_every_command_fits_a_terminal() {
    for command in ["", "compare", "sweep", "floor", "storm", "backlog", "report"] {
        for help in ["-h", "--help"] {
            let args: Vec<&str> = command.split_whitespace().chain([help]).collect();
            let finished = run(&args);
            assert_eq!(finished.code, Some(0), "{finished:#?}");
            assert!(!finished.stdout.is_empty(), "{finished:#?}");
            for line in finished.stdout.lines() {
                assert!(line.chars().count() <= 80, "{args:?}: {line}");
            }
        }
    }
}

#[test]
fn descriptor_limit_is_checked_before_connecting() {
    let server = Server::start(echo);
    let limited = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_loadgen"), &server.target()]);
        Finished::of(command.output().expect("there is a shell"))
    };
    let finished = limited("ulimit -n 256 && exec \"$0\" --target \"$1\" --conns 1000");
    finished.assert_complains(2, "--conns 1000");
    let numbers: Vec<u64> = finished
        .stderr
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    assert!(numbers.contains(&256), "the limit is named: {finished:#?}");
    assert!(numbers.iter().any(|&number| number > 1000), "the need is named: {finished:#?}");
    assert_eq!(server.accepted.load(std::sync::atomic::Ordering::Relaxed), 0);

    // A soft limit is raised.
    let finished = limited(
        "ulimit -Sn 64 && exec \"$0\" --target \"$1\" --conns 100 -n 100 --warmup 0 --json",
    );
    finished.assert_measured();
}

#[test]
fn refused_connect_exits_with_4() {
    let addr = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let finished = run(&["--target", &addr, "--conns", "5"]);
    let hint = "start a server there, or leave HOST:PORT out to have one started";
    finished.assert_complains_with(4, &format!("cannot connect to {addr}"), Some(hint));
    assert!(finished.stderr.contains("ECONNREFUSED"), "{finished:#?}");

    // --json prints a record, with the same exit code.
    let finished = run(&["--target", &addr, "--conns", "5", "--json"]);
    assert_eq!(finished.code, Some(4));
    assert_eq!(finished.errors(), [("connect/ECONNREFUSED".to_owned(), 5)]);
    assert_eq!(finished.record()["valid"], false);
}

#[test]
fn target_name_is_resolved_to_the_listening_address() {
    let server = Server::start(echo);
    let target = format!("localhost:{}", server.addr.port());
    let finished =
        run(&["--target", &target, "--conns", "2", "-n", "10", "--warmup", "0", "--json"]);
    finished.assert_measured();
    assert_eq!(finished.record()["subject"]["addr"], server.target());
}

#[test]
fn unknown_name_is_an_error_with_a_hint() {
    // A name that no resolver knows (RFC 6761, 6.4).
    let finished = run(&["nohost.invalid:80"]);
    let hint = "check the name, or write the address in numbers";
    finished.assert_complains_with(4, "cannot look up nohost.invalid:80: ", Some(hint));
    assert!(!finished.stderr.contains("failed to"), "{finished:#?}");
}

#[test]
fn ipv6_target_is_measured() {
    let Ok(server) = Server::listen("[::1]:0", echo) else {
        return skip("ipv6", "cannot listen on ::1");
    };
    let args =
        ["--target", &server.target(), "--conns", "2", "-n", "10", "--warmup", "0", "--json"];
    let finished = run(&args);
    finished.assert_measured();
    assert_eq!(finished.record()["exchanges"], 10);
}
