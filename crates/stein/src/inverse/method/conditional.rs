//! Sampling a model that is shown what was measured, and was trained so (Saharia et al. 2022, "Palette: Image-to-Image Diffusion
//! Models"): its denoiser is E\[x_0 given x_t, y\] itself, and any sampler draws p(x_0 | y), as well as the model has learned it.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running};
use crate::{AnySampler, Eval, Heun, Kernel, Past, Request, Result, ensure, sampler::step};

/// Sampling as a model does that is shown what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Conditional {
    /// The sampler; default Heun's method.
    pub sampler: AnySampler,
}

impl Default for Conditional {
    fn default() -> Self {
        Self { sampler: Heun::default().into() }
    }
}

impl Method for Conditional {
    fn check(&self, _: &Problem) -> Result<()> {
        ensure!(
            !self.sampler.adaptive(),
            "method conditional: sampler {} chooses its own steps: use heun or ddim",
            self.sampler.kind()
        );
        self.sampler.check()
    }

    fn law(&self) -> Law {
        Law::Learned
    }

    fn begin<'a>(&'a self, _: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run(&self.sampler)))
    }
}

struct Run<'a>(&'a AnySampler);

impl Running for Run<'_> {
    fn step(
        &mut self,
        x: Tensor<2>,
        from: &Kernel,
        to: &Kernel,
        eval: &mut Eval,
        past: &mut Past,
    ) -> Result<Tensor<2>> {
        step(&**self.0, x, from, to, eval, past)
    }
}
