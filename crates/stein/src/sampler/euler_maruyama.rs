//! The reverse-time SDE dx = (f x − g² s) dt + g dw by Euler–Maruyama, in t.
//!
//! Anderson 1982; Song et al. 2021, eq. 6. Integrated backwards: x(t−h) = x − (f x − g² s) h + g √h z. Default for VP and
//! sub-VP in their code. It stops at the cleanest time of the grid and ends with the denoised sample, where their
//! code returns `x_mean`, the last step without its noise.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler};
use crate::{Kernel, Result};

/// Euler–Maruyama on the reverse SDE.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct EulerMaruyama {}

impl Sampler for EulerMaruyama {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let h = from.t - to.t;
        let g_squared = from.diffusion_squared();
        let score = eval.score(&x, from)?;
        let noise = eval.interval_noise(from, to, &x)?;
        Ok(x.mul_scalar(1.0 - h * from.drift())
            + score.mul_scalar(h * g_squared)
            + noise.mul_scalar((h * g_squared).sqrt()))
    }

    fn order(&self) -> Option<u32> {
        None
    }

    fn reaches_clean(&self) -> bool {
        false
    }
}
