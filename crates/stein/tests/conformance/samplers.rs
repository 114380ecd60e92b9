//! Samplers against exact models: measured orders, moments, identities, and independence of batch and threads.

use stein::{
    Ancestral, AnySampler, AnySchedule, Churn, Condition, Corrector, Ddim, Deis, Denoiser, Discrete, Dpm2Ancestral,
    DpmSolver, DpmSolverPp, DpmSolverPp2sAncestral, DpmSolverPpSde, Edm, EulerAncestral, Eval, Form, Grid, Heun, Ipndm,
    Kernel, Keys, Langevin, Lms, Past, PredictorCorrector, Purpose, Request, Restart, Rk45, Sampler, Schedule,
    SdeDpmSolverPp, Spacing, Tensor, UniPc, Variance, Ve, Vp,
    exact::{Exact, Gaussian, GaussianMixture},
    noise::{Mixed, Source},
    rows::host,
    sample, sample_from,
};

use crate::{assert_close, flow, line, plane, tensor};

fn run(
    model: &dyn Denoiser,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    sampler: &dyn Sampler,
    request: &Request,
) -> Vec<f64> {
    host(&sample(model, schedule, kernels, sampler, request, &mut |_| Ok(())).unwrap().x)
}

/// Every sampler that claims an order, with one step per interval where it would choose its own.
fn ordered() -> Vec<AnySampler> {
    let one_step = Rk45 { rtol: f64::INFINITY, atol: f64::INFINITY, ..Rk45::default() };
    let plus = DpmSolverPp { order: 3, ..DpmSolverPp::default() };
    let other_orders: [AnySampler; 20] = [
        DpmSolverPp { order: 1, ..plus.clone() }.into(),
        DpmSolverPp { order: 2, form: Form::Heun, ..plus.clone() }.into(),
        DpmSolverPp { exact: true, ..plus.clone() }.into(),
        plus.into(),
        UniPc { order: 1 }.into(),
        UniPc { order: 3 }.into(),
        DpmSolver { order: 1, ..DpmSolver::default() }.into(),
        DpmSolver { order: 3, ..DpmSolver::default() }.into(),
        EulerAncestral { eta: 0.0, s_noise: 1.0 }.into(),
        Dpm2Ancestral { eta: 0.0, s_noise: 1.0 }.into(),
        DpmSolverPp2sAncestral { eta: 0.0, s_noise: 1.0 }.into(),
        DpmSolverPpSde { eta: 0.0, r: 0.3, s_noise: 1.0 }.into(),
        SdeDpmSolverPp { eta: 0.0, ..SdeDpmSolverPp::default() }.into(),
        SdeDpmSolverPp { eta: 0.0, order: 3, ..SdeDpmSolverPp::default() }.into(),
        Lms { order: 1 }.into(),
        Lms { order: 2 }.into(),
        Deis { order: 2 }.into(),
        Deis { order: 4 }.into(),
        Ipndm { order: 2 }.into(),
        Restart { intervals: Vec::new(), ..Restart::default() }.into(),
    ];
    AnySampler::all()
        .into_iter()
        .chain(other_orders)
        .map(|sampler| if sampler.adaptive() { one_step.clone().into() } else { sampler })
        .filter(|sampler| sampler.order().is_some())
        .collect()
}

#[test]
fn measured_orders_are_the_claimed_ones_on_every_schedule() {
    for schedule in AnySchedule::all() {
        // From σ/α = 18 to 0.05: the modes separate on the way, and every schedule passes through.
        let (start, end) = (schedule.time_at(-2.0 * 18f64.ln()), schedule.time_at(-2.0 * 0.05f64.ln()));
        let (from, to) = (schedule.kernel(start), schedule.kernel(end));
        let x: Vec<f64> = (-4..=4).map(|i| f64::from(i) * 0.45 * (from.alpha.hypot(from.sigma))).collect();
        let truth: Vec<f64> = x.iter().map(|&x| flow(x, &from, &to)).collect();
        for sampler in ordered() {
            let order = sampler.order().unwrap();
            let error = |steps: usize| -> f64 {
                let grid =
                    Grid { spacing: Spacing::LogSnr {}, steps, start: Some(start), end: Some(end), clean: false };
                let kernels = grid.kernels(&*schedule).unwrap();
                let request = Request::exact(x.len(), 1, 0);
                let end =
                    sample_from(tensor(&x, 1), &line(), &*schedule, &kernels, &*sampler, &request, &mut |_| Ok(()));
                host(&end.unwrap().x).iter().zip(&truth).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
            };
            // A list of levels is joined by a spline whose third derivative jumps: above order 4 that is all one sees
            // of methods that look between the levels of their grid.
            let discrete = schedule.levels().is_some();
            if discrete && order > 4 {
                continue;
            }
            // Fine enough to be asymptotic, coarse enough to stay far above rounding (1e-15) and the spline's jumps.
            let steps = match order {
                1 => 512,
                2 => 256,
                _ if discrete && matches!(sampler, AnySampler::OdeRk4(_)) => 24,
                _ => 160,
            };
            let (coarse, fine) = (error(steps), error(2 * steps));
            let measured = (coarse / fine).log2();
            // Multistep methods of high order show that of their first steps on the finest grids only.
            let late = matches!(
                &sampler,
                AnySampler::Lms(_) | AnySampler::Deis(_) | AnySampler::Pndm(_) | AnySampler::Plms(_)
            );
            assert!(
                measured - f64::from(order) > -0.15 && (late || measured - f64::from(order) < 0.15),
                "{} on {}: claims order {order}, shows {measured:.3} (errors {coarse:e}, {fine:e})",
                sampler.kind(),
                schedule.kind()
            );
        }
    }
}

#[test]
fn adaptive_steps_meet_their_tolerance_for_every_sample() {
    for schedule in AnySchedule::all() {
        let (start, end) = (schedule.time_at(-2.0 * 5f64.ln()), schedule.time_at(-2.0 * 0.1f64.ln()));
        let (from, to) = (schedule.kernel(start), schedule.kernel(end));
        let x: Vec<f64> = (-6..=6).map(|i| f64::from(i) * 0.5 * from.alpha.hypot(from.sigma)).collect();
        let request = Request::exact(x.len(), 1, 0);
        let tight = Rk45 { rtol: 1e-7, atol: 1e-7, ..Rk45::default() };
        let end =
            sample_from(tensor(&x, 1), &line(), &*schedule, &[from, to], &tight, &request, &mut |_| Ok(())).unwrap();
        for (ours, x) in host(&end.x).iter().zip(&x) {
            // Local errors of 1e-7 add up over some fifty steps.
            assert_close(*ours, flow(*x, &from, &to), 5e-6, schedule.kind());
        }
    }
}

/// Every stochastic sampler, with settings that make it one.
fn stochastic() -> Vec<AnySampler> {
    let predictor_first = PredictorCorrector { corrector_first: false, ..PredictorCorrector::default() };
    let on_ddim = PredictorCorrector { predictor: Box::new(Ddim::default().into()), ..PredictorCorrector::default() };
    let churn = Churn { s_churn: 15.0, ..Churn::default() };
    let mut all: Vec<AnySampler> = AnySampler::all().into_iter().filter(|sampler| sampler.order().is_none()).collect();
    all.extend([
        Ddim { eta: 1.0 }.into(),
        Ddim { eta: 0.5 }.into(),
        Langevin { metropolis: true, ..Langevin::default() }.into(),
        Ancestral { variance: Variance::Forward, ..Ancestral::default() }.into(),
        Heun { churn: churn.clone() }.into(),
        DpmSolver { order: 3, churn }.into(),
        SdeDpmSolverPp { order: 3, ..SdeDpmSolverPp::default() }.into(),
        predictor_first.into(),
        on_ddim.into(),
    ]);
    all
}

#[test]
fn stochastic_samplers_match_mean_and_covariance() {
    let n = 4000;
    let covariance = [vec![1.0, 0.6], vec![0.6, 0.8]];
    let model = Gaussian::new(vec![0.3, -0.8], &covariance).unwrap();
    let schedules: [AnySchedule; 3] =
        [Edm { sigma_min: 0.01, sigma_max: 20.0 }.into(), Vp::default().into(), AnySchedule::named("sub_vp").unwrap()];
    for schedule in schedules {
        for sampler in stochastic() {
            // Langevin dynamics wants few levels and many steps on each; the others many levels.
            let (sampler, steps): (AnySampler, usize) = match sampler {
                AnySampler::Langevin(langevin) => (Langevin { steps: 50, ..langevin }.into(), 40),
                AnySampler::AdaptiveSde(_) => (sampler, 2),
                other => (other, 150),
            };
            let grid = Grid { spacing: Spacing::named("karras").unwrap(), steps, ..Grid::default() };
            let kernels = grid.kernels(&*schedule).unwrap();
            let request = Request { data_variance: model.variance(), ..Request::exact(n, 2, 11) };
            let x = run(&model, &*schedule, &kernels, &*sampler, &request);
            let mean: Vec<f64> = (0..2).map(|i| x.iter().skip(i).step_by(2).sum::<f64>() / n as f64).collect();
            let name = format!("{} on {}", serde_json::to_string(&sampler).unwrap(), schedule.kind());
            for i in 0..2 {
                // Five standard errors, and 0.03 for the steps: the reverse-time methods are of first order in 1/150,
                // and the prior of EDM and VP misses the mean by about 0.01.
                let bound = 5.0 * (covariance[i][i] / n as f64).sqrt() + 0.03;
                assert!((mean[i] - model.mean()[i]).abs() < bound, "{name}: mean {mean:?}");
                for j in 0..2 {
                    let ours = x.chunks(2).map(|row| (row[i] - mean[i]) * (row[j] - mean[j])).sum::<f64>() / n as f64;
                    let variance = covariance[i][i] * covariance[j][j] + covariance[i][j].powi(2);
                    let bound = 5.0 * (variance / n as f64).sqrt() + 0.05;
                    assert!((ours - covariance[i][j]).abs() < bound, "{name}: covariance {ours}, {}", covariance[i][j]);
                }
            }
        }
    }
}

/// Part of the samples on the side of (5, 5).
fn right(x: &[f64]) -> f64 {
    x.chunks(2).filter(|row| row[0] + row[1] > 0.0).count() as f64 / (x.len() / 2) as f64
}

#[test]
fn a_corrector_by_norms_keeps_the_moments_in_many_dimensions() {
    // Per-sample norms are close to their means at 256 dimensions: within 1/√512 = 4 %.
    let (dim, n) = (256, 200);
    let model = GaussianMixture::isotropic(vec![1.0], vec![vec![0.5; dim]], vec![0.7]).unwrap();
    let schedule = Edm { sigma_min: 0.01, sigma_max: 20.0 };
    let kernels = Grid::karras(150).kernels(&schedule).unwrap();
    let sampler = PredictorCorrector { corrector: Corrector::Langevin, ..PredictorCorrector::default() };
    let request = Request { data_variance: model.variance(), ..Request::exact(n, dim, 3) };
    let x = run(&model, &schedule, &kernels, &sampler, &request);
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    // 51,200 numbers: standard errors 0.003 of the mean, 0.6 % of the variance; the rest is for 150 steps.
    assert!((mean - 0.5).abs() < 0.03, "mean {mean}");
    assert!((variance / 0.49 - 1.0).abs() < 0.06, "variance {variance}");
}

#[test]
fn annealing_recovers_the_weights_that_plain_langevin_misses() {
    // Song & Ermon 2019, section 3.2 and figure 3. With 20,000 samples the standard error of a part of 0.8 is 0.003.
    let model = GaussianMixture::ncsn();
    let n = 20_000;
    let plain = Langevin { epsilon: Some(0.05), steps: 500, ..Langevin::default() };
    // The prior N(0, σ_T² + Var) misses the data's mean by 4.2 along the diagonal; at σ_T = 200 that moves the weights
    // by 0.006.
    let ve = Ve { sigma_min: 0.1, sigma_max: 200.0 };
    let request = Request { data_variance: model.variance(), ..Request::exact(n, 2, 5) };
    // Plain: one small level, started over the square of the paper's figure.
    let uniform = Keys::range(1, 0, 2 * n).uniform(Purpose::Model, 0);
    let start: Vec<f64> = uniform.into_iter().map(|u| 16.0 * u - 8.0).collect();
    let level = ve.kernel(0.0);
    let x = sample_from(tensor(&start, 2), &model, &ve, &[level, Kernel::CLEAN], &plain, &request, &mut |_| Ok(()))
        .unwrap();
    let missed = right(&host(&x.x));
    assert!((missed - 0.8).abs() > 0.1, "plain Langevin from a uniform start finds {missed}, where it should miss 0.8");

    for sampler in AnySampler::all() {
        let (sampler, steps): (AnySampler, usize) = match sampler {
            AnySampler::Langevin(_) => (Langevin { epsilon: Some(0.002), steps: 40, ..Langevin::default() }.into(), 30),
            AnySampler::Rk45(_) => (Rk45 { rtol: 1e-3, atol: 1e-3, ..Rk45::default() }.into(), 2),
            AnySampler::AdaptiveSde(_) => (sampler, 2),
            // Euler in t is of first order with a large constant on σ growing 2000-fold.
            AnySampler::OdeEuler(_) => (sampler, 800),
            other => (other, 100),
        };
        let kernels = Grid::uniform(steps).kernels(&ve).unwrap();
        let found = right(&run(&model, &ve, &kernels, &*sampler, &request));
        assert!((found - 0.8).abs() < 0.02, "{} finds {found} of 0.8 on the right", sampler.kind());
    }
}

#[test]
fn reverse_time_samplers_recover_the_weights_on_every_schedule() {
    let model = GaussianMixture::ncsn();
    for schedule in AnySchedule::all() {
        let (_, last) = schedule.span();
        for name in ["ddim", "ancestral", "heun", "dpm_solver_pp"] {
            let sampler = AnySampler::named(name).unwrap();
            let endless = schedule.kernel(last).alpha == 0.0 && !sampler.starts_without_signal();
            let start = endless.then(|| schedule.time_at(-2.0 * 1000f64.ln()));
            let kernels = Grid { start, ..Grid::uniform(100) }.kernels(&*schedule).unwrap();
            let request = Request { data_variance: model.variance(), ..Request::exact(5000, 2, 5) };
            let found = right(&run(&model, &*schedule, &kernels, &*sampler, &request));
            // The prior misses the mean, which moves the weights of deterministic samplers by 0.024 at VE's σ = 50 and
            // 0.015 at EDM's 80; three standard errors are 0.017.
            assert!((found - 0.8).abs() < 0.042, "{name} on {}: {found} of 0.8", schedule.kind());
        }
    }
}

/// One step of a sampler from a fixed state.
fn step(sampler: &dyn Sampler, schedule: &dyn Schedule, from: &Kernel, to: &Kernel) -> Vec<f64> {
    let x = [0.4, -0.2, 1.0, 0.7];
    let request = Request::exact(2, 2, 9);
    let out = sample_from(tensor(&x, 2), &plane(), schedule, &[*from, *to], sampler, &request, &mut |_| Ok(()));
    host(&out.unwrap().x)
}

#[test]
fn identities_between_samplers_hold() {
    let schedule = Vp::default();
    let (from, to) = (schedule.kernel(0.6), schedule.kernel(0.5));
    let same = |a: Vec<f64>, b: Vec<f64>, what: &str| {
        a.iter().zip(&b).for_each(|(a, b)| assert_close(*a, *b, 1e-12, what));
    };
    // DDIM with η = 1 is the ancestral step with the posterior's variance, noise and all.
    same(
        step(&Ddim { eta: 1.0 }, &schedule, &from, &to),
        step(&Ancestral { variance: Variance::Posterior, ..Ancestral::default() }, &schedule, &from, &to),
        "ddim(1) = ancestral",
    );
    // Without corrections a predictor–corrector is its predictor.
    for predictor in AnySampler::all() {
        if predictor.adaptive() || matches!(predictor, AnySampler::PredictorCorrector(_)) {
            continue;
        }
        let none =
            PredictorCorrector { predictor: Box::new(predictor.clone()), steps: 0, ..PredictorCorrector::default() };
        same(step(&none, &schedule, &from, &to), step(&*predictor, &schedule, &from, &to), predictor.kind());
    }
    // DDIM with η = 0 is Euler's step in σ/α.
    let x = [0.4, -0.2, 1.0, 0.7];
    let denoised = crate::denoise(&plane(), &x, 2, &from);
    let rise = to.noise_to_signal() - from.noise_to_signal();
    let euler: Vec<f64> = x
        .iter()
        .zip(&denoised)
        .map(|(x, d)| to.alpha * (x / from.alpha + rise * (x - from.alpha * d) / from.sigma))
        .collect();
    same(step(&Ddim::default(), &schedule, &from, &to), euler, "ddim(0) = Euler in σ/α");
}

#[test]
fn one_step_of_ddpm_is_the_papers() {
    // Ho et al. 2020, algorithm 2, with ε̂ from the exact denoiser and no noise in the mean.
    let schedule = Discrete::default();
    let (from, to) = (schedule.kernel(400.0), schedule.kernel(399.0));
    let beta = 1e-4 + (0.02 - 1e-4) * 400.0 / 999.0;
    let bar = from.alpha.powi(2);
    let x = [0.4, -0.2, 1.0, 0.7];
    let denoised = crate::denoise(&plane(), &x, 2, &from);
    let mean = x.iter().zip(&denoised).map(|(x, d)| {
        let eps = (x - from.alpha * d) / from.sigma;
        (x - beta / (1.0 - bar).sqrt() * eps) / (1.0 - beta).sqrt()
    });
    let noise = vec![0.3, -1.1, 2.0, 0.7];
    let request = Request { noise: Source::Given(vec![noise.clone()]), ..Request::exact(2, 2, 9) };
    for (variance, which) in
        [(beta, Variance::Forward), (beta * (1.0 - to.alpha.powi(2)) / (1.0 - bar), Variance::Posterior)]
    {
        let sampler = Ancestral { variance: which, ..Ancestral::default() };
        let ours = sample_from(tensor(&x, 2), &plane(), &schedule, &[from, to], &sampler, &request, &mut |_| Ok(()));
        let ours = host(&ours.unwrap().x);
        for ((ours, mean), z) in ours.iter().zip(mean.clone()).zip(&noise) {
            assert_close(*ours, mean + variance.sqrt() * z, 1e-10, format!("{which:?}"));
        }
    }
}

/// A denoiser that has learned variances: v = 0 in the first column and 1/2 in the second.
struct Learned;

impl Denoiser for Learned {
    fn estimate(&self, x: stein::Dual<2>, at: stein::Levels, given: &Condition) -> stein::Result<stein::Estimate> {
        let rows = x.dims()[0];
        let mean = stein::estimate(&plane(), x, at, given)?.mean;
        Ok(stein::Estimate { variance: Some(tensor(&[0.0, 0.5].repeat(rows), 2)), ..mean.into() })
    }
}

#[test]
fn learned_variances_lie_between_the_posteriors_and_the_forward_one() {
    let schedule = Discrete::default();
    let (from, to) = (schedule.kernel(400.0), schedule.kernel(380.0));
    let ancestral = |variance| Ancestral { variance, ..Ancestral::default() };
    let x = [0.4, -0.2, 1.0, 0.7];
    let run = |denoiser: &dyn Denoiser, variance, to: &Kernel| {
        let request = Request::exact(2, 2, 9);
        let start = tensor(&x, 2);
        sample_from(start, denoiser, &schedule, &[from, *to], &ancestral(variance), &request, &mut |_| Ok(()))
            .map(|drawn| host(&drawn.x))
    };
    let [small, large, ours] = [Variance::Posterior, Variance::Forward, Variance::Learned]
        .map(|variance| run(&Learned, variance, &to).unwrap());
    // x = mean + √Σ z with the same z in all three.
    let (low, high) = (from.posterior_variance(&to).sqrt(), from.transition_from(&to).1.sqrt());
    for row in 0..2 {
        assert_close(ours[2 * row], small[2 * row], 1e-12, "v = 0");
        let z = (large[2 * row + 1] - small[2 * row + 1]) / (high - low);
        let mean = small[2 * row + 1] - low * z;
        assert_close(ours[2 * row + 1], mean + (low * high).sqrt() * z, 1e-12, "v = 1/2");
    }
    assert_eq!(
        run(&Learned, Variance::Learned, &Kernel::CLEAN).unwrap(),
        run(&plane(), Variance::Posterior, &Kernel::CLEAN).unwrap()
    );
    assert_eq!(run(&plane(), Variance::Learned, &to).unwrap_err().kind(), stein::Kind::Unsupported);
}

#[test]
fn langevin_conventions_differ_by_a_factor_of_two() {
    let schedule = Ve::default();
    let (from, to) = (schedule.kernel(0.5), schedule.kernel(0.4));
    let one = |epsilon, convention| Langevin { epsilon: Some(epsilon), steps: 1, convention, ..Langevin::default() };
    let paper = step(&one(2e-5, stein::Convention::Paper), &schedule, &from, &to);
    let code = step(&one(1e-5, stein::Convention::Code), &schedule, &from, &to);
    assert_eq!(paper, code);
}

#[test]
fn metropolis_takes_away_what_finite_langevin_steps_get_wrong() {
    // A long step at one level: N(0, s²) with s² = 1 + 0.1² moves as x ← (1 − b) x + √(2a) z with b = a/s², whose law has the variance
    // s²/(1 − b/2) instead of s².
    let (n, a) = (20_000, 1.0);
    let gaussian = Gaussian::new(vec![0.0], &[vec![1.0]]).unwrap();
    let two = GaussianMixture::isotropic(vec![0.3, 0.7], vec![vec![-1.0], vec![1.0]], vec![0.8; 2]).unwrap();
    let ve = Ve { sigma_min: 0.1, sigma_max: 10.0 };
    let level = ve.kernel(0.0);
    let moments = |model: &dyn Denoiser, metropolis| {
        let sampler = Langevin { epsilon: Some(a), steps: 60, denoise: false, metropolis, ..Langevin::default() };
        let start = Keys::range(1, 0, n).normal(Purpose::Model, 0, 1);
        let request = Request::exact(n, 1, 5);
        let levels = [level, Kernel::CLEAN];
        let x = sample_from(tensor(&start, 1), model, &ve, &levels, &sampler, &request, &mut |_| Ok(())).unwrap();
        let x = host(&x.x);
        let mean = x.iter().sum::<f64>() / n as f64;
        (mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64)
    };
    // Where α = 1, what is left of x at the clean label is x itself. Four standard errors: of a mean s/√n, of a variance at most s² √(2/n).
    let error = 4.0 / (n as f64).sqrt();
    let wanted = 1.01;
    let (_, biased) = moments(&gaussian, false);
    assert!((biased - wanted / (1.0 - a / wanted / 2.0)).abs() < 2.0 * 1.5 * error, "unadjusted variance {biased}");
    let (mean, variance) = moments(&gaussian, true);
    assert!(mean.abs() < 1.1 * error && (variance - wanted).abs() < 1.5 * error, "mean {mean}, variance {variance}");
    // Mean 0.4 and variance 0.8² + 0.1² + 1 − 0.4². Simpson's rule is no longer exact, which is too little to be seen.
    let (mean, variance) = moments(&two, true);
    assert!(
        (mean - 0.4).abs() < 1.3 * error && (variance - 1.49).abs() < 2.2 * error,
        "mean {mean}, variance {variance}"
    );
    let (mean, biased) = moments(&two, false);
    assert!((biased - 1.49).abs() > 0.2, "unadjusted mean {mean}, variance {biased}");
}

/// Settings that finish quickly, for every sampler.
fn quick(sampler: &AnySampler) -> (AnySampler, usize) {
    match sampler {
        AnySampler::Langevin(langevin) => (Langevin { steps: 3, ..langevin.clone() }.into(), 5),
        other => (other.clone(), 8),
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let model = plane();
    for schedule in [AnySchedule::from(Edm::default()), Vp::default().into()] {
        let by_norms = PredictorCorrector { corrector: Corrector::Langevin, ..PredictorCorrector::default() };
        for sampler in AnySampler::all().into_iter().chain(stochastic()).chain([by_norms.into()]) {
            let (sampler, steps) = quick(&sampler);
            let kernels = Grid::uniform(steps).kernels(&*schedule).unwrap();
            let all = run(&model, &*schedule, &kernels, &*sampler, &Request::exact(64, 2, 7));
            for i in [0usize, 1, 63] {
                let alone = Request { first: i as u64, ..Request::exact(1, 2, 7) };
                let one = run(&model, &*schedule, &kernels, &*sampler, &alone);
                assert_eq!(one, all[2 * i..2 * i + 2], "sample {i} of {} on {}", sampler.kind(), schedule.kind());
            }
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_the_number_of_threads() {
    let schedule = Edm::default();
    let kernels = Grid::karras(8).kernels(&schedule).unwrap();
    for sampler in stochastic() {
        let (sampler, _) = quick(&sampler);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&plane(), &schedule, &kernels, &*sampler, &Request::exact(200, 2, 7)))
        };
        assert_eq!(on(1), on(2), "{}", sampler.kind());
    }
}

#[test]
fn moves_within_a_step_are_shown_in_order() {
    let kernels = Grid::karras(3).kernels(&Edm::default()).unwrap();
    let langevin = |steps| AnySampler::from(Langevin { steps, ..Langevin::default() });
    let corrected = |corrector_first, steps, predictor: AnySampler| -> AnySampler {
        PredictorCorrector { corrector_first, steps, predictor: predictor.into(), ..Default::default() }.into()
    };
    let heun = || AnySampler::from(Heun::default());
    for (sampler, moves) in [
        (heun(), 1),
        (langevin(1), 1),
        (langevin(4), 4),
        (corrected(true, 2, heun()), 3),
        (corrected(false, 2, heun()), 3),
        (corrected(false, 0, heun()), 1),
        (corrected(true, 2, langevin(3)), 5),
        (corrected(false, 2, langevin(3)), 5),
    ] {
        assert_eq!(sampler.moves(), moves, "{sampler:?}");
        let (mut seen, mut states) = (Vec::new(), Vec::new());
        sample(&line(), &Edm::default(), &kernels, &*sampler, &Request::exact(4, 1, 0), &mut |progress| {
            seen.push((progress.step, progress.moves));
            states.push(host(progress.x));
            Ok(())
        })
        .unwrap();
        // Nothing is left to correct where there is no noise any more.
        let corrects_last = !matches!(&sampler, AnySampler::PredictorCorrector(pc) if !pc.corrector_first);
        let expected: Vec<(usize, usize)> = [(0, 0)]
            .into_iter()
            .chain((0..3).flat_map(|step| (1..moves).map(move |k| (step, k)).chain([(step + 1, 0)])))
            .filter(|&(step, k)| corrects_last || step < 2 || k < sampler_moves_without_corrector(&sampler))
            .collect();
        assert_eq!(seen, expected, "{sampler:?}");
        assert!(states.windows(2).all(|pair| pair[0] != pair[1]), "{sampler:?} shows a state twice");
    }
}

fn sampler_moves_without_corrector(sampler: &AnySampler) -> usize {
    match sampler {
        AnySampler::PredictorCorrector(pc) => pc.predictor.moves(),
        other => other.moves(),
    }
}

#[test]
fn mixed_noise_goes_from_one_sample_to_another() {
    let (model, schedule) = (plane(), Vp::default());
    let kernels = Grid::uniform(12).kernels(&schedule).unwrap();
    let samplers: [AnySampler; 4] = [
        Heun::default().into(),
        Ancestral::default().into(),
        Langevin { steps: 2, ..Langevin::default() }.into(),
        PredictorCorrector::default().into(),
    ];
    for sampler in samplers {
        let draw = |request: Request| run(&model, &schedule, &kernels, &*sampler, &request);
        let alone = draw(Request::exact(10, 2, 3));
        let place = |k: usize| Mixed { samples: [2, 7], angle: std::f64::consts::FRAC_PI_2 * k as f64 / 4.0 };
        let mixed = draw(Request { noise: Source::Mixed((0..5).map(place).collect()), ..Request::exact(5, 2, 3) });
        for (row, sample) in [(0, 2), (4, 7)] {
            for (found, wanted) in mixed[2 * row..2 * row + 2].iter().zip(&alone[2 * sample..2 * sample + 2]) {
                // cos π/2 is 6e-17.
                assert_close(*found, *wanted, 1e-10, sampler.kind());
            }
        }
        assert!(mixed.chunks(2).skip(1).all(|x| x != &mixed[..2]), "{}", sampler.kind());
        let short = Request { noise: Source::Mixed(vec![place(0)]), ..Request::exact(5, 2, 3) };
        let refused = sample(&model, &schedule, &kernels, &*sampler, &short, &mut |_| Ok(())).unwrap_err();
        assert!(refused.to_string().contains("one for each"), "{refused}");
    }
}

#[test]
fn evaluations_are_counted() {
    let kernels = Grid::karras(18).kernels(&Edm::default()).unwrap();
    let count = |sampler: &dyn Sampler| {
        sample(&plane(), &Edm::default(), &kernels, sampler, &Request::exact(1, 2, 0), &mut |_| Ok(()))
            .unwrap()
            .evaluations
    };
    // Karras et al.: 2N − 1 for Heun.
    assert_eq!(count(&Heun::default()), 35);
    assert_eq!(count(&Ddim::default()), 18);
    assert_eq!(count(&stein::OdeRk4::default()), 4 * 17 + 1);
    assert_eq!(count(&PredictorCorrector::default()), 36);
}

#[test]
fn impossible_runs_are_refused() {
    let rectified = AnySchedule::named("rectified").unwrap();
    let kernels = Grid::uniform(5).kernels(&*rectified).unwrap();
    let refuse = |sampler: &dyn Sampler, request: Request| {
        sample(&plane(), &*rectified, &kernels, sampler, &request, &mut |_| Ok(())).unwrap_err().to_string()
    };
    assert!(refuse(&Heun::default(), Request::exact(2, 2, 0)).contains("cannot start where alpha is 0"));
    assert!(refuse(&Ddim { eta: 2.0 }, Request::exact(2, 2, 0)).contains("eta = 2"));
    assert!(refuse(&Ddim::default(), Request::exact(2, 3, 0)).contains("2-dimensional"));
    let given = Condition::classes(vec![0]);
    assert!(
        refuse(&Ddim::default(), Request { given, ..Request::exact(2, 2, 0) }).contains("1 classes for a batch of 2")
    );
    let nested = PredictorCorrector { predictor: Box::new(PredictorCorrector::default().into()), ..Default::default() };
    assert!(nested.check().is_err());
    assert!(AnySampler::named("huen").unwrap_err().to_string().contains("nearest first: heun"));
}

#[test]
fn samplers_survive_their_files() {
    for sampler in AnySampler::all().into_iter().chain(stochastic()) {
        let text = toml::to_string(&sampler).unwrap();
        assert_eq!(toml::from_str::<AnySampler>(&text).unwrap(), sampler, "{text}");
    }
    assert!(
        toml::from_str::<AnySampler>("kind = \"ddim\"\nnonsense = 1").unwrap_err().to_string().contains("nonsense")
    );
}

/// A sampler of one's own needs nothing but the trait.
#[test]
fn a_sampler_can_be_added_from_outside() {
    #[derive(Debug)]
    struct Jump;
    impl Sampler for Jump {
        fn step(
            &self,
            x: Tensor<2>,
            from: &Kernel,
            _to: &Kernel,
            eval: &mut Eval,
            _: &mut Past,
        ) -> stein::Result<Tensor<2>> {
            eval.denoise(&x, from)
        }
        fn order(&self) -> Option<u32> {
            None
        }
    }
    let kernels = Grid::uniform(1).kernels(&Edm::default()).unwrap();
    let x = run(&plane(), &Edm::default(), &kernels, &Jump, &Request::exact(1, 2, 0));
    // From σ = 80 the estimate is the data's mean up to its variance over σ.
    x.iter().zip(plane().mean()).for_each(|(x, mean)| assert!((x - mean).abs() < 0.1));
}
