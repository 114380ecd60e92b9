//! The variational bound of improved DDPM with its learned variances: terms, losses, gradients by parameters from the first layer to the
//! last, and ancestral sampling, against stored values.

use std::sync::Arc;

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde_json::Value;
use stein::{
    Ancestral, AnySchedule, Condition, Context, Ddim, Denoiser, Discrete, Dual, Estimate, Kernel, Network, NoiseInput,
    Precondition, Preconditioned, Prediction, Request, Result, Sampler, Variance,
    guidance::Clamped,
    noise::Source,
    objective::VariationalBound,
    rows::{self, host},
    sample_from,
};
use stein_nn::{
    Adm, Tensors,
    import::{Imported, Reference, Weights, guided_diffusion},
    read_tensors, state,
};

use crate::fixture;

const SHAPE: [usize; 3] = [16, 16, 3];
const DIM: usize = 768;

/// The stored network on rows.
pub struct OnRows(pub Adm);

impl Network for OnRows {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let count = x.dims()[0];
        let y = self.0.images(x.reshape([count, SHAPE[0], SHAPE[1], SHAPE[2]]), context)?;
        let part = |from| y.clone().linear(|y| y.narrow(3, from, 3)).reshape([count, DIM]);
        Ok(Dual::cat(vec![part(0), part(3)], 1))
    }
}

struct Stored {
    io: Tensors,
    values: Value,
    /// On an autodiff device.
    imported: Imported<Adm>,
    given: Condition,
}

impl Stored {
    fn open() -> Option<Self> {
        let (folder, config, weights) = fixture("gd_unet")?;
        let folder = folder.join("../../golden_methods/vlb_improved_diffusion");
        let io = read_tensors(&folder.join("io.safetensors")).unwrap();
        let all: Value = serde_json::from_slice(&std::fs::read(folder.join("fixture.json")).unwrap()).unwrap();
        let mut imported = guided_diffusion::open(&config, Weights::Theirs(&weights)).unwrap();
        imported.network = state::cast(imported.network, DType::F64);
        let given = Condition::classes(io["y"].iter::<i64>().map(|class| class as u32));
        Some(Self { io, values: all["values"].clone(), imported, given })
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.io[name].iter::<f64>().collect()
    }

    /// Pictures with their channels last, as rows: as many as there are.
    fn rows(&self, name: &str) -> Tensor<2> {
        channels_last(self.numbers(name))
    }

    /// The denoiser, trained on all levels of a schedule.
    fn model(&self, schedule: &AnySchedule) -> Preconditioned<OnRows> {
        around(self.imported.network.valid(), schedule)
    }
}

fn around(network: Adm, schedule: &AnySchedule) -> Preconditioned<OnRows> {
    let settings = Precondition::unscaled(Prediction::Eps {}, NoiseInput::Level { noisiest_first: false, factor: 1.0 });
    Preconditioned::new(OnRows(network), settings, schedule.clone()).unwrap()
}

pub fn channels_last(values: Vec<f64>) -> Tensor<2> {
    let count = values.len() / DIM;
    let data = TensorData::new(values, [count, 3, 16, 16]);
    Tensor::<4>::from_data(data, (&Device::flex(), DType::F64)).permute([0, 2, 3, 1]).reshape([count, DIM])
}

pub fn schedule(of: &Value) -> AnySchedule {
    let levels = match of["schedule"].as_str().unwrap() {
        "linear" => r#"{ kind = "linear", first = 1e-4, last = 0.02, count = 1000 }"#,
        _ => r#"{ kind = "cosine", count = 1000 }"#,
    };
    let settings: toml::Table = format!("levels = {levels}").parse().unwrap();
    AnySchedule::from(settings.try_into::<Discrete>().unwrap())
}

/// The kept levels, the cleanest first.
pub fn chain(of: &Value, schedule: &AnySchedule) -> Vec<Kernel> {
    let kept: Vec<f64> = match of["timestep_map"].as_array() {
        Some(kept) if kept.iter().all(Value::is_number) => kept.iter().map(|t| t.as_f64().unwrap()).collect(),
        // The whole list is not written out, nor that of 100 of 1000: the README's rule with Python's rounding to even.
        _ => {
            let count = match &of["respacing"] {
                Value::String(text) => text.parse().unwrap(),
                _ => 1000usize,
            };
            let stride = 999.0 / (count - 1) as f64;
            let (mut at, mut all) = (0.0f64, Vec::new());
            for _ in 0..count {
                all.push(at.round_ties_even());
                at += stride;
            }
            all
        }
    };
    kept.into_iter().map(|t| schedule.kernel(t)).collect()
}

pub fn close(found: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
    for (k, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= tolerance * largest, "{what}, {k}: {found} for {wanted}, largest {largest}");
    }
}

fn bound() -> VariationalBound {
    VariationalBound { variance: Variance::Learned, published: true, ..VariationalBound::default() }
}

fn bits(nats: &Tensor<2>) -> Vec<f64> {
    host(&nats.clone().div_scalar(std::f64::consts::LN_2))
}

#[test]
fn every_term_of_the_bound_is_the_published_one() {
    let Some(stored) = Stored::open() else { return };
    let x0 = stored.rows("x0");
    let base = stored.numbers("noise_base");
    for name in ["linear_25_noclip", "cosine_20", "linear1000"] {
        let of = &stored.values["bpd"][name];
        let schedule = schedule(of);
        let (chain, model) = (chain(of, &schedule), stored.model(&schedule));
        let clip = of["clip_denoised"].as_bool().unwrap();
        // Of the thousand levels a tenth and both ends are looked at, which takes seconds instead of a minute.
        let every = chain.len().div_ceil(100);
        let looked: Vec<usize> = (0..chain.len()).filter(|i| i % every == 0 || i + 2 >= chain.len()).collect();
        let terms = stored.numbers(&format!("bpd.{name}.vb_f64"));
        for i in looked {
            let eps: Vec<f64> = (0..2 * DIM).map(|k| base[k / DIM * DIM + (k % DIM + 37 * i) % DIM]).collect();
            let x = x0.clone().mul_scalar(chain[i].alpha) + channels_last(eps).mul_scalar(chain[i].sigma);
            let mut estimate = stein::estimate(&model, x.clone().into(), (&chain[i]).into(), &stored.given).unwrap();
            if clip {
                estimate.mean.value = estimate.mean.value.clamp(-1.0, 1.0);
            }
            let term = bound().term(&chain, &[i; 2], &x0, &x, &estimate).unwrap();
            let wanted: Vec<f64> = (0..2).map(|row| terms[row * chain.len() + chain.len() - 1 - i]).collect();
            close(&bits(&term), &wanted, 1e-8, &format!("{name}, level {i}"));
            if i == 0 {
                let exact = VariationalBound { published: false, ..bound() };
                let term = exact.term(&chain, &[0; 2], &x0, &x, &estimate).unwrap();
                let wanted = stored.numbers(&format!("bpd.{name}.decoder_exact_cdf_f64"));
                close(&bits(&term), &wanted, 1e-8, &format!("{name}, decoder"));
            }
        }
        let prior = bound().prior(&chain[chain.len() - 1], 1.0, &x0);
        let prior: Vec<f64> = prior.into_iter().map(|nats| nats / std::f64::consts::LN_2).collect();
        // A sum that cancels.
        let wanted = stored.numbers(&format!("bpd.{name}.prior_bpd_f64"));
        prior.iter().zip(&wanted).for_each(|(a, b)| assert!((a - b).abs() < 1e-14, "{name}: {a} for {b}"));
    }
}

#[test]
fn losses_and_their_gradients_are_the_published_ones() {
    let Some(stored) = Stored::open() else { return };
    let x0 = stored.rows("x0");
    for name in ["linear", "cosine_100"] {
        let of = &stored.values["losses"][name];
        let schedule = schedule(of);
        let (chain, model) = (chain(of, &schedule), around(stored.imported.network.clone(), &schedule));
        let index: Vec<usize> = of["t"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as usize).collect();
        let at: Vec<Kernel> = index.iter().map(|&i| chain[i]).collect();
        let levels = stein::Levels::Each(&at);
        let eps = stored.rows(&format!("loss.{name}.noise"));
        let x = rows::scale(x0.clone(), &levels.factors(|k| k.alpha))
            + rows::scale(eps.clone(), &levels.factors(|k| k.sigma));
        let (clean, noisy) = (x0.clone().autodiff(), x.clone().autodiff());
        for kind in ["MSE", "RESCALED_MSE", "KL", "RESCALED_KL"] {
            let (raw, variance) = model.raw(noisy.clone().into(), levels, &stored.given, None).unwrap();
            let (raw, variance) = (raw.value, variance.unwrap());
            let on_raw = levels.factors(|k| -k.sigma / k.alpha);
            let mut mean =
                rows::scale(noisy.clone(), &levels.factors(|k| 1.0 / k.alpha)) + rows::scale(raw.clone(), &on_raw);
            let hybrid = kind.ends_with("MSE");
            if hybrid {
                mean = mean.detach();
            }
            let part = variance.add_scalar(1.0).mul_scalar(0.5);
            let estimate = Estimate { variance: Some(part), ..Dual::from(mean).into() };
            let term = bound().term(&chain, &index, &clean, &noisy, &estimate).unwrap();
            let factor = match kind {
                "RESCALED_MSE" => chain.len() as f64 / 1000.0,
                "RESCALED_KL" => chain.len() as f64,
                _ => 1.0,
            };
            let mut loss = term.mul_scalar(factor / std::f64::consts::LN_2);
            if hybrid {
                loss = loss + (raw - eps.clone().autodiff()).square().mean_dim(1);
            }
            let wanted = stored.numbers(&format!("loss.{name}.{kind}.loss_f64"));
            close(&host(&loss), &wanted, 1e-8, &format!("{name}, {kind}"));
            let gradients = stored.imported.gradients(&loss.mean().backward());
            let prefix = format!("loss.{name}.{kind}.grad.");
            let wanted: Vec<&String> = stored.io.keys().filter(|key| key.starts_with(&prefix)).collect();
            assert!(wanted.len() >= 5, "{wanted:?}");
            for key in wanted {
                let parameter = key[prefix.len()..].strip_suffix("_f64").unwrap();
                let found: Vec<f64> = gradients[parameter].iter::<f64>().collect();
                close(&found, &stored.numbers(key), 1e-8, &format!("gradient of {name}, {kind}, by {parameter}"));
            }
        }
    }
}

#[test]
fn samples_with_learned_variances_are_the_published_ones() {
    let Some(stored) = Stored::open() else { return };
    let noises = stored.numbers("noises");
    let draws: Vec<Vec<f64>> = noises.chunks(2 * DIM).map(|draw| host(&channels_last(draw.to_vec()))).collect();
    for name in ["p_10_clip", "p_10_noclip", "p_ddim10_clip", "ddim10_clip", "ddim10_noclip_eta", "reverse8"] {
        let of = &stored.values["sampling"][name];
        let schedule = schedule(of);
        let mut kernels = chain(of, &schedule);
        let sampler = of["sampler"].as_str().unwrap();
        // The way up encodes, from the cleanest level on.
        if sampler != "ddim_reverse" {
            kernels.reverse();
            kernels.push(Kernel::CLEAN);
        }
        let model: Arc<dyn Denoiser> = Arc::new(stored.model(&schedule));
        let model = match of["clip_denoised"].as_bool().unwrap() {
            true => Arc::new(Clamped { inner: model, bounds: vec![(-1.0, 1.0)] }),
            false => model,
        };
        let sampler: Box<dyn Sampler> = match sampler {
            "ddim" | "ddim_reverse" => Box::new(Ddim { eta: of["eta"].as_f64().unwrap() }),
            _ => Box::new(Ancestral { variance: Variance::Learned, ..Ancestral::default() }),
        };
        let request =
            Request { given: stored.given.clone(), noise: Source::Given(draws.clone()), ..Request::exact(2, DIM, 0) };
        let wanted = stored.rows(&format!("sampling.{name}.trajectory_f64"));
        let mut step = 0;
        let mut observe = |progress: &stein::Progress| {
            if progress.step > 0 {
                let wanted = wanted.clone().narrow(0, 2 * step, 2);
                // Without clipping the random network takes samples to the hundreds, and errors with them.
                close(&host(progress.x), &host(&wanted), 1e-7, &format!("{name}, step {step}"));
                step += 1;
            }
            Ok(())
        };
        let start = stored.rows(of["start"].as_str().unwrap());
        sample_from(start, &model, &*schedule, &kernels, &*sampler, &request, &mut observe).unwrap();
        assert_eq!(step, kernels.len() - 1, "{name}");
    }
}
