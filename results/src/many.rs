//! What a server costs with few connections and with many: to open them, to keep them, to use them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::text::{polling, printable, shorten, wrap};
use crate::{Document, Environment, ErrorCount, Header, Latencies, Latency, Subject, format};

/// Columns at most.
const WIDTH: usize = 100;

/// From so many connections on, what memory has grown by is theirs: with fewer it is a few pages
/// that a server takes anyway.
const MEMORY_CONNS_MIN: u32 = 1000;

/// A server at several numbers of connections, as its file holds it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Many {
    /// First keys of the file.
    #[serde(flatten)]
    pub header: Header,
    /// Whether a signal cut it short.
    pub interrupted: bool,
    /// Bytes in a request.
    pub size: u32,
    /// The generator's system calls: `epoll` or `io-uring`.
    pub engine: String,
    /// How both sides were to lie: `apart` or `steered`.
    pub placement: String,
    /// How long the servers poll before they sleep, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_spin_ns: Option<u64>,
    /// What was measured, in order.
    pub crowds: Vec<Crowd>,
    /// What could not be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<Omitted>,
    /// Where it ran.
    pub environment: Environment,
}

impl Document for Many {
    fn header(&self) -> &Header {
        &self.header
    }

    fn environment(&self) -> &Environment {
        &self.environment
    }

    fn stem(&self) -> String {
        "many".to_owned()
    }

    fn title(&self) -> String {
        "Few connections and many".to_owned()
    }

    fn text(&self) -> String {
        Many::text(self)
    }
}

/// A server and a number of connections that were left out, and why.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Omitted {
    /// The backend.
    pub backend: String,
    /// The connections.
    pub conns: u32,
    /// In words.
    pub reason: String,
}

/// So many connections to a server.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Crowd {
    /// The server; of several processes, each has so many shards.
    pub subject: Subject,
    /// Connections asked for.
    pub conns: u32,
    /// Processes of the server, which share its port.
    pub server_processes: u32,
    /// Processes of the generator.
    pub client_processes: u32,
    /// Processors of the server.
    pub server_cpus: String,
    /// Processors of the generator.
    pub client_cpus: String,
    /// What there was to say against it; see [`Record::invalid_reasons`](crate::Record).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid_reasons: Vec<String>,
    /// What a reader should know all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// From the first connect to the last connection's first reply, seconds. All are opened as fast
    /// as the server takes them, some hundreds at a time.
    pub opening_s: f64,
    /// Connections opened and served a second.
    pub opened_per_s: f64,
    /// The server's processor time for each connection meanwhile, microseconds; its first exchange
    /// is part of it.
    pub open_cpu_us_per_connection: f64,
    /// Connections that each server process has accepted.
    pub accepted: Vec<u64>,
    /// What the server's own memory has grown by while they were opened, all of them now idle,
    /// bytes: pages that no file backs (proc(5), `Anonymous` of `smaps_rollup`).
    pub server_memory_bytes: u64,
    /// What the kernel's memory has grown by likewise, bytes, for both ends and all that runs on the
    /// machine: `Slab`, `KernelStack` and `PageTables` of `/proc/meminfo`.
    pub kernel_memory_bytes: i64,
    /// What the kernel's buffers of TCP have grown by likewise, bytes: `mem` of
    /// `/proc/net/sockstat`, for both ends and the whole network namespace.
    pub tcp_memory_bytes: i64,
    /// Seconds of the closed loop before the measured window.
    pub warmup_s: f64,
    /// Seconds of the measured window, in which every connection sends its next request as soon as
    /// the reply is here.
    pub duration_s: f64,
    /// Exchanges completed in the window, each verified byte for byte.
    pub exchanges: u64,
    /// `exchanges / duration_s`.
    pub throughput_per_s: f64,
    /// The server's processor time in the window for each exchange, microseconds.
    pub server_cpu_us_per_exchange: f64,
    /// The generator's.
    pub client_cpu_us_per_exchange: f64,
    /// Whose processors were full: `server`, `client`, `both` or `neither`.
    pub limit: String,
    /// Connects, first exchanges, and exchanges in the window.
    pub latency: Latencies,
    /// Connections that never got a whole reply.
    pub unserved: u64,
    /// Failures, over the whole time.
    pub errors_total: u64,
    /// Why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorCount>,
}

impl Many {
    /// A line for each server and number of connections.
    pub fn text(&self) -> String {
        let spin = polling(self.server_spin_ns);
        let Self { size, placement, engine, .. } = self;
        let mut text =
            format!("{size} bytes a request, {placement}{spin}, generator on {engine}\n\n");
        let _ = writeln!(
            text,
            "{:<10} {:>6} {:>3} {:>8} {:>8} {:>7} {:>7} {:>9} {:>9} {:>8} {:>6} {:>6}",
            "server",
            "conns",
            "of",
            "opened/s",
            "CPU each",
            "memory",
            "kernel",
            "exch./s",
            "CPU/exch.",
            "p99",
            "limit",
            "failed",
        );
        for crowd in &self.crowds {
            text += &crowd.line();
        }
        text += "\nof: processes a side. CPU: the server's processor time, for each connection opened, or an \
                 exchange.\nmemory: the server's own for an idle connection. kernel: its for both ends, \
                 and for all else.\n";
        let said = |crowd: &Crowd, what: &str, texts: &[String]| {
            let who = format!("{} with {}", printable(&crowd.subject.name), crowd.conns);
            let lines = texts.iter().map(|said| format!("{what} {who}: {}", printable(said)));
            lines.collect::<Vec<_>>()
        };
        let mut notes = Vec::new();
        for crowd in &self.crowds {
            notes.extend(said(crowd, "INVALID", &crowd.invalid_reasons));
            notes.extend(said(crowd, "warning", &crowd.warnings));
            let errors = crowd.errors.iter().map(|error| {
                let errno = error.errno.as_deref().unwrap_or("-");
                format!("{} {errno} {}: {}", error.kind, error.count, error.first)
            });
            notes.extend(said(crowd, "failed", &errors.collect::<Vec<_>>()));
        }
        notes.extend(self.omitted.iter().map(|omitted| {
            let Omitted { backend, conns, reason } = omitted;
            format!("left out: {} with {conns}: {}", printable(backend), printable(reason))
        }));
        if self.interrupted {
            notes.push("interrupted: what is missing was not measured".to_owned());
        }
        for note in notes {
            text += &wrap(&note, WIDTH, 4);
            text.push('\n');
        }
        text
    }
}

impl Crowd {
    fn line(&self) -> String {
        let memory = |bytes: i64| match self.conns {
            MEMORY_CONNS_MIN.. => bytes_each(bytes, self.conns),
            _ => "-".to_owned(),
        };
        let p99 = self
            .latency
            .exchange
            .as_ref()
            .map_or_else(|| "-".to_owned(), |latency: &Latency| format::duration(latency.p99_ns));
        let cpu = |us: f64| match self.exchanges {
            0 => "-".to_owned(),
            _ => format::duration((us * 1e3) as u64),
        };
        format!(
            "{:<10} {:>6} {:>3} {:>8} {:>8} {:>7} {:>7} {:>9} {:>9} {:>8} {:>6} {:>6}\n",
            shorten(&printable(&self.subject.name), 10),
            self.conns,
            self.server_processes,
            format::count(self.opened_per_s.round()),
            format::duration((self.open_cpu_us_per_connection * 1e3) as u64),
            memory(self.server_memory_bytes as i64),
            memory(self.kernel_memory_bytes),
            format::count(self.throughput_per_s.round()),
            cpu(self.server_cpu_us_per_exchange),
            p99,
            if self.invalid_reasons.is_empty() { &self.limit } else { "INVALID" },
            self.errors_total.max(self.unserved),
        )
    }
}

/// What each connection takes, in bytes, or from ten thousand on in KiB.
fn bytes_each(bytes: i64, conns: u32) -> String {
    match bytes / i64::from(conns) {
        each @ 10_000.. => format!("{}KiB", each / 1024),
        each => format!("{each}B"),
    }
}
