//! Whole runs on small models: training, resuming, sampling, and every experiment file.

mod autoencoders;
mod classes;
mod classifiers;
mod energy;
mod exact_densities;
mod families;
mod flow;
mod flow_maps;
mod gan;
mod going_on;
mod imports;
#[path = "../../../stein-nn/tests/golden/latent_diffusion.rs"]
mod latent_diffusion;
mod measured;
mod own;
mod reports;
mod schedules;
mod sizes;
mod texts;
mod vae;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use stein::{
    AnySampler, Kind, Result,
    inverse::{AnyMethod, Conditional},
};
use stein_nn::Checkpoint;
use stein_run::{
    AnyFamily, Capability, Changes, Classes, EditOptions, Experiment, Format, Method, Model, Origin, Output,
    RestoreOptions, RunDir, SampleConfig, Silent, Start, Task, TaskSample, TrainOptions, check_output, draw,
    draw_frames, draw_to_file, edit, prepare, restore, train,
};

/// A run of two seconds: moons, a tiny network, every feature of the loop in use.
const TINY: &str = r#"
    [data]
    source = { kind = "points2d", shape = "moons", count = 500 }
    codec = [{ kind = "standardize", std = 0.5 }]
    conditional = true
    [family]
    kind = "diffusion"
    schedule = { kind = "edm" }
    prediction = { kind = "edm", sigma_data = 0.5 }
    input_scale = { kind = "unit_variance", sigma_data = 0.5 }
    noise_input = { kind = "quarter_log_noise" }
    network = { kind = "mlp", hidden = 16, blocks = 1, embedding_dim = 8 }
    objective = { levels = { kind = "log_normal" }, weighting = { kind = "unit" } }
    [train]
    steps = 12
    batch = 24
    accumulate = 2
    rate = { rate = 1e-2, warmup = 3 }
    optimizer = { clip = 1.0, weight_decay = 1e-3 }
    log_every = 1
    checkpoint_every = 4
    keep = 2
    [sample]
    sampler = { kind = "heun" }
    grid = { spacing = { kind = "karras" }, steps = 5 }
    batch = 7
"#;

fn options(out: PathBuf, resume: bool) -> TrainOptions {
    let start = if resume { Start::Resume } else { Start::New };
    TrainOptions { out, start, data_dir: None, device: "cpu".into() }
}

fn tiny(settings: &[&str]) -> Experiment {
    Experiment::parse(TINY, &settings.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
}

fn run(experiment: &Experiment, out: &Path, resume: bool) -> Result<stein_run::Trained> {
    train(prepare(experiment, &options(out.to_owned(), resume))?, &mut Silent)
}

#[test]
fn a_resumed_run_is_the_run_that_never_stopped_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    run(&tiny(&[]), &whole, false).unwrap();
    run(&tiny(&["train.steps=5"]), &parts, false).unwrap();
    run(&tiny(&[]), &parts, true).unwrap();
    let last = |run: &Path| Checkpoint::read(&RunDir::open(run).unwrap().latest().unwrap()).unwrap();
    let (whole, parts) = (last(&whole), last(&parts));
    assert_eq!((whole.step, parts.step), (12, 12));
    assert!(whole.learners == parts.learners, "weights, averages or optimizers differ");
}

#[test]
fn the_metrics_of_a_resumed_run_have_every_step_once() {
    let folder = tempfile::tempdir().unwrap();
    run(&tiny(&["train.steps=6"]), folder.path(), false).unwrap();
    // As after a kill: the newest checkpoint is of step 4, the metrics know more and end in the middle of a line.
    let directory = RunDir::open(folder.path()).unwrap();
    fs::remove_file(directory.checkpoint_path(6)).unwrap();
    let mut text = fs::read_to_string(directory.metrics_path()).unwrap();
    text.push_str("{\"step\": 7, \"lo");
    fs::write(directory.metrics_path(), text).unwrap();
    run(&tiny(&[]), folder.path(), true).unwrap();
    let steps: Vec<u64> = directory.metrics().unwrap().iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    assert_eq!(directory.checkpoints().unwrap(), [8, 12], "train.keep = 2");
}

#[test]
fn a_run_is_loadable_before_its_first_step_and_after_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    prepare(&tiny(&[]), &options(folder.path().join("new"), false)).unwrap();
    let device = stein_run::device("cpu").unwrap();
    Model::open(folder.path().join("new").to_str().unwrap(), &device).unwrap();
    let prepared = prepare(&tiny(&[]), &options(folder.path().join("stopped"), false)).unwrap();
    let stopped = train(prepared, &mut &AtomicBool::new(true)).unwrap();
    assert!(stopped.stopped && stopped.step == 0);
    let resumed = run(&tiny(&[]), &folder.path().join("stopped"), true).unwrap();
    assert!(!resumed.stopped && resumed.step == 12);
}

#[test]
fn a_loss_that_explodes_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let wild = tiny(&["train.rate.rate=1e30", "train.rate.warmup=0", "train.checkpoint_every=1000"]);
    let sentence = match run(&wild, folder.path(), false) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("a learning rate of 1e30 went through"),
    };
    assert!(sentence.contains("training stopped at step") && sentence.contains("00000000.safetensors"), "{sentence}");
    let device = stein_run::device("cpu").unwrap();
    let model = Model::open(folder.path().to_str().unwrap(), &device).unwrap();
    draw(&model, 3, 0, &Classes::Default, &model.sample, &mut Silent).unwrap();
}

#[test]
fn a_run_is_not_overwritten_or_continued_as_another() {
    let folder = tempfile::tempdir().unwrap();
    run(&tiny(&["train.steps=1"]), folder.path(), false).unwrap();
    let again = prepare(&tiny(&[]), &options(folder.path().to_owned(), false)).err().unwrap().to_string();
    assert!(again.contains("--resume"), "{again}");
    let other =
        prepare(&tiny(&["train.batch=12"]), &options(folder.path().to_owned(), true)).err().unwrap().to_string();
    assert!(other.contains("train.batch is 12 and was 24; only train.steps"), "{other}");
    let fewer = prepare(&tiny(&["train.steps=0"]), &options(folder.path().to_owned(), true)).err().unwrap().to_string();
    assert!(fewer.contains("at step 1 already"), "{fewer}");
    let none = prepare(&tiny(&[]), &options(folder.path().join("nowhere"), true)).err().unwrap().to_string();
    assert!(none.contains("no run directory"), "{none}");
}

#[test]
fn samples_of_a_network_do_not_depend_on_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    let model = run(&tiny(&[]), folder.path(), false).unwrap().model;
    let class = Classes::Named("1".into());
    let drawn = |batch: usize| {
        let config = stein_run::SampleConfig { batch, ..model.sample.clone() };
        draw(&model, 64, 3, &class, &config, &mut Silent).unwrap().values
    };
    // Bit for bit: row products are computed alike in any batch.
    let together = drawn(64);
    assert_eq!(drawn(1), together);
    assert_eq!(drawn(7), together);
}

#[test]
fn training_learns_the_moons() {
    // Not a benchmark: two hundred steps must bring the loss well under that of the zero network, which is about 1.
    let folder = tempfile::tempdir().unwrap();
    let settings = ["train.steps=300", "train.batch=128", "train.checkpoint_every=300", "family.network.hidden=64"];
    let trained = run(&tiny(&settings), folder.path(), false).unwrap();
    let losses: Vec<f64> = trained.run.metrics().unwrap().iter().map(|line| line["loss"].as_f64().unwrap()).collect();
    let last = losses[250..].iter().sum::<f64>() / 50.0;
    assert!(last < 0.75 * losses[0], "loss went from {} to {last}", losses[0]);
    // And the classes separate: moons of class 0 lie above those of class 1.
    let mean_y = |class: &str| {
        let drawn = draw(&trained.model, 300, 1, &Classes::Named(class.into()), &trained.model.sample, &mut Silent);
        let values = drawn.unwrap().values;
        values.iter().skip(1).step_by(2).sum::<f32>() / 300.0
    };
    assert!(mean_y("0") > mean_y("1") + 0.2, "{} and {}", mean_y("0"), mean_y("1"));
}

#[test]
fn every_ending_is_written_and_says_how_it_was_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let model = run(&tiny(&["train.steps=1"]), &folder.path().join("run"), false).unwrap().model;
    for ending in ["png", "gif", "webp", "npy", "csv"] {
        let path = folder.path().join(format!("x.{ending}"));
        draw_to_file(&path, &model, 10, 5, &Classes::All, &model.sample, &mut Silent).unwrap();
        assert!(fs::metadata(&path).unwrap().len() > 50, "{ending}");
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(path.with_extension(format!("{ending}.json"))).unwrap()).unwrap();
        assert_eq!((&record["seed"], &record["n"], &record["evaluations"]), (&5.into(), &10.into(), &9.into()));
        assert_eq!(record["sampler"]["kind"], "heun");
    }
    let npy = fs::read(folder.path().join("x.npy")).unwrap();
    assert!(String::from_utf8_lossy(&npy[..128]).contains("'shape': (10, 2)"));
    assert_eq!(npy.len() % 64, 10 * 2 * 4 % 64, "ten float32 pairs after an aligned header");
    let labels = fs::read(folder.path().join("x.npy.labels.npy")).unwrap();
    assert!(String::from_utf8_lossy(&labels[..128]).contains("<i8"));
    let csv = fs::read_to_string(folder.path().join("x.csv")).unwrap();
    assert_eq!(csv.lines().count(), 11);
    for (name, part) in [("x.jpeg", "nearest first"), ("nowhere/x.png", "does not exist")] {
        let sentence = check_output(&folder.path().join(name), &model, &model.sample).unwrap_err().to_string();
        assert!(sentence.contains(part), "{sentence}");
    }
}

#[test]
fn no_file_of_the_run_is_replaced_by_samples() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    run(&tiny(&["train.steps=2", "train.checkpoint_every=1"]), &root, false).unwrap();
    let model = Model::open(&root, &stein::Device::flex()).unwrap();
    for name in ["config.toml", "metrics.jsonl", "checkpoints/00000001.safetensors", "checkpoints/00000002.safetensors"]
    {
        let before = fs::read(root.join(name)).unwrap();
        let output = Output { path: root.join(name), format: Some(Format::Csv), force: true };
        let sentence = draw_to_file(output, &model, 1, 0, &Classes::Default, &model.sample, &mut Silent).unwrap_err();
        assert!(sentence.to_string().contains("which this command reads"), "{sentence}");
        assert_eq!(fs::read(root.join(name)).unwrap(), before);
    }
}

#[test]
fn an_animation_shows_the_moves_within_langevins_steps() {
    let folder = tempfile::tempdir().unwrap();
    let model = run(&tiny(&["train.steps=1"]), &folder.path().join("run"), false).unwrap().model;
    let sampler = stein::Langevin { steps: 20, ..Default::default() };
    let config = SampleConfig {
        sampler: Method::Sampler(sampler.into()),
        grid: stein::Grid { steps: 2, ..model.sample.grid.clone() },
        ..model.sample.clone()
    };
    let drawn = draw_frames(&model, 3, 0, &Classes::All, &config, &mut Silent).unwrap();
    // The start and every move.
    assert_eq!(drawn.frames.len(), 1 + 2 * 20);
    assert!(drawn.frames.windows(2).all(|pair| pair[0] != pair[1]));
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of the experiment files.
fn experiments() -> PathBuf {
    root().join("experiments")
}

fn experiment_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(experiments())
        .unwrap()
        .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_experiment_parses_round_trips_and_refuses_unknown_keys() {
    let files = experiment_files();
    assert!(files.len() >= 10, "{files:?}");
    for file in files {
        let experiment = Experiment::read(&file, &[]).unwrap();
        assert_eq!(Experiment::parse(&experiment.to_toml(), &[]).unwrap(), experiment, "{}", file.display());
        let unknown = Experiment::read(&file, &["train.nonsense=1".into()]).unwrap_err().to_string();
        assert!(unknown.contains("nonsense"), "{unknown}");
        assert!(
            fs::read_to_string(&file).unwrap().starts_with('#'),
            "{} opens with what it reproduces",
            file.display()
        );
    }
}

/// A run resumes where its data are those it was started with, to the last bit of what their codecs were fitted to.
#[test]
fn what_a_checkpoint_says_of_its_data_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("numbers.csv");
    let rows: String =
        (1..200).map(|i| format!("{},{}\n", (f64::from(i) * 1.7).sin() * 3.1, 1.0 / f64::from(i))).collect();
    fs::write(&table, rows).unwrap();
    let experiment = tiny(&[
        &format!("data.source={{kind=\"table\", path=\"{}\"}}", table.display()),
        "data.conditional=false",
        "data.codec=[{kind=\"quantile\"}, {kind=\"standardize\", std=0.5}]",
        "train.steps=1",
    ]);
    let trained = run(&experiment, &folder.path().join("run"), false).unwrap();
    let read = Model::open(folder.path().join("run").to_str().unwrap(), &stein_run::device("cpu").unwrap()).unwrap();
    assert_eq!(read.subject, trained.model.subject);
}

#[test]
fn every_small_experiment_trains_a_step_at_full_size_and_samples() {
    let shared = root().join("../shared/data");
    let (downloaded, own) =
        (["mnist", "fashion-mnist", "cifar10"], ["digits", "points2d", "table", "series", "photos"]);
    for file in experiment_files() {
        let name = file.strip_prefix(experiments()).unwrap().display().to_string();
        let folder = name.split(std::path::is_separator).next().unwrap();
        if !downloaded.contains(&folder) && !own.contains(&folder) {
            continue;
        }
        if downloaded.contains(&folder) && !shared.is_dir() {
            println!("skipped {name}: its data are not on this machine");
            continue;
        }
        let published = Experiment::read(&file, &[]).unwrap();
        let mut quick = vec!["train.steps=1", "train.batch=2"];
        if published.sample.is_some() {
            // Two steps, of DDIM where it is none of few, for the sheet that ends a run: the slow samplers would take minutes.
            quick.push("sample.grid.steps=2");
            if published.family.serves() == [Capability::Denoiser] {
                quick.push("sample.sampler=ddim");
            }
        }
        let mut quick: Vec<String> = quick.into_iter().map(String::from).collect();
        let teachers = tempfile::tempdir().unwrap();
        // The models they say to train first.
        let reflow = matches!(published.family.origin(), Some(Origin::Model(_)));
        if published.family.teacher().is_some() || reflow {
            let first = match (folder, file.file_stem().and_then(|stem| stem.to_str())) {
                ("fashion-mnist", _) => "edm-quick.toml",
                ("points2d", Some("reflow")) => "cfm.toml",
                ("digits", Some("reflow-one-step")) => "ot_cfm.toml",
                _ => "edm.toml",
            };
            let first = Experiment::read(&experiments().join(folder).join(first), &[]).unwrap();
            let run = teachers.path().join("teacher");
            let to = TrainOptions { data_dir: Some(shared.clone()), ..options(run.clone(), false) };
            prepare(&first, &to).unwrap();
            let key = if reflow { "reflow" } else { "teacher" };
            quick.push(format!("family.{key}.model={}", run.display()));
            if reflow {
                quick.push("family.reflow.pairs=20".into());
            }
        }
        let mut experiment = Experiment::read(&file, &quick).unwrap();
        // Their paths are relative to the root of the repository.
        match &mut experiment.data.source {
            stein_data::Source::Table(table) => table.path = root().join(&table.path),
            stein_data::Source::Series(series) => series.path = root().join(&series.path),
            stein_data::Source::Images(images) => images.path = root().join(&images.path),
            _ => {}
        }
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path().to_owned(), false);
        options.data_dir = Some(shared.clone());
        let prepared = prepare(&experiment, &options).unwrap();
        assert!(prepared.parameters() > 1000, "{name}");
        assert_eq!(train(prepared, &mut Silent).unwrap().step, 1, "{name}");
        let device = stein_run::device("cpu").unwrap();
        let model = Model::open(folder.path().to_str().unwrap(), &device).unwrap();
        let Some(sample) = &published.sample else {
            assert!(!model.serves.iter().any(|capability| capability.draws()), "{name}");
            continue;
        };
        // The file's own sampling fits its schedule.
        let (schedule, config) = sample.resolve(published.family.schedule(), true).unwrap();
        if let Some(schedule) = schedule {
            assert_eq!(config.grid.kernels(&*schedule).unwrap().len(), config.grid.steps + 1, "{name}");
        }
        let values = match &experiment.data.shown {
            None => draw(&model, 2, 0, &Classes::Default, &model.sample, &mut Silent).unwrap().values,
            // It draws of what was measured.
            Some(shown) => {
                let method = AnyMethod::from(Conditional::default()).into();
                let measurement = shown.measurement.clone();
                let task = Task { measurement, method, sample: TaskSample::default() };
                let options = RestoreOptions::new(task, experiment.data.source.kind());
                let options = RestoreOptions { simulate: true, inputs: Some(2), n: 1, ..options };
                restore(&model, &options, &mut Silent).unwrap().values
            }
        };
        assert_eq!(values.len(), 2 * model.subject.dim(), "{name}");
    }
}

#[test]
fn what_is_shown_a_measurement_is_not_edited() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(experiments().join("digits/inpaint.toml")).unwrap();
    prepare(&Experiment::parse(&text, &[]).unwrap(), &options(folder.path().join("run"), false)).unwrap();
    let model = Model::open(folder.path().join("run"), &stein_run::device("cpu").unwrap()).unwrap();
    let refused = edit(&model, &EditOptions::new("digits"), &mut Silent).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.to_string().contains("use stein restore"), "{refused}");
}

/// Parameters of the published networks. Those of ADM and of EDM on ImageNet are the papers' and the model cards', in
/// millions; DDPM's on CIFAR-10 is that of its published weights; the others were summed by hand from the layers of the references,
/// or counted in them (256 pixels and more, church96, tower128), the frozen frequencies of Fourier features included.
const PUBLISHED: &[(&str, f64)] = &[
    ("adm/imagenet128", 422e6),
    ("adm/imagenet256", 554e6),
    ("adm/imagenet512", 559e6),
    ("adm/imagenet64", 296e6),
    ("adm/lsun-bedroom256", 552_814_086.0),
    ("adm/lsun-cat256", 552_814_086.0),
    ("adm/lsun-horse256", 552_814_086.0),
    ("consistency/cd-cifar10", 55_733_891.0 - 9.0 * 128.0),
    ("consistency/cd-imagenet64", 296e6),
    ("consistency/ct-cifar10", 55_733_891.0 - 9.0 * 128.0),
    ("consistency/ct-imagenet64", 296e6),
    ("consistency/ect-cifar10", 55_733_891.0 - 9.0 * 128.0),
    ("consistency/ict-cifar10", 55_733_891.0 - 9.0 * 128.0),
    ("consistency/scd-imagenet64", 296e6),
    ("consistency/sct-cifar10", 55_733_891.0 - 9.0 * 128.0),
    ("ddpm/celebahq256", 113_673_219.0),
    ("ddpm/cifar10", 35_746_307.0),
    ("ddpm/lsun-bedroom256", 113_673_219.0),
    ("ddpm/lsun-bedroom256-large", 255_677_955.0),
    ("ddpm/lsun-cat256", 113_673_219.0),
    ("ddpm/lsun-church256", 113_673_219.0),
    ("edm/afhqv2-64-ve", 62_761_219.0),
    ("edm/afhqv2-64-vp", 61_805_571.0),
    ("edm/cifar10-cond-ve", 56_400_771.0),
    ("edm/cifar10-cond-vp", 55_735_299.0),
    ("edm/cifar10-uncond-ve", 56_397_955.0),
    ("edm/cifar10-uncond-vp", 55_733_891.0),
    ("edm/ffhq64-ve", 62_761_219.0),
    ("edm/ffhq64-vp", 61_805_571.0),
    ("edm/imagenet64", 296e6),
    ("ncsn/celeba", 30_117_635.0),
    ("ncsn/cifar10", 30_117_635.0),
    ("ncsn/mnist", 7_638_657.0),
    ("ncsnv2/bedroom128", 83_445_379.0),
    ("ncsnv2/celeba64", 29_694_083.0),
    ("ncsnv2/church96", 83_445_379.0),
    ("ncsnv2/cifar10", 29_694_083.0),
    ("ncsnv2/ffhq256", 94_132_611.0),
    ("ncsnv2/tower128", 83_445_379.0),
    ("score-sde/subvp-cifar10", 61_804_419.0),
    ("score-sde/subvp-cifar10-deep", 106_632_579.0),
    ("score-sde/ve-celebahq1024", 105_785_896.0),
    ("score-sde/ve-celebahq256", 65_574_549.0),
    ("score-sde/ve-cifar10", 62_758_915.0),
    ("score-sde/ve-cifar10-deep", 107_587_075.0),
    ("score-sde/ve-discrete-cifar10", 62_693_251.0),
    ("score-sde/ve-ffhq1024", 105_785_896.0),
    ("score-sde/ve-ffhq256", 65_574_549.0),
    ("score-sde/ve-lsun-bedroom256", 65_574_549.0),
    ("score-sde/ve-lsun-church256", 65_574_549.0),
    ("score-sde/vp-cifar10", 61_804_419.0),
    ("score-sde/vp-cifar10-deep", 106_632_579.0),
    ("score-sde/vp-discrete-cifar10", 61_804_419.0),
];

#[test]
fn published_networks_have_their_number_of_parameters() {
    let mut seen = 0;
    for file in experiment_files() {
        let name = file.strip_prefix(experiments()).unwrap().with_extension("").display().to_string();
        let experiment = Experiment::read(&file, &[]).unwrap();
        let network = match &experiment.family {
            AnyFamily::Diffusion(family) => &family.network,
            AnyFamily::ConsistencyModel(family) => &family.network,
            _ => continue,
        };
        use stein_nn::NetworkConfig::{Mlp, Unet, Unet1d, Unet2dCondition};
        if matches!(network, Mlp(_) | Unet(_) | Unet1d(_) | Unet2dCondition(_)) {
            continue;
        }
        let shape = match &experiment.data.source {
            stein_data::Source::Mnist(_) => [28, 28, 1],
            stein_data::Source::Cifar10(_) => [32, 32, 3],
            stein_data::Source::Images(images) => [images.height.unwrap(), images.width.unwrap(), 3],
            other => panic!("{name}: {other:?}"),
        };
        let classes = match (experiment.data.conditional, &experiment.data.source) {
            (false, _) => 0,
            (true, stein_data::Source::Cifar10(_)) => 10,
            (true, _) => 1000,
        };
        let found = network.parameters(&shape, classes).unwrap();
        let published = PUBLISHED.iter().find(|(published, _)| *published == name);
        let (_, published) = published.unwrap_or_else(|| panic!("{name} is not in the list"));
        // Numbers in millions are rounded to one.
        let bound = if published % 1e6 == 0.0 { 5e5 } else { 0.0 };
        assert!((found as f64 - published).abs() <= bound, "{name} has {found} parameters instead of {published}");
        seen += 1;
    }
    assert_eq!(seen, PUBLISHED.len());
}

#[test]
fn every_sampler_runs_on_a_trained_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = run(&tiny(&["train.steps=1"]), folder.path(), false).unwrap().model;
    for name in AnySampler::NAMES {
        let steps = (!AnySampler::named(name).unwrap().adaptive()).then_some(4);
        for schedule in [None, Some("vp"), Some("rectified")] {
            let changes = Changes {
                sampler: Some((*name).to_owned()),
                grid: Some("uniform".into()),
                steps,
                schedule: schedule.map(str::to_owned),
                ..Changes::default()
            };
            let mut config = model.sample.with(&changes).unwrap();
            if let Method::Sampler(AnySampler::Langevin(langevin)) = &mut config.sampler {
                langevin.steps = 2;
            }
            if let Method::Sampler(AnySampler::Rk45(rk45)) = &mut config.sampler {
                (rk45.rtol, rk45.atol) = (1e-2, 1e-2);
            }
            let drawn = draw(&model, 4, 0, &Classes::Default, &config, &mut Silent).unwrap();
            assert!(drawn.values.iter().all(|v| v.is_finite()), "{name} on {schedule:?}");
        }
    }
    let changes = Changes { sampler: Some("rk45".into()), steps: Some(10), ..Changes::default() };
    let steps = model.sample.with(&changes).unwrap_err().to_string();
    assert!(steps.contains("chooses its own steps"), "{steps}");
}

#[test]
fn damaged_checkpoints_and_foreign_files_are_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let trained = run(&tiny(&["train.steps=1"]), &folder.path().join("run"), false).unwrap();
    let good = fs::read(trained.run.latest().unwrap()).unwrap();
    let device = stein_run::device("cpu").unwrap();
    let refuse = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let sentence = Model::open(path.to_str().unwrap(), &device).err().unwrap().to_string();
        assert!(sentence.contains(name) && sentence.lines().count() == 1, "{sentence}");
    };
    refuse("short.safetensors", &good[..good.len() / 2]);
    refuse("text.safetensors", b"hello");
    refuse("empty.safetensors", b"");
    let nowhere = Model::open("nowhere", &device).err().unwrap().to_string();
    assert!(nowhere.contains("run directory"), "{nowhere}");
}

#[test]
fn label_dropout_makes_guidance_and_the_class_none_possible() {
    let folder = tempfile::tempdir().unwrap();
    let model =
        run(&tiny(&["train.steps=2", "family.label_dropout=0.5"]), &folder.path().join("a"), false).unwrap().model;
    let guided = |scale| model.sample.with(&Changes { guidance: Some(scale), ..Changes::default() }).unwrap();
    let values = |config| draw(&model, 6, 0, &Classes::All, &config, &mut Silent).unwrap().values;
    let plain = values(model.sample.clone());
    // Scale 1 is no guidance; both halves of a batch go through the same products.
    values(guided(1.0)).iter().zip(&plain).for_each(|(a, b)| assert!((a - b).abs() < 1e-5 * (1.0 + b.abs())));
    assert!(values(guided(4.0)) != plain, "guidance changes nothing");
    draw(&model, 6, 0, &Classes::None, &model.sample, &mut Silent).unwrap();
    // A model that always saw its class refuses both, before any work.
    let model = run(&tiny(&["train.steps=1"]), &folder.path().join("b"), false).unwrap().model;
    let config = model.sample.with(&Changes { guidance: Some(2.0), ..Changes::default() }).unwrap();
    let refused = draw(&model, 6, 0, &Classes::All, &config, &mut Silent).unwrap_err().to_string();
    assert!(refused.contains("classifier_free") && refused.contains("label_dropout"), "{refused}");
    let refused = draw(&model, 6, 0, &Classes::None, &model.sample, &mut Silent).unwrap_err();
    assert!(refused.kind() == Kind::Unsupported && refused.to_string().contains("label_dropout"), "{refused}");
}

#[test]
fn autoguidance_takes_an_earlier_checkpoint_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let trained = run(&tiny(&[]), folder.path(), false).unwrap();
    let worse = trained.run.checkpoint_path(8);
    let wrap = format!("sample.wrap=[{{kind=\"autoguidance\", model=\"{}\", scale=1.5}}]", worse.display());
    let config = trained.model.sample.with(&Changes { settings: vec![wrap], ..Changes::default() }).unwrap();
    let drawn = draw(&trained.model, 5, 0, &Classes::All, &config, &mut Silent).unwrap();
    assert!(drawn.values.iter().all(|value| value.is_finite()));
}

#[test]
fn equal_runs_are_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |name: &str| {
        let trained = run(&tiny(&["train.steps=3"]), &folder.path().join(name), false).unwrap();
        fs::read(trained.run.latest().unwrap()).unwrap()
    };
    assert!(bytes("a") == bytes("b"), "checkpoints of equal runs differ");
}

#[test]
fn samples_are_written_while_they_are_drawn_and_a_stop_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = run(&tiny(&["train.steps=1"]), &folder.path().join("run"), false).unwrap().model;
    let path = folder.path().join("x.npy");
    draw_to_file(&path, &model, 20, 0, &Classes::All, &model.sample, &mut Silent).unwrap();
    let old = fs::read(&path).unwrap();
    struct StopAfter(u64);
    impl stein_run::Watch for StopAfter {
        fn event(&mut self, _: stein_run::Event<'_>) {
            self.0 = self.0.saturating_sub(1);
        }
        fn going(&self) -> Result<()> {
            if self.0 == 0 { Err(stein::Error::stopped()) } else { Ok(()) }
        }
    }
    let stopped = draw_to_file(&path, &model, 50, 0, &Classes::All, &model.sample, &mut StopAfter(12)).unwrap_err();
    assert_eq!(stopped.kind(), Kind::Stopped);
    assert_eq!(fs::read(&path).unwrap(), old);
    // The run, the samples, their labels and their record.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "the half-written files are gone");
}
