//! Methods: how samples of p(x_0 | y) are drawn with a denoiser of p(x_0) and what was measured. One file each, saying which posterior
//! it is exact for.

mod annealed_inpainting;
mod conditional;
mod daps;
mod ddnm;
mod ddrm;
mod diffpir;
mod dps;
mod ilvr;
mod known;
mod mcg;
mod mmps;
mod pigdm;
mod red_diff;
mod repaint;
mod replacement;
mod sdedit;
mod tds;

pub use annealed_inpainting::AnnealedInpainting;
pub use conditional::Conditional;
pub use daps::Daps;
pub use ddnm::Ddnm;
pub use ddrm::Ddrm;
pub use diffpir::DiffPir;
pub use dps::{Dps, norm_gradient};
pub use ilvr::Ilvr;
pub use mcg::Mcg;
pub use mmps::Mmps;
pub use pigdm::{Pigdm, Weight};
pub use red_diff::RedDiff;
pub use repaint::RePaint;
pub use replacement::Replacement;
pub use sdedit::Sdedit;
pub use tds::Tds;

use burn::tensor::Tensor;
use stein_base::registry;

use super::Problem;
use crate::{Denoiser, Eval, Kernel, Past, Request, Result};

/// What the samples of a method are, in the limit of many steps and for an exact denoiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// Draws of the posterior, whatever the prior, as some number grows: particles, inner steps.
    Posterior,
    /// Draws of the posterior where the prior is a Gaussian, of linear measurements with Gaussian noise.
    PosteriorOfGaussian,
    /// Something near the posterior, with a bias for every prior.
    Near,
    /// One point of high density, without spread.
    Point,
    /// What a model has learned that is shown what was measured.
    Learned,
}

/// A way to draw samples of p(x_0 | y).
///
/// A method is a value: it has its settings. What changes in a run is its [`Running`].
pub trait Method: std::fmt::Debug + Send + Sync {
    /// Fails, before any work, if a parameter is out of range or the problem is none the method is for.
    ///
    /// # Errors
    /// See above: which parameter, and what it may be.
    fn check(&self, problem: &Problem) -> Result<()>;

    /// What its samples are.
    fn law(&self) -> Law;

    /// How many states it moves for every sample; their rows stand together.
    fn particles(&self) -> usize {
        1
    }

    /// What its steps ask instead of the model's denoiser, which is `inner`; by default that itself.
    fn denoiser<'a>(&'a self, inner: &'a dyn Denoiser, _problem: &'a Problem) -> Box<dyn Denoiser + 'a> {
        Box::new(inner)
    }

    /// The beginning of a run. `problem` and `request` are those of the whole batch, particles included.
    ///
    /// # Errors
    /// Those of the operator's decomposition.
    fn begin<'a>(&'a self, problem: &'a Problem, request: &'a Request) -> Result<Box<dyn Running + 'a>>;
}

/// A method on its way.
pub trait Running {
    /// Where it starts `[rows, n]` at the noisiest level, given a draw of the prior there; by default from that.
    ///
    /// # Errors
    /// Those of the denoiser.
    fn start(&mut self, prior: Tensor<2>, _at: &Kernel, _eval: &mut Eval) -> Result<Tensor<2>> {
        Ok(prior)
    }

    /// The batch `[rows, n]` at level `from` becomes one at level `to`, which may be [`Kernel::CLEAN`]. `past` is for samplers that
    /// remember.
    ///
    /// # Errors
    /// Those of the denoiser.
    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past)
    -> Result<Tensor<2>>;

    /// The samples `[rows/particles, n]` of the last batch `[rows, n]`; by default the same.
    ///
    /// # Errors
    /// Those of the denoiser.
    fn finish(&mut self, x: Tensor<2>) -> Result<Tensor<2>> {
        Ok(x)
    }
}

registry! {
    /// Every method for inverse problems, tagged by `kind` in files.
    AnyMethod, "method": Method {
        /// Sampling as it is, of a model that is shown what was measured and was trained so.
        "conditional" | "palette" | "sr3" => Conditional,
        /// Diffusion posterior sampling: an ancestral step, and one down the gradient of the misfit.
        "dps" | "diffusion_posterior_sampling" => Dps,
        /// Pseudo-inverse guidance: the score of the measurement given a Gaussian about the estimate.
        "pigdm" | "pgdm" | "pseudo_inverse_guidance" => Pigdm,
        /// The gradient of the misfit, and a projection onto the measurement at every level.
        "mcg" | "manifold_constrained_gradient" => Mcg,
        /// What is measured is put in at every level, and Langevin steps bring the rest into agreement (Score-SDE).
        "replacement" | "score_sde" | "imputation" => Replacement,
        /// Annealed Langevin dynamics of NCSN, beside what is known.
        "annealed_inpainting" | "ncsn_inpainting" => AnnealedInpainting,
        /// RePaint: what is known is drawn anew at every level, with jumps back to noisier ones.
        "repaint" => RePaint,
        /// ILVR: what the measurement sees of a sample is that of the noised reference.
        "ilvr" => Ilvr,
        /// SDEdit: sampling from the noised picture.
        "sdedit" | "img2img" => Sdedit,
        /// Denoising diffusion restoration: measured and unmeasured directions apart, each with the noise that belongs to it.
        "ddrm" | "denoising_diffusion_restoration" => Ddrm,
        /// Null-space sampling: the measured part of every estimate replaced, with travels back in time on request.
        "ddnm" | "ddnm_plus" | "null_space" => Ddnm,
        /// Moment matching: any sampler with the posterior's own estimate, its covariance from the denoiser's Jacobian.
        "mmps" | "moment_matching" => Mmps,
        /// Plug-and-play restoration: every estimate moved by a proximal step.
        "diffpir" | "plug_and_play" => DiffPir,
        /// Variational: one point that fits, drawn to where the denoiser leaves it alone.
        "red_diff" | "reddiff" => RedDiff,
        /// Decoupled annealing: at every level a clean sample given what was measured, and fresh noise.
        "daps" | "decoupled_annealing" => Daps,
        /// Twisted diffusion: weighted particles, exact for any prior as they grow in number.
        "tds" | "twisted_diffusion" | "smc" => Tds,
    }
}
