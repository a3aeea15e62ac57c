//! The reference servers of `bench/`: what a user would pick instead.

use std::fs;
use std::path::{Path, PathBuf};

use super::Subject;
use crate::servers::command;
use lockstep_sys::errno::describe;

/// What the names of their programs begin with.
const PREFIX: &str = "peer-";

/// The reference servers in a directory, or beside this program if it is empty, by name.
///
/// # Errors
///
/// When there is none.
pub(super) fn find(directory: &Path) -> Result<Vec<Subject>, String> {
    let own = || Some(from_here(std::env::current_exe().ok()?.parent()?));
    let directory = match directory.as_os_str().is_empty() {
        true => own().unwrap_or_default(),
        false => directory.to_owned(),
    };
    let cannot = |error| format!("--peers: {}: {}", directory.display(), describe(&error));
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&directory).map_err(cannot)?.flatten().map(|file| file.path()).collect();
    paths.sort();
    let peers: Vec<Subject> = paths.iter().filter_map(|path| peer(path)).collect();
    if peers.is_empty() {
        return Err(format!(
            "--peers: no reference server in {}; build them with `cargo build --release -p \
             lockstep-bench --features peers`",
            directory.display()
        ));
    }
    Ok(peers)
}

/// A directory as it is seen from the working directory, if it is below that: commands go into
/// records, where they are to be repeated by others, who have the checkout elsewhere.
fn from_here(directory: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    match directory.strip_prefix(here) {
        Ok(below) => Path::new(".").join(below),
        Err(_) => directory.to_owned(),
    }
}

/// `target/release/peer-tokio` is called `tokio`; `peer-tokio.d` is none.
fn peer(path: &Path) -> Option<Subject> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let program = path.to_str()?.replace('\'', r"'\''");
    (path.is_file() && name.chars().all(plain)).then(|| {
        let command = format!("exec '{program}' --listen {{addr}}");
        Subject::Command(command::Subject { name, command })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_are_peers() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["peer-b", "peer-a", "peer-a.d", "other"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let names: Vec<String> = find(directory.path())
            .unwrap()
            .iter()
            .map(|peer| peer.command().unwrap().name.clone())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn what_is_below_the_working_directory_is_named_from_there() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(from_here(&here.join("target/release")), Path::new("./target/release"));
        assert_eq!(from_here(&here), Path::new("."));
        assert_eq!(from_here(Path::new("/")), Path::new("/"));
    }

    #[test]
    fn without_any_it_says_how_to_build_them() {
        let directory = tempfile::tempdir().unwrap();
        assert!(find(directory.path()).unwrap_err().contains("--features peers"));
        assert!(find(&directory.path().join("no")).unwrap_err().contains("ENOENT"));
    }
}
