//! Tables for a terminal of 80 columns.

use lockstep_results::{Record, table};

use crate::sample;

fn faster() -> Record {
    let mut record = sample();
    record.subject.name = "io-uring".into();
    record.throughput_per_s *= 1.25;
    record.latency.exchange.as_mut().unwrap().p99_ns /= 2;
    record.server.as_mut().unwrap().cpu_us_per_exchange = 3.3;
    record.errors_total = 0;
    record.errors.clear();
    record
}

fn line<'a>(table: &'a str, start: &str) -> &'a str {
    let found = table.lines().find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line {start:?} in\n{table}"))
}

#[test]
fn table_of_one_record() {
    let expected = "\
|                      |      mio |
|----------------------|----------|
| subject              |      mio |
| connections          |     1000 |
| bytes in a request   |       64 |
| throughput           | 241.9k/s |
| exchange p50         |   4.40ms |
| exchange p90         |   5.20ms |
| exchange p99         |   7.90ms |
| exchange p99.9       |   7.90ms |
| exchange max         |   23.4ms |
| connect p99          |   95.0us |
| first exchange p99   |   95.0us |
| server CPU/exchange  |   4.12us |
| client CPU/exchange  |   3.21us |
| server switches/exch |    0.002 |
| server syscalls/exch |    2.010 |
| client switches/exch |    0.004 |
| errors               |        3 |
| unserved             |        0 |
| fairness (Jain)      |   0.9998 |
| valid                |      yes |
mio: errors: 2 receive ECONNRESET, 1 timeout
";
    assert_eq!(table(&[("mio", &sample())]), expected);
}

#[test]
fn table_has_ratios_to_the_first_record() {
    let text = table(&[("mio", &sample()), ("io-uring", &faster())]);
    assert_eq!(line(&text, "|   "), "|                      |      mio |        io-uring |");
    assert_eq!(
        line(&text, "| throughput"),
        "| throughput           | 241.9k/s | 302.3k/s  1.25x |"
    );
    assert_eq!(
        line(&text, "| exchange p99 "),
        "| exchange p99         |   7.90ms |   3.95ms  0.50x |"
    );
    assert_eq!(
        line(&text, "| server CPU"),
        "| server CPU/exchange  |   4.12us |   3.30us  0.80x |"
    );
    assert_eq!(line(&text, "| errors"), "| errors               |        3 |        0        |");
    assert!(!text.contains("not the same"), "only the subject differs:\n{text}");
}

#[test]
fn absent_value_is_a_dash_without_a_ratio() {
    let mut bare = faster();
    bare.server = None;
    bare.fairness = None;
    bare.latency = Default::default();
    let text = table(&[("bare", &bare), ("mio", &sample())]);
    for row in ["exchange p50", "connect p99", "server CPU", "server syscalls", "fairness"] {
        let cells: Vec<&str> = line(&text, &format!("| {row}")).split('|').map(str::trim).collect();
        assert_eq!(cells[2], "-", "{text}");
        assert!(!cells[3].contains('x') && cells[3] != "-", "{text}");
    }
    // There is no ratio if the first value is zero.
    let idle = Record { throughput_per_s: 0.0, ..sample() };
    let text = table(&[("idle", &idle), ("mio", &sample())]);
    assert_eq!(line(&text, "| throughput"), "| throughput           |    0/s | 241.9k/s        |");
}

#[test]
fn open_loop_has_rows_of_its_own() {
    let mut open = sample();
    open.load = "open".into();
    let exchange = open.latency.exchange.take();
    (open.latency.response, open.latency.service) = (exchange.clone(), exchange);
    open.latency.lateness = open.latency.connect.clone();
    let text = table(&[("open", &open)]);
    assert_eq!(line(&text, "| response p99 "), "| response p99         |   7.90ms |");
    assert_eq!(line(&text, "| service p99 "), "| service p99          |   7.90ms |");
    assert_eq!(line(&text, "| lateness p99 "), "| lateness p99         |   95.0us |");
    assert!(!text.contains("| exchange p99"), "no row without a value:\n{text}");
    // With a closed loop both are shown; one row for each run has the one that exists.
    let text = table(&[("open", &open), ("closed", &sample())]);
    assert!(text.contains("| exchange p50         |        - |"), "{text}");
    assert!(text.contains("  load: open (open) | closed (closed)"), "{text}");
    let text = table(&[("a", &open), ("b", &open), ("c", &open), ("d", &open), ("e", &open)]);
    assert!(line(&text, "| a").contains("| 4.40ms | 7.90ms |"), "{text}");
}

#[test]
fn long_names_are_numbered_and_listed() {
    let text = table(&[("mio", &sample()), ("results/runs/io-uring.json", &faster())]);
    assert!(line(&text, "|   ").contains("#1 |"), "{text}");
    assert_eq!(line(&text, "#1 ="), "#1 = mio");
    assert_eq!(line(&text, "#2 ="), "#2 = results/runs/io-uring.json");
}

#[test]
fn more_than_three_records_take_a_row_each() {
    let (mio, ring) = (sample(), faster());
    let text = table(&[("a", &mio), ("b", &ring), ("c", &mio), ("d", &mio)]);
    let expected = "\
|   | conns | bytes | exch./s |       |    p50 |    p99 |    CPU |
|---|-------|-------|---------|-------|--------|--------|--------|
| a |  1000 |    64 |  241.9k | 1.00x | 4.40ms | 7.90ms | 4.12us |
| b |  1000 |    64 |  302.3k | 1.25x | 4.40ms | 3.95ms | 3.30us |
";
    assert!(text.starts_with(expected), "{text}");
    let long = "a name too long for a cell";
    let text = table(&[("a", &mio), ("b", &ring), (long, &mio), ("d", &mio)]);
    assert!(line(&text, "| #2").starts_with("| #2 | io-uring |"), "{text}");
    assert_eq!(line(&text, "#3 ="), format!("#3 = {long}"));
}

#[test]
fn differences_between_records_are_listed() {
    let mut other = faster();
    other.conns = 64;
    other.client.cpus = "2-3".into();
    other.environment.kernel = Some("6.18.44".into());
    other.environment.governor = Some("powersave".into());
    other.environment.build.git_dirty = Some(true);
    other.environment.mitigations.insert("meltdown".into(), "Mitigation: PTI".into());
    other.environment.sysctl.insert("net.core.somaxconn".into(), "128".into());
    // Values that change with every run are no difference.
    other.header.started = "2026-11-24T01:02:03Z".into();
    other.header.seed = Some(1);
    other.environment.load_before = None;
    let (mio, text) = (sample(), table(&[("old", &sample()), ("new", &other)]));
    assert_eq!(
        table(&[("old", &mio), ("new", &other), ("third", &mio)]).matches("(new)").count(),
        7
    );
    let (_, below) = text.split_once("not the same in all:\n").expect("differences");
    let expected = "  \
  connections: 1000 (old) | 64 (new)
  client CPUs: 1 (old) | 2-3 (new)
  git: 0ea8c0958c (old) | 0ea8c0958c changed (new)
  kernel: 6.1.0-18-amd64 (old) | 6.18.44 (new)
  governor: - (old) | powersave (new)
  mitigation meltdown: Not affected (old) | Mitigation: PTI (new)
  net.core.somaxconn: 4096 (old) | 128 (new)
old: errors: 2 receive ECONNRESET, 1 timeout
";
    assert_eq!(below, expected);
}

#[test]
fn changed_speed_of_the_machine_is_reported() {
    let mut slower = sample();
    slower.client.cpu_us_per_exchange *= 1.3;
    slower.server.as_mut().unwrap().cpu_us_per_exchange *= 1.32;
    let words =
        "the machine changed its speed: both sides of b used 1.31x the CPU per exchange of a";
    let text = table(&[("a", &sample()), ("b", &slower)]);
    assert!(text.replace("\n    ", " ").contains(words), "{text}");
    slower.client.cpu_us_per_exchange = sample().client.cpu_us_per_exchange;
    let text = table(&[("a", &sample()), ("b", &slower)]);
    assert!(!text.contains("changed its speed"), "the server alone is slower: {text}");
    slower.client.cpu_us_per_exchange *= 1.3;
    slower.size += 1;
    let text = table(&[("a", &sample()), ("b", &slower)]);
    assert!(!text.contains("changed its speed"), "the requests are larger: {text}");
}

#[test]
fn invalid_record_is_marked_and_explained() {
    let mut invalid = faster();
    invalid.valid = false;
    invalid.interrupted = true;
    invalid.warnings = vec!["disturbed: a little".into()];
    invalid.invalid_reasons = vec!["a debug build".into(), "no exchange".into()];
    invalid.environment.load_after.as_mut().unwrap().steal_s = Some(9.0);
    let text = table(&[("mio", &sample()), ("ring", &invalid)]);
    assert_eq!(line(&text, "| valid"), "| valid                |      yes |              NO |");
    let (_, below) = text.split_once("ring: ").unwrap();
    let expected = "not valid: a debug build; no exchange
ring: interrupted: the window was cut short
ring: warning: disturbed: a little
ring: the hypervisor withheld 0.55s of CPU time
";
    assert_eq!(below, expected);
}

#[test]
fn table_of_any_records_fits_a_terminal() {
    let mut wild = faster();
    wild.valid = false;
    wild.invalid_reasons = vec!["because ".repeat(100), "x".repeat(1000)];
    wild.subject.name = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535\x1b[2J".into();
    wild.conns = u32::MAX;
    wild.size = u32::MAX;
    wild.throughput_per_s = 1e300;
    wild.errors_total = u64::MAX;
    wild.client.cpu_us_per_exchange = 1e18;
    wild.client.cpus = (0..200).map(|cpu| format!("{},", 2 * cpu)).collect();
    wild.environment.cpu_model = Some("é\r\n\x1b[31m".repeat(50));
    let latency = wild.latency.exchange.as_mut().unwrap();
    (latency.p50_ns, latency.p999_ns, latency.max_ns) = (u64::MAX, u64::MAX, u64::MAX);
    let names: Vec<String> =
        (0..12).map(|number| format!("{}\n\x1b[1m{number}", "directory/".repeat(number))).collect();
    let sample = sample();
    for count in 0..=names.len() {
        for names in [vec!["sixteen letters."; 12], names.iter().map(String::as_str).collect()] {
            let records: Vec<(&str, &Record)> = (0..count)
                .map(|index| (names[index], if index % 2 == 0 { &sample } else { &wild }))
                .collect();
            let text = table(&records);
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{count} records: {line}\n{text}");
                assert!(!line.contains(char::is_control), "{line:?}");
                assert_eq!(line, line.trim_end(), "no white space at the end");
            }
        }
    }
}
