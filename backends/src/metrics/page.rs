//! The text of `/metrics`: what a reading contains, and its names.

use std::fmt;

use lockstep_core::Cause;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use lockstep_sys::cpus::format_list;
use lockstep_sys::tcp::AcceptQueue;

use crate::Stats;

/// Content type of the text.
pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Everything that the page shows, at one instant.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) backend: &'static str,
    pub(super) service: &'static str,
    pub(super) shards: usize,
    /// Counts of the server; those that are not published are zero.
    pub(super) stats: Stats,
    pub(super) connections: usize,
    /// The accept queues of all shards together; `None` if they cannot be read.
    pub(super) accept_queue: Option<AcceptQueue>,
    pub(super) process: Process,
}

/// The process, as the kernel accounts for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_ns: u64,
    pub(super) user_us: u64,
    pub(super) system_us: u64,
    pub(super) context_switches: u64,
    /// CPUs that the shards may use.
    pub(super) cpus: Vec<usize>,
    /// Identifier of the boot.
    pub(super) boot: Option<String>,
    pub(super) start_time: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) descriptors: Option<u64>,
}

impl Reading {
    /// Returns the text.
    pub(super) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("a string can be written to");
        text
    }
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let page = &mut Page(encoder);
        let Self { stats, process, .. } = self;
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("revision", option_env!("LOCKSTEP_BUILD_GIT_REVISION").unwrap_or_default()),
            ("backend", self.backend),
            ("service", self.service),
        ];
        page.info("lockstep_build", "Version of the server, and what it runs", &build)?;
        page.counter("lockstep_exchanges", "Requests answered in full", stats.exchanges)?;
        page.counter("lockstep_received_bytes", "Bytes of requests", stats.bytes_received)?;
        page.counter("lockstep_sent_bytes", "Bytes of replies", stats.bytes_sent)?;
        let accepted = "Connections taken from the accept queue";
        page.counter("lockstep_accepted", accepted, stats.accepted)?;
        let open = "Open connections, with those that wait for the client to close";
        page.gauge("lockstep_connections", open, self.connections as u64)?;
        let closed = Cause::ALL.map(|cause| (cause.name(), stats.closed.count(cause)));
        page.counters("lockstep_closed", "Connections ended, by cause", "cause", &closed)?;
        let syscalls = "System calls made to accept, wait, receive, send and close";
        page.counter("lockstep_syscalls", syscalls, stats.syscalls)?;
        if let Some(AcceptQueue { waiting, limit }) = self.accept_queue {
            let help = "Connections in the accept queues of all shards";
            page.gauge("lockstep_accept_queue", help, waiting)?;
            let help = "Limit of the accept queues of all shards together";
            page.gauge("lockstep_accept_queue_limit", help, limit)?;
        }
        let shards = "Threads with a listener each";
        page.gauge("lockstep_shards", shards, self.shards as u64)?;
        page.process(process)
    }
}

/// Encoder of metrics, one after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn process(&mut self, process: &Process) -> fmt::Result {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let cpu = process.cpu_ns as f64 / 1e9;
        self.counter("process_cpu_seconds", "CPU time of the process", cpu)?;
        let (user, system) = (seconds(process.user_us), seconds(process.system_us));
        self.counter("process_user_cpu_seconds", "CPU time in user mode", user)?;
        self.counter("process_system_cpu_seconds", "CPU time in the kernel", system)?;
        let switches = "Voluntary and involuntary context switches, of threads that ended as well";
        self.counter("process_context_switches", switches, process.context_switches)?;
        let cpus = "CPUs that the shards may use";
        self.gauge("process_cpus", cpus, process.cpus.len() as u64)?;
        let list = format_list(&process.cpus);
        self.info(
            "process_cpus",
            "List of the CPUs that the shards may use",
            &[("list", list.as_str())],
        )?;
        if let Some(time) = process.start_time {
            self.gauge("process_start_time_seconds", "Start of the process since 1970", time)?;
        }
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", process.resident_bytes),
            ("process_open_fds", "Open descriptors", process.descriptors),
            ("process_threads", "Threads, with the one that serves metrics", process.threads),
        ] {
            if let Some(value) = value {
                self.gauge(name, help, value)?;
            }
        }
        if let Some(boot) = &process.boot {
            let pid = std::process::id().to_string();
            let help =
                "Boot of the machine, in /proc/sys/kernel/random/boot_id, and process number";
            self.info("lockstep_host", help, &[("boot", boot.as_str()), ("pid", pid.as_str())])?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    /// A counter for each value of `label`.
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[(&str, u64)],
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.iter().try_for_each(|(value, count)| {
            let labels = [(label, *value)];
            ConstCounter::new(*count).encode(encoder.encode_family(&labels)?)
        })
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        encoder.encode_info(&labels)
    }
}
