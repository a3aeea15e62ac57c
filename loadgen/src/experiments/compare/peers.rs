//! Reference servers of `bench/`: the same server on other runtimes.

use std::fs;
use std::path::{Path, PathBuf};

use super::Subject;
use crate::exit::{self, Failure};
use crate::servers::command;
use lockstep_sys::errno::describe;

/// Prefix of their programs' names.
const PREFIX: &str = "peer-";

/// The reference servers in `directory`, or beside this program if that is empty, by name.
///
/// # Errors
///
/// [`exit::USAGE`] if the directory cannot be read, or has none.
pub(super) fn find(directory: &Path) -> Result<Vec<Subject>, Failure> {
    let own = || Some(from_here(std::env::current_exe().ok()?.parent()?));
    let directory = match directory.as_os_str().is_empty() {
        true => own().unwrap_or_default(),
        false => directory.to_owned(),
    };
    let usage = |error: String| Failure::new(exit::USAGE, error);
    let cannot = |error| usage(format!("--peers: {}: {}", directory.display(), describe(&error)));
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&directory).map_err(cannot)?.flatten().map(|file| file.path()).collect();
    paths.sort();
    let peers: Vec<Subject> = paths.iter().filter_map(|path| peer(path)).collect();
    if peers.is_empty() {
        return Err(usage(format!("--peers: no reference server in {}", directory.display()))
            .hint("build them: cargo build --release -p lockstep-bench --features peers"));
    }
    Ok(peers)
}

/// The path relative to the working directory, if it is below that. Records contain the command,
/// and are read where the checkout has another path.
fn from_here(directory: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    match directory.strip_prefix(here) {
        Ok(below) => Path::new(".").join(below),
        Err(_) => directory.to_owned(),
    }
}

/// The subject `tokio` for `target/release/peer-tokio`; `None` for `peer-tokio.d`.
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
    fn peers_are_programs_with_the_prefix() {
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
    fn paths_below_the_working_directory_are_relative() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(from_here(&here.join("target/release")), Path::new("./target/release"));
        assert_eq!(from_here(&here), Path::new("."));
        assert_eq!(from_here(Path::new("/")), Path::new("/"));
    }

    #[test]
    fn missing_peers_are_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(find(directory.path()).unwrap_err().hint.unwrap().contains("--features peers"));
        assert!(find(&directory.path().join("no")).unwrap_err().error.contains("ENOENT"));
    }
}
