//! Flow maps: where the probability-flow ODE carries a noisy sample, in one evaluation; and sampling by them.
//!
//! A consistency function f(x_t, t) is the clean end x_ε of the trajectory through x_t (Song et al. 2023, "Consistency
//! Models", arXiv:2303.01469, section 3). It is no posterior mean, so there is no score in it: a [`FlowMap`] is no
//! [`Denoiser`](crate::Denoiser) and no [`Sampler`](crate::Sampler) takes one.
//!
//! ```compile_fail,E0277
//! fn as_denoiser<M: stein::FlowMap>(map: M) -> impl stein::Denoiser {
//!     map
//! }
//! ```

use burn::tensor::Tensor;

use crate::{Clamp, Condition, Kernel, Progress, Request, Result, Sampled, ensure, noise::Draws};

/// The clean end of the probability-flow trajectory through a noisy sample.
pub trait FlowMap {
    /// f(x; α, σ) `[rows, dim]`, at level [`end`](Self::end), for noisy rows `x` `[rows, dim]`, each at its own level `at[row]`.
    ///
    /// # Errors
    /// When the shape or the condition is not one this map knows, or the level is one it is not defined at.
    fn carry(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>>;

    /// The level where trajectories end, ε: there the map is the identity (Song et al. 2023, section 3, boundary condition).
    fn end(&self) -> Kernel;
}

impl<M: FlowMap> FlowMap for Clamp<M> {
    fn carry(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>> {
        Ok(self.inner.carry(x, at, given)?.clamp(self.bounds.0, self.bounds.1))
    }

    fn end(&self) -> Kernel {
        self.inner.end()
    }
}

impl<M: FlowMap + ?Sized> FlowMap for &M {
    fn carry(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>> {
        (**self).carry(x, at, given)
    }

    fn end(&self) -> Kernel {
        (**self).end()
    }
}

impl<M: FlowMap + ?Sized> FlowMap for Box<M> {
    fn carry(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>> {
        (**self).carry(x, at, given)
    }

    fn end(&self) -> Kernel {
        (**self).end()
    }
}

/// Multistep consistency sampling (Song et al. 2023, algorithm 1): the prior at the noisiest level is carried to the end; the end
/// is noised to the next level, x = (α/α_ε) x_ε + √(σ² − (α σ_ε/α_ε)²) z, and carried again.
///
/// `kernels` are the levels, noisiest first, and then the map's [end](FlowMap::end): a grid with `clean = false` on the schedule
/// the map was trained on. Each level but the end is one evaluation; one level is one-step generation. `observe` is called at
/// the start and after every step; an error it returns ends the run.
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
/// As [`sample_map`].
pub fn sample_map_from(
    x: Tensor<2>,
    map: &dyn FlowMap,
    kernels: &[Kernel],
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    request.given.check(request.rows)?;
    ensure!(kernels.len() >= 2, "a grid of {} level(s) has no step: give it at least two levels", kernels.len());
    let end = map.end();
    let (last, wanted) = (kernels[kernels.len() - 1].noise_to_signal(), end.noise_to_signal());
    ensure!(
        last > 0.0,
        "a consistency function ends at sigma/alpha = {wanted}, not clean: set the grid's clean = false"
    );
    ensure!(
        (last - wanted).abs() <= 1e-6 * wanted,
        "the grid ends at sigma/alpha = {last}, the trajectories of this consistency function at {wanted}: list that last, or \
         leave out the grid's end and sample on the schedule it was trained on"
    );
    ensure!(
        kernels.windows(2).all(|pair| pair[0].noise_to_signal() > pair[1].noise_to_signal())
            && kernels.iter().all(|kernel| kernel.alpha > 0.0),
        "the levels of a consistency function must fall, from one where alpha is above 0"
    );
    let mut draws = Draws::new(request);
    let steps = kernels.len() - 1;
    let mut x = x;
    observe(&Progress { step: 0, steps, at: &kernels[0], x: &x })?;
    for (i, pair) in kernels.windows(2).enumerate() {
        let carried = map.carry(x, &vec![pair[0]; request.rows], &request.given)?;
        x = if i + 1 == steps {
            carried
        } else {
            let (ratio, variance) = pair[1].transition_from(&end);
            draws.normal(&carried)?.mul_scalar(variance.sqrt()) + carried.mul_scalar(ratio)
        };
        observe(&Progress { step: i + 1, steps, at: &pair[1], x: &x })?;
    }
    Ok(Sampled { x, evaluations: steps })
}
