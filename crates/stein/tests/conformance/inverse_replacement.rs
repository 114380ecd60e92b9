//! Methods that put the measurement into the noisy state, or guide by its pseudo-inverse: against closed-form posteriors where they
//! are exact, and by what they promise of measurements without noise.

use std::sync::Arc;

use stein::{
    Edm, Grid, Kind, Request, Result, Sampled, Schedule, Vp,
    exact::{Exact, GaussianMixture},
    inverse::{
        AnnealedInpainting, AnyMethod, Dense, Ilvr, Mcg, Noise, Operator, Pigdm, Problem, RePaint, Replacement, Sdedit,
        Weight, norm_gradient, restore,
    },
    rows::host,
};

use crate::{
    assert_close,
    inverse::{Case, moments},
    tensor,
};

/// Numbers that look drawn, from −1 to 1.
fn numbers(count: usize, step: f64) -> Vec<f64> {
    (0..count).map(|i| (step * (i * i + 3 * i) as f64 + 0.7).sin()).collect()
}

/// Neighbors that are alike: N(m, v ρ^|i−j|).
fn neighbors(dim: usize, variance: f64, alike: f64) -> (Vec<f64>, Vec<Vec<f64>>) {
    let power = |i: usize, j: usize| variance * alike.powi(i.abs_diff(j) as i32);
    (numbers(dim, 0.31), (0..dim).map(|i| (0..dim).map(|j| power(i, j)).collect()).collect())
}

/// Every k-th number.
fn every(dim: usize, k: usize) -> Vec<f64> {
    let kept = dim.div_ceil(k);
    let mut a = vec![0.0; kept * dim];
    (0..kept).for_each(|i| a[i * dim + i * k] = 1.0);
    a
}

/// What was measured of a number that is one deviation from the mean.
fn measure(a: &[f64], dim: usize, of: &[f64]) -> Vec<f64> {
    a.chunks(dim).map(|row| row.iter().zip(of).map(|(a, x)| a * x).sum()).collect()
}

/// A Gaussian whose neighbors are alike, of which every k-th number was measured.
fn series(dim: usize, k: usize, std: f64) -> Case {
    let (mean, covariance) = neighbors(dim, 0.8, 0.8);
    let truth: Vec<f64> = mean.iter().zip(numbers(dim, 0.17)).map(|(m, z)| m + z).collect();
    let a = every(dim, k);
    let y = measure(&a, dim, &truth);
    Case { prior: GaussianMixture::full(vec![1.0], vec![mean], vec![covariance]).unwrap(), a, y, std }
}

/// Two kinds of series, of which sums were measured that differ in scale: the singular values are from 0.2 to 2.
fn mixture(dim: usize, std: f64) -> Case {
    let (mean, covariance) = neighbors(dim, 0.5, 0.6);
    let other = mean.iter().map(|m| m + 1.2).collect();
    let (_, narrow) = neighbors(dim, 0.3, 0.2);
    let a: Vec<f64> = (0..3)
        .flat_map(|i| numbers(dim, 0.23 + 0.1 * i as f64).into_iter().map(move |a| a * [1.0, 0.5, 0.15][i]))
        .collect();
    let truth: Vec<f64> = mean.iter().map(|m| m + 0.5).collect();
    let y = measure(&a, dim, &truth);
    let prior = GaussianMixture::full(vec![0.5, 0.5], vec![mean, other], vec![covariance, narrow]).unwrap();
    Case { prior, a, y, std }
}

/// Whether samples have the posterior's moments: within five standard errors, and what finite steps err by, which is a tenth of a
/// deviation of a mean and 8 % of a variance.
fn check(case: &Case, method: &AnyMethod, n: usize, levels: usize, what: &str) {
    let dim = case.prior.dim();
    // Without noise the posterior's own formula may lack an inverse; a little changes nothing that is seen here.
    let posterior = case.prior.posterior(&case.a, &case.y, case.std.max(1e-4)).unwrap();
    let (mean, covariance) = (posterior.mean(), posterior.covariance());
    let (x, evaluations) = case.draw(method, n, levels);
    let found = moments(&x, dim);
    let std: Vec<f64> = (0..dim).map(|i| covariance[i * dim + i].sqrt()).collect();
    let (mut off, mut spread) = (0.0f64, 0.0f64);
    for i in 0..dim {
        off = off.max((found.0[i] - mean[i]).abs() / std[i].max(1e-3));
        for j in 0..dim {
            let place = i * dim + j;
            spread = spread.max((found.1[place] - covariance[place]).abs() / (std[i] * std[j]).max(1e-6));
        }
    }
    let (errors, n) = (5.0 / (n as f64).sqrt(), n as f64);
    println!("{what}, {}: {evaluations} evaluations, means off by {off:.3}, covariances by {spread:.3}", method.kind());
    assert!(off < errors + 0.1, "{what}, {}: means off by {off} deviations", method.kind());
    assert!(spread < 5.0 * (2.0 / n).sqrt() + 0.08, "{what}, {}: covariances off by {spread}", method.kind());
}

/// With 60 levels or fewer, ten times the corrector steps that thousands of levels would need.
fn replacement() -> AnyMethod {
    Replacement { corrector_steps: 30, ..Replacement::default() }.into()
}

#[test]
fn replacement_draws_from_the_posterior_of_a_gaussian() {
    check(&series(2, 2, 0.0), &replacement(), 2000, 60, "2 numbers without noise");
    check(&series(8, 2, 0.5), &replacement(), 2000, 40, "8 numbers");
    check(&series(64, 3, 0.3), &replacement(), 200, 40, "64 numbers");
}

#[test]
fn replacement_draws_from_the_posterior_of_a_mixture() {
    check(&mixture(2, 0.5), &replacement(), 2000, 40, "mixture of 2 numbers");
    check(&mixture(8, 0.4), &replacement(), 2000, 40, "mixture of 8 numbers");
}

#[test]
fn denoising_is_exact_without_a_corrector() {
    // All numbers are measured alike, so that below the level of the noise the model's own steps are the posterior's.
    let (mean, covariance) = neighbors(4, 0.8, 0.7);
    let a: Vec<f64> = (0..16).map(|k| f64::from(u8::from(k % 5 == 0))).collect();
    let (_, narrow) = neighbors(4, 0.2, 0.0);
    let other = mean.iter().map(|m| m + 1.0).collect();
    let y = mean.iter().map(|m| m + 0.6).collect();
    let prior = GaussianMixture::full(vec![0.6, 0.4], vec![mean, other], vec![covariance, narrow]).unwrap();
    let method = Replacement { corrector_steps: 0, ..Replacement::default() }.into();
    check(&Case { prior, a, y, std: 0.7 }, &method, 4000, 400, "denoising");
}

#[test]
fn annealed_inpainting_draws_from_the_posterior() {
    let method = AnnealedInpainting { steps: 60, ..AnnealedInpainting::default() }.into();
    check(&series(8, 2, 0.5), &method, 1000, 40, "8 numbers");
    check(&mixture(8, 0.4), &method, 1000, 40, "mixture of 8 numbers");
}

fn all() -> Vec<AnyMethod> {
    let short = |method: AnyMethod| match method {
        AnyMethod::AnnealedInpainting(_) => AnnealedInpainting { steps: 5, ..AnnealedInpainting::default() }.into(),
        other => other,
    };
    AnyMethod::all().into_iter().map(short).collect()
}

/// A run of a method on the given levels.
fn run(
    case: &Case,
    method: &AnyMethod,
    y: Vec<f64>,
    first: u64,
    schedule: &dyn Schedule,
    grid: &Grid,
) -> Result<Sampled> {
    let (dim, width) = (case.prior.dim(), case.y.len());
    let rows = y.len() / width;
    let operator = Arc::new(Dense::new(width, dim, &case.a)?);
    let problem = Problem::new(operator, Noise::Gaussian { std: case.std }, y)?;
    let request = Request { first, data_variance: case.prior.variance(), ..Request::exact(rows, dim, 3) };
    restore(&case.prior, schedule, &grid.kernels(schedule)?, &**method, &problem, &request, &mut |_| Ok(()))
}

#[test]
fn a_sample_does_not_depend_on_the_batch() {
    let case = mixture(6, 0.3);
    // Another measurement for each row.
    let y: Vec<f64> = (0..4).flat_map(|row| case.y.iter().map(move |y| y + 0.3 * f64::from(row))).collect();
    let (schedule, grid) = (Vp::default(), Grid::uniform(12));
    for method in all() {
        let together = host(&run(&case, &method, y.clone(), 0, &schedule, &grid).unwrap().x);
        for row in 0..4 {
            let alone = run(&case, &method, y[3 * row..3 * row + 3].to_vec(), row as u64, &schedule, &grid).unwrap();
            for (a, b) in host(&alone.x).iter().zip(&together[6 * row..]) {
                assert_close(*a, *b, 1e-9, format!("{}, row {row}", method.kind()));
            }
        }
    }
}

#[test]
fn measurements_without_noise_are_met_exactly() {
    let case = Case { std: 0.0, ..mixture(6, 0.3) };
    let methods: [AnyMethod; 5] = [
        Replacement::default().into(),
        AnnealedInpainting { steps: 5, ..AnnealedInpainting::default() }.into(),
        RePaint::default().into(),
        Ilvr::default().into(),
        Mcg::default().into(),
    ];
    for method in methods {
        for schedule in [&Edm::default() as &dyn Schedule, &Vp::default()] {
            let x = host(&run(&case, &method, case.y.repeat(20), 0, schedule, &Grid::karras(25)).unwrap().x);
            for x in x.chunks(6) {
                let misfit =
                    measure(&case.a, 6, x).iter().zip(&case.y).fold(0.0, |most: f64, (a, y)| most.max((a - y).abs()));
                assert!(misfit < 1e-9, "{}: {misfit}", method.kind());
            }
        }
    }
}

/// y = x², which is not linear.
#[derive(Debug)]
struct Squares(usize);

impl Operator for Squares {
    fn inputs(&self) -> usize {
        self.0
    }

    fn outputs(&self) -> usize {
        self.0
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        x.iter().map(|x| x * x).collect()
    }

    fn push(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        x.iter().zip(v).map(|(x, v)| 2.0 * x * v).collect()
    }

    fn pull(&self, x: &[f64], w: &[f64]) -> Vec<f64> {
        self.push(x, w)
    }
}

#[test]
fn what_a_method_is_not_for_is_refused() {
    let linear: Arc<dyn Operator> = Arc::new(Dense::new(1, 2, &[1.0, 2.0]).unwrap());
    let gaussian = Noise::Gaussian { std: 0.1 };
    let fine = Problem::new(Arc::clone(&linear), gaussian, vec![1.0]).unwrap();
    let nonlinear = Problem::new(Arc::new(Squares(2)), gaussian, vec![1.0, 2.0]).unwrap();
    let counts = Problem::new(linear, Noise::Poisson { rate: 10.0 }, vec![1.0]).unwrap();
    let all: [AnyMethod; 7] = [
        Replacement::default().into(),
        AnnealedInpainting::default().into(),
        RePaint::default().into(),
        Ilvr::default().into(),
        Mcg::default().into(),
        Pigdm::default().into(),
        Sdedit::default().into(),
    ];
    for method in all {
        method.check(&fine).unwrap();
        let error = method.check(&nonlinear).unwrap_err();
        let kind = method.kind();
        assert!(error.kind() == Kind::Unsupported && error.to_string().contains(kind), "{kind}: {error}");
        // SDEdit does not ask what the noise is.
        match method.check(&counts) {
            Err(error) => assert!(error.to_string().contains("is for Gaussian noise"), "{kind}: {error}"),
            Ok(()) => assert_eq!(kind, "sdedit"),
        }
    }
    let bad: [(AnyMethod, &str); 18] = [
        (Replacement { corrector_steps: 2_000_000, ..Replacement::default() }.into(), "corrector_steps"),
        (Replacement { snr: 0.8, ..Replacement::default() }.into(), "snr"),
        (Replacement { eta: 1.1, ..Replacement::default() }.into(), "eta"),
        (AnnealedInpainting { steps: 0, ..AnnealedInpainting::default() }.into(), "steps"),
        (AnnealedInpainting { step_size: 0.0, ..AnnealedInpainting::default() }.into(), "step_size"),
        (RePaint { jump_length: 0, ..RePaint::default() }.into(), "jump_length"),
        (RePaint { resamplings: 0, ..RePaint::default() }.into(), "resamplings"),
        (Ilvr { until: -1.0, ..Ilvr::default() }.into(), "until"),
        (Ilvr { eta: f64::NAN, ..Ilvr::default() }.into(), "eta"),
        (Mcg { scale: -1.0, ..Mcg::default() }.into(), "scale"),
        (Mcg { eta: 2.0, ..Mcg::default() }.into(), "eta"),
        (Pigdm { data_variance: 0.0, ..Pigdm::default() }.into(), "data_variance"),
        (Pigdm { eta: -0.1, ..Pigdm::default() }.into(), "eta"),
        (Sdedit { strength: 0.0, ..Sdedit::default() }.into(), "strength"),
        (Sdedit { strength: 1.5, ..Sdedit::default() }.into(), "strength"),
        (Sdedit { repeats: 0, ..Sdedit::default() }.into(), "repeats"),
        (Sdedit { eta: 1.5, ..Sdedit::default() }.into(), "eta"),
        (Pigdm { data_variance: f64::INFINITY, ..Pigdm::default() }.into(), "data_variance"),
    ];
    for (method, parameter) in bad {
        let error = method.check(&fine).unwrap_err().to_string();
        let wanted = format!("method {}: {parameter} is ", method.kind());
        assert!(error.starts_with(&wanted), "{error}");
    }
}

#[test]
fn repaint_travels_as_published() {
    let case = series(2, 2, 0.0);
    let method = RePaint::default().into();
    // 250 levels, jumps of 10 and 10 times: 4570 moves, of which 2160 go up.
    let drawn = run(&case, &method, case.y.clone(), 0, &Vp::default(), &Grid::uniform(250)).unwrap();
    assert_eq!(drawn.evaluations, 2410);
    let none = run(&case, &method, case.y.clone(), 0, &Vp::default(), &Grid::uniform(10)).unwrap();
    assert_eq!(none.evaluations, 10);
}

#[test]
fn methods_are_each_other_where_they_leave_something_out() {
    let case = mixture(6, 0.3);
    let draw = |method: AnyMethod| {
        host(&run(&case, &method, case.y.repeat(3), 0, &Edm::default(), &Grid::karras(15)).unwrap().x)
    };
    let same = |a: AnyMethod, b: AnyMethod| {
        let what = format!("{} and {}", a.kind(), b.kind());
        draw(a).into_iter().zip(draw(b)).for_each(|(a, b)| assert_close(a, b, 1e-9, &what));
    };
    let once = RePaint { resamplings: 1, ..RePaint::default() };
    same(Ilvr::default().into(), once.into());
    same(Ilvr::default().into(), Mcg { scale: 0.0, ..Mcg::default() }.into());
}

#[test]
fn sdedit_draws_from_the_noised_picture() {
    let (n, mean, variance) = (4000, 0.4, 0.5f64);
    let prior = GaussianMixture::isotropic(vec![1.0], vec![vec![mean]], vec![variance.sqrt()]).unwrap();
    let case = Case { prior, a: vec![1.0], y: vec![1.5], std: 0.0 };
    let (schedule, grid) = (Edm::default(), Grid::karras(100));
    for (strength, repeats) in [(0.4, 1), (0.4, 3), (0.004, 1)] {
        let method = Sdedit { strength, repeats, ..Sdedit::default() }.into();
        let drawn = run(&case, &method, case.y.repeat(n), 0, &schedule, &grid).unwrap();
        let steps = (strength * 100.0f64).round().max(1.0) as usize;
        assert_eq!(drawn.evaluations, repeats * steps);
        // x_0 given x_t is N(m + k (x_t − m), k n) with k = v/(v + n), and x_t is N(x_0, n).
        let clock = grid.kernels(&schedule).unwrap()[100 - steps].sigma.powi(2);
        let k = variance / (variance + clock);
        let (mut at, mut spread) = (1.5, 0.0);
        for _ in 0..repeats {
            (at, spread) = (mean + k * (at - mean), k * k * (spread + clock) + k * clock);
        }
        // Of one step the end is the estimate.
        let spread = if steps == 1 { k * k * clock } else { spread };
        let (found_mean, found) = moments(&host(&drawn.x), 1);
        let std = spread.sqrt();
        // Five standard errors, and what 40 steps err by.
        assert!((found_mean[0] - at).abs() < 5.0 * std / (n as f64).sqrt() + 0.03 * std, "{} for {at}", found_mean[0]);
        assert!((found[0] / spread - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt() + 0.05, "{} for {spread}", found[0]);
    }
}

#[test]
fn ilvr_lets_go_below_its_level() {
    // Where the reference is followed nowhere, what is left is the prior.
    let case = Case { y: vec![40.0], ..series(2, 2, 0.0) };
    let method = Ilvr { until: 100.0, ..Ilvr::default() }.into();
    let (n, schedule) = (4000, Edm::default());
    // The start is held there: below it the model brings the sample back.
    let drawn = run(&case, &method, case.y.repeat(n), 0, &schedule, &Grid::karras(60)).unwrap();
    let (mean, _) = moments(&host(&drawn.x), 2);
    let free = case.prior.mean();
    // A start 40 off at σ = 80 leaves 0.8 · 40/80² of it; five standard errors.
    assert!(mean.iter().zip(free).all(|(a, b)| (a - b).abs() < 5.0 * 0.9 / (n as f64).sqrt() + 0.02), "{mean:?}");
}

/// A Gaussian without correlations, of which sums of different scales were measured.
fn uncorrelated(dim: usize, variance: f64, std: f64) -> Case {
    let mean = numbers(dim, 0.31);
    let a: Vec<f64> =
        numbers(2 * dim, 0.23).into_iter().enumerate().map(|(i, a)| if i < dim { a } else { 0.2 * a }).collect();
    let y = measure(&a, dim, &mean.iter().map(|m| m + 0.8).collect::<Vec<_>>());
    let prior = GaussianMixture::isotropic(vec![1.0], vec![mean], vec![variance.sqrt()]).unwrap();
    Case { prior, a, y, std }
}

#[test]
fn pseudo_inverse_guidance_is_exact_for_its_gaussian() {
    for (dim, std) in [(2, 0.4), (8, 0.0), (8, 0.3)] {
        let case = uncorrelated(dim, 0.6, std);
        for eta in [0.0, 1.0] {
            let method = Pigdm { data_variance: 0.6, eta, ..Pigdm::default() };
            check(&case, &method.into(), 4000, 200, &format!("dim {dim}, std {std}, eta {eta}"));
        }
    }
}

#[test]
fn the_published_weight_is_a_step_of_its_own() {
    // Of N(0, 1) at α = 1, σ = 1: r² = 1/2 and J = 1/2. One step to the end from x adds α_s α_t r² g to D = x/2 for y = x_0 + N(0, 1/4).
    let prior = GaussianMixture::isotropic(vec![1.0], vec![vec![0.0]], vec![1.0]).unwrap();
    let case = Case { prior, a: vec![1.0], y: vec![3.0], std: 0.5 };
    let grid = Grid { spacing: stein::Spacing::Given { noise: vec![1.0] }, ..Grid::karras(1) };
    let draw = |weight| {
        host(&run(&case, &Pigdm { weight, ..Pigdm::default() }.into(), vec![3.0], 0, &Edm::default(), &grid).unwrap().x)
            [0]
    };
    let start = {
        let drawn =
            run(&case, &stein::inverse::Dps { scale: 0.0, eta: 0.0 }.into(), vec![3.0], 0, &Edm::default(), &grid)
                .unwrap();
        2.0 * host(&drawn.x)[0]
    };
    let g = 0.5 * (3.0 - start / 2.0) / (0.5 + 0.25);
    assert_close(draw(Weight::Published), start / 2.0 + 0.5 * g, 1e-12, "published");
    assert_close(draw(Weight::Score), start / 2.0 + g, 1e-12, "score");
}

#[test]
fn directions_are_those_of_their_formulas() {
    let case = mixture(6, 0.4);
    let operator: Arc<dyn Operator> = Arc::new(Dense::new(3, 6, &case.a).unwrap());
    let problem = |noise: Noise| Problem::new(Arc::clone(&operator), noise, vec![1.3, 0.7, 2.1]).unwrap();
    let x = numbers(6, 0.4);
    // The norm's gradient against central differences; counts are weighted by their variances over the mean of those.
    for noise in [Noise::Gaussian { std: 0.4 }, Noise::Poisson { rate: 5.0 }] {
        let problem = problem(noise);
        let variances = match noise {
            Noise::Gaussian { .. } => vec![1.0; 3],
            Noise::Poisson { .. } => problem.variances(0).to_vec(),
        };
        let mean = variances.iter().sum::<f64>() / 3.0;
        let norm = |x: &[f64]| {
            let squares = problem.residual(0, x).into_iter().zip(&variances).map(|(r, v)| r * r * mean / v);
            squares.sum::<f64>().sqrt()
        };
        let found = host(&norm_gradient(&problem, &tensor(&x, 6)));
        for i in 0..6 {
            let moved = |by: f64| {
                let mut x = x.clone();
                x[i] += by;
                norm(&x)
            };
            assert_close(found[i], (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-8, format!("{noise:?}, {i}"));
        }
    }
    // A solution u of (r² AAᵀ + σ_y²) u = y − A D, put in.
    let (problem, method) = (problem(Noise::Gaussian { std: 0.4 }), Pigdm { data_variance: 0.7, ..Pigdm::default() });
    let at = Vp::default().kernel(0.4);
    let clock = (at.sigma / at.alpha).powi(2);
    let variance = 0.7 * clock / (0.7 + clock);
    assert_close(method.variance(&at), variance, 1e-12, "r²");
    let direction = host(&method.direction(&problem, &tensor(&x, 6), &at).unwrap());
    // Aᵀ u = w, so that A w r² + σ_y² u = residual; times Aᵀ: r² AᵀA w + σ_y² w = Aᵀ residual.
    let back = |y: &[f64]| -> Vec<f64> { (0..6).map(|j| (0..3).map(|i| case.a[6 * i + j] * y[i]).sum()).collect() };
    let squared = back(&measure(&case.a, 6, &direction));
    for (i, wanted) in back(&problem.residual(0, &x)).into_iter().enumerate() {
        assert_close(variance * squared[i] + 0.16 * direction[i], wanted, 1e-12, format!("direction, {i}"));
    }
}
