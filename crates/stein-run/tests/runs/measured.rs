//! Samples that are measured while a model trains, and the best checkpoint.

use stein::Device;
use stein_nn::Checkpoint;
use stein_run::{Model, RunDir, Start, TrainOptions, prepare};

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
    let of = stein_run::Of::Model(Box::new(model));
    let asked = stein_run::EvaluateOptions {
        metrics: vec!["swd".into()],
        n: Some(60),
        ..stein_run::EvaluateOptions::default()
    };
    let found = stein_run::evaluate(&of, &asked, &mut stein_run::Silent).unwrap();
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
