//! `--place` and `--server-spin`: the same in every command that starts a server, and named in
//! every result.

use crate::harness::run;

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
