//! A negative condition: D = D_n + scale (D_c − D_n), classifier-free guidance away from a class or a text n that is not wanted instead of
//! from none (the negative prompts of Stable Diffusion's users; Ban et al. 2024, "Understanding the Impact of Negative Prompts",
//! arXiv:2406.02965, eq. 3).
//!
//! Since no row is asked about without a label, models trained without label dropout take it too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{ClassName, Scale, Surroundings, Wrapper, classifier_free::two};
use crate::{Condition, Denoiser, Dual, Error, Estimate, Levels, Result, estimate};

/// Guidance away from a class or a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Negative {
    /// The class that is not wanted, by name or number; either it or a text must be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassName>,
    /// The text that is not wanted, of a model that reads texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// 1 is no guidance, 0 what is not wanted; a number from −1e6 to 1e6, or one that varies with the level; default 2.
    pub scale: Scale,
}

impl Default for Negative {
    fn default() -> Self {
        Self { class: None, text: None, scale: Scale::Same(2.0) }
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
        let unwanted = match (&self.class, &self.text) {
            (Some(class), None) => Unwanted::Class(around.class(class, None)?),
            (None, Some(text)) => Unwanted::Text(around.text(text)?),
            _ => {
                return Err(Error::new(
                    "give what is not wanted, either class = \"NAME\" or text = \"…\" of a model that reads texts",
                ));
            }
        };
        Ok(Arc::new(Away { inner, unwanted, scale: self.scale }))
    }
}

/// What is not wanted.
enum Unwanted {
    Class(u32),
    Text(Arc<[u32]>),
}

/// A denoiser guided away from a class or a text.
struct Away {
    inner: Arc<dyn Denoiser>,
    unwanted: Unwanted,
    scale: Scale,
}

impl Denoiser for Away {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        if self.scale.is(1.0, at) {
            return estimate(&self.inner, x, at, given);
        }
        let rows = x.dims()[0];
        let (mut given, mut unwanted) = (given.clone(), given.clone());
        // Conditions of one batch have the same parts.
        match &self.unwanted {
            Unwanted::Class(class) => {
                given.class.get_or_insert_with(|| vec![None; rows]);
                unwanted.class = Some(vec![Some(*class); rows]);
            }
            Unwanted::Text(text) => {
                given.text.get_or_insert_with(|| vec![None; rows]);
                unwanted.text = Some(vec![Some(Arc::clone(text)); rows]);
            }
        }
        let [told, unwanted] = two(&self.inner, x, at, [given, unwanted])?;
        Ok(Estimate::extrapolate(unwanted, told, &self.scale.factors(at)))
    }
}
