//! Inverse problems: samples of p(x_0 | y) where y = A(x_0) + noise was measured, by a denoiser of p(x_0) that knows nothing of A.
//!
//! A [`measurement`] of a file becomes an [`Operator`] for samples of some shape; an operator, the noise and what was measured
//! are a [`Problem`]; a [`method`] draws from its posterior, and [`restore`] runs it. A flow map, which is no denoiser, has a
//! way of its own, [`restore_by_map`]. For a prior whose posterior is known the answer can be looked at:
//!
//! ```
//! use std::sync::Arc;
//! use stein::{Edm, Grid, Request, exact::{Exact, GaussianMixture}, inverse::{Dense, Dps, Noise, Problem, restore}, rows::host};
//!
//! let (model, schedule) = (GaussianMixture::ncsn(), Edm::default());
//! // The sum of both coordinates was measured: 9, with a standard deviation of 0.5.
//! let (sum, y) = (Dense::new(1, 2, &[1.0, 1.0])?, vec![9.0; 500]);
//! let problem = Problem::new(Arc::new(sum), Noise::Gaussian { std: 0.5 }, y)?;
//! let levels = Grid::karras(50).kernels(&schedule)?;
//! let request = Request { data_variance: model.variance(), ..Request::exact(500, 2, 0) };
//! let drawn = restore(&model, &schedule, &levels, &Dps::default(), &problem, &request, &mut |_| Ok(()))?;
//! let sums: Vec<f64> = host(&drawn.x).chunks(2).map(|x| x[0] + x[1]).collect();
//! let mean = sums.iter().sum::<f64>() / 500.0;
//! assert!((mean - 9.1).abs() < 0.3); // the posterior's is 9.11
//! # Ok::<(), stein::Error>(())
//! ```

mod by_map;
mod edit;
pub mod measurement;
pub mod method;
mod operator;
mod problem;
mod shown;

pub use by_map::{check_for_map, edit_by_map, restore_by_map};
pub use edit::{Edit, edit};
pub use measurement::{AnyMeasurement, Measurement};
pub use method::{
    AnnealedInpainting, AnyMethod, Conditional, Daps, Ddnm, Ddrm, DiffPir, Dps, Ilvr, Law, Mcg, Method, Mmps, Pigdm,
    RePaint, RedDiff, Replacement, Running, Sdedit, Tds, Weight, norm_gradient,
};
pub use operator::{
    BlockDiagonal, Chain, Clipped, Complex, Convolution, Dense, DenseSpectrum, Fourier, FourierBasis, Gather, InState,
    Kronecker, Linear, MOST_DENSE, Operator, PerChannel, Rounded, Sparse, Spectrum, Transposed, linear,
};
use operator::{complex, pairs};
pub use problem::{Noise, Problem};

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{
    Condition, Denoiser, Dual, Estimate, Eval, Kernel, Levels, Past, Progress, Request, Result, Sampled, Schedule,
    ensure,
};

/// Draws samples of p(x_0 | y): one for each measurement of the problem, which are as many as the request's rows.
///
/// Sample i is the same whatever batch it is in, as long as its measurement is. The observer is shown every particle as a row.
///
/// # Errors
/// A problem that is none for the method or of another size, a grid without a step, and those of the denoiser and the
/// observer.
pub fn restore(
    denoiser: &dyn Denoiser,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    method: &dyn Method,
    problem: &Problem,
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    method.check(problem)?;
    check_sizes(problem, request)?;
    ensure!(kernels.len() >= 2, "a grid of {} level(s) has no step: give it at least two levels", kernels.len());
    ensure!(
        kernels[0].alpha > 0.0,
        "a run cannot start where alpha is 0, as it is at the grid's start t = {}: set the start below it",
        kernels[0].t
    );
    // Every particle is a row with noise of its own.
    let particles = method.particles();
    let places: Vec<usize> = (0..problem.rows()).flat_map(|row| std::iter::repeat_n(row, particles)).collect();
    let problem = problem.select(&places);
    let request = Request {
        first: request.first * particles as u64,
        rows: places.len(),
        given: request.given.select(&places),
        ..request.clone()
    };
    let counted = Counted { inner: denoiser, calls: AtomicUsize::new(0) };
    let asked = method.denoiser(&counted, &problem);
    let mut running = method.begin(&problem, &request)?;
    let mut eval = Eval::new(&*asked, schedule, kernels, &request, observe);
    let mut past = Past::default();
    let mut x = running.start(request.prior(kernels), &kernels[0], &mut eval)?;
    eval.observe(&x, &kernels[0])?;
    for pair in kernels.windows(2) {
        x = running.step(x, &pair[0], &pair[1], &mut eval, &mut past)?;
        eval.arrived(&x, &pair[1])?;
    }
    Ok(Sampled { x: running.finish(x)?, evaluations: counted.calls.load(Ordering::Relaxed) })
}

/// Fails unless there is a measurement for each sample, and they are of one size.
fn check_sizes(problem: &Problem, request: &Request) -> Result<()> {
    let (inputs, rows) = (problem.operator.inputs(), problem.rows());
    ensure!(
        (rows, inputs) == (request.rows, request.dim),
        "there are {rows} measurements of samples of {inputs} numbers, and {} samples of {} are asked for",
        request.rows,
        request.dim
    );
    Ok(())
}

/// A denoiser that counts its calls, whoever makes them.
struct Counted<'a> {
    inner: &'a dyn Denoiser,
    calls: AtomicUsize,
}

impl Denoiser for Counted<'_> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.estimate(x, at, given)
    }
}
