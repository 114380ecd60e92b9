//! Networks whose weights and inputs follow from a rule, so that little more than outputs is stored: the fixtures of
//! `tests/data/formula`, every one of them, whose README has the rule. The references computed them in f64.
//!
//! Ours in f64 are within [`EXACT`] of them, over the largest value: they differ by the order of sums alone. In f32 they are as near
//! as ten times what the reference itself is off by in f32, which every fixture says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, TensorData};
use serde::Deserialize;
use serde_json::{Value, json};
use stein::{
    Condition, Denoiser, Device, Edm, FlowMap, Kernel, Levels, MapNetwork, Preconditioned, Schedule, Tensor, denoise,
    jvp, vjp,
};
use stein_nn::{
    AnyNetwork, NetworkConfig, Tensors,
    import::{self, Case, Kind, Published, Role, Source},
    state,
};

/// The largest difference in f64 over the largest value: what the README expects of another implementation. Ours are within 5e-14.
const EXACT: f64 = 1e-12;

/// The same where an output is divided by noise levels that the fixture has rounded to f32, as a checkpoint has them, and ours
/// works out from the config: half a unit in the last place of f32.
const ROUNDED: f64 = 6e-8;

/// The fixtures whose outputs are divided by such levels. (NCSNv2's levels are in f32 here too.)
const WITH_ROUNDED_LEVELS: [&str; 2] = ["score_sde_ddpm_sigmas", "score_sde_ncsnpp_sigmas"];

/// The fixtures of an implementation.
struct Family {
    kind: Kind,
    compared: &'static [&'static str],
}

const NCSN: Family =
    Family { kind: Kind::Ncsn, compared: &["ncsn", "ncsn_elu", "ncsn_lrelu", "ncsn_relu", "ncsn_swish"] };

const NCSN_V2: Family = Family {
    kind: Kind::NcsnV2,
    compared: &[
        "ncsnv2",
        "ncsnv2_deeper",
        "ncsnv2_deepest",
        "ncsnv2_deepest_swish",
        "ncsnv2_lrelu",
        "ncsnv2_relu",
        "ncsnv2_swish",
        "ncsnv2_uniform",
    ],
};

const SCORE_SDE: Family = Family {
    kind: Kind::ScoreSde,
    compared: &[
        "score_sde_ddpm",
        "score_sde_ddpm_elu",
        "score_sde_ddpm_lrelu",
        "score_sde_ddpm_noconv",
        "score_sde_ddpm_relu",
        "score_sde_ddpm_sigmas",
        "score_sde_ddpm_time",
        "score_sde_ncsnpp_cat",
        "score_sde_ncsnpp_ddpmblock_fir_noconv",
        "score_sde_ncsnpp_ddpmblock_noconv",
        "score_sde_ncsnpp_elu",
        "score_sde_ncsnpp_lrelu",
        "score_sde_ncsnpp_outskip",
        "score_sde_ncsnpp_relu",
        "score_sde_ncsnpp_residual",
        "score_sde_ncsnpp_sigmas",
        "score_sde_ncsnpp_ve",
        "score_sde_ncsnpp_vp",
    ],
};

const EDM: Family = Family {
    kind: Kind::Edm,
    compared: &[
        "edm_song_ddpmpp",
        "edm_song_ncsnpp",
        "edm_song_skip",
        "edm_dhariwal",
        "edm_dhariwal_attn",
        "edm_iddpm",
        "edm_unetblock",
    ],
};

const GUIDED_DIFFUSION: Family = Family {
    kind: Kind::GuidedDiffusion,
    compared: &["gd_classifier", "gd_classifier_spatial", "gd_unet", "gd_unet_options"],
};

const CONSISTENCY: Family = Family { kind: Kind::Consistency, compared: &["cm_unet"] };

const DIFFUSERS: Family = Family {
    kind: Kind::Diffusers,
    compared: &[
        "diffusers_autoencoder_kl",
        "diffusers_dit",
        "diffusers_unet2d_center",
        "diffusers_unet2d_cond",
        "diffusers_unet2d_cond_center",
        "diffusers_unet2d_cond_linear",
        "diffusers_unet2d_ddpm",
        "diffusers_unet2d_ncsnpp",
        "diffusers_vq_model",
    ],
};

const FAMILIES: [&Family; 7] = [&NCSN, &NCSN_V2, &SCORE_SDE, &EDM, &GUIDED_DIFFUSION, &CONSISTENCY, &DIFFUSERS];

#[derive(Deserialize)]
struct Fixture {
    config: Value,
    input_seed: u64,
    checked: Accuracy,
    weights: Rule,
    cases: Vec<Stored>,
}

/// How near the reference's f32 is to its f64.
#[derive(Deserialize)]
struct Accuracy {
    float32: Single,
}

#[derive(Deserialize)]
struct Single {
    largest_output: f64,
    largest_difference_from_float64: f64,
    gradient_difference_relative_to_largest_entry: f64,
}

/// What the weights follow from.
#[derive(Deserialize)]
struct Rule {
    seed: u64,
    first_values: BTreeMap<String, Vec<f32>>,
    special: BTreeMap<String, Special>,
    tensors: Vec<(String, Vec<usize>)>,
}

/// A tensor the reference defines itself.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Special {
    Values { values: Vec<f32> },
    Frequencies,
    Geometric { from: f64, to: f64, count: usize },
}

#[derive(Deserialize)]
struct Stored {
    name: String,
    inputs: Vec<Input>,
    outputs: BTreeMap<String, Numbers>,
    #[serde(default)]
    activations: BTreeMap<String, Numbers>,
    grad: Option<Slopes>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<usize>,
    values: Option<Vec<f64>>,
    #[serde(default)]
    number: u64,
    #[serde(default)]
    lo: f64,
    #[serde(default)]
    hi: f64,
}

/// The first of some numbers, and sums over all of them.
#[derive(Deserialize)]
struct Numbers {
    shape: Vec<usize>,
    values: Vec<f64>,
    sum: Option<f64>,
    sum_squares: Option<f64>,
    norm: Option<f64>,
}

#[derive(Deserialize)]
struct Slopes {
    r_number: u64,
    tensors: BTreeMap<String, Numbers>,
}

fn splitmix64(z: u64) -> u64 {
    let z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// Element k of the tensor of number n, in \[0, 1).
fn u(seed: u64, n: u64, k: u64) -> f64 {
    let z = seed.wrapping_add(n.wrapping_mul(1 << 32)).wrapping_add(k);
    (splitmix64(z) >> 11) as f64 * (-53f64).exp2()
}

/// All elements of a tensor, rounded to f32.
pub fn tensor(seed: u64, n: usize, shape: &[usize], f: impl Fn(f64) -> f64) -> TensorData {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|k| f(u(seed, n as u64, k as u64)) as f32).collect();
    TensorData::new(values, shape.to_vec())
}

impl Rule {
    fn tensor(&self, n: usize, name: &str, shape: &[usize]) -> TensorData {
        let scale = |name: &str| ["weight", "scale", "alpha", "gamma"].iter().any(|end| name.ends_with(end));
        let of = |f: &dyn Fn(f64) -> f64| tensor(self.seed, n, shape, |u| f(2.0 * u - 1.0));
        match self.special.get(name) {
            Some(Special::Values { values }) => TensorData::new(values.clone(), shape.to_vec()),
            Some(Special::Frequencies) => of(&|s| 2.0 * s),
            Some(&Special::Geometric { from, to, count }) => {
                let step = (to.ln() - from.ln()) / (count - 1) as f64;
                let values: Vec<f32> = (0..count).map(|i| (from.ln() + step * i as f64).exp() as f32).collect();
                TensorData::new(values, shape.to_vec())
            }
            None if shape.len() > 1 => {
                let inputs: usize = shape[1..].iter().product();
                of(&|s| (3.0 / inputs as f64).sqrt() * s)
            }
            None if scale(name) => of(&|s| 1.0 + 0.2 * s),
            None => of(&|s| 0.1 * s),
        }
    }

    fn weights(&self) -> Tensors {
        let weights: Tensors = (self.tensors.iter().enumerate())
            .map(|(n, (name, shape))| (name.clone(), self.tensor(n, name, shape)))
            .collect();
        for (name, wanted) in &self.first_values {
            assert_eq!(weights[name].iter::<f32>().take(3).collect::<Vec<_>>(), *wanted, "{name}");
        }
        weights
    }
}

impl Fixture {
    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formula")
    }

    fn read(name: &str) -> Self {
        let path = Self::folder().join(name).with_extension("json");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap()
    }

    fn source(&self, kind: Kind) -> Source {
        let (config, weights) = (self.config.clone(), self.weights.weights());
        let (origin, which) = ("a formula".to_owned(), String::new());
        Source { kind, config, scheduler: None, latent: false, weights, origin, which }
    }

    fn case(&self, name: &str) -> &Stored {
        self.cases.iter().find(|case| case.name == name).unwrap()
    }

    /// The inputs of a case, under the names and in the layouts of the reference.
    fn inputs(&self, case: &Stored) -> Tensors {
        let prefix = if case.name == "main" { String::new() } else { format!("{}.", case.name) };
        let data = |input: &Input| match &input.values {
            Some(values) => TensorData::new(values.clone(), input.shape.clone()),
            None => {
                let (lo, wide) = (input.lo, input.hi - input.lo);
                tensor(self.input_seed, input.number as usize, &input.shape, |u| lo + wide * u)
            }
        };
        case.inputs.iter().map(|input| (format!("{prefix}{}", input.name), data(input))).collect()
    }
}

/// The worst error so far, and what it is of.
struct Worst {
    bound: f64,
    error: f64,
    faults: Vec<String>,
}

impl Worst {
    fn new(bound: f64) -> Self {
        Self { bound, error: 0.0, faults: Vec::new() }
    }

    /// Takes the largest difference of single numbers over the largest of all, and that of sums over what it is at most if all
    /// numbers differ that much.
    fn note(&mut self, what: &str, found: &TensorData, wanted: &Numbers) {
        let found: Vec<f64> = found.iter::<f64>().collect();
        assert_eq!(found.len(), wanted.shape.iter().product::<usize>(), "{what}");
        let largest = found.iter().fold(0f64, |most, x| most.max(x.abs()));
        assert!(largest > 0.0 && found.iter().all(|x| x.is_finite()), "{what} has a largest number of {largest}");
        let (count, squares) = (found.len() as f64, found.iter().map(|x| x * x).sum::<f64>());
        let mut error = found.iter().zip(&wanted.values).fold(0f64, |most, (a, b)| most.max((a - b).abs() / largest));
        for (found, wanted, most) in [
            (found.iter().sum(), wanted.sum, count * largest),
            (squares, wanted.sum_squares, 2.0 * count * largest * largest),
            (squares.sqrt(), wanted.norm, count.sqrt() * largest),
        ] {
            error = error.max(wanted.map_or(0.0, |wanted: f64| (found - wanted).abs() / most));
        }
        if error > self.bound {
            self.faults.push(format!("{what}: {error:.1e}, at most {:.1e} is allowed", self.bound));
        }
        self.error = self.error.max(error);
    }
}

/// Everything stored of a fixture against what the network gives in a float type: the worst of outputs and activations, and of
/// gradients.
fn compared(name: &str, fixture: &Fixture, published: &Published, kind: DType) -> [Worst; 2] {
    let Single { largest_output, largest_difference_from_float64, gradient_difference_relative_to_largest_entry } =
        fixture.checked.float32;
    let bounds = match kind {
        DType::F64 if WITH_ROUNDED_LEVELS.contains(&name) => [ROUNDED; 2],
        DType::F64 => [EXACT; 2],
        _ => [
            10.0 * largest_difference_from_float64 / largest_output,
            10.0 * gradient_difference_relative_to_largest_entry,
        ],
    };
    let [mut outputs, mut slopes] = bounds.map(Worst::new);
    let plain = published.reference().prepared(kind, false);
    for stored in &fixture.cases {
        let inputs = fixture.inputs(stored);
        let (found, seen) = plain.outputs(&Case::new(&stored.name, &inputs, kind)).unwrap();
        for (output, wanted) in &stored.outputs {
            outputs.note(&format!("{name} {kind:?} {}: {output}", stored.name), &found[output], wanted);
        }
        for (module, wanted) in &stored.activations {
            let found = plain.activation(module, &seen).unwrap_or_else(|| panic!("{name} notes nothing of {module}"));
            outputs.note(&format!("{name} {kind:?} {module}"), &found, wanted);
        }
        let Some(grad) = &stored.grad else { continue };
        let shape = &stored.outputs["out"].shape;
        let r = tensor(fixture.input_seed, grad.r_number as usize, shape, |u| 2.0 * u - 1.0);
        let found = published.reference().slopes(&inputs, "out", &r, kind).unwrap();
        for (key, wanted) in &grad.tensors {
            slopes.note(&format!("{name} {kind:?} gradient of {key}"), &found[key], wanted);
        }
    }
    [outputs, slopes]
}

/// The weights under the names and in the layouts of the reference, buffers aside, and what is sampled through a file.
fn comes_out_as_it_went_in(name: &str, source: &Source, published: &Published) {
    let out = import::theirs(source.kind, &source.config, &published.weights()).unwrap();
    let keys = published.reference().keys();
    let wanted: Tensors = source.weights.clone().into_iter().filter(|(name, _)| keys.contains(name)).collect();
    assert!(out == wanted, "{name} is exported otherwise than it was imported");
    if let Ok(setting) = published.setting() {
        let text = toml::to_string(&setting.network).unwrap();
        assert_eq!(toml::from_str::<NetworkConfig>(&text).unwrap(), setting.network, "{name}");
    }
}

/// Compares the fixtures of a family.
fn holds(family: &Family) {
    let mut faults = Vec::new();
    for name in family.compared {
        let fixture = Fixture::read(name);
        let source = fixture.source(family.kind);
        let published = Published::open(&source).unwrap_or_else(|error| panic!("{name}: {error}"));
        comes_out_as_it_went_in(name, &source, &published);
        for kind in [DType::F64, DType::F32] {
            let [outputs, slopes] = compared(name, &fixture, &published, kind);
            println!(
                "{name} {kind:?}: outputs and activations {:.1e} of {:.1e}, gradients {:.1e} of {:.1e}",
                outputs.error, outputs.bound, slopes.error, slopes.bound
            );
            faults.extend(outputs.faults.into_iter().chain(slopes.faults));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn formula_ncsn() {
    holds(&NCSN);
}

#[test]
fn formula_ncsn_v2() {
    holds(&NCSN_V2);
}

#[test]
fn formula_score_sde() {
    holds(&SCORE_SDE);
}

#[test]
fn formula_edm() {
    holds(&EDM);
}

#[test]
fn formula_guided_diffusion() {
    holds(&GUIDED_DIFFUSION);
}

#[test]
fn formula_consistency() {
    holds(&CONSISTENCY);
}

#[test]
fn formula_diffusers() {
    holds(&DIFFUSERS);
}

#[test]
fn the_rule_is_that_of_the_readme_and_every_fixture_has_its_test() {
    for (z, hash, uniform) in [
        (0, 0xe220_a839_7b1d_cdaf, 0.883_310_808_213_642_6),
        (1000, 0x3c1e_ba8b_4dcc_c148, 0.234_843_882_570_021_2),
        (u64::MAX, 0xe4d9_7177_1b65_2c20, 0.893_942_920_283_184_5),
    ] {
        assert_eq!((splitmix64(z), u(z, 0, 0)), (hash, uniform));
    }
    let files = fs::read_dir(Fixture::folder()).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<String> = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let tested = FAMILIES.iter().flat_map(|family| family.compared).copied();
    let tested: BTreeSet<String> = tested.map(str::to_owned).collect();
    assert_eq!((files.len(), &files), (52, &tested));
}

/// A network as it is sampled: built from the setting of a published one, with its weights, in f64.
fn sampled(published: &Published, device: &Device) -> AnyNetwork {
    let setting = published.setting().unwrap();
    let network = setting.network.build(&setting.shape, setting.classes, 0, device).unwrap();
    state::cast(state::load(network, &published.weights()).unwrap(), DType::F64)
}

fn denoiser(published: &Published, device: &Device) -> Preconditioned<AnyNetwork> {
    let setting = published.setting().unwrap();
    let Role::Denoiser { precondition, .. } = setting.role else { panic!("it is a denoiser") };
    Preconditioned::new(sampled(published, device), precondition, setting.schedule.clone()).unwrap()
}

/// What samplers get of a network with what surrounds it is what the reference's wrapper gives, and what the check compares with
/// it: they may not come to differ.
#[test]
fn the_check_runs_what_samplers_run() {
    let cases = [
        (&EDM, "edm_song_ddpmpp", "edm", "D_x"),
        (&EDM, "edm_song_ddpmpp", "vp", "D_x"),
        (&EDM, "edm_song_ncsnpp", "edm", "D_x"),
        (&EDM, "edm_song_ddpmpp", "ve", "D_x"),
        (&EDM, "edm_song_ncsnpp", "edm_nolabel", "D_x"),
        (&EDM, "edm_song_ncsnpp", "ve", "D_x"),
        (&EDM, "edm_iddpm", "iddpm", "D_x"),
        (&EDM, "edm_dhariwal", "edm", "D_x"),
        (&EDM, "edm_dhariwal", "edm_nolabel", "D_x"),
        (&EDM, "edm_dhariwal_attn", "edm", "D_x"),
        (&CONSISTENCY, "cm_unet", "denoise_distillation", "denoised"),
        (&CONSISTENCY, "cm_unet", "denoise_plain", "denoised"),
    ];
    for (family, name, case, output) in cases {
        let fixture = Fixture::read(name);
        let mut source = fixture.source(family.kind);
        match case {
            "vp" | "ve" => {
                let name = if case == "vp" { "VPPrecond" } else { "VEPrecond" };
                source.config["class_name"] = json!(name);
                source.config.as_object_mut().unwrap().remove("sigma_data");
            }
            "denoise_plain" => source.config["karras_denoiser"]["distillation"] = json!(false),
            _ => {}
        }
        let published = Published::open(&source).unwrap();
        let setting = published.setting().unwrap();
        let stored = fixture.case(case);
        let inputs = fixture.inputs(stored);
        let input = |name: &str| inputs.get(&format!("{case}.{name}")).cloned();
        let device = Device::flex();
        let x = Tensor::<4>::from_data(input("x").unwrap().convert_dtype(DType::F64), (&device, DType::F64));
        let [count, channels, height, width] = x.dims();
        let rows = x.permute([0, 2, 3, 1]).reshape([count, height * width * channels]);
        let sigma: Vec<f64> = input("sigma").unwrap().iter::<f64>().collect();
        let kernels: Vec<Kernel> = sigma.iter().map(|sigma| Edm::default().kernel(*sigma)).collect();
        let one_hot = input("class_labels").map(|rows| {
            let rows: Vec<f64> = rows.iter::<f64>().collect();
            let class = |row: &[f64]| row.iter().position(|x| *x == 1.0).unwrap() as u32;
            rows.chunks(setting.classes).map(class).collect::<Vec<_>>()
        });
        let labels = input("y").map(|y| y.iter::<i64>().map(|class| class as u32).collect());
        let given = one_hot.or(labels).map_or_else(Condition::none, Condition::classes);
        let levels = Levels::Each(&kernels);
        let found = match setting.role {
            Role::Denoiser { .. } => denoise(&denoiser(&published, &device), rows, levels, &given).unwrap(),
            Role::FlowMap(consistency) => {
                let map = MapNetwork::new(sampled(&published, &device), consistency, setting.schedule.clone());
                let (map, end) = (map.unwrap(), setting.schedule.kernel(setting.schedule.span().0));
                map.carry(rows.into(), levels, (&end).into(), &given).unwrap().value
            }
        };
        let found = found.reshape([count, height, width, channels]).permute([0, 3, 1, 2]).reshape([-1]).into_data();
        let mut worst = Worst::new(EXACT);
        worst.note(&format!("{name} {case}"), &found, &stored.outputs[output]);
        let reference = published.reference().prepared(DType::F64, false);
        let (checked, _) = reference.outputs(&Case::new(case, &inputs, DType::F64)).unwrap();
        let apart = found.iter::<f64>().zip(checked[output].iter::<f64>()).map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0f64, f64::max);
        println!("{name} {case}: {:.1e} from the reference, {apart:.1e} from the check", worst.error);
        assert!(worst.faults.is_empty(), "{}", worst.faults.join("\n"));
        assert!(apart <= 1e-14, "{name} {case}: the check is {apart:e} from what is sampled");
    }
}

fn wave(rows: usize, dim: usize, pitch: f64) -> Tensor<2> {
    let values: Vec<f64> = (0..rows * dim).map(|i| (pitch * (i + 1) as f64).sin()).collect();
    Tensor::from_data(TensorData::new(values, [rows, dim]), (&Device::flex(), DType::F64))
}

fn dot(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
    (a.clone() * b.clone()).sum().into_scalar::<f64>()
}

/// The derivatives of imported denoisers: J w against a difference of outputs, and ⟨v, J w⟩ = ⟨Jᵀ v, w⟩.
#[test]
fn imported_denoisers_are_differentiable_both_ways() {
    let fixtures = [
        (&NCSN, "ncsn"),
        (&NCSN_V2, "ncsnv2"),
        (&SCORE_SDE, "score_sde_ddpm_time"),
        (&SCORE_SDE, "score_sde_ncsnpp_ve"),
        (&EDM, "edm_song_ncsnpp"),
        (&EDM, "edm_dhariwal_attn"),
        (&GUIDED_DIFFUSION, "gd_unet"),
        (&CONSISTENCY, "cm_unet"),
        (&DIFFUSERS, "diffusers_unet2d_ddpm"),
        (&DIFFUSERS, "diffusers_unet2d_ncsnpp"),
    ];
    for (family, name) in fixtures {
        let mut source = Fixture::read(name).source(family.kind);
        match name {
            "cm_unet" => source.config["karras_denoiser"]["distillation"] = json!(false),
            "diffusers_unet2d_ncsnpp" => source.scheduler = Some(json!({ "_class_name": "ScoreSdeVeScheduler" })),
            _ => {}
        }
        let published = Published::open(&source).unwrap();
        let setting = published.setting().unwrap();
        let denoiser = denoiser(&published, &Device::flex());
        let denoiser: &dyn Denoiser = &denoiser;
        let at = setting.schedule.kernel(setting.schedule.time_at(-2.0 * 0.7f64.ln()));
        let last = (setting.classes as u32).saturating_sub(1);
        let given = if last > 0 { Condition::classes([1, last]) } else { Condition::none() };
        let dim = setting.shape.iter().product();
        let (x, w, v) = (wave(2, dim, 0.7), wave(2, dim, 1.9), wave(2, dim, 2.3));
        let (_, along) = jvp(denoiser, x.clone(), w.clone(), (&at).into(), &given).unwrap();
        let (_, back) = vjp(denoiser, x.clone(), v.clone(), (&at).into(), &given).unwrap();
        let step = 1e-6;
        let shifted = |by: f64| denoise(denoiser, x.clone() + w.clone() * by, (&at).into(), &given).unwrap();
        let difference = (shifted(step) - shifted(-step)) / (2.0 * step);
        let largest = |x: &Tensor<2>| x.clone().abs().max().into_scalar::<f64>();
        let error = largest(&(along.clone() - difference)) / largest(&along);
        let (left, right) = (dot(&v, &along), dot(&back, &w));
        let transposed = (left - right).abs() / (dot(&v, &v) * dot(&along, &along)).sqrt();
        println!("{name}: tangent {error:.1e}, transpose {transposed:.1e}");
        assert!(largest(&along) > 1e-3, "{name} depends on its input");
        assert!(error < 1e-6 && transposed < 1e-10, "{name}: tangent {error:e}, transpose {transposed:e}");
    }
}
