//! Whole pipelines in latents against what the diffusers library and latent diffusion gave, of the same random weights: from prompt or class
//! to pixels, after every step.
//!
//! Two are in `tests/data`, `stable_diffusion` and `latent_diffusion`; more lie outside the repository, in `../shared/golden_methods`, and without them no more is compared.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, TensorData};
use serde_json::{Value, json};
use stein_nn::{
    NetworkConfig, Tensors,
    import::{self, Checked, Kind, Pipeline, Reading, Source, Which, latent_diffusion::LatentDiffusion},
    read_tensors, write_tensors,
};

use crate::latent_diffusion::write_checkpoint;

/// In f64 only the order of sums differs.
const EXACT: f64 = 1e-9;

#[test]
fn a_pipeline_goes_from_prompt_to_pixels_as_the_reference_does() {
    check(&folder());
}

#[test]
fn a_checkpoint_goes_from_class_to_pixels_as_the_reference_does() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    check(folder.path());
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
        assert!(all.len() > 6);
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
    refusal(copy.path(), file, change)
}

/// Why a pipeline is not read or compared, a file of which is changed.
fn refusal(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) -> String {
    let path = folder.join(file);
    let mut json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
    read(folder).and_then(|pipeline| import::check_pipeline(&pipeline, folder, DType::F32)).unwrap_err().to_string()
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
    refused("runs.json", &run("temperature", 1.into()), "unknown field");
    refused("runs.json", &run("eta", 1.into()), "the stored inputs lack ddim_g7.5.noise");
    refused("runs.json", &run("steps", 2000.into()), "there are 1000 levels");
}

/// The config of the repository for a flat one.
fn nested(flat: &Value) -> Value {
    let first_stage = if flat["first_stage"] == "vq" { "VQModelInterface" } else { "AutoencoderKL" };
    json!({ "model": { "base_learning_rate": 1e-4, "target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {
        "linear_start": flat["linear_start"],
        "linear_end": flat["linear_end"],
        "timesteps": flat["timesteps"],
        "scale_factor": flat["scale_factor"],
        "conditioning_key": "crossattn",
        "cond_stage_key": "class_label",
        "use_ema": false,
        "unet_config": { "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": flat["unet"] },
        "first_stage_config": { "target": format!("ldm.models.autoencoder.{first_stage}"), "params": {
            "embed_dim": flat["embed_dim"],
            "n_embed": flat["n_embed"],
            "ddconfig": flat["ddconfig"],
            "lossconfig": { "target": "torch.nn.Identity" },
        } },
        "cond_stage_config": { "target": "ldm.modules.encoders.modules.ClassEmbedder", "params": {
            "n_classes": flat["n_classes"], "embed_dim": flat["unet"]["context_dim"], "key": "class_label",
        } },
    } } })
}

/// `configs/latent-diffusion/cin256-v2.yaml` of the repository.
fn cin256() -> Value {
    json!({
        "unet": {
            "image_size": 64, "in_channels": 3, "out_channels": 3, "model_channels": 192, "attention_resolutions": [8, 4, 2],
            "num_res_blocks": 2, "channel_mult": [1, 2, 3, 5], "num_heads": 1, "use_spatial_transformer": true,
            "transformer_depth": 1, "context_dim": 512,
        },
        "ddconfig": {
            "double_z": false, "z_channels": 3, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
            "ch_mult": [1, 2, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
        },
        "embed_dim": 3, "n_embed": 8192, "first_stage": "vq", "n_classes": 1001,
        "linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000, "scale_factor": 1.0,
    })
}

#[test]
fn the_published_model_by_class_has_its_size() {
    let model = LatentDiffusion::read(&nested(&cin256()), &Tensors::new()).unwrap();
    assert_eq!(model, LatentDiffusion::read(&cin256(), &Tensors::new()).unwrap());
    assert_eq!((model.side, model.unet.classes, model.first_stage.factor()), (64, 1000, 4));
    let network = NetworkConfig::Unet2dCondition(model.unet);
    // The notebook of the repository prints 400.92 million, without the table of classes.
    let found = network.parameters(&[64, 64, 3], 1000).unwrap() - 1001 * 512;
    assert_eq!((found as f64 / 1e4).round(), 40092.0);
    let kl = json!({ "first_stage": "kl", "ddconfig": { "double_z": true } });
    let mut config = cin256();
    config["first_stage"] = kl["first_stage"].clone();
    config["ddconfig"]["double_z"] = kl["ddconfig"]["double_z"].clone();
    // A scale that was measured is in the file.
    let measured = [("scale_factor".to_owned(), TensorData::new(vec![0.25f32], [0; 0]))].into();
    let model = LatentDiffusion::read(&nested(&config), &measured).unwrap();
    assert_eq!((model.first_stage.scaling(), model.first_stage.channels()), ((0.25, 0.0), 3));
}

#[test]
fn of_a_checkpoint_the_average_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    let wanted = read(folder.path()).unwrap();
    let file = folder.path().join("weights.safetensors");
    // As the repository saves it: what was trained, its average without dots, and buffers beside.
    let mut saved = read_tensors(&file).unwrap();
    for (name, data) in read_tensors(&file).unwrap() {
        let Some(inside) = name.strip_prefix("model.") else { continue };
        saved.insert(format!("model_ema.{}", inside.replace('.', "")), data.clone());
        saved.insert(name, TensorData::zeros::<f32, _>(data.shape()));
    }
    let number = |value: f32| TensorData::new(vec![value], [0; 0]);
    saved.insert("model_ema.decay".to_owned(), number(0.9999));
    saved.insert("betas".to_owned(), TensorData::new(vec![0.1f32; 1000], [1000]));
    saved.insert("first_stage_model.loss.logvar".to_owned(), number(0.0));
    write_tensors(&saved, &file).unwrap();
    let of = |which| {
        let source = Source::read(folder.path(), &Reading { which, ..Reading::default() }).unwrap();
        assert_eq!(source.kind, Kind::LatentDiffusion);
        Pipeline::of_checkpoint(&source).unwrap()
    };
    let (average, raw) = (of(None), of(Some(Which::Raw)));
    assert!(average.which.contains("model_ema") && average.weights == wanted.weights);
    assert!(raw.which.starts_with("raw") && raw.weights != wanted.weights);
    assert_eq!(raw.autoencoder_weights, wanted.autoencoder_weights);
}

#[test]
fn checkpoints_of_other_models_are_a_sentence() {
    let refused = |place: &str, value: Value, part: &str| {
        let folder = tempfile::tempdir().unwrap();
        write_checkpoint(folder.path());
        let sentence = refusal(folder.path(), "config.json", |json| {
            let (table, key) = place.rsplit_once('/').unwrap();
            json.pointer_mut(table).unwrap()[key] = value;
        });
        assert!(sentence.contains(part), "{place}: {sentence}");
    };
    refused("/unet", Value::Null, "U-Net: its config is no table");
    refused("/unet/use_spatial_transformer", false.into(), "only models by class");
    refused("/unet/num_heads", (-1).into(), "neither num_heads nor num_head_channels");
    refused("/unet/resblock_updown", true.into(), "only false is");
    refused("/unet/new_option", 1.into(), "entries that are not known here: new_option");
    refused("/unet/model_channels", 64.into(), "model.diffusion_model.input_blocks.1.1.proj_in.weight");
    refused("/unet/in_channels", 4.into(), "the network works on 4 channels");
    refused("/unet/model_channels", 1_000_000.into(), "no network is that large");
    refused("/n_classes", Value::Null, "n_classes is not stated");
    refused("/first_stage", "rq".into(), "the first stage is rq: known are vq and kl");
    refused("/ddconfig/double_z", true.into(), "only false is");
    refused("/ddconfig/z_channels", 4.into(), "first_stage_model.");
    refused("/ddconfig/ch_mult", json!([1, 2]), "without blocks nothing changes their number");
    refused("/embed_dim", 4.into(), "the network works on 3 channels, and the autoencoder has latents of 4");
    refused("/beta_schedule", "cosine".into(), "known are linear, sqrt_linear");
    refused("/parameterization", "v".into(), "known are eps, x0");
    refused("/runs/0/steps", 3.into(), "ddim_eta1.noise, pictures for each of 3 steps");
    refused("/runs/0/scheduler", "DPMSolverMultistepScheduler".into(), "its sampler is not DDIM");
    let mut text = nested(&cin256());
    text["model"]["params"]["cond_stage_config"]["target"] = "ldm.modules.encoders.modules.BERTEmbedder".into();
    let sentence = LatentDiffusion::read(&text, &Tensors::new()).unwrap_err().to_string();
    assert!(sentence.contains("told what a BERTEmbedder says"), "{sentence}");
}
