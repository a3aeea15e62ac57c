//! How long a load goes on before it is measured.
//!
//! A new server is slow: its pages are not mapped, its branches not learned, its connections not
//! spread over its turns. How long that lasts hangs on the server and the machine, so a closed
//! loop can be watched until it is steady: exchanges are counted in short slices, the first half of
//! all slices is left out, and the third quarter is compared with the fourth. So the longer it
//! takes, the longer are the stretches that are compared, and the less do waves and noise matter.

use std::time::Duration;

use lockstep_sys::units;

/// The length of a slice.
pub const SLICE: Duration = Duration::from_millis(10);

/// The shortest warm-up that is detected, in slices: quarters of five.
const SLICES_MIN: usize = 20;

/// The longest, in slices: 3 s.
const SLICES_MAX: usize = 300;

/// Rates no further apart are steady: less than a comparison of some rounds can tell apart.
const TOLERANCE: f64 = 0.03;

/// So many standard errors are noise, and no trend.
const ERRORS: f64 = 2.0;

/// How long to warm up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Warmup {
    /// So long.
    Fixed(Duration),
    /// Until the load is steady, within bounds.
    Auto,
}

impl Warmup {
    /// Parses `auto` or a duration.
    ///
    /// # Errors
    ///
    /// What is wrong about the duration.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            text => Ok(Self::Fixed(units::duration(text)?)),
        }
    }
}

/// How a watched warm-up ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The load was steady.
    Steady,
    /// It was not, but had time enough.
    Bound,
}

impl End {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Bound => "bound",
        }
    }
}

/// A closed loop under watch.
#[derive(Debug, Default)]
pub struct Watch {
    slices: Vec<Slice>,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    length_ns: u64,
    exchanges: u64,
}

impl Slice {
    fn rate(self) -> f64 {
        self.exchanges as f64 / self.length_ns.max(1) as f64
    }
}

impl Watch {
    /// Takes the next slice, however long it came out, and says whether the warm-up is over.
    pub fn note(&mut self, length_ns: u64, exchanges: u64) -> Option<End> {
        self.slices.push(Slice { length_ns, exchanges });
        if self.slices.len() >= SLICES_MIN && self.is_steady() {
            Some(End::Steady)
        } else {
            (self.slices.len() >= SLICES_MAX).then_some(End::Bound)
        }
    }

    fn is_steady(&self) -> bool {
        let quarter = self.slices.len() / 4;
        let (rest, fourth) = self.slices.split_at(self.slices.len() - quarter);
        let third = &rest[rest.len() - quarter..];
        let (before, after) = (rate(third), rate(fourth));
        let noise = ((variance(third) + variance(fourth)) / quarter as f64).sqrt();
        let limit = (TOLERANCE * f64::midpoint(before, after)).max(ERRORS * noise);
        // A load that does not move at all has not begun.
        after > 0.0 && (after - before).abs() <= limit
    }
}

/// Exchanges a nanosecond.
fn rate(slices: &[Slice]) -> f64 {
    let exchanges: u64 = slices.iter().map(|slice| slice.exchanges).sum();
    let length_ns: u64 = slices.iter().map(|slice| slice.length_ns).sum();
    exchanges as f64 / length_ns.max(1) as f64
}

/// Of the slices' rates around their mean.
fn variance(slices: &[Slice]) -> f64 {
    let mean = rate(slices);
    let squares: f64 = slices.iter().map(|slice| (slice.rate() - mean).powi(2)).sum();
    squares / (slices.len() - 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Watches a load of so many exchanges in each slice, and says when it ended, and how.
    fn watch(mut exchanges: impl FnMut(usize) -> f64) -> (usize, End) {
        let mut watch = Watch::default();
        for slice in 0.. {
            let length_ns = SLICE.as_nanos() as u64;
            if let Some(end) = watch.note(length_ns, exchanges(slice).round() as u64) {
                return (slice + 1, end);
            }
        }
        unreachable!("it is bounded")
    }

    #[test]
    fn what_is_steady_from_the_start_is_steady_at_the_earliest() {
        assert_eq!(watch(|_| 1000.0), (SLICES_MIN, End::Steady));
        assert_eq!(watch(|_| 1.0), (SLICES_MIN, End::Steady));
    }

    #[test]
    fn a_start_that_is_slow_is_left_out() {
        // The first 300 ms at half speed.
        let (slices, end) = watch(|slice| if slice < 30 { 500.0 } else { 1000.0 });
        assert_eq!(end, End::Steady);
        // Steady it is also before: what is not seen cannot be waited for.
        assert_eq!(slices, SLICES_MIN);
        let (slices, end) = watch(|slice| if slice < 15 { 500.0 } else { 1000.0 });
        assert_eq!(end, End::Steady);
        assert!((21..=32).contains(&slices), "{slices}");
    }

    #[test]
    fn a_gradual_start_is_waited_for() {
        for time_constant in [5.0, 10.0, 30.0] {
            let level = |slice: f64| 1.0 - (-slice / time_constant).exp();
            let (slices, end) = watch(|slice| 10_000.0 * level(slice as f64));
            assert_eq!(end, End::Steady);
            assert!(level(slices as f64) > 0.98, "{time_constant}: {slices}");
            assert!((slices as f64) < 8.0 * time_constant.max(3.0), "{time_constant}: {slices}");
        }
    }

    #[test]
    fn noise_is_not_waited_for() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut late = 0;
        for _ in 0..100 {
            // A standard deviation of 20 %.
            let (slices, end) = watch(|_| 1000.0 * (1.0 + 0.7 * (rng.f64() - 0.5)));
            assert_eq!(end, End::Steady);
            late += usize::from(slices > 2 * SLICES_MIN);
        }
        assert!(late <= 5, "{late} of 100 took twice as long as they had to");
    }

    #[test]
    fn what_does_not_settle_ends_at_the_bound() {
        assert_eq!(watch(|slice| 100.0 * (slice + 1) as f64), (SLICES_MAX, End::Bound));
        assert_eq!(watch(|slice| 1e6 * 0.97f64.powi(slice as i32)), (SLICES_MAX, End::Bound));
        assert_eq!(watch(|_| 0.0), (SLICES_MAX, End::Bound), "nothing is not steady");
    }

    #[test]
    fn slices_of_any_length_are_rates() {
        let mut watch = Watch::default();
        let end = (1..).find_map(|slice| {
            let length_ns = if slice % 3 == 0 { 25_000_000 } else { 10_000_000 };
            watch.note(length_ns, length_ns / 10_000)
        });
        assert_eq!((end, watch.slices.len()), (Some(End::Steady), SLICES_MIN));
    }

    #[test]
    fn auto_or_a_duration() {
        assert_eq!(Warmup::parse("auto"), Ok(Warmup::Auto));
        assert_eq!(Warmup::parse("0s"), Ok(Warmup::Fixed(Duration::ZERO)));
        assert!(Warmup::parse("10").unwrap_err().contains("write 10s"));
    }
}
