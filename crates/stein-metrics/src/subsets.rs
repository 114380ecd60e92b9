//! Some of many rows: drawn from a seed, or dealt to parts.

use stein_base::{Key, Purpose, Result, random};

use crate::{Rows, measured::standard_error};

/// What the draws of metrics are for.
pub(crate) const PURPOSE: Purpose = Purpose::Own(0x4d65_7472);

/// The places of `size` of `n` rows, each set of places equally likely, in the order drawn: subset `number` of a side.
pub(crate) fn subset(seed: u64, number: u64, side: u64, n: usize, size: usize) -> Vec<usize> {
    let mut generator = Key::new(seed, PURPOSE).at(number).step(side).generator();
    let mut places: Vec<usize> = (0..n).collect();
    for i in 0..size.min(n) {
        places.swap(i, i + random::below(&mut generator, n - i));
    }
    places.truncate(size);
    places
}

/// The standard error of a number by parts: both sides are dealt to five, row i to part i mod 5, and the standard deviation of
/// the parts' numbers over √5 estimates that of the whole's. `None` where a part has fewer than two rows.
pub(crate) fn error_of_parts(
    one: &Rows,
    other: &Rows,
    measure: impl Fn(&Rows, &Rows) -> Result<f64>,
) -> Result<Option<f64>> {
    const PARTS: usize = 5;
    if one.len().min(other.len()) < 2 * PARTS {
        return Ok(None);
    }
    let part = |rows: &Rows, part: usize| rows.select((part..rows.len()).step_by(PARTS));
    let values: Vec<f64> =
        (0..PARTS).map(|number| measure(&part(one, number), &part(other, number))).collect::<Result<_>>()?;
    Ok(standard_error(&values))
}
