//! Durations, sizes, counts and shares as users write them on the command line.
//!
//! A number without a unit is rejected where it could mean two things. Each error says what to
//! write instead.

use std::time::Duration;

/// The longest duration. Sums of several, in nanoseconds, do not overflow.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Parses a duration: `500us`, `10ms`, `10s`, `1m30s`. Only zero needs no unit.
///
/// # Errors
///
/// A text for the user if the unit is missing, the notation differs, or it exceeds 365 days. No
/// unit has a capital letter: `1M` could mean a month.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.parse::<f64>().is_ok_and(|number| number >= 0.0) {
        return Err(format!("a duration needs a unit: write {text}s or {text}ms"));
    }
    let lower = text.to_ascii_lowercase();
    match humantime::parse_duration(&lower) {
        Ok(_) if lower != text => Err(format!("not a duration: did you mean {lower}?")),
        Ok(duration) if duration <= DURATION_MAX => Ok(duration),
        Ok(_) => Err("at most 365 days".to_owned()),
        Err(_) => Err("not a duration: write 500us, 10ms, 10s or 1m30s".to_owned()),
    }
}

/// Parses a duration greater than zero.
///
/// # Errors
///
/// Those of [`duration`], and a text for the user if it is zero.
pub fn duration_positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// Parses a number of bytes: `64`, `64k` or `64KiB` (65,536), `64kB` (64,000), likewise `M`.
///
/// # Errors
///
/// A text for the user that shows the notation.
pub fn size(text: &str) -> Result<u64, String> {
    let parse = |text: &str| {
        let (number, unit) = split(text);
        let factor = match unit {
            "" | "B" => 1,
            "k" | "K" | "KiB" | "kiB" => 1 << 10,
            "kB" | "KB" => 1000,
            "m" | "M" | "MiB" => 1 << 20,
            "MB" => 1_000_000,
            _ => return None,
        };
        whole(number)?.checked_mul(factor)
    };
    parse(text).ok_or_else(|| match similar(text, &["B", "kB", "KiB", "MB", "MiB"]) {
        meant if parse(&meant).is_some() => format!("not a size: did you mean {meant}?"),
        _ => "not a size: write 64, 64KiB or 64kB".to_owned(),
    })
}

/// Parses a count or a rate: `1000`, `1_000`, `50k` (50,000), `1.5M`. A fraction of a unit must
/// be a whole count: `1.5k` is 1500, and `1.5` an error.
///
/// # Errors
///
/// A text for the user that shows the notation.
pub fn count(text: &str) -> Result<u64, String> {
    let parse = |text: &str| {
        let (number, unit) = split(text);
        let factor = match unit {
            "" => 1,
            "k" | "K" => 1000,
            "m" | "M" => 1_000_000,
            _ => return None,
        };
        times(number, factor)
    };
    parse(text).ok_or_else(|| match similar(text, &[]) {
        meant if parse(&meant).is_some() => format!("not a count: did you mean {meant}?"),
        _ => "not a count: write 1000, 50k or 1M".to_owned(),
    })
}

/// Parses a count of at least one.
///
/// # Errors
///
/// Those of [`count`], and a text for the user if it is zero.
pub fn count_positive(text: &str) -> Result<u64, String> {
    match count(text)? {
        0 => Err("must be at least 1".to_owned()),
        count => Ok(count),
    }
}

/// Parses a rate per second: `50k`, `0.5`, `30/m` (0.5) or `2/h`.
///
/// # Errors
///
/// A text for the user that shows the notation.
pub fn rate(text: &str) -> Result<f64, String> {
    let (number, per) = text.split_once('/').unwrap_or((text, "s"));
    let (digits, unit) = split(number);
    let factor = match unit {
        "" => Some(1.0),
        "k" | "K" => Some(1e3),
        "m" | "M" => Some(1e6),
        _ => None,
    };
    let seconds = match per {
        "s" => Some(1.0),
        "m" | "min" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let plain = digits.starts_with(|c: char| c.is_ascii_digit()) && !digits.ends_with(['.', '_']);
    let number = digits.replace('_', "").parse::<f64>().ok().filter(|_| plain);
    let per_second = number.zip(factor).zip(seconds).map(|((n, factor), s)| n * factor / s);
    per_second
        .filter(|rate| rate.is_finite())
        .ok_or_else(|| "not a rate: write 50k, 0.5 or 30/m".to_owned())
}

/// Parses a share: `1%` is 0.01. Only zero needs no sign.
///
/// # Errors
///
/// A text for the user if the sign is missing, or the share is not between 0 and 100 %.
pub fn share(text: &str) -> Result<f64, String> {
    let percent = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        text.parse::<f64>().ok().filter(|percent| plain && *percent <= 100.0)
    };
    match text.strip_suffix('%').map(percent) {
        Some(Some(percent)) => Ok(percent / 100.0),
        None if text == "0" => Ok(0.0),
        None if percent(text).is_some() => Err(format!("a share needs a unit: write {text}%")),
        _ => Err("not a share: write 1% or 0.1%".to_owned()),
    }
}

/// Splits a number from the unit behind it.
fn split(text: &str) -> (&str, &str) {
    let end =
        text.find(|c: char| !c.is_ascii_digit() && c != '_' && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// The text without blanks, and with one of `units` for its unit if only capitals differ.
fn similar(text: &str, units: &[&str]) -> String {
    let text = text.replace(' ', "");
    let (number, unit) = split(&text);
    let known = units.iter().find(|known| known.eq_ignore_ascii_case(unit));
    format!("{number}{}", known.unwrap_or(&unit))
}

/// Parses a whole number, with underscores between digits.
fn whole(text: &str) -> Option<u64> {
    if text.starts_with('_') || text.ends_with('_') {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Multiplies a decimal number by `factor`; `None` if the product is not whole.
fn times(number: &str, factor: u64) -> Option<u64> {
    let Some((integer, fraction)) = number.split_once('.') else {
        return whole(number)?.checked_mul(factor);
    };
    let divisor = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    if !factor.is_multiple_of(divisor) {
        return None;
    }
    whole(integer)?.checked_mul(factor)?.checked_add(whole(fraction)? * (factor / divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(duration("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("10"), Err("a duration needs a unit: write 10s or 10ms".to_owned()));
        assert!(duration("1.5").unwrap_err().contains("write 1.5s"));
        for wrong in ["", "s", "ten", "-1", "-1s", "nan", "10 parsecs"] {
            assert!(duration(wrong).unwrap_err().starts_with("not a duration"), "{wrong}");
        }
        for (wrong, meant) in [("1M", "1m"), ("10S", "10s"), ("1.5H", "1.5h"), ("5 MS", "5 ms")] {
            let error = duration(wrong).unwrap_err();
            assert_eq!(error, format!("not a duration: did you mean {meant}?"));
        }
        assert!(duration("1KiB").unwrap_err().contains("write 500us"));
        assert_eq!(duration("365days"), Ok(DURATION_MAX));
        assert_eq!(duration("2years"), Err("at most 365 days".to_owned()));
        assert_eq!(duration_positive("0s"), Err("must be longer than zero".to_owned()));
    }

    #[test]
    fn sizes_are_binary_or_decimal_by_unit() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("64k"), Ok(65_536));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("64kB"), Ok(64_000));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        for (wrong, meant) in [("64kb", "64kB"), ("1 MiB", "1MiB"), ("2mib", "2MiB"), ("9b", "9B")]
        {
            assert_eq!(size(wrong), Err(format!("not a size: did you mean {meant}?")));
        }
        for wrong in
            ["", "k", "1.5k", "64q", "64bk", "-1", "_1", "99999999999999999999", "99999999999999M"]
        {
            assert!(size(wrong).unwrap_err().starts_with("not a size"), "{wrong}");
        }
    }

    #[test]
    fn counts_are_decimal() {
        assert_eq!(count("1000"), Ok(1000));
        assert_eq!(count("1_000_000"), Ok(1_000_000));
        assert_eq!(count("50k"), Ok(50_000));
        assert_eq!(count("1.5M"), Ok(1_500_000));
        assert_eq!(count("0.25k"), Ok(250));
        for (wrong, meant) in [("50 k", "50k"), ("1 000 000", "1000000")] {
            assert_eq!(count(wrong), Err(format!("not a count: did you mean {meant}?")));
        }
        for wrong in
            ["", "1.5", "10s", "1,5k", "1.0005k", "1.", ".5k", "50KiB", "k", "1__", "-3", "1.2.3k"]
        {
            assert!(count(wrong).unwrap_err().starts_with("not a count"), "{wrong}");
        }
        assert!(count("99999999999999999999").is_err());
        assert!(count("99999999999999999M").is_err());
        assert_eq!(count_positive("0"), Err("must be at least 1".to_owned()));
    }

    #[test]
    fn rates_may_have_a_fraction_and_a_period() {
        for (text, per_second) in [
            ("0", 0.0),
            ("0.5", 0.5),
            ("30/m", 0.5),
            ("30/min", 0.5),
            ("36/h", 0.01),
            ("7/s", 7.0),
            ("50k", 50_000.0),
            ("1.5M", 1.5e6),
            ("6k/m", 100.0),
            ("1_000", 1000.0),
        ] {
            assert_eq!(rate(text), Ok(per_second), "{text}");
        }
        for wrong in [
            "", "-1", "+1", "nan", "inf", "1e3", "1e-300", ".5", "5.", "1/", "1/d", "/m", "30//m",
            "1.2.3", "5kB", "5 k", "1/2", "k",
        ] {
            assert!(rate(wrong).unwrap_err().starts_with("not a rate"), "{wrong}");
        }
        assert!(rate(&"9".repeat(400)).is_err());
    }

    #[test]
    fn shares_are_in_percent() {
        assert_eq!((share("1%"), share("0.5%")), (Ok(0.01), Ok(0.005)));
        assert_eq!((share("0"), share("100%")), (Ok(0.0), Ok(1.0)));
        assert!(share("1").unwrap_err().contains("write 1%"));
        for wrong in ["", "%", "-1%", "101%", "1e1%", "inf%", "x", "1 %"] {
            assert!(share(wrong).unwrap_err().starts_with("not a share"), "{wrong}");
        }
    }
}
