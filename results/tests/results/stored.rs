//! Files in `runs/` can be read, and name no path outside the checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lockstep_results::store;
use serde_json::Value;

/// Committed files, or all files outside a git checkout.
fn stored() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
    let listed = Command::new("git").arg("-C").arg(&folder).arg("ls-files").output();
    let listed = listed.map(|output| String::from_utf8(output.stdout).unwrap_or_default());
    let mut paths: Vec<PathBuf> =
        listed.unwrap_or_default().lines().map(|name| folder.join(name)).collect();
    if paths.is_empty() {
        paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths
}

/// True if a command line names an absolute path.
fn has_absolute_path(command: &str) -> bool {
    command
        .split(|c: char| c.is_whitespace() || "'\"=<>,;&".contains(c))
        .any(|word| word.starts_with('/') && word.len() > 1)
}

#[test]
fn stored_files_are_readable_and_name_relative_paths() {
    let paths = stored();
    assert!(paths.len() >= 5, "{paths:?}");
    for path in paths {
        store::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let of_subjects = value["asked"]["commands"].as_array().cloned().unwrap_or_default();
        let commands = of_subjects.iter().map(|command| &command["command"]);
        for text in value["argv"].as_array().unwrap().iter().chain(commands) {
            let text = text.as_str().unwrap();
            assert!(!has_absolute_path(text), "{}: {text}", path.display());
        }
    }
}

#[test]
fn absolute_paths_are_detected() {
    for command in ["/opt/loadgen", "exec '/opt/peer' --listen {addr}", "--output=/opt/runs"] {
        assert!(has_absolute_path(command), "{command}");
    }
    for command in ["target/release/loadgen", "exec './peer' --listen {addr}", "1 / 2", "9.3/s"] {
        assert!(!has_absolute_path(command), "{command}");
    }
}
