//! Classifier guidance (Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", section 4 and algorithms 1 and 2; Song
//! et al. 2021, section 5): D' = D + scale (σ²/α) ∇ ln p(y given x_t), with a classifier of noisy rows.
//!
//! By Bayes' rule scale 1 makes a model without classes one of the class y. A model that is told classes is one of the class at scale 0,
//! and any scale guides further. The gradient moves the score; samplers with variances may have it move their mean instead, as the
//! paper's algorithm 1 does (`gradient = "mean"` of `ancestral`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{ClassName, LogLikelihood, Scale, Steered, Surroundings, Wrapper};
use crate::{Classifier, Condition, Denoiser, Dual, Factors, Levels, Result, ensure, log_probability};

/// Guidance by a classifier of noisy data, toward the class of each row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierGuidance {
    /// The classifier: a run directory or a checkpoint file of the family `classifier` with `noise`, of the same data.
    pub model: String,
    /// A number from −1e6 to 1e6, or one that varies with the level; 0 leaves the classifier out, and 1 is Bayes' rule for a model
    /// without classes; default 1.
    pub scale: Scale,
    /// The class of all rows, by name or number; default that of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassName>,
}

impl Default for ClassifierGuidance {
    fn default() -> Self {
        Self { model: String::new(), scale: Scale::Same(1.0), class: None }
    }
}

impl Wrapper for ClassifierGuidance {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        _: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        self.scale.check()?;
        ensure!(!self.model.is_empty(), "give the classifier of noisy data, model = \"PATH\"");
        let class = self.class.as_ref().map(|class| around.class(class, Some(&self.model))).transpose()?;
        let by = OfClass { classifier: around.classifier(&self.model)?, class };
        Ok(Arc::new(Steered { inner, scale: self.scale, by }))
    }

    fn models(&self) -> Vec<&str> {
        vec![&self.model]
    }

    fn brings_classes(&self) -> Option<&str> {
        self.class.is_none().then_some(&self.model)
    }
}

/// ln p(y given x_t) of the class of each row, or of one for all; nothing is known of rows without.
struct OfClass {
    classifier: Arc<dyn Classifier>,
    class: Option<u32>,
}

impl LogLikelihood for OfClass {
    fn log_likelihood(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>> {
        let count = x.dims()[0];
        let class = match self.class {
            Some(class) => vec![Some(class); count],
            None => given.class.clone().unwrap_or_else(|| vec![None; count]),
        };
        ensure!(
            class.iter().any(Option::is_some),
            "classifier guidance needs a class to guide to: give one, or leave guidance out"
        );
        let known: Vec<f64> = class.iter().map(|class| f64::from(u8::from(class.is_some()))).collect();
        let class: Vec<u32> = class.into_iter().map(Option::unwrap_or_default).collect();
        Ok(log_probability(&self.classifier, x, at, &class)?.scale(&Factors::Each(known)))
    }
}
