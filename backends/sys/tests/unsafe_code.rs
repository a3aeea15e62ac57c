//! The list in ARCHITECTURE.md of files with `unsafe`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Collects the files under `folder` that contain an unsafe block, function or implementation.
fn collect(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
            let is_unsafe = |line: &str| {
                ["{", "fn ", "impl "].iter().any(|of| line.contains(&format!("unsafe {of}")))
            };
            if code.into_iter().any(is_unsafe) {
                found.insert(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
}

#[test]
fn architecture_lists_every_file_with_unsafe() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut found = BTreeSet::new();
    for package in ["core", "backends", "backends/sys", "loadgen", "results", "bench"] {
        collect(root, &root.join(package).join("src"), &mut found);
    }
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let start = text.find("- `unsafe` ").expect("ARCHITECTURE.md has a list item on `unsafe`");
    let item = text[start + 1..].split("\n- ").next().unwrap();
    let words = item.split('`').filter(|word| word.ends_with(".rs"));
    assert_eq!(words.map(str::to_owned).collect::<BTreeSet<_>>(), found);
}
