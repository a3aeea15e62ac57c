//! The files in `runs/` can still be read, and hold nothing of where somebody keeps a checkout.

use std::fs;
use std::path::{Path, PathBuf};

use lockstep_results::store;
use serde_json::Value;

fn stored(extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// Whether a command line has a word that is a path from the root.
fn has_absolute_path(command: &str) -> bool {
    command
        .split(|c: char| c.is_whitespace() || "'\"=<>,;&".contains(c))
        .any(|word| word.starts_with('/') && word.len() > 1)
}

#[test]
fn every_stored_file_is_read_and_names_paths_from_the_checkout() {
    let paths = stored("json");
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
fn every_stored_page_names_them_so_too() {
    for path in stored("html") {
        let page = fs::read_to_string(&path).unwrap();
        let body = page.split_once("<body>").unwrap().1.split("<script").next().unwrap();
        // What stands between tags is text; `d="M0 0/…"` and the like are not.
        for text in body.split('>').filter_map(|piece| piece.split('<').next()) {
            assert!(!has_absolute_path(text), "{}: {text}", path.display());
        }
    }
}

#[test]
fn a_path_from_the_root_is_seen() {
    for command in ["/opt/loadgen", "exec '/opt/peer' --listen {addr}", "--output=/opt/runs"] {
        assert!(has_absolute_path(command), "{command}");
    }
    for command in ["target/release/loadgen", "exec './peer' --listen {addr}", "1 / 2", "9.3/s"] {
        assert!(!has_absolute_path(command), "{command}");
    }
}
