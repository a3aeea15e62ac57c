//! Warm-up: the time that a load goes on before it is measured.
//!
//! A new server is slow: its pages are not mapped, its branches are not predicted. For how long
//! depends on the server and the machine, so a closed loop can be watched until it is steady:
//! exchanges are counted in samples of a fixed length, the first half of all samples is dropped,
//! and the third quarter is compared with the fourth. So the longer this takes, the longer are the
//! stretches that are compared, and the less do fluctuations and noise matter.

use std::time::Duration;

use lockstep_sys::units;

/// Length of a sample.
pub const SAMPLE: Duration = Duration::from_millis(10);

/// Shortest warm-up that is detected, in samples: quarters of five.
const SAMPLES_MIN: usize = 20;

/// Longest warm-up, in samples: 3 s.
const SAMPLES_MAX: usize = 300;

/// Relative difference of rates that are steady: less than a comparison of some rounds detects.
const TOLERANCE: f64 = 0.03;

/// Number of standard errors that are noise, and no trend.
const ERRORS: f64 = 2.0;

/// Length of the warm-up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Warmup {
    /// A fixed time.
    Fixed(Duration),
    /// Until the load is steady, within bounds.
    Auto,
}

impl Warmup {
    /// Parses `auto` or a duration.
    ///
    /// # Errors
    ///
    /// The error of a malformed duration.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            text => Ok(Self::Fixed(units::duration(text)?)),
        }
    }
}

/// End of a watched warm-up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The load was steady.
    Steady,
    /// The load was not steady after the longest warm-up.
    Bound,
}

impl End {
    /// Name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Bound => "bound",
        }
    }
}

/// Watches a closed loop.
#[derive(Debug, Default)]
pub struct Watch {
    samples: Vec<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    length_ns: u64,
    exchanges: u64,
}

impl Sample {
    fn rate(self) -> f64 {
        self.exchanges as f64 / self.length_ns.max(1) as f64
    }
}

impl Watch {
    /// Adds the next sample, of any length. Returns the end of the warm-up once it is over.
    pub fn add(&mut self, length_ns: u64, exchanges: u64) -> Option<End> {
        self.samples.push(Sample { length_ns, exchanges });
        if self.samples.len() >= SAMPLES_MIN && self.is_steady() {
            Some(End::Steady)
        } else {
            (self.samples.len() >= SAMPLES_MAX).then_some(End::Bound)
        }
    }

    fn is_steady(&self) -> bool {
        let quarter = self.samples.len() / 4;
        let (rest, fourth) = self.samples.split_at(self.samples.len() - quarter);
        let third = &rest[rest.len() - quarter..];
        let (before, after) = (rate(third), rate(fourth));
        let noise = ((variance(third) + variance(fourth)) / quarter as f64).sqrt();
        let limit = (TOLERANCE * f64::midpoint(before, after)).max(ERRORS * noise);
        // A load without exchanges has not begun.
        after > 0.0 && (after - before).abs() <= limit
    }
}

/// Exchanges per nanosecond.
fn rate(samples: &[Sample]) -> f64 {
    let exchanges: u64 = samples.iter().map(|sample| sample.exchanges).sum();
    let length_ns: u64 = samples.iter().map(|sample| sample.length_ns).sum();
    exchanges as f64 / length_ns.max(1) as f64
}

/// Variance of the samples' rates.
fn variance(samples: &[Sample]) -> f64 {
    let mean = rate(samples);
    let squares: f64 = samples.iter().map(|sample| (sample.rate() - mean).powi(2)).sum();
    squares / (samples.len() - 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Watches a load with this number of exchanges in each sample; returns when and how it ended.
    fn watch(mut exchanges: impl FnMut(usize) -> f64) -> (usize, End) {
        let mut watch = Watch::default();
        for sample in 0.. {
            let length_ns = SAMPLE.as_nanos() as u64;
            if let Some(end) = watch.add(length_ns, exchanges(sample).round() as u64) {
                return (sample + 1, end);
            }
        }
        unreachable!("it is bounded")
    }

    #[test]
    fn steady_load_ends_at_the_earliest() {
        assert_eq!(watch(|_| 1000.0), (SAMPLES_MIN, End::Steady));
        assert_eq!(watch(|_| 1.0), (SAMPLES_MIN, End::Steady));
    }

    #[test]
    fn slow_start_is_dropped() {
        // The first 300 ms at half speed.
        let (samples, end) = watch(|sample| if sample < 30 { 500.0 } else { 1000.0 });
        assert_eq!(end, End::Steady);
        // It is steady before that, too: a later rise cannot be foreseen.
        assert_eq!(samples, SAMPLES_MIN);
        let (samples, end) = watch(|sample| if sample < 15 { 500.0 } else { 1000.0 });
        assert_eq!(end, End::Steady);
        assert!((21..=32).contains(&samples), "{samples}");
    }

    #[test]
    fn gradual_start_is_waited_for() {
        for time_constant in [5.0, 10.0, 30.0] {
            let level = |sample: f64| 1.0 - (-sample / time_constant).exp();
            let (samples, end) = watch(|sample| 10_000.0 * level(sample as f64));
            assert_eq!(end, End::Steady);
            assert!(level(samples as f64) > 0.98, "{time_constant}: {samples}");
            assert!((samples as f64) < 8.0 * time_constant.max(3.0), "{time_constant}: {samples}");
        }
    }

    #[test]
    fn noise_is_not_waited_for() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut late = 0;
        for _ in 0..100 {
            // A standard deviation of 20 %.
            let (samples, end) = watch(|_| 1000.0 * (1.0 + 0.7 * (rng.f64() - 0.5)));
            assert_eq!(end, End::Steady);
            late += usize::from(samples > 2 * SAMPLES_MIN);
        }
        assert!(late <= 5, "{late} of 100 took twice as long as they had to");
    }

    #[test]
    fn unsteady_load_ends_at_the_bound() {
        assert_eq!(watch(|sample| 100.0 * (sample + 1) as f64), (SAMPLES_MAX, End::Bound));
        assert_eq!(watch(|sample| 1e6 * 0.97f64.powi(sample as i32)), (SAMPLES_MAX, End::Bound));
        assert_eq!(watch(|_| 0.0), (SAMPLES_MAX, End::Bound), "nothing is not steady");
    }

    #[test]
    fn samples_may_have_any_length() {
        let mut watch = Watch::default();
        let end = (1..).find_map(|sample| {
            let length_ns = if sample % 3 == 0 { 25_000_000 } else { 10_000_000 };
            watch.add(length_ns, length_ns / 10_000)
        });
        assert_eq!((end, watch.samples.len()), (Some(End::Steady), SAMPLES_MIN));
    }

    #[test]
    fn parses_auto_or_a_duration() {
        assert_eq!(Warmup::parse("auto"), Ok(Warmup::Auto));
        assert_eq!(Warmup::parse("0s"), Ok(Warmup::Fixed(Duration::ZERO)));
        assert!(Warmup::parse("10").unwrap_err().contains("write 10s"));
    }
}
