//! FID's Inception-v3, LPIPS and the vision transformers DINOv2 and CLIP against what their references gave for weights by formula.
//!
//! A part of the values is in `tests/data/extractors`, whose README has the rule; all of them lie outside the repository, in
//! `../shared/golden_methods`, and without those nothing more is compared.
//!
//! In f64 ours are within [`EXACT`] of the stored values, over the largest; in f32 within the fixture's tolerances, which are ten times
//! what the reference itself is off by in f32.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use stein_nn::{Backbone, Features, Inception, Resize, Tensors, Tower, VitForm, import, trace::record, write_tensors};

use crate::formula::tensor;

/// The seed of the pictures that vision transformers are given.
const PICTURES: u64 = 77;

/// What the fixtures expect of another implementation in f64: it sums in another order.
const EXACT: f64 = 1e-9;
/// What the f32 of gradients and of layers on the way are off by at most, over the largest: fixtures have tolerances for outputs alone, and these
/// are about as far from f64 as those.
const SINGLE: f64 = 1e-4;
/// The share of a gradient that may be further off in f32, and by how much of the largest: where two numbers that a maximum is taken
/// of, or a number and 0, are equal to within rounding, f32 may take the other, and with it another branch of the gradient for the places
/// they depend on. (Of the stored ones it does so once, at 35 of 2904 numbers.)
const BRANCHED: (f64, f64) = (0.02, 1e-2);

#[derive(Deserialize)]
struct Fixture<W> {
    tolerances: BTreeMap<String, f64>,
    weights: W,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    seed: u64,
    gain: f64,
    tensors: Vec<(u64, String, Vec<usize>, Kind)>,
    first_values: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Kernel,
    Scale,
    Bias,
    Var,
}

impl Rule {
    fn weights(&self) -> Tensors {
        let one = |(n, name, shape, kind): &(u64, String, Vec<usize>, Kind)| {
            let inputs: usize = shape[1..].iter().product();
            let of = |u: f64| {
                let v = 2.0 * u - 1.0;
                match kind {
                    Kind::Kernel => self.gain * (3.0 / inputs as f64).sqrt() * v,
                    Kind::Scale => 1.0 + 0.2 * v,
                    Kind::Bias => 0.1 * v,
                    Kind::Var => 1.0 + 0.5 * u,
                }
            };
            (name.clone(), tensor(self.seed, *n as usize, shape, of))
        };
        let weights: Tensors = self.tensors.iter().map(one).collect();
        for (name, wanted) in &self.first_values {
            assert_eq!(weights[name].iter::<f32>().take(3).collect::<Vec<_>>(), *wanted, "{name}");
        }
        weights
    }
}

/// A fixture's folder in the repository, and the one outside it if there is one.
fn folders(name: &str) -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let outside = here.join("../../../shared/golden_methods").join(name);
    if !outside.is_dir() {
        println!("skipped: there is no {}, so only a part is compared", outside.display());
    }
    [here.join("tests/data/extractors").join(name), outside]
        .into_iter()
        .enumerate()
        .filter_map(|(i, folder)| (i == 0 || folder.is_dir()).then_some(folder))
        .collect()
}

fn open<W: for<'a> Deserialize<'a>>(folder: &Path) -> (Fixture<W>, Tensors) {
    let text = fs::read_to_string(folder.join("fixture.json")).unwrap();
    (serde_json::from_str(&text).unwrap(), stein_nn::read_tensors(&folder.join("io.safetensors")).unwrap())
}

fn read<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// Stored numbers that were compared, and those that are too far off.
struct Compared<'a> {
    io: &'a Tensors,
    kind: DType,
    faults: Vec<String>,
    seen: Vec<String>,
}

impl<'a> Compared<'a> {
    fn new(io: &'a Tensors, kind: DType) -> Self {
        Self { io, kind, faults: Vec::new(), seen: Vec::new() }
    }

    /// Compares a gradient: as [`note`](Self::note), but for the [branches](BRANCHED) that f32 may take.
    fn note_gradient(&mut self, name: &str, found: &[f64]) {
        let key = format!("{name}_f64");
        let wanted: Vec<f64> = self.io[&key].iter::<f64>().collect();
        if self.kind == DType::F64 {
            return self.note(name, found, None);
        }
        let largest = wanted.iter().fold(0f64, |most, x| most.max(x.abs()));
        let (share, most) = BRANCHED;
        let off = |(a, b): (&f64, &f64)| (a - b).abs() > SINGLE * largest;
        let branched = found.iter().zip(&wanted).filter(|pair| off(*pair)).count();
        println!("{key} in F32: {branched} of {} numbers took another branch", found.len());
        if branched as f64 > share * found.len() as f64 {
            self.faults.push(format!("{key}: {branched} of {} numbers are off in f32", found.len()));
        }
        self.note(name, found, Some(if branched > 0 { most * largest } else { SINGLE * largest }));
    }

    /// Compares numbers with those stored in f64, and with those of the reference in f32, of whichever there are. In f32 they may differ
    /// by `tolerance`, or by [`SINGLE`] of the largest.
    fn note(&mut self, name: &str, found: &[f64], tolerance: Option<f64>) {
        for (key, wanted_in) in [(format!("{name}_f64"), DType::F64), (name.to_owned(), DType::F32)] {
            let Some(wanted) = self.io.get(&key) else { continue };
            let wanted: Vec<f64> = wanted.iter::<f64>().collect();
            assert_eq!(found.len(), wanted.len(), "{key}");
            let largest = wanted.iter().fold(0f64, |most, x| most.max(x.abs()));
            let exact = self.kind == DType::F64 && wanted_in == DType::F64;
            let bound = if exact { EXACT * largest } else { tolerance.unwrap_or(SINGLE * largest) };
            let worst = found.iter().zip(&wanted).fold(0f64, |most, (a, b)| most.max((a - b).abs()));
            let line = format!("{key} in {:?}: {worst:.1e} of {largest:.1e}, bound {bound:.1e}", self.kind);
            println!("{line}");
            if !(worst <= bound && largest > 0.0) {
                self.faults.push(line);
            }
            self.seen.push(key);
        }
    }

    /// Asserts that all was near, and that nothing stored was left out but what `given` names the end of.
    fn end(self, given: &[&str]) {
        assert!(self.faults.is_empty(), "{}", self.faults.join("\n"));
        let left = |key: &&String| !self.seen.contains(key) && !given.iter().any(|end| key.ends_with(end));
        let left: Vec<_> = self.io.keys().filter(left).collect();
        assert!(left.is_empty(), "stored and not compared: {left:?}");
    }
}

/// Images `[N, C, H, W]` of a file as ours in a float type.
fn images(data: &TensorData, kind: DType, device: &Device) -> Tensor<4> {
    Tensor::<4>::from_data(data.clone().convert_dtype(kind), (device, kind)).permute([0, 2, 3, 1])
}

/// Means over positions of noted images.
fn means(noted: &TensorData) -> Vec<f64> {
    let shape = noted.shape();
    let places = shape[2] * shape[3];
    let all: Vec<f64> = noted.iter::<f64>().collect();
    all.chunks_exact(places).map(|plane| plane.iter().sum::<f64>() / places as f64).collect()
}

/// What is stored of resized images in the units of the reference: every 23rd row and column, and sums.
fn resized(compared: &mut Compared, name: &str, resized: Tensor<4>, unit: [f64; 2], tolerance: f64) {
    let planes = resized.cast(DType::F64).permute([0, 3, 1, 2]);
    let [n, c, ..] = planes.dims();
    let planes = planes * unit[0] + unit[1];
    let sample =
        planes.clone().reshape([n * c, 13, 23, 299]).narrow(2, 0, 1).reshape([n * c * 13, 13, 23]).narrow(2, 0, 1);
    compared.note(&format!("{name}.sample"), &read(sample), Some(tolerance));
    let sum = |x: Tensor<4>| read(x.reshape([n * c, 299 * 299]).sum_dim(1));
    let all = 299.0 * 299.0;
    compared.note(&format!("{name}.sum"), &sum(planes.clone()), Some(tolerance * all));
    compared.note(
        &format!("{name}.sum_of_squares"),
        &sum(planes.clone() * planes),
        Some(2.0 * 255.0 * tolerance * all),
    );
}

fn inception_holds(network: &Inception, fixture: &Fixture<Rule>, io: &Tensors, kind: DType) {
    let mut compared = Compared::new(io, kind);
    for case in ["45x61", "120x333"] {
        let Some(stored) = io.get(&format!("{case}.x")) else { continue };
        let pictures = images(&stored.clone().convert_dtype(DType::F64), kind, &Device::flex()) / 127.5 - 1.0;
        // In units of 0 to 1 and of 0 to 255; in f32 both are off by some roundings of numbers of that size.
        let forms =
            [("half_pixel", Resize::Bilinear, [0.5, 0.5], 1e-6), ("tf1", Resize::Tensorflow, [128.0, 128.0], 1e-3)];
        for (name, resize, unit, tolerance) in forms {
            let small = resize.apply(pictures.clone());
            resized(&mut compared, &format!("{case}.resized_{name}"), small, unit, tolerance);
            let (features, trace) = record(|| network.features(pictures.clone(), resize).unwrap());
            let Features { pool, logits, unbiased_logits } = features;
            for (what, found) in [("pool", pool), ("logits", logits), ("logits_unbiased", unbiased_logits)] {
                let name = format!("{case}.{what}_{name}");
                compared.note(&name, &read(found), fixture.tolerances.get(&name).copied());
            }
            for (what, module) in [("mean64", "max_1"), ("mean192", "max_2"), ("mean768", "mixed_6e")] {
                compared.note(&format!("{case}.{what}_{name}"), &means(&trace[module]), None);
            }
            if (case, resize) == ("45x61", Resize::Tensorflow) {
                for (module, noted) in trace.iter().filter(|(module, _)| !module.starts_with("max")) {
                    let name = module[..1].to_uppercase() + &module[1..];
                    compared.note(&format!("channel_mean.{name}"), &means(noted), None);
                }
            }
        }
    }
    compared.end(&[".x"]);
}

#[test]
fn inception_of_the_frechet_distance() {
    for folder in folders("inception_fid") {
        let (fixture, io) = open::<Rule>(&folder);
        let weights = fixture.weights.weights();
        // What is read from a file: f32.
        let file = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap();
        write_tensors(&weights, file.path()).unwrap();
        let network = import::inception::load(file.path(), &Device::flex()).unwrap();
        inception_holds(&network, &fixture, &io, DType::F32);
        let network = import::inception::open(&weights, DType::F64, &Device::flex()).unwrap();
        inception_holds(&network, &fixture, &io, DType::F64);
    }
}

#[test]
fn inception_refuses_other_weights() {
    let (fixture, _) = open::<Rule>(&folders("inception_fid")[0]);
    let weights = fixture.weights.weights();
    let fault = |change: &dyn Fn(&mut Tensors)| {
        let mut weights = weights.clone();
        change(&mut weights);
        import::inception::open(&weights, DType::F32, &Device::flex()).unwrap_err().to_string()
    };
    let lacks = |name: &str| {
        let found = fault(&|weights| drop(weights.remove(name)));
        assert!(found.contains(name), "{found}");
    };
    lacks("Mixed_6a.branch3x3.bn.running_var");
    lacks("Mixed_7b.branch_pool.conv.weight");
    lacks("fc.bias");
    let found = fault(&|weights| {
        weights.insert("AuxLogits.fc.bias".to_owned(), TensorData::new(vec![0f32; 2], [2]));
    });
    assert!(found.contains("unexpected  AuxLogits.fc.bias"), "{found}");
    let counters = |weights: &Tensors| {
        let mut weights = weights.clone();
        weights.insert("Conv2d_1a_3x3.bn.num_batches_tracked".to_owned(), TensorData::new(vec![0i64], [1]));
        weights
    };
    import::inception::open(&counters(&weights), DType::F32, &Device::flex()).unwrap();
}

#[derive(Deserialize)]
struct Backbones {
    seed: u64,
    backbones: BTreeMap<Backbone, Rule>,
}

fn lpips_holds(backbone: Backbone, weights: &Tensors, fixture: &Fixture<Backbones>, compared: &mut Compared) {
    let (kind, io) = (compared.kind, compared.io);
    let own = serde_json::to_value(backbone).unwrap();
    let own = own.as_str().unwrap();
    let head = |(name, data): (&String, &TensorData)| {
        let index = name.strip_prefix(&format!("{own}.lin"))?;
        let (bytes, shape, kind) = data.clone().into_parts();
        Some((format!("lin{index}.model.1.weight"), TensorData::from_bytes(bytes, [1, shape[0], 1, 1], kind)))
    };
    let heads: Tensors = io.iter().filter_map(head).collect();
    let device = Device::flex().autodiff();
    let network = import::lpips::open(backbone, weights, &heads, &device).unwrap();
    let network = stein_nn::state::cast(network, kind);
    for size in ["64x64", "71x90"] {
        let Some(x) = io.get(&format!("{size}.x")) else { continue };
        let x = images(x, kind, &device).require_grad();
        let y = images(&io[&format!("{size}.y")], kind, &device);
        let (terms, trace) = record(|| network.per_layer(x.clone(), x.clone()).unwrap());
        assert!(read(terms).iter().all(|term| *term == 0.0), "equal pictures are at no distance");
        let name = |what: &str| format!("{own}.{size}.{what}");
        let power = |noted: &TensorData| {
            let all: Vec<f64> = noted.iter::<f64>().collect();
            (all.iter().map(|x| x * x).sum::<f64>() / all.len() as f64).sqrt()
        };
        let powers: Vec<f64> = (0..heads.len()).map(|tap| power(&trace[&format!("taps.{tap}")])).collect();
        compared.note(&name("feature_rms"), &powers, None);
        let tolerance = fixture.tolerances.get(&name("distance")).copied();
        compared.note(&name("per_layer"), &read(network.per_layer(x.clone(), y.clone()).unwrap()), tolerance);
        let distance = network.distance(x.clone(), y).unwrap();
        compared.note(&name("distance"), &read(distance.clone()), tolerance);
        let gradient = x.grad(&distance.sum().backward()).unwrap().permute([0, 3, 1, 2]);
        let [n, c, height, width] = gradient.dims();
        let numbers = read(gradient.clone());
        let third = |(i, x): (usize, &f64)| (i / width % height % 3 == 0 && i % width % 3 == 0).then_some(*x);
        let sample: Vec<f64> = numbers.iter().enumerate().filter_map(third).collect();
        compared.note_gradient(&name("grad_x"), &sample);
        let norm = |picture: &[f64]| picture.iter().map(|x| x * x).sum::<f64>().sqrt();
        let norms: Vec<f64> = numbers.chunks_exact(c * height * width).map(norm).collect();
        assert_eq!(norms.len(), n);
        compared.note(&name("grad_x_norm"), &norms, None);
    }
}

#[test]
fn lpips_and_its_gradients() {
    for folder in folders("lpips") {
        let (mut fixture, io) = open::<Backbones>(&folder);
        let seed = fixture.weights.seed;
        fixture.weights.backbones.values_mut().for_each(|rule| rule.seed = seed);
        for kind in [DType::F64, DType::F32] {
            let mut compared = Compared::new(&io, kind);
            for (backbone, rule) in &fixture.weights.backbones {
                lpips_holds(*backbone, &rule.weights(), &fixture, &mut compared);
            }
            let heads: Vec<String> = (0..7).map(|i| format!(".lin{i}")).collect();
            let given: Vec<&str> = heads.iter().map(String::as_str).chain([".x", ".y"]).collect();
            compared.end(&given);
        }
    }
}

#[test]
fn vision_transformers() {
    let (fixture, io) = open::<BTreeMap<String, Rule>>(&folders("vit")[0]);
    for kind in [DType::F64, DType::F32] {
        let mut compared = Compared::new(&io, kind);
        for (name, rule) in &fixture.weights {
            let network = import::vit::open(&rule.weights(), kind, &Device::flex()).unwrap();
            let tower = if name == "dino" { Tower::Dino } else { Tower::Clip { outputs: 48 } };
            let (patch, places) = if name == "dino" { (14, 37) } else { (32, 7) };
            assert_eq!(network.form(), VitForm { tower, width: 128, blocks: 2, patch, places });
            // A picture that grows, and one that shrinks along both sides by different factors.
            for (number, [rows, height, width]) in [[2, 20, 20], [1, 250, 301]].into_iter().enumerate() {
                let x = tensor(PICTURES, number, &[rows, 3, height, width], |u| u);
                let pictures = images(&x, kind, &Device::flex()) * 2.0 - 1.0;
                let case = format!("{name}.{height}x{width}");
                let found = network.features(pictures).unwrap();
                compared.note(&case, &read(found), Some(fixture.tolerances[&case]));
            }
        }
        compared.end(&[]);
    }
}

#[test]
fn vision_transformers_refuse_other_weights() {
    let (fixture, _) = open::<BTreeMap<String, Rule>>(&folders("vit")[0]);
    let opened = |name: &str, change: &dyn Fn(&mut Tensors)| {
        let mut weights = fixture.weights[name].weights();
        change(&mut weights);
        import::vit::open(&weights, DType::F32, &Device::flex()).map_err(|error| error.to_string())
    };
    let one = || TensorData::new(vec![0f32; 2], [2]);
    // What else is in the files that are published.
    opened("dino", &|weights| drop(weights.insert("mask_token".into(), one()))).unwrap();
    opened("clip_openai", &|weights| drop(weights.insert("transformer.resblocks.0.ln_1.bias".into(), one()))).unwrap();
    opened("clip_transformers", &|weights| drop(weights.insert("text_model.final_layer_norm.bias".into(), one())))
        .unwrap();
    let lacks = |name: &str, tensor: &str| {
        let found = opened(name, &|weights| drop(weights.remove(tensor))).unwrap_err();
        assert!(found.contains(tensor), "{found}");
    };
    lacks("dino", "blocks.1.ls2.gamma");
    lacks("dino", "pos_embed");
    lacks("clip_openai", "visual.proj");
    lacks("clip_transformers", "vision_model.pre_layrnorm.weight");
    // Registers are of other networks.
    let found = opened("dino", &|weights| drop(weights.insert("register_tokens".into(), one()))).unwrap_err();
    assert!(found.contains("unexpected  register_tokens"), "{found}");
    let found = opened("dino", &|weights| weights.clear()).unwrap_err();
    assert!(found.contains("DINOv2"), "{found}");
}
