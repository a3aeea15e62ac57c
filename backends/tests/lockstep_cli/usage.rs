//! Errors: one line with the cause, one with a hint, and the exit code.

use std::net::TcpListener;
use std::process::Command;

use crate::common::child::{Ended, LOCKSTEP, Process, Served, is_available, lockstep};
use crate::harness::assert_complains;

fn run(args: &str) -> Ended {
    let mut process = Process::start(lockstep(args.split_ascii_whitespace()));
    process.type_end();
    process.wait()
}

#[track_caller]
fn assert_refused(args: &str, code: i32, causes: &[&str]) -> Ended {
    let ended = run(args);
    let text = ended.stderr.join("\n");
    assert_eq!(ended.status.code(), Some(code), "{args}: {text}");
    assert_eq!(ended.stdout, [""; 0], "{args}: nothing on standard output");
    assert!(ended.stderr[0].starts_with("error: "), "{args}: {text}");
    for cause in causes {
        assert!(text.contains(cause), "{args}: no {cause:?} in: {text}");
    }
    ended
}

/// One line, and a hint.
#[track_caller]
fn assert_refused_in_two_lines(args: &str, code: i32, causes: &[&str]) {
    let lines = assert_refused(args, code, causes).stderr;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with("hint: "), "{lines:?}");
}

#[test]
fn wrong_command_line_is_a_usage_error() {
    assert_refused_in_two_lines(
        "serve --backend nonsense",
        2,
        &["nonsense", "blocking", "mio", "io-uring"],
    );
    assert_refused_in_two_lines("serve --service nonsense", 2, &["nonsense", "echo", "hi", "chat"]);
    assert_refused_in_two_lines("serve --nonsense", 2, &["--nonsense"]);
    assert_refused_in_two_lines("serve --idle-timeout 10", 2, &["10s"]);
    assert_refused_in_two_lines("serve --drain-timeout soon", 2, &["soon"]);
    for option in
        ["--idle-timeout", "--drain-timeout", "--accept-pause", "--accept-delay", "--spin"]
    {
        assert_refused_in_two_lines(&format!("serve {option} 1M"), 2, &["did you mean 1m?"]);
    }
    assert_refused_in_two_lines("serve --max-conns 0", 2, &["at least 1"]);
    assert_refused_in_two_lines("serve --max-conns many", 2, &["many"]);
    assert_refused_in_two_lines("serve --shards 0", 2, &["at least 1"]);
    assert_refused_in_two_lines("serve --shards 100000", 2, &["at most"]);
    assert_refused_in_two_lines("serve --threads 0", 2, &["at least 1"]);
    assert_refused_in_two_lines("serve --pin here", 2, &["here"]);
    assert_refused_in_two_lines("serve --backlog=-1", 2, &["-1"]);
    assert_refused_in_two_lines("serve --backlog 1KiB", 2, &["not a count"]);
    assert_refused_in_two_lines("serve --backlog 4G", 2, &["not a count"]);
    assert_refused_in_two_lines("serve --spin 50", 2, &["50s"]);
    assert_refused_in_two_lines("serve --steer nowhere", 2, &["cpu", "off"]);
    assert_refused_in_two_lines("serve --json --trace", 2, &["cannot be used with"]);
    assert_refused_in_two_lines("nonsense", 2, &["nonsense"]);
    assert_refused_in_two_lines("talk", 2, &["ADDR"]);
}

#[test]
fn hint_is_a_similar_name_or_the_help_of_the_command() {
    for (args, hint) in [
        ("nonsense", "see lockstep --help"),
        ("tlak 127.0.0.1:8898", "a similar subcommand exists: 'talk'"),
        ("serve --bakend mio", "a similar argument exists: '--backend'"),
        ("serve --backend nonsense", "see lockstep serve --help"),
        ("serve --nonsense", "see lockstep serve --help"),
        ("talk", "see lockstep talk --help"),
        ("talk --nonsense", "see lockstep talk --help"),
        ("backends nonsense", "see lockstep backends --help"),
    ] {
        let lines = assert_refused(args, 2, &[]).stderr;
        assert_eq!(lines[1..], [format!("hint: {hint}")], "{args}");
    }
}

#[test]
fn threads_with_mio_is_a_usage_error() {
    let args = "serve --backend mio --threads 2 --listen 127.0.0.1:0";
    assert_refused_in_two_lines(args, 2, &["--threads", "blocking"]);
}

#[test]
fn spin_with_blocking_is_a_usage_error() {
    let args = "serve --backend blocking --spin 50us --listen 127.0.0.1:0";
    assert_refused_in_two_lines(args, 2, &["--spin", "mio", "io-uring"]);
}

#[test]
fn steering_needs_a_cpu_for_each_shard() {
    for args in ["--shards 2", ""] {
        let args = format!("serve --backend mio --steer cpu {args} --listen 127.0.0.1:0");
        assert_refused_in_two_lines(&args, 2, &["steering", "pinned", "--pin 0,1 --shards 2"]);
    }
}

#[test]
fn taken_port_is_refused_by_every_kind_of_server() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let single = Served::start("mio", ["--shards", "1"]);
    let shared = Served::start("mio", ["--shards", "2"]);
    for addr in [taken.local_addr().unwrap(), single.addr, shared.addr] {
        let addr = addr.to_string();
        for more in ["--backend blocking", "--backend mio --shards 1", "--backend mio --shards 2"] {
            let args = format!("serve --listen {addr} {more}");
            assert_refused_in_two_lines(&args, 4, &[&addr, "EADDRINUSE"]);
        }
    }
    shared.stop();
    single.stop();
}

#[test]
fn foreign_or_malformed_address_is_refused() {
    // An address of the block for documentation (RFC 5737), which no machine has.
    let foreign = "serve --backend mio --listen 192.0.2.1:8898";
    assert_refused_in_two_lines(foreign, 4, &["192.0.2.1:8898", "EADDRNOTAVAIL"]);
    // A malformed one is a usage error.
    for addr in ["nonsense", "127.0.0.1", "127.0.0.1:65536", "8898"] {
        for command in ["serve --listen", "talk"] {
            let no_address = &[addr, "not an address with a port", "127.0.0.1:8898"];
            assert_refused_in_two_lines(&format!("{command} {addr}"), 2, no_address);
        }
    }
}

/// A name that cannot exist (RFC 6761): the error is the resolver's, not one of notation.
#[test]
fn unknown_host_name_is_an_error_with_a_hint() {
    for command in ["serve --listen", "talk"] {
        let args = format!("{command} nobody.invalid:8898");
        assert_refused_in_two_lines(&args, 4, &["nobody.invalid:8898: failed to lookup", "name"]);
    }
}

/// Runs a server with 64 descriptors.
fn serve_with_few_descriptors(backend: &str, shards: &str) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$@\"", "sh", LOCKSTEP, "serve"]);
    command.args(["--backend", backend, "--shards", shards, "--listen", "127.0.0.1:0"]);
    Process::start(command).wait()
}

#[test]
fn missing_descriptors_for_listeners_are_an_error() {
    let ended = serve_with_few_descriptors("mio", "100");
    assert_complains(&ended, 4, &["(EMFILE)"]);
    let hint = &ended.stderr[1];
    assert!(hint.contains("ulimit -n") && hint.contains("--shards"), "{hint}");
}

/// Enough descriptors for the listeners, but not for the epoll instances or rings.
#[test]
fn missing_descriptors_for_shards_are_an_error_before_ready() {
    for backend in ["mio", "io-uring"] {
        if is_available(backend) {
            let ended = serve_with_few_descriptors(backend, "40");
            let cause = format!("backend {backend} is not available: ");
            assert_complains(&ended, 3, &[&cause, "(EMFILE)"]);
            assert!(ended.stderr[1].contains("ulimit -n"), "{ended:?}");
        }
    }
}

/// The longest time that the options take.
#[test]
fn timeouts_reach_365_days() {
    for option in ["--idle-timeout", "--drain-timeout"] {
        for backend in ["blocking", "poll", "mio", "io-uring"] {
            if !is_available(backend) {
                continue;
            }
            let server = Served::start(backend, [option, "365days"]);
            let mut client = server.connect();
            client.exchange(b"x");
            drop(client);
            server.stop();
        }
        assert_refused(&format!("serve {option} 366days"), 2, &[option, "at most 365 days"]);
    }
}

#[test]
fn backends_lists_what_this_machine_supports() {
    let ended = run("backends");
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
    for backend in lockstep_backends::BACKENDS {
        let row = ended.stdout.iter().find(|line| line.contains(backend.name())).unwrap();
        let here = if backend.probe(1).is_ok() { "yes" } else { "no" };
        assert!(row.split_ascii_whitespace().any(|word| word == here), "{row:?}");
    }
}
