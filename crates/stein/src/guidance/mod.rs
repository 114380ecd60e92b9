//! Guidance and other wrappers: denoisers around denoisers, configured as a list and folded once, the outermost last.
//!
//! A wrapped denoiser is the posterior mean of nothing: it is for sampling, and no likelihood takes it. One convention for
//! scales throughout: the scale is the power of what guides, see [`Scale`]. Wrappers pass tangents on and stay on the tape, so whatever
//! is built on derivatives of a denoiser works on wrapped ones too; guidance by a gradient alone cannot be differentiated back, and
//! says so.

mod autoguidance;
mod cfg_pp;
mod clamp;
mod class_name;
mod classifier;
mod classifier_free;
mod compose;
mod dynamic_threshold;
mod guided;
mod interval;
mod negative;
mod rescale;
mod scale;
mod steered;

pub use autoguidance::Autoguidance;
pub use cfg_pp::CfgPp;
pub use clamp::{Clamp, Clamped};
pub use class_name::ClassName;
pub use classifier::ClassifierGuidance;
pub use classifier_free::ClassifierFree;
pub use compose::{Compose, Term};
pub use dynamic_threshold::DynamicThreshold;
pub use guided::{Guided, Moved};
pub use interval::Interval;
pub use negative::Negative;
pub use rescale::{Output, Rescale};
pub use scale::{Scale, ScaleByLevel};
pub use steered::{GaussianTarget, LogLikelihood, Regressor, Steered, SteeredByEstimate};

use std::sync::Arc;

use stein_base::registry;

use crate::{Classifier, Condition, Denoiser, Dual, Error, Estimate, Kind, Levels, Result, estimate};

/// What a wrapper can ask of the program around it.
pub trait Surroundings {
    /// Lowest and highest value of the data in the units denoisers work in, where data have a range, as pictures do.
    fn range(&self) -> Option<(f64, f64)>;

    /// Lowest and highest value among the data of each number of a state, or of all of them, in the same units, where that is
    /// known; by default the range.
    fn bounds(&self) -> Option<Vec<(f64, f64)>> {
        self.range().map(|range| vec![range])
    }

    /// Whether the model was trained to do without its class or text, so that rows without one mean something.
    fn knows_no_class(&self) -> bool;

    /// Whether the model is told classes at all; by default it is.
    fn is_conditional(&self) -> bool {
        true
    }

    /// The number of a class of the model, or of another one; by default there are no names.
    ///
    /// # Errors
    /// When there is no such class.
    fn class(&self, class: &ClassName, of: Option<&str>) -> Result<u32> {
        let whose = of.map(|model| format!(" of {model}")).unwrap_or_default();
        let unknown = || Error::new(format!("there is no class called {class}{whose} here: give its number"));
        class.0.trim().parse().map_err(|_| unknown())
    }

    /// The numbers of the tokens of a text, of a model that reads texts; by default it reads none.
    ///
    /// # Errors
    /// See above.
    fn text(&self, _text: &str) -> Result<Arc<[u32]>> {
        Err(Error::of(Kind::Unsupported, "this model reads no texts: leave the text out"))
    }

    /// Another model's denoiser, by name.
    ///
    /// # Errors
    /// When there is no such model, or it has no denoiser for the same data.
    fn denoiser(&self, model: &str) -> Result<Arc<dyn Denoiser>>;

    /// A classifier of noisy data, by name; by default there is none.
    ///
    /// # Errors
    /// When there is no such model, or it is no classifier of the same data with noise.
    fn classifier(&self, model: &str) -> Result<Arc<dyn Classifier>> {
        Err(Error::new(format!("there is no model {model} here")))
    }
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
        Err(Error::new(format!("there is no model {model} here")))
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

    /// The other models it asks its surroundings for, by name.
    fn models(&self) -> Vec<&str> {
        Vec::new()
    }

    /// The model whose classes are those of the rows, for one that knows none itself: rows then have classes, which the model is not told.
    fn brings_classes(&self) -> Option<&str> {
        None
    }
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
        /// Guidance by the gradient of a classifier of noisy data.
        "classifier" | "classifier_guidance" => ClassifierGuidance,
        /// Guidance away from a class or a text that is not wanted.
        "negative" | "negative_prompt" => Negative,
        /// Several classes that are wanted, and not wanted, together.
        "compose" | "composable_diffusion" => Compose,
        /// CFG++: a guided sample with the noise of the model without its class, for the samplers `ddim` and `euler_ancestral`.
        "cfg_pp" => CfgPp,
        /// Guidance brought back to the spread of the unguided model, against overexposure.
        "rescale" | "guidance_rescale" => Rescale,
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
    let brought = !around.is_conditional() && wrappers.iter().any(|wrapper| wrapper.brings_classes().is_some());
    let bare = if brought { Arc::new(NotTold(bare)) } else { bare };
    wrappers.iter().try_fold(Arc::clone(&bare), |inner, wrapper| {
        wrapper.wrap(inner, &bare, around).map_err(|error| error.at(format!("wrapper {}", wrapper.kind())))
    })
}

/// A model without classes among rows that have some.
struct NotTold(Arc<dyn Denoiser>);

impl Denoiser for NotTold {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        estimate(&self.0, x, at, &Condition { class: None, ..given.clone() })
    }
}
