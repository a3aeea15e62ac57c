//! Build facts for the records: profile, target, compiler and git revision. The server's crate is
//! built with this script, too, and gets the revision alone, for its metrics.
//!
//! Nothing here fails the build: unknown facts are left out.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sources of `loadgen`, relative to the workspace: a change of them makes the build dirty.
const SOURCES: [&str; 13] = [
    "Cargo.lock",
    "Cargo.toml",
    "core/Cargo.toml",
    "core/src",
    "backends/Cargo.toml",
    "backends/src",
    "backends/sys/Cargo.toml",
    "backends/sys/src",
    "loadgen/Cargo.toml",
    "loadgen/src",
    "results/Cargo.toml",
    "results/build.rs",
    "results/src",
];

fn main() {
    let workspace =
        &Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("..");
    let is_repository = is_repository(workspace);
    if is_repository {
        watch_head(workspace);
        note("GIT_REVISION", git(workspace, &["rev-parse", "HEAD"]));
    }
    if env::var("CARGO_PKG_NAME").is_ok_and(|package| package == "lockstep-backends") {
        println!("cargo::rerun-if-changed=../results/build.rs");
        return;
    }
    for source in SOURCES {
        watch(&workspace.join(source));
    }
    note("PROFILE", env::var("PROFILE").ok());
    note("TARGET", env::var("TARGET").ok());
    note("RUSTFLAGS", env::var("CARGO_ENCODED_RUSTFLAGS").ok().map(|f| f.replace('\x1f', " ")));
    note("RUSTC", env::var_os("RUSTC").and_then(|rustc| output(Command::new(rustc).arg("-V"))));
    if is_repository {
        let status = ["status", "--porcelain", "--untracked-files=normal", "--"];
        let changes = git(workspace, &[&status[..], &SOURCES[..]].concat());
        note("GIT_DIRTY", changes.map(|changes| (!changes.is_empty()).to_string()));
    }
}

/// Passes a fact to the crate as `env!("LOCKSTEP_BUILD_<name>")`.
fn note(name: &str, value: Option<String>) {
    if let Some(value) = value.filter(|value| !value.is_empty() && !value.contains('\n')) {
        println!("cargo::rustc-env=LOCKSTEP_BUILD_{name}={value}");
    }
}

/// Reruns this script when `path` changes. A missing path would rerun it every time.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// True if `workspace` is a git repository of its own, not a folder in another.
fn is_repository(workspace: &Path) -> bool {
    let top = git(workspace, &["rev-parse", "--show-toplevel"]);
    top.and_then(|top| Path::new(&top).canonicalize().ok())
        .is_some_and(|top| workspace.canonicalize().is_ok_and(|workspace| workspace == top))
}

/// Watches the files that a commit, a checkout or a reset changes.
fn watch_head(workspace: &Path) {
    let branch = git(workspace, &["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(workspace, &["rev-parse", "--git-path", name]) {
            watch(&workspace.join(PathBuf::from(path)));
        }
    }
}

/// Output of a git command without the final newline; `None` if it fails.
fn git(workspace: &Path, arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    // Set by hooks, these would point it at another repository.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(variable);
    }
    git.arg("--no-optional-locks").arg("-C").arg(workspace).args(arguments);
    output(&mut git)
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
}
