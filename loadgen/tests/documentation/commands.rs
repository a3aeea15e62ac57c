//! The commands of the documents' `sh` blocks. Those of README.md are run in order in one folder,
//! the rest is parsed.
//!
//! A command is `lockstep` or `loadgen` of this build, whether the document runs it with `cargo run
//! --bin` or from `target/release`. To be short, a run changes options by name, for every command
//! alike (`SHORTENED`, `CONNS_MAX`). Servers run in the background until the end, and listen on a
//! port of the kernel's choice, which replaces their documented address in later commands.
//! `--peers` and subjects that this build does not have are left out. Other `cargo` commands only
//! have to name packages of this workspace, and programs in Python or of `contrib/` have to exist.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{files, machine_load, read, root};

/// Options and the values they get in every command that has them.
const SHORTENED: [(&str, &str); 5] = [
    ("--duration", "200ms"),
    ("--warmup", "50ms"),
    ("--rounds", "1"),
    ("--hold", "200ms"),
    ("--listen", "127.0.0.1:0"),
];

/// Each number in the value of `--conns` is at most this one.
const CONNS_MAX: u64 = 100;

/// Where `lockstep serve` listens by default.
const DEFAULT_ADDR: &str = "127.0.0.1:8898";

#[test]
fn readme_commands_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut servers = Servers::default();
    let mut count = 0;
    for line in commands(&read("README.md")) {
        let Some(command) = parse(&line).unwrap_or_else(|error| panic!("{line}: {error}")) else {
            continue;
        };
        if command.runs() {
            command.run(&line, folder.path(), &mut servers);
            count += 1;
        }
    }
    servers.stop();
    assert!(count >= 8, "README.md has only {count} commands");
}

#[test]
fn commands_of_every_document_parse() {
    let mut count = 0;
    for path in files("md").iter().filter(|path| !path.ends_with("CHANGELOG.md")) {
        for line in commands(&read(path)) {
            let parsed = parse(&line).and_then(|command| command.map_or(Ok(()), |it| it.check()));
            parsed.unwrap_or_else(|error| panic!("{}: {line}: {error}", path.display()));
            count += 1;
        }
    }
    assert!(count >= 20, "the documents have only {count} commands");
}

/// The commands in all `sh` blocks of a document. A line that ends with a backslash goes on.
fn commands(document: &str) -> Vec<String> {
    let mut in_block = false;
    let mut commands = Vec::new();
    let mut unfinished = String::new();
    for line in document.lines() {
        match line.trim() {
            "```sh" => in_block = true,
            "```" => in_block = false,
            line if in_block && !line.is_empty() && !line.starts_with('#') => {
                unfinished += line;
                match unfinished.strip_suffix('\\') {
                    Some(begun) => unfinished = begun.to_owned(),
                    None => commands.push(std::mem::take(&mut unfinished)),
                }
            }
            _ => {}
        }
    }
    commands
}

/// One command of this build.
struct Invocation {
    program: &'static str,
    args: Vec<String>,
}

/// Parses a line. `None` if the test neither runs nor checks it any further.
fn parse(line: &str) -> Result<Option<Invocation>, String> {
    let mut words = split(line);
    // Variables of the environment.
    words.retain(|word| word.starts_with('-') || !word.starts_with(char::is_uppercase));
    let arguments_of = |words: &[String]| {
        let end = words.iter().position(|word| word == "--").map_or(words.len(), |at| at + 1);
        words[end..].to_vec()
    };
    if words[0] == "cargo" {
        let value = |option: &str| {
            let position = words.iter().position(|word| word == option)?;
            words.get(position + 1).map(String::as_str)
        };
        if let Some(package) = value("-p").or(value("--package")) {
            let manifests = files("toml").into_iter().filter(|path| path.ends_with("Cargo.toml"));
            let name = format!("name = \"{package}\"\n");
            if !manifests.into_iter().any(|path| read(path).contains(&name)) {
                return Err(format!("no package {package}"));
            }
        }
        let program = value("--bin").and_then(own);
        let program = program.filter(|_| words[1] == "run");
        return Ok(program.map(|program| Invocation { program, args: arguments_of(&words) }));
    }
    let script = if words[0] == "python3" { &words[1] } else { &words[0] };
    if words[0] == "python3" || script.starts_with("contrib/") {
        let exists = root().join(script).exists();
        return exists.then_some(None).ok_or_else(|| format!("no file {script}"));
    }
    let name = words.remove(0);
    let name = name.strip_prefix("target/release/").unwrap_or(&name);
    let program = own(name).ok_or_else(|| format!("{name} is no program of this workspace"))?;
    Ok(Some(Invocation { program, args: words }))
}

/// The program of that name, if it is one of ours.
fn own(name: &str) -> Option<&'static str> {
    ["lockstep", "loadgen"].into_iter().find(|own| *own == name)
}

/// Splits a line into words as sh(1) does, as far as quotes go.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, Some(open)) if c == open => quote = None,
            (' ', None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

impl Invocation {
    /// Checks that the program knows all options and takes all values. `--help` as the last word
    /// keeps it from doing anything.
    fn check(&self) -> Result<(), String> {
        let output = binary(self.program).args(&self.args).arg("--help").output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(error)
    }

    /// False if a subject of a comparison is not part of this build.
    fn runs(&self) -> bool {
        let subjects =
            self.args.iter().filter(|word| word.contains("{addr}") || word.contains("{port}"));
        let mut words = subjects.flat_map(|subject| subject.split([' ', '=', '\'']));
        words.all(|word| !word.contains('/') || in_this_build(word).exists())
    }

    fn run(&self, line: &str, folder: &Path, servers: &mut Servers) {
        let args = self.shortened(servers);
        if self.program == "lockstep" && args[0] == "serve" {
            let documented = [
                ("addr=", Some(self.option("--listen").unwrap_or(DEFAULT_ADDR))),
                ("metrics=", self.option("--metrics")),
            ];
            return servers.start(&args, documented);
        }
        let mut command = binary(self.program);
        command.args(&args).current_dir(folder);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // For `talk`. A program that has ended does not read it.
        let _ended = child.stdin.take().expect("a pipe").write_all(b"hello\nbye\n");
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
        // A threshold may be missed or undecided: it depends on the machine.
        let has_threshold = ["--slo", "--fail-if"].iter().any(|name| self.option(name).is_some());
        if !(has_threshold && matches!(status.code(), Some(7 | 8))) {
            machine_load::check(status.code(), &stdout)
                .unwrap_or_else(|cause| panic!("{line}: {args:?}: {cause}\n{stdout}{stderr}"));
        }
        let file = self.option("-o").or(self.option("--output"));
        let written = file.map(|file| fs::exists(folder.join(file)).unwrap());
        assert_ne!(written, Some(false), "{line}: writes {file:?}");
        assert!(written.is_some() || !stdout.is_empty(), "{line}: prints nothing");
    }

    /// The value of an option.
    fn option(&self, name: &str) -> Option<&str> {
        let position = self.args.iter().position(|word| word == name)?;
        self.args.get(position + 1).map(String::as_str)
    }

    /// The arguments as the test runs them.
    fn shortened(&self, servers: &Servers) -> Vec<String> {
        let help = binary(self.program).args(self.subcommand()).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let has = |option: &str| help.split_whitespace().any(|word| word == option);
        // A search has no rounds, and needs as many samples as its percentile takes.
        let searches = self.option("--slo").is_some();
        let excluded = searches.then_some("--rounds");
        let shortened =
            SHORTENED.into_iter().filter(|(option, _)| has(option) && Some(*option) != excluded);
        let mut args = Vec::new();
        let mut words = self.args.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--peers" => {}
                "-d" | "-w" => _ = words.next(),
                word if shortened.clone().any(|(option, _)| option == word) => _ = words.next(),
                "-c" | "--conns" => {
                    args.extend(["--conns".to_owned(), fewer(words.next().expect("a value"))]);
                }
                "--metrics" => {
                    words.next();
                    args.extend(["--metrics", "127.0.0.1:0"].map(str::to_owned));
                }
                word => args.push(match servers.addrs.get(word) {
                    Some(addr) => addr.clone(),
                    None => word.replace("target/release/", &format!("{}/", folder().display())),
                }),
            }
        }
        args.extend(shortened.flat_map(|(option, value)| {
            let value = if searches && option == "--duration" { "600ms" } else { value };
            [option.to_owned(), value.to_owned()]
        }));
        args
    }

    fn subcommand(&self) -> Option<&String> {
        self.args.first().filter(|word| word.chars().all(|c| c.is_ascii_lowercase()))
    }
}

/// A list or range of counts with each of them limited.
fn fewer(conns: &str) -> String {
    let mut limited = String::new();
    let mut rest = conns;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let (factor, after) = match after.strip_prefix('k') {
            Some(after) => (1000, after),
            None => (1, after),
        };
        let step = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let number = number.parse::<u64>().expect("a number") * factor;
        limited += &format!("{}{}", number.min(CONNS_MAX), &after[..step]);
        rest = &after[step..];
    }
    limited
}

/// The folder of this build's programs.
fn folder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_loadgen")).parent().expect("it lies in a folder")
}

fn in_this_build(word: &str) -> PathBuf {
    match word.strip_prefix("target/release/") {
        Some(name) => folder().join(name),
        None => word.into(),
    }
}

/// A program of this build. `lockstep` is built with the workspace, or else here.
fn binary(name: &str) -> Command {
    let path = folder().join(name);
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "lockstep-backends", "--bin", "lockstep"]);
        build.arg("--target-dir").arg(folder().parent().expect("the target directory"));
        assert!(build.status().expect("cargo starts").success());
    }
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// Servers in the background.
#[derive(Default)]
struct Servers {
    children: Vec<Child>,
    /// The addresses of the first server by its documented addresses.
    addrs: HashMap<String, String>,
}

impl Servers {
    /// Starts a server, which prints its address behind each of these keys.
    fn start(&mut self, args: &[String], documented: [(&str, Option<&str>); 2]) {
        let mut command = binary("lockstep");
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        self.children.push(child);
        BufReader::new(stdout).read_line(&mut line).unwrap();
        for (key, documented) in documented {
            let Some(documented) = documented else { continue };
            let addr = line.split_whitespace().find_map(|word| word.strip_prefix(key));
            let addr = addr.unwrap_or_else(|| panic!("{args:?} printed {line:?}"));
            self.addrs.entry(documented.to_owned()).or_insert_with(|| addr.to_owned());
        }
    }

    fn stop(&mut self) {
        for child in &mut self.children {
            kill_process(Pid::from_child(child), Signal::TERM).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0), "an orderly end");
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ended = child.kill();
        }
    }
}
