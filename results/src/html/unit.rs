//! Units of axes.

use crate::format;

/// The unit of an axis.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unit {
    /// A latency, nanoseconds.
    Nanoseconds,
    /// CPU time, microseconds.
    Microseconds,
    /// A moment of the measured window.
    Seconds,
    /// A rate.
    PerSecond,
    /// A number of things.
    Count,
    /// Times as large as something.
    Ratio,
    /// The number of nines, `-log10(1 - quantile)`: 1 is the 90th percentile, 2 the 99th.
    Percentile,
}

impl Unit {
    /// Name of the unit in the script.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Seconds => "s",
            Self::PerSecond => "per-s",
            Self::Count => "count",
            Self::Ratio => "ratio",
            Self::Percentile => "nines",
        }
    }

    /// Value as text.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Nanoseconds | Self::Microseconds if value == 0.0 => "0".into(),
            Self::Nanoseconds => short(&format::duration(value.round() as u64)),
            Self::Microseconds => short(&format::duration((value * 1e3).round() as u64)),
            Self::Seconds => format!("{}s", trim(&format!("{value:.2}"))),
            Self::PerSecond => format!("{}/s", short(&format::count(value))),
            Self::Count => short(&format::count(value)),
            Self::Ratio => {
                let decimals = if value < 0.1 { 4 } else { 2 };
                format!("{}x", trim(&format!("{value:.decimals$}")))
            }
            Self::Percentile => percentile(value),
        }
    }
}

/// `99.9%` for 3 nines; a digit more than the nines where it is not a whole number of them.
fn percentile(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-nines));
    let decimals = nines.clamp(0.0, 12.0).ceil() as usize;
    format!("{}%", trim(&format!("{percent:.decimals$}")))
}

/// Without zeros that a tick does not need: `10us` for `10.0us`.
fn short(text: &str) -> String {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    trim(number).to_owned() + unit
}

/// Without zeros behind the point.
fn trim(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

#[cfg(test)]
mod tests {
    use super::Unit;

    #[test]
    fn values_are_short() {
        for (unit, value, text) in [
            (Unit::Nanoseconds, 10_000.0, "10us"),
            (Unit::Nanoseconds, 12_345.0, "12.3us"),
            (Unit::Microseconds, 9.26, "9.26us"),
            (Unit::PerSecond, 100_000.0, "100k/s"),
            (Unit::Microseconds, 0.0, "0"),
            (Unit::PerSecond, 0.0, "0/s"),
            (Unit::Seconds, 2.5, "2.5s"),
            (Unit::Count, 12.0, "12"),
            (Unit::Ratio, 1.0, "1x"),
            (Unit::Ratio, 0.85, "0.85x"),
            (Unit::Percentile, 0.0, "0%"),
            (Unit::Percentile, 2.0, "99%"),
            (Unit::Percentile, 2.5, "99.684%"),
            (Unit::Percentile, 5.0, "99.999%"),
        ] {
            assert_eq!(unit.show(value), text);
        }
    }
}
