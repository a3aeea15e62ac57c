//! What is compared.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::{Latency, Record, format};

/// The fewest samples that have to lie above a percentile for it to be compared.
const SAMPLES_BEYOND: f64 = 10.0;

/// A number that every run has, or should have.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Processor time of the server, user and system, microseconds.
    ServerCpuUsPerExchange,
    /// Exchanges a second.
    ThroughputPerS,
    /// The median latency, nanoseconds: of the exchange, or with a planned rate of the response.
    P50Ns,
    /// The 99th percentile of it.
    P99Ns,
    /// The 99.9th percentile of it.
    P999Ns,
    /// Processor time of the load generator, user and system, microseconds.
    ClientCpuUsPerExchange,
}

impl Metric {
    /// All of them, in the order they are shown.
    pub const ALL: [Metric; 6] = [
        Metric::ServerCpuUsPerExchange,
        Metric::ThroughputPerS,
        Metric::P50Ns,
        Metric::P99Ns,
        Metric::P999Ns,
        Metric::ClientCpuUsPerExchange,
    ];

    /// What a run measured; absent what it could not, and a percentile with fewer than ten samples
    /// above it.
    pub fn of(self, record: &Record) -> Option<f64> {
        match self {
            Self::ServerCpuUsPerExchange => Some(record.server.as_ref()?.cpu_us_per_exchange),
            Self::ThroughputPerS => Some(record.throughput_per_s),
            Self::P50Ns => percentile(record, 0.5, |latency| latency.p50_ns),
            Self::P99Ns => percentile(record, 0.99, |latency| latency.p99_ns),
            Self::P999Ns => percentile(record, 0.999, |latency| latency.p999_ns),
            Self::ClientCpuUsPerExchange => Some(record.client.cpu_us_per_exchange),
        }
    }

    /// In a table; processor time is that of an exchange.
    pub fn label(self) -> &'static str {
        match self {
            Self::ServerCpuUsPerExchange => "server CPU",
            Self::ThroughputPerS => "throughput",
            Self::P50Ns => "p50",
            Self::P99Ns => "p99",
            Self::P999Ns => "p99.9",
            Self::ClientCpuUsPerExchange => "client CPU",
        }
    }

    /// In a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Self::ServerCpuUsPerExchange => "server CPU per exchange",
            Self::ClientCpuUsPerExchange => "client CPU per exchange",
            _ => self.label(),
        }
    }

    /// What a subject does with it, before the ratio.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::ServerCpuUsPerExchange | Self::ClientCpuUsPerExchange => "needs",
            Self::ThroughputPerS => "reaches",
            Self::P50Ns | Self::P99Ns | Self::P999Ns => "has",
        }
    }

    /// Whether it is time on a processor, which who waits for what does not change.
    pub(super) fn is_processor_time(self) -> bool {
        matches!(self, Self::ServerCpuUsPerExchange | Self::ClientCpuUsPerExchange)
    }

    /// A value for people, with its unit.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::ThroughputPerS => format::count(value) + "/s",
            Self::P50Ns | Self::P99Ns | Self::P999Ns => format::duration(value.round() as u64),
            Self::ServerCpuUsPerExchange | Self::ClientCpuUsPerExchange => {
                format::duration((value * 1e3).round() as u64)
            }
        }
    }
}

fn percentile(record: &Record, quantile: f64, value: fn(&Latency) -> u64) -> Option<f64> {
    let latency = record.latency.main()?;
    let beyond = latency.count as f64 * (1.0 - quantile);
    // Just not ten may be ten less a rounding error.
    (beyond > SAMPLES_BEYOND - 1e-6).then(|| value(latency) as f64)
}

/// Something for each metric; absent where there is nothing.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "each is the metric of its name")]
pub struct ByMetric<T> {
    pub server_cpu_us_per_exchange: Option<T>,
    pub throughput_per_s: Option<T>,
    pub p50_ns: Option<T>,
    pub p99_ns: Option<T>,
    pub p999_ns: Option<T>,
    pub client_cpu_us_per_exchange: Option<T>,
}

impl<T> ByMetric<T> {
    /// Takes for each metric what `value` gives.
    pub fn from_fn(mut value: impl FnMut(Metric) -> Option<T>) -> ByMetric<T> {
        ByMetric {
            server_cpu_us_per_exchange: value(Metric::ServerCpuUsPerExchange),
            throughput_per_s: value(Metric::ThroughputPerS),
            p50_ns: value(Metric::P50Ns),
            p99_ns: value(Metric::P99Ns),
            p999_ns: value(Metric::P999Ns),
            client_cpu_us_per_exchange: value(Metric::ClientCpuUsPerExchange),
        }
    }

    /// What there is for a metric.
    pub fn get(&self, metric: Metric) -> Option<&T> {
        match metric {
            Metric::ServerCpuUsPerExchange => self.server_cpu_us_per_exchange.as_ref(),
            Metric::ThroughputPerS => self.throughput_per_s.as_ref(),
            Metric::P50Ns => self.p50_ns.as_ref(),
            Metric::P99Ns => self.p99_ns.as_ref(),
            Metric::P999Ns => self.p999_ns.as_ref(),
            Metric::ClientCpuUsPerExchange => self.client_cpu_us_per_exchange.as_ref(),
        }
    }
}
