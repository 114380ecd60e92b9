//! Axes: which part of the numbers a chart shows, and how they are written beside it.

use std::sync::Arc;

use kuva::prelude::TickFormat;

use crate::{Error, Result};

/// Whether a number can be placed on an axis, even after sums and differences.
pub(super) fn drawable(value: f64) -> bool {
    value.abs() < 1e300
}

/// The lowest and the highest of the numbers that can be drawn.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|&value| drawable(value)).fold(None, |found, value| {
        let (low, high) = found.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// A range with a part of its span added on both sides; a single value gets room around it.
pub(super) fn padded((low, high): (f64, f64), part: f64) -> (f64, f64) {
    let size = low.abs().max(high.abs());
    let more = match high - low {
        span if span > size * 1e-9 && span > f64::MIN_POSITIVE => span * part,
        // Below that a number is as good as zero on an axis.
        _ if size < 1e-290 => 1.0,
        _ => size * 0.5,
    };
    (low - more, high + more)
}

/// The parts of the numbers that may be left out for the others to be seen.
const LEFT_OUT: [f64; 6] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05];

/// The range in which the bulk of the numbers lies, with a margin: all of them, unless leaving out a few strays, the fewer the
/// better and at most one in twenty, spreads the others over a much larger part of the axis.
pub fn bulk(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut sorted: Vec<f64> = values.filter(|&value| drawable(value)).collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let span = |range: &(f64, f64)| range.1 - range.0;
    let shortest_without = |out: usize| {
        let ranges = (0..=out).map(|i| (sorted[i], sorted[last - out + i]));
        ranges.min_by(|a, b| span(a).total_cmp(&span(b))).expect("there is a range for every first number")
    };
    let whole = (sorted[0], sorted[last]);
    let mut chosen = (whole, span(&whole));
    for part in LEFT_OUT {
        let out = (sorted.len() as f64 * part) as usize;
        let range = shortest_without(out);
        let price = 2.0 * (1.0 + 40.0 * part) * span(&range);
        // A single value that most have is no bulk that could be looked at.
        let single = span(&range) <= 1e-9 * range.0.abs().max(range.1.abs());
        if out > 0 && !single && price < chosen.1 {
            chosen = (range, price);
        }
    }
    Some(padded(chosen.0, 0.05))
}

/// The part of the numbers an axis shows, counted in a power of ten where they are large or small.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    /// Its ends, in that power of ten.
    pub(super) low: f64,
    pub(super) high: f64,
    exponent: i32,
    pub(super) log: bool,
}

impl Axis {
    /// An even axis over a range.
    pub(super) fn even(range: (f64, f64)) -> Result<Self> {
        let (low, high) = range;
        // Margins may reach a little beyond what is drawn.
        if !(low < high && low.abs().max(high.abs()) < 1e304) {
            return Err(Error::new(format!(
                "a picture cannot have the bounds {low} to {high}; give a lower and a higher finite one"
            )));
        }
        // A range too narrow to be told from a number is one.
        let range = if padded(range, 0.0) == range { range } else { padded(range, 0.0) };
        Ok(Self::over(range, false))
    }

    /// A logarithmic axis over a range of positive numbers, and at most ten powers of ten.
    pub(super) fn log((low, high): (f64, f64)) -> Self {
        Self::over((low.max(high * 1e-10) / 1.1, high * 1.1), true)
    }

    fn over((low, high): (f64, f64), log: bool) -> Self {
        let exponent = match low.abs().max(high.abs()).log10().floor() as i32 {
            -3..=3 => 0,
            power @ 4..=11 => power - power.rem_euclid(3),
            power => power.clamp(-290, 300),
        };
        let axis = Self { low, high, exponent, log };
        Self { low: axis.units(low), high: axis.units(high), ..axis }
    }

    /// A number in the power of ten the axis counts in.
    pub(super) fn units(&self, value: f64) -> f64 {
        value / 10_f64.powi(self.exponent)
    }

    /// A number of the axis as the data have it.
    pub(super) fn value(&self, units: f64) -> f64 {
        units * 10_f64.powi(self.exponent)
    }

    /// Whether a number of the data lies on the axis.
    pub(super) fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&self.units(value))
    }

    /// How numbers of the axis are written.
    pub(super) fn labels(self) -> TickFormat {
        TickFormat::Custom(Arc::new(move |units| self.label(units)))
    }

    fn label(&self, units: f64) -> String {
        let power = units.abs().log10().floor() as i32;
        let label = match self.exponent + power {
            _ if units == 0.0 => "0".to_owned(),
            -4..=4 if self.log => plain(self.value(units), 9),
            written if self.log => format!("{}e{written}", plain(units / 10_f64.powi(power), 9)),
            _ => {
                // As many digits as tell labels apart.
                let number = plain(units, (3.0 - (self.high - self.low).log10().floor()).clamp(0.0, 12.0) as usize);
                match self.exponent {
                    0 => number,
                    3 => number + "k",
                    6 => number + "M",
                    9 => number + "G",
                    exponent => format!("{number}e{exponent}"),
                }
            }
        };
        label.replace('-', "\u{2212}")
    }
}

/// A number without an exponent, of at most so many decimals and without zeros at its end.
fn plain(value: f64, decimals: usize) -> String {
    let number = format!("{value:.decimals$}");
    if decimals == 0 { number } else { number.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evenly spread quantiles of a distribution.
    fn quantiles(n: usize, quantile: impl Fn(f64) -> f64) -> Vec<f64> {
        (0..n).map(|i| quantile((i as f64 + 0.5) / n as f64)).collect()
    }

    /// About those of a normal distribution.
    fn normal(p: f64) -> f64 {
        (p / (1.0 - p)).ln() / 1.702
    }

    fn cauchy(p: f64) -> f64 {
        (std::f64::consts::PI * (p - 0.5)).tan()
    }

    #[test]
    fn a_stray_does_not_make_the_others_a_speck() {
        for strays in [vec![1e6], vec![-40.0], vec![1e30, -1e30], vec![9e299]] {
            let mut values = quantiles(2000, normal);
            values.extend(&strays);
            let (low, high) = bulk(values.into_iter()).unwrap();
            assert!(low > -10.0 && high < 10.0, "{strays:?}: {low} to {high}");
            assert!(low < -3.0 && high > 3.0, "{strays:?}: {low} to {high}");
        }
        // Half of a Cauchy distribution lies within 1 of its middle.
        let values = quantiles(2000, cauchy);
        let (low, high) = bulk(values.iter().copied()).unwrap();
        assert!(high - low < 40.0 && low < -1.0 && high > 1.0, "{low} to {high}");
        let outside = values.iter().filter(|value| !(low..=high).contains(*value)).count();
        assert!(outside <= 100, "{outside}");
    }

    #[test]
    fn what_is_no_stray_is_shown() {
        let all = |values: &[f64]| {
            let (low, high) = bulk(values.iter().copied()).unwrap();
            values.iter().all(|value| (low..=high).contains(value))
        };
        assert!(all(&quantiles(2000, normal)));
        assert!(all(&quantiles(100_000, normal)));
        // A mode of one in twenty, well away from the others.
        let mut modes = quantiles(1900, normal);
        modes.extend(quantiles(100, |p| 12.0 + normal(p)));
        assert!(all(&modes));
        // Mostly one value, as in a column of counts.
        let mut counts = vec![0.0; 980];
        counts.extend((1..=20).map(f64::from));
        assert!(all(&counts));
        assert!(all(&[0.0, 1.0, 1000.0]) && all(&[5.0]) && all(&[2.0; 50]));
        assert_eq!(bulk([f64::NAN, f64::INFINITY].into_iter()), None);
    }

    #[test]
    fn numbers_are_written_short() {
        let label = |range: (f64, f64), value: f64| {
            let axis = Axis::even(range).unwrap();
            axis.label(axis.units(value))
        };
        assert_eq!(label((0.0, 1.0), 0.2), "0.2");
        assert_eq!(label((-3.0, 3.0), -2.0), "\u{2212}2");
        assert_eq!(label((0.0, 9000.0), 6000.0), "6000");
        assert_eq!(label((0.0, 1e5), 20_000.0), "20k");
        assert_eq!(label((0.0, 2.1e6), 500_000.0), "0.5M");
        assert_eq!(label((0.0, 2e30), 1e30), "1e30");
        assert_eq!(label((0.0, 2e-6), 1.5e-6), "1.5e\u{2212}6");
        assert_eq!(label((0.0, 2e-6), 0.0), "0");
        let log = Axis::log((1e-7, 1.0));
        assert_eq!([1e-6, 1e-4, 0.1, 1.0].map(|v| log.label(log.units(v))), ["1e\u{2212}6", "0.0001", "0.1", "1"]);
        let high = Axis::log((1e5, 1e9));
        assert_eq!([2e5, 1e9].map(|v| high.label(high.units(v))), ["2e5", "1e9"]);
    }

    #[test]
    fn an_axis_holds_its_range_at_any_size() {
        for range in [(0.0, 1.0), (-1e30, 1e30), (0.0, 5e-324), (1e-310, 2e-310), (1e9, 1e9 + 1e-3), (-1e299, 1e299)] {
            let axis = Axis::even(range).unwrap();
            assert!(axis.high - axis.low > 1e-9 * axis.high.abs() && axis.high.abs() < 1e4, "{range:?}: {axis:?}");
            assert!(axis.holds(range.0) && axis.holds(range.1), "{range:?}: {axis:?}");
        }
        assert!(Axis::even((1.0, 1.0)).is_err() && Axis::even((f64::NAN, 1.0)).is_err());
    }
}
