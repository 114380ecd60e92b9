//! Whole pipelines in latents against what the diffusers library and latent diffusion gave, of the same random weights: from prompt or class
//! to pixels, after every step.
//!
//! Two are in `tests/data`, `stable_diffusion` and `latent_diffusion`; more lie outside the repository, in `../shared/golden_methods`, and without them no more is compared.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::DType;
use serde_json::Value;
use stein_nn::import::{self, Checked, Pipeline, Reading, Source};

/// In f64 only the order of sums differs.
const EXACT: f64 = 1e-9;

#[test]
fn a_pipeline_goes_from_prompt_to_pixels_as_the_reference_does() {
    check(&folder());
}

#[test]
fn a_checkpoint_goes_from_class_to_pixels_as_the_reference_does() {
    check(&latent_diffusion());
}

#[test]
fn pipelines_of_every_form_go_from_prompt_to_pixels_as_the_reference_does() {
    for name in ["stable_diffusion_tiny", "stable_diffusion2_tiny", "dit_tiny", "ldm_class_tiny"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden_methods").join(name);
        if !folder.is_dir() {
            println!("skipped: there is no {}, so nothing is compared with it", folder.display());
            continue;
        }
        check(&folder);
    }
}

/// What is in the repository.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stable_diffusion")
}

fn latent_diffusion() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/latent_diffusion")
}

fn read(folder: &Path) -> stein::Result<Pipeline> {
    match import::latent_pipeline(folder)? {
        Some(class) => Pipeline::read(folder, &class, &Reading::default()),
        None => Pipeline::of_checkpoint(&Source::read(folder, &Reading::default())?),
    }
}

fn check(folder: &Path) {
    let pipeline = read(folder).unwrap();
    for kind in [DType::F64, DType::F32] {
        let all = import::check_pipeline(&pipeline, folder, kind).unwrap();
        assert!(all.len() > 8);
        for Checked { name, largest, absolute, bound, double } in all {
            let bound = if kind == DType::F64 && double { EXACT * largest.max(1.0) } else { bound };
            println!("{kind:?} {name}: {absolute:.1e} of {largest:.1e}");
            assert!(absolute <= bound, "{}, {name}: {absolute:e} of {largest:e}, bound {bound:e}", folder.display());
        }
    }
}

/// A copy of the pipeline, one file of which is changed.
fn changed(file: &str, change: impl FnOnce(&mut Value)) -> String {
    let copy = tempfile::tempdir().unwrap();
    let mut parts = vec![PathBuf::new()];
    while let Some(part) = parts.pop() {
        fs::create_dir_all(copy.path().join(&part)).unwrap();
        for entry in fs::read_dir(folder().join(&part)).unwrap().flatten() {
            let within = part.join(entry.file_name());
            if entry.path().is_dir() {
                parts.push(within);
            } else {
                fs::copy(entry.path(), copy.path().join(within)).unwrap();
            }
        }
    }
    let path = copy.path().join(file);
    let mut json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
    read(copy.path())
        .and_then(|pipeline| import::check_pipeline(&pipeline, copy.path(), DType::F32))
        .unwrap_err()
        .to_string()
}

#[test]
fn parts_that_do_not_fit_are_a_sentence() {
    let refused = |file: &str, change: &dyn Fn(&mut Value), part: &str| {
        let sentence = changed(file, change);
        assert!(sentence.contains(part), "{sentence}");
    };
    let set = |key: &'static str, value: Value| move |json: &mut Value| json[key] = value.clone();
    let named = |name: &str| set("_class_name", name.into());
    refused("model_index.json", &named("StableDiffusionXLPipeline"), "read by two transformers");
    refused("model_index.json", &named("FluxPipeline"), "MMDiT");
    refused("model_index.json", &named("KandinskyPipeline"), "known are StableDiffusionPipeline");
    refused("text_encoder/config.json", &set("hidden_size", 32.into()), "parts of two pipelines");
    refused("scheduler/scheduler_config.json", &named("DDPMScheduler2"), "is not known here");
    let more = |json: &mut Value| {
        let added = json["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        token["id"] = 9999.into();
        token["content"] = "<more>".into();
        added.push(token);
    };
    refused("tokenizer/tokenizer.json", &more, "the tokenizer has");
    let run = |key: &'static str, value: Value| move |json: &mut Value| json["runs"][0][key] = value.clone();
    refused("runs.json", &run("scheduler", "DDPMScheduler".into()), "runs of DDPMScheduler are not known here");
    refused("runs.json", &run("eta", 1.into()), "unknown field");
    refused("runs.json", &run("steps", 2000.into()), "there are 1000 levels");
}
