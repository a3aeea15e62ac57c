//! The newest stored table of targets is what its records say. Older ones were made by the program
//! of their time.

use std::fs;
use std::process::Command;

#[test]
fn the_table_follows_from_the_records() {
    let runs = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/runs");
    let names = fs::read_dir(runs).unwrap().map(|file| file.unwrap().file_name());
    // A name begins with the time.
    let tables = names.filter_map(|name| Some(name.to_str()?.strip_suffix(".txt")?.to_owned()));
    let newest = tables.max().expect("a table is stored");
    let targets = Command::new(env!("CARGO_BIN_EXE_targets"))
        .args(["--judge", &newest, "--output", runs])
        .output()
        .unwrap();
    assert!(targets.status.success(), "{}", String::from_utf8_lossy(&targets.stderr));
    let kept = fs::read_to_string(format!("{runs}/{newest}.txt")).unwrap();
    assert_eq!(String::from_utf8_lossy(&targets.stdout), kept);
}
