//! The levels of a few steps of a flow map, found by trying: one after the other by ternary search (Song et al. 2023, "Consistency
//! Models", arXiv:2303.01469, section 4.1 and appendix C).
//!
//! The first level is the noisiest. Given the levels so far the next one is that cleaner one whose samples are best, taken to be the one
//! valley of a function over the candidates: of a stretch of them two are tried, and the third behind the worse of them is left out.
//! With K candidates a level takes about 2 ln K/ln 1.5 tries. What is tried needs to be compared like with like: with the same noise.
//!
//! The search is greedy. Levels that were found for few steps are those that more steps begin with.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::{Result, ensure};

/// The levels of a grid of so many steps, out of candidates σ/α that fall, from the first of them on. `loss` says how bad the samples
/// are on a grid of these levels, the noisiest first.
///
/// ```
/// use stein::level_search::greedy_levels;
///
/// // Best near 3, and the one after that near 0.4.
/// let candidates: Vec<f64> = (0..40).map(|i| 80.0 * 0.8f64.powi(i)).collect();
/// let off = |level: f64, from: f64| (level / from).ln().abs();
/// let levels = greedy_levels(&candidates, 3, &mut |levels| Ok(off(levels[1], 3.0) + levels.get(2).map_or(9.0, |last| off(*last, 0.4))))?;
/// assert_eq!(levels.iter().map(|level| (10.0 * level).round()).collect::<Vec<_>>(), [800.0, 28.0, 4.0]);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// No steps, fewer candidates than steps, and those of the loss.
pub fn greedy_levels(
    candidates: &[f64],
    steps: usize,
    loss: &mut dyn FnMut(&[f64]) -> Result<f64>,
) -> Result<Vec<f64>> {
    ensure!(
        steps >= 1 && candidates.len() >= steps,
        "{} candidate levels make no choice of {steps} steps: give more candidates, and at least 1 step",
        candidates.len()
    );
    let (mut levels, mut place) = (vec![candidates[0]], 0);
    for chosen in 1..steps {
        // Those that follow need candidates too.
        let last = candidates.len() - (steps - chosen);
        place = valley(place + 1, last, &mut |place| {
            let tried: Vec<f64> = levels.iter().copied().chain([candidates[place]]).collect();
            loss(&tried)
        })?;
        levels.push(candidates[place]);
    }
    Ok(levels)
}

/// The place of the least value found of a function on `first..=last`, by ternary search: the least of all if the function falls and then
/// rises. Nothing is tried twice.
fn valley(first: usize, last: usize, value: &mut dyn FnMut(usize) -> Result<f64>) -> Result<usize> {
    let mut tried: BTreeMap<usize, f64> = BTreeMap::new();
    let mut value = |place: usize| match tried.entry(place) {
        Entry::Occupied(known) => Ok(*known.get()),
        Entry::Vacant(new) => value(place).map(|value| *new.insert(value)),
    };
    let (mut low, mut high) = (first, last);
    while high - low > 2 {
        let third = (high - low) / 3;
        let (left, right) = (low + third, high - third);
        if value(left)? > value(right)? {
            low = left + 1;
        } else {
            high = right;
        }
    }
    for place in low..=high {
        value(place)?;
    }
    let best = tried.iter().min_by(|a, b| a.1.total_cmp(b.1));
    Ok(*best.expect("there is a place").0)
}
