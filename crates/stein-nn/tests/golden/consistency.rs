//! Consistency losses, their gradients and samples through published networks against those of the published code: distillation and
//! training, progressive distillation (openai/consistency_models), improved training (formulas of the paper) and easy tuning (locuslab/ect).

use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Tensor, TensorData},
};
use serde_json::Value;
use stein::{
    AnySchedule, Condition, Context, Dual, Edm, EdmEuler, Examples, FlowMap, Grid, Kernel, Keys, Levels, MapForm,
    MapNetwork, MapSettings, Network, NoiseInput, Precondition, Preconditioned, Request, Schedule,
    consistency::{Easy, Halves, Improved, Maps, Metric, Pair, PairWeighting, Shrink, Solver},
    guidance::Clamped,
    noise::Source,
    rows::{self, host},
    sample_from, sample_map_from,
};
use stein_nn::{
    ImageNetwork, Tensors,
    import::{Reference, Weights, consistency, edm::open_dhariwal},
    read_tensors, state,
};

use crate::{
    fixture,
    likelihood::OnRows,
    variational::{channels_last, close},
};

const SHAPE: [usize; 3] = [16, 16, 3];
const NOISE_INPUT: NoiseInput = NoiseInput::LogSigma { factor: 250.0, unit: 1.0 };

/// What is stored of a method.
struct Stored {
    io: Tensors,
    config: Value,
}

impl Stored {
    fn of(method: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden_methods").join(method);
        let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        Self { io: read_tensors(&folder.join("io.safetensors")).unwrap(), config }
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.io[name].iter::<f64>().collect()
    }

    fn rows(&self, name: &str) -> Tensor<2> {
        channels_last(self.numbers(name))
    }

    /// Compares the stored gradients of a case.
    fn check_gradients(&self, case: &str, found: &Tensors) {
        let prefix = format!("{case}.grad.");
        let mut compared = 0;
        for (name, wanted) in &self.io {
            let Some(key) = name.strip_prefix(&prefix).and_then(|key| key.strip_suffix("_f64")) else { continue };
            let found: Vec<f64> = found[key].iter::<f64>().collect();
            let wanted: Vec<f64> = wanted.iter::<f64>().collect();
            close(&found, &wanted, 1e-8, &format!("{case}, gradient of {key}"));
            compared += 1;
        }
        assert!(compared > 1, "{case} has no gradients");
    }
}

/// The weights of a role: w (1 + a sin(b i + c j)) in single precision, j the place of the tensor and i that in it.
fn perturbed(weights: &Tensors, role: &[f64]) -> Tensors {
    let [a, b, c] = role[..] else { panic!("a role has three numbers") };
    let of = |(j, (name, data)): (usize, (&String, &TensorData))| {
        let moved: Vec<f32> = data
            .iter::<f64>()
            .enumerate()
            .map(|(i, w)| (w * (1.0 + a * (b * i as f64 + c * j as f64).sin())) as f32)
            .collect();
        (name.clone(), TensorData::new(moved, data.shape()))
    };
    weights.iter().enumerate().map(of).collect()
}

fn role(config: &Value) -> Vec<f64> {
    config.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// A network of pictures on rows.
fn on_rows(network: impl ImageNetwork) -> impl Network {
    OnRows(move |x: Dual<4>, context: &Context| network.images(x, context), SHAPE)
}

/// The classes of one-hot rows of seven.
fn classes(rows: &[f64]) -> Condition {
    Condition::classes(rows.chunks(7).map(|row| row.iter().position(|&x| x == 1.0).unwrap() as u32))
}

/// The levels of Karras et al., noisiest first, as many as asked for.
fn levels(count: usize) -> Vec<Kernel> {
    Grid { clean: false, ..Grid::karras(count - 1) }.kernels(&Edm::default()).unwrap()
}

#[test]
fn distillation_and_training() {
    let Some((_, config, weights)) = fixture("cm_unet") else { return };
    let stored = Stored::of("consistency_cm");
    let open = |name: &str| {
        let weights = perturbed(&weights, &role(&stored.config["roles"][name]));
        let mut imported = consistency::open(&config, Weights::Theirs(&weights)).unwrap();
        imported.network = state::cast(imported.network, DType::F64);
        imported
    };
    let (student, target, teacher) = (open("student"), open("target"), open("teacher"));
    let (of_student, of_target) = (on_rows(student.network.clone()), on_rows(target.network.valid()));
    let plain = Precondition { noise_input: NOISE_INPUT, ..Precondition::edm(0.5) };
    let teacher = Preconditioned::new(on_rows(teacher.network.valid()), plain, Edm::default().into()).unwrap();
    let settings = MapSettings { form: MapForm::EdmShifted { sigma_data: 0.5 }, noise_input: NOISE_INPUT };
    let map = |network| MapNetwork::new(network, settings, Edm::default().into()).unwrap();
    let maps = Maps {
        student: map(&of_student as &dyn Network),
        target: map(&of_target as &dyn Network),
        teacher: Some(&teacher),
        step: 0,
        steps: 1,
    };
    let mut compared = 0;
    for case in stored.config["losses"].as_array().unwrap() {
        let (name, kind) = (case["name"].as_str().unwrap(), case["kind"].as_str().unwrap());
        // l2 after scaling pictures to 32 x 32 is not among the metrics.
        if case["loss_norm"] == "l2-32" {
            continue;
        }
        let count = case["num_scales"].as_u64().unwrap() as usize;
        let table = levels(if kind == "pd" { 2 * count + 1 } else { count });
        let index: Vec<usize> =
            case["indices"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as usize).collect();
        let given = Condition::classes(stored.io[&format!("{name}.y")].iter::<i64>().map(|class| class as u32));
        let (x0, eps) = (stored.rows(&format!("{name}.x_start")), stored.rows(&format!("{name}.noise")));
        let metric = if case["loss_norm"] == "l1" { Metric::L1 {} } else { Metric::L2 {} };
        let weighting = match case["weight_schedule"].as_str().unwrap() {
            "uniform" => PairWeighting::Unit {},
            "karras" => PairWeighting::Edm { sigma_data: 0.5 },
            "snr" => PairWeighting::Snr {},
            "snr+1" => PairWeighting::SnrPlusOne {},
            other => panic!("{other} is compared nowhere"),
        };
        if kind == "pd" {
            let at = |half: usize| index.iter().map(|&i| table[2 * i + half]).collect();
            let halves = Halves { from: at(0), middle: at(1), to: at(2) };
            let keys = Keys::range(0, 0, 2);
            let examples = Examples::new(&x0, &given, &keys);
            let halving = Preconditioned::new(&of_student as &dyn Network, plain, Edm::default().into()).unwrap();
            let losses = halves.losses(&halving, &teacher, &examples, &eps, None, (metric, weighting)).unwrap().losses;
            close(&host(&losses), &stored.numbers(&format!("{name}.loss_f64")), 1e-9, name);
            stored.check_gradients(name, &student.gradients(&losses.mean().backward()));
            compared += 1;
            continue;
        }
        let from: Vec<Kernel> = index.iter().map(|&i| table[i]).collect();
        let to: Vec<Kernel> = index.iter().map(|&i| table[i + 1]).collect();
        let pair = match kind {
            "ct" => Pair::of_data(&x0, &eps, from, to),
            _ => {
                let solver = if kind == "cd" { Solver::Heun } else { Solver::Euler };
                Pair::of_teacher(&x0, &eps, from, to, &teacher, solver, &given).unwrap()
            }
        };
        let losses = pair.losses(&maps, metric, weighting, &given, None).unwrap();
        close(&host(&losses), &stored.numbers(&format!("{name}.loss_f64")), 1e-9, name);
        stored.check_gradients(name, &student.gradients(&losses.mean().backward()));
        compared += 1;
    }
    assert_eq!(compared, 8);
}

#[test]
fn samples_in_one_step_and_several() {
    let Some((_, config, weights)) = fixture("cm_unet") else { return };
    let stored = Stored::of("consistency_cm");
    let weights = perturbed(&weights, &role(&stored.config["roles"]["student"]));
    let network =
        state::cast(consistency::open(&config, Weights::Theirs(&weights)).unwrap().network, DType::F64).valid();
    let network = on_rows(network);
    let settings = MapSettings { form: MapForm::EdmShifted { sigma_data: 0.5 }, noise_input: NOISE_INPUT };
    let map = MapNetwork::new(network, settings, Edm::default().into()).unwrap();
    let clamped = Clamped { inner: &map, bounds: vec![(-1.0, 1.0)] };
    let mut compared = 0;
    for case in stored.config["samplers"].as_array().unwrap() {
        let name = format!("sample_{}", case["name"].as_str().unwrap());
        // Samples that are left with the noise of a level of the middle are what nobody draws; their denoised pictures are compared.
        let noisy_end = name.ends_with("noisy_end");
        if case["sampler"] == "progdist" {
            continue;
        }
        let table = levels(case["steps"].as_u64().unwrap() as usize);
        let all = [Value::from(0), Value::from(table.len() - 1)];
        let places = case["ts"].as_array().map_or(&all[..], |ts| &ts[..]);
        let mut kernels: Vec<Kernel> = places.iter().map(|i| table[i.as_u64().unwrap() as usize]).collect();
        if noisy_end {
            kernels[1] = table[table.len() - 1];
        }
        let given = Condition::classes(stored.io[&format!("{name}.y")].iter::<i64>().map(|class| class as u32));
        let noise = stored.numbers(&format!("{name}.noise"));
        let draws: Vec<Vec<f64>> = noise.chunks(768).map(|draw| host(&channels_last(draw.to_vec()))).collect();
        let start = rows::matrix(draws[0].iter().map(|z| 80.0 * z).collect(), 768, &rows::exact());
        let request = Request { given, noise: Source::Given(draws[1..].to_vec()), ..Request::exact(1, 768, 0) };
        let map: &dyn FlowMap = if case["clip"] == true { &clamped } else { &map };
        let drawn = sample_map_from(start, map, &kernels, &request, &mut |_| Ok(())).unwrap();
        let wanted = if noisy_end { format!("{name}.x0s_f64") } else { format!("{name}.result_f64") };
        close(&host(&drawn.x), &host(&stored.rows(&wanted)), 1e-8, &name);
        compared += 1;
    }
    assert_eq!(compared, 4);
}

/// A student of halved steps is a denoiser, and its sampler Euler's method in σ between as many levels and one, its estimates clamped.
#[test]
fn samples_of_progressive_distillation() {
    let Some((_, config, weights)) = fixture("cm_unet") else { return };
    let stored = Stored::of("consistency_cm");
    let weights = perturbed(&weights, &role(&stored.config["roles"]["student"]));
    let network =
        state::cast(consistency::open(&config, Weights::Theirs(&weights)).unwrap().network, DType::F64).valid();
    let plain = Precondition { noise_input: NOISE_INPUT, ..Precondition::edm(0.5) };
    let denoiser = Preconditioned::new(on_rows(network), plain, Edm::default().into()).unwrap();
    let clamped = Clamped { inner: &denoiser, bounds: vec![(-1.0, 1.0)] };
    let cases = stored.config["samplers"].as_array().unwrap();
    let case = cases.iter().find(|case| case["sampler"] == "progdist").unwrap();
    let name = format!("sample_{}", case["name"].as_str().unwrap());
    let kernels = levels(case["steps"].as_u64().unwrap() as usize + 1);
    let given = Condition::classes(stored.io[&format!("{name}.y")].iter::<i64>().map(|class| class as u32));
    let noise = host(&channels_last(stored.numbers(&format!("{name}.noise"))));
    let start = rows::matrix(noise.iter().map(|z| 80.0 * z).collect(), 768, &rows::exact());
    let request = Request { given, ..Request::exact(1, 768, 0) };
    let sampler = EdmEuler::default();
    let drawn = sample_from(start, &clamped, &Edm::default(), &kernels, &sampler, &request, &mut |_| Ok(())).unwrap();
    let found: Vec<f64> = host(&drawn.x).into_iter().map(|x| x.clamp(-1.0, 1.0)).collect();
    close(&found, &host(&stored.rows(&format!("{name}.result_f64"))), 1e-8, &name);
}

#[test]
fn improved_training() {
    let Some((_, config, weights)) = fixture("cm_unet") else { return };
    let stored = Stored::of("consistency_ict");
    let of = &stored.config["loss"];
    let mut student = consistency::open(&config, Weights::Theirs(&weights)).unwrap();
    student.network = state::cast(student.network, DType::F64);
    let (own, constant) = (on_rows(student.network.clone()), on_rows(student.network.valid()));
    let settings = MapSettings { form: MapForm::EdmShifted { sigma_data: 0.5 }, noise_input: NOISE_INPUT };
    let map = |network| MapNetwork::new(network, settings, Edm::default().into()).unwrap();
    let maps = Maps {
        student: map(&own as &dyn Network),
        target: map(&constant as &dyn Network),
        teacher: None,
        step: 0,
        steps: 1,
    };
    let table = levels(of["N"].as_u64().unwrap() as usize);
    // Theirs count from the cleanest, and from 1.
    let place = |i: &Value| table.len() - i.as_u64().unwrap() as usize;
    let index: Vec<usize> = of["level_index"].as_array().unwrap().iter().map(place).collect();
    let from: Vec<Kernel> = index.iter().map(|&i| table[i - 1]).collect();
    let to: Vec<Kernel> = index.iter().map(|&i| table[i]).collect();
    let sigma = |at: &[Kernel]| at.iter().map(|at| at.sigma).collect::<Vec<f64>>();
    close(&sigma(&from), &stored.numbers("loss.sigma_high_f64"), 1e-12, "the noisier levels");
    close(&sigma(&to), &stored.numbers("loss.sigma_low_f64"), 1e-12, "the cleaner levels");
    let given = Condition::classes(stored.io["loss.y"].iter::<i64>().map(|class| class as u32));
    let pair = Pair::of_data(&stored.rows("loss.x_start"), &stored.rows("loss.noise"), from, to);
    let losses = pair.losses(&maps, Improved::default().metric, PairWeighting::Interval {}, &given, None).unwrap();
    close(&host(&losses), &stored.numbers("loss.loss_f64"), 1e-9, "loss");
    stored.check_gradients("loss", &student.gradients(&losses.mean().backward()));
}

#[test]
fn easy_tuning() {
    let Some((_, mut config, weights)) = fixture("edm_dhariwal") else { return };
    // Nothing is dropped in what is stored.
    config["dropout"] = 0.0.into();
    let stored = Stored::of("consistency_ect");
    let mut student = open_dhariwal(&config, Weights::Theirs(&weights)).unwrap();
    student.network = state::cast(student.network, DType::F64);
    let (own, constant) = (on_rows(student.network.clone()), on_rows(student.network.valid()));
    let settings = MapSettings { form: MapForm::Edm { sigma_data: 0.5 }, noise_input: NoiseInput::QuarterLogNoise {} };
    // Their levels are not kept between two ends.
    let schedule = AnySchedule::from(Edm { sigma_min: 1e-4, sigma_max: 1e4 });
    let map = |network| MapNetwork::new(network, settings, schedule.clone()).unwrap();
    let maps = Maps {
        student: map(&own as &dyn Network),
        target: map(&constant as &dyn Network),
        teacher: None,
        step: 0,
        steps: 1,
    };
    for case in stored.config["losses"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let number = |key: &str| case[key].as_f64().unwrap();
        let shrink = match case["adj"].as_str().unwrap() {
            "const" => Shrink::Constant {},
            _ => Shrink::Sigmoid { k: number("k"), b: number("b") },
        };
        let easy = Easy { q: number("q"), shrink, c: number("c"), ..Easy::default() };
        let normal = stored.numbers(&format!("{name}.rnd_normal"));
        let from: Vec<Kernel> =
            normal.iter().map(|z| Edm::default().kernel((number("P_std") * z + number("P_mean")).exp())).collect();
        let found: Vec<f64> = from.iter().map(|at| easy.nearer(at.sigma, case["stage"].as_u64().unwrap())).collect();
        close(&found, &stored.numbers(&format!("{name}.r_f64")), 1e-9, &format!("{name}, r"));
        let given = classes(&stored.numbers(&format!("{name}.labels")));
        let (x0, eps) = (stored.rows(&format!("{name}.images")), stored.rows(&format!("{name}.eps")));
        let keys = Keys::range(0, 0, 3);
        let examples = Examples::new(&x0, &given, &keys);
        let losses = easy.at_levels(&maps, &examples, &eps, from, case["stage"].as_u64().unwrap()).unwrap().losses;
        close(&host(&losses), &stored.numbers(&format!("{name}.loss_f64")), 1e-9, name);
        stored.check_gradients(name, &student.gradients(&losses.mean().backward()));
    }
    // Where it is sampled, they move the boundary to 0.003; ours stays at clean data, which is the training form.
    let x = stored.rows("precond.x");
    let given = classes(&stored.numbers("precond.labels"));
    let at: Vec<Kernel> = stored.numbers("precond.sigma").iter().map(|&sigma| Edm::default().kernel(sigma)).collect();
    for (form, what) in
        [(MapForm::Edm { sigma_data: 0.5 }, "training"), (MapForm::EdmShifted { sigma_data: 0.5 }, "evaluation")]
    {
        let settings = MapSettings { form, ..settings };
        let schedule = AnySchedule::from(Edm { sigma_min: 0.003, sigma_max: 80.0 });
        let map = MapNetwork::new(&constant as &dyn Network, settings, schedule).unwrap();
        let end = map.end().unwrap();
        let carried = map.carry(x.clone().into(), (&at[..]).into(), Levels::Same(&end), &given).unwrap().value;
        close(&host(&carried), &host(&stored.rows(&format!("precond.{what}_f64"))), 1e-9, what);
    }
}
