//! A network of one's own is built by name, trained, kept, sampled and differentiated like those that are built in.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Bool, DType, Device, Int, Tensor},
};
use serde::{Deserialize, Serialize};
use stein::{
    Condition, Context, Denoising, Dual, Edm, Examples, Keys, LevelDistribution, Network, Objective, Precondition,
    Preconditioned, Result, Schedule, Weighting, denoise, ensure, jvp, vjp,
};
use stein_nn::{
    Accumulated, AdamW, AdamWConfig, AnyNetwork, BuildNetwork, Checkpoint, Ema, EmaConfig, EmbeddingConfig,
    LearnerState, NetworkConfig, Takes,
    layers::{Embedding, Init, LayerNorm, Linear},
    state,
};

use crate::{matrix, shaken};

/// x + W₂ silu(LN(W₁ x + W e)), with parameters of other kinds and ranks beside them.
#[derive(Module, Debug)]
struct Tiny {
    embedding: Embedding,
    layers: Vec<Linear>,
    norm: LayerNorm,
    /// Multiplies the output, of an odd shape.
    scale: Param<Tensor<6>>,
    order: Param<Tensor<2, Int>>,
    used: Param<Tensor<1, Bool>>,
}

impl Network for Tiny {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        ensure!(x.dims()[1] == self.layers[0].inputs(), "rows of another width");
        Takes { classes: self.embedding.classes(), ..Takes::default() }.check(context, x.dims()[0])?;
        let e = self.embedding.forward(context.noise.clone(), context.given)?;
        let h = self.layers[0].forward_onto(x.clone(), self.layers[1].forward(e));
        let scale = self.scale.val().reshape([1, 1]);
        let y = self.layers[2].forward(self.norm.forward_silu(h)).linear(|y| y * scale.clone());
        Ok(y + x)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TinyConfig {
    width: usize,
}

impl Default for TinyConfig {
    fn default() -> Self {
        Self { width: 8 }
    }
}

impl BuildNetwork for TinyConfig {
    type Net = Tiny;

    fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Tiny> {
        ensure!(self.width > 0, "network.width is 0");
        let (dim, device) = (shape.iter().product(), Device::flex());
        Ok(Tiny {
            embedding: Embedding::new(&EmbeddingConfig::default(), 4, 6, classes, init)?,
            layers: vec![
                Linear::new(dim, self.width, init),
                Linear::new(6, self.width, init),
                Linear::new(self.width, dim, init),
            ],
            norm: LayerNorm::new(self.width, init),
            scale: init.given([1; 6], vec![0.5]),
            order: Param::initialized(Default::default(), Tensor::from_data([[0, 1]], &device)),
            used: Param::initialized(Default::default(), Tensor::from_data([true], &device)),
        })
    }
}

fn config(text: &str) -> std::result::Result<NetworkConfig, toml::de::Error> {
    NetworkConfig::register::<TinyConfig>("tiny");
    toml::from_str(text)
}

fn network(kind: DType) -> AnyNetwork {
    let config = config("kind = \"tiny\"\nwidth = 7").unwrap();
    shaken(config.build(&[5], 2, 1, &Device::flex().autodiff()).unwrap(), kind)
}

#[test]
fn it_is_read_by_its_name() {
    let read = config("kind = \"tiny\"\nwidth = 7").unwrap();
    assert_eq!(read.kind(), "tiny");
    assert_eq!(toml::to_string(&read).unwrap(), "kind = \"tiny\"\nwidth = 7\n");
    assert_eq!(toml::from_str::<NetworkConfig>(&toml::to_string(&read).unwrap()).unwrap(), read);
    assert_eq!(toml::to_string(&config("kind = \"tiny\"").unwrap()).unwrap(), "kind = \"tiny\"\nwidth = 8\n");
    assert!(NetworkConfig::names().iter().any(|name| name == "tiny"));
    let wrong = |text: &str, part: &str| {
        let error = config(text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    wrong("kind = \"tyny\"", "no network called `tyny`; known, nearest first: tiny,");
    wrong("kind = \"tiny\"\nwith = 3", "no key called `with`; known, nearest first: width");
    let error = config("kind = \"tiny\"\nwidth = 0").unwrap().build(&[5], 0, 1, &Device::flex()).unwrap_err();
    assert_eq!(error.to_string(), "network.width is 0");
}

#[test]
fn its_parameters_are_seen_under_their_names() {
    let seed = || Init::new(1, Box::leak(Box::new(Device::flex().autodiff())));
    let plain = TinyConfig { width: 7 }.build(&[5], 2, &mut seed()).unwrap();
    let boxed = AnyNetwork::own(plain.clone());
    let names: Vec<String> = state::tensors(&boxed).into_keys().collect();
    assert!(names.contains(&"layers.2.weight".to_owned()) && names.contains(&"scale".to_owned()), "{names:?}");
    assert_eq!(state::tensors(&boxed), state::tensors(&plain));
    assert_eq!(boxed.parameters(), plain.num_params());
    let config = config("kind = \"tiny\"\nwidth = 7").unwrap();
    assert_eq!(config.parameters(&[5], 2).unwrap(), plain.num_params());

    /// What is not float.
    #[derive(Default)]
    struct Others(Vec<Vec<i64>>);
    impl ModuleVisitor for Others {
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.0.push(param.val().into_data().iter::<i64>().collect());
        }
        fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
            self.0.push(param.val().into_data().iter::<bool>().map(i64::from).collect());
        }
    }
    impl ModuleMapper for Others {
        fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
            param.map(|value| value + 10)
        }
    }
    let mut others = Others::default();
    boxed.clone().map(&mut Others::default()).visit(&mut others);
    assert_eq!(others.0, [vec![10, 11], vec![1]]);
    assert!(format!("{boxed:?}").contains("Tiny"));
    // What is copied is a network of its own.
    let other = shaken(boxed.clone(), DType::F32);
    assert_ne!(state::tensors(&other), state::tensors(&boxed));
    let moved = other.clone().fork(&Device::flex()).to_device(&Device::flex()).valid().train();
    assert_eq!(state::tensors(&moved), state::tensors(&other));
    assert_eq!(boxed.devices().len(), 1);
}

#[test]
fn it_is_trained_and_kept() {
    let objective =
        Denoising { levels: LevelDistribution::LogNormal { mean: -1.2, std: 1.2 }, weighting: Weighting::Unit {} };
    let condition = Condition::classes((0..8).map(|row| row % 2));
    let step = |network: AnyNetwork, optimizer: &mut AdamW, ema: &mut Ema, number: u64| {
        let x = matrix(8, 5, 3, DType::F32, &Device::flex());
        let keys = Keys::range(1, 8 * number, 8);
        let mut gradients = Accumulated::new();
        let mut losses = 0.0;
        let tapes = network.on_tapes(8, |network, rows| {
            let rows: Vec<usize> = rows.collect();
            let model = Preconditioned::new(network, Precondition::edm(0.5), Edm::default().into()).unwrap();
            let x = x.clone().narrow(0, rows[0], rows.len());
            let (given, keys) = (condition.select(&rows), keys.select(&rows));
            let loss = objective.loss(&model.view(), &Examples::new(&x, &given, &keys)).unwrap();
            (model.network, loss)
        });
        for (network, loss) in tapes {
            gradients.add(&network, loss.backward());
            losses += loss.into_scalar::<f64>();
        }
        (optimizer.step(network, gradients, 1e-2, Some((ema, 8))).0, losses)
    };
    let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
    let mut network = network(DType::F32);
    let mut ema = Ema::new(EmaConfig::default(), &network).unwrap();
    let mut losses = Vec::new();
    let mut kept = None;
    for number in 1..=200 {
        let loss;
        (network, loss) = step(network, &mut optimizer, &mut ema, number);
        losses.push(loss);
        if number == 190 {
            let state = LearnerState {
                weights: state::tensors(&network),
                average: Some(ema.tensors()),
                optimizer: optimizer.tensors(),
            };
            kept = Some(Checkpoint {
                learners: [("tiny".to_owned(), state)].into(),
                step: number,
                ..Checkpoint::default()
            });
        }
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[150..]) < 0.7 * mean(&losses[..50]), "{} after {}", mean(&losses[150..]), mean(&losses[..50]));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    kept.unwrap().write(&path).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    let state = &checkpoint.learners["tiny"];
    let mut again = state::load(self::network(DType::F32), &state.weights).unwrap();
    let mut optimizer_again = AdamW::restore(AdamWConfig::default(), &again, &state.optimizer).unwrap();
    let mut ema_again = Ema::new(EmaConfig::default(), &again).unwrap();
    ema_again.load(state.average.as_ref().unwrap()).unwrap();
    for number in 191..=200 {
        again = step(again, &mut optimizer_again, &mut ema_again, number).0;
    }
    assert_eq!(state::tensors(&again), state::tensors(&network));
    assert_eq!(ema_again.tensors(), ema.tensors());
    assert_eq!(state::tensors(&ema.network(&network)), ema.tensors());
}

#[test]
fn it_is_differentiated() {
    let device = Device::flex();
    let [x, w, v] = [1, 2, 3].map(|seed| matrix(2, 5, seed, DType::F64, &device));
    let denoiser =
        Preconditioned::new(network(DType::F64).valid(), Precondition::edm(0.5), Edm::default().into()).unwrap();
    let (at, given) = (Edm::default().kernel(0.7), Condition { class: Some(vec![None, Some(1)]), ..Condition::none() });
    let (_, product) = jvp(&denoiser, x.clone(), w.clone(), (&at).into(), &given).unwrap();
    let moved = |by: f64| denoise(&denoiser, x.clone() + w.clone() * by, (&at).into(), &given).unwrap();
    let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
    assert!((product.clone() - difference).abs().max().into_scalar::<f64>() < 1e-8);
    let (_, transposed) = vjp(&denoiser, x.clone(), v.clone(), (&at).into(), &given).unwrap();
    let taken = Condition { vector: Some(x.clone()), ..given };
    assert!(denoise(&denoiser, x, (&at).into(), &taken).unwrap_err().to_string().contains("takes no vectors"));
    let apart = (v * product).sum() - (transposed * w).sum();
    assert!(apart.into_scalar::<f64>().abs() < 1e-10);
}
