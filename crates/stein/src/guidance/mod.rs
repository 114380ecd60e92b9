//! Guidance and other wrappers: denoisers around denoisers, configured as a list and folded once, the outermost last.
//!
//! A wrapped denoiser is the posterior mean of nothing: it is for sampling, and no likelihood takes it. One convention for
//! scales throughout: 1 is no guidance. Wrappers pass tangents on and stay on the tape, so whatever is built on derivatives of
//! a denoiser works on wrapped ones too.

mod autoguidance;
mod clamp;
mod classifier_free;
mod dynamic_threshold;
mod interval;

pub use autoguidance::Autoguidance;
pub use clamp::{Clamp, Clamped};
pub use classifier_free::ClassifierFree;
pub use dynamic_threshold::DynamicThreshold;
pub use interval::Interval;

use std::sync::Arc;

use stein_base::registry;

use crate::{Denoiser, Dual, Estimate, Result};

/// The largest scale of guidance and bound of estimates.
const MOST_SCALE: f64 = 1e6;

/// What a wrapper can ask of the program around it.
pub trait Surroundings {
    /// Lowest and highest value of the data in the units denoisers work in, where data have a range, as pictures do.
    fn range(&self) -> Option<(f64, f64)>;

    /// Lowest and highest value among the data of each number of a state, or of all of them, in the same units, where that is
    /// known; by default the range.
    fn bounds(&self) -> Option<Vec<(f64, f64)>> {
        self.range().map(|range| vec![range])
    }

    /// Whether the model was trained to do without its class, so that rows without one mean something.
    fn knows_no_class(&self) -> bool;

    /// Another model's denoiser, by name.
    ///
    /// # Errors
    /// When there is no such model, or it has no denoiser for the same data.
    fn denoiser(&self, model: &str) -> Result<Arc<dyn Denoiser>>;
}

/// Surroundings with nothing in them: data without a range, a model that always needs its class, no other models.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Surroundings for Alone {
    fn range(&self) -> Option<(f64, f64)> {
        None
    }

    fn knows_no_class(&self) -> bool {
        false
    }

    fn denoiser(&self, model: &str) -> Result<Arc<dyn Denoiser>> {
        Err(crate::Error::new(format!("there is no model {model} here")))
    }
}

/// A way to wrap a denoiser.
pub trait Wrapper: std::fmt::Debug + Send + Sync {
    /// The wrapped denoiser. `inner` is the model with the wrappers before this one, `bare` the model without any.
    ///
    /// # Errors
    /// A parameter out of range, and surroundings that lack what the wrapper needs.
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        bare: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>>;
}

registry! {
    /// Every wrapper, tagged by `kind` in files.
    AnyWrapper, "wrapper": Wrapper {
        /// Keeps estimates in the range of the data, or in one that is given.
        "clamp" | "clip" => Clamp,
        /// Classifier-free guidance, for a model trained with label dropout.
        "classifier_free" | "cfg" | "classifier_free_guidance" => ClassifierFree,
        /// The wrappers before this one act within an interval of levels only.
        "interval" | "guidance_interval" => Interval,
        /// Dynamic thresholding of pictures, against the saturation of strong guidance.
        "dynamic_threshold" | "dynamic_thresholding" => DynamicThreshold,
        /// Guidance away from a worse model of the same data.
        "autoguidance" => Autoguidance,
    }
}

/// The denoiser with all wrappers around it, the last one outermost.
///
/// ```
/// use std::sync::Arc;
/// use stein::{AnyWrapper, Condition, Edm, Schedule, denoise, exact::GaussianMixture, rows};
/// use stein::guidance::{Alone, Clamp, Interval, wrap};
///
/// // Kept in [−6, 6], and only where σ/α is at most 3.
/// let list: [AnyWrapper; 2] =
///     [Clamp { low: Some(-6.0), high: Some(6.0) }.into(), Interval { high: 3.0, ..Interval::default() }.into()];
/// let model = wrap(Arc::new(GaussianMixture::ncsn()), &list, &Alone)?;
/// let estimate = |sigma: f64| {
///     let (x, at) = (rows::matrix(vec![40.0, 40.0], 2, &rows::exact()), Edm::default().kernel(sigma));
///     denoise(&model, x, (&at).into(), &Condition::none()).map(|x| rows::host(&x)[0])
/// };
/// assert_eq!(estimate(2.0)?, 6.0);
/// assert!(estimate(4.0)? > 6.0);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// Those of the wrappers, with their names.
pub fn wrap(bare: Arc<dyn Denoiser>, wrappers: &[AnyWrapper], around: &dyn Surroundings) -> Result<Arc<dyn Denoiser>> {
    wrappers.iter().try_fold(Arc::clone(&bare), |inner, wrapper| {
        wrapper.wrap(inner, &bare, around).map_err(|error| error.at(format!("wrapper {}", wrapper.kind())))
    })
}

/// from + scale (to − from) of two means; a learned variance is that of `to`.
fn extrapolate(from: Dual<2>, to: Estimate, scale: f64) -> Estimate {
    let mean = from.linear(|x| x.mul_scalar(1.0 - scale)) + to.mean.linear(|x| x.mul_scalar(scale));
    Estimate { mean, variance: to.variance }
}
