//! Levels as the user writes them: `5k,10k,20k`, `5k..100k/10`, `1k..64k*2`.

use lockstep_sys::units;

/// Largest number of levels.
const LEVELS_MAX: usize = 1000;

/// Levels, ascending, no two the same. The type keeps clap from reading a `Vec` as a repeated
/// option.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Levels(pub Vec<u64>);

/// Parses levels: counts and ranges, separated by commas. `LOW..HIGH/N` is N levels at equal
/// distances; `LOW..HIGH*F` is LOW, LOW times F, and so on, up to HIGH.
///
/// # Errors
///
/// The notation to use.
pub(super) fn parse(text: &str) -> Result<Levels, String> {
    let mut levels = Vec::new();
    for part in text.split(',') {
        match part.split_once("..") {
            None => levels.push(units::count(part)?),
            Some((low, rest)) => range(units::count(low)?, rest, &mut levels)?,
        }
        if levels.len() > LEVELS_MAX {
            return Err(format!("at most {LEVELS_MAX} levels"));
        }
    }
    levels.sort_unstable();
    levels.dedup();
    match levels.first() {
        None | Some(0) => Err("must be at least 1".to_owned()),
        _ => Ok(Levels(levels)),
    }
}

fn range(low: u64, rest: &str, levels: &mut Vec<u64>) -> Result<(), String> {
    let wrong =
        || "a range is LOW..HIGH/N or LOW..HIGH*FACTOR: 5k..100k/10 or 1k..64k*2".to_owned();
    let ordered = |high: u64| match low <= high {
        true => Ok(high),
        false => Err("a range goes up: LOW must be below HIGH".to_owned()),
    };
    if let Some((high, number)) = rest.split_once('/') {
        let (high, number) = (ordered(units::count(high)?)?, units::count(number)?);
        if number < 2 || number as usize > LEVELS_MAX {
            return Err(format!("a range has from 2 to {LEVELS_MAX} levels"));
        }
        let step = (high - low) as f64 / (number - 1) as f64;
        levels.extend((0..number).map(|index| low + (step * index as f64).round() as u64));
        return Ok(());
    }
    let (high, factor) = rest.split_once('*').ok_or_else(wrong)?;
    let (high, factor) = (ordered(units::count(high)?)?, factor.parse::<f64>());
    let factor = factor.ok().filter(|factor| (1.01..=1000.0).contains(factor)).ok_or_else(wrong)?;
    let mut level = low as f64;
    while low > 0 && level.round() as u64 <= high {
        levels.push(level.round() as u64);
        level *= factor;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_lists_and_ranges() {
        let levels = |text| parse(text).unwrap().0;
        assert_eq!(levels("64"), [64]);
        assert_eq!(levels("20k,5k,10k,5k"), [5_000, 10_000, 20_000]);
        assert_eq!(levels("10..100/4"), [10, 40, 70, 100]);
        assert_eq!(levels("5k..100k/20")[..3], [5_000, 10_000, 15_000]);
        assert_eq!(levels("1..10*2"), [1, 2, 4, 8]);
        assert_eq!(levels("100..200*1.5"), [100, 150]);
        assert_eq!(levels("1..4*2,3,7..7/2"), [1, 2, 3, 4, 7]);
        // Levels that are equal when rounded appear once.
        assert_eq!(levels("1..3*1.1"), [1, 2, 3]);
    }

    #[test]
    fn level_errors() {
        for (text, words) in [
            ("", "not a count"),
            ("5k,", "not a count"),
            ("0", "at least 1"),
            ("0..8*2", "at least 1"),
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
            let error = parse(text).map(|levels| levels.0.len()).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
