//! Levels as the user writes them: `5k,10k,20k`, `5k..100k/10`, `1k..64k*2`.

use crate::options;
use lockstep_sys::units;

/// Largest number of levels.
const LEVELS_MAX: usize = 1000;

/// Levels, ascending, no two the same. The type keeps clap from reading a `Vec` as a repeated
/// option.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels(pub Vec<f64>);

/// Parses rates and ranges of rates.
///
/// # Errors
///
/// The notation to use.
pub(super) fn rates(text: &str) -> Result<Levels, String> {
    parse(text, options::rate, tidy)
}

/// Parses numbers of connections and ranges of them.
///
/// # Errors
///
/// The notation to use.
pub(super) fn conns(text: &str) -> Result<Levels, String> {
    parse(text, |text| options::conns(text).map(f64::from), f64::round)
}

/// Rounds a computed rate: to a whole number, or to three digits if it is below a hundred.
pub(super) fn tidy(rate: f64) -> f64 {
    if rate >= 100.0 {
        return rate.round();
    }
    format!("{rate:.2e}").parse().unwrap_or(rate)
}

/// Parses levels: single ones and ranges, separated by commas. `LOW..HIGH/N` is N levels at equal
/// distances; `LOW..HIGH*F` is LOW, LOW times F, and so on, up to HIGH.
fn parse(
    text: &str,
    level: fn(&str) -> Result<f64, String>,
    round: fn(f64) -> f64,
) -> Result<Levels, String> {
    let mut levels = Vec::new();
    for part in text.split(',') {
        match part.split_once("..") {
            None => levels.push(level(part)?),
            Some((low, rest)) => range(level(low)?, rest, level, round, &mut levels)?,
        }
        if levels.len() > LEVELS_MAX {
            return Err(format!("at most {LEVELS_MAX} levels"));
        }
    }
    levels.sort_unstable_by(f64::total_cmp);
    levels.dedup();
    Ok(Levels(levels))
}

fn range(
    low: f64,
    rest: &str,
    level: fn(&str) -> Result<f64, String>,
    round: fn(f64) -> f64,
    levels: &mut Vec<f64>,
) -> Result<(), String> {
    let wrong =
        || "a range is LOW..HIGH/N or LOW..HIGH*FACTOR: 5k..100k/10 or 1k..64k*2".to_owned();
    let ordered = |high: f64| match low <= high {
        true => Ok(high),
        false => Err("a range goes up: LOW must be below HIGH".to_owned()),
    };
    if let Some((high, factor)) = rest.split_once('*') {
        let (high, factor) = (ordered(level(high)?)?, factor.parse::<f64>());
        let factor = factor.ok().filter(|factor| (1.01..=1000.0).contains(factor));
        let factor = factor.ok_or_else(wrong)?;
        let mut exact = low;
        while round(exact) <= high {
            levels.push(round(exact));
            exact *= factor;
        }
        return Ok(());
    }
    // The last slash: that of `90/m` belongs to the rate.
    let (high, number) = rest.rsplit_once('/').ok_or_else(wrong)?;
    let number = units::count(number).map_err(|_| wrong())?;
    let high = ordered(level(high)?)?;
    if number < 2 || number as usize > LEVELS_MAX {
        return Err(format!("a range has from 2 to {LEVELS_MAX} levels"));
    }
    let step = (high - low) / (number - 1) as f64;
    levels.extend((0..number).map(|index| round(low + step * index as f64)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_lists_and_ranges() {
        let levels = |text| conns(text).unwrap().0;
        assert_eq!(levels("64"), [64.0]);
        assert_eq!(levels("20k,5k,10k,5k"), [5_000.0, 10_000.0, 20_000.0]);
        assert_eq!(levels("10..100/4"), [10.0, 40.0, 70.0, 100.0]);
        assert_eq!(levels("5k..100k/20")[..3], [5_000.0, 10_000.0, 15_000.0]);
        assert_eq!(levels("1..10*2"), [1.0, 2.0, 4.0, 8.0]);
        assert_eq!(levels("100..200*1.5"), [100.0, 150.0]);
        assert_eq!(levels("1..4*2,3,7..7/2"), [1.0, 2.0, 3.0, 4.0, 7.0]);
        // Levels that are equal when rounded appear once.
        assert_eq!(levels("1..3*1.1"), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn rates_may_be_below_one_a_second() {
        let levels = |text| rates(text).unwrap().0;
        assert_eq!(levels("0.5,30/m,2,5k"), [0.5, 2.0, 5_000.0]);
        assert_eq!(levels("0.1..0.4/4"), [0.1, 0.2, 0.3, 0.4]);
        assert_eq!(levels("0.25..1*2"), [0.25, 0.5, 1.0]);
        assert_eq!(levels("30/m..90/m/3"), [0.5, 1.0, 1.5]);
        assert_eq!(levels("30/m..120/m*2"), [0.5, 1.0, 2.0]);
        assert_eq!(levels("100..200*1.7"), [100.0, 170.0]);
    }

    #[test]
    fn level_errors() {
        for (text, words) in [
            ("", "not a count"),
            ("5k,", "not a count"),
            ("0", "at least 1"),
            ("0..8*2", "at least 1"),
            ("0.5", "not a count"),
            ("2M", "at most 1000000"),
            ("5k..", "a range is"),
            ("1k..5k", "a range is"),
            ("5k..1k/3", "LOW must be below HIGH"),
            ("10k..1k*2", "LOW must be below HIGH"),
            ("1k..5k*1", "a range is"),
            ("1k..5k*x", "a range is"),
            ("1k..5k/1", "from 2 to"),
            ("1k..5k/5k", "from 2 to"),
            ("1..1M/900,1..1M/900", "at most 1000 levels"),
        ] {
            let error = conns(text).map(|levels| levels.0.len()).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        for (text, words) in [
            ("0", "more than 0"),
            ("0..8*2", "more than 0"),
            ("-1", "not a rate"),
            ("1e-300", "not a rate"),
            ("1..nan/3", "not a rate"),
            ("2000M", "at most 1000M"),
            ("1..90/m", "a range is"),
        ] {
            let error = rates(text).map(|levels| levels.0.len()).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
