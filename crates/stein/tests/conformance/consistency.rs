//! Consistency objectives against stored values of the published code, and against the map of a mixture on the line, which is known.

use std::{fs, path::Path};

use burn::tensor::Gradients;
use serde_json::Value;
use stein::{
    AnySchedule, Condition, Context, Dual, Edm, Grid, Kernel, Keys, Levels, MapForm, MapNetwork, MapSettings, Network,
    NoiseInput, Rectified, Result, Schedule, Tensor,
    consistency::{
        Easy, Halving, Improved, Maps, MeanFlow, Metric, Pair, PairOfTimes, PairWeighting, Points, Shrink, Solver,
        Tangent, Target,
    },
    exact::{Exact, GaussianMixture, MixtureFile},
    rows::{self, host},
};

use crate::{assert_close, flow, line, stochastic::Stored, tensor};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn open(name: &str, file: &str) -> Stored {
    Stored(fs::read(folder(name).join(file)).unwrap())
}

fn json(name: &str, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder(name).join(file)).unwrap()).unwrap()
}

fn numbers(of: &Value) -> Vec<f64> {
    of.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Equal to a relative error of the largest number.
fn close(found: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= tolerance * largest, "{what}: {found} for {wanted}, largest {largest}");
    }
}

/// The stored perceptron: x, then sines and cosines of every number it is told; no class is −1.
#[derive(Clone)]
struct Perceptron {
    frequencies: Tensor<2>,
    layers: [(Tensor<2>, Tensor<2>); 2],
    classes: bool,
}

impl Perceptron {
    fn read(stored: &Stored, hidden: usize, classes: bool) -> Self {
        let matrix = |name: &str, rows: usize| {
            let values = stored.numbers(name);
            let dim = values.len() / rows;
            tensor(&values, dim)
        };
        let layer = |i: usize, rows: usize| {
            (matrix(&format!("layers.{i}.weight"), rows), matrix(&format!("layers.{i}.bias"), 1))
        };
        Self { frequencies: matrix("freqs", 1), layers: [layer(0, hidden), layer(1, 2)], classes }
    }

    /// With weights that can be differentiated by.
    fn tracked(&self) -> Self {
        let leaf = |x: &Tensor<2>| x.clone().autodiff().require_grad();
        Self { layers: self.layers.clone().map(|(w, b)| (leaf(&w), leaf(&b))), ..self.clone() }
    }

    fn check_gradients(&self, gradients: &Gradients, stored: &Stored, case: &str) {
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            for (what, leaf) in [("weight", weight), ("bias", bias)] {
                let found = host(&leaf.grad(gradients).unwrap());
                let name = format!("{case}.grad.layers.{i}.{what}");
                close(&found, &stored.numbers(&name), 1e-9, &name);
            }
        }
    }
}

impl Network for Perceptron {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let [count, _] = x.dims();
        let device = x.value.device();
        let frequencies = self.frequencies.clone().to_device(&device);
        let mut told: Vec<Dual<1>> = vec![context.noise.clone()];
        told.extend(context.second.clone());
        if self.classes {
            let classes = context.given.class.as_ref().unwrap();
            let numbers = classes.iter().map(|class| class.map_or(-1.0, f64::from)).collect();
            told.push(rows::vector(numbers, &x.value).into());
        }
        let mut parts = vec![x];
        for number in told {
            let angles = number.reshape([count, 1]).linear(|c| c * frequencies.clone());
            parts.push(angles.clone().map(|a| a.sin(), |a| a.cos()));
            parts.push(angles.map(|a| a.cos(), |a| -a.sin()));
        }
        let mut h = Dual::cat(parts, 1);
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            h = h.linear(|h| h.matmul(weight.clone().transpose())).shift(|h| h + bias.clone());
            if i == 0 {
                let sigmoid = |x: Tensor<2>| ((-x).exp() + 1.0).recip();
                h = h.map(
                    |x| x.clone() * sigmoid(x),
                    |x| {
                        let s = sigmoid(x.clone());
                        s.clone() + x * s.clone() * (-s + 1.0)
                    },
                );
            }
        }
        Ok(h)
    }
}

#[test]
fn continuous_tangents_losses_and_gradients_are_the_stored_ones() {
    let (stored, config) = (open("consistency_scm", "io.safetensors"), json("consistency_scm", "config.json"));
    let constant = Perceptron::read(&open("consistency_scm", "weights.safetensors"), 32, false);
    let sigma_data = config["sigma_d"].as_f64().unwrap();
    let mixture: MixtureFile = serde_json::from_value(config["mixture"].clone()).unwrap();
    let mixture = GaussianMixture::try_from(mixture).unwrap();
    let settings = MapSettings {
        form: MapForm::TrigFlow { sigma_data, anywhere: false },
        noise_input: NoiseInput::Angle { sigma_data },
    };
    let schedule = AnySchedule::from(Edm { sigma_min: 1e-3, sigma_max: 1e3 });
    let t = stored.numbers("t");
    let at: Vec<Kernel> = t.iter().map(|t| Edm::default().kernel(sigma_data * t.tan())).collect();
    let (x0, eps, w) = (stored.numbers("x0"), stored.numbers("eps"), stored.numbers("w"));
    let each = |f: &dyn Fn(usize, f64) -> f64| tensor(&(0..24).map(|k| f(k, t[k / 2])).collect::<Vec<_>>(), 2);
    let x = each(&|k, t| t.cos() * x0[k] + t.sin() * sigma_data * eps[k]);
    close(&host(&x), &stored.numbers("x_t"), 1e-12, "x_t");
    let given = Condition::none();
    let scaled = each(&|k, t| (t.cos() * x0[k] + t.sin() * sigma_data * eps[k]) / t.cos());
    let denoised = host(&stein::denoise(&mixture, scaled, (&at[..]).into(), &given).unwrap());
    close(&denoised, &stored.numbers("E_x0"), 1e-9, "E[x0 given x_t]");
    for kind in ["scd", "sct"] {
        let x = host(&x);
        let velocity = each(&|k, t| match kind {
            "scd" => (t.cos() * x[k] - denoised[k]) / t.sin(),
            _ => t.cos() * sigma_data * eps[k] - t.sin() * x0[k],
        });
        for r in numbers(&config["r"]) {
            let case = format!("{kind}_r{}", if r == 1.0 { "1.0".to_owned() } else { r.to_string() });
            let named = |what: &str| stored.numbers(&format!("{case}.{what}"));
            // Cancels for small t.
            close(&host(&velocity), &named("dxdt"), 1e-8, &format!("{case}, dx/dt"));
            let map = MapNetwork::new(&constant as &dyn Network, settings, schedule.clone()).unwrap();
            let x = tensor(&x, 2);
            let tangent = Tangent::at(&map, &x, &velocity, &at, r, &given, None).unwrap();
            close(&host(&tangent.output), &named("F"), 1e-12, &format!("{case}, F"));
            close(&host(&tangent.product), &named("jvp"), 1e-8, &format!("{case}, product"));
            close(&host(&tangent.g), &named("g"), 1e-8, &format!("{case}, g"));
            let target = tangent.target(config["c"].as_f64().unwrap());
            let normalized = host(&(target.clone() - tangent.output.clone()));
            close(&normalized, &named("g_normalised"), 1e-8, &format!("{case}, normalized"));
            // The loss as the algorithm writes it, with a weight for each row.
            let tracked = constant.tracked();
            let weight = tensor(&w, 1).autodiff().require_grad();
            let context = Context::new(rows::vector(t.clone(), &x), &given);
            let f = tracked.forward(x.mul_scalar(1.0 / sigma_data).autodiff().into(), &context).unwrap().value;
            let squares = (f - target.autodiff()).square().mean_dim(1);
            let losses = weight.clone().exp() * squares - weight.clone();
            close(&host(&losses.clone().inner()), &named("loss"), 1e-9, &format!("{case}, loss"));
            let gradients = losses.mean().backward();
            tracked.check_gradients(&gradients, &stored, &case);
            close(&host(&weight.grad(&gradients).unwrap()), &named("grad.w"), 1e-9, &format!("{case}, gradient by w"));
        }
    }
    let normal = stored.numbers("time.rnd_normal");
    let mean_and_std = (config["P_mean"].as_f64().unwrap(), config["P_std"].as_f64().unwrap());
    let times: Vec<f64> =
        normal.iter().map(|z| ((mean_and_std.1 * z + mean_and_std.0).exp() / sigma_data).atan()).collect();
    close(&times, &stored.numbers("time.t"), 1e-12, "times");
}

/// Turned in sign, a network of the form edm is one of trig_flow.
#[test]
fn both_forms_to_clean_data_have_the_same_tangent() {
    struct Turned(Perceptron);
    impl Network for Turned {
        fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
            Ok(self.0.forward(x, context)?.linear(|y| -y))
        }
    }
    let network = Perceptron::read(&open("consistency_scm", "weights.safetensors"), 32, false);
    let turned = Turned(network.clone());
    let noise_input = NoiseInput::QuarterLogNoise {};
    let schedule = AnySchedule::from(Edm::default());
    let map = |network, form| MapNetwork::new(network, MapSettings { form, noise_input }, schedule.clone()).unwrap();
    let trig = map(&network as &dyn Network, MapForm::TrigFlow { sigma_data: 0.5, anywhere: false });
    let edm = map(&turned as &dyn Network, MapForm::Edm { sigma_data: 0.5 });
    let (x, v) = (tensor(&[0.3, -0.2, 0.5, 0.1], 2), tensor(&[0.2, 0.4, -0.3, 0.6], 2));
    let at = [Edm::default().kernel(0.4), Edm::default().kernel(3.0)];
    let given = Condition::none();
    let tangent = |map| host(&Tangent::at(map, &x, &v, &at, 0.7, &given, None).unwrap().g);
    close(&tangent(&trig), &tangent(&edm), 1e-13, "g");
    let carried = |map: &MapNetwork<&dyn Network>| {
        let end = Levels::Same(&Kernel::CLEAN);
        host(&map.carry_at(x.clone().into(), (&at[..]).into(), end, &given, None).unwrap().value)
    };
    close(&carried(&trig), &carried(&edm), 1e-13, "f");
    // g is cos t times the derivative of f along the trajectory, here by central differences in t.
    let t: Vec<f64> = at.iter().map(|at| (at.sigma / 0.5).atan()).collect();
    let full = host(&Tangent::at(&trig, &x, &v, &at, 1.0, &given, None).unwrap().g);
    let moved = |h: f64| {
        let at: Vec<Kernel> = t.iter().map(|t| Edm::default().kernel(0.5 * (t + h).tan())).collect();
        // x in the coordinates of the schedule: divided by cos t.
        let x: Vec<f64> = (0..4).map(|k| (host(&x)[k] + h * host(&v)[k]) / (t[k / 2] + h).cos()).collect();
        let end = Levels::Same(&Kernel::CLEAN);
        host(&trig.carry_at(tensor(&x, 2).into(), (&at[..]).into(), end, &given, None).unwrap().value)
    };
    let h = 1e-5;
    let (after, before) = (moved(h), moved(-h));
    let slopes: Vec<f64> = (0..4).map(|k| t[k / 2].cos() * (after[k] - before[k]) / (2.0 * h)).collect();
    close(&full, &slopes, 1e-6, "cos t df/dt");
}

#[test]
fn mean_flow_is_the_stored_one() {
    let (stored, config) = (open("meanflow", "io.safetensors"), json("meanflow", "config.json"));
    let constant = Perceptron::read(&open("meanflow", "weights.safetensors"), 32, false);
    let guided = Perceptron::read(&open("meanflow", "weights_guided.safetensors"), 24, true);
    let settings = MapSettings { form: MapForm::MeanVelocity {}, noise_input: NoiseInput::Time { factor: 1.0 } };
    let schedule = AnySchedule::from(Rectified::default());
    let map = |network| MapNetwork::new(network, settings, schedule.clone()).unwrap();
    let at = |name: &str| -> Vec<Kernel> { stored.numbers(name).iter().map(|&t| schedule.kernel(t)).collect() };
    let (from, to) = (at("t"), at("r"));
    let (x, e) = (tensor(&stored.numbers("x"), 2), tensor(&stored.numbers("e"), 2));
    let z = tensor(&stored.numbers("z"), 2);
    let v = e - x;
    close(&host(&v), &stored.numbers("v"), 1e-12, "v");
    let length = |of: &Tensor<2>| {
        let by = from.iter().zip(&to).map(|(from, to)| from.t - to.t).collect();
        rows::scale(of.clone(), &stein::Factors::Each(by))
    };
    let none = Condition::none();
    let (u, slope) = MeanFlow::along(&map(&constant as &dyn Network), &z, &v, &from, &to, &none, None).unwrap();
    close(&host(&u), &stored.numbers("u"), 1e-12, "u");
    close(&host(&slope), &stored.numbers("dudt"), 1e-11, "du/dt");
    let target = v.clone() - length(&slope);
    close(&host(&target), &stored.numbers("u_tgt"), 1e-11, "target");
    // What the network says of (z, t, t − r) with weights that can be differentiated by.
    let said = |network: &Perceptron, given: &Condition| {
        let apart = from.iter().zip(&to).map(|(from, to)| from.t - to.t).collect();
        let noise = rows::vector(from.iter().map(|at| at.t).collect(), &z);
        let context = Context { second: Some(rows::vector(apart, &z).into()), ..Context::new(noise, given) };
        network.forward(z.clone().autodiff().into(), &context).unwrap().value
    };
    for case in config["losses"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (power, epsilon) = (case["norm_p"].as_f64().unwrap(), case["norm_eps"].as_f64().unwrap());
        let objective = MeanFlow { power, epsilon, ..MeanFlow::default() };
        let tracked = constant.tracked();
        let squared = (said(&tracked, &none) - target.clone().autodiff()).square().sum_dim(1);
        let errors = host(&squared.clone().inner());
        close(&errors, &stored.numbers(&format!("{name}.squared_error")), 1e-11, name);
        let loss = objective.weighted(squared).mean();
        assert_close(loss.clone().into_scalar::<f64>(), stored.numbers(&format!("{name}.loss"))[0], 1e-11, name);
        tracked.check_gradients(&loss.backward(), &stored, name);
    }
    let given = Condition::classes(stored.numbers("label").iter().map(|&label| label as u32));
    for case in config["guided"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let number = |key: &str| case[key].as_f64().unwrap();
        let objective = MeanFlow {
            omega: number("omega"),
            kappa: number("kappa"),
            guided_from: number("t_start"),
            guided_to: number("t_end"),
            ..MeanFlow::default()
        };
        let map = map(&guided as &dyn Network);
        let v = objective.velocity(&map, &z, v.clone(), &from, &given, None).unwrap();
        let (_, slope) = MeanFlow::along(&map, &z, &v, &from, &to, &given, None).unwrap();
        let target = v.clone() - length(&slope);
        for (what, found) in [("v_g", &v), ("dudt", &slope), ("u_tgt", &target)] {
            close(&host(found), &stored.numbers(&format!("{name}.{what}")), 1e-11, &format!("{name}, {what}"));
        }
        let tracked = guided.tracked();
        let squared = (said(&tracked, &given) - target.autodiff()).square().sum_dim(1);
        let loss = objective.weighted(squared).mean();
        assert_close(loss.clone().into_scalar::<f64>(), stored.numbers(&format!("{name}.loss"))[0], 1e-11, name);
        tracked.check_gradients(&loss.backward(), &stored, name);
    }
    let draws = ["normal_t", "normal_r", "uniform"].map(|name| stored.numbers(&format!("times.{name}")));
    for (i, of) in config["times"].as_array().unwrap().iter().enumerate() {
        let number = |key: &str| of[key].as_f64().unwrap();
        let second_mean = (of["tr_sampler"] == "v1").then(|| number("P_mean_r"));
        let times =
            PairOfTimes { mean: number("P_mean_t"), std: number("P_std_t"), second_mean, apart: number("ratio") };
        let (t, r): (Vec<f64>, Vec<f64>) = (0..16).map(|k| times.of(draws[0][k], draws[1][k], draws[2][k])).unzip();
        close(&t, &stored.numbers(&format!("times.t_{i}")), 1e-12, "t");
        close(&r, &stored.numbers(&format!("times.r_{i}")), 1e-12, "r");
    }
}

#[test]
fn curricula_and_levels_are_the_published_ones() {
    let values = json("consistency_curricula", "values.json");
    for of in values["progressive"].as_array().unwrap() {
        let count = |key: &str| of[key].as_u64().unwrap() as usize;
        let (first, last) = (count("start_scales"), count("end_scales"));
        let points = match of["scale_mode"].as_str().unwrap() {
            "fixed" => Points::Fixed { count: first },
            _ => Points::Progressive { first, last },
        };
        let start = of["start_ema"].as_f64().unwrap();
        let target = match of["target_ema_mode"].as_str().unwrap() {
            "adaptive" => Target::Adaptive { start, first },
            _ => Target::Following { decay: start },
        };
        let steps = of["total_steps"].as_u64().unwrap();
        for ((step, scales), ema) in numbers(&of["at"]).iter().zip(numbers(&of["scales"])).zip(numbers(&of["ema"])) {
            let found = points.at(*step as u64, steps);
            assert_eq!(found as f64, scales, "N({step}) of {steps}");
            // Stored in single precision where it is a setting.
            assert_close(target.decay(found).unwrap(), ema, 1e-7, format!("mu({step})"));
        }
    }
    let of = &values["halving"];
    let number = |key: &str| of[key].as_u64().unwrap();
    let halving = Halving { first: number("start_scales") as usize, stage: number("distill_steps_per_iter") };
    for (step, wanted) in numbers(&of["at"]).iter().zip(numbers(&of["scales"])) {
        assert_eq!(halving.at(*step as u64) as f64, wanted, "steps at {step}");
    }
    for of in values["doubling"].as_array().unwrap() {
        let count = |key: &str| of[key].as_u64().unwrap();
        let points = Points::Doubling { first: count("s0") as usize, last: count("s1") as usize };
        for (step, wanted) in numbers(&of["at"]).iter().zip(numbers(&of["N"])) {
            assert_eq!(points.at(*step as u64, count("K")) as f64, wanted, "N({step}) of {}", count("K"));
        }
    }
    for of in values["levels"].as_array().unwrap() {
        let number = |key: &str| of[key].as_f64().unwrap();
        let schedule = Edm { sigma_min: number("sigma_min"), sigma_max: number("sigma_max") };
        let points = Points::Fixed { count: of["N"].as_u64().unwrap() as usize };
        let levels = points.levels(0, 1, &schedule).unwrap();
        let improved = Improved { mean: number("P_mean"), std: number("P_std"), ..Improved::default() };
        let rising = |mut all: Vec<f64>| {
            all.reverse();
            all
        };
        let sigmas = rising(levels.iter().map(|at| at.sigma).collect());
        close(&sigmas, &numbers(&of["sigmas"]), 1e-12, "levels");
        let found = rising(improved.probabilities(&levels));
        for (found, wanted) in found.iter().zip(numbers(&of["p"])) {
            assert!((found / wanted - 1.0).abs() < 1e-9, "p: {found} for {wanted}");
        }
        let weights = levels.windows(2).map(|pair| PairWeighting::Interval {}.weight(&pair[0], &pair[1])).collect();
        close(&rising(weights), &numbers(&of["weights"]), 1e-9, "weights");
    }
    let t = numbers(&values["t"]);
    for of in values["easy"].as_array().unwrap() {
        let number = |key: &str| of[key].as_f64().unwrap();
        let shrink = match of["adj"].as_str().unwrap() {
            "const" => Shrink::Constant {},
            _ => Shrink::Sigmoid { k: number("k"), b: number("b") },
        };
        let easy = Easy { q: number("q"), shrink, ..Easy::default() };
        let found: Vec<f64> = t.iter().map(|&t| easy.nearer(t, of["stage"].as_u64().unwrap())).collect();
        close(&found, &numbers(&of["r"]), 1e-12, "r");
    }
}

/// The exact map differs along a step by the error of the solver, of order h^(p + 1).
#[test]
fn distilling_the_exact_map_leaves_the_error_of_the_solver() {
    let schedule = Edm { sigma_min: 0.1, sigma_max: 10.0 };
    let (mixture, keys) = (line(), Keys::range(5, 0, 64));
    let x0 = tensor(&mixture.draw_clean(&keys), 1);
    let eps = tensor(&keys.normal(stein::Purpose::Perturbation, 0, 1), 1);
    let given = Condition::none();
    for (solver, order) in [(Solver::Euler, 1), (Solver::Heun, 2)] {
        let floor = |count: usize| {
            let levels = Grid { clean: false, ..Grid::karras(count) }.kernels(&schedule).unwrap();
            let (mut sum, mut rows) = (0.0, 0.0);
            // The levels from a tenth to nine tenths of the way, so that N and 2N steps begin and end alike.
            for i in (count / 10)..(9 * count / 10) {
                let (from, to) = (vec![levels[i]; 64], vec![levels[i + 1]; 64]);
                let pair = Pair::of_teacher(&x0, &eps, from, to, &mixture, solver, &given).unwrap();
                for (x, next) in host(&pair.x).into_iter().zip(host(&pair.next)) {
                    let end = levels[count];
                    sum += (flow(x, &levels[i], &end) - flow(next, &levels[i + 1], &end)).powi(2);
                    rows += 1.0;
                }
            }
            (sum / rows).sqrt()
        };
        let (coarse, fine) = (floor(40), floor(80));
        let found = (coarse / fine).log2();
        // Next terms of the series are some percent of the first at these lengths.
        assert!((found - f64::from(order + 1)).abs() < 0.25, "{solver:?}: order {found}, from {coarse} to {fine}");
        assert!(fine < 1e-2, "{solver:?}: {fine}");
    }
}

/// F = θ tanh x.
struct OneParameter(Tensor<2>);

impl Network for OneParameter {
    fn forward(&self, x: Dual<2>, _: &Context) -> Result<Dual<2>> {
        Ok(x.map(|x| x.tanh(), |x| -x.tanh().square() + 1.0).linear(|x| x * self.0.clone()))
    }
}

/// Song et al. 2023, theorem 2: for ever closer neighbors the gradient of training is that of distillation.
#[test]
fn the_gradient_of_training_tends_to_that_of_distillation() {
    let (mixture, schedule) = (line(), AnySchedule::from(Edm { sigma_min: 0.1, sigma_max: 10.0 }));
    let settings =
        MapSettings { form: MapForm::EdmShifted { sigma_data: 1.2 }, noise_input: NoiseInput::QuarterLogNoise {} };
    // Midpoints of equal parts of the mass of both, so that sums over all pairs are expectations to about 1e-3.
    let count = 300;
    let place = |i: usize| (i as f64 + 0.5) / count as f64;
    let quantile = |p: f64, below: &dyn Fn(f64) -> f64| {
        let (mut low, mut high) = (-20.0, 20.0);
        for _ in 0..80 {
            let middle = 0.5 * (low + high);
            if below(middle) < p { low = middle } else { high = middle }
        }
        low
    };
    let clean: Vec<f64> = (0..count).map(|i| quantile(place(i), &|x| crate::tail(x, &Kernel::CLEAN, false))).collect();
    let normal: Vec<f64> =
        (0..count).map(|i| quantile(place(i), &|x| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2))).collect();
    let x0 = tensor(&(0..count * count).map(|k| clean[k / count]).collect::<Vec<_>>(), 1);
    let eps = tensor(&(0..count * count).map(|k| normal[k % count]).collect::<Vec<_>>(), 1);
    let given = Condition::none();
    let gap = |step: f64| {
        let at = |sigma: f64| vec![schedule.kernel(schedule.time_at(-2.0 * sigma.ln())); count * count];
        let gradient = |pair: Pair| {
            let theta = tensor(&[0.7], 1).autodiff().require_grad();
            let (student, target) = (OneParameter(theta.clone()), OneParameter(tensor(&[0.7], 1).autodiff()));
            let map = |network| MapNetwork::new(network, settings, schedule.clone()).unwrap();
            let maps = Maps {
                student: map(&student as &dyn Network),
                target: map(&target as &dyn Network),
                teacher: None,
                step: 0,
                steps: 1,
            };
            let pair = Pair { x: pair.x.autodiff(), next: pair.next.autodiff(), ..pair };
            let losses = pair.losses(&maps, Metric::L2 {}, PairWeighting::Interval {}, &given, None).unwrap();
            host(&theta.grad(&losses.mean().backward()).unwrap())[0]
        };
        let trained = gradient(Pair::of_data(&x0, &eps, at(1.0), at(1.0 - step)));
        let distilled =
            gradient(Pair::of_teacher(&x0, &eps, at(1.0), at(1.0 - step), &mixture, Solver::Heun, &given).unwrap());
        println!("step {step}: {trained} and {distilled}");
        (trained / distilled - 1.0).abs()
    };
    let (far, near) = (gap(0.2), gap(0.02));
    assert!(near < 0.02 && near < 0.3 * far, "the gradients differ by {far} and then by {near} of them");
}
