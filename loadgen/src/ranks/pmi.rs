//! Client of PMI-1, the line protocol by which launchers (MPICH's hydra, Slurm's plugin pmi2, Flux)
//! offer a barrier and a store of keys and values to the processes that they start.
//!
//! One line of `key=value` fields for each request and each answer, over a socket that the process
//! inherits. Everything that the launcher sends is checked: it may be another version, or dying.

use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::os::fd::OwnedFd;
use std::str;
use std::time::{Duration, Instant};

use lockstep_sys::errno::describe;
use lockstep_sys::inherited;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};

/// Variable with the number of the inherited descriptor.
const DESCRIPTOR: &str = "PMI_FD";

/// Timeout of an answer that does not depend on other processes.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Length of the longest line: twice what any known launcher sends.
const LINE_MAX: usize = 4096;

/// A connection to the launcher.
#[derive(Debug)]
pub(super) struct Pmi {
    socket: OwnedFd,
    /// Bytes received after the last line.
    received: Vec<u8>,
    /// Name of the store.
    name: String,
    key_max: usize,
    value_max: usize,
}

impl Pmi {
    /// Takes the socket that the environment names; `None` if it names none. `variable` returns the
    /// value of an environment variable.
    ///
    /// # Errors
    ///
    /// A descriptor that is no stream socket, or a launcher that wants to be connected to.
    pub(super) fn inherited(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<OwnedFd>, String> {
        let Some(text) = variable(DESCRIPTOR).filter(|text| !text.is_empty()) else {
            return match variable("PMI_PORT") {
                None => Ok(None),
                Some(_) => Err("the launcher offers PMI_PORT instead of PMI_FD, which is not \
                                supported: start mpiexec without -pmi-port"
                    .to_owned()),
            };
        };
        let failed =
            |cause: &str| format!("{DESCRIPTOR}={text:?} is no socket of a launcher: {cause}");
        let number = text.parse().map_err(|_| failed("not a number"))?;
        inherited::stream_socket(number).map(Some).map_err(|error| failed(&describe(&error)))
    }

    /// Opens the dialog.
    ///
    /// # Errors
    ///
    /// An answer that is missing or not understood; likewise of all other requests.
    pub(super) fn start(socket: OwnedFd) -> Result<Self, String> {
        let (received, name) = (Vec::new(), String::new());
        let mut pmi = Self { socket, received, name, key_max: usize::MAX, value_max: usize::MAX };
        let version = "cmd=init pmi_version=1 pmi_subversion=1";
        pmi.ask(version, "response_to_init", ANSWER_MAX)?;
        let maxes = pmi.ask("cmd=get_maxes", "maxes", ANSWER_MAX)?;
        let maximum = |key| match maxes.get(key).map(|value| value.parse::<usize>()) {
            Some(Ok(length)) => Ok(length.saturating_sub(1)), // Some count a final zero.
            _ => Err(format!("the launcher gives no {key}")),
        };
        (pmi.key_max, pmi.value_max) = (maximum("keylen_max")?, maximum("vallen_max")?);
        let mut name = pmi.ask("cmd=get_my_kvsname", "my_kvsname", ANSWER_MAX)?;
        pmi.name = name.remove("kvsname").ok_or("the launcher gives no kvsname")?;
        Ok(pmi)
    }

    /// Name of the store, which identifies the launch.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Length of the longest value.
    pub(super) fn value_max(&self) -> usize {
        self.value_max
    }

    /// Stores a value. Other processes see it after the next barrier.
    pub(super) fn put(&mut self, key: &str, value: &str) -> Result<(), String> {
        if key.len() > self.key_max || value.len() > self.value_max {
            return Err(format!(
                "the launcher stores keys of {} bytes and values of {}: too short",
                self.key_max, self.value_max
            ));
        }
        let request = format!("cmd=put kvsname={} key={key} value={value}", self.name);
        self.ask(&request, "put_result", ANSWER_MAX).map(drop)
    }

    /// Returns a value.
    pub(super) fn get(&mut self, key: &str) -> Result<String, String> {
        let request = format!("cmd=get kvsname={} key={key}", self.name);
        let mut answer = self.ask(&request, "get_result", ANSWER_MAX)?;
        answer.remove("value").ok_or_else(|| format!("the launcher gives no value of {key}"))
    }

    /// Waits until all processes of the launch are in the barrier.
    pub(super) fn barrier(&mut self, timeout: Duration) -> Result<(), String> {
        self.ask("cmd=barrier_in", "barrier_out", timeout).map(drop)
    }

    /// Ends the dialog. From here on the launcher takes any end of this process as intended.
    pub(super) fn finalize(mut self) -> Result<(), String> {
        self.ask("cmd=finalize", "finalize_ack", ANSWER_MAX).map(drop)
    }

    /// Sends a request, and returns the fields of the answer, which has to be this command.
    fn ask(
        &mut self,
        request: &str,
        command: &str,
        timeout: Duration,
    ) -> Result<HashMap<String, String>, String> {
        self.send(request).map_err(|error| format!("{request}: {}", describe(&error)))?;
        let line = self.line(timeout).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => format!("{request}: no answer within {timeout:?}"),
            io::ErrorKind::UnexpectedEof => format!("{request}: the launcher closed the socket"),
            io::ErrorKind::InvalidData => format!("{request}: the answer has no end"),
            _ => format!("{request}: {}", describe(&error)),
        })?;
        answer(&line, command).map_err(|cause| format!("{request}: {cause}"))
    }

    fn send(&self, request: &str) -> io::Result<()> {
        let line = format!("{request}\n");
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match write(&self.socket, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives a line.
    fn line(&mut self, timeout: Duration) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let mut line: Vec<u8> = self.received.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            if self.received.len() >= LINE_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("a timeout is less than 292 years");
            let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut sockets, Some(&left)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut buffer = [0; LINE_MAX];
            match read(&self.socket, &mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend(&buffer[..count]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Parses an answer, which has to be this command and to report success. Words that are not fields
/// are part of a message, and ignored.
fn answer(line: &[u8], command: &str) -> Result<HashMap<String, String>, String> {
    let shown = || {
        line.escape_ascii().take(200).fold(String::new(), |mut text, byte| {
            let _infallible = text.write_char(byte.into());
            text
        })
    };
    let text = str::from_utf8(line).ok().filter(|text| !text.contains(char::is_control));
    let Some(text) = text else { return Err(format!("answered {}", shown())) };
    let mut fields = HashMap::new();
    for (key, value) in text.split(' ').filter_map(|word| word.split_once('=')) {
        fields.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let success = fields.get("rc").is_none_or(|code| code == "0");
    match fields.get("cmd") {
        Some(answered) if answered == command && success => Ok(fields),
        _ => Err(format!("answered {}", shown())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::ranks::scripted_launcher::{self, DIALECTS};

    #[test]
    fn values_reach_all_processes_with_every_launcher() {
        for dialect in DIALECTS {
            let sockets = scripted_launcher::start(dialect, 3);
            let process = |(index, socket)| {
                move || -> Result<Vec<String>, String> {
                    let mut pmi = Pmi::start(socket)?;
                    pmi.put(&format!("key{index}"), &format!("value{index}"))?;
                    pmi.barrier(Duration::from_secs(60))?;
                    let values = (0..3).map(|other| pmi.get(&format!("key{other}"))).collect();
                    pmi.finalize()?;
                    values
                }
            };
            let threads: Vec<_> =
                sockets.into_iter().enumerate().map(process).map(thread::spawn).collect();
            for thread in threads {
                let values = thread.join().unwrap();
                assert_eq!(values.unwrap(), ["value0", "value1", "value2"], "{dialect:?}");
            }
        }
    }

    #[test]
    fn missing_value_is_an_error() {
        for dialect in DIALECTS {
            let mut pmi = Pmi::start(scripted_launcher::start(dialect, 1).remove(0)).unwrap();
            let error = pmi.get("nothing").unwrap_err();
            assert!(error.contains("get_result rc="), "{dialect:?}: {error}");
        }
    }

    #[test]
    fn keys_and_values_that_are_too_long_are_not_sent() {
        let mut pmi = Pmi::start(scripted_launcher::start(DIALECTS[0], 1).remove(0)).unwrap();
        assert!(pmi.put(&"k".repeat(64), "value").unwrap_err().contains("63 bytes"));
        assert!(pmi.put("key", &"v".repeat(1024)).unwrap_err().contains("values of 1023"));
    }

    /// A launcher that sends these bytes and closes the socket.
    fn after(bytes: &[u8]) -> Result<Pmi, String> {
        let (theirs, mut ours) = UnixStream::pair().unwrap();
        ours.write_all(bytes).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let pmi = Pmi::start(theirs.into());
        drop(ours);
        pmi
    }

    const INIT: &str = "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1\n";
    const MAXES: &str = "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024\n";

    #[test]
    fn misbehaving_launchers_are_errors() {
        let long = "x".repeat(3 * LINE_MAX);
        let long_line = format!("cmd=response_to_init rc=0 msg={long}\n");
        let no_name = format!("{INIT}{MAXES}cmd=my_kvsname\n");
        for (bytes, words) in [
            ("", "the launcher closed the socket"),
            ("cmd=response_to_init rc=0", "the launcher closed the socket"),
            ("\n", "answered "),
            ("\0\n", "answered \\x00"),
            ("\u{1b}[31m\n", "answered \\x1b[31m"),
            ("cmd=response_to_init rc=0\r\n", "answered cmd=response_to_init rc=0\\r"),
            ("rc=0\n", "answered rc=0"),
            ("cmd=finalize_ack rc=0\n", "answered cmd=finalize_ack"),
            ("cmd=response_to_init_ rc=0\n", "answered cmd=response_to_init_"),
            ("cmd=response_to_init rc=-1 msg=wrong version\n", "rc=-1 msg=wrong version"),
            ("cmd=response_to_init rc=\n", "answered cmd=response_to_init rc="),
            ("cmd=response_to_init rc=1 rc=0\n", "answered cmd=response_to_init rc=1"),
            (&long, "the answer has no end"),
            (&long_line, "the answer has no end"),
            (INIT, "get_maxes: the launcher closed the socket"),
            (&format!("{INIT}{INIT}"), "get_maxes: answered cmd=response_to_init"),
            (&format!("{INIT}cmd=maxes\n"), "no keylen_max"),
            (&format!("{INIT}cmd=maxes keylen_max=-1 vallen_max=9\n"), "no keylen_max"),
            (&format!("{INIT}cmd=maxes keylen_max=9 vallen_max=1e3\n"), "no vallen_max"),
            (&no_name, "no kvsname"),
        ] {
            let error = after(bytes.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{bytes:.60}: {error}");
            assert!(error.len() < 400 && !error.contains(char::is_control), "{error}");
        }
        let error = after(b"cmd=response_to_init rc=0 \xff\n").unwrap_err();
        assert!(error.contains("rc=0 \\xff"), "{error}");
    }

    #[test]
    fn lengths_of_zero_store_nothing() {
        let bytes =
            format!("{INIT}cmd=maxes keylen_max=0 vallen_max=0\ncmd=my_kvsname kvsname=x\n");
        let mut pmi = after(bytes.as_bytes()).unwrap();
        assert!(pmi.put("", "v").unwrap_err().contains("too short"));
    }

    #[test]
    fn answer_in_pieces_is_one_answer() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let launcher = thread::spawn(move || {
            let mut lines = BufReader::new(&ours).lines();
            for answer in [INIT, MAXES, "cmd=my_kvsname kvsname=x\n"] {
                lines.next().unwrap().unwrap();
                answer.bytes().for_each(|byte| (&ours).write_all(&[byte]).unwrap());
            }
        });
        assert_eq!(Pmi::start(theirs.into()).unwrap().name(), "x");
        launcher.join().unwrap();
    }

    #[test]
    fn barrier_that_is_never_complete_ends_with_the_timeout() {
        let sockets = scripted_launcher::start(DIALECTS[0], 2);
        let mut pmis: Vec<Pmi> =
            sockets.into_iter().map(|socket| Pmi::start(socket).unwrap()).collect();
        let error = pmis[0].barrier(Duration::from_millis(50)).unwrap_err();
        assert_eq!(error, "cmd=barrier_in: no answer within 50ms");
    }

    #[test]
    fn bytes_without_end_of_line_do_not_extend_the_timeout() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let pmi = || {
            let answers = format!("{INIT}{MAXES}cmd=my_kvsname kvsname=x\n");
            (&ours).write_all(answers.as_bytes()).unwrap();
            Pmi::start(theirs.into()).unwrap()
        };
        let mut pmi = pmi();
        thread::spawn(move || {
            while (&ours).write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let error = pmi.barrier(Duration::from_millis(100)).unwrap_err();
        assert!(error.contains("no answer within 100ms"), "{error}");
    }

    #[test]
    fn environment_names_a_socket_or_is_refused() {
        let inherited = |variables: &[(&str, &str)]| {
            Pmi::inherited(|name| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| value.to_string())
            })
        };
        assert!(inherited(&[]).unwrap().is_none());
        assert!(inherited(&[("PMI_FD", "")]).unwrap().is_none());
        let (socket, _other) = UnixStream::pair().unwrap();
        assert!(inherited(&[("PMI_FD", &socket.as_raw_fd().to_string())]).unwrap().is_some());
        for (variables, words) in [
            (&[("PMI_PORT", "vm:34180"), ("PMI_ID", "1")][..], "without -pmi-port"),
            (&[("PMI_FD", "x")], "not a number"),
            (&[("PMI_FD", "99999999999")], "not a number"),
            (&[("PMI_FD", "-1")], "EBADF"),
            (&[("PMI_FD", "1000000")], "EBADF"),
        ] {
            let error = inherited(variables).unwrap_err();
            assert!(error.contains(words), "{variables:?}: {error}");
        }
    }

    #[test]
    fn answers_of_any_bytes_are_parsed_or_refused() {
        fastrand::seed(14);
        let words: [&[u8]; 10] = [
            b"cmd=x", b"rc=0", b"rc=1", b"=", b" ", b"value=1", b"value=2", b"\xff", b"\x1b",
            b"cmd=y",
        ];
        for _ in 0..20_000 {
            let count = fastrand::usize(..6);
            let line: Vec<&[u8]> = (0..count).map(|_| words[fastrand::usize(..10)]).collect();
            let line = line.join(&b' ');
            let text = str::from_utf8(&line).unwrap_or("\x1b");
            let first = |key: &str| {
                text.split(' ').find_map(|word| word.strip_prefix(key)).map(str::to_owned)
            };
            let valid = !text.contains('\x1b')
                && first("cmd=").as_deref() == Some("x")
                && first("rc=").is_none_or(|code| code == "0");
            match answer(&line, "x") {
                Ok(fields) => {
                    assert!(valid, "{text}");
                    assert_eq!(fields.get("value").cloned(), first("value="));
                }
                Err(error) => assert!(!valid && !error.contains(char::is_control), "{text}"),
            }
        }
    }
}
