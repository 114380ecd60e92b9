//! Rescaled guidance (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv:2305.08891, eq. 15 and 16): a
//! guided output u_g of the model is brought back to the spread of the unguided one u_c, u = φ u_g std(u_c)/std(u_g) + (1 − φ) u_g.
//!
//! The standard deviations are over the numbers of each row. u is what the model puts out: ε̂ as diffusers has it, v as in the paper, or
//! x_0. All are of the form a x + b D, so that with c = a/b and w = D + c x the estimate is D' = k w_g − c x, where k = 1 − φ + φ
//! std(w_c)/std(w_g): c is −1/α for ε̂, −α/(α² + σ²) for v, and 0 for x_0.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Surroundings, Wrapper};
use crate::{Condition, Denoiser, Dual, Estimate, Kernel, Levels, Result, ensure, estimate, numbers::ensure_within};

/// Guidance brought back to the spread of the unguided model, by the wrappers before this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Rescale {
    /// The part φ of it, from 0 to 1, default 0.7.
    pub part: f64,
    /// What the model puts out; default the noise.
    pub of: Output,
}

impl Default for Rescale {
    fn default() -> Self {
        Self { part: 0.7, of: Output::Eps }
    }
}

/// What has the spread that is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The noise ε̂, as in diffusers with Stable Diffusion 1; it needs signal, α above 0.
    #[default]
    Eps,
    /// v = α ε̂ − σ D, as in the paper.
    V,
    /// The estimate D itself.
    X0,
}

impl Output {
    /// c of w = D + c x.
    fn on_x(self, at: &Kernel) -> f64 {
        match self {
            Self::Eps => -1.0 / at.alpha,
            Self::V => -at.alpha / (at.alpha.powi(2) + at.sigma.powi(2)),
            Self::X0 => 0.0,
        }
    }
}

impl Wrapper for Rescale {
    fn wrap(&self, inner: Arc<dyn Denoiser>, _: &Arc<dyn Denoiser>, _: &dyn Surroundings) -> Result<Arc<dyn Denoiser>> {
        ensure_within("part", self.part, 0.0..=1.0)?;
        Ok(Arc::new(Rescaled { inner, of: self.clone() }))
    }
}

/// A guided denoiser with the spread of the unguided one.
struct Rescaled {
    inner: Arc<dyn Denoiser>,
    of: Rescale,
}

impl Denoiser for Rescaled {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let Rescale { part, of } = self.of;
        ensure!(x.dims()[1] > 1, "rows of one number have no spread to rescale to: leave the wrapper out");
        ensure!(
            of != Output::Eps || at.kernels().iter().all(|level| level.alpha > 0.0),
            "the noise has no guidance where alpha is 0, as it is at the noisiest level: rescale of = \"v\" or \"x0\""
        );
        let inner = estimate(&self.inner, x.clone(), at, given)?;
        let Some(unguided) = inner.guided.unguided.clone() else { return Ok(inner) };
        let on_x = x.scale(&at.factors(|level| of.on_x(level)));
        let wanted = spread(unguided + on_x.clone());
        inner.reshape(|mean| {
            let shape = mean.dims();
            let guided = mean + on_x.clone();
            let ratio = wanted.clone() * spread(guided.clone()).map(|std| std.recip(), |std| -std.square().recip());
            let factor = ratio.linear(|ratio| ratio.mul_scalar(part)).shift(|ratio| ratio.add_scalar(1.0 - part));
            Ok(guided * factor.linear(|factor| factor.expand(shape)) - on_x.clone())
        })
    }
}

/// The standard deviation of the numbers of each row, `[rows, 1]`. Rows all of one number, which only noise of measure 0 gives, have
/// the smallest normal one.
fn spread(x: Dual<2>) -> Dual<2> {
    let shape = x.dims();
    let mean = x.clone().linear(|x| x.mean_dim(1));
    let centered = x - mean.linear(|mean| mean.expand(shape));
    let variance = (centered.clone() * centered).linear(|squares| squares.mean_dim(1));
    variance.map(
        |variance| variance.clamp_min(f64::from(f32::MIN_POSITIVE)).sqrt(),
        |variance| variance.clamp_min(f64::from(f32::MIN_POSITIVE)).sqrt().recip().mul_scalar(0.5),
    )
}
