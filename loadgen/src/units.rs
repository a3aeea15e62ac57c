//! Durations, sizes, counts and CPU lists as people write them.
//!
//! A number without a unit is refused where it could mean two things, and so is a unit that does
//! not fit; each refusal says what to write instead.

use std::time::Duration;

/// The longest duration. Sums of several, in nanoseconds, are far from overflowing.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Parses a duration: `500us`, `10ms`, `10s`, `1m30s`. Only zero goes without a unit.
///
/// # Errors
///
/// What to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(format!("a duration needs a unit: write {text}s or {text}ms"));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= DURATION_MAX => Ok(duration),
        Ok(_) => Err("at most 365 days".to_owned()),
        Err(_) => Err("not a duration: write 500us, 10ms, 10s or 1m30s".to_owned()),
    }
}

/// Parses a duration that must not be zero.
///
/// # Errors
///
/// What to write instead.
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
/// What to write instead.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "k" | "K" | "KiB" | "kiB" => 1 << 10,
        "kB" | "KB" => 1000,
        "m" | "M" | "MiB" => 1 << 20,
        "MB" => 1_000_000,
        _ => return Err("not a size: write 64, 64KiB or 64kB".to_owned()),
    };
    whole(number)
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "not a size: write 64, 64KiB or 64kB".to_owned())
}

/// Parses a count or a rate: `1000`, `1_000`, `50k` (50,000), `1.5M`.
///
/// # Errors
///
/// What to write instead.
pub fn count(text: &str) -> Result<u64, String> {
    let wrong = || "not a count: write 1000, 50k or 1M".to_owned();
    let (number, unit) = split(text);
    let factor: u64 = match unit {
        "" => 1,
        "k" | "K" => 1000,
        "m" | "M" => 1_000_000,
        _ => return Err(wrong()),
    };
    let Some((integer, fraction)) = number.split_once('.') else {
        return whole(number).and_then(|number| number.checked_mul(factor)).ok_or_else(wrong);
    };
    // A fraction of a unit must still be a whole count: `1.5k` is 1500, `1.5` is nothing.
    let decimals = u32::try_from(fraction.len()).map_err(|_| wrong())?;
    let divisor = 10u64.checked_pow(decimals).filter(|divisor| factor.is_multiple_of(*divisor));
    let (integer, fraction) = (whole(integer), whole(fraction));
    match (integer, fraction, divisor) {
        (Some(integer), Some(fraction), Some(divisor)) => integer
            .checked_mul(factor)
            .and_then(|product| product.checked_add(fraction * (factor / divisor)))
            .ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// Parses a part of a whole: `1%` is 0.01. Only zero goes without the sign.
///
/// # Errors
///
/// What to write instead.
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

/// Parses a list of processors as the kernel writes it: `0`, `0,2-3`. Sorted, each once.
///
/// # Errors
///
/// What to write instead.
pub fn cpu_list(text: &str) -> Result<Vec<usize>, String> {
    let wrong = || "not a list of CPUs: write 0 or 0,2-3".to_owned();
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| wrong())?;
        let last: usize = last.parse().map_err(|_| wrong())?;
        if first > last || last >= rustix::thread::CpuSet::MAX_CPU {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

/// Writes processors as the kernel does: `0,2-3`.
pub fn format_cpu_list(cpus: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let runs = runs.iter().map(|&(first, last)| match last - first {
        0 => format!("{first}"),
        _ => format!("{first}-{last}"),
    });
    runs.collect::<Vec<_>>().join(",")
}

/// Splits a number from the unit that follows it.
fn split(text: &str) -> (&str, &str) {
    let end =
        text.find(|c: char| !c.is_ascii_digit() && c != '_' && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// A whole number, with underscores between digits.
fn whole(text: &str) -> Option<u64> {
    if text.starts_with('_') || text.ends_with('_') {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(duration("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("10"), Err("a duration needs a unit: write 10s or 10ms".to_owned()));
        assert!(duration("1.5").unwrap_err().contains("write 1.5s"));
        for wrong in ["", "s", "ten", "-1s", "10 parsecs"] {
            assert!(duration(wrong).unwrap_err().starts_with("not a duration"), "{wrong}");
        }
        assert_eq!(duration("2years"), Err("at most 365 days".to_owned()));
        assert_eq!(duration_positive("0s"), Err("must be longer than zero".to_owned()));
    }

    #[test]
    fn sizes_tell_binary_from_decimal() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("64k"), Ok(65_536));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("64kB"), Ok(64_000));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        for wrong in ["", "k", "1.5k", "64q", "-1", "_1", "99999999999999999999", "99999999999999M"]
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
        for wrong in ["", "1.5", "1.0005k", "1.", ".5k", "50KiB", "k", "1__", "-3", "1.2.3k"] {
            assert!(count(wrong).unwrap_err().starts_with("not a count"), "{wrong}");
        }
        assert!(count("99999999999999999999").is_err());
        assert!(count("99999999999999999M").is_err());
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

    #[test]
    fn cpu_lists_go_both_ways() {
        assert_eq!(cpu_list("0"), Ok(vec![0]));
        assert_eq!(cpu_list("3,0-1,1"), Ok(vec![0, 1, 3]));
        assert_eq!(format_cpu_list(&[0, 1, 3, 5, 6, 7]), "0-1,3,5-7");
        assert_eq!(format_cpu_list(&[]), "");
        for wrong in ["", "a", "3-1", "0,", "0-", "-1", "4096"] {
            assert!(cpu_list(wrong).unwrap_err().starts_with("not a list of CPUs"), "{wrong}");
        }
    }
}
