//! Guided trajectories against stored ones: a classifier with ancestral sampling and DDIM as Dhariwal & Nichol published them, and
//! classifier-free guidance with and without rescaling as diffusers has it.

use std::sync::Arc;

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde_json::Value;
use stein::{
    Ancestral, AnySchedule, AnyWrapper, Classifier, Condition, Context, Ddim, Denoiser, Discrete, Dual, Estimate,
    GradientMoves, InputScale, Kernel, Levels, Network, NetworkClassifier, NoiseInput, NoisyInput, Precondition,
    Preconditioned, Prediction, Request, Result, Sampler, Tokens, Variance, estimate, gradient,
    guidance::{Clamp, ClassifierFree, ClassifierGuidance, Output, Rescale, Surroundings, wrap},
    log_probability,
    noise::Source,
    rows::host,
    sample_from,
};
use stein_nn::{
    AdmEncoder, Tensors, Unet2dCondition,
    import::{Weights, diffusers, guided_diffusion},
    read_tensors, state,
};

use crate::{
    fixture,
    variational::{OnRows, chain, channels_last, close, schedule},
};

/// A fixture of a method, which uses the networks of others.
fn stored(name: &str) -> Option<(Tensors, Value)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden_methods").join(name);
    if !folder.is_dir() {
        println!("skipped: there is no {}, so nothing is compared with it", folder.display());
        return None;
    }
    let all: Value = serde_json::from_slice(&std::fs::read(folder.join("fixture.json")).unwrap()).unwrap();
    Some((read_tensors(&folder.join("io.safetensors")).unwrap(), all["values"].clone()))
}

fn numbers(io: &Tensors, name: &str) -> Vec<f64> {
    io[name].iter::<f64>().collect()
}

/// The stored classifier on rows; its features are its logits.
struct Logits(AdmEncoder);

impl Network for Logits {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let count = x.dims()[0];
        let logits = self.0.logits(x.reshape([count, 16, 16, 3]), context)?;
        Ok(Dual::cat(vec![logits.clone(), logits], 1))
    }
}

/// A classifier, or nothing.
struct Beside(Option<Arc<dyn Classifier>>);

impl Surroundings for Beside {
    fn range(&self) -> Option<(f64, f64)> {
        None
    }

    fn knows_no_class(&self) -> bool {
        true
    }

    fn denoiser(&self, model: &str) -> Result<Arc<dyn Denoiser>> {
        Err(stein::Error::new(format!("there is no denoiser {model}")))
    }

    fn classifier(&self, model: &str) -> Result<Arc<dyn Classifier>> {
        self.0.clone().ok_or_else(|| stein::Error::new(format!("there is no classifier {model}")))
    }
}

#[test]
fn classifier_guidance_is_the_published_one() {
    let Some((io, values)) = stored("classifier_guidance") else { return };
    let (Some((_, config, weights)), Some((_, of_classifier, theirs))) = (fixture("gd_unet"), fixture("gd_classifier"))
    else {
        return;
    };
    let network = guided_diffusion::open(&config, Weights::Theirs(&weights)).unwrap().network;
    let network = state::cast(network, DType::F64).valid();
    let classifier = guided_diffusion::open_encoder(&of_classifier, Weights::Theirs(&theirs)).unwrap().network;
    let classifier = state::cast(classifier, DType::F64).valid();
    let class: Vec<u32> = io["y"].iter::<i64>().map(|class| class as u32).collect();
    let given = Condition::classes(class.clone());
    let schedule = schedule(&values["sampling"]["p_10_scale1"]);
    let number = NoiseInput::Level { noisiest_first: false, factor: 1.0 };
    let noise = NoisyInput { schedule: schedule.clone(), scale: InputScale::None {}, number };
    let classifier = Arc::new(NetworkClassifier { network: Logits(classifier), features: 10, noise: Some(noise) });

    for point in ["point0", "point1"] {
        let at: Vec<Kernel> = io[&format!("{point}.t")].iter::<f64>().map(|t| schedule.kernel(t)).collect();
        let x = channels_last(numbers(&io, &format!("{point}.x")));
        let all = stein::classify(&*classifier, x.clone().into(), Levels::Each(&at)).unwrap();
        let wanted = numbers(&io, &format!("{point}.log_probabilities_f64"));
        close(&host(&all.logits.log_softmax().value), &wanted, 1e-9, point);
        let (_, slope) = gradient(x, |x| {
            let log = log_probability(&*classifier, x.into(), Levels::Each(&at), &class)?.value;
            Ok((log.clone(), log.sum()))
        })
        .unwrap();
        let wanted = channels_last(numbers(&io, &format!("{point}.gradient_f64")));
        close(&host(&slope), &host(&wanted), 1e-9, &format!("gradient of {point}"));
    }

    let settings = Precondition::unscaled(Prediction::Eps {}, number);
    let bare: Arc<dyn Denoiser> = Arc::new(Preconditioned::new(OnRows(network), settings, schedule.clone()).unwrap());
    let noises = numbers(&io, "noises");
    let draws: Vec<Vec<f64>> =
        noises.chunks(noises.len() / 10).map(|draw| host(&channels_last(draw.to_vec()))).collect();
    for (name, of) in values["sampling"].as_object().unwrap() {
        let mut kernels = chain(of, &schedule);
        kernels.reverse();
        kernels.push(Kernel::CLEAN);
        let scale = of["scale"].as_f64().unwrap().into();
        let list: [AnyWrapper; 2] = [
            Clamp { low: Some(-1.0), high: Some(1.0) }.into(),
            ClassifierGuidance { model: "classifier".to_owned(), scale, class: None }.into(),
        ];
        let model = wrap(Arc::clone(&bare), &list, &Beside(Some(classifier.clone()))).unwrap();
        let sampler: Box<dyn Sampler> = match of["sampler"].as_str().unwrap() {
            "ddim" => Box::new(Ddim::default()),
            _ => Box::new(Ancestral { variance: Variance::Learned, gradient: GradientMoves::Mean }),
        };
        let dim = draws[0].len() / 2;
        let request =
            Request { given: given.clone(), noise: Source::Given(draws.clone()), ..Request::exact(2, dim, 0) };
        let wanted = channels_last(numbers(&io, &format!("sampling.{name}.trajectory_f64")));
        let mut step = 0;
        let mut observe = |progress: &stein::Progress| {
            if progress.step > 0 {
                let wanted = wanted.clone().narrow(0, 2 * step, 2);
                // Each step divides by an α down to 0.006, which grows the rounding of the network.
                close(&host(progress.x), &host(&wanted), 1e-8, &format!("{name}, step {step}"));
                step += 1;
            }
            Ok(())
        };
        let start = channels_last(numbers(&io, "x_T"));
        sample_from(start, &model, &*schedule, &kernels, &*sampler, &request, &mut observe).unwrap();
        assert_eq!(step, 10, "{name}");
    }
}

const LATENT: [usize; 3] = [8, 8, 4];
const WIDTH: usize = 256;

/// Latents with their channels last, as rows.
fn latents(values: Vec<f64>) -> Tensor<2> {
    let count = values.len() / WIDTH;
    let data = TensorData::new(values, [count, LATENT[2], LATENT[0], LATENT[1]]);
    Tensor::<4>::from_data(data, (&Device::flex(), DType::F64)).permute([0, 2, 3, 1]).reshape([count, WIDTH])
}

struct OnLatents(Unet2dCondition);

impl Network for OnLatents {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let count = x.dims()[0];
        let y = self.0.images(x.reshape([count, LATENT[0], LATENT[1], LATENT[2]]), context)?;
        Ok(y.reshape([count, WIDTH]))
    }
}

/// A model of texts, whose class k is the k-th text, and none the empty one.
struct OfTexts {
    model: Preconditioned<OnLatents>,
    /// `[texts + 1, length, width]`, the empty one first.
    texts: Tensor<3>,
}

impl Denoiser for OfTexts {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let class = given.class_rows(x.dims()[0], 2)?;
        let index: Vec<i64> = class.iter().map(|class| class.map_or(0, |class| 1 + i64::from(class))).collect();
        let count = index.len();
        let index = Tensor::<1, burn::tensor::Int>::from_data(TensorData::new(index, [count]), &x.value.device());
        let tokens = Tokens { values: self.texts.clone().select(0, index), mask: None };
        estimate(&self.model, x, at, &Condition { tokens: Some(tokens), ..Condition::none() })
    }
}

#[test]
fn classifier_free_guidance_and_its_rescaling_are_those_of_diffusers() {
    let Some((io, values)) = stored("cfg") else { return };
    let Some((_, config, weights)) = fixture("diffusers_unet2d_cond") else { return };
    let network = diffusers::unet_2d_condition(&config, Weights::Theirs(&weights)).unwrap().network;
    let network = state::cast(network, DType::F64).valid();
    let settings: toml::Table =
        r#"levels = { kind = "scaled_linear", first = 0.00085, last = 0.012, count = 1000 }"#.parse().unwrap();
    let schedule = AnySchedule::from(settings.try_into::<Discrete>().unwrap());
    let settings = Precondition::unscaled(Prediction::Eps {}, NoiseInput::Level { noisiest_first: false, factor: 1.0 });
    let text = |name: &str| {
        let data = TensorData::new(numbers(&io, name), io[name].shape().to_vec());
        Tensor::<3>::from_data(data, (&Device::flex(), DType::F64))
    };
    // Both rows have the same empty text.
    let texts = Tensor::cat(vec![text("null_context").narrow(0, 0, 1), text("context")], 0);
    let model = Preconditioned::new(OnLatents(network), settings, schedule.clone()).unwrap();
    let model: Arc<dyn Denoiser> = Arc::new(OfTexts { model, texts });
    for (name, of) in values["unet2d_cond"].as_object().unwrap() {
        let ours = |t: &Value| schedule.kernel(t.as_f64().unwrap());
        let mut kernels: Vec<Kernel> = of["timesteps"].as_array().unwrap().iter().map(ours).collect();
        let euler = of["scheduler"] == "EulerDiscreteScheduler";
        // DDIM without `set_alpha_to_one` ends at the cleanest level; Euler's step in σ/α is that of DDIM.
        kernels.push(if euler { Kernel::CLEAN } else { schedule.kernel(0.0) });
        let scale = of["guidance"].as_f64().unwrap().into();
        let part = of["rescale"].as_f64().unwrap();
        let list: [AnyWrapper; 2] = [ClassifierFree { scale }.into(), Rescale { part, of: Output::Eps }.into()];
        let guided = wrap(Arc::clone(&model), &list, &Beside(None)).unwrap();
        let start = latents(numbers(&io, "latents"));
        let start = match euler {
            true => start.mul_scalar(of["init_noise_sigma"].as_f64().unwrap() * kernels[0].alpha),
            false => start,
        };
        let request = Request { given: Condition::classes([0, 1]), ..Request::exact(2, WIDTH, 0) };
        let wanted = latents(numbers(&io, &format!("unet.{name}.trajectory_f64")));
        let mut step = 0;
        let mut observe = |progress: &stein::Progress| {
            if progress.step > 0 {
                let wanted = wanted.clone().narrow(0, 2 * step, 2);
                let unit = if euler { progress.at.alpha } else { 1.0 };
                // A random network takes samples to the tens, and the rounding of its levels with them.
                close(
                    &host(&progress.x.clone().div_scalar(unit)),
                    &host(&wanted),
                    1e-8,
                    &format!("{name}, step {step}"),
                );
                step += 1;
            }
            Ok(())
        };
        sample_from(start, &guided, &*schedule, &kernels, &Ddim::default(), &request, &mut observe).unwrap();
        assert_eq!(step, 10, "{name}");
    }
}
