//! A latency distribution as bars of text.

use hdrhistogram::Histogram;

use crate::format;

/// Longest bar, in characters.
const WIDTH: usize = 40;

/// Parts of a character cell, in eighths.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Number of bars that is aimed at.
const BARS: usize = 14;

/// Quantiles between which the bins are fine. The first and the last bin hold the samples outside.
const RANGE: [f64; 2] = [0.01, 0.99];

/// Lines from the shortest latency to the longest; empty for an empty histogram.
///
/// The length of a bar is the share of the samples in its bin. Any sample shows at least a sliver.
pub(super) fn bars(histogram: &Histogram<u64>) -> Vec<String> {
    let bins = bins(histogram);
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    let total = histogram.len() as f64;
    let line = |bin: &Bin| {
        let share = bin.count as f64 / total * 100.0;
        let share = match share {
            0.0 => "0 %".to_owned(),
            share if share < 0.01 => "<0.01 %".to_owned(),
            share => format!("{share:.2} %"),
        };
        let (low, high) = (format::duration(bin.low), format::duration(bin.high));
        let bar = bar(bin.count as f64 / most as f64);
        format!("{low:>7} - {high:>7} {share:>8} {bar}").trim_end().to_owned()
    };
    bins.iter().map(line).collect()
}

#[derive(Debug)]
struct Bin {
    low: u64,
    high: u64,
    count: u64,
}

fn bins(histogram: &Histogram<u64>) -> Vec<Bin> {
    let (low, high) = (histogram.min(), histogram.max());
    let range = RANGE.map(|quantile| histogram.value_at_quantile(quantile));
    let mut bins: Vec<Bin> = Vec::new();
    let mut last = low;
    for bound in bounds(range[0], range[1]).into_iter().filter(|&bound| bound > low) {
        bins.push(Bin { low: last, high: bound, count: 0 });
        last = bound;
    }
    bins.push(Bin { low: last, high: high.max(last), count: 0 });
    let end = bins.len() - 1;
    for value in histogram.iter_recorded() {
        // The value represents all values that the histogram does not distinguish from it.
        let sample = histogram.lowest_equivalent(value.value_iterated_to());
        let bin = bins[..end].iter().position(|bin| sample < bin.high).unwrap_or(end);
        bins[bin].count += value.count_at_value();
    }
    // An empty bin at an end has no meaning; one in the middle is a gap.
    let first = bins.iter().position(|bin| bin.count > 0).unwrap_or(bins.len());
    bins.drain(..first);
    while bins.last().is_some_and(|bin| bin.count == 0) {
        bins.pop();
    }
    bins
}

/// Bounds of bins from `low` to `high`: round values, about as many as there are to be bars. They
/// are evenly spaced, or by their logarithm if the range spans a factor of ten.
fn bounds(low: u64, high: u64) -> Vec<u64> {
    let scales = (0..20).map(|power| 10f64.powi(power));
    let within = |bounds: &[f64]| -> Vec<u64> {
        let inside = bounds.iter().filter(|&&bound| bound >= low as f64 && bound <= high as f64);
        inside.map(|&bound| bound as u64).collect()
    };
    let choices: Vec<Vec<u64>> = if high < low.saturating_mul(10) {
        let steps = scales.flat_map(|scale| [1.0, 2.0, 5.0].map(|digit| digit * scale));
        let even = |step: f64| {
            let first = (low as f64 / step).ceil();
            let count = ((high as f64 / step - first) as usize).min(2 * BARS);
            within(&(0..=count).map(|i| (first + i as f64) * step).collect::<Vec<_>>())
        };
        steps.map(even).collect()
    } else {
        let digits: [&[f64]; 4] = [
            &[1.0],
            &[1.0, 2.0, 5.0],
            &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            &[1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 4.0, 5.0, 6.0, 7.0, 8.5],
        ];
        let all = |digits: &[f64]| -> Vec<f64> {
            let scales = scales.clone();
            scales.flat_map(|scale| digits.iter().map(move |digit| digit * scale)).collect()
        };
        digits.into_iter().map(|digits| within(&all(digits))).collect()
    };
    let off = |bounds: &Vec<u64>| bounds.len().abs_diff(BARS - 1);
    choices.into_iter().min_by_key(off).unwrap_or_default()
}

fn bar(share: f64) -> String {
    let eighths = (share * (WIDTH * 8) as f64).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
        for value in values {
            histogram.record(value).unwrap();
        }
        histogram
    }

    #[test]
    fn empty_histogram_has_no_bars() {
        assert!(bars(&histogram([])).is_empty());
    }

    #[test]
    fn every_sample_is_in_one_bin() {
        let values = || (0..5000u64).map(|i| 50 + i * i * 7);
        let histogram = histogram(values());
        let bins = bins(&histogram);
        assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), histogram.len());
        for pair in bins.windows(2) {
            assert_eq!(pair[0].high, pair[1].low);
        }
        assert!(bins[0].low <= 50 && bins.last().unwrap().high > 4999 * 4999 * 7);
        assert!(bins[0].count > 0 && bins.last().unwrap().count > 0);
    }

    #[test]
    fn narrow_and_wide_distributions_have_about_fourteen_bars() {
        for spread in [3, 10, 50, 1_000, 1_000_000] {
            let lines = bars(&histogram((0..10_000u64).map(|i| 500_000 + i * i * spread / 1000)));
            assert!((8..=22).contains(&lines.len()), "{spread}: {lines:#?}");
            assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        }
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        let mut values = vec![120_000; 75];
        values.extend(vec![250_000; 25]);
        let lines = bars(&histogram(values));
        let blocks = |line: &str| line.chars().filter(|&c| c == '█').count();
        let filled: Vec<usize> = lines.iter().map(|line| blocks(line)).filter(|&n| n > 0).collect();
        assert_eq!(filled, [40, 13], "{lines:#?}");
        assert!(lines[0].contains("75.00 %"), "{lines:#?}");
    }

    #[test]
    fn rare_sample_has_a_sliver() {
        let mut values = vec![10_000; 1_000_000];
        values.push(1_000_000);
        let lines = bars(&histogram(values));
        assert!(lines.last().unwrap().ends_with("<0.01 % ▏"), "{lines:#?}");
    }
}
