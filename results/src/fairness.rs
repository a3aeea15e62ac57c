//! How evenly connections were served.

use crate::Fairness;

impl Fairness {
    /// Sums up the exchanges each connection completed; `None` when there were none at all.
    pub fn from_counts(exchanges: impl IntoIterator<Item = u64>) -> Option<Fairness> {
        let (mut connections, mut sum, mut squares) = (0u64, 0f64, 0f64);
        let (mut min, mut max) = (u64::MAX, 0);
        for count in exchanges {
            connections += 1;
            sum += count as f64;
            squares += (count as f64).powi(2);
            min = min.min(count);
            max = max.max(count);
        }
        (max > 0).then(|| Fairness { min, max, jain: sum * sum / (connections as f64 * squares) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_equal_shares_to_one_taking_all() {
        let fairness = Fairness::from_counts([5, 5, 5, 5]).unwrap();
        assert_eq!(fairness, Fairness { min: 5, max: 5, jain: 1.0 });
        let fairness = Fairness::from_counts([0, 8, 0, 0]).unwrap();
        assert_eq!(fairness, Fairness { min: 0, max: 8, jain: 0.25 });
        assert_eq!(Fairness::from_counts([]), None);
        assert_eq!(Fairness::from_counts([0, 0]), None);
    }
}
