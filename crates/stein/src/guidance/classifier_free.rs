//! Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): D = D_∅ + scale (D_c − D_∅), with D_c told the class of a row and
//! D_∅ told none.
//!
//! `scale` is 1 for no guidance; the paper's w is scale − 1. Since ε̂ and the score are linear in D, the formula is the same on
//! them. Both halves are evaluated in one batch of twice the rows; with scale 1 the model is asked once, as it is. Only the class is
//! hidden: vectors, tokens and images are the same in both.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{MOST_SCALE, Surroundings, Wrapper, extrapolate};
use crate::{Condition, Denoiser, Dual, Estimate, Levels, Result, ensure, estimate, numbers::ensure_within};

/// Classifier-free guidance, for a model trained with label dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierFree {
    /// 1 is no guidance, 0 the model without its class; from −1e6 to 1e6, default 1.
    pub scale: f64,
}

impl Default for ClassifierFree {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

impl Wrapper for ClassifierFree {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        _: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        ensure_within("scale", self.scale, -MOST_SCALE..=MOST_SCALE)?;
        ensure!(
            around.knows_no_class(),
            "this model was not trained to do without its class: train it with family.label_dropout = 0.1"
        );
        Ok(Arc::new(Guided { inner, scale: self.scale }))
    }
}

/// A denoiser guided away from itself without a class.
struct Guided {
    inner: Arc<dyn Denoiser>,
    scale: f64,
}

impl Denoiser for Guided {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        ensure!(
            given.class.iter().flatten().any(Option::is_some),
            "classifier-free guidance needs a class to guide to: give one, or leave guidance out"
        );
        if self.scale == 1.0 {
            return estimate(&self.inner, x, at, given);
        }
        let rows = x.dims()[0];
        let twice: Vec<_>;
        let levels = match at {
            Levels::Same(at) => Levels::Same(at),
            Levels::Each(at) => {
                twice = [at, at].concat();
                Levels::Each(&twice)
            }
        };
        let both = given.then(&given.without_class())?;
        let both = estimate(&self.inner, Dual::cat(vec![x.clone(), x], 0), levels, &both)?;
        let half = |of: Dual<2>, first: usize| of.linear(|of| of.narrow(0, first, rows));
        let told = Estimate {
            mean: half(both.mean.clone(), 0),
            variance: both.variance.map(|variance| variance.narrow(0, 0, rows)),
        };
        Ok(extrapolate(half(both.mean, rows), told, self.scale))
    }
}
