//! Axes: places of values, and round values for ticks.

use std::fmt::Write as _;

use super::escape;
use super::figure::number;
use super::unit::Unit;

/// Largest value of an axis; sums and ratios of such values are still finite.
const VALUE_MAX: f64 = 1e30;

/// Smallest value of a logarithmic axis.
const POSITIVE_MIN: f64 = 1e-30;

/// Least distance between ticks of ratios, in the drawing's units.
const TICKS_APART: f64 = 46.0;

/// Width of a character of a label, about.
const CHARACTER: f64 = 6.9;

/// Relation between distances on an axis and values.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Linear,
    Log,
}

/// An axis: its values, and its place on the drawing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Scale {
    /// Linear, from zero to a little above `max`.
    pub(crate) fn from_zero(unit: Unit, max: f64) -> Scale {
        let max = if max.is_finite() && max > 0.0 { max.min(VALUE_MAX) } else { 1.0 };
        Scale::new(Kind::Linear, unit, 0.0, max * 1.04)
    }

    /// Linear, exactly between two values.
    pub(crate) fn between(unit: Unit, low: f64, high: f64) -> Scale {
        Scale::new(Kind::Linear, unit, low, high)
    }

    /// Logarithmic where the values span a factor of ten or more, else linear from zero.
    pub(crate) fn spanning(unit: Unit, values: impl IntoIterator<Item = f64>) -> Scale {
        let values = values.into_iter().filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) =
            values.fold((f64::MAX, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
        if high >= low * 10.0 {
            Scale::new(Kind::Log, unit, low / 1.15, high * 1.15)
        } else {
            Scale::from_zero(unit, high)
        }
    }

    /// Logarithmic around 1, so that twice as much and half as much are equally far from it.
    pub(crate) fn of_ratios(values: impl IntoIterator<Item = f64>) -> Scale {
        let values = values.into_iter().filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = values.fold((1.0f64, 1.0f64), |(low, high), v| (low.min(v), high.max(v)));
        // At least 5 % on both sides: noise should look small.
        let (low, high) = (low.clamp(1e-6, 0.95), high.clamp(1.05, 1e6));
        let margin = (high / low).powf(0.04);
        Scale::new(Kind::Log, Unit::Ratio, low / margin, high * margin)
    }

    /// From `low` to `high`; an empty or infinite range is replaced by a valid one.
    pub(crate) fn new(kind: Kind, unit: Unit, low: f64, high: f64) -> Scale {
        let finite = |value: f64| if value.is_finite() { value } else { 0.0 };
        let least = if kind == Kind::Log { POSITIVE_MIN } else { -VALUE_MAX };
        let low = finite(low).clamp(least, VALUE_MAX);
        let high = finite(high).clamp(least, VALUE_MAX);
        let high = if high > low { high } else { low.abs().max(POSITIVE_MIN) * 2.0 };
        Scale { kind, unit, low, high, start: 0.0, end: 1.0 }
    }

    /// Lays the axis between two places of the drawing; downwards if `end` is less.
    pub(crate) fn over(self, start: f64, end: f64) -> Scale {
        Scale { start, end, ..self }
    }

    /// Place of a value; an end of the axis for a value beyond it. Always finite.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let value = if value.is_nan() { self.low } else { value.clamp(self.low, self.high) };
        let share = match self.kind {
            Kind::Linear => (value - self.low) / (self.high - self.low),
            Kind::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        self.start + share * (self.end - self.start)
    }

    /// Round values on the axis, ascending.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let candidates = match (self.unit, self.kind) {
            (Unit::Percentile, _) => nines(self.high),
            (Unit::Ratio, Kind::Log) => return self.around_one(),
            (_, Kind::Log) => decades(self.low, self.high),
            (_, Kind::Linear) => steps(self.low, self.high),
        };
        candidates.into_iter().filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }

    /// Vertical grid lines at the ticks, with labels below them where the one before leaves room.
    pub(crate) fn grid(&self, top: f64, bottom: f64) -> String {
        let mut grid = String::new();
        let mut end = f64::NEG_INFINITY;
        for tick in self.ticks() {
            let (place, label) = (self.at(tick), self.unit.show(tick));
            let x = number(place);
            let _ = write!(grid, "<path class=\"grid\" d=\"M{x} {top}V{bottom}\"/>");
            let half = label.chars().count() as f64 * CHARACTER / 2.0;
            if place - half > end + CHARACTER {
                let (y, label) = (number(bottom + 17.0), escape(&label));
                let _ = write!(grid, "<text x=\"{x}\" y=\"{y}\">{label}</text>");
                end = place + half;
            }
        }
        grid
    }

    /// 1, and outwards from it as many round ratios as have room.
    fn around_one(&self) -> Vec<f64> {
        const ABOVE: [f64; 13] =
            [1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0, 1e3, 1e4];
        const BELOW: [f64; 13] =
            [0.99, 0.98, 0.95, 0.9, 0.8, 0.67, 0.5, 0.33, 0.2, 0.1, 0.01, 1e-3, 1e-4];
        let mut ticks = vec![1.0];
        for side in [ABOVE, BELOW] {
            let mut last = self.at(1.0);
            for tick in side.into_iter().filter(|tick| (self.low..=self.high).contains(tick)) {
                if (self.at(tick) - last).abs() >= TICKS_APART {
                    last = self.at(tick);
                    ticks.push(tick);
                }
            }
        }
        ticks.sort_by(f64::total_cmp);
        ticks
    }

    /// Axis for the script: `log 1000 2e6 56 446 ns`.
    pub(crate) fn describe(&self) -> String {
        let kind = match self.kind {
            Kind::Linear => "linear",
            Kind::Log => "log",
        };
        let Scale { low, high, start, end, .. } = self;
        format!("{kind} {low:e} {high:e} {start} {end} {}", self.unit.name())
    }
}

/// 50 %, 90 %, 99 % and so on, as numbers of nines.
fn nines(high: f64) -> Vec<f64> {
    let whole = (1..=high.clamp(0.0, 20.0) as u32).map(f64::from);
    std::iter::once(std::f64::consts::LOG10_2).chain(whole).collect()
}

/// 1, 2 and 5 of each power of ten, or only the powers where there are many.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let apart = ((last - first) / 8 + 1) as usize;
    let within: &[f64] = if last - first <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let powers = (first..=last).step_by(apart);
    powers.flat_map(|power| within.iter().map(move |&digit| digit * 10f64.powi(power))).collect()
}

/// About five multiples of a round step.
fn steps(low: f64, high: f64) -> Vec<f64> {
    let raw = (high - low) / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|digit| digit * power);
    let step = step.into_iter().find(|&step| step >= raw).unwrap_or(raw);
    let first = (low / step).ceil();
    (0..12).map(|index| (first + f64::from(index)) * step).collect()
}

#[cfg(test)]
mod tests {
    use super::{Kind, Scale, Unit};

    #[test]
    fn places_of_any_value_are_on_the_axis() {
        let scales = [
            Scale::from_zero(Unit::PerSecond, f64::NAN),
            Scale::from_zero(Unit::PerSecond, 1e308),
            Scale::spanning(Unit::Nanoseconds, [0.0, f64::INFINITY]),
            Scale::spanning(Unit::Nanoseconds, [1e-300, 1e300]),
            Scale::of_ratios([0.0, f64::NAN, 1e300]),
            Scale::between(Unit::Seconds, 3.0, 3.0),
            Scale::between(Unit::Seconds, f64::NAN, -1e308),
        ];
        for scale in scales.map(|scale| scale.over(400.0, 50.0)) {
            for value in [0.0, -1.0, 1.0, 1e308, f64::MAX, f64::NAN, f64::NEG_INFINITY, 1e-320] {
                let place = scale.at(value);
                assert!((50.0..=400.0).contains(&place), "{place} for {value} on {scale:?}");
            }
            assert!(scale.ticks().len() < 40, "{scale:?}");
        }
    }

    #[test]
    fn scale_is_logarithmic_for_a_decade() {
        let kind = |values: [f64; 2]| Scale::spanning(Unit::Nanoseconds, values).kind;
        assert_eq!(kind([1000.0, 9000.0]), Kind::Linear);
        assert_eq!(kind([1000.0, 10_000.0]), Kind::Log);
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(Scale::from_zero(Unit::PerSecond, 90.0).ticks(), [0.0, 20.0, 40.0, 60.0, 80.0]);
        let log = Scale::spanning(Unit::Nanoseconds, [1000.0, 30_000.0]);
        assert_eq!(log.ticks(), [1e3, 2e3, 5e3, 1e4, 2e4]);
        let wide = Scale::spanning(Unit::Nanoseconds, [100.0, 5e6]);
        assert_eq!(wide.ticks(), [1e2, 1e3, 1e4, 1e5, 1e6]);
        let nines = Scale::between(Unit::Percentile, 0.0, 3.5);
        let labels: Vec<String> = nines.ticks().iter().map(|&t| Unit::Percentile.show(t)).collect();
        assert_eq!(labels, ["50%", "90%", "99%", "99.9%"]);
        let ratios = Scale::of_ratios([0.8, 1.3]).over(0.0, 215.0);
        assert_eq!(ratios.ticks(), [0.8, 1.0, 1.2]);
    }
}
