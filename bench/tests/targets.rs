//! The published table of targets.

use std::collections::BTreeMap;
use std::process::Command;

const STEM: &str = "20261124T023400Z-targets";

/// Returns the cells of a table's rows by target: verdict, target, bound, median, interval, floor.
fn rows(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let ["+" | "x" | "?" | "-", target, ..] = cells[..] {
            rows.insert(target, cells);
        }
    }
    rows
}

#[test]
fn published_targets_follow_from_the_stored_records() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let targets = Command::new(env!("CARGO_BIN_EXE_targets"))
        .args(["--judge", &format!("{root}/results/runs/{STEM}")])
        .output()
        .unwrap();
    assert!(targets.status.success(), "{}", String::from_utf8_lossy(&targets.stderr));
    let printed = String::from_utf8(targets.stdout).unwrap();
    let judged = rows(&printed);
    let published = std::fs::read_to_string(format!("{root}/docs/performance.md")).unwrap();
    assert!(published.contains(STEM), "docs/performance.md names its records");
    assert_eq!(rows(&published), judged);
    let reached = judged.values().filter(|cells| cells[0] == "+").count();
    let sentence = format!("{reached} of {} are reached", judged.len());
    assert!(published.contains(&sentence) && printed.contains(&sentence), "{sentence}");
}
