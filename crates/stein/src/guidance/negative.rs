//! A negative condition: D = D_n + scale (D_c − D_n), classifier-free guidance away from a class n that is not wanted instead of from no
//! class (the negative prompts of Stable Diffusion's users; Ban et al. 2024, "Understanding the Impact of Negative Prompts",
//! arXiv:2406.02965, eq. 3).
//!
//! Since no row is asked about without a class, models trained without label dropout take it too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{ClassName, Scale, Surroundings, Wrapper, classifier_free::two};
use crate::{Condition, Denoiser, Dual, Error, Estimate, Levels, Result, estimate};

/// Guidance away from a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Negative {
    /// The class that is not wanted, by name or number; it must be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassName>,
    /// 1 is no guidance, 0 the class that is not wanted; a number from −1e6 to 1e6, or one that varies with the level; default 2.
    pub scale: Scale,
}

impl Default for Negative {
    fn default() -> Self {
        Self { class: None, scale: Scale::Same(2.0) }
    }
}

impl Wrapper for Negative {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        _: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        self.scale.check()?;
        let class =
            self.class.as_ref().ok_or_else(|| Error::new("give the class that is not wanted, class = \"NAME\""))?;
        Ok(Arc::new(Away { inner, class: around.class(class, None)?, scale: self.scale }))
    }
}

/// A denoiser guided away from a class.
struct Away {
    inner: Arc<dyn Denoiser>,
    class: u32,
    scale: Scale,
}

impl Denoiser for Away {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        if self.scale.is(1.0, at) {
            return estimate(&self.inner, x, at, given);
        }
        let unwanted = given.with_class(x.dims()[0], self.class);
        // Conditions of one batch have the same parts.
        let given = Condition { class: given.class.clone().or_else(|| Some(vec![None; x.dims()[0]])), ..given.clone() };
        let [told, unwanted] = two(&self.inner, x, at, [given, unwanted])?;
        Ok(Estimate::extrapolate(unwanted, told, &self.scale.factors(at)))
    }
}
