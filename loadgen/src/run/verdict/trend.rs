//! Trend of the throughput in the measured window.

/// Fewest intervals in which a trend is looked for.
const INTERVALS_MIN: usize = 8;

/// Standard deviations from which on a trend is not chance, which 1 in 1,000 runs reaches.
const CLEAR: f64 = 3.3;

/// Least change that matters, from the first quarter of the window to the last.
const CHANGE: f64 = 0.05;

/// Relative change from the first quarter of the window to the last, if the rates clearly rise or
/// fall on the whole (Mann 1945, Kendall's rank correlation with time) and it is not small.
pub fn trend(rates: &[f64]) -> Option<f64> {
    if rates.len() < INTERVALS_MIN || kendall(rates).abs() < CLEAR {
        return None;
    }
    let quarter = rates.len() / 4;
    let first: f64 = rates[..quarter].iter().sum();
    let last: f64 = rates[rates.len() - quarter..].iter().sum();
    let change = last / first - 1.0;
    (change.abs() >= CHANGE && change.is_finite()).then_some(change)
}

/// Number of pairs in which the later value is higher, less those in which it is lower, in standard
/// deviations of its distribution by chance.
fn kendall(values: &[f64]) -> f64 {
    let mut score = 0.0;
    for (index, earlier) in values.iter().enumerate() {
        for later in &values[index + 1..] {
            score += f64::from(later > earlier) - f64::from(later < earlier);
        }
    }
    let pairs = |count: f64| count * (count - 1.0) * (2.0 * count + 5.0);
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let ties: f64 = sorted.chunk_by(|a, b| a == b).map(|equal| pairs(equal.len() as f64)).sum();
    let variance = (pairs(values.len() as f64) - ties) / 18.0;
    if variance > 0.0 { score / variance.sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::{kendall, trend};

    /// `norm.isf(kendalltau(range(n), values, method="asymptotic").pvalue / 2)`, scipy 1.17.1.
    #[test]
    fn kendall_equals_scipy() {
        for (values, expected) in [
            (&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0][..], 4.024922359499622),
            (&[3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0, 5.0], 1.267554559247631),
            (&[10.0, 12.0, 11.0, 13.0, 15.0, 14.0, 16.0, 18.0, 17.0, 20.0], 3.4882660448996727),
        ] {
            let found = kendall(values);
            assert!((found / expected - 1.0).abs() < 1e-9, "{found} for {expected}");
            let mirrored: Vec<f64> = values.iter().map(|value| -value).collect();
            assert!((kendall(&mirrored) + found).abs() < 1e-12);
        }
        assert_eq!(kendall(&[7.0; 20]), 0.0);
    }

    #[test]
    fn clear_rise_or_fall_is_a_trend() {
        let rising: Vec<f64> = (0..10).map(|i| 100.0 + 2.0 * f64::from(i)).collect();
        assert!((trend(&rising).unwrap() - 0.1584).abs() < 1e-3, "{:?}", trend(&rising));
        let falling: Vec<f64> = rising.iter().rev().copied().collect();
        assert!(trend(&falling).unwrap() < -0.05);
    }

    #[test]
    fn chance_and_small_changes_are_no_trend() {
        let little: Vec<f64> = (0..20).map(|i| 1000.0 + f64::from(i)).collect();
        assert_eq!(trend(&little), None, "clear, but 2 %");
        assert_eq!(trend(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), None, "too short to tell");
        assert_eq!(trend(&[]), None);
        assert_eq!(trend(&[0.0; 30]), None);
        let mut rng = fastrand::Rng::with_seed(9);
        let mut noise = || (0..10).map(|_| 1.0 + rng.f64()).collect::<Vec<f64>>();
        let found = (0..2000).filter(|_| trend(&noise()).is_some()).count();
        assert!(found <= 8, "{found} of 2000 by chance");
    }
}
