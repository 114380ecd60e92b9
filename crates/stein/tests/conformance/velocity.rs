//! Velocities: what flow matching regresses on, solvers that follow a velocity alone, its diffusion and its density, on closed forms.

use stein::{
    AnySchedule, Condition, Context, Dual, Grid, Interpolant, Kernel, Keys, Levels, LinearVp, Network, NoiseInput,
    OdeHeun, Polynomial, Precondition, Preconditioned, Prediction, ProbabilityFlow, Rectified, Request, Result,
    Sampler, Schedule, Solver, Spacing, Tensor, Trigonometric, Velocity, Vp,
    exact::Exact,
    flow_matching::{self, PathNoise, VelocityNetwork},
    likelihood::{OdeLikelihood, Prior},
    ode::{EULER, HEUN, Steps},
    rows::host,
    sample, sample_interpolant, sample_velocity,
};

use crate::{assert_close, line, tensor};

/// Paths between N(m, s²) at t = 0 and N(0, 1) at t = 1 with noise between, paired independently: everything is Gaussian.
struct Gaussians {
    mean: f64,
    std: f64,
    noise: PathNoise,
}

const SHIFTED: Gaussians = Gaussians { mean: 2.0, std: 0.5, noise: PathNoise::Bridge { sigma: 0.8 } };

impl Gaussians {
    /// Mean, variance and half the slope of the variance of x_t on straight lines.
    fn law(&self, t: f64) -> (f64, f64, f64) {
        let (spread, ratio) = match self.noise {
            // γ² = σ² t (1 − t) and γ γ̇ = σ² (1 − 2t)/2 are finite everywhere.
            PathNoise::Bridge { sigma } => (sigma.powi(2) * t * (1.0 - t), sigma.powi(2) * (0.5 - t)),
            _ => (self.noise.at(t).0.powi(2), 0.0),
        };
        let variance = ((1.0 - t) * self.std).powi(2) + t * t + spread;
        ((1.0 - t) * self.mean, variance, -(1.0 - t) * self.std.powi(2) + t + ratio)
    }
}

impl Velocity for Gaussians {
    fn velocity(&self, x: Dual<2>, at: Levels, _: &Condition) -> Result<Dual<2>> {
        let of = |f: &dyn Fn((f64, f64, f64)) -> f64| at.factors(|at| f(self.law(at.t)));
        let ones = Dual::from(x.value.ones_like());
        let slope = x.scale(&of(&|(_, variance, half)| half / variance));
        Ok(slope + ones.scale(&of(&|(mean, variance, half)| -self.mean - mean * half / variance)))
    }
}

impl Interpolant for Gaussians {
    fn score(&self, x: Tensor<2>, at: Levels, _: &Condition) -> Result<Tensor<2>> {
        let (mean, variance, _) = self.law(at.kernels()[0].t);
        Ok((x - mean).div_scalar(-variance))
    }
}

fn even(steps: usize) -> Vec<Kernel> {
    let schedule = Rectified::default();
    Grid::uniform(steps).even_to_zero(&schedule).kernels(&schedule).unwrap()
}

#[test]
fn grids_of_a_velocity_have_equal_steps_down_to_zero() {
    let times: Vec<f64> = even(4).iter().map(|at| if at.is_clean() { 0.0 } else { at.t }).collect();
    assert_eq!(times, [1.0, 0.75, 0.5, 0.25, 0.0]);
    // SD3's shift by 3 of these: 3s/(1 + 2s).
    let shifted = Grid { spacing: Spacing::Shifted { shift: 3.0 }, ..Grid::uniform(4) };
    let schedule = Rectified::default();
    let kernels = shifted.even_to_zero(&schedule).kernels(&schedule).unwrap();
    for (at, s) in kernels.iter().take(4).zip([1.0, 0.75, 0.5, 0.25]) {
        assert_close(at.t, 3.0 * s / (1.0 + 2.0 * s), 1e-12, "shifted");
    }
    // An end that is asked for stays, and so does a grid that does not end clean.
    let ended = Grid { end: Some(0.1), ..Grid::uniform(4) };
    assert_eq!(ended.even_to_zero(&schedule), ended);
}

#[test]
fn a_solver_follows_the_probability_flow_as_its_sampler_does() {
    let (schedule, model) = (Rectified::default(), line());
    let kernels = Grid { clean: false, ..Grid::uniform(12) }.kernels(&schedule).unwrap();
    let request = Request { data_variance: model.variance(), ..Request::exact(50, 1, 4) };
    let sampler = OdeHeun {};
    let by_denoiser = sample(&model, &schedule, &kernels, &sampler, &request, &mut |_| Ok(())).unwrap();
    let (velocity, solver) = (ProbabilityFlow(&model), sampler.solver().unwrap());
    let by_velocity = sample_velocity(&velocity, &schedule, &kernels, &solver, &request, &mut |_| Ok(())).unwrap();
    assert_eq!(by_denoiser.evaluations, by_velocity.evaluations);
    host(&by_denoiser.x).iter().zip(host(&by_velocity.x)).for_each(|(a, b)| assert_close(*a, b, 1e-12, "heun"));
}

/// A network that is no constant in anything.
struct Wavy;

impl Network for Wavy {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let [rows, _] = x.dims();
        Ok(x.map(|x| x.sin(), |x| x.cos()) + context.noise.clone().reshape([rows, 1]))
    }
}

/// The network regressed on α̇ x_0 + σ̇ ε is a velocity, and in the wrapper of a diffusion a denoiser with that very velocity.
#[test]
fn an_uncoupled_velocity_is_that_of_the_diffusion_of_the_same_path() {
    let noise_input = NoiseInput::Time { factor: 1.0 };
    for schedule in [AnySchedule::from(Rectified::default()), Vp::default().into()] {
        let settings = Precondition::unscaled(Prediction::Velocity {}, noise_input);
        let denoiser = Preconditioned::new(Wavy, settings, schedule.clone()).unwrap();
        let velocity = VelocityNetwork { network: Wavy, noise_input, schedule: schedule.clone() };
        let x = tensor(&[-1.3, 0.2, 0.9, 2.4], 2);
        for t in [0.01, 0.3, 0.7, 0.99] {
            let (at, none) = (schedule.kernel(t), Condition::none());
            let alone = velocity.velocity(x.clone().into(), (&at).into(), &none).unwrap().value;
            let derived = ProbabilityFlow(&denoiser).velocity(x.clone().into(), (&at).into(), &none).unwrap().value;
            let score = denoiser.score_at(x.clone().into(), (&at).into(), &none, None).unwrap().value;
            // v = f x − ½ g² s.
            let by_score = x.clone() * at.drift() - score * (0.5 * at.diffusion_squared());
            for ((alone, derived), by_score) in host(&alone).iter().zip(host(&derived)).zip(host(&by_score)) {
                // Rounding grows where σ or α are small.
                assert_close(*alone, derived, 1e-11, schedule.kind());
                assert_close(*alone, by_score, 1e-10, schedule.kind());
            }
        }
    }
}

#[test]
fn solvers_carry_noise_to_the_data_and_their_densities_are_the_data_s() {
    let (rows, velocity) = (4000, SHIFTED);
    let request = Request { data_variance: 0.0, ..Request::exact(rows, 1, 11) };
    let solver = Solver { method: &HEUN, steps: Steps::Fixed(1) };
    let drawn =
        sample_velocity(&velocity, &Rectified::default(), &even(40), &solver, &request, &mut |_| Ok(())).unwrap();
    assert_eq!(drawn.evaluations, 80);
    moments(&host(&drawn.x), "heun");
    let x = tensor(&[0.5, 2.0, 3.1], 1);
    let (schedule, keys, given) = (Rectified::default(), Keys::range(0, 0, 3), Condition::none());
    let prior = Prior::Normal { std: 1.0 };
    let found =
        OdeLikelihood::exact(1e-8).log_density_of_velocity(&velocity, &schedule, x, &given, &keys, prior).unwrap();
    for (nats, x) in found.nats.iter().zip([0.5, 2.0, 3.1f64]) {
        let known = -0.5 * ((x - 2.0) / 0.5).powi(2) - (0.5 * std::f64::consts::TAU.sqrt()).ln();
        assert_close(*nats, known, 1e-5, "density");
    }
}

/// The mean and standard deviation of the data, within four standard errors and what the steps leave.
fn moments(x: &[f64], what: &str) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let std = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    assert_close(mean, 2.0, 4.0 * 0.5 / n.sqrt() + 0.01, format!("{what}: mean"));
    assert_close(std, 0.5, 4.0 * 0.5 / (2.0 * n).sqrt() + 0.01, format!("{what}: std"));
}

/// Albergo, Boffi and Vanden-Eijnden 2023: the law is the same whatever the diffusion.
#[test]
fn the_diffusion_of_an_interpolant_has_the_law_of_its_paths() {
    let request = Request { data_variance: 0.0, ..Request::exact(4000, 1, 5) };
    for diffusion in [0.0, 0.8, 1.5] {
        let schedule = Rectified::default();
        let drawn = sample_interpolant(&SHIFTED, &schedule, &even(200), diffusion, &request, &mut |_| Ok(())).unwrap();
        assert_eq!(drawn.evaluations, 2 * 199 + 1);
        moments(&host(&drawn.x), &format!("g = {diffusion}"));
    }
}

#[test]
fn samples_do_not_depend_on_the_batch() {
    let draw = |first: u64, rows: usize| {
        let request = Request { first, data_variance: 0.0, ..Request::exact(rows, 1, 8) };
        let levels = even(5);
        let schedule = Rectified::default();
        let sde = sample_interpolant(&SHIFTED, &schedule, &levels, 1.0, &request, &mut |_| Ok(())).unwrap();
        let solver = Solver { method: &EULER, steps: Steps::Fixed(2) };
        let ode = sample_velocity(&SHIFTED, &schedule, &levels, &solver, &request, &mut |_| Ok(())).unwrap();
        (host(&sde.x), host(&ode.x))
    };
    let (all, tail) = (draw(0, 5), draw(3, 2));
    assert_eq!((&all.0[3..], &all.1[3..]), (&tail.0[..], &tail.1[..]));
}

#[test]
fn what_does_not_fit_is_said() {
    let schedule = Rectified::default();
    let request = Request::exact(2, 1, 0);
    let solver = Solver { method: &EULER, steps: Steps::Fixed(1) };
    let rising = [schedule.kernel(0.2), schedule.kernel(0.5)];
    let error = sample_velocity(&SHIFTED, &schedule, &rising, &solver, &request, &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("must fall"), "{error}");
    let bridge = PathNoise::Bridge { sigma: 1.0 };
    let polynomial = Polynomial { exponent: 2.0, ..Polynomial::default() };
    let named: [AnySchedule; 4] =
        [schedule.clone().into(), Trigonometric::default().into(), polynomial.into(), LinearVp::default().into()];
    named.iter().for_each(|named| bridge.check(&**named).unwrap());
    let whole = Rectified { t_min: 0.0, sigma_min: 0.01 };
    assert!(bridge.check(&whole).unwrap_err().to_string().contains("t_min above 0"));
    let time = NoiseInput::Time { factor: 1.0 };
    flow_matching::check_noise_input(time, &schedule.clone().into()).unwrap();
    let log = NoiseInput::LogSigma { factor: 1.0, unit: 1.0 };
    assert!(
        flow_matching::check_noise_input(log, &schedule.clone().into()).unwrap_err().to_string().contains("infinite")
    );
    let error = PathNoise::Bridge { sigma: 1.0 }.check(&stein::Edm::default()).unwrap_err();
    assert!(error.to_string().contains("between t = 0 and 1"), "{error}");
    let error = PathNoise::Constant { sigma: 0.0 }.check(&schedule).unwrap_err();
    assert!(error.to_string().contains("sigma"), "{error}");
}
