//! The documents keep their word: commands work, and what they name exists.

mod commands;
#[path = "../end_to_end/machine_load.rs"]
mod machine_load;
mod names;

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("loadgen has a parent").to_owned()
}

/// The repository's files with an extension, relative to its root, in order.
fn files(extension: &str) -> Vec<PathBuf> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match path.is_dir() {
                true if name.starts_with('.') || path.join("CACHEDIR.TAG").exists() => {}
                true => collect(&path, files),
                false => files.push(path),
            }
        }
    }
    let (root, mut files) = (root(), Vec::new());
    collect(&root, &mut files);
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files.into_iter().map(|path| path.strip_prefix(&root).expect("below").to_owned()).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
