//! Durations, counts and ratios as text: a few digits and a unit.

/// A duration of nanoseconds in three digits: `345ns`, `12.3us`, `1.02s`.
///
/// Seconds are the largest unit: `4210s`.
pub fn duration(ns: u64) -> String {
    if ns < 1000 { format!("{ns}ns") } else { scaled(ns as f64 / 1e3, 3, &["us", "ms", "s"]) }
}

/// A count or a rate: `512` or `98.5` below a thousand, in four digits above: `241.9k`, `1.234M`.
/// Below one, in three digits: `0.0333`.
pub fn count(value: f64) -> String {
    if 0.0 < value && value < 1.0 {
        let three_digits: f64 = format!("{value:.2e}").parse().expect("{:e} writes a number");
        return three_digits.to_string();
    }
    let small = format!("{value:.1}");
    if small.len() <= "999.9".len() {
        small.strip_suffix(".0").unwrap_or(&small).to_owned()
    } else {
        scaled(value / 1e3, 4, &["k", "M", "G", "T"])
    }
}

/// Ratio to a baseline: `1.23x`; `None` if the baseline is zero.
pub fn ratio(value: f64, baseline: f64) -> Option<String> {
    let ratio = value / baseline;
    let decimals = if ratio < 99.995 { 2 } else { 0 };
    ratio.is_finite().then(|| format!("{ratio:.decimals$}x"))
}

/// `value`, at least one when rounded, in `digits` digits and the largest of `units` that leaves
/// something before the point; each unit is a thousand of the one before.
fn scaled(value: f64, digits: usize, units: &[&str]) -> String {
    // Rounded before the unit is chosen: 999.96us is 1.00ms, not 1000us.
    let rounded = format!("{value:.*e}", digits - 1);
    let (_, exponent) = rounded.split_once('e').expect("{:e} writes an exponent");
    let exponent: usize = exponent.parse().unwrap_or(0);
    let unit = (exponent / 3).min(units.len() - 1);
    let decimals = (digits - 1).saturating_sub(exponent - 3 * unit);
    let rounded: f64 = rounded.parse().expect("{:e} writes a number");
    format!("{:.decimals$}{}", rounded / 1e3f64.powi(unit as i32), units[unit])
}

#[cfg(test)]
mod tests {
    use super::{count, duration, ratio};

    #[test]
    fn durations() {
        for (ns, text) in [
            (0, "0ns"),
            (345, "345ns"),
            (999, "999ns"),
            (1_000, "1.00us"),
            (9_994, "9.99us"),
            (9_996, "10.0us"),
            (12_345, "12.3us"),
            (999_499, "999us"),
            (999_600, "1.00ms"),
            (1_234_567, "1.23ms"),
            (59_960_000, "60.0ms"),
            (1_020_000_000, "1.02s"),
            (61_200_000_000, "61.2s"),
            (4_213_000_000_000, "4210s"),
            (u64::MAX, "18400000000s"),
        ] {
            assert_eq!(duration(ns), text, "{ns}");
        }
    }

    #[test]
    fn counts() {
        for (value, text) in [
            (0.0, "0"),
            (0.04, "0.04"),
            (1.0 / 30.0, "0.0333"),
            (0.2, "0.2"),
            (0.9996, "1"),
            (1.0, "1"),
            (98.5, "98.5"),
            (512.0, "512"),
            (999.94, "999.9"),
            (999.96, "1.000k"),
            (1_000.0, "1.000k"),
            (9_999.6, "10.00k"),
            (241_872.4, "241.9k"),
            (999_960.0, "1.000M"),
            (1_234_000.0, "1.234M"),
            (7.2e15, "7200T"),
        ] {
            assert_eq!(count(value), text, "{value}");
        }
    }

    #[test]
    fn ratios() {
        assert_eq!(ratio(123.0, 100.0).as_deref(), Some("1.23x"));
        assert_eq!(ratio(1.0, 3.0).as_deref(), Some("0.33x"));
        assert_eq!(ratio(99.994, 1.0).as_deref(), Some("99.99x"));
        assert_eq!(ratio(99.996, 1.0).as_deref(), Some("100x"));
        assert_eq!(ratio(5.0, 0.0), None);
        assert_eq!(ratio(0.0, 0.0), None);
    }
}
