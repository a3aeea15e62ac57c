//! Whether the load went on rising or falling while it was measured.

/// The fewest intervals that a trend is looked for in.
const INTERVALS_MIN: usize = 8;

/// So many standard deviations are no chance: by chance 1 in 1,000 runs comes so far.
const CLEAR: f64 = 3.3;

/// The least change that matters, from the first quarter of the window to the last.
const CHANGE: f64 = 0.05;

/// By which share the last quarter of the window is above the first, if the rates clearly rise or
/// fall on the whole (Mann 1945, Kendall's rank correlation with time) and that is not little.
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

/// Pairs in which the later value is higher, less those in which it is lower, in standard
/// deviations of what chance would make of it.
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
    fn kendalls_score_is_scipys() {
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
    fn a_clear_rise_or_fall_is_a_trend() {
        let rising: Vec<f64> = (0..10).map(|i| 100.0 + 2.0 * f64::from(i)).collect();
        assert!((trend(&rising).unwrap() - 0.1584).abs() < 1e-3, "{:?}", trend(&rising));
        let falling: Vec<f64> = rising.iter().rev().copied().collect();
        assert!(trend(&falling).unwrap() < -0.05);
    }

    #[test]
    fn chance_and_little_are_none() {
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
