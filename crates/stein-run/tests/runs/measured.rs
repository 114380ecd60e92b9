//! Samples that are measured while a model trains, and the best checkpoint.

use std::path::Path;

use serde::{Deserialize, Serialize};
use stein::{Device, Result, Spacing, TensorData, ensure};
use stein_data::{Data, DataSet, Source, Split};
use stein_nn::{Checkpoint, Tensors, write_tensors};
use stein_run::{
    Changes, Classes, EvaluateOptions, Event, Model, Of, RunDir, Silent, Start, SweepOptions, TrainOptions, Watch,
    draw, evaluate, prepare, sweep, train,
};

use crate::{options, run, tiny};

const MEASURED: [&str; 3] =
    ["train.evaluate.every=4", "train.evaluate.metrics=[\"sliced_wasserstein\", \"energy\"]", "train.evaluate.n=60"];

#[test]
fn the_best_checkpoint_is_the_one_whose_samples_were() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let settings = [&MEASURED[..], &["train.steps=10", "train.keep=1"]].concat();
    let trained = run(&tiny(&settings), &out, false).unwrap();
    let said: Vec<(u64, f64)> = trained
        .run
        .metrics()
        .unwrap()
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line["evaluate/sliced_wasserstein"].as_f64()?)))
        .collect();
    assert_eq!(said.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [4, 8, 10], "every four steps, and the last");
    let best = said.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let path = trained.run.best_path();
    assert_eq!(Checkpoint::read(&path).unwrap().step, best.0);
    // It is a model like any other, and its samples have the number that was said.
    let model = Model::open(&path, &Device::flex()).unwrap();
    let of = Of::Model(Box::new(model));
    let asked = EvaluateOptions { metrics: vec!["swd".into()], n: Some(60), ..EvaluateOptions::default() };
    let found = evaluate(&of, &asked, &mut Silent).unwrap();
    assert_eq!(found.metric("sliced_wasserstein").unwrap().value, best.1);
    assert!(found.measured[0].0.better().loss(2.0) > found.measured[0].0.better().loss(1.0));
}

#[test]
fn measuring_changes_no_step_and_goes_on_after_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let plain = run(&tiny(&[]), &at("plain"), false).unwrap();
    let measured = run(&tiny(&MEASURED), &at("measured"), false).unwrap();
    let weights = |run: &RunDir| Checkpoint::read(&run.latest().unwrap()).unwrap().learners;
    assert_eq!(weights(&plain.run), weights(&measured.run));
    // A run may begin to be measured when it goes on.
    run(&tiny(&["train.steps=6"]), &at("later"), false).unwrap();
    let later = run(&tiny(&MEASURED), &at("later"), true).unwrap();
    assert_eq!(weights(&plain.run), weights(&later.run));
    assert!(later.run.best_path().exists());
    // Going back sets the best aside, which may be of a step that is no more.
    let back = TrainOptions { start: Start::ResumeFrom(8), ..options(at("later"), true) };
    drop(prepare(&tiny(&[]), &back).unwrap());
    assert!(!later.run.best_path().exists() && at("later/after-00000008/best.safetensors").exists());
}

/// Rows to train on; those that are held out are damaged, or there are none.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct HalfThere {
    damaged: bool,
}

impl DataSet for HalfThere {
    fn load(&self, split: Split, _: Option<&Path>) -> Result<Data> {
        let held_out = split == Split::Test;
        ensure!(Kind::File, !(held_out && self.damaged), "test.bin is damaged");
        let values = (0..if held_out { 0 } else { 80 }).map(|i| (i * 37 % 11) as f32).collect();
        Data::from_rows("half_there", vec!["x".into(), "y".into()], values, None, Vec::new())
    }
}

#[test]
fn held_out_data_that_cannot_be_read_are_not_taken_for_none() {
    Source::register::<HalfThere>("half_there");
    let found = |damaged: bool, metric: &str| {
        let asked = EvaluateOptions {
            against: Some("half_there".into()),
            settings: vec![format!("source.damaged={damaged}")],
            metrics: vec![metric.into()],
            ..EvaluateOptions::default()
        };
        evaluate(&Of::Data("half_there".into()), &asked, &mut Silent)
    };
    let damaged = found(true, "energy").unwrap();
    assert!(damaged.to_string().contains("held out   none, since the test part cannot be read: test.bin is damaged"));
    assert_eq!(damaged.json()["about"]["held_out_unread"], "test.bin is damaged");
    let none = found(false, "energy").unwrap();
    assert!(!none.to_string().contains("held out") && none.unread.is_none());
    // What cannot do without them says which it is.
    let refused = |damaged: bool| found(damaged, "novelty").unwrap_err().to_string();
    assert!(refused(true).contains("test.bin is damaged") && !refused(false).contains("cannot be read"));
}

/// Counts the rows of the data that are read to be measured against.
#[derive(Default)]
struct Rows(u64);

impl Watch for Rows {
    fn event(&mut self, event: Event) {
        if let Event::Measured { done, of } = event
            && done == of
        {
            self.0 += of;
        }
    }
}

#[test]
fn the_data_are_read_once_for_all_measurements() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = tiny(&MEASURED);
    let mut watch = Rows::default();
    let prepared = prepare(&experiment, &options(folder.path().join("run"), false)).unwrap();
    let trained = train(prepared, &mut watch).unwrap();
    let measured = trained.run.metrics().unwrap().iter().filter(|line| !line["evaluate/energy"].is_null()).count();
    assert_eq!((measured, watch.0), (3, 500));
}

#[test]
fn what_cannot_be_measured_is_refused_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |setting: &str| {
        let experiment = tiny(&[&MEASURED[..], &[setting]].concat());
        prepare(&experiment, &options(folder.path().join("run"), false)).err().unwrap().to_string()
    };
    assert!(refuse("train.evaluate.metrics=[\"psnr\"]").contains("pictures"));
    assert!(refuse("train.evaluate.metrics=[\"fretchet\"]").contains("nearest first: frechet"));
    assert!(refuse("train.evaluate.features=inception").contains("train.evaluate"));
}

#[test]
fn an_optimized_grid_stands_in_an_experiment_until_its_levels_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let experiment = tiny(&["train.steps=2", "sample.grid.spacing={kind=\"optimized\"}", "sample.grid.steps=4"]);
    run(&experiment, &out, false).unwrap();
    let sampled = || {
        let model = Model::open(&out, &Device::flex()).unwrap();
        draw(&model, 3, 0, &Classes::Default, &model.sample, &mut Silent).map(|drawn| drawn.summary.config.grid.spacing)
    };
    let said = sampled().unwrap_err().to_string();
    assert!(said.contains("--samplers 'heun' --steps 4 --grids optimized"), "{said}");
    let asked = SweepOptions {
        samplers: vec!["heun".into()],
        steps: vec![3, 4],
        grids: vec!["optimized".into()],
        sampling: Changes::default(),
        evaluate: EvaluateOptions { n: Some(20), ..EvaluateOptions::default() },
        output: None,
        force: false,
    };
    let model = Model::open(&out, &Device::flex()).unwrap();
    let found = sweep(&Of::Model(Box::new(model)), &asked, &mut Silent).unwrap();
    assert_eq!(found.grids, Some(out.join("grids.toml")));
    let noise = found.tried[1].levels.clone().unwrap();
    assert_eq!(sampled().unwrap(), Spacing::Given { noise });
    // Another sweep leaves what was found before.
    let model = Model::open(&out, &Device::flex()).unwrap();
    sweep(&Of::Model(Box::new(model)), &SweepOptions { steps: vec![2], ..asked }, &mut Silent).unwrap();
    sampled().unwrap();
    // A run that goes on is sampled with them.
    let longer = tiny(&["train.steps=4", "sample.grid.spacing={kind=\"optimized\"}", "sample.grid.steps=4"]);
    let trained = run(&longer, &out, true).unwrap();
    assert!(matches!(trained.model.sample.grid.spacing, Spacing::Given { .. }));
}

/// The weights of a small network of DINOv2's class, none of which say anything.
fn tiny_dino() -> Tensors {
    let of = |name: &str, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect::<Vec<_>>();
        (name.to_owned(), TensorData::new(values, shape.to_vec()))
    };
    let norm = |name: &str| [of(&format!("{name}.weight"), &[64]), of(&format!("{name}.bias"), &[64])];
    let layer = |name: &str, outputs: usize, inputs: usize| {
        [of(&format!("{name}.weight"), &[outputs, inputs]), of(&format!("{name}.bias"), &[outputs])]
    };
    let plain = [
        of("cls_token", &[1, 1, 64]),
        of("pos_embed", &[1, 5, 64]),
        of("patch_embed.proj.weight", &[64, 3, 56, 56]),
        of("patch_embed.proj.bias", &[64]),
        of("blocks.0.ls1.gamma", &[64]),
        of("blocks.0.ls2.gamma", &[64]),
    ];
    let norms = ["norm", "blocks.0.norm1", "blocks.0.norm2"].into_iter().flat_map(norm);
    let layers = [("attn.qkv", 192, 64), ("attn.proj", 64, 64), ("mlp.fc1", 256, 64), ("mlp.fc2", 64, 256)]
        .into_iter()
        .flat_map(|(name, outputs, inputs)| layer(&format!("blocks.0.{name}"), outputs, inputs));
    plain.into_iter().chain(norms).chain(layers).collect()
}

#[test]
fn features_of_a_vision_transformer_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("dino.safetensors");
    write_tensors(&tiny_dino(), &weights).unwrap();
    let compared = |features: &str| {
        let asked = EvaluateOptions {
            against: Some("digits".into()),
            split: Some(Split::Test),
            features: features.into(),
            weights: Some(weights.clone()),
            metrics: vec!["mmd".into()],
            metric_settings: vec!["mmd.sigma=10".into(), "mmd.statistic=biased".into()],
            n: Some(20),
            reference_n: Some(20),
            ..EvaluateOptions::default()
        };
        evaluate(&Of::Data("digits".into()), &asked, &mut Silent)
    };
    let found = compared("dino").unwrap();
    assert!(found.features.contains("DINOv2, width 64, blocks 1, squares of 56, pictures of 224 x 224"), "{found}");
    assert!((0.0..2.0).contains(&found.metric("mmd").unwrap().value));
    assert!(compared("clip").unwrap_err().to_string().contains("has the weights of DINOv2"));
}
