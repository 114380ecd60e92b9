//! Zero-shot restoration and editing by a flow map (Song et al. 2023, "Consistency Models", arXiv:2303.01469, algorithm 4 and
//! appendix D): multistep sampling, of whose every result the part that is known is put back.
//!
//! With A = U diag(s) Vᵀ a measurement y = A x gives the coordinates c_i = (Uᵀy)_i/s_i of a sample in the orthonormal basis V, those of
//! a mask in the basis of pixels, of a gray picture in one of colors whose first axis is (1, 1, 1)/√3, of a smaller picture in one
//! of blocks whose first axis is their mean. From x = α A⁺y + σ z at the noisiest level on, at every level
//!
//! x_ε ← f(x, level), whose measured coordinates become c,    x ← (α/α_ε) x_ε + √(σ² − (α σ_ε/α_ε)²) z at the next.
//!
//! The last x_ε is the sample: what was measured is kept to the last digit. Of an exact map the samples are draws of p(x_0 | y) where
//! what is measured and what is not are independent, and near it otherwise: a level's unmeasured part is found from noised knowledge.
//!
//! Nothing in this takes noise in a measurement, except where all of a sample was measured alike, s_i = s with noise of one
//! standard deviation: then A⁺y is itself a point of a trajectory, at the level σ/α = std/s, and the map carries it to the end
//! (denoising). Levels of the grid that are cleaner still follow.
//!
//! An [`Edit`] starts from the picture, or strokes that stand for one, noised to a level between (stroke-guided generation, published:
//! σ = 5.38 and then 2.24), and what may not change is what is known.
//!
//! A map between any two levels is asked for the last level of the grid, as if trajectories ended there.

use burn::tensor::Tensor;

use super::{Edit, Problem, check_sizes, edit::noised};
use crate::{
    Condition, Dual, Error, FlowMap, Kernel, Kind, Levels, Progress, Purpose, Request, Result, Sampled, Schedule,
    ensure, noise::normal_like, sample_map_from,
};

/// What a measurement without noise, or one of everything with noise, says to a flow map.
enum Said {
    /// Some coordinates, exactly.
    Coordinates,
    /// All coordinates with noise of this standard deviation: a point at the level where σ/α is that.
    Noised(f64),
}

fn said(problem: &Problem) -> Result<Said> {
    let (linear, std) = problem.linear_gaussian("consistency")?;
    if std == 0.0 {
        return Ok(Said::Coordinates);
    }
    let spectrum = linear.spectrum()?;
    let values = spectrum.values();
    let alike = values.len() == spectrum.dim() && values.iter().all(|s| (s / values[0] - 1.0).abs() < 1e-9);
    ensure!(
        Kind::Unsupported,
        alike,
        "method consistency keeps what was measured as it is, noise included: set measurement.noise = 0, or use a denoiser and a \
         method such as replacement or ddrm"
    );
    Ok(Said::Noised(std / values[0]))
}

/// Fails, before any work, if a problem is none that [`restore_by_map`] solves.
///
/// # Errors
/// A measurement that is not linear, or has noise, unless everything was measured alike.
pub fn check_for_map(problem: &Problem) -> Result<()> {
    said(problem).map(drop)
}

/// Draws samples that fit a measurement by a flow map: one for each measurement of the problem.
///
/// `kernels` are as those of [`sample_map`](crate::sample_map), each but the last one evaluation; published are 18 or more. Where the
/// measurement is a sample with noise those that are noisier than it are left out.
///
/// ```
/// use std::sync::Arc;
/// use stein::{Condition, Dual, Edm, FlowMap, Grid, Kernel, Levels, Request, Result, Schedule, rows::host};
/// use stein::inverse::{Dense, Noise, Problem, restore_by_map};
///
/// /// The consistency function of N(0, I): x_ε = x √(1 + ε²)/√(1 + σ²).
/// struct Standard;
///
/// impl FlowMap for Standard {
///     fn carry(&self, x: Dual<2>, from: Levels, to: Levels, _: &Condition) -> Result<Dual<2>> {
///         let std = |at: &Kernel| at.sigma.hypot(1.0);
///         Ok(x.scale(&from.factors(|at| 1.0 / std(at))).scale(&to.factors(std)))
///     }
///
///     fn end(&self) -> Option<Kernel> {
///         Some(Edm::default().kernel(0.002))
///     }
/// }
///
/// // Of two numbers the first is known.
/// let problem = Problem::new(Arc::new(Dense::new(1, 2, &[1.0, 0.0])?), Noise::default(), vec![3.0])?;
/// let levels = Grid { clean: false, ..Grid::karras(4) }.kernels(&Edm::default())?;
/// let drawn = restore_by_map(&Standard, &Edm::default(), &levels, &problem, &Request::exact(1, 2, 0), &mut |_| Ok(()))?;
/// assert_eq!((host(&drawn.x)[0], drawn.evaluations), (3.0, 4));
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// As [`check_for_map`] and [`sample_map`](crate::sample_map); measurements of another number or size than the request's; noise
/// that is less than that of the end, or more than that of the noisiest level.
pub fn restore_by_map(
    map: &dyn FlowMap,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    problem: &Problem,
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    let said = said(problem)?;
    check_sizes(problem, request)?;
    let end = end_of(map, kernels)?;
    let (linear, _) = problem.linear_gaussian("consistency")?;
    let spectrum = linear.spectrum()?;
    let prior = request.prior(kernels);
    let picture = problem.each(&prior, |row, _| spectrum.back(problem.y(row), &|s| 1.0 / s));
    match said {
        Said::Coordinates => {
            let at = &kernels[0];
            let normal = at.sigma / at.prior_std(request.data_variance);
            let start = picture.mul_scalar(at.alpha) + prior.mul_scalar(normal);
            let put_back = |x: Tensor<2>| {
                problem.each(&x, |row, x| {
                    let mut c = spectrum.coordinates(x);
                    let measured = spectrum.measured(problem.y(row));
                    c.iter_mut().zip(measured.iter().zip(spectrum.values())).for_each(|(c, (y, s))| *c = y / s);
                    spectrum.sample(&c)
                })
            };
            sample_map_from(start, &Replacing { map, end, put_back }, kernels, request, observe)
        }
        Said::Noised(noise) => {
            let (first, last) = schedule.span();
            let (least, most) = (end.noise_to_signal(), schedule.kernel(last).noise_to_signal());
            ensure!(
                noise > least && noise <= most,
                "the noise of this measurement is that of sigma/alpha = {noise}, and the flow map takes samples from {least} to {most}"
            );
            let at = schedule.kernel(schedule.time_at(-2.0 * noise.ln()).clamp(first, last));
            let cleaner = kernels.iter().filter(|kernel| kernel.noise_to_signal() < noise).copied();
            let levels: Vec<Kernel> = std::iter::once(at).chain(cleaner).collect();
            let start = picture.mul_scalar(at.alpha);
            sample_map_from(start, &Replacing { map, end, put_back: |x| x }, &levels, request, observe)
        }
    }
}

/// Rows edited by a flow map, as [`edit`](super::edit) does it by a sampler.
///
/// # Errors
/// As [`edit`](super::edit) and [`sample_map`](crate::sample_map).
pub fn edit_by_map(
    what: &Edit,
    map: &dyn FlowMap,
    kernels: &[Kernel],
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    let levels = what.levels(kernels)?;
    what.check_mask()?;
    let end = end_of(map, kernels)?;
    let noise = normal_like(&request.keys(), Purpose::Prior, 0, &what.rows);
    let start = noised(&what.rows, &noise, &levels[0]);
    let put_back = |x: Tensor<2>| match &what.mask {
        Some(mask) => what.rows.clone() + (x - what.rows.clone()) * mask.clone(),
        None => x,
    };
    sample_map_from(start, &Replacing { map, end, put_back }, levels, request, observe)
}

/// Where a map carries to: the end of its trajectories, or the last level.
fn end_of(map: &dyn FlowMap, kernels: &[Kernel]) -> Result<Kernel> {
    ensure!(kernels.len() >= 2, "a grid of {} level(s) has no step: give it at least two levels", kernels.len());
    Ok(map.end().unwrap_or(kernels[kernels.len() - 1]))
}

/// A flow map to the end, where what is known is put back.
struct Replacing<'a, F> {
    map: &'a dyn FlowMap,
    end: Kernel,
    put_back: F,
}

impl<F: Fn(Tensor<2>) -> Tensor<2> + Send + Sync> FlowMap for Replacing<'_, F> {
    fn carry(&self, x: Dual<2>, from: Levels, to: Levels, given: &Condition) -> Result<Dual<2>> {
        let carried = self.map.carry(x, from, to, given)?;
        match carried.tangent {
            None => Ok((self.put_back)(carried.value).into()),
            Some(_) => Err(Error::of(Kind::Unsupported, "a sample whose known part is put back has no derivative")),
        }
    }

    fn end(&self) -> Option<Kernel> {
        Some(self.end)
    }
}
