//! The table of targets, made from stored records.

use std::process::Command;

/// After a change of the table's words: print it with `targets --judge NAME`.
#[test]
fn targets_table_follows_from_the_records() {
    let runs = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/runs");
    let targets = Command::new(env!("CARGO_BIN_EXE_targets"))
        .args(["--judge", "20261124T023400Z-targets", "--output", runs])
        .output()
        .unwrap();
    assert!(targets.status.success(), "{}", String::from_utf8_lossy(&targets.stderr));
    assert_eq!(String::from_utf8_lossy(&targets.stdout), include_str!("targets.txt"));
}
