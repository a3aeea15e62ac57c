//! The commands on the project's README are what a newcomer types first: they have to work.
//!
//! Every line of every `sh` block is run here in the same order, in a folder of its own, with four
//! differences: the binaries of this build stand in for `target/release`, runs are shortened to a
//! moment, servers listen on a port of the kernel's choice, and the reference servers, which this
//! build does not have, are left out.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

#[path = "end_to_end/machine_load.rs"]
mod machine_load;

const README: &str = include_str!("../../README.md");

/// The pages with further commands.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

/// Lines that would build or test everything again from within a test of it.
const NOT_RUN: [&str; 3] = [
    "cargo test --workspace",
    "cargo build --release",
    "cargo build --release -p lockstep-bench --features peers",
];

#[test]
fn readme_commands_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut servers = Servers::default();
    let mut run = 0;
    for line in commands(README) {
        if NOT_RUN.contains(&line) {
            continue;
        }
        let words = words(line);
        match (words[0].as_str(), words.get(1).map(String::as_str)) {
            ("lockstep", Some("serve")) => servers.start(&words[1..]),
            ("lockstep", Some("talk")) => talk(&servers.listening("echo")),
            ("lockstep", _) => {
                let shown = succeed(binary("lockstep").args(&words[1..]), line);
                assert!(shown.contains("blocking"), "{line}: {shown}");
            }
            ("loadgen", Some("backlog")) => {
                let shown = succeed(binary("loadgen").args(&words[1..]), line);
                assert!(shown.contains("listen(5) admitted 6 at once"), "{line}: {shown}");
            }
            ("loadgen", Some("sweep")) => {
                let mut sweep = binary("loadgen");
                let Output { status, stdout, .. } =
                    sweep.args(&words[1..]).current_dir(&folder).output().unwrap();
                let shown = String::from_utf8(stdout).unwrap();
                // With 8 the machine was too busy for any level.
                assert!(matches!(status.code(), Some(0 | 8)), "{line}: {status}: {shown}");
                assert!(shown.contains("achieved/s"), "{line}: {shown}");
            }
            ("loadgen", Some("storm")) => {
                let shown = succeed(binary("loadgen").args(&words[1..]), line);
                assert!(shown.contains("\n100 served, 0 failed"), "{line}: {shown}");
            }
            ("loadgen", _) => {
                let shown = measure(binary("loadgen").args(&words[1..]).current_dir(&folder), line);
                let drawn = words.last().filter(|word| word.ends_with(".html"));
                let drawn = drawn.is_some_and(|page| folder.path().join(page).is_file());
                assert!(drawn || shown.contains("exchange"), "{line}: {shown}");
            }
            _ => panic!("the README has a command that this test does not know: {line}"),
        }
        run += 1;
    }
    servers.stop();
    assert!(run >= 8, "only {run} commands were found on the README");
}

/// What they show is tested where it is made; here, that they are not misspelt or out of date.
#[test]
fn docs_commands_parse() {
    let mut found = 0;
    for entry in fs::read_dir(DOCS).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for line in commands(&fs::read_to_string(&path).unwrap()) {
            understand(line).unwrap_or_else(|error| panic!("{}: {line}: {error}", path.display()));
            found += 1;
        }
    }
    assert!(found >= 10, "only {found} commands were found in docs");
}

fn understand(line: &str) -> Result<(), String> {
    let line = line.strip_prefix("target/release/").unwrap_or(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    let parsed = match words[0] {
        "lockstep" => lockstep_backends::cli::Cli::try_parse_from(words).map(drop),
        "loadgen" => loadgen::cli::Cli::try_parse_from(words).map(drop),
        "python3" => {
            let program = Path::new(DOCS).parent().unwrap().join(words[1]);
            return program.exists().then_some(()).ok_or_else(|| "there is no such file".into());
        }
        _ => return Err("a program that this test does not know".to_owned()),
    };
    parsed.map_err(|error| error.to_string())
}

/// The lines of all `sh` blocks of a page.
fn commands(page: &str) -> Vec<&str> {
    let mut in_block = false;
    let mut commands = Vec::new();
    for line in page.lines() {
        match line {
            "```sh" => in_block = true,
            "```" => in_block = false,
            "" => {}
            line if in_block => commands.push(line),
            _ => {}
        }
    }
    commands
}

/// The words of a command as this test runs it.
fn words(line: &str) -> Vec<String> {
    let line = line.replace("cargo run --release --bin loadgen --", "loadgen");
    let line = line.replace("target/release/", "").replace("--duration 5s", "");
    let line = line.replace("--peers --conns 64,1000", "--conns 10 --rounds 1");
    let line = line.replace("--conns 2000 --at-once --backlog 16", "--conns 100 --backlog 4096");
    let line = line.replace("--conns 10,1k,50k", "--conns 10");
    let line = line.replace("127.0.0.1:8898", "127.0.0.1:0");
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    if words[0] == "loadgen"
        && !["report", "backlog", "storm", "floor"].contains(&words[1].as_str())
    {
        words.extend(["--duration", "300ms", "--warmup", "100ms"].map(str::to_owned));
    }
    if words[0] == "loadgen" && words[1] == "floor" {
        words.extend(["--duration", "300ms"].map(str::to_owned));
    }
    if words.iter().any(|word| word == "serve") && !words.iter().any(|word| word == "--listen") {
        words.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    }
    words
}

/// A binary of this build. `lockstep` is another package's, and built with the workspace.
fn binary(name: &str) -> Command {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_loadgen")).with_file_name(name);
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "lockstep-backends", "--bin", "lockstep"]);
        succeed(build.arg("--target-dir").arg(path.ancestors().nth(2).unwrap()), "cargo build");
    }
    Command::new(path)
}

fn succeed(command: &mut Command, line: &str) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{line}: {status}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

fn measure(command: &mut Command, line: &str) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8(stdout).unwrap();
    machine_load::check(status.code(), &stdout).unwrap_or_else(|cause| {
        panic!("{line}: {cause}: {stdout}{}", String::from_utf8_lossy(&stderr))
    });
    stdout
}

fn talk(addr: &str) {
    let mut child = binary("lockstep")
        .args(["talk", addr])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\nbye\n").unwrap();
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    assert!(status.success());
    assert_eq!(String::from_utf8(stdout).unwrap(), "hello\n");
}

/// Servers started in the background, as a person would in another terminal.
#[derive(Default)]
struct Servers(Vec<(String, Child, String)>);

impl Servers {
    fn start(&mut self, words: &[String]) {
        let mut child = binary("lockstep")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.split_whitespace().find_map(|word| word.strip_prefix("addr="));
        let addr = addr.unwrap_or_else(|| panic!("{words:?} said {line:?}")).to_owned();
        let chat = words.iter().any(|word| word == "chat");
        self.0.push((if chat { "chat" } else { "echo" }.to_owned(), child, addr));
    }

    fn listening(&self, service: &str) -> String {
        self.0.iter().find(|(name, ..)| name == service).expect("it was started").2.clone()
    }

    fn stop(&mut self) {
        for (_, child, _) in &mut self.0 {
            kill_process(Pid::from_child(child), Signal::TERM).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0), "an orderly end");
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (_, child, _) in &mut self.0 {
            let _ended_already = child.kill();
        }
    }
}

#[test]
fn readme_links_exist() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    for link in README.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let there = link.starts_with("http") || fs::exists(root.join(link)).unwrap();
        assert!(there, "the README links to {link}");
    }
}
