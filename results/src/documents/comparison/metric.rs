//! Metrics that are compared.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::{Latency, Record, format};

/// Fewest samples above a percentile for it to be compared.
const SAMPLES_BEYOND: f64 = 10.0;

/// A metric of a run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Server CPU time for an exchange, user and system, microseconds.
    ServerCpuUsPerExchange,
    /// Exchanges a second.
    ThroughputPerS,
    /// Median of the [main latency](crate::Latencies::main), nanoseconds.
    P50Ns,
    /// Its 99th percentile.
    P99Ns,
    /// Its 99.9th percentile.
    P999Ns,
    /// CPU time of the load generator for an exchange, user and system, microseconds.
    ClientCpuUsPerExchange,
}

impl Metric {
    /// All metrics, in the order they are shown.
    pub const ALL: [Metric; 6] = [
        Metric::ServerCpuUsPerExchange,
        Metric::ThroughputPerS,
        Metric::P50Ns,
        Metric::P99Ns,
        Metric::P999Ns,
        Metric::ClientCpuUsPerExchange,
    ];

    /// Value of a run; `None` if it was not measured, and for a percentile with fewer than ten
    /// samples above it.
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

    /// Label in a table; CPU time is for an exchange.
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

    /// Name in a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Self::ServerCpuUsPerExchange => "server CPU per exchange",
            Self::ClientCpuUsPerExchange => "client CPU per exchange",
            _ => self.label(),
        }
    }

    /// Verb of a sentence about a subject.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::ServerCpuUsPerExchange | Self::ClientCpuUsPerExchange => "needs",
            Self::ThroughputPerS => "reaches",
            Self::P50Ns | Self::P99Ns | Self::P999Ns => "has",
        }
    }

    /// True if it is CPU time, which does not depend on waiting.
    pub(super) fn is_cpu_time(self) -> bool {
        matches!(self, Self::ServerCpuUsPerExchange | Self::ClientCpuUsPerExchange)
    }

    /// Value with its unit.
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
    // Ten may be computed as ten less a rounding error.
    let known = beyond > SAMPLES_BEYOND - 1e-6 && !latency.is_lower_bound(quantile);
    known.then(|| value(latency) as f64)
}

/// A value for each metric; absent if there is none.
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
    /// Takes the result of `value` for each metric.
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

    /// Value for a metric.
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
