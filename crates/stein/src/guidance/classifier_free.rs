//! Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): D = D_∅ + scale (D_c − D_∅), with D_c told the class of a row and
//! D_∅ told none, or the text of a row and none.
//!
//! `scale` is 1 for no guidance; the paper's w is scale − 1. Since ε̂ and the score are linear in D, the formula is the same on
//! them. Both halves are evaluated in one batch of twice the rows; with scale 1 the model is asked once, as it is. Only class and text
//! are hidden: vectors, tokens and images are the same in both.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Scale, Surroundings, Wrapper};
use crate::{Condition, Denoiser, Dual, Estimate, Levels, Result, ensure, estimate};

/// Classifier-free guidance, for a model trained with label dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierFree {
    /// 1 is no guidance, 0 the model without its class; a number from −1e6 to 1e6, or one that varies with the level; default 1.
    pub scale: Scale,
}

impl Default for ClassifierFree {
    fn default() -> Self {
        Self { scale: Scale::Same(1.0) }
    }
}

impl Wrapper for ClassifierFree {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        _: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        self.scale.check()?;
        ensure_knows_no_class(around)?;
        Ok(Arc::new(Guided { inner, scale: self.scale }))
    }
}

/// Fails unless rows without a class mean something to the model.
pub(super) fn ensure_knows_no_class(around: &dyn Surroundings) -> Result<()> {
    ensure!(
        around.knows_no_class(),
        "this model was not trained to do without its class or text: train it with family.label_dropout = 0.1"
    );
    Ok(())
}

/// Fails unless a row has a class or a text.
pub(super) fn ensure_some_label(given: &Condition) -> Result<()> {
    ensure!(
        given.has_label(),
        "classifier-free guidance needs a class or a text to guide to: give one (--class, --prompt), or no guidance (--guidance 1)"
    );
    Ok(())
}

/// The estimates of the same rows under several conditions, in one batch.
pub(super) fn under(
    denoiser: &dyn Denoiser,
    x: Dual<2>,
    at: Levels,
    conditions: &[Condition],
) -> Result<Vec<Estimate>> {
    let (rows, times) = (x.dims()[0], conditions.len());
    let each;
    let levels = match at {
        Levels::Same(at) => Levels::Same(at),
        Levels::Each(at) => {
            each = at.repeat(times);
            Levels::Each(&each)
        }
    };
    let given = conditions[1..].iter().try_fold(conditions[0].clone(), |all, next| all.then(next))?;
    let all = estimate(denoiser, Dual::cat(vec![x; times], 0), levels, &given)?;
    Ok((0..times).map(|part| all.clone().linear(|of| of.narrow(0, part * rows, rows))).collect())
}

/// A denoiser guided away from itself without a class.
struct Guided {
    inner: Arc<dyn Denoiser>,
    scale: Scale,
}

impl Denoiser for Guided {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        if self.scale.is(1.0, at) {
            return estimate(&self.inner, x, at, given);
        }
        ensure_some_label(given)?;
        let [told, free] = two(&self.inner, x, at, [given.clone(), given.without_label()])?;
        Ok(Estimate::extrapolate(free, told, &self.scale.factors(at)))
    }
}

/// As [`under`], of two.
pub(super) fn two(
    denoiser: &dyn Denoiser,
    x: Dual<2>,
    at: Levels,
    conditions: [Condition; 2],
) -> Result<[Estimate; 2]> {
    let mut both = under(denoiser, x, at, &conditions)?;
    let second = both.pop().expect("there are two");
    Ok([both.pop().expect("there are two"), second])
}
