//! Latency distributions: HdrHistograms with their percentiles.

mod encoding;
mod statistic;

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

pub(crate) use encoding::COUNT_MAX;
pub use statistic::Statistic;

use crate::format;

/// Keys that may be lower bounds, with their quantiles.
const QUANTILES: [(&str, f64); 6] = [
    ("p50_ns", 0.5),
    ("p90_ns", 0.9),
    ("p99_ns", 0.99),
    ("p999_ns", 0.999),
    ("p9999_ns", 0.9999),
    ("max_ns", 1.0),
];

/// Latencies by what was timed; a key is absent if nothing was.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Latencies {
    /// Time from connect(2) to an established connection.
    pub connect: Option<Latency>,
    /// Time from the first send on a new connection to its whole reply.
    pub first_exchange: Option<Latency>,
    /// Time from a send in the measured window to the whole reply, however late. Closed loop only.
    pub exchange: Option<Latency>,
    /// Time from the planned instant to the whole reply, however late: what a user waits. This and
    /// the next two are of the requests planned in the measured window of an open loop.
    pub response: Option<Latency>,
    /// Time from the send to the whole reply.
    pub service: Option<Latency>,
    /// Time from the planned instant to the send. It includes the connect if each exchange has a
    /// connection of its own.
    pub lateness: Option<Latency>,
}

impl Latencies {
    /// The latency that a run is known by: the response of an open loop, the exchange of a closed
    /// one.
    pub fn main(&self) -> Option<&Latency> {
        self.response.as_ref().or(self.exchange.as_ref())
    }
}

/// One latency distribution, nanoseconds.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub count: u64,
    pub min_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub p9999_ns: u64,
    pub max_ns: u64,
    /// Number of values that are lower bounds: the time after which a request timed out, or that it
    /// had waited when the run ended. Absent if there are none.
    pub unanswered: Option<u64>,
    /// Keys of the numbers above that are lower bounds, such as `max_ns`: any value may lie among
    /// the unanswered requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lower_bounds: Vec<String>,
    /// Statistics that were asked for, such as `p95_ns`, `p9995_ns` or `mean_ns`.
    #[serde(flatten, deserialize_with = "asked")]
    pub asked: BTreeMap<String, u64>,
    /// The whole distribution: an HdrHistogram in the V2 format with DEFLATE, in base64, as the
    /// standard tools read it.
    pub hdr_v2: String,
}

/// Reads the statistics that were asked for, and ignores other keys that are not known.
fn asked<'de, D: serde::Deserializer<'de>>(keys: D) -> Result<BTreeMap<String, u64>, D::Error> {
    let keys = BTreeMap::<String, serde_json::Value>::deserialize(keys)?;
    let statistic = |(key, value): (String, serde_json::Value)| {
        Statistic::of_key(&key)?;
        Some((key, value.as_u64()?))
    };
    Ok(keys.into_iter().filter_map(statistic).collect())
}

impl Latency {
    /// Percentiles and encoding of a histogram of nanoseconds; `None` if it is empty.
    ///
    /// The values have the histogram's resolution: three digits mean up to 0.1 % above the
    /// sample. The minimum is rounded down and everything else up, so no latency is flattered.
    pub fn from_histogram(histogram: &Histogram<u64>) -> Option<Latency> {
        Self::with_unanswered(histogram, 0)
    }

    /// As [`from_histogram`](Self::from_histogram), of a histogram in which this many values are
    /// lower bounds.
    pub fn with_unanswered(histogram: &Histogram<u64>, unanswered: u64) -> Option<Latency> {
        if histogram.is_empty() {
            return None;
        }
        let mut payload = Vec::new();
        V2DeflateSerializer::new()
            .serialize(histogram, &mut payload)
            .expect("writing to memory succeeds, and no count exceeds the format's 63 bits");
        let mut latency = Latency {
            count: histogram.len(),
            min_ns: histogram.min(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            p9999_ns: histogram.value_at_quantile(0.9999),
            max_ns: histogram.max(),
            unanswered: Some(unanswered).filter(|&unanswered| unanswered > 0),
            lower_bounds: Vec::new(),
            asked: BTreeMap::new(),
            hdr_v2: BASE64_STANDARD.encode(&payload),
        };
        let keys = QUANTILES.iter().filter(|(_, quantile)| latency.is_lower_bound(*quantile));
        latency.lower_bounds = keys.map(|(key, _)| (*key).to_owned()).collect();
        Some(latency)
    }

    /// True if the value at this quantile is only a lower bound: it would be greater if the
    /// unanswered requests had taken longer than all others. The maximum is quantile 1.
    pub fn is_lower_bound(&self, quantile: f64) -> bool {
        let beyond = self.count - ((quantile * self.count as f64).ceil() as u64).min(self.count);
        self.unanswered.is_some_and(|unanswered| unanswered > beyond)
    }

    /// The value at this quantile as text: `5.01s`, or `>5.01s` if it is only a lower bound.
    pub fn shown(&self, quantile: f64, ns: u64) -> String {
        let mark = if self.is_lower_bound(quantile) { ">" } else { "" };
        mark.to_owned() + &format::duration(ns)
    }

    /// Adds statistics to those that each record has.
    #[must_use]
    pub fn with(mut self, statistics: &[Statistic]) -> Latency {
        let stated =
            |key: &str| key == "min_ns" || QUANTILES.iter().any(|(other, _)| *other == key);
        for &statistic in statistics {
            let key = statistic.key();
            if let (false, Some(value)) = (stated(&key), self.value(statistic)) {
                if self.is_lower_bound(statistic.share()) && !self.lower_bounds.contains(&key) {
                    self.lower_bounds.push(key.clone());
                }
                self.asked.insert(key, value);
            }
        }
        self
    }

    /// Decodes the whole distribution, nanoseconds.
    ///
    /// # Errors
    ///
    /// If `hdr_v2` is not base64, or not a histogram, or not one of `count` samples.
    pub fn histogram(&self) -> Result<Histogram<u64>, String> {
        let histogram = encoding::decode(&self.hdr_v2)?;
        if histogram.len() != self.count {
            let (held, stated) = (histogram.len(), self.count);
            return Err(format!("hdr_v2 holds {held} samples where the record states {stated}"));
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform() -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        for microseconds in 1..=10_000 {
            histogram.record(microseconds * 1000).unwrap();
        }
        histogram
    }

    #[test]
    fn empty_histogram_has_no_latency() {
        assert_eq!(Latency::from_histogram(&Histogram::new(3).unwrap()), None);
    }

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let latency = Latency::from_histogram(&uniform()).unwrap();
        assert_eq!(latency.count, 10_000);
        for (found, sample) in [
            (latency.p50_ns, 5_000_000),
            (latency.p90_ns, 9_000_000),
            (latency.p99_ns, 9_900_000),
            (latency.p999_ns, 9_990_000),
            (latency.p9999_ns, 9_999_000),
            (latency.max_ns, 10_000_000),
        ] {
            assert!((sample..=sample + sample / 1000).contains(&found), "{found} for {sample}");
        }
        assert!((999..=1000).contains(&latency.min_ns), "{}", latency.min_ns);
    }

    #[test]
    fn payload_holds_the_whole_histogram() {
        let latency = Latency::from_histogram(&uniform()).unwrap();
        let decoded = latency.histogram().unwrap();
        assert_eq!(decoded, uniform());
        assert_eq!(Latency::from_histogram(&decoded).unwrap(), latency);
    }

    #[test]
    fn single_sample_is_every_percentile() {
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record(7).unwrap();
        let latency = Latency::from_histogram(&histogram).unwrap();
        assert_eq!([latency.min_ns, latency.p50_ns, latency.p9999_ns, latency.max_ns], [7; 4]);
        assert_eq!(latency.histogram().unwrap(), histogram);
    }

    #[test]
    fn values_among_unanswered_requests_are_lower_bounds() {
        for (unanswered, bounds) in [
            (0, &[][..]),
            (1, &["max_ns"]),
            (2, &["p9999_ns", "max_ns"]),
            (11, &["p999_ns", "p9999_ns", "max_ns"]),
            (100, &["p999_ns", "p9999_ns", "max_ns"]),
            (101, &["p99_ns", "p999_ns", "p9999_ns", "max_ns"]),
            (5001, &["p50_ns", "p90_ns", "p99_ns", "p999_ns", "p9999_ns", "max_ns"]),
        ] {
            let latency = Latency::with_unanswered(&uniform(), unanswered).unwrap();
            assert_eq!(latency.lower_bounds, bounds, "{unanswered}");
            assert_eq!(latency.is_lower_bound(0.95), unanswered > 500);
            let mark = latency.shown(1.0, latency.max_ns).starts_with('>');
            assert_eq!(mark, unanswered > 0);
            let json = serde_json::to_value(&latency).unwrap();
            assert_eq!(json.get("unanswered").is_some(), unanswered > 0);
            assert_eq!(json.get("lower_bounds").is_some(), unanswered > 0);
        }
    }

    #[test]
    fn damaged_payload_is_an_error() {
        let good = Latency::from_histogram(&uniform()).unwrap();
        let error = |hdr_v2: &str, count| {
            let damaged = Latency { hdr_v2: hdr_v2.into(), count, ..good.clone() };
            damaged.histogram().unwrap_err()
        };
        assert!(error("not base64!", 1).starts_with("hdr_v2 is not base64: "));
        assert!(error("Zm9vYmFy", 1).starts_with("hdr_v2 is not a histogram: "));
        assert!(error("", 1).starts_with("hdr_v2 is not a histogram: "));
        let half = &good.hdr_v2[..good.hdr_v2.len() / 8 * 4];
        assert!(error(half, 10_000).starts_with("hdr_v2 is not a histogram: "));
        assert_eq!(
            error(&good.hdr_v2, 9_999),
            "hdr_v2 holds 10000 samples where the record states 9999"
        );
    }
}
