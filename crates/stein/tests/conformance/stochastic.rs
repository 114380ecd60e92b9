//! Stochastic and multistep samplers against the stored trajectories of k-diffusion, of the published restart sampler and of diff-sampler
//! (`tests/data/stochastic_samplers`): the same exact denoiser, start and noise must pass through the same states, in double
//! precision.

use std::{path::Path, sync::Mutex};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::Value;
use stein::{
    AnySampler, Churn, Condition, Ddim, Deis, Denoiser, Dpm2Ancestral, DpmSolver, DpmSolverPp, DpmSolverPp2sAncestral,
    DpmSolverPpSde, Dual, Edm, EdmEuler, Estimate, EulerAncestral, Form, Heun, Ipndm, Kernel, Levels, Lms, Request,
    Restart, Schedule, SdeDpmSolverPp, Vp, estimate,
    exact::{GaussianMixture, MixtureFile},
    noise::Source,
    rows::host,
    sample_from,
};

use crate::tensor;

/// What is asked for, over 1 + the larger value. What is seen is below 2e-11.
const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Golden {
    mixture: MixtureFile,
    sigma_max: f64,
    sigma_min: f64,
    k_diffusion: Vec<Value>,
    restart: Vec<Value>,
    diff_sampler: Vec<Value>,
}

/// The bytes of a `.safetensors` file.
pub struct Stored(pub Vec<u8>);

impl Stored {
    /// Inputs by their bare name, what was worked out in double precision under it with `_f64`.
    pub fn numbers(&self, name: &str) -> Vec<f64> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(&format!("{name}_f64")).or_else(|_| tensors.tensor(name));
        let tensor = tensor.unwrap_or_else(|_| panic!("there is no tensor {name}"));
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F64 => data.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect(),
            Dtype::F32 => {
                data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()).into()).collect()
            }
            Dtype::I64 => {
                data.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()) as f64).collect()
            }
            other => panic!("{name} is of type {other:?}"),
        }
    }

    /// States, one after the other.
    fn states(&self, name: &str) -> Vec<Vec<f64>> {
        self.numbers(name).chunks(8).map(<[f64]>::to_vec).collect()
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stochastic_samplers")
}

fn golden() -> (Golden, Stored, GaussianMixture) {
    let golden: Golden = serde_json::from_slice(&std::fs::read(folder().join("config.json")).unwrap()).unwrap();
    let mixture = GaussianMixture::try_from(golden.mixture.clone()).unwrap();
    (golden, Stored(std::fs::read(folder().join("io.safetensors")).unwrap()), mixture)
}

fn name(case: &Value) -> &str {
    case["name"].as_str().unwrap()
}

fn number(case: &Value, key: &str) -> Option<f64> {
    case.get(key).and_then(Value::as_f64)
}

/// The mixture, which writes down what it is asked; at the first level it may be guessed instead, as `afs` does.
struct Asked<'a> {
    mixture: &'a GaussianMixture,
    guess_at: Option<f64>,
    seen: Mutex<Vec<(f64, Vec<f64>)>>,
}

impl Denoiser for Asked<'_> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> stein::Result<Estimate> {
        let sigma = at.row(0).sigma;
        self.seen.lock().unwrap().push((sigma, host(&x.value)));
        if self.guess_at == Some(sigma) {
            // Dockhorn et al. 2022: ε̂ = x/√(1 + σ²) at the first step, at no evaluation.
            return Ok(x.linear(|x| x.mul_scalar(1.0 - sigma / (1.0 + sigma * sigma).sqrt())).into());
        }
        estimate(self.mixture, x, at, given)
    }
}

/// The states of a run, with the end, and what the denoiser was asked.
fn trajectory(
    model: &Asked,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    sampler: &AnySampler,
    start: &[f64],
    noise: Vec<Vec<f64>>,
) -> Vec<Vec<f64>> {
    let request = Request { noise: Source::Given(noise), ..Request::exact(start.len() / 2, 2, 0) };
    let mut states = Vec::new();
    sample_from(tensor(start, 2), model, schedule, kernels, &**sampler, &request, &mut |progress| {
        states.push(host(&progress.x.clone().div_scalar(progress.at.alpha)));
        Ok(())
    })
    .unwrap();
    states
}

fn apart(ours: &[Vec<f64>], theirs: &[Vec<f64>]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter()
        .flatten()
        .zip(theirs.iter().flatten())
        .map(|(a, b)| (a - b).abs() / (1.0 + a.abs().max(b.abs())))
        .fold(0.0, f64::max)
}

/// The sampler a case of k-diffusion names.
fn of_k_diffusion(case: &Value) -> AnySampler {
    let settings = &case["kwargs"];
    let eta = number(settings, "eta").unwrap_or(1.0);
    let s_noise = number(settings, "s_noise").unwrap_or(1.0);
    let churn = Churn {
        s_churn: number(settings, "s_churn").unwrap_or(0.0),
        s_min: number(settings, "s_tmin").unwrap_or(0.0),
        s_max: number(settings, "s_tmax").unwrap_or(f64::INFINITY),
        s_noise,
    };
    match case["fn"].as_str().unwrap() {
        "sample_euler" => EdmEuler { churn }.into(),
        "sample_heun" => Heun { churn }.into(),
        "sample_dpm_2" => DpmSolver { order: 2, churn }.into(),
        "sample_euler_ancestral" => EulerAncestral { eta, s_noise }.into(),
        "sample_dpm_2_ancestral" => Dpm2Ancestral { eta, s_noise }.into(),
        "sample_dpmpp_2s_ancestral" => DpmSolverPp2sAncestral { eta, s_noise }.into(),
        "sample_dpmpp_sde" => DpmSolverPpSde { r: number(settings, "r").unwrap_or(0.5), eta, s_noise }.into(),
        "sample_dpmpp_2m" => DpmSolverPp::default().into(),
        "sample_dpmpp_2m_sde" => {
            let form = if settings["solver_type"] == "heun" { Form::Heun } else { Form::Midpoint };
            SdeDpmSolverPp { order: 2, form, eta, s_noise }.into()
        }
        "sample_dpmpp_3m_sde" => SdeDpmSolverPp { order: 3, form: Form::default(), eta, s_noise }.into(),
        "sample_lms" => Lms { order: number(settings, "order").unwrap_or(4.0) as u32 }.into(),
        other => panic!("no sampler of ours is {other}"),
    }
}

#[test]
fn trajectories_are_those_of_k_diffusion() {
    let (golden, stored, mixture) = golden();
    let z = stored.numbers("z");
    for case in &golden.k_diffusion {
        let name = name(case);
        let sigmas = stored.numbers(&format!("schedules.{}", case["schedule"].as_str().unwrap()));
        let schedule = Edm { sigma_min: golden.sigma_min, sigma_max: sigmas[0] };
        let level = |&sigma: &f64| if sigma > 0.0 { schedule.kernel(sigma) } else { Kernel::CLEAN };
        let kernels: Vec<Kernel> = sigmas.iter().map(level).collect();
        let theirs = stored.states(&format!("{name}.trajectory"));
        // Samplers with churn ask for noise at every step, also where they then use none: ours at the steps that do.
        let draws = case["draws"].as_u64().unwrap() as usize;
        let mut noise = if draws > 0 { stored.states(&format!("{name}.noise")) } else { Vec::new() };
        if let Some(s_churn) = number(&case["kwargs"], "s_churn") {
            assert!(s_churn > 0.0);
            let low = number(&case["kwargs"], "s_tmin").unwrap_or(0.0);
            let high = number(&case["kwargs"], "s_tmax").unwrap_or(f64::INFINITY);
            noise =
                noise.into_iter().zip(&sigmas).filter(|(_, at)| (low..=high).contains(at)).map(|(z, _)| z).collect();
        }
        let sampler = of_k_diffusion(case);
        let model = Asked { mixture: &mixture, guess_at: None, seen: Mutex::default() };
        let start: Vec<f64> = z.iter().map(|z| z * sigmas[0]).collect();
        let mut ours = trajectory(&model, &schedule, &kernels, &sampler, &start, noise);
        if number(&case["kwargs"], "s_churn").is_some() {
            // Theirs are states with the noise of the step: what the denoiser is asked about first.
            let per_step = if case["fn"] == "sample_euler" { 1 } else { 2 };
            let asked = model.seen.into_inner().unwrap();
            let end = ours.pop().unwrap();
            ours = asked.into_iter().step_by(per_step).map(|(_, x)| x).chain([end]).collect();
        }
        let error = apart(&ours, &theirs);
        println!("{name}: {error:.1e}");
        assert!(error <= TOLERANCE, "{name}: {error:e}");
    }
}

#[test]
fn restarts_are_those_of_the_published_code() {
    let (golden, stored, mixture) = golden();
    let z = stored.numbers("z");
    for case in &golden.restart {
        let name = name(case);
        let count = number(case, "num_steps").unwrap() as usize;
        let schedule = Edm { sigma_min: golden.sigma_min, sigma_max: golden.sigma_max };
        let kernels = stein::Grid::karras(count).kernels(&schedule).unwrap();
        let listed: Value = serde_json::from_str(case["restart_info"].as_str().unwrap()).unwrap();
        let intervals = listed.as_object().unwrap().values().map(|entry| stein::Interval {
            levels: entry[0].as_u64().unwrap() as usize,
            times: entry[1].as_u64().unwrap() as usize,
            low: entry[2].as_f64().unwrap(),
            high: entry[3].as_f64().unwrap(),
        });
        let sampler = Restart {
            intervals: intervals.collect(),
            rho: number(case, "rho").unwrap(),
            s_noise: number(case, "S_noise").unwrap(),
            gamma: number(case, "restart_gamma").unwrap(),
            s_min: number(case, "S_min").unwrap(),
            s_max: number(case, "S_max").unwrap(),
        };
        // They draw at every step, also where nothing is added: in the main run always, within a restart where γ does not act.
        let all = stored.states(&format!("{name}.noise"));
        let mut noise = Vec::new();
        let mut next = 0;
        let mut take = |used: bool, noise: &mut Vec<Vec<f64>>| {
            if used {
                noise.push(all[next].clone());
            }
            next += 1;
        };
        for to in &kernels[1..] {
            take(false, &mut noise);
            for interval in &sampler.intervals {
                let low = to.noise_to_signal();
                let nearest = kernels
                    .iter()
                    .all(|other| (low - interval.low).abs() <= (other.noise_to_signal() - interval.low).abs());
                if !nearest {
                    continue;
                }
                for _ in 0..interval.times {
                    take(true, &mut noise);
                    for step in 0..interval.levels - 1 {
                        let part = step as f64 / (interval.levels - 1) as f64;
                        let roots = [interval.high, low].map(|level| level.powf(1.0 / sampler.rho));
                        let level = (roots[0] + part * (roots[1] - roots[0])).powf(sampler.rho);
                        take(sampler.gamma > 0.0 && (sampler.s_min..=sampler.s_max).contains(&level), &mut noise);
                    }
                }
            }
        }
        assert_eq!(next as f64, stored.numbers(&format!("{name}.draws_used"))[0], "{name}: draws");
        let model = Asked { mixture: &mixture, guess_at: None, seen: Mutex::default() };
        let start: Vec<f64> = z.iter().map(|z| z * golden.sigma_max).collect();
        let ours = trajectory(&model, &schedule, &kernels, &sampler.into(), &start, noise);
        let (levels, states): (Vec<f64>, Vec<Vec<f64>>) = model.seen.into_inner().unwrap().into_iter().unzip();
        let asked = stored.states(&format!("{name}.model_inputs"));
        let error = apart(&states, &asked)
            .max(apart(&[levels], &[stored.numbers(&format!("{name}.model_sigmas"))]))
            .max(apart(&[ours.last().unwrap().clone()], &stored.states(&format!("{name}.result"))));
        println!("{name}: {error:.1e}");
        assert!(error <= TOLERANCE, "{name}: {error:e}");
    }
}

/// The schedule whose times are those of diff-sampler's DEIS: linear VP with σ/α as theirs at t = 0.001 and 1.
fn vp(golden: &Golden) -> Vp {
    let [low, high] = [golden.sigma_min, golden.sigma_max].map(|sigma| (sigma * sigma).ln_1p());
    let slope = 2.0 * (low / 1e-3 - high) / (1e-3 - 1.0);
    let beta_min = high - 0.5 * slope;
    Vp { beta_min, beta_max: beta_min + slope, ..Vp::default() }
}

/// The levels of these σ/α.
fn at_noise(schedule: &dyn Schedule, noise: &[f64]) -> Vec<Kernel> {
    noise.iter().map(|noise| schedule.kernel(schedule.time_at(-2.0 * noise.ln()))).collect()
}

#[test]
fn multistep_trajectories_are_those_of_diff_sampler() {
    let (golden, stored, mixture) = golden();
    let z = stored.numbers("z");
    for case in &golden.diff_sampler {
        let name = name(case);
        let order = number(case, "max_order").unwrap() as u32;
        let sigmas = stored.numbers(&format!("{name}.t_steps"));
        let (sampler, tolerance): (AnySampler, f64) = match case["fn"].as_str().unwrap() {
            "ipndm" => (Ipndm { order }.into(), TOLERANCE),
            // From order 3 on the published weights are not those of Adams and Bashforth; see `ipndm_v_check` below.
            "ipndm_v" if order == 2 => (Lms { order }.into(), TOLERANCE),
            "ipndm_v" => continue,
            "deis" if case["deis_mode"] == "rhoab" => (Lms { order }.into(), TOLERANCE),
            // Their integrals are sums of 10,000 rectangles, which are off by about 1e-4 of a step.
            "deis" => (Deis { order }.into(), 2e-4),
            other => panic!("no sampler of ours is {other}"),
        };
        let start: Vec<f64> = z.iter().map(|z| z * golden.sigma_max).collect();
        let theirs = stored.states(&format!("{name}.trajectory"));
        let guess_at = case["afs"].as_bool().unwrap().then_some(sigmas[0]);
        // Their last evaluation, where there is one, gives D.
        let denoised = case["denoise_to_zero"].as_bool().unwrap();
        let run = |schedule: &dyn Schedule, alpha: f64| {
            let kernels = at_noise(schedule, &sigmas);
            let model = Asked { mixture: &mixture, guess_at, seen: Mutex::default() };
            let start: Vec<f64> = start.iter().map(|x| x * alpha).collect();
            let mut states = trajectory(&model, schedule, &kernels, &sampler, &start, Vec::new());
            if denoised {
                let last = kernels.last().unwrap();
                states.push(crate::denoise(&mixture, states.last().unwrap(), 2, last));
            }
            states
        };
        let edm = Edm { sigma_min: golden.sigma_min, sigma_max: golden.sigma_max };
        let ours = if matches!(sampler, AnySampler::Deis(_)) {
            let vp = vp(&golden);
            let times = stored.numbers(&format!("{name}.vp_times"));
            for (sigma, time) in sigmas.iter().zip(&times) {
                assert!((vp.time_at(-2.0 * sigma.ln()) - time).abs() < 1e-9, "{name}: t = {time}");
            }
            run(&vp, vp.kernel(times[0]).alpha)
        } else {
            run(&edm, 1.0)
        };
        let error = apart(&ours, &theirs);
        println!("{name}: {error:.1e}");
        assert!(error <= tolerance, "{name}: {error:e}");
    }
}

/// ε̂ is 1 at one level and 0 at the others, so that a run through levels shows a sampler's weight on that level.
struct One(f64);

impl Denoiser for One {
    fn estimate(&self, x: Dual<2>, at: Levels, _: &Condition) -> stein::Result<Estimate> {
        let at = at.row(0);
        let eps = if at.sigma == self.0 { at.sigma } else { 0.0 };
        Ok(x.shift(|x| x.sub_scalar(eps)).linear(|x| x.div_scalar(at.alpha)).into())
    }
}

/// The weight on the estimate at one level in every step of a run: the changes of x/α.
fn weights(sampler: &AnySampler, schedule: &dyn Schedule, kernels: &[Kernel], of: usize) -> Vec<f64> {
    let mut states = Vec::new();
    let (model, request) = (One(kernels[of].sigma), Request::exact(1, 1, 0));
    sample_from(tensor(&[0.0], 1), &model, schedule, kernels, &**sampler, &request, &mut |progress| {
        states.push(host(progress.x)[0] / progress.at.alpha);
        Ok(())
    })
    .unwrap();
    states.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn multistep_weights_are_the_exact_ones_where_the_published_are_not() {
    let (_, stored, _) = golden();
    for order in [3, 4] {
        let levels = stored.numbers(&format!("ipndm_v_check.levels_{order}"));
        let exact = stored.numbers(&format!("ipndm_v_check.exact_{order}"));
        let published = stored.numbers(&format!("ipndm_v_check.published_{order}"));
        let schedule = Edm { sigma_min: 0.002, sigma_max: 80.0 };
        let kernels: Vec<Kernel> = levels.iter().map(|&sigma| schedule.kernel(sigma)).collect();
        let steps = kernels.len() - 1;
        let step = levels[steps] - levels[steps - 1];
        for (of, (exact, published)) in exact.iter().zip(&published).enumerate() {
            let ours = weights(&Lms { order }.into(), &schedule, &kernels, of)[steps - 1] / step;
            // Rounding, of numbers of size 1.
            assert!((ours - exact).abs() < 1e-12, "order {order}: {ours} for {exact}");
            assert!((ours - published).abs() > 1e-3, "order {order}: {published} is published");
        }
    }
}

#[test]
fn weights_of_deis_are_the_exact_integrals() {
    let (golden, stored, _) = golden();
    for (name, order) in [("deis_tab_3", 3), ("deis_tab_4_time_uniform", 4)] {
        let schedule = vp(&golden);
        let kernels = at_noise(&schedule, &stored.numbers(&format!("{name}.t_steps")));
        let exact = stored.numbers(&format!("{name}.exact"));
        for of in 0..kernels.len() - 1 {
            let ours = weights(&Deis { order: order as u32 }.into(), &schedule, &kernels, of);
            // Stored are the steps of full order.
            for back in (0..order.min(ours.len() - of)).filter(|back| of + back + 1 >= order) {
                let (ours, exact) = (ours[of + back], exact[(of + back) * order + back]);
                // Theirs are by adaptive quadrature, and levels are read back from σ: 1e-8 of numbers up to 30.
                assert!((ours - exact).abs() < 1e-8 * (1.0 + exact.abs()), "{name}: {ours} for {exact}");
            }
        }
    }
}

/// Euler's ancestral step is DDIM's, whatever the noise; without noise the stochastic samplers are the deterministic ones.
#[test]
fn identities_between_stochastic_samplers_hold() {
    let (_, stored, mixture) = golden();
    let start = stored.numbers("z");
    let schedule = Vp::default();
    let kernels: Vec<Kernel> = [0.9, 0.7, 0.45, 0.2].into_iter().map(|t| schedule.kernel(t)).collect();
    let end = |sampler: AnySampler| -> Vec<f64> {
        let request = Request::exact(4, 2, 3);
        let x = sample_from(tensor(&start, 2), &mixture, &schedule, &kernels, &*sampler, &request, &mut |_| Ok(()));
        host(&x.unwrap().x)
    };
    let pairs: [(AnySampler, AnySampler); 5] = [
        (EulerAncestral { eta: 0.7, s_noise: 1.0 }.into(), Ddim { eta: 0.7 }.into()),
        (EdmEuler::default().into(), Ddim::default().into()),
        (SdeDpmSolverPp { eta: 0.0, ..SdeDpmSolverPp::default() }.into(), DpmSolverPp::default().into()),
        (DpmSolver { order: 1, ..DpmSolver::default() }.into(), Ddim::default().into()),
        (Lms { order: 1 }.into(), Ddim::default().into()),
    ];
    for (one, other) in pairs {
        let what = format!("{} and {}", one.kind(), other.kind());
        // Rounding, of numbers of size 1.
        assert!(apart(&[end(one)], &[end(other)]) < 1e-12, "{what}");
    }
}
