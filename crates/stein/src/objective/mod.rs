//! Objectives: what is minimized so that a network learns the score. One file each.
//!
//! All are the Fisher divergence E w(t) ‖s_θ − ∇ log p_t‖² up to a constant, written such that it can be found: from the known
//! score ([`Explicit`]), by parts ([`Implicit`], [`Sliced`]), or from the noise that was added ([`Denoising`]); and the bound on the
//! likelihood that weights it ([`Variational`], [`Hybrid`]).

mod denoising;
mod explicit;
mod implicit;
mod levels;
mod sliced;
pub mod times;
mod variational;

pub use denoising::{Denoising, Weighting};
pub use explicit::Explicit;
pub use implicit::Implicit;
pub use levels::LevelDistribution;
pub use sliced::Sliced;
pub use variational::{Hybrid, Pixels, Variational, VariationalBound};

use burn::tensor::Tensor;
use stein_base::registry;

use crate::{
    AnySchedule, Condition, Dual, Factors, Kernel, Keys, Levels, Network, Preconditioned, Purpose, Result, ensure,
    exact::Exact, noise, rows,
};

/// A batch of training examples.
#[derive(Clone, Copy)]
pub struct Examples<'a> {
    /// Clean rows `[rows, dim]`.
    pub x0: &'a Tensor<2>,
    /// What they are conditioned on.
    pub given: &'a Condition,
    /// What keys each example: its level, its noise, what the network drops, so that cutting a batch differently changes nothing.
    pub keys: &'a Keys,
    /// The distribution the rows were drawn of, where it is known.
    pub truth: Option<&'a dyn Exact>,
}

impl<'a> Examples<'a> {
    /// Examples of data whose distribution is not known.
    pub fn new(x0: &'a Tensor<2>, given: &'a Condition, keys: &'a Keys) -> Self {
        Self { x0, given, keys, truth: None }
    }

    /// The noise ε `[rows, dim]` of the examples, each a function of its key.
    ///
    /// # Errors
    /// A number of keys or conditions that is not that of the rows.
    pub fn noise(&self) -> Result<Tensor<2>> {
        let Self { x0, given, keys, .. } = self;
        let count = x0.dims()[0];
        ensure!(keys.len() == count, "{} keys were given for {count} training examples: give one per row", keys.len());
        given.check(count)?;
        Ok(noise::normal_like(keys, Purpose::Perturbation, 0, x0))
    }
}

/// An objective for a network with its preconditioning.
///
/// ```
/// use stein::{
///     Condition, Context, Denoising, Device, Dual, Edm, Examples, Keys, LevelDistribution, Network, Objective, Precondition,
///     Preconditioned, Result, Tensor, Weighting, exact::{Exact, GaussianMixture}, rows,
/// };
///
/// /// F = θ x, with one parameter.
/// struct Linear(Tensor<2>);
///
/// impl Network for Linear {
///     fn forward(&self, x: Dual<2>, _: &Context) -> Result<Dual<2>> {
///         Ok(x.linear(|x| x * self.0.clone()))
///     }
/// }
///
/// let theta = rows::matrix(vec![0.1], 1, &rows::exact()).autodiff().require_grad();
/// let model = Preconditioned::new(Linear(theta.clone()), Precondition::edm(5.0), Edm::default().into())?;
/// let objective =
///     Denoising { levels: LevelDistribution::LogNormal { mean: -1.2, std: 1.2 }, weighting: Weighting::Unit {} };
/// objective.check(&model.schedule)?;
/// // Examples 0 to 63 of this epoch.
/// let (keys, given) = (Keys::range(0, 0, 64), Condition::none());
/// let x0 = rows::matrix(GaussianMixture::ncsn().draw_clean(&keys), 2, &theta);
/// let gradients = objective.loss(&model.view(), &Examples::new(&x0, &given, &keys))?.backward();
/// assert_eq!(theta.grad(&gradients).map(|slope| slope.dims()), Some([1, 1]));
/// # Ok::<(), stein::Error>(())
/// ```
pub trait Objective: std::fmt::Debug + Send + Sync {
    /// Fails if it cannot be used on this schedule.
    ///
    /// # Errors
    /// See above: which setting, and what it may be.
    fn check(&self, schedule: &AnySchedule) -> Result<()>;

    /// Whether it needs to know the distribution of the data.
    fn needs_truth(&self) -> bool {
        false
    }

    /// Whether it needs a network that learns variances.
    fn needs_variance(&self) -> bool {
        false
    }

    /// The mean over rows and dimensions, a tensor `[1]` that can be differentiated. The schedule must have passed
    /// [`check`](Self::check), which is not repeated here.
    ///
    /// # Errors
    /// A number of keys or conditions that is not that of the rows, what it needs and is not there, and those of the network.
    fn loss(&self, model: &Preconditioned<&dyn Network>, examples: &Examples) -> Result<Tensor<1>>;
}

registry! {
    /// Every objective, tagged by `kind` in files.
    AnyObjective, "objective": Objective {
        /// Denoising score matching: the noise that was added, or what stands for it, is regressed on. What is trained with.
        "denoising" | "dsm" => Denoising,
        /// Explicit score matching: the error of the score where it is known, as of points in the plane.
        "explicit" | "esm" => Explicit,
        /// Implicit score matching: ½ ‖s‖² and the trace of its Jacobian, a product for every number of a row.
        "implicit" | "ism" | "hyvarinen" => Implicit,
        /// Sliced score matching: the same along random directions.
        "sliced" | "ssm" => Sliced,
        /// The variational bound of DDPM in bits a number, one of its terms at a time.
        "variational" | "vlb" => Variational,
        /// L_simple with a part of the variational bound, which teaches the variances alone: improved DDPM's.
        "hybrid" => Hybrid,
    }
}

/// Examples with noise.
struct Perturbed<'a> {
    examples: &'a Examples<'a>,
    at: Vec<Kernel>,
    /// What undoes importance sampling.
    ratios: Vec<f64>,
    eps: Tensor<2>,
    x: Tensor<2>,
}

impl<'a> Perturbed<'a> {
    fn of(
        examples: &'a Examples<'a>,
        levels: &LevelDistribution,
        model: &Preconditioned<&dyn Network>,
    ) -> Result<Self> {
        let eps = examples.noise()?;
        let (at, ratios): (Vec<Kernel>, Vec<f64>) = levels.draw(&*model.schedule, examples.keys).into_iter().unzip();
        let mut noisy = Self { examples, at, ratios, x: eps.clone(), eps };
        noisy.x = noisy.mix(|at| (at.alpha, at.sigma));
        Ok(noisy)
    }

    fn levels(&self) -> Levels<'_> {
        Levels::Each(&self.at)
    }

    /// a x_0 + b ε.
    fn mix(&self, f: impl Fn(&Kernel) -> (f64, f64)) -> Tensor<2> {
        let levels = self.levels();
        rows::scale(self.examples.x0.clone(), &levels.factors(|at| f(at).0))
            + rows::scale(self.eps.clone(), &levels.factors(|at| f(at).1))
    }

    fn weights(&self, weight: impl Fn(&Kernel) -> f64) -> Vec<f64> {
        self.at.iter().zip(&self.ratios).map(|(at, ratio)| ratio * weight(at)).collect()
    }

    /// The score of the model, with its tangent where `x` has one.
    fn score(&self, model: &Preconditioned<&dyn Network>, x: Dual<2>) -> Result<Dual<2>> {
        model.score_at(x, self.levels(), self.examples.given, Some(self.examples.keys))
    }

    /// The mean over rows and dimensions of one number a row, `[rows, 1]`, times σ² w: an error of the score as an error of ε.
    fn mean(&self, of_rows: Tensor<2>) -> Tensor<1> {
        let dim = self.x.dims()[1] as f64;
        let weights = self.weights(|at| at.sigma.powi(2) / dim);
        rows::scale(of_rows, &Factors::Each(weights)).mean()
    }
}
