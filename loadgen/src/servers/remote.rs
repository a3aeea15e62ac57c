//! A server on another host, started through a command prefix such as `ssh 10.0.0.2`.
//!
//! `sh -c` runs the prefix, followed by `lockstep serve` with its options, none of which a shell
//! would change: so ssh(1), which passes them to a shell of the other host, is no exception. The
//! server ends when its standard input does. This process has the only write end of that pipe, so
//! the server ends with it, however it ends, and with the prefix command or its connection.
//!
//! A supervisor (`supervisor.rs`) ends what runs on this machine.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use lockstep_sys::memory;

use crate::event::Ready;
use crate::exit::{self, Failure};
use crate::servers::embedded::{Ended, ServerOptions, parse_ready};
use crate::servers::supervisor::{STOP_MAX as KILLED_WITHIN, Supervised};

/// Timeout for a server to end after its standard input has.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Bytes of a line that are read at most.
const LINE_MAX: u64 = 16 << 10;

/// Number of lines of standard error that are kept until the server is ready.
const LINES_MAX: usize = 50;

/// First words of the readiness line.
const READY: &str = "listening addr=";

/// Where and how servers are started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remote {
    /// Address to listen at, in numbers, without a port.
    pub listen: String,
    /// Command prefix.
    pub via: String,
    /// Program to start.
    pub lockstep: String,
}

impl Remote {
    /// The command for `sh -c`.
    fn command(&self, options: &ServerOptions) -> String {
        let Self { listen, via, lockstep } = self;
        // Brackets around an IPv6 address would be a pattern to a shell. The last colon is enough.
        let serve = format!(
            "{via} {lockstep} serve --until-stdin-closes --listen {listen}:0 --metrics {listen}:0"
        );
        [vec![serve], options.arguments()].concat().join(" ")
    }
}

/// Parses the value of `--host`: an address without a port, or a name.
///
/// # Errors
///
/// The notation to use.
pub fn parse_host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(text);
    let (ip, interface) = bare.split_once('%').unwrap_or((bare, "lo"));
    let plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match ip.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => {
            Err("clients connect to it, so it is one address of the host".to_owned())
        }
        Ok(IpAddr::V4(_)) if bare.len() < text.len() || ip.len() < bare.len() => {
            Err("write it as 10.0.0.2".to_owned())
        }
        Ok(_) if plain(interface) => Ok(bare.to_owned()),
        Err(_) if plain(text) => Ok(text.to_owned()),
        _ => Err("write it as 10.0.0.2, fd00::2 or a name; the server chooses the port".to_owned()),
    }
}

/// Returns the address for the server to listen at: that of the look-up, in numbers, since a host
/// may have another for its own name. The interface of an address stays as the user wrote it.
pub(crate) fn listen(host: &str, found: SocketAddr) -> String {
    match host.split('%').next().unwrap_or_default().parse::<Ipv6Addr>() {
        Ok(_) => host.to_owned(),
        Err(_) => found.ip().to_string(),
    }
}

/// Parses the value of `--via` or `--remote-lockstep`.
pub(crate) fn parse_command(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("is empty".to_owned()),
        text if text.contains(['\n', '\r']) => Err("is one line".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// A started server. Dropping it ends it, and all processes of the prefix.
#[derive(Debug)]
pub struct Server {
    /// Dropped first, and with it the only write end of the server's standard input.
    stdin: Option<ChildStdin>,
    supervised: Supervised,
    statistics: Receiver<Option<serde_json::Value>>,
    lines: Arc<Mutex<Lines>>,
    name: String,
    remote: Remote,
}

/// Lines of standard error.
#[derive(Debug)]
enum Lines {
    /// Kept until the server is ready or has failed.
    Kept(Vec<String>),
    /// Printed.
    Printed,
    /// Ignored: the failure is reported.
    Ignored,
}

impl Server {
    /// Starts a server. The calling thread must stop it before it ends (see
    /// [`signal_with`](crate::machine::children::signal_with)). Another thread calls `ready` with
    /// the readiness line, or with `None` if the server ends before. Other lines are ignored, such
    /// as a greeting of the host.
    ///
    /// # Errors
    ///
    /// Those of fork(2) and execve(2), and `EAGAIN` if no thread can be started.
    pub fn start(
        remote: &Remote,
        options: &ServerOptions,
        ready: impl FnOnce(Option<Ready>) + Send + 'static,
    ) -> io::Result<Self> {
        let command = remote.command(options);
        let mut supervised = Supervised::start(&command, Stdio::piped(), Stdio::piped())?;
        let stdout = supervised.child.stdout.take().expect("it is piped");
        let stderr = supervised.child.stderr.take().expect("it is piped");
        let (sender, statistics) = channel();
        let lines = Arc::new(Mutex::new(Lines::Kept(Vec::new())));
        let followed = lines.clone();
        // From here on, every return drops the server, which ends it.
        let server = Self {
            stdin: supervised.child.stdin.take(),
            supervised,
            statistics,
            lines,
            name: options.backend.clone(),
            remote: remote.clone(),
        };
        memory::thread("server-stdout")?.spawn(move || {
            let mut stdout = BufReader::new(stdout);
            ready(find_ready(&mut stdout));
            // Further output must not block the server on a full pipe.
            let _closed = io::copy(&mut stdout, &mut io::sink());
        })?;
        memory::thread("server-stderr")?.spawn(move || {
            let _receiver_is_gone = sender.send(follow(stderr, &followed));
        })?;
        Ok(server)
    }

    /// Prints the lines of standard error that were kept, and further ones as they come.
    pub fn print_lines(&self) {
        take(&self.lines, Lines::Printed).iter().for_each(|line| print_once(line));
    }

    /// Returns the failure of a server that ended before it was ready, or was not ready in time.
    pub fn into_failure(self, timed_out: Option<Duration>) -> Failure {
        let status = match timed_out {
            Some(_) => None,
            // Its last output may still be in the pipe, and the prefix still run.
            None => match self.statistics.recv_timeout(KILLED_WITHIN) {
                Ok(_) => wait_status(&self.supervised),
                Err(_) => None,
            },
        };
        let (Remote { via, lockstep, .. }, name) = (&self.remote, &self.name);
        let what = format!("cannot start {name} through '{via}'");
        let mut lines = take(&self.lines, Lines::Ignored);
        let by_hand = format!("try it by hand: {via} {lockstep} --version");
        if let Some(timeout) = timed_out {
            lines.iter().for_each(|line| print_once(line));
            let timeout = humantime::format_duration(timeout);
            let error = format!("{what}: it was not ready within --ready-timeout {timeout}");
            return Failure::new(exit::ADDRESS, error).hint(by_hand);
        }
        let status = status.unwrap_or(Status { code: None, words: "no readiness line".to_owned() });
        let failure = match reported(&mut lines) {
            Some((error, hint)) => {
                let code = status.code.filter(|code| (1..=exit::INVALID).contains(code));
                let failure =
                    Failure::new(code.unwrap_or(exit::FAILURE), format!("{what}: {error}"));
                match hint {
                    _ if error.contains("unexpected argument") => {
                        failure.hint("the lockstep there is of another version")
                    }
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            }
            None => {
                let words = status.words;
                let cause = match lines.pop() {
                    Some(line) if is_missing(&line, lockstep) => {
                        let error = format!("{what}: {line} ({words})");
                        let hint = format!(
                            "{lockstep} has to be on the PATH there, or --remote-lockstep PATH \
                             names it"
                        );
                        lines.iter().for_each(|line| print_once(line));
                        return Failure::new(exit::FAILURE, error).hint(hint);
                    }
                    Some(line) => format!("{line} ({words})"),
                    None => words,
                };
                Failure::new(exit::FAILURE, format!("{what}: {cause}")).hint(by_hand)
            }
        };
        lines.iter().for_each(|line| print_once(line));
        failure
    }

    /// Ends the server's standard input. The server replies to what it has received, prints its
    /// statistics and ends.
    pub fn stop(mut self) -> Ended {
        drop(self.stdin.take());
        let Ok(statistics) = self.statistics.recv_timeout(STOP_MAX) else {
            let error = format!("the server did not end within {} s", STOP_MAX.as_secs());
            return Ended { statistics: None, error: Some(error) };
        };
        let error = match wait_status(&self.supervised) {
            Some(Status { code: Some(0), .. }) => None,
            Some(Status { words, .. }) => Some(format!("the server did not end in order: {words}")),
            None => Some("its command did not end".to_owned()),
        };
        Ended { statistics, error }
    }
}

/// How a command has ended.
struct Status {
    code: Option<u8>,
    words: String,
}

/// Waits for the end of a command whose output has ended; `None` if it does not end.
fn wait_status(supervised: &Supervised) -> Option<Status> {
    let status = supervised.wait(KILLED_WITHIN)?;
    Some(Status { code: status.exit_status().map(|code| code as u8), words: supervised.status()? })
}

/// Takes the lines that were kept, and what becomes of further ones.
fn take(lines: &Mutex<Lines>, further: Lines) -> Vec<String> {
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    match mem::replace(&mut *lines, further) {
        Lines::Kept(kept) => kept,
        Lines::Printed | Lines::Ignored => Vec::new(),
    }
}

/// Removes the error and the hint that a `lockstep` has reported from the lines.
fn reported(lines: &mut Vec<String>) -> Option<(String, Option<String>)> {
    let at = lines.iter().rposition(|line| line.starts_with("error: "))?;
    let mut own = lines.split_off(at).into_iter();
    let error = own.next()?.trim_start_matches("error: ").to_owned();
    let hint = own.find_map(|line| line.strip_prefix("hint: ").map(str::to_owned));
    Some((error, hint))
}

/// True for the message of a shell, or of another program that starts programs, that there is no
/// such program.
fn is_missing(line: &str, program: &str) -> bool {
    let words = ["not found", "No such file or directory", "Permission denied"];
    line.contains(program) && words.iter().any(|words| line.contains(words))
}

/// Reads lines up to the readiness line; `None` if there is none.
fn find_ready(stdout: &mut impl BufRead) -> Option<Ready> {
    loop {
        let line = read_line(stdout)?;
        // Text without a line feed may stand before it.
        if let Some(at) = line.find(READY) {
            return parse_ready(&line[at..]);
        }
    }
}

/// Reads a line, or a part of a very long one; `None` at the end.
fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    match reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
        Ok(1..) => Some(String::from_utf8_lossy(&line).trim_end().to_owned()),
        Ok(0) | Err(_) => None,
    }
}

/// Reads standard error to its end, and returns the statistics in it.
fn follow(stderr: impl Read, lines: &Mutex<Lines>) -> Option<serde_json::Value> {
    let mut stderr = BufReader::new(stderr);
    let mut statistics = None;
    while let Some(line) = read_line(&mut stderr) {
        if let Some(object) =
            line.starts_with('{').then(|| serde_json::from_str(&line).ok()).flatten()
        {
            statistics = Some(object);
            continue;
        }
        if line.is_empty() {
            continue;
        }
        match &mut *lines.lock().unwrap_or_else(PoisonError::into_inner) {
            Lines::Kept(kept) => {
                if kept.len() == LINES_MAX {
                    kept.remove(0);
                }
                kept.push(line);
            }
            Lines::Printed => print_once(&line),
            Lines::Ignored => {}
        }
    }
    statistics
}

/// Lines that were printed.
static PRINTED: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// Prints a line on standard error, unless another server of this command has printed it.
fn print_once(line: &str) {
    let mut printed = PRINTED.lock().unwrap_or_else(PoisonError::into_inner);
    if printed.len() < LINES_MAX && printed.insert(line.to_owned()) {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ServerOptions {
        ServerOptions {
            backend: "mio".to_owned(),
            service: "echo",
            backlog: Some(7),
            shards: Some(2),
            pin: Some("0,2-3".to_owned()),
            steered: false,
            spin: Duration::from_micros(50),
            shared_port: None,
        }
    }

    #[test]
    fn command_has_no_character_that_a_shell_changes() {
        let remote = Remote {
            listen: "fe80::1%eth0".to_owned(),
            via: "ssh -T host".to_owned(),
            lockstep: "lockstep".to_owned(),
        };
        let command = remote.command(&options());
        assert_eq!(
            command,
            "ssh -T host lockstep serve --until-stdin-closes --listen fe80::1%eth0:0 --metrics \
             fe80::1%eth0:0 --json --backend mio --service echo --pin 0,2-3 --backlog 7 --shards 2 \
             --spin 50000ns"
        );
        let plain = |c: char| c.is_ascii_alphanumeric() || " -:,.%".contains(c);
        assert!(command.chars().all(plain));
    }

    #[test]
    fn hosts_are_addresses_or_names() {
        for (text, host) in [
            ("10.0.0.2", "10.0.0.2"),
            ("fd00::2", "fd00::2"),
            ("[fd00::2]", "fd00::2"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("server-2.example", "server-2.example"),
        ] {
            assert_eq!(parse_host(text).as_deref(), Ok(host), "{text}");
        }
        for text in [
            "",
            "0.0.0.0",
            "::",
            "10.0.0.2:80",
            "[fd00::2]:80",
            "[10.0.0.2]",
            "10.0.0.2%eth0",
            "a b",
            "$(reboot)",
            "fe80::1%;x",
            "fe80::1%",
        ] {
            assert!(parse_host(text).is_err(), "{text}");
        }
        let found = "10.0.0.2:0".parse().unwrap();
        assert_eq!(listen("server", found), "10.0.0.2");
        let found = "[fe80::1%3]:0".parse().unwrap();
        assert_eq!(listen("fe80::1%eth0", found), "fe80::1%eth0");
    }

    #[test]
    fn readiness_line_follows_a_greeting() {
        let line =
            "listening addr=10.0.0.2:1 backend=mio shards=2 backlog=7 pid=77 metrics=10.0.0.2:2";
        for before in ["", "Welcome!\n\n", "\u{1b}[1mno line feed ", &"x".repeat(100_000)] {
            let mut output = BufReader::new(io::Cursor::new(format!("{before}{line}\r\nmore\n")));
            let ready = find_ready(&mut output).unwrap();
            assert_eq!(ready.addr.port(), 1);
            assert_eq!(ready.metrics, "10.0.0.2:2".parse().ok());
        }
        assert_eq!(find_ready(&mut "Welcome!\n".as_bytes()), None);
        assert_eq!(find_ready(&mut "listening addr=nonsense\n".as_bytes()), None);
    }

    #[test]
    fn error_of_the_server_is_told_from_that_of_the_prefix() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let mut own = lines("Warning: added\nerror: cannot listen (EADDRINUSE)\nhint: port 0\n");
        let (error, hint) = reported(&mut own).unwrap();
        assert_eq!(
            (error.as_str(), hint.as_deref()),
            ("cannot listen (EADDRINUSE)", Some("port 0"))
        );
        assert_eq!(own, ["Warning: added"]);
        assert_eq!(reported(&mut lines("sh: 1: x: not found\n")), None);
        for line in [
            "sh: 1: lockstep: not found",
            "bash: line 1: lockstep: command not found",
            "exec of \"lockstep\" failed: No such file or directory",
            "exec: \"lockstep\": executable file not found in $PATH: unknown",
            "sh: 1: lockstep: Permission denied",
        ] {
            assert!(is_missing(line, "lockstep"), "{line}");
        }
        assert!(!is_missing("sh: 1: nosuch: not found", "lockstep"));
        assert!(!is_missing("lockstep: killed", "lockstep"));
    }

    #[test]
    fn statistics_are_separated_from_lines() {
        let kept = Mutex::new(Lines::Kept(Vec::new()));
        let statistics = follow("motd\n\n{no\n{\"exchanges\":7}\nlast".as_bytes(), &kept).unwrap();
        assert_eq!(statistics["exchanges"], 7);
        assert_eq!(take(&kept, Lines::Ignored), ["motd", "{no", "last"]);
    }
}
