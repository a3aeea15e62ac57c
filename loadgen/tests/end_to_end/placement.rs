//! CPUs of both sides, `--place` and `--server-spin`: the same in every command that starts a
//! server, and named in every result.

use std::io::{BufRead, BufReader};
use std::thread;

use lockstep_sys::cpus::{Cores, allowed, pin};
use serde_json::Value;

use crate::harness::{Finished, Running, loadgen, run, skip};

const OPTIONS: [&str; 4] = ["--place", "steered", "--server-spin", "20us"];

#[test]
fn results_name_placement_and_server_spin() {
    let brief = ["--duration", "100ms", "--warmup", "20ms"];
    let places: [(&[&str], &str, &str); 3] = [
        (&["--backend", "mio", "--conns", "4", "--no-floor"], "/placement", "/subject/spin_ns"),
        (
            &["sweep", "--backend", "mio", "--conns", "2,4", "--no-floor"],
            "/placement",
            "/server_spin_ns",
        ),
        (
            &["compare", "blocking", "mio", "--rounds", "1"],
            "/asked/placement",
            "/asked/server_spin_ns",
        ),
    ];
    for (command, placement, spin) in places {
        let finished = run(&[command, &OPTIONS, &brief, &["--json"]].concat());
        finished.assert_measured();
        let record = finished.record();
        let found = (record.pointer(placement), record.pointer(spin));
        assert_eq!(found, (Some(&"steered".into()), Some(&20_000.into())), "{command:?}: {record}");
        let text = run(&[command, &OPTIONS, &brief].concat()).stdout;
        let unwrapped = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        assert!(unwrapped.contains("steered"), "{text}");
        assert!(unwrapped.contains("polling for 20.0us"), "{text}");
    }
    let finished = run(&[&["storm", "--backend", "mio", "--conns", "20"], &OPTIONS[..]].concat());
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let unwrapped = finished.stdout.replace("\n    ", " ");
    assert!(unwrapped.contains("polling for 20.0us, steered\n"), "{finished:#?}");
}

#[test]
fn placement_usage_errors() {
    let blocking = ["--server-spin", "5us", "--backend", "blocking"];
    for command in [&[][..], &["sweep", "--conns", "1,2"], &["storm"]] {
        run(&[command, &blocking].concat()).assert_complains(2, "blocking has nothing to poll");
        let steered = [command, &["--place", "steered", "--server-pin", "0"]].concat();
        run(&steered).assert_complains(2, "--place steered puts the server");
        let target = [command, &["--target", "127.0.0.1:1"]].concat();
        for option in OPTIONS.chunks(2) {
            run(&[&target[..], option].concat()).assert_complains(2, "cannot be used with");
        }
    }
    let alone = ["compare", "blocking", "other=sleep {port}", "--server-spin", "5us"];
    run(&alone).assert_complains(2, "none of the servers can busy-poll");
    let command =
        ["sweep", "--command", "other=sleep {port}", "--conns", "1,2", "--place", "steered"];
    run(&command).assert_complains(2, "cannot be used with");
}

/// The CPUs of the generator and of the server in a record.
fn cpus(record: &Value) -> [&str; 2] {
    ["client", "server"].map(|side| record[side]["cpus"].as_str().unwrap())
}

const BRIEF: [&str; 6] = ["--conns", "4", "-n", "200", "--warmup", "0"];

/// Two CPUs on different cores.
#[track_caller]
fn pair() -> Option<[String; 2]> {
    let cpus = allowed().expect("the affinity mask can be read");
    let cores = Cores::read("/sys/devices/system/cpu".as_ref(), &cpus);
    let other = cpus.iter().find(|&&cpu| cores.of(cpu) != cores.of(cpus[0]));
    if other.is_none() {
        skip("two-cores", "this process may use one core");
    }
    other.map(|other| [cpus[0], *other].map(|cpu| cpu.to_string()))
}

/// Runs the command confined to these CPUs, as taskset(1) does.
fn run_on<const N: usize>(cpus: [&String; N], args: &[&str]) -> Finished {
    let cpus = cpus.map(|cpu| cpu.parse().unwrap());
    let confined = || {
        pin(&cpus).unwrap();
        run(args)
    };
    thread::scope(|scope| scope.spawn(confined).join().unwrap())
}

#[test]
fn side_without_named_cpus_gets_the_rest() {
    let Some([first, second]) = pair() else { return };
    for (options, client, server) in [
        (["--pin", &*first], &*first, &*second),
        (["--pin", &second], &second, &first),
        (["--server-pin", &first], &second, &first),
        (["--server-pin", &second], &first, &second),
    ] {
        let finished = run_on(
            [&first, &second],
            &[&BRIEF[..], &["--backend", "mio", "--json"], &options].concat(),
        );
        let record = finished.record();
        assert_eq!(cpus(&record), [client, server]);
        assert_eq!(record["placement"], "apart");
        assert!(!finished.stdout.contains("shared-core"), "{finished:#?}");
    }
}

#[test]
fn every_command_leaves_the_rest_to_the_other_side() {
    let Some([first, second]) = pair() else { return };
    let brief = ["-d", "50ms", "--warmup", "10ms", "--server-pin", &first, "--json"];
    let storm = ["storm", "--backend", "mio", "--conns", "4", "--server-pin", &first, "--json"];
    for command in [
        &storm[..],
        &[&["sweep", "--backend", "mio", "--conns", "2,4"], &brief[..]].concat(),
        &[&["compare", "mio", "blocking", "--rounds", "1"], &brief[..]].concat(),
    ] {
        let finished = run_on([&first, &second], command);
        assert!(matches!(finished.code, Some(0 | 8)), "{finished:#?}");
        for words in ["shared", "\"placement\""] {
            let found = finished.stdout.replace("\"placement\":\"apart\"", "").contains(words);
            assert!(!found, "{words} in {finished:#?}");
        }
    }
}

#[test]
fn cpus_that_both_sides_use_are_named() {
    let Some([first, second]) = pair() else { return };
    let options = ["--pin", &first, "--server-pin", &first, "--backend", "mio", "--json"];
    let record = run_on([&first, &second], &[&BRIEF[..], &options].concat()).record();
    assert_eq!(record["placement"], "shared");
    assert!(record["warnings"].to_string().contains("shared-core: the server on CPU"), "{record}");
    let storm =
        run_on([&first, &second], &[&["storm", "--conns", "4"], &options[..]].concat()).record();
    assert_eq!(storm["placement"], "shared");
    assert!(storm["notes"].to_string().contains("shared-core"), "{storm}");
}

/// Starts a server, and returns its address.
fn serve(options: &[&str]) -> (Running, String) {
    let args = ["serve", "--backend", "mio", "--listen", "127.0.0.1:0"];
    let mut server = Running::start(&mut loadgen(&[&args, options].concat()));
    let stdout = server.0.as_mut().unwrap().stdout.take().unwrap();
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let addr = line.split("addr=").nth(1).and_then(|rest| rest.split(' ').next());
    (server, addr.unwrap().to_owned())
}

#[test]
fn pinned_target_is_avoided() {
    let Some([first, second]) = pair() else { return };
    for (pinned, other) in [(&first, &second), (&second, &first)] {
        let (_server, addr) = serve(&["--pin", pinned]);
        let addr = addr.as_str();
        let record =
            run_on([&first, &second], &[&BRIEF[..], &["--target", addr, "--json"]].concat())
                .record();
        assert_eq!(cpus(&record), [other, pinned]);
        let named = ["--target", addr, "--json", "--pin", pinned];
        let record = run_on([&first, &second], &[&BRIEF[..], &named].concat()).record();
        assert_eq!(record["placement"], "shared");
        assert!(record["warnings"].to_string().contains("shared-core"), "{record}");
        let storm = ["storm", "--conns", "4", "--target", addr, "--pin", pinned, "--json"];
        let storm = run_on([&first, &second], &storm).record();
        assert!(storm["notes"].to_string().contains("shared-core"), "{storm}");
    }
}

/// As under taskset(1): the affinity is inherited, and may be left.
#[test]
fn named_cpus_may_be_outside_the_affinity() {
    let Some([first, second]) = pair() else { return };
    for (options, client, server) in [
        (&[][..], &first, &first),
        (&["--pin", &second], &second, &first),
        (&["--server-pin", &second], &first, &second),
    ] {
        let args = [&BRIEF[..], &["--backend", "mio", "--json"], options].concat();
        let record = run_on([&first], &args).record();
        assert_eq!(cpus(&record), [client, server]);
        let placement = if client == server { "shared" } else { "apart" };
        assert_eq!(record["placement"], placement, "{options:?}");
    }
}

/// Only one of the CPUs has a thread.
#[test]
fn record_names_cpus_that_were_used() {
    let Some([first, second]) = pair() else { return };
    let both = format!("{first},{second}");
    let args = ["--pin", &both, "--threads", "1", "--backend", "mio", "--json"];
    let record = run_on([&first, &second], &[&BRIEF[..], &args].concat()).record();
    assert_eq!(record["client"]["cpus"], first);
    let args = ["--place", "steered", "--threads", "1", "--backend", "mio", "--json"];
    let record = run_on([&first, &second], &[&BRIEF[..], &args].concat()).record();
    assert_eq!(cpus(&record), [&*first, &*first]);
    assert_eq!(record["placement"], "steered");
}

/// The generator's CPU is that of one shard.
#[test]
fn unpinned_side_does_not_steer_all_connections_to_one_shard() {
    let Some([first, second]) = pair() else { return };
    let both = format!("{first},{second}");
    for options in [&["--server-pin", &both][..], &["--server-pin", &both, "--pin", &second]] {
        let brief = ["--conns", "64", "-n", "2000", "--warmup", "0", "--backend", "mio", "--json"];
        let record = run_on([&first, &second], &[&brief[..], options].concat()).record();
        let accepted = record["server_statistics"]["accepted_per_shard"].as_array().unwrap();
        let spread = accepted.iter().all(|count| count.as_u64() > Some(9));
        assert!(accepted.len() == 2 && spread, "{accepted:?}");
        assert!(!record["warnings"].to_string().contains("-shards: "), "{record}");
    }
}

#[test]
fn target_with_an_idle_shard_is_uneven() {
    let Some([first, second]) = pair() else { return };
    let both = format!("{first},{second}");
    let (_server, addr) = serve(&["--shards", "2", "--pin", &both, "--steer", "cpu"]);
    let args = ["--conns", "32", "-n", "5000", "--warmup", "0", "--pin", &first, "--json"];
    let record = run_on([&first, &second], &[&args, &["--target", &addr][..]].concat()).record();
    let warnings = record["warnings"].to_string();
    assert!(warnings.contains("uneven-shards: the busiest of 2 shards had"), "{record}");
    assert!(warnings.contains("of the CPU time, where 50 % would be even"), "{record}");
}
