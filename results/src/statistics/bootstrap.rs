//! Bootstrap interval of a median, computed exactly.

use super::binomial::Binomial;

/// Percentile bootstrap interval of the median of `values`, at the nominal `confidence`.
///
/// The bootstrap draws samples from `values`, with replacement and as large, and takes the middle
/// share `confidence` of their medians (Efron 1979). Which value is a sample's median depends only
/// on the ranks drawn, so its probability is a sum of binomial terms (Maritz and Jarrett 1978) and
/// the result is the limit of endless resampling: no seed can change a verdict.
///
/// With few values it covers the true median less often than `confidence`: see the
/// [module](super). `None` without values; they have to be finite.
pub fn median_interval(values: &[f64], confidence: f64) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let mut medians: Vec<(f64, f64)> = probabilities(values.len())
        .into_iter()
        .map(|(i, j, probability)| (f64::midpoint(values[i], values[j]), probability))
        .collect();
    medians.sort_by(|a, b| a.0.total_cmp(&b.0));
    let tail = (1.0 - confidence) / 2.0;
    Some((reach(medians.iter(), tail)?, reach(medians.iter().rev(), tail)?))
}

/// First of `medians` at which the sum of the probabilities exceeds `tail`.
fn reach<'a>(medians: impl Iterator<Item = &'a (f64, f64)>, tail: f64) -> Option<f64> {
    let mut sum = 0.0;
    let mut reached = medians.skip_while(|(_, probability)| {
        sum += probability;
        sum <= tail
    });
    reached.next().map(|&(median, _)| median)
}

/// Probability that the median of a resample is the mean of the values of the ranks `i` and `j`,
/// counted from 0: one rank twice, or, for an even `count`, any two.
fn probabilities(count: usize) -> Vec<(usize, usize, f64)> {
    // The lower of the two middle values of a resample, or the only one, is its `middle`th.
    let middle = count.div_ceil(2);
    let share = |ranks: usize| ranks as f64 / count as f64;
    // Probability that it is one of the `ranks` lowest values.
    let within: Vec<f64> = (0..=count)
        .map(|ranks| Binomial::new(count as u64, share(ranks)).at_least(middle as u64))
        .collect();
    // Probability that half of the draws are among the `ranks` + 1 values at an end, with one of
    // them the innermost; as a logarithm, with the ways to choose that half.
    let step = |ranks: usize| {
        let rest = (share(ranks) / share(ranks + 1)).powi(middle as i32);
        middle as f64 * share(ranks + 1).ln() + (-rest).ln_1p()
    };
    let half: Vec<f64> = (0..count).map(step).collect();
    let ways: f64 = (1..=middle).map(|k| ((middle + k) as f64 / k as f64).ln()).sum();

    let mut probabilities = Vec::new();
    for i in 0..count {
        let mut same = within[i + 1] - within[i];
        if count.is_multiple_of(2) {
            for j in i + 1..count {
                let probability = (ways + half[i] + half[count - 1 - j]).exp();
                probabilities.push((i, j, probability));
                same -= probability;
            }
        }
        // A difference of sums: what is left of nothing may be less than nothing.
        probabilities.push((i, i, same.max(0.0)));
    }
    probabilities
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{median_interval, probabilities};

    /// Every resample there is, counted.
    fn enumerated(count: usize) -> BTreeMap<(usize, usize), f64> {
        let mut found = BTreeMap::new();
        let samples = count.pow(count as u32);
        for sample in 0..samples {
            let mut ranks: Vec<usize> =
                (0..count).map(|place| sample / count.pow(place as u32) % count).collect();
            ranks.sort_unstable();
            let middle = (ranks[(count - 1) / 2], ranks[count / 2]);
            *found.entry(middle).or_default() += 1.0 / samples as f64;
        }
        found
    }

    #[test]
    fn probabilities_agree_with_all_resamples() {
        for count in 1..=6 {
            let expected = enumerated(count);
            let found = probabilities(count);
            assert_eq!(found.len(), expected.len());
            for (i, j, probability) in found {
                let expected = expected[&(i, j)];
                assert!((probability - expected).abs() < 1e-9, "{count} {i} {j}: {probability}");
            }
        }
    }

    #[test]
    fn probabilities_sum_to_one() {
        for count in [7, 20, 101, 400] {
            let sum: f64 = probabilities(count).iter().map(|&(_, _, p)| p).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{count}: {sum}");
        }
    }

    #[test]
    fn interval_ends_are_ranks_or_means_of_two() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        let interval = |count: usize| median_interval(&values[..count], 0.99).unwrap();
        assert_eq!(interval(1), (1.0, 1.0));
        assert_eq!(interval(5), (1.0, 5.0));
        assert_eq!(interval(6), (1.0, 6.0));
        assert_eq!(interval(7), (1.0, 7.0));
        assert_eq!(interval(8), (1.5, 7.5));
        assert_eq!(interval(9), (2.0, 8.0));
        assert_eq!(interval(11), (2.0, 10.0));
        assert_eq!(interval(15), (4.0, 12.0));
        assert_eq!(median_interval(&[], 0.99), None);
    }

    #[test]
    fn interval_is_independent_of_order_and_mirrors() {
        let values = [0.3, -0.1, 0.25, 0.02, 0.4, -0.3, 0.11, 0.07, 0.31, 0.2];
        let mut shuffled = values;
        shuffled.reverse();
        shuffled.swap(2, 7);
        let (low, high) = median_interval(&values, 0.99).unwrap();
        assert_eq!(median_interval(&shuffled, 0.99), Some((low, high)));
        let mirrored = values.map(|value| -value);
        assert_eq!(median_interval(&mirrored, 0.99), Some((-high, -low)));
    }

    #[test]
    fn interval_widens_with_confidence() {
        let values = [0.3, -0.1, 0.25, 0.02, 0.4, -0.3, 0.11, 0.07, 0.31, 0.2];
        let intervals =
            [0.5, 0.9, 0.95, 0.99, 0.998].map(|level| median_interval(&values, level).unwrap());
        for pair in intervals.windows(2) {
            assert!(pair[1].0 <= pair[0].0 && pair[0].1 <= pair[1].1, "{pair:?}");
        }
        assert!(intervals[4].0 < intervals[0].0);
    }
}
