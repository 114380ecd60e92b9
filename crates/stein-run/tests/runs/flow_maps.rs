//! Flow maps of every kind, trained on a mixture on the line, where the map is known: it is the quantile map.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use stein::{Condition, Kernel, Schedule, rows};
use stein_nn::{Checkpoint, LearnerState};
use stein_run::{Event, Experiment, Learned, RunDir, Silent, Watch, prepare, train};

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
    learns(EDM, SHIFTED, r#"{ kind = "distillation", target = { kind = "following", decay = 0.5 } }"#, true, 3000);
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

/// The small run of this folder's tests with another family in place of diffusion.
fn other(family: &str, settings: &[&str]) -> Experiment {
    let (before, rest) = crate::TINY.split_once("[family]").unwrap();
    let (_, after) = rest.split_once("[train]").unwrap();
    let sample = if family.contains("progressive") { "ddim" } else { "multistep" };
    let after = after.replace(r#"kind = "heun""#, &format!(r#"kind = "{sample}""#));
    let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    Experiment::parse(&format!("{before}[family]\n{family}\n[train]\n{after}"), &settings).unwrap()
}

const NETWORK: &str = r#"
    schedule = { kind = "edm" }
    noise_input = { kind = "quarter_log_noise" }
    network = { kind = "mlp", hidden = 16, blocks = 1, embedding_dim = 8 }
"#;

fn distilled(teacher: &Path, settings: &[&str]) -> Experiment {
    let family = format!(
        r#"kind = "consistency"
        form = {{ kind = "edm", sigma_data = 0.5 }}
        objective = {{ kind = "distillation", target = {{ kind = "following", decay = 0.5 }} }}
        teacher = {{ model = "{}" }}
        {NETWORK}"#,
        teacher.display()
    );
    other(&family, settings)
}

fn learners(run: &Path) -> BTreeMap<String, LearnerState> {
    Checkpoint::read(&RunDir::open(run).unwrap().latest().unwrap()).unwrap().learners
}

/// Of every family with a teacher, a target or a schedule of stages.
#[test]
fn students_go_on_bit_for_bit_and_begin_with_the_teachers_weights() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    crate::run(&crate::tiny(&[]), &at("teacher"), false).unwrap();
    let matching = format!(
        "kind = \"distribution_matching\"\nsigma_data = 0.5\nlevels = {{ kind = \"log_normal\" }}\nupdates = 2\nteacher = {{ model = \"{}\" }}\n{NETWORK}",
        at("teacher").display()
    );
    let continuous = "family.objective={kind=\"continuous\", warmup=6}";
    let students = [
        ("following", distilled(&at("teacher"), &[])),
        ("continuous", distilled(&at("teacher"), &[continuous])),
        ("matching", other(&matching, &[])),
    ];
    for (name, whole) in students {
        let (one, two) = (at(&format!("{name}-whole")), at(&format!("{name}-parts")));
        crate::run(&whole, &one, false).unwrap();
        // The same curriculum: what is stopped was to take as many steps.
        let mut stop = StopAt(AtomicU64::new(0), 6);
        let stopped = train(prepare(&whole, &options(two.clone(), false)).unwrap(), &mut stop).unwrap();
        assert!(stopped.stopped && stopped.step == 6, "{name} stopped at {}", stopped.step);
        crate::run(&whole, &two, true).unwrap();
        assert!(learners(&one) == learners(&two), "{name}: weights, averages or optimizers differ");
    }
    // Before its first step a student is its teacher, and so is its target.
    let fresh = at("fresh");
    prepare(&distilled(&at("teacher"), &[]), &options(fresh.clone(), false)).unwrap();
    let (student, teacher) = (learners(&fresh), learners(&at("teacher")));
    let average = teacher["denoiser"].average.as_ref().unwrap();
    assert!(&student["consistency"].weights == average && &student["target"].weights == average);
    // Afterwards the target is on its way, neither here nor there.
    let after = learners(&at("following-whole"));
    assert!(after["target"].weights != after["consistency"].weights && &after["target"].weights != average);
    assert!(after["target"].average.is_none(), "a target has no average of its own");
}

/// Stops after some steps.
struct StopAt(AtomicU64, u64);

impl Watch for StopAt {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Trained { step, .. } = event {
            self.0.store(step, Ordering::Relaxed);
        }
    }

    fn going(&self) -> stein::Result<()> {
        if self.0.load(Ordering::Relaxed) >= self.1 { Err(stein::Error::stopped()) } else { Ok(()) }
    }
}

#[test]
fn a_halved_student_is_the_teacher_of_the_next_stage() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    crate::run(&crate::tiny(&[]), &at("teacher"), false).unwrap();
    let family = format!(
        r#"kind = "progressive_distillation"
        prediction = {{ kind = "edm", sigma_data = 0.5 }}
        input_scale = {{ kind = "unit_variance", sigma_data = 0.5 }}
        halving = {{ first = 8, stage = 4 }}
        teacher = {{ model = "{}" }}
        {NETWORK}"#,
        at("teacher").display()
    );
    let experiment = other(&family, &["train.checkpoint_every=1", "train.keep=20"]);
    crate::run(&experiment, &at("student"), false).unwrap();
    let run = RunDir::open(&at("student")).unwrap();
    let learner =
        |step: u64, name: &str| Checkpoint::read(&run.checkpoint_path(step)).unwrap().learners[name].weights.clone();
    for boundary in [4, 8] {
        assert!(learner(boundary, "teacher") == learner(boundary, "denoiser"), "after step {boundary}");
        assert!(learner(boundary - 1, "teacher") != learner(boundary, "teacher"), "the stage before {boundary}");
        assert!(learner(boundary + 1, "teacher") == learner(boundary, "teacher"), "the stage after {boundary}");
    }
}

#[test]
fn teachers_and_settings_that_do_not_fit_are_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let plain = crate::tiny(&[]);
    prepare(&plain, &options(at("teacher"), false)).unwrap();
    prepare(&crate::tiny(&["data.conditional=false"]), &options(at("free"), false)).unwrap();
    prepare(&crate::tiny(&["data.codec=[]"]), &options(at("raw"), false)).unwrap();
    let short = "family.schedule={kind=\"edm\", sigma_max=10.0}";
    prepare(&crate::tiny(&[short]), &options(at("short"), false)).unwrap();
    prepare(&crate::tiny(&["family.network.hidden=24"]), &options(at("wide"), false)).unwrap();
    let digits = "data={source={kind=\"digits\"}, codec=[{kind=\"symmetric\"}], conditional=true}";
    prepare(&crate::tiny(&[digits]), &options(at("digits"), false)).unwrap();
    prepare(&distilled(&at("teacher"), &[]), &options(at("student"), false)).unwrap();
    let mut count = 0;
    let mut refused = |teacher: &str, settings: &[&str], part: &str| {
        count += 1;
        let out = options(at(&format!("none{count}")), false);
        let sentence = prepare(&distilled(&at(teacher), settings), &out).err().expect(part).to_string();
        assert!(sentence.contains(part) && sentence.lines().count() == 1, "{sentence} does not say {part}");
    };
    refused("nowhere", &[], "there is no model at");
    refused("student", &[], "needs a denoiser");
    refused("digits", &[], "take a teacher of the same data");
    refused("free", &[], "no classes");
    refused("raw", &[], "data.codec");
    refused("short", &[], "levels that the teacher knows");
    refused("wide", &[], "family.teacher.start = false");
    refused("teacher", &["family.form.sigma_data=0.7"], "same prediction");
    refused("teacher", &["family.form={kind=\"trig_flow\", sigma_data=0.5}"], "edm or edm_shifted");
    // What is wrong in the file itself.
    let parsed = |settings: &[&str]| {
        let text = distilled(&at("teacher"), &[]).to_toml();
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        Experiment::parse(&text, &settings).and_then(|it| prepare(&it, &options(at("none"), false)).map(drop))
    };
    for (settings, part) in [
        (&["family.objective={kind=\"training\"}"][..], "follows no teacher"),
        (&["family.objective={kind=\"mean_flow\"}"], "mean_velocity"),
        (&["family.objective.points={kind=\"fixed\", count=1}"], "from 2"),
        (&["family.objective={kind=\"continuous\", c=0.0}"], "c is 0"),
        (&["family.form={kind=\"trajectory\", sigma_data=0.5}"], "logarithm is infinite"),
        (&["family.form={kind=\"mean_velocity\"}"], "rectified"),
        (&["sample.grid.spacing={kind=\"given\", noise=[1.0, 2.0]}"], "fall"),
    ] {
        let sentence = parsed(settings).expect_err(part).to_string();
        assert!(sentence.contains(part) && sentence.lines().count() == 1, "{sentence} does not say {part}");
    }
    let alone = distilled(&at("teacher"), &[]).to_toml();
    let alone: String = alone.lines().filter(|line| !line.contains("model =")).collect::<Vec<_>>().join("\n");
    let alone = alone.replace("[family.teacher]", "");
    let sentence = Experiment::parse(&alone.replace("start = true", ""), &[])
        .and_then(|it| prepare(&it, &options(at("none"), false)).map(drop))
        .expect_err("a student without a teacher")
        .to_string();
    assert!(sentence.contains("family.teacher.model"), "{sentence}");
}
