//! Grids of few steps fitted to a model: the levels at which its sampler's own errors add up to least.
//!
//! Along trajectories of the probability-flow ODE through a fine list of candidate levels, the step from level i to level j is taken
//! from the exact state, and what it misses the exact state at j by is its error e_ij, in x̄ = x/α over rows. Errors of a trajectory add up, and
//! the flow shrinks them on the way down: where the data are N(0, s² I) by s/√(s² + σ̄_j²), σ̄ = σ/α. The grid is the path through the
//! candidates with the least Σ s/√(s² + σ̄_j²) e_ij, found by dynamic programming (as Watson et al. 2021, "Learning to Efficiently Sample from
//! Diffusion Probabilistic Models", find theirs for the variational bound; Sabour et al. 2024, "Align Your Steps", minimize a bound on the
//! divergence of the sampled paths).
//!
//! Steps that look back at the estimate before depend on where that was, so their paths are of pairs of levels. All estimates are those at
//! the candidates, one for each: trying every grid costs no further evaluation.

use burn::tensor::Tensor;

use crate::{Denoiser, Heun, Kernel, Request, Result, Schedule, denoiser, ensure, rows, sampler::sample};

/// What steps are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// The estimate where a step starts, as DDIM's.
    First,
    /// That and the one before, as those of DPM-Solver++ 2M.
    Second,
}

/// Paths of a model through candidate levels, and what any step among those misses them by.
///
/// ```
/// use stein::{Ddim, Edm, Grid, Request, Spacing, exact::GaussianMixture, optimized::{Paths, Steps}, sample};
///
/// let (model, schedule) = (GaussianMixture::ncsn(), Edm::default());
/// let fine = Grid { clean: false, ..Grid::karras(40) }.kernels(&schedule)?;
/// let paths = Paths::of(&model, &schedule, &fine, &Request::exact(16, 2, 1))?;
/// let grid = Grid { spacing: Spacing::Given { noise: paths.levels(6, Steps::First)? }, ..Grid::default() };
/// let levels = grid.kernels(&schedule)?;
/// let drawn = sample(&model, &schedule, &levels, &Ddim::default(), &Request::exact(16, 2, 2), &mut |_| Ok(()))?;
/// assert_eq!((levels.len(), drawn.evaluations), (7, 6));
/// # Ok::<(), stein::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Paths {
    noise: Vec<f64>,
    /// What is left in the end of an error at each level; at the clean end 1.
    shrinks: Vec<f64>,
    /// Inner products x̄_i·x̄_j, x̄_i·D_j and D_i·D_j, means over rows: the error of any step follows from them.
    products: [Vec<Vec<f64>>; 3],
}

impl Paths {
    /// The paths of the rows of a request through candidates, noisy levels, the noisiest first.
    ///
    /// # Errors
    /// A candidate without signal or noise, and those of the denoiser.
    pub fn of(
        denoiser: &dyn Denoiser,
        schedule: &dyn Schedule,
        candidates: &[Kernel],
        request: &Request,
    ) -> Result<Self> {
        ensure!(
            candidates.iter().all(|at| at.alpha > 0.0 && at.sigma > 0.0),
            "candidate levels have signal and noise: lay the grid without the ends where one is 0"
        );
        let mut states: Vec<Tensor<2>> = Vec::new();
        // From one candidate to the next Heun's method is exact enough: the steps that are tried are many times as long.
        sample(denoiser, schedule, candidates, &Heun::default(), request, &mut |progress| {
            states.push(progress.x.clone());
            Ok(())
        })?;
        let mut scaled = Vec::new();
        let mut estimates = Vec::new();
        for (x, at) in states.into_iter().zip(candidates) {
            estimates.push(rows::host(&denoiser::denoise(denoiser, x.clone(), at.into(), &request.given)?));
            scaled.push(rows::host(&x.div_scalar(at.alpha)));
        }
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / request.rows as f64;
        let table = |one: &[Vec<f64>], other: &[Vec<f64>]| -> Vec<Vec<f64>> {
            one.iter().map(|a| other.iter().map(|b| product(a, b)).collect()).collect()
        };
        let noise: Vec<f64> = candidates.iter().map(Kernel::noise_to_signal).collect();
        let spread = request.data_variance.sqrt();
        Ok(Self {
            shrinks: noise.iter().map(|noise| spread / spread.hypot(*noise)).collect(),
            products: [table(&scaled, &scaled), table(&scaled, &estimates), table(&estimates, &estimates)],
            noise,
        })
    }

    /// The σ/α of the levels of the best grid of so many steps from the first candidate on, the last step being to σ = 0: for
    /// [`Spacing::Given`](crate::Spacing::Given).
    ///
    /// # Errors
    /// No steps, and fewer candidates than steps.
    pub fn levels(&self, steps: usize, made_of: Steps) -> Result<Vec<f64>> {
        ensure!(
            steps >= 1 && self.count() > steps,
            "{} candidate levels make no choice of {steps} steps: give more candidates, and at least 1 step",
            self.count()
        );
        let path = match made_of {
            Steps::First => self.first(steps),
            Steps::Second => self.second(steps),
        };
        Ok(path.into_iter().map(|place| self.noise[place]).collect())
    }

    fn count(&self) -> usize {
        self.noise.len()
    }

    /// ‖x_part x̄_i + on_here D_i + on_before D_k − x̄_j‖, as it is left in the end.
    fn error(&self, [before, here, to]: [usize; 3], [on_x, on_here, on_before]: [f64; 3]) -> f64 {
        let [xx, xd, dd] = &self.products;
        let squared = on_x * on_x * xx[here][here] + xx[to][to] - 2.0 * on_x * xx[here][to]
            + on_here * on_here * dd[here][here]
            + on_before * on_before * dd[before][before]
            + 2.0 * on_here * on_before * dd[here][before]
            + 2.0 * on_x * (on_here * xd[here][here] + on_before * xd[here][before])
            - 2.0 * (on_here * xd[to][here] + on_before * xd[to][before]);
        self.shrinks[to] * squared.max(0.0).sqrt()
    }

    /// A step from one candidate to another, with the estimate before at a third where there is one.
    fn step(&self, before: Option<usize>, here: usize, to: usize) -> f64 {
        let ratio = self.noise[to] / self.noise[here];
        let Some(before) = before else { return self.error([here, here, to], [ratio, 1.0 - ratio, 0.0]) };
        // (1 − e^{−h}) (D + (D − D_before) h/(2 h_before)), with e^{−h} the ratio.
        let part = 0.5 * ratio.ln() / (self.noise[here] / self.noise[before]).ln();
        self.error([before, here, to], [ratio, (1.0 - ratio) * (1.0 + part), -(1.0 - ratio) * part])
    }

    /// The step to σ = 0, which gives D: its error is how far that is from D at the cleanest candidate.
    fn end(&self, here: usize) -> f64 {
        let [_, _, dd] = &self.products;
        let last = self.count() - 1;
        (dd[here][here] + dd[last][last] - 2.0 * dd[here][last]).max(0.0).sqrt()
    }

    /// The places of the best grid of steps that look at one estimate.
    fn first(&self, steps: usize) -> Vec<usize> {
        let count = self.count();
        // The least sum of errors on the way to each place in so many steps, and the place before.
        let mut sums = vec![f64::INFINITY; count];
        sums[0] = 0.0;
        let mut befores: Vec<Vec<usize>> = Vec::new();
        for _ in 1..steps {
            let best = |to: usize| {
                let sums = &sums;
                let of = (0..to).map(move |here| (sums[here] + self.step(None, here, to), here));
                of.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, 0))
            };
            let (next, from): (Vec<f64>, Vec<usize>) = (0..count).map(best).unzip();
            sums = next;
            befores.push(from);
        }
        let last = (0..count).min_by(|&a, &b| (sums[a] + self.end(a)).total_cmp(&(sums[b] + self.end(b))));
        let mut path = vec![last.expect("there is a candidate")];
        for from in befores.iter().rev() {
            path.push(from[path[path.len() - 1]]);
        }
        path.reverse();
        path
    }

    /// The same of steps that look at two, over pairs of places.
    fn second(&self, steps: usize) -> Vec<usize> {
        let count = self.count();
        if steps == 1 {
            return vec![0];
        }
        let pair = |before: usize, here: usize| before * count + here;
        let mut sums = vec![f64::INFINITY; count * count];
        for to in 1..count {
            sums[pair(0, to)] = self.step(None, 0, to);
        }
        let mut befores: Vec<Vec<usize>> = Vec::new();
        for _ in 2..steps {
            let mut next = vec![f64::INFINITY; count * count];
            let mut from = vec![0; count * count];
            for here in 1..count {
                for to in here + 1..count {
                    let of = (0..here).map(|before| {
                        let sum = sums[pair(before, here)];
                        (if sum.is_finite() { sum + self.step(Some(before), here, to) } else { sum }, before)
                    });
                    let best = of.min_by(|a, b| a.0.total_cmp(&b.0)).expect("here is not the first");
                    (next[pair(here, to)], from[pair(here, to)]) = best;
                }
            }
            sums = next;
            befores.push(from);
        }
        let total = |&at: &usize| sums[at] + self.end(at % count);
        let last = (0..count * count).min_by(|a, b| total(a).total_cmp(&total(b))).expect("there is a candidate");
        let mut path = vec![last % count, last / count];
        for from in befores.iter().rev() {
            let (here, to) = (path[path.len() - 1], path[path.len() - 2]);
            path.push(from[pair(here, to)]);
        }
        path.reverse();
        path
    }
}
