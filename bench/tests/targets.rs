//! The stored table of targets is what the stored records say.

use std::fs;
use std::process::Command;

#[test]
fn the_table_follows_from_the_records() {
    let runs = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/runs");
    let mut tables = 0;
    for file in fs::read_dir(runs).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(stem) = name.strip_suffix(".txt") else { continue };
        let targets = Command::new(env!("CARGO_BIN_EXE_targets"))
            .args(["--judge", stem, "--output", runs])
            .output()
            .unwrap();
        assert!(targets.status.success(), "{}", String::from_utf8_lossy(&targets.stderr));
        assert_eq!(String::from_utf8_lossy(&targets.stdout), fs::read_to_string(&path).unwrap());
        tables += 1;
    }
    assert!(tables > 0, "no table in {runs}");
}
