//! Median and spread of a few values.

/// Median; `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let &high = values.get(middle)?;
    let low = if values.len().is_multiple_of(2) { values[middle - 1] } else { high };
    Some(f64::midpoint(low, high))
}

/// Spread of values around their median, as a share of it: the median distance, scaled to be the
/// standard deviation of Gaussian noise. Half of the values may be wild without moving it far.
///
/// `None` without values, or around zero.
pub fn spread(values: &[f64]) -> Option<f64> {
    /// 1 over the third quartile of the normal distribution.
    const TO_DEVIATION: f64 = 1.482_602_218_505_602;
    let center = median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - center).abs()).collect();
    (center != 0.0).then_some(TO_DEVIATION * median(&distances)? / center.abs())
}

#[cfg(test)]
mod tests {
    use super::{median, spread};

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    /// `scipy.stats.median_abs_deviation(x, scale="normal") / numpy.median(x)`, scipy 1.17.1.
    #[test]
    fn spread_agrees_with_scipy() {
        let found = spread(&[3.1, 4.7, 2.2, 6.4, 5.1, 2.9]).unwrap();
        assert!((found / 0.41816985650157995 - 1.0).abs() < 1e-9, "{found}");
        assert_eq!(spread(&[2.0, 2.0, 100.0]), Some(0.0), "one wild value does not count");
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[0.0]), None);
    }
}
