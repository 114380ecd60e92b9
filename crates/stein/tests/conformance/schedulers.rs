//! Samplers against the stored trajectories of published schedulers (`tests/data/schedulers.json`): the same exact
//! denoiser, the same start and the same noise must pass through the same states, in double precision.
//!
//! A stored state is what the denoiser is asked about, or the end of the run; some schedulers keep x/α where ours keep
//! x. The denoiser is a network around the exact mixture that gives the case's raw output (noise, velocity, score or
//! EDM's F), so `Preconditioned` and `Prediction` are under test too.

use std::{path::Path, sync::Mutex};

use serde::Deserialize;
use stein::{
    Ancestral, AnySampler, AnySchedule, Context, Corrector, Ddim, Discrete, DpmSolverPp, Dual, Edm, FlowMap, Grid,
    Heun, Kernel, Keys, Langevin, LevelList, Levels, MapForm, MapNetwork, MapSettings, Network, NoiseInput, OdeEuler,
    Precondition, Preconditioned, Prediction, PredictorCorrector, Progress, Purpose, Rectified, Request,
    ReverseDiffusion, Schedule, Spacing, UniPc, Variance, Ve, estimate,
    exact::{GaussianMixture, MixtureFile},
    guidance::Clamped,
    noise::Source,
    rows::host,
    sample_from, sample_map_from,
};

use crate::tensor;

/// What is seen is below 1e-11, but for DDPM's last step, where its code adds noise of 1e-10 to keep a logarithm finite,
/// and ours none.
const TOLERANCE: f64 = 1e-9;

type Rows = Vec<Vec<f64>>;

#[derive(Deserialize)]
struct Golden {
    mixtures: std::collections::BTreeMap<String, MixtureFile>,
    schedules: std::collections::BTreeMap<String, Betas>,
    cases: std::collections::BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Betas {
    alphas_cumprod: Vec<f64>,
}

#[derive(Deserialize)]
struct Case {
    scheduler: String,
    config: serde_json::Value,
    step_arguments: serde_json::Value,
    #[serde(default)]
    set_timesteps_arguments: serde_json::Value,
    mixture: String,
    num_inference_steps: usize,
    timesteps: Vec<f64>,
    #[serde(default)]
    sigmas: Vec<f64>,
    #[serde(default)]
    discrete_sigmas: Vec<f64>,
    /// α and σ as the case scales its samples, one per step or one per evaluation.
    levels: Vec<(f64, f64)>,
    schedule: Option<String>,
    #[serde(default)]
    noise: Vec<Rows>,
    model_outputs: Vec<Rows>,
    trajectory: Vec<Rows>,
    /// The last state without the noise its scheduler adds at last, and ours do not.
    final_prev_sample_mean: Option<Rows>,
}

impl Case {
    fn number(&self, key: &str) -> f64 {
        self.config[key].as_f64().unwrap_or_else(|| panic!("{} has no number {key}", self.scheduler))
    }

    fn says(&self, key: &str) -> bool {
        self.config[key].as_bool().unwrap_or_else(|| panic!("{} has no switch {key}", self.scheduler))
    }

    fn spacing(&self) -> &str {
        self.config["timestep_spacing"].as_str().unwrap_or_default()
    }
}

/// How a case is run here.
struct Plan {
    schedule: AnySchedule,
    /// The stored levels.
    kernels: Vec<Kernel>,
    /// The grid of ours that lays the same levels, where there is one.
    grid: Option<Grid>,
    prediction: Prediction,
    /// The level whose output the network gives when asked about a time; the same, or off where published.
    asked: fn(f64) -> f64,
    /// Samplers that all must give the trajectory.
    samplers: Vec<AnySampler>,
}

/// The plan of a case.
fn plan(case: &Case, golden: &Golden) -> Plan {
    let steps = case.num_inference_steps;
    let discrete = || -> AnySchedule {
        let schedule = Discrete::new(LevelList::Linear {
            first: case.number("beta_start"),
            last: case.number("beta_end"),
            count: case.number("num_train_timesteps") as usize,
        })
        .unwrap();
        let stored = &golden.schedules[case.schedule.as_ref().unwrap()].alphas_cumprod;
        assert_eq!(schedule.alpha_bar().len(), stored.len());
        schedule.alpha_bar().iter().zip(stored).for_each(|(a, b)| assert!((a - b).abs() <= 1e-12 * b));
        schedule.into()
    };
    let at_noise = |schedule: &AnySchedule| -> Vec<Kernel> {
        let mut noise = case.sigmas.clone();
        noise.dedup();
        noise.into_iter().map(|noise| level(&**schedule, noise)).collect()
    };
    let at_levels = |schedule: &AnySchedule, end: Kernel| -> Vec<Kernel> {
        case.timesteps.iter().map(|&t| schedule.kernel(t)).chain([end]).collect()
    };
    let karras = |condition: bool| condition.then(|| Grid::karras(steps));
    let order = || case.number("solver_order") as u32;
    let same: fn(f64) -> f64 = |t| t;
    let eps = Prediction::Eps {};
    match case.scheduler.as_str() {
        "DDIMScheduler" | "DDPMScheduler" => {
            let schedule = discrete();
            let clean = case.config["set_alpha_to_one"].as_bool().unwrap_or(true);
            let spacing = match case.spacing() {
                "leading" => Spacing::Leading { offset: case.number("steps_offset") as usize },
                "trailing" => Spacing::Trailing {},
                other => panic!("{} is spaced {other}", case.scheduler),
            };
            let sampler: AnySampler = if case.scheduler == "DDPMScheduler" {
                assert_eq!(case.config["variance_type"], "fixed_small");
                Ancestral { variance: Variance::Posterior, ..Ancestral::default() }.into()
            } else {
                Ddim { eta: case.step_arguments["eta"].as_f64().unwrap_or(0.0) }.into()
            };
            Plan {
                kernels: at_levels(&schedule, if clean { Kernel::CLEAN } else { schedule.kernel(0.0) }),
                grid: Some(Grid { spacing, steps, clean, ..Grid::default() }),
                schedule,
                prediction: eps,
                asked: same,
                samplers: vec![sampler],
            }
        }
        "DPMSolverMultistepScheduler" | "UniPCMultistepScheduler" => {
            let schedule = discrete();
            let sampler: AnySampler = if case.scheduler == "UniPCMultistepScheduler" {
                assert_eq!(case.config["solver_type"], "bh2");
                UniPc { order: order() }.into()
            } else {
                assert_eq!(case.config["algorithm_type"], "dpmsolver++");
                DpmSolverPp { order: order(), ..DpmSolverPp::default() }.into()
            };
            let kernels = at_noise(&schedule);
            let grid = karras(case.says("use_karras_sigmas"));
            Plan { schedule, kernels, grid, prediction: eps, asked: same, samplers: vec![sampler] }
        }
        "EulerDiscreteScheduler" => {
            let schedule = discrete();
            // Karras levels between those of the noisiest and of the cleanest trained level the spacing picks.
            let grid = karras(case.says("use_karras_sigmas")).map(|grid| {
                assert_eq!(case.spacing(), "trailing");
                Grid { end: Some(1000.0 / steps as f64 - 1.0), ..grid }
            });
            // Euler in σ/α is DDIM.
            let samplers = vec![Ddim::default().into(), DpmSolverPp { order: 1, ..DpmSolverPp::default() }.into()];
            Plan { kernels: at_noise(&schedule), schedule, grid, prediction: eps, asked: same, samplers }
        }
        "HeunDiscreteScheduler" => {
            let schedule = discrete();
            // The trained levels of ten equal steps of 999 are whole.
            let grid = karras(case.says("use_karras_sigmas")).or(Some(Grid::uniform(steps)));
            let samplers = vec![Heun::default().into()];
            Plan { kernels: at_noise(&schedule), schedule, grid, prediction: eps, asked: same, samplers }
        }
        "EDMEulerScheduler" | "EDMDPMSolverMultistepScheduler" => {
            let schedule: AnySchedule =
                Edm { sigma_min: case.number("sigma_min"), sigma_max: case.number("sigma_max") }.into();
            let samplers = if case.scheduler == "EDMEulerScheduler" {
                vec![Ddim::default().into(), OdeEuler {}.into()]
            } else {
                vec![DpmSolverPp { order: order(), ..DpmSolverPp::default() }.into()]
            };
            let prediction = Prediction::Edm { sigma_data: case.number("sigma_data") };
            Plan { kernels: at_noise(&schedule), schedule, grid: karras(true), prediction, asked: same, samplers }
        }
        "FlowMatchEulerDiscreteScheduler" => {
            let schedule: AnySchedule = Rectified::default().into();
            // Its σ is the time.
            let kernels = case.sigmas.iter().map(|&t| if t > 0.0 { schedule.kernel(t) } else { Kernel::CLEAN });
            Plan {
                kernels: kernels.collect(),
                grid: (case.number("shift") == 1.0).then(|| Grid::uniform(steps)),
                schedule,
                prediction: Prediction::Velocity {},
                asked: same,
                samplers: vec![OdeEuler {}.into(), Ddim::default().into()],
            }
        }
        "ScoreSdeVeScheduler" => {
            let schedule: AnySchedule =
                Ve { sigma_min: case.number("sigma_min"), sigma_max: case.number("sigma_max") }.into();
            let sampler = PredictorCorrector {
                predictor: Box::new(ReverseDiffusion {}.into()),
                corrector: Corrector::BatchLangevin,
                steps: case.number("correct_steps") as usize,
                snr: case.number("snr"),
                corrector_first: true,
            };
            assert_eq!(case.number("sampling_eps"), 1e-5);
            let predictor = case.discrete_sigmas.iter().rev().chain([&0.0]);
            Plan {
                // The predictor steps on σ in equal ratios, whose times are equal steps from 1 to 0 …
                kernels: predictor.map(|&sigma| level(&*schedule, sigma)).collect(),
                grid: Some(Grid::uniform(steps)),
                prediction: Prediction::Score {},
                // … while the network is asked about times from 1 to 0.00001.
                asked: |t| 1e-5 + t * (1.0 - 1e-5),
                schedule,
                samplers: vec![sampler.into()],
            }
        }
        unknown => panic!("there is no plan for {unknown}"),
    }
}

/// The level of this noise-to-signal ratio, clean at 0.
fn level(schedule: &dyn Schedule, noise_to_signal: f64) -> Kernel {
    if noise_to_signal == 0.0 {
        return Kernel::CLEAN;
    }
    schedule.kernel(schedule.time_at(-2.0 * noise_to_signal.ln()))
}

/// One question put to the network.
struct Asked {
    at: Kernel,
    x: Vec<f64>,
    output: Vec<f64>,
}

/// The exact mixture as a network of some prediction, which writes down what it is asked.
struct Oracle<'a> {
    mixture: &'a GaussianMixture,
    plan: &'a Plan,
    seen: Mutex<Vec<Asked>>,
}

impl Network for &Oracle<'_> {
    fn forward(&self, x: Dual<2>, context: &Context) -> stein::Result<Dual<2>> {
        let times: Vec<f64> = context.noise.value.to_data().iter::<f64>().collect();
        let schedule = &self.plan.schedule;
        let levels: Vec<Kernel> = times.iter().map(|&t| schedule.kernel((self.plan.asked)(t))).collect();
        let denoised = estimate(self.mixture, x.clone(), Levels::Each(&levels), context.given)?.mean.value;
        let x = x.value;
        let at = levels[0];
        let (a, b) = self.plan.prediction.target(&at);
        let eps = (x.clone() - denoised.clone().mul_scalar(at.alpha)).div_scalar(at.sigma);
        let output = denoised.mul_scalar(a) + eps.mul_scalar(b);
        self.seen.lock().unwrap().push(Asked { at, x: host(&x), output: host(&output) });
        Ok(output.into())
    }
}

/// Largest difference over 1 + the larger value.
fn apart<'a>(ours: &[f64], theirs: impl IntoIterator<Item = &'a f64>) -> f64 {
    let theirs: Vec<&f64> = theirs.into_iter().collect();
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / (1.0 + a.abs().max(b.abs()))).fold(0.0, f64::max)
}

/// The largest error of a sampler on a case, over states, levels and outputs.
fn compare(name: &str, case: &Case, plan: &Plan, sampler: &AnySampler, mixture: &GaussianMixture) -> f64 {
    let rows = case.trajectory[0].len();
    let dim = case.trajectory[0][0].len();
    let evaluations = case.model_outputs.len();
    // From our scaling to the case's, at an evaluation; by both numbers, for α may be 0.
    let stored_level = |i: usize| case.levels[i * case.levels.len() / evaluations];
    let scale = |i: usize, at: &Kernel| {
        let (alpha, sigma) = stored_level(i);
        alpha.hypot(sigma) / at.alpha.hypot(at.sigma)
    };
    let start: Vec<f64> = case.trajectory[0].iter().flatten().map(|x| x / scale(0, &plan.kernels[0])).collect();
    let oracle = Oracle { mixture, plan, seen: Mutex::default() };
    let settings = Precondition::unscaled(plan.prediction, NoiseInput::Time { factor: 1.0 });
    let denoiser = Preconditioned::new(&oracle, settings, plan.schedule.clone()).unwrap();
    let given = case.noise.iter().map(|rows| rows.concat()).collect();
    let request = Request { noise: Source::Given(given), ..Request::exact(rows, dim, 0) };
    let start = tensor(&start, dim);
    let end =
        sample_from(start, &denoiser, &*plan.schedule, &plan.kernels, &**sampler, &request, &mut |_| Ok(())).unwrap();

    let seen = oracle.seen.lock().unwrap();
    assert_eq!(seen.len(), evaluations, "{name}: evaluations");
    assert_eq!(case.trajectory.len(), evaluations + 1, "{name}: states");
    let mut worst = 0f64;
    let mut note = |what: &str, i: usize, error: f64| {
        assert!(error <= TOLERANCE, "{name} by {}: {what} {i} is {error:e} apart", sampler.kind());
        worst = worst.max(error);
    };
    for (i, asked) in seen.iter().enumerate() {
        let (alpha, sigma) = stored_level(i);
        let unit = scale(i, &asked.at);
        note("level", i, apart(&[asked.at.alpha * unit, asked.at.sigma * unit], [&alpha, &sigma]));
        let x: Vec<f64> = asked.x.iter().map(|x| x * unit).collect();
        note("state", i, apart(&x, case.trajectory[i].iter().flatten()));
        note("output", i, apart(&asked.output, case.model_outputs[i].iter().flatten()));
    }
    // At the end α = 1 in every case, but for a cleanest trained level, where the case's scaling is ours.
    let mut end = host(&end.x);
    if let (Some(mean), Some(noise)) = (&case.final_prev_sample_mean, case.noise.last()) {
        note("mean", evaluations, apart(&end, mean.iter().flatten()));
        let sigma = plan.kernels[plan.kernels.len() - 2].sigma;
        end.iter_mut().zip(noise.iter().flatten()).for_each(|(x, z)| *x += sigma * z);
    }
    note("state", evaluations, apart(&end, case.trajectory[evaluations].iter().flatten()));
    worst
}

/// A question put to it: x, the noise number, the output.
type AskedEnd = (Vec<f64>, f64, Vec<f64>);

/// EDM's network output for the exact mixture, which a consistency function recombines with scalings of its own; it writes
/// down what it is asked.
struct EndOracle<'a> {
    mixture: &'a GaussianMixture,
    sigma_data: f64,
    seen: Mutex<Vec<AskedEnd>>,
}

impl Network for &EndOracle<'_> {
    fn forward(&self, x: Dual<2>, context: &Context) -> stein::Result<Dual<2>> {
        let numbers: Vec<f64> = context.noise.value.to_data().iter::<f64>().collect();
        let sigma = (numbers[0] / 250.0).exp();
        let level = Kernel { t: sigma, alpha: 1.0, sigma, d_alpha: 0.0, d_sigma: 1.0 };
        let x = x.value.mul_scalar(sigma.hypot(self.sigma_data));
        let (skip, out) = Prediction::Edm { sigma_data: self.sigma_data }.skip_and_out(&level);
        let denoised = stein::denoise(self.mixture, x.clone(), (&level).into(), context.given)?;
        let output = (denoised - x.clone().mul_scalar(skip)).div_scalar(out);
        self.seen.lock().unwrap().push((host(&x), numbers[0], host(&output)));
        Ok(output.into())
    }
}

/// The largest error of multistep sampling on a case, over states, noise numbers and outputs.
fn carried(name: &str, case: &Case, mixture: &GaussianMixture) -> f64 {
    let (sigma_data, rho) = (case.number("sigma_data"), case.number("rho"));
    let schedule: AnySchedule = Edm { sigma_min: case.number("sigma_min"), sigma_max: case.number("sigma_max") }.into();
    let steps = case.num_inference_steps;
    let grid = |spacing| Grid { spacing, steps, clean: false, ..Grid::default() };
    let kernels = grid(Spacing::Given { noise: case.sigmas.clone() }).kernels(&*schedule).unwrap();
    // Where levels are not chosen by hand they are equally spaced among those it was trained on, Karras et al.'s.
    if case.set_timesteps_arguments.is_null() {
        let count = case.number("num_train_timesteps") as usize;
        let trained = Grid { steps: count - 1, ..grid(Spacing::Karras { rho }) }.kernels(&*schedule).unwrap();
        for (ours, stored) in trained.iter().step_by(count / steps).zip(&case.sigmas) {
            assert!((ours.sigma - stored).abs() <= TOLERANCE * stored, "{name}: {ours:?} for {stored}");
        }
    }
    let oracle = EndOracle { mixture, sigma_data, seen: Mutex::default() };
    let settings = MapSettings {
        form: MapForm::EdmShifted { sigma_data },
        noise_input: NoiseInput::LogSigma { factor: 250.0, unit: 1.0 },
    };
    let map = MapNetwork::new(&oracle, settings, schedule).unwrap();
    let clamped = Clamped { inner: &map, bounds: vec![(-1.0, 1.0)] };
    let map: &dyn FlowMap = if case.says("clip_denoised") { &clamped } else { &map };
    let (rows, dim) = (case.trajectory[0].len(), case.trajectory[0][0].len());
    let given = case.noise.iter().map(|rows| rows.concat()).collect();
    let request = Request { noise: Source::Given(given), ..Request::exact(rows, dim, 0) };
    let start = tensor(&case.trajectory[0].concat(), dim);
    let mut states = Vec::new();
    let mut watch = |progress: &Progress| {
        states.push(host(progress.x));
        Ok(())
    };
    let end = sample_map_from(start, map, &kernels, &request, &mut watch).unwrap();
    assert_eq!(end.evaluations, steps, "{name}: evaluations");

    let seen = oracle.seen.lock().unwrap();
    assert_eq!((seen.len(), states.len()), (case.model_outputs.len(), case.trajectory.len()), "{name}");
    let mut worst = 0f64;
    let mut note = |what: &str, i: usize, error: f64| {
        assert!(error <= TOLERANCE, "{name}: {what} {i} is {error:e} apart");
        worst = worst.max(error);
    };
    for (i, (x, number, output)) in seen.iter().enumerate() {
        note("state", i, apart(x, case.trajectory[i].iter().flatten()));
        note("noise number", i, apart(&[*number], [&case.timesteps[i]]));
        note("output", i, apart(output, case.model_outputs[i].iter().flatten()));
    }
    for (i, state) in states.iter().enumerate() {
        note("state", i, apart(state, case.trajectory[i].iter().flatten()));
    }
    worst
}

#[test]
fn trajectories_are_those_of_the_published_schedulers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/schedulers.json");
    let text = std::fs::read_to_string(&path).unwrap();
    // The file was written by Python, which spells an infinite setting as no JSON reader knows it; none is used here.
    let golden: Golden = serde_json::from_str(&text.replace("-Infinity", "null")).unwrap();
    for (name, case) in &golden.cases {
        let mixture = GaussianMixture::try_from(golden.mixtures[&case.mixture].clone()).unwrap();
        if case.scheduler == "CMStochasticIterativeScheduler" {
            let worst = carried(name, case, &mixture);
            println!("{name} by multistep: {worst:.1e}");
            continue;
        }
        let plan = plan(case, &golden);
        if let Some(grid) = &plan.grid {
            let laid = grid.kernels(&*plan.schedule).unwrap();
            assert_eq!(laid.len(), plan.kernels.len(), "{name}: levels");
            for (ours, stored) in laid.iter().zip(&plan.kernels) {
                let error = apart(&[ours.alpha, ours.sigma], [&stored.alpha, &stored.sigma]);
                assert!(error <= TOLERANCE, "{name}: {grid:?} has {ours:?} for {stored:?}");
            }
        }
        for sampler in &plan.samplers {
            let worst = compare(name, case, &plan, sampler, &mixture);
            println!("{name} by {}: {worst:.1e}", serde_json::to_string(sampler).unwrap());
        }
    }
}

#[test]
fn given_noise_is_used_in_order_and_must_fit() {
    let schedule = Edm::default();
    let kernels = Grid::karras(3).kernels(&schedule).unwrap();
    let model = crate::plane();
    let draw = |noise: Source| {
        let request = Request { noise, ..Request::exact(2, 2, 9) };
        // Its noise is fresh: that of an interval comes from a path.
        let sampler = Langevin { steps: 1, ..Langevin::default() };
        stein::sample(&model, &schedule, &kernels, &sampler, &request, &mut |_| Ok(())).map(|s| host(&s.x))
    };
    let keyed = draw(Source::Keyed).unwrap();
    // The keyed noise, handed over, gives the same samples.
    let draws: Vec<Vec<f64>> = (1..=3).map(|i| Keys::range(9, 0, 2).normal(Purpose::Sampler, i, 2)).collect();
    assert_eq!(draw(Source::Given(draws.clone())).unwrap(), keyed);
    assert_ne!(draw(Source::Given(draws.iter().rev().cloned().collect())).unwrap(), keyed);
    assert!(draw(Source::Given(draws[..1].to_vec())).unwrap_err().to_string().contains("given for 1 draw(s)"));
    assert!(draw(Source::Given(vec![vec![0.0; 3]; 3])).unwrap_err().to_string().contains("3 numbers for a batch of 2"));
}
