//! CFG++ (Chung et al. 2024, "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models", arXiv:2406.08070, algorithm
//! 2): x_s = α_s D + σ_s ε̂_∅ with D = D_∅ + scale (D_c − D_∅) and the noise ε̂_∅ = (x − α_t D_∅)/σ_t of the model without a class.
//!
//! The sample is guided and its noise is not, so that scales between 0 and 1 suffice, the paper's λ; 1 is the conditional estimate
//! renoised. It is a rule for a step and no denoiser: the sampler `ddim` takes it, with or without noise of its own, and
//! `euler_ancestral`, which is made of its step; others refuse. Without noise, `ddim` is Euler's step, so that this is also the rule for that.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{
    Surroundings, Wrapper,
    classifier_free::{ensure_knows_no_class, ensure_some_label, two},
};
use crate::{Condition, Denoiser, Dual, Estimate, Factors, Levels, Result, numbers::ensure_within};

/// CFG++, for a model trained with label dropout and the samplers `ddim` and `euler_ancestral`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct CfgPp {
    /// The paper's λ, from 0, the model without its class, to 1; default 0.6.
    pub scale: f64,
}

impl Default for CfgPp {
    fn default() -> Self {
        Self { scale: 0.6 }
    }
}

impl Wrapper for CfgPp {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        _: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        ensure_within("scale", self.scale, 0.0..=1.0)?;
        ensure_knows_no_class(around)?;
        Ok(Arc::new(Renoised { inner, scale: self.scale }))
    }
}

/// A guided denoiser whose noise is that of the model without a class.
struct Renoised {
    inner: Arc<dyn Denoiser>,
    scale: f64,
}

impl Denoiser for Renoised {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        ensure_some_label(given)?;
        let [told, free] = two(&self.inner, x, at, [given.clone(), given.without_label()])?;
        let noise = free.mean.value.clone();
        let mut guided = Estimate::extrapolate(free, told, &Factors::Same(self.scale));
        guided.guided.noise = Some(noise);
        Ok(guided)
    }
}
