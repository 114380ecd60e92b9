//! Flow maps: where the probability-flow ODE carries a sample from one level to another, in one evaluation; and sampling by them.
//!
//! A consistency function is the flow map to the clean end x_ε of the trajectory through x_t (Song et al. 2023, "Consistency
//! Models", arXiv:2303.01469, section 3); MeanFlow and trajectory models are maps between any two levels. They are no posterior
//! means, so there is no score in them: a [`FlowMap`] is no [`Denoiser`](crate::Denoiser) and no [`Sampler`](crate::Sampler)
//! takes one.
//!
//! ```compile_fail,E0277
//! fn as_denoiser<M: stein::FlowMap>(map: M) -> impl stein::Denoiser {
//!     map
//! }
//! ```

mod form;
mod network;

pub use form::{MapForm, Scalings};
pub use network::{MapNetwork, MapSettings};

use burn::tensor::Tensor;

use crate::{Condition, Dual, Kernel, Levels, Progress, Request, Result, Sampled, ensure, noise::Draws};

/// Where probability-flow trajectories lead.
///
/// ```
/// use stein::{Condition, Dual, Edm, FlowMap, Grid, Kernel, Levels, Request, Result, Schedule, rows, sample_map};
///
/// /// The map of N(0, 1) with α = 1: x_s = x_t √(1 + σ_s²)/√(1 + σ_t²).
/// struct Standard;
///
/// impl FlowMap for Standard {
///     fn carry(&self, x: Dual<2>, from: Levels, to: Levels, _: &Condition) -> Result<Dual<2>> {
///         let std = |at: &Kernel| at.sigma.hypot(1.0);
///         Ok(x.scale(&from.factors(|at| 1.0 / std(at))).scale(&to.factors(std)))
///     }
///
///     fn end(&self) -> Option<Kernel> {
///         None
///     }
/// }
///
/// let levels = Grid::karras(1).kernels(&Edm::default())?; // from σ = 80 to clean data in one step
/// let drawn = sample_map(&Standard, &levels, &Request::exact(1000, 1, 0), &mut |_| Ok(()))?;
/// let mean_square = rows::host(&drawn.x.square()).iter().sum::<f64>() / 1000.0;
/// assert!((mean_square - 1.0).abs() < 0.2);
/// # Ok::<(), stein::Error>(())
/// ```
pub trait FlowMap: Send + Sync {
    /// The points at levels `to` of the trajectories through rows `x` `[rows, dim]` at levels `from`; the tangent of x goes along.
    ///
    /// # Errors
    /// When the shape or the condition is not one this map knows, or a level is one it is not defined at.
    fn carry(&self, x: Dual<2>, from: Levels, to: Levels, given: &Condition) -> Result<Dual<2>>;

    /// The level where trajectories end, ε, of a map that leads there alone; there it is the identity (Song et al. 2023, section 3,
    /// boundary condition). `None` for a map between any two levels.
    fn end(&self) -> Option<Kernel>;
}

impl<M: FlowMap + ?Sized> FlowMap for &M {
    fn carry(&self, x: Dual<2>, from: Levels, to: Levels, given: &Condition) -> Result<Dual<2>> {
        (**self).carry(x, from, to, given)
    }

    fn end(&self) -> Option<Kernel> {
        (**self).end()
    }
}

impl<M: FlowMap + ?Sized> FlowMap for std::sync::Arc<M> {
    fn carry(&self, x: Dual<2>, from: Levels, to: Levels, given: &Condition) -> Result<Dual<2>> {
        (**self).carry(x, from, to, given)
    }

    fn end(&self) -> Option<Kernel> {
        (**self).end()
    }
}

/// Draws samples by a flow map, from the prior at the noisiest of `kernels`.
///
/// A map between any two levels is followed from level to level. A consistency function takes multistep sampling (Song et al.
/// 2023, algorithm 1): the prior is carried to the end, the end is noised to the next level, x = (α/α_ε) x_ε + √(σ² − (α
/// σ_ε/α_ε)²) z, and carried again. Its `kernels` are the levels, noisiest first, and then the map's [end](FlowMap::end): clean data,
/// or of a map that ends at ε a grid with `clean = false` on the schedule the map was trained on. Each level but the last is one evaluation; one level is
/// one-step generation.
///
/// `observe` is called at the start and after every step; an error it returns ends the run.
///
/// # Errors
/// Levels that do not fall to the map's end, and those of the map and the observer.
pub fn sample_map(
    map: &dyn FlowMap,
    kernels: &[Kernel],
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    sample_map_from(request.prior(kernels), map, kernels, request, observe)
}

/// As [`sample_map`], from a given batch `x` `[rows, dim]` at the first level of `kernels`.
///
/// # Errors
/// As [`sample_map`], and a batch of another size than the request's.
pub fn sample_map_from(
    x: Tensor<2>,
    map: &dyn FlowMap,
    kernels: &[Kernel],
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    request.check(&x)?;
    ensure!(kernels.len() >= 2, "a grid of {} level(s) has no step: give it at least two levels", kernels.len());
    ensure!(
        kernels.windows(2).all(|pair| pair[0].noise_to_signal() > pair[1].noise_to_signal()),
        "the levels a flow map follows must fall"
    );
    let end = map.end();
    if let Some(end) = &end {
        check_end(end, kernels)?;
    }
    let mut draws = Draws::new(request);
    let steps = kernels.len() - 1;
    let mut x = x;
    observe(&Progress { step: 0, steps, moves: 0, at: &kernels[0], x: &x })?;
    for (i, pair) in kernels.windows(2).enumerate() {
        let to = end.as_ref().unwrap_or(&pair[1]);
        let carried = map.carry(x.into(), (&pair[0]).into(), to.into(), &request.given)?.value;
        x = match &end {
            Some(end) if i + 1 < steps => {
                let (ratio, variance) = pair[1].transition_from(end);
                draws.normal(&carried)?.mul_scalar(variance.sqrt()) + carried.mul_scalar(ratio)
            }
            _ => carried,
        };
        observe(&Progress { step: i + 1, steps, moves: 0, at: &pair[1], x: &x })?;
    }
    Ok(Sampled { x, evaluations: steps })
}

/// Fails unless the levels of a consistency function have signal and fall to its end.
fn check_end(end: &Kernel, kernels: &[Kernel]) -> Result<()> {
    let (last, wanted) = (kernels[kernels.len() - 1].noise_to_signal(), end.noise_to_signal());
    ensure!(
        last > 0.0 || wanted == 0.0,
        "this consistency function ends at sigma/alpha = {wanted}, not clean: set the grid's clean = false"
    );
    ensure!(
        last == 0.0 || wanted > 0.0,
        "this consistency function ends at clean data, and the grid at sigma/alpha = {last}: set the grid's clean = true"
    );
    ensure!(
        (last - wanted).abs() <= 1e-6 * wanted,
        "the grid ends at sigma/alpha = {last}, the trajectories of this consistency function at {wanted}: list that last, or \
         leave out the grid's end and sample on the schedule it was trained on"
    );
    ensure!(
        kernels.iter().all(|kernel| kernel.alpha > 0.0),
        "a consistency function starts where there is signal, at a level with alpha above 0"
    );
    Ok(())
}
