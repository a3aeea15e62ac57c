//! A latency distribution as bars of text, for a terminal.

use hdrhistogram::Histogram;

use crate::format;

/// The longest bar, in characters.
const WIDTH: usize = 40;

/// Parts of a character cell, in eighths.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// The bounds that bins may have within a factor of ten.
const STEPS: [u64; 6] = [100, 150, 200, 300, 500, 700];

/// Bins on a logarithmic scale, one line each, from the shortest latency to the longest; empty
/// for an empty histogram.
///
/// The length of a bar is the share of the samples in its bin. A line that stands for any sample
/// at all shows at least a sliver.
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
        let low = format::duration(bin.low);
        let high = format::duration(bin.high);
        let bar = bar(bin.count as f64 / most as f64);
        format!("{low:>7} - {high:<7} {share:>8} {bar}").trim_end().to_owned()
    };
    bins.iter().map(line).collect()
}

struct Bin {
    low: u64,
    high: u64,
    count: u64,
}

fn bins(histogram: &Histogram<u64>) -> Vec<Bin> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let (first, last) = (histogram.min(), histogram.max());
    let mut bounds = Vec::new();
    let mut scale = 1;
    'all: loop {
        for step in STEPS {
            let bound = step * scale;
            bounds.push(bound);
            if bound > last {
                break 'all;
            }
        }
        scale *= 10;
    }
    let mut bins: Vec<Bin> = Vec::new();
    for pair in bounds.windows(2) {
        if pair[1] > first {
            bins.push(Bin { low: pair[0], high: pair[1], count: 0 });
        }
    }
    if bins.is_empty() || bins[0].low > first {
        bins.insert(0, Bin { low: 0, high: bounds[0], count: 0 });
    }
    for value in histogram.iter_recorded() {
        // The value stands for all that the histogram does not tell apart from it.
        let sample = histogram.lowest_equivalent(value.value_iterated_to());
        if let Some(bin) = bins.iter_mut().find(|bin| sample < bin.high) {
            bin.count += value.count_at_value();
        }
    }
    while bins.last().is_some_and(|bin| bin.count == 0) {
        bins.pop();
    }
    bins
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
    fn nothing_is_no_picture() {
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
    fn bars_are_as_long_as_their_share() {
        let mut values = vec![120_000; 75];
        values.extend(vec![250_000; 25]);
        let lines = bars(&histogram(values));
        assert_eq!(lines.len(), 3, "{lines:#?}");
        let blocks = |line: &str| line.chars().filter(|&c| c == '█').count();
        assert_eq!((blocks(&lines[0]), blocks(&lines[1])), (40, 0));
        assert_eq!(blocks(&lines[2]), 13);
        assert!(lines[0].contains("75.00 %"), "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn one_in_a_million_is_seen() {
        let mut values = vec![10_000; 1_000_000];
        values.push(1_000_000);
        let lines = bars(&histogram(values));
        assert!(lines.last().unwrap().ends_with("<0.01 % ▏"), "{lines:#?}");
    }
}
