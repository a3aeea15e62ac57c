//! The metrics page of a server, in the text format of Prometheus: its counters and gauges, read
//! over HTTP.
//!
//! A page that is slow, long, truncated or no page at all is an error after at most [`PATIENCE`].

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lockstep_sys::address::{self, most_telling};
use lockstep_sys::cpus::{CpuList, parse_list};
use lockstep_sys::errno::describe;

use rustix::process::Pid;

use crate::machine::usage::{self, Usage};

/// Longest time for a page.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Largest page with its head, bytes.
const PAGE_MAX: usize = 8 << 20;

/// Largest number of lines in the head of a response.
const HEADERS_MAX: usize = 64;

/// Path of a page whose address has none.
const PATH: &str = "/metrics";

/// The sum of a process's user and system time, which every client library of Prometheus publishes.
const CPU: &str = "process_cpu_seconds_total";

/// Difference of a process's start in two readings that is no restart: client libraries compute it
/// from a boot time of whole seconds.
const SAME_START_S: f64 = 1.5;

/// Threads of a lockstep that serve no connection, but metrics, and wait for the end of standard
/// input.
const ASIDE: f64 = 2.0;

/// Address of a page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    /// Host and port.
    host: String,
    path: String,
}

impl Url {
    /// Parses `10.0.0.2:9100` or `http://10.0.0.2:9100/metrics`.
    ///
    /// # Errors
    ///
    /// The notation to use.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "write it as 10.0.0.2:9100 or http://10.0.0.2:9100/metrics".to_owned();
        if text.starts_with("https://") {
            return Err("https is not supported: give it an http:// address".to_owned());
        }
        let is_url = text.starts_with("http://");
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, PATH),
        };
        let plain = |c: char| c.is_ascii_graphic();
        if !rest.chars().all(plain) || host.contains(['@', '?', '#']) || path.contains('#') {
            return Err(wrong());
        }
        // Behind the last colon, unless it is one of `[::1]`.
        let has_port = host.rsplit(':').next().is_some_and(|port| !port.contains(']'));
        let has_port = has_port && host.contains(':');
        let host = match (has_port, is_url) {
            (true, _) => host.to_owned(),
            (false, true) if !host.is_empty() => format!("{host}:80"),
            (false, _) => return Err(wrong()),
        };
        let (name, port) = host.rsplit_once(':').unwrap_or_default();
        let open = name.contains(':') && !(name.starts_with('[') && name.ends_with(']'));
        if name.is_empty() || open || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        let path = if path == "/" && !is_url { PATH } else { path };
        Ok(Self { host, path: path.to_owned() })
    }

    /// The page at this address.
    pub(crate) fn at(addr: SocketAddr) -> Self {
        Self { host: addr.to_string(), path: PATH.to_owned() }
    }

    /// Looks up the addresses of its server.
    ///
    /// # Errors
    ///
    /// A text for the user with the cause.
    pub(crate) fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        address::resolve(&self.host).map_err(|error| {
            let cause = describe(&error);
            let cause = cause.trim_start_matches("failed to lookup address information: ");
            format!("cannot look up {}: {}", self.host, cause.to_lowercase())
        })
    }

    /// Reads the page from the first of these addresses that accepts, and returns that address.
    ///
    /// # Errors
    ///
    /// A text for the user with the cause: no answer within [`PATIENCE`], an answer that is not
    /// HTTP or no metrics page.
    pub(crate) fn read(&self, addrs: &[SocketAddr]) -> Result<(Reading, SocketAddr), String> {
        let deadline = Instant::now() + PATIENCE;
        let late = |error: io::Error| match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                format!("no answer within {} s", PATIENCE.as_secs())
            }
            _ => describe(&error),
        };
        let (mut stream, addr) = connect(addrs, deadline).map_err(late)?;
        let response = self.exchange(&mut stream, deadline).map_err(late)?;
        Ok((Reading::parse(body(&response)?)?, addr))
    }

    fn exchange(&self, stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
        // Version 1.0 has neither chunks nor connections that stay open.
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: {}\r\nAccept: text/plain;version=0.0.4\r\n\
             User-Agent: loadgen\r\nConnection: close\r\n\r\n",
            self.path, self.host
        );
        stream.set_write_timeout(Some(left(deadline)?))?;
        stream.write_all(request.as_bytes())?;
        let mut response = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            stream.set_read_timeout(Some(left(deadline)?))?;
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(response),
                Ok(count) => response.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A server may reset the connection behind its response.
                Err(error) if error.kind() == ErrorKind::ConnectionReset && is_whole(&response) => {
                    return Ok(response);
                }
                Err(error) => return Err(error),
            }
            if is_whole(&response) {
                return Ok(response);
            }
            if response.len() > PAGE_MAX {
                return Err(io::Error::other(format!("a page of more than {PAGE_MAX} bytes")));
            }
        }
    }
}

impl Display for Url {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host, self.path)
    }
}

/// Connects to the first address that accepts.
fn connect(addrs: &[SocketAddr], deadline: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    let mut errors = Vec::new();
    for &addr in addrs {
        match left(deadline).and_then(|left| TcpStream::connect_timeout(&addr, left)) {
            Ok(stream) => return Ok((stream, addr)),
            Err(error) => errors.push(error),
        }
    }
    Err(most_telling(errors).unwrap_or_else(|| ErrorKind::AddrNotAvailable.into()))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Length of the head of a response, and of its body if the head has it.
struct Head {
    length: usize,
    body: Option<usize>,
    status: u16,
    chunked: bool,
}

/// Parses the head of a response; `None` if it is not complete yet.
fn head(response: &[u8]) -> Result<Option<Head>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(response)? else { return Ok(None) };
    let value = |name: &str| {
        let mut headers = parsed.headers.iter();
        let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    Ok(Some(Head {
        length,
        body: value("content-length").and_then(|length| length.trim().parse().ok()),
        status: parsed.code.unwrap_or_default(),
        chunked: value("transfer-encoding").is_some(),
    }))
}

/// True if the response has the length that its head states, or has no head.
fn is_whole(response: &[u8]) -> bool {
    match head(response) {
        Ok(Some(head)) => head.body.is_some_and(|body| response.len() - head.length >= body),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// Returns the body of a response, all of which has been read.
fn body(response: &[u8]) -> Result<&str, String> {
    let not_http = "the answer is not HTTP";
    let head = head(response).ok().flatten().ok_or(not_http)?;
    if head.status != 200 {
        return Err(format!("the answer has status {}", head.status));
    }
    if head.chunked {
        return Err("the answer is encoded, though HTTP/1.0 was asked for".to_owned());
    }
    let body = &response[head.length..];
    let body = match head.body {
        Some(length) => body.get(..length).ok_or("the answer was cut off")?,
        None => body,
    };
    std::str::from_utf8(body).map_err(|_| "the answer is not text".to_owned())
}

/// Values of a page that concern the cost of the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    cpu_s: f64,
    user_s: Option<f64>,
    system_s: Option<f64>,
    context_switches: Option<f64>,
    exchanges: Option<f64>,
    received_bytes: Option<f64>,
    start_s: Option<f64>,
    threads: Option<f64>,
    shards: Option<f64>,
    syscalls: Option<f64>,
    /// Boot of its machine, and its process number.
    host: Option<(String, String)>,
    /// CPUs that the process may use.
    pub(crate) cpus: CpuList,
    /// Version and revision of a `lockstep`.
    pub(crate) build: Option<(String, String)>,
}

/// Usage of a server between two readings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    /// CPU time and context switches. Microseconds stand in place of ticks.
    pub(crate) usage: Usage,
    /// True if the CPU time is divided into user and system time.
    pub(crate) divided: bool,
    /// Exchanges that the server counted.
    pub(crate) exchanges: Option<f64>,
    /// System calls that it counted.
    pub(crate) syscalls: Option<f64>,
    /// Bytes that it received.
    pub(crate) received_bytes: Option<f64>,
    /// Number of its threads, and their CPUs.
    pub(crate) capacity: Option<(usize, CpuList)>,
}

impl Reading {
    /// Parses a page.
    ///
    /// # Errors
    ///
    /// A text for the user if the page does not have a CPU time.
    pub(crate) fn parse(page: &str) -> Result<Self, String> {
        let samples: Vec<Sample<'_>> = page.lines().filter_map(Sample::parse).collect();
        let sum = |name: &str| {
            let values = samples.iter().filter(|sample| sample.name == name);
            let sum = values.map(|sample| sample.value).reduce(|a, b| a + b);
            sum.filter(|sum| sum.is_finite() && *sum >= 0.0)
        };
        let label = |name: &str, key: &str| {
            samples.iter().filter(|sample| sample.name == name).find_map(|sample| sample.label(key))
        };
        let cpu_s = sum(CPU).ok_or_else(|| format!("the page does not have {CPU}"))?;
        Ok(Self {
            cpu_s,
            user_s: sum("process_user_cpu_seconds_total"),
            system_s: sum("process_system_cpu_seconds_total"),
            context_switches: sum("process_context_switches_total"),
            exchanges: sum("lockstep_exchanges_total"),
            received_bytes: sum("lockstep_received_bytes_total"),
            start_s: sum("process_start_time_seconds"),
            threads: sum("process_threads"),
            shards: sum("lockstep_shards"),
            syscalls: sum("lockstep_syscalls_total"),
            host: label("lockstep_host_info", "boot").zip(label("lockstep_host_info", "pid")),
            cpus: label("process_cpus_info", "list")
                .and_then(|list| parse_list(&list).ok())
                .unwrap_or_default(),
            build: label("lockstep_build_info", "version").map(|version| {
                (version, label("lockstep_build_info", "revision").unwrap_or_default())
            }),
        })
    }

    /// True if the server is known to run on this machine.
    pub(crate) fn is_here(&self) -> bool {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        self.host.as_ref().is_some_and(|(of_server, _)| of_server == boot.trim_end())
    }

    /// Number of its process, if this process can find it: both have the same process numbers.
    pub(crate) fn process_here(&self) -> Option<Pid> {
        let pid = Pid::from_raw(self.host.as_ref()?.1.parse().ok()?)?;
        let started = usage::started(pid)?;
        let same = (started - self.start_s?).abs() < SAME_START_S;
        (self.is_here() && same).then_some(pid)
    }

    /// Number of threads that serve connections.
    fn serving(&self) -> Option<f64> {
        let threads = self.threads?;
        Some(self.shards.map_or(threads, |shards| shards.max(threads - ASIDE)))
    }

    /// Checks that the server is a `lockstep` of this version.
    ///
    /// # Errors
    ///
    /// A text for the user with both versions.
    pub(crate) fn check_version(&self) -> Result<(), String> {
        const OWN: &str = env!("CARGO_PKG_VERSION");
        match &self.build {
            Some((version, _)) if version == OWN => Ok(()),
            Some((version, _)) => Err(format!("its version is {version}, that of loadgen {OWN}")),
            None => Err("it does not publish its version".to_owned()),
        }
    }

    /// Returns the usage from `before` to this reading.
    ///
    /// # Errors
    ///
    /// A text for the user if the readings are not of the same process.
    pub(crate) fn since(&self, before: &Self) -> Result<Difference, String> {
        // A lockstep publishes the instant exactly.
        let tolerance = if self.exchanges.is_some() { 0.0 } else { SAME_START_S };
        let restarted = both(self.start_s, before.start_s, |now, then| (now - then).abs())
            .is_some_and(|moved| moved > tolerance);
        let counters = [
            (Some(self.cpu_s), Some(before.cpu_s)),
            (self.exchanges, before.exchanges),
            (self.received_bytes, before.received_bytes),
            (self.context_switches, before.context_switches),
        ];
        let fell =
            counters.iter().any(|pair| matches!(pair, (Some(now), Some(then)) if now < then));
        if restarted || fell || self.build != before.build {
            return Err("the server was restarted in the measured window".to_owned());
        }
        if self.exchanges.is_some() != before.exchanges.is_some() {
            return Err("its page has other counters than before the window".to_owned());
        }
        let difference = |now, then| both(now, then, |now, then| f64::max(now - then, 0.0));
        let user_s = difference(self.user_s, before.user_s);
        let system_s = difference(self.system_s, before.system_s);
        let ticks = |seconds: Option<f64>| (seconds.unwrap_or_default() * 1e6).round() as u64;
        let known = !self.cpus.is_empty();
        Ok(Difference {
            usage: Usage {
                cpu_ns: ((self.cpu_s - before.cpu_s) * 1e9).round() as u64,
                user_ticks: ticks(user_s),
                system_ticks: ticks(system_s),
                children_ticks: 0,
                context_switches: difference(self.context_switches, before.context_switches)
                    .map(|switches| switches as u64),
                waited_ns: None,
            },
            divided: user_s.is_some() && system_s.is_some(),
            exchanges: difference(self.exchanges, before.exchanges),
            syscalls: difference(self.syscalls, before.syscalls),
            received_bytes: difference(self.received_bytes, before.received_bytes),
            capacity: self
                .serving()
                .filter(|_| known)
                .map(|threads| (threads as usize, self.cpus.clone())),
        })
    }
}

fn both(a: Option<f64>, b: Option<f64>, combined: impl Fn(f64, f64) -> f64) -> Option<f64> {
    a.zip(b).map(|(a, b)| combined(a, b))
}

/// A line of a page: a name, labels, and a value.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl<'a> Sample<'a> {
    /// Parses `name{key="value",...} 1.5 1700000000`; `None` for a comment, and what is malformed.
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                rest = rest.trim_start_matches([' ', '\t', ',']);
                if let Some(behind) = rest.strip_prefix('}') {
                    rest = behind;
                    break;
                }
                let (key, quoted) = rest.split_once("=\"")?;
                let (value, behind) = unquote(quoted)?;
                labels.push((key.trim(), value));
                rest = behind;
            }
        }
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { name, labels, value })
    }

    fn label(&self, key: &str) -> Option<String> {
        let found = self.labels.iter().find(|(name, _)| *name == key)?;
        Some(found.1.clone())
    }
}

/// Splits text behind an opening quote into the quoted text and the rest.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_urls() {
        for (text, shown) in [
            ("10.0.0.2:9100", "http://10.0.0.2:9100/metrics"),
            ("server:9100", "http://server:9100/metrics"),
            ("[::1]:9100", "http://[::1]:9100/metrics"),
            ("10.0.0.2:9100/", "http://10.0.0.2:9100/metrics"),
            ("10.0.0.2:9100/a/b?c=d", "http://10.0.0.2:9100/a/b?c=d"),
            ("http://10.0.0.2:9100", "http://10.0.0.2:9100/metrics"),
            ("http://10.0.0.2:9100/", "http://10.0.0.2:9100/"),
            ("http://server/stats", "http://server:80/stats"),
            ("http://[::1]", "http://[::1]:80/metrics"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "",
            "server",
            "[::1]",
            "http://",
            "http:///metrics",
            "https://a:1/",
            "a b:1",
            "u@a:1",
            "a:99999",
            "a:",
            ":1",
            "::1:9100",
            "http://a:b/",
            "a:1/x\r\nX: y",
            "a:1/#b",
            "ü:1",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn samples_of_a_page() {
        let sample = |line| Sample::parse(line).map(|it| (it.name, it.labels, it.value));
        let label = |key, value: &str| (key, value.to_owned());
        assert_eq!(sample("a 1.5"), Some(("a", vec![], 1.5)));
        assert_eq!(sample("  a\t1e3 1700000000"), Some(("a", vec![], 1000.0)));
        assert_eq!(sample("a{} 2"), Some(("a", vec![], 2.0)));
        assert_eq!(
            sample(r#"a{b="x y} \"\\\n",c = "d",} 3 # {trace="1"} 1"#).map(|it| it.1[0].clone()),
            Some(label("b", "x y} \"\\\n"))
        );
        assert_eq!(sample(r#"a{b="c", d="e"} +Inf"#).map(|it| it.2), Some(f64::INFINITY));
        for line in ["", "#", "# TYPE a counter", "a", "a{b=\"c 1", "a{b} 1", "a{b=\"c\" 1", "a x"]
        {
            assert_eq!(sample(line), None, "{line}");
        }
    }

    const PAGE: &str = "\
# HELP process_cpu_seconds_total CPU time
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 2.5
process_user_cpu_seconds_total 1
process_system_cpu_seconds_total 1.5
process_context_switches_total 70
process_start_time_seconds 1700000000.25
process_threads 3
process_cpus 3
process_cpus_info{list=\"0,2-3\"} 1
lockstep_shards 1
lockstep_build_info{version=\"0.1.0\",revision=\"abc\",backend=\"mio\",service=\"echo\"} 1
lockstep_exchanges_total 100
lockstep_received_bytes_total 6400
";

    #[test]
    fn difference_of_two_readings() {
        let before = Reading::parse(PAGE).unwrap();
        assert_eq!(before.build, Some(("0.1.0".to_owned(), "abc".to_owned())));
        let later = PAGE.replace("total 2.5", "total 2.75").replace("total 100", "total 1100");
        let later = later.replace("seconds_total 1\n", "seconds_total 1.05\n");
        let later = later.replace("seconds_total 1.5\n", "seconds_total 1.7\n");
        let difference = Reading::parse(&later).unwrap().since(&before).unwrap();
        assert_eq!(difference.usage.cpu_ns, 250_000_000);
        assert_eq!((difference.usage.user_ticks, difference.usage.system_ticks), (50_000, 200_000));
        assert_eq!(difference.usage.context_switches, Some(0));
        assert!(difference.divided);
        assert_eq!((difference.exchanges, difference.received_bytes), (Some(1000.0), Some(0.0)));
        assert_eq!(difference.capacity, Some((1, vec![0, 2, 3])));
    }

    #[test]
    fn versions_are_compared() {
        let own = PAGE.replace("0.1.0", env!("CARGO_PKG_VERSION"));
        assert_eq!(Reading::parse(&own).unwrap().check_version(), Ok(()));
        for other in [PAGE.replace("0.1.0", "0.0.9"), PAGE.replace("build_info", "info")] {
            let error = Reading::parse(&other).unwrap().check_version().unwrap_err();
            assert!(error.contains("version"), "{error}");
        }
    }

    #[test]
    fn page_of_any_client_library_has_the_sum() {
        let page = "process_cpu_seconds_total 1.25\nprocess_start_time_seconds 100\n";
        let before = Reading::parse(page).unwrap();
        let later = page.replace("1.25", "1.5").replace("100", "101");
        let difference = Reading::parse(&later).unwrap().since(&before).unwrap();
        assert_eq!(difference.usage.cpu_ns, 250_000_000);
        assert_eq!((difference.divided, difference.exchanges), (false, None));
        assert_eq!(difference.capacity, None);
        let workers =
            "process_cpu_seconds_total{pid=\"1\"} 1\nprocess_cpu_seconds_total{pid=\"2\"} 2";
        assert_eq!(Reading::parse(workers).unwrap().cpu_s, 3.0);
    }

    #[test]
    fn restarted_and_other_servers_are_noticed() {
        let before = Reading::parse(PAGE).unwrap();
        for (now, then, words) in [
            ("00.25", "00.26", "restarted"),
            ("total 100", "total 99", "restarted"),
            ("seconds_total 2.5", "seconds_total 2.4", "restarted"),
            ("total 70", "total 69", "restarted"),
            ("revision=\"abc\"", "revision=\"abd\"", "restarted"),
            ("lockstep_exchanges", "other_exchanges", "other counters"),
        ] {
            let error = Reading::parse(&PAGE.replace(now, then)).unwrap().since(&before);
            assert!(error.as_ref().is_err_and(|error| error.contains(words)), "{then}: {error:?}");
        }
    }

    #[test]
    fn page_without_cpu_time_is_refused() {
        for page in ["", "a 1", "process_cpu_seconds_total NaN", "process_cpu_seconds_total -1"] {
            assert!(Reading::parse(page).unwrap_err().contains(CPU), "{page}");
        }
    }

    #[test]
    fn responses_are_whole_or_refused() {
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        for (response, expected) in [
            (format!("{ok}abc"), Ok("abc")),
            (format!("{ok}abcd"), Ok("abc")),
            ("HTTP/1.0 200 OK\r\n\r\nabc".to_owned(), Ok("abc")),
            (format!("{ok}ab"), Err("cut off")),
            ("HTTP/1.1 404 Not Found\r\n\r\n".to_owned(), Err("status 404")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Err("encoded")),
            ("SSH-2.0-x\r\n".to_owned(), Err("not HTTP")),
            (String::new(), Err("not HTTP")),
            ("HTTP/1.1 200 OK\r\n".to_owned(), Err("not HTTP")),
        ] {
            match (body(response.as_bytes()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(words)) => assert!(found.contains(words), "{found}"),
                other => panic!("{response:?}: {other:?}"),
            }
        }
        assert!(is_whole(format!("{ok}abc").as_bytes()));
        assert!(!is_whole(format!("{ok}ab").as_bytes()));
        assert!(!is_whole(b"HTTP/1.0 200 OK\r\n\r\nabc") && is_whole(b"220 mail\r\n"));
        assert!(body(&[ok.as_bytes(), &[0xff, 0xfe, 0xfd]].concat()).is_err());
    }
}
