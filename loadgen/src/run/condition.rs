//! Conditions on a run's numbers, written as `p99>5ms`: a metric, a comparison, and a limit in the
//! metric's unit. The caller decides whether a condition is wanted or unwanted.

use std::fmt;
use std::str::FromStr;

use lockstep_results::{Cost, Latency, Record, Statistic};

use lockstep_sys::units;

/// Condition on a run's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    expression: String,
    metric: Metric,
    comparison: Comparison,
    limit: f64,
}

/// Metric of a condition. Values are in nanoseconds, exchanges per second, failures, or shares of
/// one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Metric {
    /// Statistic of a latency; `None` is the response of an open loop, else the exchange.
    Latency(Option<&'static str>, Statistic),
    Throughput,
    Errors,
    ErrorRate,
    ServerCpu,
    ClientCpu,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// Verdict of a run's numbers on a condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The condition is true.
    True,
    /// The condition is false.
    False,
    /// The samples are too few to tell; the reason.
    Undecided(String),
    /// The metric was not measured.
    Unmeasured,
}

/// The longer of two with the same beginning comes first.
const COMPARISONS: [(&str, Comparison); 4] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    (">", Comparison::Above),
    ("<", Comparison::Below),
];

const LATENCIES: [&str; 6] =
    ["connect", "first_exchange", "exchange", "response", "service", "lateness"];

const OTHERS: [(&str, Metric); 5] = [
    ("throughput", Metric::Throughput),
    ("errors", Metric::Errors),
    ("error_rate", Metric::ErrorRate),
    ("server_cpu", Metric::ServerCpu),
    ("client_cpu", Metric::ClientCpu),
];

impl FromStr for Condition {
    type Err = String;

    /// Parses `p99>5ms`, `service.p99.9 <= 300us`, `throughput<50k` or `error_rate>0.1%`.
    ///
    /// # Errors
    ///
    /// Names the malformed part.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = COMPARISONS.iter().find_map(|&(sign, comparison)| {
            let (metric, limit) = text.split_once(sign)?;
            Some((metric.trim(), comparison, limit.trim()))
        });
        let (name, comparison, limit) = found.ok_or("write it as p99>5ms")?;
        let metric = Metric::parse(name)?;
        let limit = metric.limit(limit).map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { expression: text.trim().to_owned(), metric, comparison, limit })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expression)
    }
}

impl Condition {
    /// Value of the metric in a run: nanoseconds, exchanges per second, failures, or a share of
    /// one; `None` if it was not measured.
    pub fn value(&self, record: &Record) -> Option<f64> {
        self.metric.value(record)
    }

    /// Judges a run. A percentile is judged by the interval in which the samples put it: the
    /// condition is decided if it is the same at both ends.
    pub fn judge(&self, record: &Record) -> Verdict {
        let Some(value) = self.value(record) else { return Verdict::Unmeasured };
        let (low, high) = self.metric.bounds(record).unwrap_or((value, value));
        match (self.is_met_by(low), self.is_met_by(high)) {
            (true, true) => Verdict::True,
            (false, false) => Verdict::False,
            _ => Verdict::Undecided(self.metric.undecided(record).unwrap_or_default()),
        }
    }

    /// True if the condition asks for little latency, cost or failures, or for much throughput.
    pub fn is_objective(&self) -> bool {
        let upper = matches!(self.comparison, Comparison::Below | Comparison::AtMost);
        upper != (self.metric == Metric::Throughput)
    }

    /// Fewest samples that a percentile of the condition takes; 1 for other metrics.
    pub fn samples_needed(&self) -> u64 {
        match self.metric {
            Metric::Latency(_, statistic) => statistic.samples_needed(),
            _ => 1,
        }
    }

    /// True if the value meets the condition.
    fn is_met_by(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
        }
    }
}

impl Metric {
    fn parse(name: &str) -> Result<Self, String> {
        if let Some(&(_, metric)) = OTHERS.iter().find(|(other, _)| *other == name) {
            return Ok(metric);
        }
        let prefixed = name.split_once('.').and_then(|(prefix, statistic)| {
            let latency = LATENCIES.iter().find(|&&latency| latency == prefix)?;
            Some((Some(*latency), statistic))
        });
        let (latency, statistic) = prefixed.unwrap_or((None, name));
        match statistic.parse() {
            Ok(statistic) => Ok(Self::Latency(latency, statistic)),
            Err(error) => Err(format!("unknown metric {name:?}; of a latency: {error}")),
        }
    }

    fn limit(self, text: &str) -> Result<f64, String> {
        match self {
            Self::Latency(..) | Self::ServerCpu | Self::ClientCpu => {
                Ok(units::duration(text)?.as_nanos() as f64)
            }
            Self::Throughput => units::rate(text),
            Self::Errors => Ok(units::count(text)? as f64),
            Self::ErrorRate => units::share(text),
        }
    }

    fn value(self, record: &Record) -> Option<f64> {
        let cpu_ns = |cost: &Cost| cost.cpu_us_per_exchange * 1e3;
        match self {
            Self::Latency(latency, statistic) => {
                of(record, latency)?.value(statistic).map(|ns| ns as f64)
            }
            Self::Throughput => Some(record.throughput_per_s),
            Self::Errors => Some(record.errors_total as f64),
            Self::ErrorRate => {
                let tried = record.exchanges + record.errors_total;
                (tried > 0).then(|| record.errors_total as f64 / tried as f64)
            }
            Self::ServerCpu => record.server.as_ref().map(cpu_ns),
            // There is no cost per exchange without exchanges.
            Self::ClientCpu => (record.exchanges > 0).then(|| cpu_ns(&record.client)),
        }
    }

    /// Interval of a latency's statistic.
    fn bounds(self, record: &Record) -> Option<(f64, f64)> {
        let Self::Latency(latency, statistic) = self else { return None };
        of(record, latency)?.bounds(statistic)
    }

    fn undecided(self, record: &Record) -> Option<String> {
        let Self::Latency(latency, statistic) = self else { return None };
        Some(of(record, latency)?.undecided(statistic))
    }
}

fn of<'a>(record: &'a Record, latency: Option<&str>) -> Option<&'a Latency> {
    let all = &record.latency;
    match latency {
        None => all.main(),
        Some("connect") => all.connect.as_ref(),
        Some("first_exchange") => all.first_exchange.as_ref(),
        Some("exchange") => all.exchange.as_ref(),
        Some("response") => all.response.as_ref(),
        Some("service") => all.service.as_ref(),
        Some(_) => all.lateness.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let text = include_str!("../../../results/tests/results/sample.json");
        serde_json::from_str(text).expect("the sample is a record")
    }

    fn parse(text: &str) -> Condition {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_metric_has_its_unit() {
        let record = sample();
        for (text, value) in [
            ("p99>5ms", 7_900_000.0),
            ("p50 <= 100us", 4_400_000.0),
            ("exchange.p99.9>=1s", 7_900_000.0),
            ("max<1m30s", 23_400_000.0),
            ("connect.p99>0", 95_000.0),
            ("p99.9>0", 7_900_000.0),
            ("exchange.p75>0", 4_400_000.0),
            ("mean>0", 4_344_451.0),
            ("throughput<50k", 241_900.0),
            ("errors>0", 3.0),
            ("server_cpu>5us", 4_120.0),
            ("client_cpu>5us", 3_210.0),
        ] {
            let condition = parse(text);
            let found = condition.value(&record).unwrap();
            assert!((found / value - 1.0).abs() < 1e-2, "{text}: {found}");
            assert_eq!(condition.to_string(), text);
        }
        let rate = parse("error_rate>0.5%");
        let found = rate.value(&record).unwrap();
        let expected = 3.0 / (record.exchanges + 3) as f64;
        assert!((found - expected).abs() < 1e-12 && !rate.is_met_by(found));
        assert!(rate.is_met_by(0.006));
    }

    /// A record of a closed loop with these latencies, milliseconds.
    fn with_latencies(milliseconds: &[u64]) -> Record {
        let mut histogram = crate::clients::intervals::histogram();
        milliseconds.iter().for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
        let mut record = sample();
        record.latency.exchange = Latency::from_histogram(&histogram);
        record
    }

    #[test]
    fn few_samples_decide_what_they_can() {
        let same = with_latencies(&[5; 20]);
        let undecided = |reason: &str| Verdict::Undecided(reason.to_owned());
        let few = undecided("20 samples do not bound p99.99, which takes 52,981");
        for (text, verdict) in [
            ("p50>1ms", Verdict::True),
            ("p50>9ms", Verdict::False),
            ("p50<9ms", Verdict::True),
            ("p99.99>1ms", Verdict::True),
            ("p99.99<1ms", Verdict::False),
            ("p99.99>9ms", few.clone()),
            ("p99.99<9ms", few.clone()),
            ("p99.99>=9ms", few.clone()),
            ("p99.99<=9ms", few),
            ("p99>9ms", undecided("20 samples do not bound p99, which takes 528")),
            ("p75>9ms", Verdict::False),
            ("max>9ms", Verdict::False),
            ("mean>1ms", Verdict::True),
            ("min<9ms", Verdict::True),
            ("lateness.p99>9ms", Verdict::Unmeasured),
        ] {
            assert_eq!(parse(text).judge(&same), verdict, "{text}");
        }
    }

    #[test]
    fn limit_within_the_interval_is_undecided() {
        let rising: Vec<u64> = (1..=1000).collect();
        let record = with_latencies(&rising);
        for (text, decided) in
            [("p50>400ms", true), ("p50>500ms", false), ("p50<510ms", false), ("p50<600ms", true)]
        {
            let verdict = parse(text).judge(&record);
            assert_eq!(matches!(verdict, Verdict::True), decided, "{text}: {verdict:?}");
            assert_eq!(matches!(verdict, Verdict::Undecided(_)), !decided, "{text}: {verdict:?}");
        }
    }

    #[test]
    fn objective_bounds_from_the_good_side() {
        for text in ["p99<1ms", "max <= 1s", "errors<1", "error_rate<1%", "throughput>5k"] {
            assert!(parse(text).is_objective(), "{text}");
        }
        for text in ["p99>1ms", "mean>=1s", "server_cpu>5us", "throughput<5k"] {
            assert!(!parse(text).is_objective(), "{text}");
        }
    }

    #[test]
    fn comparisons_include_or_exclude_the_limit() {
        let met = |text: &str| [4e6, 5e6, 6e6].map(|value| parse(text).is_met_by(value));
        assert_eq!(met("p99>5ms"), [false, false, true]);
        assert_eq!(met("p99>=5ms"), [false, true, true]);
        assert_eq!(met("p99<5ms"), [true, false, false]);
        assert_eq!(met("p99<=5ms"), [true, true, false]);
    }

    #[test]
    fn main_latency_is_the_response_of_an_open_loop() {
        let mut record = sample();
        record.latency.response = record.latency.connect.clone();
        assert_eq!(parse("p99>1s").value(&record), parse("connect.p99>1s").value(&record));
    }

    #[test]
    fn unmeasured_metric_has_no_value() {
        let mut record = sample();
        (record.server, record.latency) = (None, Default::default());
        (record.exchanges, record.errors_total) = (0, 0);
        for text in ["p99>1s", "lateness.max>1s", "server_cpu>1s", "client_cpu>1s", "error_rate>1%"]
        {
            assert_eq!(parse(text).value(&record), None, "{text}");
        }
    }

    #[test]
    fn help_names_every_metric() {
        let command = <crate::cli::Cli as clap::CommandFactory>::command();
        let mut options = command.get_arguments();
        let option = options.find(|option| option.get_id() == "fail_if").unwrap();
        let help = option.get_help().unwrap().to_string();
        let words: Vec<&str> =
            help.split(|c: char| c.is_whitespace() || ",();".contains(c)).collect();
        let statistics = ["min", "mean", "max", "p50", "p99.95"];
        let others = OTHERS.iter().map(|(name, _)| *name);
        for name in statistics.into_iter().chain(others).chain(LATENCIES) {
            assert!(words.contains(&name), "{name}: {help}");
        }
    }

    #[test]
    fn malformed_part_is_named() {
        for (text, words) in [
            ("p99", "write it as p99>5ms"),
            ("q98>5ms", "unknown metric \"q98\""),
            ("p100>5ms", "unknown metric \"p100\"; of a latency: "),
            ("98>5ms", "unknown metric \"98\""),
            ("latency.p99>5ms", "unknown metric \"latency.p99\""),
            ("p99>5", "p99: a duration needs a unit: write 5s or 5ms"),
            ("throughput<50kB", "throughput: not a rate"),
            ("error_rate>1", "error_rate: a share needs a unit: write 1%"),
            ("error_rate>x%", "error_rate: not a share"),
            ("p99>5ms<6ms", "not a duration"),
            ("", "write it as"),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
