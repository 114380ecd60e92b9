//! The methods that work by the decomposition, by moments, by annealing or by particles against posteriors in closed form.

use std::sync::Arc;

use stein::{
    AnySampler, Condition, Edm, Grid, Keys, Purpose, Request, Result, Schedule, Vp, denoise,
    exact::{Exact, GaussianMixture},
    inverse::{
        AnyMethod, Daps, Ddnm, Ddrm, Dense, DiffPir, Method, Mmps, Noise, Operator, Problem, RedDiff, Tds, restore,
    },
    rows::host,
};

use crate::{
    inverse::{Case, gaussian, moments},
    tensor,
};

/// The methods of this file with their defaults.
fn methods() -> Vec<AnyMethod> {
    ["ddrm", "ddnm", "mmps", "diffpir", "red_diff", "daps", "tds"].map(|kind| AnyMethod::named(kind).unwrap()).into()
}

fn normal(seed: u64, count: usize) -> Vec<f64> {
    Keys::range(seed, 0, 1).normal(Purpose::Own(1), 0, count)
}

/// A correlated Gaussian of some dimension, with some random sums measured.
fn correlated(dim: usize, measured: usize) -> Case {
    let root = normal(1, dim * dim);
    let entry = |i: usize, j: usize| {
        let product: f64 = (0..dim).map(|k| root[i * dim + k] * root[j * dim + k]).sum();
        0.5 * product / dim as f64 + if i == j { 0.5 } else { 0.0 }
    };
    let covariance = (0..dim).map(|i| (0..dim).map(|j| entry(i, j)).collect()).collect();
    let prior = GaussianMixture::full(vec![1.0], vec![normal(2, dim)], vec![covariance]).unwrap();
    let scale = 1.0 / (dim as f64).sqrt();
    let a = normal(3, measured * dim).into_iter().map(|a| scale * a).collect();
    Case { prior, a, y: normal(4, measured), std: 0.3 }
}

/// Two components far apart, of which a sum that was measured prefers one.
fn mixture(dim: usize) -> Case {
    let (near, far) = (vec![1.5 / (dim as f64).sqrt(); dim], vec![-1.5 / (dim as f64).sqrt(); dim]);
    let prior = GaussianMixture::isotropic(vec![0.4, 0.6], vec![near, far], vec![0.4, 0.4]).unwrap();
    let a = (0..dim).map(|i| if i < dim / 2 { 1.4 } else { 0.6 } / (dim as f64).sqrt()).collect();
    Case { prior, a, y: vec![0.2], std: 0.8 }
}

fn posterior(case: &Case) -> GaussianMixture {
    case.prior.posterior(&case.a, &case.y, case.std).unwrap()
}

/// Part of the rows nearest to the first component.
fn part_of_first(x: &[f64], of: &GaussianMixture) -> f64 {
    let means: Vec<&[f64]> = of.components().map(|(_, mean, _)| mean).collect();
    let far = |x: &[f64], mean: &[f64]| x.iter().zip(mean).map(|(x, m)| (x - m).powi(2)).sum::<f64>();
    let rows = x.chunks(of.dim());
    let first = rows.clone().filter(|x| far(x, means[0]) < far(x, means[1])).count();
    first as f64 / rows.len() as f64
}

/// Samples of given problems, one for each measurement, on EDM's schedule.
fn drawn(
    prior: &GaussianMixture,
    problem: &Problem,
    method: &dyn Method,
    steps: usize,
    first: u64,
) -> Result<Vec<f64>> {
    let schedule = Edm::default();
    let levels = Grid::karras(steps).kernels(&schedule).unwrap();
    let request = Request { data_variance: prior.variance(), first, ..Request::exact(problem.rows(), prior.dim(), 11) };
    Ok(host(&restore(prior, &schedule, &levels, method, problem, &request, &mut |_| Ok(()))?.x))
}

fn dense(case: &Case) -> Arc<dyn Operator> {
    Arc::new(Dense::new(case.y.len(), case.prior.dim(), &case.a).unwrap())
}

/// Fails unless means and covariances are those of the posterior to five standard errors and a part of a standard deviation, which the
/// steps of the grid cost.
fn assert_moments(case: &Case, x: &[f64], off: f64, what: &str) {
    let dim = case.prior.dim();
    let truth = posterior(case);
    let (mean, covariance, n) = (truth.mean(), truth.covariance(), (x.len() / dim) as f64);
    let found = moments(x, dim);
    let std = |i: usize| covariance[i * dim + i].sqrt();
    let far = (0..dim).map(|i| (found.0[i] - mean[i]).abs() / std(i)).fold(0.0, f64::max);
    let spread = |i: usize, j: usize| (found.1[i * dim + j] - covariance[i * dim + j]).abs() / (std(i) * std(j));
    let wrong = (0..dim * dim).map(|k| spread(k / dim, k % dim)).fold(0.0, f64::max);
    println!("{what}, {dim} dimensions: means off by {far:.3} standard deviations, covariances by {wrong:.3}");
    assert!(far < 5.0 / n.sqrt() + off, "{what}: a mean is off by {far} standard deviations");
    assert!(wrong < 5.0 * (2.0 / n).sqrt() + 2.0 * off, "{what}: a covariance is off by {wrong}");
}

#[test]
fn the_matched_denoiser_is_that_of_the_posterior_of_a_gaussian() {
    for (dim, measured) in [(2, 1), (8, 3), (64, 8)] {
        let case = correlated(dim, measured);
        let truth = posterior(&case);
        let problem = Problem::new(dense(&case), Noise::Gaussian { std: case.std }, case.y.repeat(3)).unwrap();
        let method = Mmps { iterations: 4 * measured, ..Mmps::default() };
        let matched = method.denoiser(&case.prior, &problem);
        let levels = [0.02, 0.3, 1.0, 5.0, 60.0].map(|t| Edm::default().kernel(t));
        let others = [0.01, 0.4, 0.9].map(|t| Vp::default().kernel(t));
        for at in levels.iter().chain(&others) {
            let x: Vec<f64> = normal(5, 3 * dim).iter().map(|z| z * (at.alpha + at.sigma)).collect();
            let found = host(&denoise(&*matched, tensor(&x, dim), at.into(), &Condition::none()).unwrap());
            let wanted = host(&denoise(&truth, tensor(&x, dim), at.into(), &Condition::none()).unwrap());
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!((found - wanted).abs() < 1e-8, "{dim} dimensions at {}: {found} of {wanted}", at.t);
            }
        }
    }
}

#[test]
fn the_matched_denoiser_takes_noise_number_by_number() {
    let case = correlated(8, 3);
    let (y, rate) = (vec![4.0, 0.5, 9.0], 2.0);
    let problem = Problem::new(dense(&case), Noise::Poisson { rate }, y.clone()).unwrap();
    let deviations: Vec<f64> = problem.variances(0).iter().map(|variance| variance.sqrt()).collect();
    // Over its deviation each number has noise of deviation 1.
    let a: Vec<f64> = case.a.iter().enumerate().map(|(k, a)| a / deviations[k / 8]).collect();
    let y: Vec<f64> = y.iter().zip(&deviations).map(|(y, deviation)| y / deviation).collect();
    let truth = case.prior.posterior(&a, &y, 1.0).unwrap();
    let method = Mmps { iterations: 12, ..Mmps::default() };
    let matched = method.denoiser(&case.prior, &problem);
    let (x, at) = (normal(6, 8), Edm::default().kernel(0.7));
    let found = host(&denoise(&*matched, tensor(&x, 8), (&at).into(), &Condition::none()).unwrap());
    let wanted = host(&denoise(&truth, tensor(&x, 8), (&at).into(), &Condition::none()).unwrap());
    assert!(found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-8), "{found:?} of {wanted:?}");
}

#[test]
fn moment_matching_draws_the_posterior_of_a_gaussian_in_many_dimensions() {
    for (dim, measured) in [(2, 1), (8, 3), (64, 8)] {
        let case = correlated(dim, measured);
        let method = Mmps { iterations: measured, ..Mmps::default() };
        let (x, _) = case.draw(&method.into(), 500, 25);
        assert_moments(&case, &x, 0.02, "mmps");
    }
}

#[test]
fn particles_draw_the_posterior_of_any_mixture() {
    let method = AnyMethod::from(Tds::default());
    for (case, n) in
        [(gaussian(), 600), (correlated(8, 3), 500), (mixture(2), 600), (mixture(8), 500), (mixture(64), 200)]
    {
        let truth = posterior(&case);
        let (x, _) = case.draw(&method, n, 50);
        // 8 particles leave a part of the bias that 1 has.
        assert_moments(&case, &x, 0.08, "tds");
        if truth.len() == 2 {
            let weight = truth.components().next().unwrap().0;
            let found = part_of_first(&x, &truth);
            println!("tds: a weight of {found:.3}, of the posterior's {weight:.3}");
            assert!((found - weight).abs() < 5.0 * (weight * (1.0 - weight) / n as f64).sqrt() + 0.02);
        }
    }
}

#[test]
fn the_bias_of_particles_falls_with_their_number() {
    let case = Case { y: vec![0.3], std: 0.5, ..mixture(2) };
    let truth = posterior(&case);
    let weight = truth.components().next().unwrap().0;
    let mut biases = Vec::new();
    for (particles, n) in [(1, 2000), (8, 1000), (64, 200), (512, 40)] {
        let (x, _) = case.draw(&Tds { particles, ..Tds::default() }.into(), n, 40);
        let bias = part_of_first(&x, &truth) - weight;
        let error = (weight * (1.0 - weight) / n as f64).sqrt();
        println!("{particles} particles: a weight off by {bias:.3} ± {error:.3} of {weight:.3}");
        biases.push((bias.abs(), error));
    }
    let [one, eight, many, most] = biases[..] else { panic!("four numbers of particles") };
    assert!(one.0 > 0.1 && eight.0 < 0.5 * one.0 && many.0 < 0.5 * one.0);
    // What 40 steps leave is left to any number of particles.
    assert!(many.0 < 3.0 * many.1 + 0.04 && most.0 < 3.0 * most.1 + 0.04);
}

#[test]
fn the_truth_is_a_draw_among_the_draws_of_particles() {
    const TRUTHS: usize = 300;
    const DRAWS: usize = 9;
    let case = mixture(2);
    let keys = Keys::range(21, 0, TRUTHS);
    let truths = case.prior.draw_clean(&keys);
    let operator = dense(&case);
    let noise = Noise::Gaussian { std: case.std };
    let clean: Vec<f64> = truths.chunks(2).flat_map(|x| operator.apply(x)).collect();
    let y = noise.add(&clean, &keys).unwrap();
    let measured = Problem::new(operator, noise, y).unwrap();
    let places: Vec<usize> = (0..TRUTHS).flat_map(|row| [row; DRAWS]).collect();
    let x = drawn(&case.prior, &measured.select(&places), &Tds::default(), 30, 0).unwrap();
    for coordinate in 0..2 {
        let mut counts = [0.0; DRAWS + 1];
        for (truth, draws) in truths.chunks(2).zip(x.chunks(2 * DRAWS)) {
            let below = draws.iter().skip(coordinate).step_by(2).filter(|x| **x < truth[coordinate]).count();
            counts[below] += 1.0;
        }
        let expected = TRUTHS as f64 / (DRAWS + 1) as f64;
        let chi_squared: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
        println!("coordinate {coordinate}: {counts:?}, chi-squared {chi_squared:.1}");
        // 1 % of chi-squared with 9 degrees of freedom is above 21.67.
        assert!(chi_squared < 21.67, "ranks of coordinate {coordinate} are not uniform: {counts:?}");
    }
}

/// The product of two numbers.
#[derive(Debug)]
struct Product;

impl Operator for Product {
    fn inputs(&self) -> usize {
        2
    }

    fn outputs(&self) -> usize {
        1
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        vec![x[0] * x[1]]
    }

    fn push(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        vec![x[1] * v[0] + x[0] * v[1]]
    }

    fn pull(&self, x: &[f64], w: &[f64]) -> Vec<f64> {
        vec![x[1] * w[0], x[0] * w[0]]
    }
}

#[test]
fn particles_draw_the_posterior_of_a_product() {
    const ROWS: usize = 600;
    let prior = GaussianMixture::isotropic(vec![1.0], vec![vec![0.5, 0.2]], vec![1.0]).unwrap();
    let (y, std) = (1.0, 0.5);
    // The mean of what is asked, by a sum over a fine grid.
    let (mut total, mut sums) = (0.0, [0.0; 3]);
    let asked = |x: &[f64]| [x[0], x[1], x[0] * x[1]];
    for i in -300..=300 {
        for j in -300..=300 {
            let x = [0.02 * f64::from(i), 0.02 * f64::from(j)];
            let misfit: f64 =
                (x[0] - 0.5f64).powi(2) + (x[1] - 0.2f64).powi(2) + (x[0] * x[1] - y).powi(2) / (std * std);
            let density = (-0.5 * misfit).exp();
            total += density;
            asked(&x).iter().zip(&mut sums).for_each(|(x, sum)| *sum += density * x);
        }
    }
    let problem = Problem::new(Arc::new(Product), Noise::Gaussian { std }, vec![y; ROWS]).unwrap();
    let all: [AnyMethod; 4] = [
        Tds { particles: 16, ..Tds::default() }.into(),
        Daps { langevin_steps: 30, ..Daps::default() }.into(),
        Mmps::default().into(),
        RedDiff::default().into(),
    ];
    for method in all {
        let x = drawn(&prior, &problem, &*method, 30, 0).unwrap();
        let means = [0, 1, 2].map(|i| x.chunks(2).map(|x| asked(x)[i]).sum::<f64>() / ROWS as f64);
        let wanted = sums.map(|sum| sum / total);
        println!("{} of a product: {means:.3?} of {wanted:.3?}", method.kind());
        if method.kind() == "tds" {
            // The deviation of each is about 1: four standard errors, and what 30 steps and 16 particles cost.
            assert!(means.iter().zip(&wanted).all(|(mean, wanted)| (mean - wanted).abs() < 0.16 + 0.03));
        }
        assert!(x.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn the_posterior_of_a_round_gaussian_is_drawn_by_annealing_with_the_estimate_and_by_particles_in_few_steps() {
    let prior = GaussianMixture::isotropic(vec![1.0], vec![vec![0.5, -0.3, 0.1]], vec![0.7]).unwrap();
    let case = Case { prior, a: vec![1.0, 1.0, 0.0, 0.0, 0.5, -1.0], y: vec![1.0, -0.4], std: 0.5 };
    let annealing = |langevin| Daps { ode_steps: 1, langevin, ..Daps::default() }.into();
    let all: [(AnyMethod, usize, &str); 3] = [
        (annealing(false), 30, "daps"),
        (annealing(true), 20, "daps by Langevin"),
        (Tds { particles: 16, ..Tds::default() }.into(), 12, "tds in 12 steps"),
    ];
    for (method, steps, what) in all {
        let (x, _) = case.draw(&method, 1000, steps);
        assert_moments(&case, &x, 0.03, what);
    }
}

#[test]
fn annealing_over_an_ode_spreads_what_is_not_measured() {
    // The claim of the method's documentation: near twice the variance.
    let prior = GaussianMixture::isotropic(vec![1.0], vec![vec![0.0, 0.0]], vec![1.0]).unwrap();
    let case = Case { prior, a: vec![1.0, 0.0], y: vec![0.5], std: 0.1 };
    let (x, _) = case.draw(&Daps { ode_steps: 20, ..Daps::default() }.into(), 2000, 100);
    let variance = moments(&x, 2).1[3];
    println!("daps: a variance of {variance:.2} where the prior's is 1");
    assert!((1.6..2.2).contains(&variance));
}

#[test]
fn a_proximal_step_is_a_posterior_mean() {
    let case = correlated(8, 3);
    let problem = Problem::new(dense(&case), Noise::Gaussian { std: case.std }, case.y.clone()).unwrap();
    let (schedule, lambda) = (Edm::default(), 3.0);
    let levels = Grid { start: Some(2.0), ..Grid::karras(1) }.kernels(&schedule).unwrap();
    let mut start = Vec::new();
    let method = DiffPir { lambda, ..DiffPir::default() };
    let request = Request::exact(1, 8, 3);
    let found = restore(&case.prior, &schedule, &levels, &method, &problem, &request, &mut |progress| {
        if progress.step == 0 {
            start = host(progress.x);
        }
        Ok(())
    });
    let at = &levels[0];
    let denoised = host(&denoise(&case.prior, tensor(&start, 8), at.into(), &Condition::none()).unwrap());
    // The minimum of ‖y − Ax‖²/σ_y² + λ‖x − D‖²/σ² is the mean given y of N(D, σ²/λ).
    let near = GaussianMixture::isotropic(vec![1.0], vec![denoised], vec![at.sigma / lambda.sqrt()]).unwrap();
    let wanted = near.posterior(&case.a, &case.y, case.std).unwrap().mean();
    let found = host(&found.unwrap().x);
    assert!(found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-10), "{found:?} of {wanted:?}");
}

#[test]
fn samples_of_a_measurement_without_noise_fit_it() {
    let Case { prior, a, y, .. } = correlated(8, 3);
    let operator = Dense::new(3, 8, &a).unwrap();
    let problem = Problem::new(Arc::new(operator), Noise::Gaussian { std: 0.0 }, y.repeat(20)).unwrap();
    let all: [AnyMethod; 6] = [
        Ddrm::default().into(),
        Ddnm::default().into(),
        Ddnm { travel_length: 3, travel_repeat: 2, ..Ddnm::default() }.into(),
        DiffPir::default().into(),
        Daps::default().into(),
        Mmps { iterations: 6, ..Mmps::default() }.into(),
    ];
    for method in all {
        let x = drawn(&prior, &problem, &*method, 20, 0).unwrap();
        let misfit = x.chunks(8).enumerate().flat_map(|(row, x)| problem.residual(row, x)).map(f64::abs);
        let misfit = misfit.fold(0.0, f64::max);
        println!("{}: {misfit:.1e}", method.kind());
        assert!(misfit < 1e-9, "{} misses a measurement without noise by {misfit}", method.kind());
    }
}

#[test]
fn samples_do_not_depend_on_their_batch() {
    let case = mixture(2);
    let measurements: Vec<f64> = (0..6).map(|row| 0.3 * f64::from(row)).collect();
    let problem = Problem::new(dense(&case), Noise::Gaussian { std: case.std }, measurements).unwrap();
    let mut all = methods();
    all.push(Daps { langevin: true, langevin_steps: 5, ..Daps::default() }.into());
    all.push(Ddnm { travel_length: 2, travel_repeat: 3, ..Ddnm::default() }.into());
    for method in all {
        let whole = drawn(&case.prior, &problem, &*method, 8, 0).unwrap();
        let part = drawn(&case.prior, &problem.select(&[2, 3]), &*method, 8, 2).unwrap();
        assert_eq!(whole[4..8], part[..], "{}", method.kind());
    }
}

#[test]
fn the_bias_of_every_method_is_known() {
    for (name, case) in [("gaussian", gaussian()), ("mixture", mixture(2)), ("8 dimensions", correlated(8, 3))] {
        let truth = posterior(&case);
        let (dim, mean, covariance) = (case.prior.dim(), truth.mean(), truth.covariance());
        for method in methods() {
            let (x, evaluations) = case.draw(&method, 400, 50);
            let found = moments(&x, dim);
            let far: f64 = (0..dim).map(|i| ((found.0[i] - mean[i]) / covariance[i * dim + i].sqrt()).powi(2)).sum();
            let spread: f64 = (0..dim).map(|i| found.1[i * dim + i]).sum::<f64>()
                / (0..dim).map(|i| covariance[i * dim + i]).sum::<f64>();
            let far = (far / dim as f64).sqrt();
            println!(
                "{name}, {}: mean off by {far:.3} deviations, variance times {spread:.3}, {evaluations} calls",
                method.kind()
            );
            // Whatever a method's bias, no mean leaves the posterior.
            assert!(far < 1.5 && spread < 3.0, "{name}: {} is off by {far}, {spread}", method.kind());
        }
    }
}

#[test]
fn parameters_out_of_range_are_named() {
    let case = gaussian();
    let problem = Problem::new(dense(&case), Noise::Gaussian { std: 0.3 }, case.y.clone()).unwrap();
    let said = |method: AnyMethod| method.check(&problem).unwrap_err().to_string();
    for (method, wanted) in [
        (Ddrm { eta: 1.5, ..Ddrm::default() }.into(), "method ddrm: eta is 1.5"),
        (Ddrm { eta_b: -0.1, ..Ddrm::default() }.into(), "method ddrm: eta_b is -0.1"),
        (Ddnm { eta: f64::NAN, ..Ddnm::default() }.into(), "method ddnm: eta is NaN"),
        (Ddnm { travel_length: 0, ..Ddnm::default() }.into(), "method ddnm: travel_length is 0"),
        (Ddnm { travel_repeat: 0, ..Ddnm::default() }.into(), "method ddnm: travel_repeat is 0"),
        (Mmps { iterations: 0, ..Mmps::default() }.into(), "method mmps: iterations is 0"),
        (DiffPir { lambda: 0.0, ..DiffPir::default() }.into(), "method diffpir: lambda is 0"),
        (DiffPir { zeta: 2.0, ..DiffPir::default() }.into(), "method diffpir: zeta is 2"),
        (RedDiff { lambda: -1.0, ..RedDiff::default() }.into(), "method red_diff: lambda is -1"),
        (RedDiff { rate: 0.0, ..RedDiff::default() }.into(), "method red_diff: rate is 0"),
        (Daps { ode_steps: 0, ..Daps::default() }.into(), "method daps: ode_steps is 0"),
        (Daps { langevin_steps: 0, ..Daps::default() }.into(), "method daps: langevin_steps is 0"),
        (Daps { rate: 0.0, ..Daps::default() }.into(), "method daps: rate is 0"),
        (Daps { variance: Some(0.0), ..Daps::default() }.into(), "method daps: variance is 0"),
        (Tds { particles: 0, ..Tds::default() }.into(), "method tds: particles is 0"),
        (Tds { threshold: 1.1, ..Tds::default() }.into(), "method tds: threshold is 1.1"),
        (Tds { variance: Some(-1.0), ..Tds::default() }.into(), "method tds: variance is -1"),
    ] {
        let said = said(method);
        assert!(said.starts_with(wanted), "{said}");
    }
    let adaptive = Mmps { sampler: Box::new(AnySampler::named("rk45").unwrap()), ..Mmps::default() };
    assert!(said(adaptive.into()).contains("sampler rk45 chooses the steps of each sample by itself"));
}

#[test]
fn problems_a_method_is_not_for_are_refused_in_a_sentence() {
    let case = gaussian();
    let problem = |operator: Arc<dyn Operator>, noise| Problem::new(operator, noise, vec![1.0]).unwrap();
    let product = problem(Arc::new(Product), Noise::Gaussian { std: 0.1 });
    let counts = problem(dense(&case), Noise::Poisson { rate: 3.0 });
    for kind in ["ddrm", "ddnm", "diffpir"] {
        let method = AnyMethod::named(kind).unwrap();
        let said = |problem| drawn(&case.prior, problem, &*method, 4, 0).unwrap_err().to_string();
        assert!(said(&product).contains(&format!("method {kind} is for linear measurements")), "{}", said(&product));
        assert!(said(&counts).contains(&format!("method {kind} is for Gaussian noise")), "{}", said(&counts));
    }
    for kind in ["mmps", "red_diff", "daps", "tds"] {
        let method = AnyMethod::named(kind).unwrap();
        for problem in [&product, &counts] {
            assert!(drawn(&case.prior, problem, &*method, 4, 0).unwrap().iter().all(|x| x.is_finite()), "{kind}");
        }
    }
    let silent = problem(Arc::new(Product), Noise::Gaussian { std: 0.0 });
    for (kind, wanted) in
        [("daps", "no density for Langevin dynamics"), ("tds", "a measurement without noise does not have")]
    {
        let said = drawn(&case.prior, &silent, &*AnyMethod::named(kind).unwrap(), 4, 0).unwrap_err().to_string();
        assert!(said.contains(wanted), "{said}");
    }
    let schedule = Edm::default();
    let noisy = Grid { clean: false, ..Grid::karras(4) }.kernels(&schedule).unwrap();
    let request = Request::exact(1, 2, 0);
    let stopped = restore(&case.prior, &schedule, &noisy, &Tds::default(), &product, &request, &mut |_| Ok(()));
    assert!(stopped.unwrap_err().to_string().contains("set clean = true"));
}
