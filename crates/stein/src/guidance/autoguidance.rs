//! Autoguidance (Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", arXiv:2406.02507, eq. 5): D = D_bad +
//! scale (D − D_bad), away from a smaller or less trained model of the same data.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Scale, Surroundings, Wrapper};
use crate::{Condition, Denoiser, Dual, Estimate, Levels, Result, ensure, estimate};

/// Guidance by a worse model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Autoguidance {
    /// The worse model: a run directory, such as an early one, or a checkpoint file.
    pub model: String,
    /// 1 is no guidance; a number from −1e6 to 1e6, or one that varies with the level; default 2.
    pub scale: Scale,
}

impl Default for Autoguidance {
    fn default() -> Self {
        Self { model: String::new(), scale: Scale::Same(2.0) }
    }
}

impl Wrapper for Autoguidance {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        _: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        self.scale.check()?;
        ensure!(!self.model.is_empty(), "give the worse model of the same data, model = \"PATH\"");
        Ok(Arc::new(Guided { inner, worse: around.denoiser(&self.model)?, scale: self.scale }))
    }

    fn models(&self) -> Vec<&str> {
        vec![&self.model]
    }
}

/// A denoiser guided away from a worse one.
struct Guided {
    inner: Arc<dyn Denoiser>,
    worse: Arc<dyn Denoiser>,
    scale: Scale,
}

impl Denoiser for Guided {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let worse = estimate(&self.worse, x.clone(), at, given)?;
        Ok(Estimate::extrapolate(worse, estimate(&self.inner, x, at, given)?, &self.scale.factors(at)))
    }
}
