//! Sandboxes: system calls that fail or kill (seccomp(2)), and missing capabilities.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::harness::{Finished, loadgen, loadgen_with_floor, skip};
use crate::seccomp::filter;

/// Fails the call with `EPERM`, as many containers do.
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// Runs the command with a filter; `None`, after a note, without seccomp.
#[track_caller]
fn run_filtered(args: &[&str], call: libc::c_long, verdict: u32) -> Option<Finished> {
    let mut command = loadgen(args);
    filter(&mut command, call, verdict);
    match command.output() {
        Ok(output) => Some(Finished::of(output)),
        Err(error) => {
            skip("seccomp", error);
            None
        }
    }
}

const BRIEF: [&str; 6] = ["--conns", "2", "-n", "200", "--warmup", "0"];

#[test]
fn refused_or_killing_io_uring_is_an_unavailable_engine() {
    for (verdict, cause) in [
        (REFUSE, "operation not permitted (EPERM)"),
        (libc::SECCOMP_RET_KILL_PROCESS, "killed by signal SIGSYS"),
    ] {
        let run = |more: &[&str]| {
            run_filtered(&[&BRIEF[..], more].concat(), libc::SYS_io_uring_setup, verdict)
        };
        let Some(asked) = run(&["--engine", "io-uring"]) else { return };
        asked.assert_complains(3, "--engine io-uring: io_uring_setup");
        assert!(asked.stderr.contains(cause), "{asked:#?}");
        let asked = run(&["--backend", "io-uring"]).unwrap();
        asked.assert_complains(3, "backend io-uring is not available");
        let default = run(&["--json"]).unwrap();
        default.assert_measured();
        let record = default.record();
        assert_eq!(
            (&record["engine"], &record["subject"]["backend"]),
            (&"epoll".into(), &"mio".into())
        );
    }
}

#[test]
fn killing_io_uring_leaves_commands_with_other_backends() {
    let sweep = ["sweep", "--backend", "mio", "--conns", "2,4", "-d", "50ms", "--warmup", "10ms"];
    for command in [
        &["storm", "--backend", "mio", "--conns", "20"][..],
        &["compare", "mio", "blocking", "--rounds", "1", "-d", "50ms", "--warmup", "10ms"],
        &sweep,
        &[&sweep[..], &["--processes", "2"]].concat(),
        &["backlog", "--n", "0", "--hold", "50ms", "--observe", "2s", "--extra", "1"],
        &[&BRIEF[..], &["--backend", "blocking", "--rate", "1k"]].concat(),
    ] {
        let kill = libc::SECCOMP_RET_KILL_PROCESS;
        let Some(finished) = run_filtered(command, libc::SYS_io_uring_setup, kill) else { return };
        assert!(matches!(finished.code, Some(0 | 8)), "{command:?}: {finished:#?}");
    }
}

/// A filter that only logs is not seen by the command, so strace(1) counts the calls.
#[test]
fn named_engine_and_backend_do_not_try_io_uring() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("calls");
    for command in [
        &["storm", "--backend", "mio", "--conns", "5"][..],
        &["compare", "mio", "blocking", "--engine", "epoll", "--rounds", "1", "-d", "50ms"],
        &[&BRIEF[..], &["--backend", "mio", "--engine", "epoll"]].concat(),
    ] {
        let loadgen = loadgen(command);
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qqq", "-e", "trace=io_uring_setup", "-e", "signal=none", "-o"]);
        traced.arg(&log).arg(loadgen.get_program()).args(loadgen.get_args());
        match traced.output() {
            Ok(output) if !output.stdout.is_empty() => {}
            Ok(output) => return skip("strace", String::from_utf8_lossy(&output.stderr)),
            Err(error) => return skip("strace", error),
        }
        let calls = std::fs::read_to_string(&log).unwrap();
        assert!(!calls.contains("io_uring_setup"), "{command:?}: {calls}");
    }
}

/// Takes a capability from the command's process (capabilities(7)); another user has none.
fn drop_capability(command: &mut Command, capability: libc::c_ulong) {
    let drop = move || {
        // SAFETY: the arguments are those of prctl(2). It fails for another user than root.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call.
    unsafe { command.pre_exec(drop) };
}

#[test]
fn floor_without_capabilities_is_measured_in_the_present_namespace() {
    const CAP_NET_ADMIN: libc::c_ulong = 12; // linux/capability.h
    const CAP_SYS_ADMIN: libc::c_ulong = 21;
    for capability in [CAP_NET_ADMIN, CAP_SYS_ADMIN] {
        let mut command = loadgen_with_floor(&[&BRIEF[..], &["--json"]].concat());
        drop_capability(&mut command, capability);
        let finished = Finished::of(command.output().unwrap());
        finished.assert_measured();
        assert_eq!(finished.record()["floor"]["connections"], 2, "{finished:#?}");
    }
}

#[test]
fn floor_that_cannot_be_measured_is_named() {
    let command = loadgen_with_floor(&["--conns", "500", "-n", "500", "--backend", "mio"]);
    let script = "ulimit -n 900 && exec \"$0\" \"$@\"";
    let mut limited = Command::new("sh");
    limited.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    let finished = Finished::of(limited.output().unwrap());
    let words = "warning: the floor was not measured: it needs 1132 open files";
    assert!(finished.stderr.contains(words), "{finished:#?}");
}

#[test]
fn runs_go_on_unpinned_where_affinity_is_forbidden() {
    let call = libc::SYS_sched_setaffinity;
    let command = |args: &[&str]| run_filtered(args, call, REFUSE);
    let Some(finished) = command(&[&BRIEF[..], &["--backend", "mio", "--json"]].concat()) else {
        return;
    };
    finished.assert_measured();
    let record = finished.record();
    let all = lockstep_sys::cpus::format_list(&lockstep_sys::cpus::allowed().unwrap());
    assert_eq!(record["client"]["cpus"], all);
    assert_eq!((&record["server"]["cpus"], &record["placement"]), (&all.into(), &"shared".into()));
    let refused = "sched_setaffinity(2) is not allowed: operation not permitted (EPERM)";
    assert!(record["warnings"].to_string().contains(&format!("unpinned: {refused}")), "{record}");
    for args in [
        &["storm", "--backend", "mio", "--conns", "4"][..],
        &["sweep", "--backend", "mio", "--conns", "2,4", "-d", "50ms", "--warmup", "10ms"],
        &["compare", "mio", "blocking", "--rounds", "1", "-d", "50ms", "--warmup", "10ms"],
    ] {
        let finished = command(args).unwrap();
        assert!(matches!(finished.code, Some(0 | 8)), "{args:?}: {finished:#?}");
        assert!(finished.stdout.contains("unpinned"), "{args:?}: {finished:#?}");
    }
    let floor = command(&["floor", "-d", "100ms"]).unwrap();
    assert!(floor.stdout.contains("on any CPU"), "{floor:#?}");
    for asked in [["--pin", "0"], ["--server-pin", "0"], ["--place", "steered"]] {
        let error = format!("{}: {refused}", asked.join(" ").trim_end_matches(" 0"));
        for args in [&[][..], &["storm"], &["sweep", "--conns", "2,4"], &["compare", "mio", "--aa"]]
        {
            command(&[args, &asked].concat()).unwrap().assert_complains(2, &error);
        }
    }
}
