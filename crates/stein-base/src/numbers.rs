//! The sentence for a number that is out of its range.

use std::{
    fmt::Display,
    ops::{Bound, RangeBounds},
};

use crate::{Error, Result};

/// Fails unless a number lies in its range; infinity and NaN lie in none that ends.
///
/// ```
/// use stein_base::numbers::{above, ensure_within};
///
/// ensure_within("train.dropout", 0.1, 0.0..1.0)?;
/// let error = ensure_within("train.rate", f64::NAN, above(0.0, 1e3)).unwrap_err();
/// assert_eq!(error.to_string(), "train.rate is NaN: give a number above 0 and at most 1000");
/// # Ok::<(), stein_base::Error>(())
/// ```
///
/// # Errors
/// With the number and its range.
pub fn ensure_within<T: PartialOrd + Display>(what: &str, number: T, range: impl RangeBounds<T>) -> Result<()> {
    if range.contains(&number) {
        return Ok(());
    }
    let least = match range.start_bound() {
        Bound::Included(least) => Some(format!("of at least {least}")),
        Bound::Excluded(least) => Some(format!("above {least}")),
        Bound::Unbounded => None,
    };
    let most = match range.end_bound() {
        Bound::Included(most) => Some(format!("at most {most}")),
        Bound::Excluded(most) => Some(format!("below {most}")),
        Bound::Unbounded => None,
    };
    let range: Vec<String> = least.into_iter().chain(most).collect();
    Err(Error::new(format!("{what} is {number}: give a number {}", range.join(" and "))))
}

/// The numbers above one, up to another.
pub fn above<T>(least: T, most: T) -> (Bound<T>, Bound<T>) {
    (Bound::Excluded(least), Bound::Included(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lie_in_their_ranges_or_are_told_them() {
        ensure_within("a", 1.0, above(0.0, 1.0)).unwrap();
        ensure_within("a", f64::INFINITY, 0.0..).unwrap();
        ensure_within("a", 3u64, 1..=3).unwrap();
        let sentence = |result: Result<()>| result.unwrap_err().to_string();
        assert_eq!(sentence(ensure_within("a", 0.0, above(0.0, 1.0))), "a is 0: give a number above 0 and at most 1");
        assert_eq!(sentence(ensure_within("a", 1.0, 0.0..1.0)), "a is 1: give a number of at least 0 and below 1");
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(ensure_within("a", odd, -1e9..=1e9).is_err() && ensure_within("a", odd, above(0.0, 1e9)).is_err());
        }
        assert_eq!(sentence(ensure_within("n", 0, 1..)), "n is 0: give a number of at least 1");
    }
}
