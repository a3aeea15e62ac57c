//! How durations, processors and counts are written on the command line.

use std::time::Duration;

/// The most processors an affinity mask can name (CPU_SETSIZE, sched_setaffinity(2)).
const CPUS_MAX: usize = 1024;

/// As good as for ever, and still far from where adding it to the clock overflows.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A duration with its unit: `500us`, `10ms`, `10s`, `1m30s`; plain `0` is zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.parse::<f64>().is_ok() {
        return Err(format!("a duration needs its unit: write {text}s or {text}ms"));
    }
    match humantime::parse_duration(text) {
        Ok(duration) => Ok(duration.min(LONGEST)),
        Err(error) => Err(error.to_string()),
    }
}

/// A count of at least one, with `k` or `M` for thousands and millions: `1000`, `50k`, `1_000`.
pub(super) fn count(text: &str) -> Result<usize, String> {
    let plain = text.replace('_', "");
    let (digits, unit) = match plain.strip_suffix(['k', 'M']) {
        Some(digits) if plain.ends_with('k') => (digits, 1000),
        Some(digits) => (digits, 1_000_000),
        None => (plain.as_str(), 1),
    };
    match digits.parse::<usize>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(0) => Err("must be at least 1".to_owned()),
        Some(number) => Ok(number),
        None => Err("not a whole number such as 1000, 50k or 1M".to_owned()),
    }
}

/// Processors in the kernel's own notation: `0`, `0,2-3`.
pub(super) fn cpu_list(text: &str) -> Result<Vec<usize>, String> {
    let malformed = || format!("not a list of processors such as 0 or 0,2-3: {text:?}");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| malformed())?;
        let last: usize = last.trim().parse().map_err(|_| malformed())?;
        if first > last {
            return Err(malformed());
        }
        if last >= CPUS_MAX {
            return Err(format!("there is no processor {last}"));
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1000000y"), Ok(LONGEST));
        assert!(duration("10").unwrap_err().contains("write 10s"));
        assert!(duration("-1s").is_err() && duration("").is_err() && duration("soon").is_err());
    }

    #[test]
    fn counts_are_whole_and_positive() {
        assert_eq!(count("50k"), Ok(50_000));
        assert_eq!(count("1_000"), Ok(1000));
        assert_eq!(count("2M"), Ok(2_000_000));
        for bad in ["0", "", "k", "-1", "1.5", "99999999999999999999", "9999999999999999M"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpu_lists_are_the_kernels() {
        assert_eq!(cpu_list("0,2-4"), Ok(vec![0, 2, 3, 4]));
        for bad in ["", "a", "1-", "3-1", "0,,1", "99999", "-1"] {
            assert!(cpu_list(bad).is_err(), "{bad}");
        }
    }
}
