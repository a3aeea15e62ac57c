//! Wilcoxon's signed-rank test, exact also with ties, for small samples.

/// Wilcoxon's signed-rank test: probability, if each difference were as likely to have the opposite
/// sign, that they lean to one side at least as much as they do. Two-sided.
///
/// Zeros are dropped, equal sizes share their mean rank, and the distribution is the exact one
/// given those ranks. Takes a time of about the cube of the number of differences.
pub fn signed_rank(differences: &[f64]) -> f64 {
    let differences: Vec<f64> = differences.iter().copied().filter(|&d| d != 0.0).collect();
    let sizes: Vec<f64> = differences.iter().map(|difference| difference.abs()).collect();
    let ranks = doubled_ranks(&sizes);
    let total: usize = ranks.iter().sum();
    // Probability of each sum of the positive ranks.
    let mut chances = vec![0.0; total + 1];
    chances[0] = 1.0;
    for &rank in &ranks {
        for sum in (0..=total).rev() {
            let with = if sum >= rank { chances[sum - rank] } else { 0.0 };
            chances[sum] = (chances[sum] + with) / 2.0;
        }
    }
    let positive = ranks.iter().zip(&differences).filter(|&(_, &difference)| difference > 0.0);
    two_sided(&chances, positive.map(|(rank, _)| rank).sum())
}

/// Probability of a sum as far out as `found`, on either side, from the weight of each sum.
fn two_sided(weights: &[f64], found: usize) -> f64 {
    let all: f64 = weights.iter().sum();
    let at_most: f64 = weights[..=found].iter().sum();
    let at_least: f64 = weights[found..].iter().sum();
    (2.0 * at_most.min(at_least) / all).min(1.0)
}

/// Twice the rank of each value, from 1 for the lowest; the mean rank for equal values, which
/// doubled is whole.
fn doubled_ranks(values: &[f64]) -> Vec<usize> {
    values
        .iter()
        .map(|value| {
            let lower = values.iter().filter(|&other| other < value).count();
            let equal = values.iter().filter(|&other| other == value).count();
            2 * lower + equal + 1
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::signed_rank;

    fn near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() <= 1e-9, "{found} for {expected}");
    }

    /// `scipy.stats.wilcoxon(d, method="exact").pvalue`, scipy 1.17.1.
    #[test]
    fn signed_rank_agrees_with_scipy() {
        let mixed = [0.5, -0.2, 0.9, 1.3, 0.7, -0.4, 0.3, 1.1];
        let rising: Vec<f64> = (1..=8).map(f64::from).collect();
        for (differences, expected) in [
            (&mixed[..3], 0.5),
            (&mixed[..5], 0.125),
            (&mixed[..], 0.0546875),
            (&rising[..3], 0.25),
            (&rising[..5], 0.0625),
            (&rising[..], 0.0078125),
        ] {
            near(signed_rank(differences), expected);
            let mirrored: Vec<f64> = differences.iter().map(|difference| -difference).collect();
            near(signed_rank(&mirrored), expected);
        }
        let twenty = [
            0.3012, 0.5987, -0.0259, 0.5906, -0.1547, 0.6916, 0.3601, 1.6402, -0.1922, 0.3205,
            0.7898, 0.6569, 0.4054, -0.6305, 0.2707, 0.9953, -1.0442, 0.1576, 1.6012, 0.9895,
        ];
        near(signed_rank(&twenty), 0.009435653686523438);
        near(signed_rank(&[]), 1.0);
    }

    /// `scipy.stats.wilcoxon(d, method=PermutationMethod(n_resamples=10**9)).pvalue`, and
    /// `wilcoxon([1, 2, -1.5, 3, 4], method="exact").pvalue` for the second.
    #[test]
    fn signed_rank_with_ties_and_zeros_agrees_with_scipy() {
        near(signed_rank(&[1.0, 1.0, -1.0, 2.0, 2.0, 3.0, -2.0, 4.0]), 0.1640625);
        near(signed_rank(&[0.0, 1.0, 2.0, -1.5, 3.0, 4.0, 0.0]), 0.1875);
    }
}
