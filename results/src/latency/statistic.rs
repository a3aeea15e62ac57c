//! Statistics of a latency that a user may ask for, and the interval in which the samples put them.

use std::fmt;
use std::str::FromStr;

use super::Latency;
use crate::statistics::{ranks, samples_needed};
use crate::{format, text};

/// Confidence of [`Latency::bounds`].
const CONFIDENCE: f64 = 0.99;

/// Parts of a percent that a percentile is counted in.
const PARTS: u32 = 10_000;

/// Statistic of a latency, written `min`, `mean`, `max`, or as a percentile such as `p99.9`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Statistic {
    /// Minimum.
    Min,
    /// Arithmetic mean.
    Mean,
    /// Percentile, in ten-thousandths of a percent.
    Percentile(u32),
    /// Maximum.
    Max,
}

impl Statistic {
    /// The 99th percentile.
    pub(crate) const P99: Self = Self::Percentile(99 * PARTS);
}

impl FromStr for Statistic {
    type Err = String;

    /// Parses `mean` or `p99.9`.
    ///
    /// # Errors
    ///
    /// The notation to use.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "min" => Ok(Self::Min),
            "mean" => Ok(Self::Mean),
            "max" => Ok(Self::Max),
            _ => text
                .strip_prefix('p')
                .and_then(percentile)
                .ok_or_else(|| "write mean, min, max or p1 to p99.9999".to_owned()),
        }
    }
}

/// Parses `95` or `99.9`. Decimals below 10 would make the keys of p99 and p9.9 the same.
fn percentile(text: &str) -> Option<Statistic> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let fits = digits(whole) && digits(decimals) && whole.len() <= 2 && decimals.len() <= 4;
    let parts = format!("{decimals:0<4}").parse::<u32>().ok().filter(|_| fits)?;
    let whole = whole.parse::<u32>().ok()?;
    let valid = whole >= 10 || (whole >= 1 && parts == 0);
    valid.then_some(Statistic::Percentile(whole * PARTS + parts))
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Min => f.write_str("min"),
            Self::Mean => f.write_str("mean"),
            Self::Max => f.write_str("max"),
            Self::Percentile(parts) => write!(f, "p{}", f64::from(*parts) / f64::from(PARTS)),
        }
    }
}

impl Statistic {
    /// Key in a record: `p95_ns`, `p9995_ns`.
    pub fn key(self) -> String {
        self.to_string().replace('.', "") + "_ns"
    }

    /// Statistic of a [key](Self::key).
    pub fn of_key(key: &str) -> Option<Self> {
        let name = key.strip_suffix("_ns")?;
        let digits = name.strip_prefix('p').filter(|digits| digits.len() > 2 && digits.is_ascii());
        let dotted = digits.map(|digits| format!("p{}.{}", &digits[..2], &digits[2..]));
        let found: Self = dotted.as_deref().unwrap_or(name).parse().ok()?;
        (found.key() == key).then_some(found)
    }

    /// Share of the samples below a percentile.
    pub fn quantile(self) -> Option<f64> {
        match self {
            Self::Percentile(parts) => Some(f64::from(parts) / (100.0 * f64::from(PARTS))),
            _ => None,
        }
    }

    /// Largest share of the samples that the value depends on.
    pub(crate) fn share(self) -> f64 {
        match self {
            Self::Min => 0.0,
            Self::Mean | Self::Max => 1.0,
            Self::Percentile(_) => self.quantile().unwrap_or(1.0),
        }
    }

    /// Fewest samples that bound a percentile on both sides; 1 for other statistics.
    pub fn samples_needed(self) -> u64 {
        self.quantile().map_or(1, |quantile| samples_needed(quantile, CONFIDENCE))
    }
}

impl Latency {
    /// Value of a statistic, nanoseconds; `None` if the distribution is damaged.
    pub fn value(&self, statistic: Statistic) -> Option<u64> {
        let quantile = match statistic {
            Statistic::Min => return Some(self.min_ns),
            Statistic::Max => return Some(self.max_ns),
            Statistic::Mean => return Some(self.histogram().ok()?.mean().round() as u64),
            Statistic::Percentile(50_0000) => return Some(self.p50_ns),
            Statistic::Percentile(90_0000) => return Some(self.p90_ns),
            Statistic::Percentile(99_0000) => return Some(self.p99_ns),
            Statistic::Percentile(99_9000) => return Some(self.p999_ns),
            Statistic::Percentile(99_9900) => return Some(self.p9999_ns),
            Statistic::Percentile(_) => statistic.quantile()?,
        };
        Some(self.histogram().ok()?.value_at_quantile(quantile))
    }

    /// True if a sample lies beyond a statistic; always for minimum, mean and maximum. Otherwise a
    /// percentile is the maximum under another name.
    pub fn is_beyond(&self, statistic: Statistic) -> bool {
        let beyond = |quantile: f64| (self.count as f64 * (1.0 - quantile)).round() >= 1.0;
        statistic.quantile().is_none_or(beyond)
    }

    /// Interval in which the samples put a percentile of the server, nanoseconds, with a confidence
    /// of 99 %. An end that too few samples lie beyond, or that is a request without a reply, is
    /// zero or infinite. Minimum, mean and maximum are those of the run itself: both ends are the
    /// value, unless it is a lower bound.
    pub fn bounds(&self, statistic: Statistic) -> Option<(f64, f64)> {
        let Some(quantile) = statistic.quantile() else {
            let value = self.value(statistic)? as f64;
            let open = self.is_lower_bound(statistic.share());
            return Some((value, if open { f64::INFINITY } else { value }));
        };
        let histogram = self.histogram().ok()?;
        let at = |rank: u64| {
            let mut passed = 0;
            histogram.iter_recorded().find_map(|value| {
                passed += value.count_since_last_iteration();
                let found = histogram.highest_equivalent(value.value_iterated_to());
                (passed >= rank).then_some(found as f64)
            })
        };
        let (low, high) = ranks(self.count, quantile, CONFIDENCE);
        let replied = self.count.saturating_sub(self.unanswered.unwrap_or(0));
        let high = high.filter(|&rank| rank <= replied).and_then(at).unwrap_or(f64::INFINITY);
        Some((low.and_then(at).unwrap_or(0.0), high))
    }

    /// Reason why the samples do not decide a condition on a statistic.
    pub fn undecided(&self, statistic: Statistic) -> String {
        let (samples, needed) = (text::plural(self.count, "sample"), statistic.samples_needed());
        if self.count < needed {
            let needed = text::grouped(needed);
            return format!("{samples} do not bound {statistic}, which takes {needed}");
        }
        let (low, high) = self.bounds(statistic).unwrap_or_default();
        let low = format::duration(low as u64);
        match self.unanswered {
            Some(unanswered) if high == f64::INFINITY => {
                let requests = text::plural(unanswered, "request");
                format!("{statistic} is at least {low}, and {requests} had no reply")
            }
            _ => {
                let high = format::duration(high as u64);
                format!("{samples} put {statistic} between {low} and {high}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    fn statistic(text: &str) -> Statistic {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn latency(values: impl IntoIterator<Item = u64>) -> Latency {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        Latency::from_histogram(&histogram).unwrap()
    }

    #[test]
    fn names_and_keys_belong_together() {
        for (text, name, key) in [
            ("p50", "p50", "p50_ns"),
            ("p95", "p95", "p95_ns"),
            ("p99.90", "p99.9", "p999_ns"),
            ("p99.95", "p99.95", "p9995_ns"),
            ("p99.9999", "p99.9999", "p999999_ns"),
            ("p12.5", "p12.5", "p125_ns"),
            ("p5", "p5", "p5_ns"),
            ("mean", "mean", "mean_ns"),
            ("max", "max", "max_ns"),
        ] {
            let found = statistic(text);
            assert_eq!((found.to_string().as_str(), found.key().as_str()), (name, key));
            assert_eq!(Statistic::of_key(key), Some(found), "{key}");
        }
        for key in ["count", "hdr_v2", "p_ns", "p0_ns", "p990_ns", "p99", "median_ns", "95_ns"] {
            assert_eq!(Statistic::of_key(key), None, "{key}");
        }
    }

    /// Keys of all percentiles with up to two decimals.
    #[test]
    fn keys_are_unique() {
        let all = (1..10).map(|whole| whole * PARTS);
        let all: Vec<u32> = all.chain((1000..10_000).map(|parts| parts * 100)).collect();
        let keys: std::collections::BTreeSet<String> =
            all.iter().map(|&parts| Statistic::Percentile(parts).key()).collect();
        assert_eq!(keys.len(), all.len());
    }

    #[test]
    fn what_is_no_percentile_is_refused() {
        for text in [
            "",
            "p",
            "p0",
            "p0.1",
            "p9.9",
            "p100",
            "p99.",
            "p.9",
            "p99.99999",
            "p-1",
            "p1e1",
            "p+9",
            "95",
            "median",
            "p99.9.9",
            "pp99",
            "p99 ",
        ] {
            assert!(text.parse::<Statistic>().is_err(), "{text}");
        }
    }

    #[test]
    fn value_is_that_of_the_samples() {
        let latency = latency((1..=10_000).map(|microseconds| microseconds * 1000));
        for (text, expected) in
            [("min", 1e3), ("mean", 5e6), ("p75", 7.5e6), ("p99.95", 9.995e6), ("max", 1e7)]
        {
            let found = latency.value(statistic(text)).unwrap() as f64;
            assert!((found / expected - 1.0).abs() < 2e-3, "{text}: {found}");
        }
        for (text, stated) in [("p50", latency.p50_ns), ("p99.99", latency.p9999_ns)] {
            assert_eq!(latency.value(statistic(text)), Some(stated));
            let decoded = latency.histogram().unwrap();
            let quantile = statistic(text).quantile().unwrap();
            assert_eq!(decoded.value_at_quantile(quantile), stated, "{text}");
        }
    }

    #[test]
    fn bounds_of_few_samples_are_open() {
        let same = latency([5_000_000; 20]);
        let near = |found: f64| (found / 5e6 - 1.0).abs() < 1e-3;
        let (low, high) = same.bounds(statistic("p50")).unwrap();
        assert!(near(low) && near(high), "{low} {high}");
        // All are as slow, so hardly any percentile from p80 on is lower; it may be higher.
        let (low, high) = same.bounds(statistic("p99.99")).unwrap();
        assert!(near(low) && high == f64::INFINITY, "{low} {high}");
        let (low, high) = latency([5_000_000; 3]).bounds(statistic("p50")).unwrap();
        assert_eq!((low, high), (0.0, f64::INFINITY));
        let (low, high) = latency([7]).bounds(statistic("max")).unwrap();
        assert_eq!((low, high), (7.0, 7.0));
    }

    /// The exact ranks are tested beside [`ranks`].
    #[test]
    fn bounds_contain_the_percentile_of_many_samples() {
        let latency = latency((1..=100_000).map(|i| i * 1000));
        for text in ["p1", "p50", "p75", "p99", "p99.9"] {
            let value = latency.value(statistic(text)).unwrap() as f64;
            let (low, high) = latency.bounds(statistic(text)).unwrap();
            assert!(low <= value && value <= high, "{text}: {low} {value} {high}");
            assert!(high - low < 0.01 * 100e6, "{text}: {low} {high}");
        }
    }

    #[test]
    fn requests_without_a_reply_leave_the_upper_end_open() {
        let histogram = latency(vec![5_000_000; 1000]).histogram().unwrap();
        let some = Latency::with_unanswered(&histogram, 5).unwrap();
        let open = |text: &str| some.bounds(statistic(text)).unwrap().1 == f64::INFINITY;
        assert_eq!(
            ["p50", "p90", "p99", "mean", "max", "min"].map(open),
            [false, false, true, true, true, false]
        );
        let said = some.undecided(statistic("p99"));
        assert_eq!(said, "p99 is at least 5.00ms, and 5 requests had no reply");
        let asked = ["p75", "p99.95", "mean", "p99", "p75"].map(statistic);
        let with = some.clone().with(&asked);
        let keys: Vec<&String> = with.asked.keys().collect();
        assert_eq!(keys, ["mean_ns", "p75_ns", "p9995_ns"], "beside the fixed ones");
        let more = &with.lower_bounds[some.lower_bounds.len()..];
        assert_eq!(more, ["p9995_ns", "mean_ns"]);
    }

    #[test]
    fn statistics_asked_for_are_keys_beside_the_others() {
        let latency = latency((1..=100).map(|i| i * 1000)).with(&["p75", "mean"].map(statistic));
        let mut json = serde_json::to_value(&latency).unwrap();
        assert_eq!((&json["p75_ns"], &json["mean_ns"]), (&75_007.into(), &50_504.into()));
        json["unheard_of"] = "text".into();
        assert_eq!(serde_json::from_value::<Latency>(json).unwrap(), latency);
    }

    #[test]
    fn reason_names_samples_had_and_needed() {
        let few = latency([5_000_000; 20]);
        assert_eq!(
            few.undecided(statistic("p99.99")),
            "20 samples do not bound p99.99, which takes 52,981"
        );
        let enough = latency((1..=1000).map(|i| i * 1000));
        let said = enough.undecided(statistic("p99"));
        assert!(said.starts_with("1,000 samples put p99 between 98"), "{said}");
    }
}
