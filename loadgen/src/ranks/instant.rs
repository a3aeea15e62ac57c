//! Start of the load, as users write it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::exit::{self, Failure};

/// Longest time ahead; more is a mistake, such as milliseconds for seconds.
const AHEAD_MAX: Duration = Duration::from_secs(3600);

/// Longest time since a start that this process has missed, such as of a rank whose image was
/// pulled first; more is a mistake, such as a command line of an earlier run.
const PAST_MAX: Duration = Duration::from_secs(300);

/// End of the year 9999, the last that RFC 3339 can express.
const END_S: u64 = 253_402_300_800;

/// Parses an instant: RFC 3339 with `Z` or an offset, or seconds since 1970, with a fraction.
///
/// # Errors
///
/// A text for the user.
pub fn parse(text: &str) -> Result<SystemTime, String> {
    let instant = match text.contains('-') {
        true => rfc3339(text),
        false => epoch(text.strip_prefix('@').unwrap_or(text)),
    };
    let words = "not an instant: write 2026-12-01T09:30:00Z, or seconds since 1970";
    instant.ok_or_else(|| match rfc3339(&format!("{text}Z")) {
        Some(_) => "has no time zone: append Z (UTC) or an offset such as +01:00".to_owned(),
        None => words.to_owned(),
    })
}

fn epoch(text: &str) -> Option<SystemTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9.9}").parse().ok()?;
    let seconds = seconds.parse().ok().filter(|seconds| *seconds < END_S)?;
    Some(UNIX_EPOCH + Duration::new(seconds, nanoseconds))
}

fn rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.to_ascii_uppercase();
    let start = text.len().checked_sub(6).filter(|_| text.is_ascii())?;
    let (local, offset) = text.split_at(start);
    let (before, minutes) = match (offset.split_at(1), text.strip_suffix('Z')) {
        (_, Some(utc)) => (utc, 0),
        (("+", offset), _) => (local, minutes(offset)?),
        (("-", offset), _) => (local, -minutes(offset)?),
        _ => return None,
    };
    if before.ends_with('Z') {
        return None;
    }
    let utc = humantime::parse_rfc3339_weak(&(before.to_owned() + "Z")).ok()?;
    let offset = Duration::from_secs(60 * minutes.unsigned_abs());
    if minutes < 0 { utc.checked_add(offset) } else { utc.checked_sub(offset) }
}

/// Minutes of an offset `01:30`.
fn minutes(offset: &str) -> Option<i64> {
    let (hours, minutes) = offset.split_once(':')?;
    let number = |text: &str, below: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|&number| digits && number < below)
    };
    Some(60 * number(hours, 24)? + number(minutes, 60)?)
}

/// Checks that a start lies ahead, or that this process is late by little.
///
/// # Errors
///
/// [`exit::USAGE`] if it lies further in the past or ahead than any run needs.
pub fn check(start: SystemTime, now: SystemTime) -> Result<(), Failure> {
    let shown = humantime::format_rfc3339_millis(start);
    let refused = |words: String| {
        let hint = "compute it once for all ranks, such as $(($(date +%s) + 20))";
        Err(Failure::new(exit::USAGE, format!("--start-at: {shown} {words}")).hint(hint))
    };
    let seconds = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
    match (start.duration_since(now), now.duration_since(start)) {
        (Ok(ahead), _) if ahead > AHEAD_MAX => {
            refused(format!("is {} ahead, and at most 1h is useful", seconds(ahead)))
        }
        (_, Ok(past)) if past > PAST_MAX => refused(format!("was {} ago", seconds(past))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_rfc_3339_or_seconds() {
        let at = |ns: u64| Ok(UNIX_EPOCH + Duration::from_nanos(ns));
        for (text, ns) in [
            ("1764353214", 1_764_353_214_000_000_000),
            ("1764353214.5", 1_764_353_214_500_000_000),
            ("1764353214.123456789", 1_764_353_214_123_456_789),
            ("1764353214.1234567891", 1_764_353_214_123_456_789),
            ("@1764353214", 1_764_353_214_000_000_000),
            ("0", 0),
            ("2025-11-28T18:06:54Z", 1_764_353_214_000_000_000),
            ("2025-11-28T18:06:54.25Z", 1_764_353_214_250_000_000),
            ("2025-11-28t18:06:54z", 1_764_353_214_000_000_000),
            ("2025-11-28 18:06:54+00:00", 1_764_353_214_000_000_000),
            ("2025-11-28T19:36:54+01:30", 1_764_353_214_000_000_000),
            ("2025-11-28T10:06:54.5-08:00", 1_764_353_214_500_000_000),
        ] {
            assert_eq!(parse(text), at(ns), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ".",
            "5.",
            ".5",
            "1,5",
            "1e9",
            "+5",
            "-5",
            "now",
            "18:30",
            "nan",
            "1764353214000",
            "0x10",
            "1 2",
            "2025-11-28",
            "2025-13-28T18:06:54Z",
            "2025-11-28T25:06:54Z",
            "1764353214Z",
            "2025-11-28T18:06:54+1:00",
            "2025-11-28T18:06:54+24:00",
            "2025-11-28T18:06:54+01:60",
            "2025-11-28T18:06:54+0100",
            "99999999999999999999999",
            "2025-11-28T18:06:54ä+1:00",
            "2025-11-28T18:06:54Z+01:00",
            "2025-11-28T18:06:54++1:00",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let error = parse("2025-11-28T18:06:54").unwrap_err();
        assert!(error.contains("no time zone"), "{error}");
    }

    #[test]
    fn start_far_from_now_is_refused() {
        let now = UNIX_EPOCH + Duration::from_secs(1_764_353_214);
        for seconds in [-300, -299, 0, 1, 3600] {
            let start = UNIX_EPOCH + Duration::from_secs((1_764_353_214 + seconds) as u64);
            assert!(check(start, now).is_ok(), "{seconds}");
        }
        for (start, words) in [
            (1_764_353_214 - 301, "was 5m 1s ago"),
            (1_764_353_214 + 3601, "1h 1s ahead"),
            (253_402_300_799, "ahead"),
        ] {
            let failure = check(UNIX_EPOCH + Duration::from_secs(start), now).unwrap_err();
            assert!(failure.error.contains(words) && failure.code == exit::USAGE, "{failure:?}");
        }
    }
}
