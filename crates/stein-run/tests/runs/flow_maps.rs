//! Flow maps of every kind, trained on a mixture on the line, where the map is known: it is the quantile map.

use std::{fs, path::Path};

use stein::{Condition, Kernel, Schedule, rows};
use stein_run::{Experiment, Learned, Silent, prepare, train};

use crate::options;

const WEIGHTS: [f64; 2] = [0.3, 0.7];
const MEANS: [f64; 2] = [-0.4, 0.5];
const STDS: [f64; 2] = [0.3, 0.3];

/// P(x_t < x), or above x if `upper`, which keeps the digits of small numbers.
fn tail(x: f64, at: &Kernel, upper: bool) -> f64 {
    let sign = if upper { 1.0 } else { -1.0 };
    let of = |i: usize| {
        let std = (at.alpha * STDS[i]).hypot(at.sigma);
        0.5 * WEIGHTS[i] * libm::erfc(sign * (x - at.alpha * MEANS[i]) / (std * std::f64::consts::SQRT_2))
    };
    of(0) + of(1)
}

/// The x that has so much of the mass below it, or above it if `upper`.
fn quantile(mass: f64, at: &Kernel, upper: bool) -> f64 {
    let (mut low, mut high) = (-1e3, 1e3);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if (tail(middle, at, upper) < mass) != upper { low = middle } else { high = middle }
    }
    low
}

/// Where the trajectory through x leads: x_s = F_s⁻¹(F_t(x_t)).
fn quantile_map(x: f64, from: &Kernel, to: &Kernel) -> f64 {
    let upper = tail(x, from, true) < 0.5;
    quantile(tail(x, from, upper), to, upper)
}

/// Draws of the mixture in a table, the mixture itself in a file, and an experiment on them.
fn experiment(folder: &Path, schedule: &str, form: &str, objective: &str, teacher: bool, steps: u32) -> Experiment {
    let table = folder.join("line.csv");
    // Quantiles in an order that has nothing to do with their size, so that nothing is left to chance.
    let count = 4001;
    let place = |i: usize| (((i * 1597) % count) as f64 + 0.5) / count as f64;
    let values: Vec<String> = (0..count).map(|i| quantile(place(i), &Kernel::CLEAN, false).to_string()).collect();
    fs::write(&table, format!("x\n{}\n", values.join("\n"))).unwrap();
    let mixture = folder.join("mixture.json");
    fs::write(&mixture, r#"{"weights":[0.3,0.7],"means":[[-0.4],[0.5]],"stds":[0.3,0.3]}"#).unwrap();
    let anywhere = form.contains("anywhere") || form.contains("trajectory") || form.contains("mean_velocity");
    let noise_input = if form.contains("mean_velocity") {
        "{ kind = \"time\" }"
    } else if anywhere {
        "{ kind = \"angle\", sigma_data = 0.5 }"
    } else {
        "{ kind = \"quarter_log_noise\" }"
    };
    let teacher = if teacher {
        format!("teacher = {{ model = \"exact:{}\", start = false }}", mixture.display())
    } else {
        String::new()
    };
    let clean = !form.contains("shifted") && !anywhere || form.contains("mean_velocity");
    let text = format!(
        r#"
        [data]
        source = {{ kind = "table", path = "{}" }}
        [family]
        kind = "consistency"
        schedule = {schedule}
        form = {form}
        noise_input = {noise_input}
        network = {{ kind = "mlp", hidden = 64, blocks = 2, embedding_dim = 32, second_level = {anywhere} }}
        objective = {objective}
        {teacher}
        [train]
        steps = {steps}
        batch = 256
        rate = {{ rate = 3e-3, warmup = 50, decay = {{ kind = "cosine", steps = {steps} }} }}
        optimizer = {{ clip = 1.0 }}
        ema = {{ kind = "decay", decay = 0.995 }}
        log_every = 500
        checkpoint_every = 100000
        [sample]
        sampler = {{ kind = "multistep" }}
        grid = {{ spacing = {{ kind = "karras" }}, steps = 1, clean = {clean} }}
        "#,
        table.display()
    );
    Experiment::parse(&text, &[]).unwrap()
}

/// The root-mean-square error of the map from the noisiest level to the end, over the quantiles of the prior.
fn error(learned: &Learned, schedule: &dyn Schedule) -> f64 {
    let map = learned.flow_map.as_deref().unwrap();
    let (first, last) = schedule.span();
    let (from, end) = (schedule.kernel(last), map.end().unwrap_or_else(|| schedule.kernel(first)));
    let count = 400;
    let prior: Vec<f64> = (0..count).map(|i| quantile((f64::from(i) + 0.5) / f64::from(count), &from, false)).collect();
    let like = stein::Tensor::<2>::empty([0, 1], &stein::Device::flex());
    let x = rows::matrix(prior.clone(), 1, &like);
    let carried = map.carry(x.into(), (&from).into(), (&end).into(), &Condition::none()).unwrap().value;
    let squares = rows::host(&carried).into_iter().zip(prior).map(|(y, x)| (y - quantile_map(x, &from, &end)).powi(2));
    (squares.sum::<f64>() / f64::from(count)).sqrt()
}

const EDM: &str = r#"{ kind = "edm", sigma_min = 0.01, sigma_max = 10.0 }"#;

/// Trains, and fails unless the map from the noisiest level is within 0.05 of the exact one, a tenth of the data's spread.
///
/// On the line a norm is an absolute value, and what is found by its slope a median: metrics and tangents are normalized by so much that
/// they are nearly squares. In hundreds of dimensions norms hardly vary, and the published constants do as well.
fn learns(schedule: &str, form: &str, objective: &str, teacher: bool, steps: u32) {
    let folder = tempfile::tempdir().unwrap();
    let experiment = experiment(folder.path(), schedule, form, objective, teacher, steps);
    let prepared = prepare(&experiment, &options(folder.path().join("run"), false)).unwrap();
    let trained = train(prepared, &mut Silent).unwrap();
    let error = error(&trained.model.learned, &**experiment.family.schedule().unwrap());
    println!("{objective}: {error:.4}");
    assert!(error < 0.05, "{objective}: off by {error}");
}

const SHIFTED: &str = r#"{ kind = "edm_shifted", sigma_data = 0.5 }"#;
const UNSHIFTED: &str = r#"{ kind = "edm", sigma_data = 0.5 }"#;
const STRAIGHT: (&str, &str) = (r#"{ kind = "rectified" }"#, r#"{ kind = "mean_velocity" }"#);

#[test]
fn distillation_learns_the_quantile_map() {
    learns(EDM, SHIFTED, r#"{ kind = "distillation", target = { kind = "following", decay = 0.5 } }"#, true, 2000);
}

#[test]
fn training_learns_the_quantile_map() {
    let points = r#"points = { kind = "progressive", first = 4, last = 40 }"#;
    let target = r#"target = { kind = "adaptive", start = 0.9, first = 4 }"#;
    learns(EDM, SHIFTED, &format!(r#"{{ kind = "training", {points}, {target} }}"#), false, 3000);
}

#[test]
fn improved_training_learns_the_quantile_map() {
    let points = r#"points = { kind = "doubling", first = 5, last = 40 }"#;
    let rest = r#"mean = -0.5, std = 1.5, metric = { kind = "pseudo_huber", c = 1.0 }"#;
    learns(EDM, SHIFTED, &format!(r#"{{ kind = "improved_training", {points}, {rest} }}"#), false, 3000);
}

#[test]
fn easy_tuning_learns_the_quantile_map() {
    let levels = r#"levels = { kind = "log_normal", mean = -0.5, std = 1.5 }"#;
    learns(EDM, UNSHIFTED, &format!(r#"{{ kind = "easy_tuning", c = 1.0, {levels} }}"#), false, 3000);
}

#[test]
fn continuous_distillation_learns_the_quantile_map() {
    let levels = r#"levels = { kind = "log_normal", mean = -0.5, std = 1.5 }"#;
    let form = r#"{ kind = "trig_flow", sigma_data = 0.5 }"#;
    learns(EDM, form, &format!(r#"{{ kind = "continuous", c = 1.0, warmup = 200, {levels} }}"#), true, 3000);
}

#[test]
fn continuous_training_learns_the_quantile_map() {
    let levels = r#"levels = { kind = "log_normal", mean = -0.5, std = 1.5 }"#;
    let objective = format!(
        r#"{{ kind = "continuous", velocity = "data", learned_weight = false, c = 10.0, warmup = 200, {levels} }}"#
    );
    learns(EDM, UNSHIFTED, &objective, false, 9000);
}

#[test]
fn mean_flow_learns_the_quantile_map() {
    let (schedule, form) = STRAIGHT;
    let times = "times = { mean = 0.0, std = 2.0, apart = 0.75 }";
    learns(schedule, form, &format!(r#"{{ kind = "mean_flow", power = 0.0, {times} }}"#), false, 6000);
}

#[test]
fn shortcuts_learn_the_quantile_map() {
    let (schedule, form) = STRAIGHT;
    learns(schedule, form, r#"{ kind = "shortcut" }"#, false, 3000);
}

#[test]
fn trajectories_learn_the_quantile_map() {
    let form = r#"{ kind = "trajectory", sigma_data = 0.5 }"#;
    learns(EDM, form, r#"{ kind = "trajectory" }"#, true, 3000);
}
