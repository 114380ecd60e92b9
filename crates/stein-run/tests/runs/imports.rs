//! Weights of other libraries: into a checkpoint that samples, out again, and every way a source can be bad.

use std::{fs, path::Path};

use burn::tensor::{Device, TensorData};
use serde_json::{Value, json};
use stein_nn::{
    NcsnppConfig, NetworkConfig, Tensors, Unet2dConfig,
    import::{self, Kind},
    read_tensors, state, write_tensors,
};
use stein_run::{Classes, ImportOptions, Model, draw, export, import};

/// A `UNet2DModel` of eight channels.
fn unet() -> Value {
    json!({
        "_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "act_fn": "silu", "attention_head_dim": null,
        "block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "downsample_padding": 0,
        "flip_sin_to_cos": false, "freq_shift": 1, "in_channels": 1, "layers_per_block": 1, "norm_eps": 1e-6,
        "norm_num_groups": 4, "out_channels": 1, "sample_size": 8, "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]
    })
}

/// Its weights under the library's names, drawn at random.
fn weights() -> Tensors {
    let config = import::diffusers::unet_2d_config(&unet()).unwrap();
    let network = NetworkConfig::Unet2d(config).build(&[8, 8, 1], 0, 3, &Device::flex()).unwrap();
    import::theirs(Kind::Diffusers, &unet(), &state::tensors(&network)).unwrap()
}

fn folder(config: &Value, weights: &Tensors) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    write_tensors(weights, &folder.path().join("diffusion_pytorch_model.safetensors")).unwrap();
    folder
}

fn options(source: &Path) -> ImportOptions {
    ImportOptions { source: source.to_owned(), ..ImportOptions::default() }
}

fn refusal(source: &Path) -> String {
    import(&options(source)).unwrap_err().to_string()
}

#[test]
fn a_folder_of_diffusers_samples_and_comes_out_as_it_went_in() {
    let source = folder(&unet(), &weights());
    let scheduler = json!({ "beta_schedule": "linear", "num_train_timesteps": 40, "prediction_type": "epsilon" });
    fs::write(source.path().join("scheduler_config.json"), scheduler.to_string()).unwrap();
    let checkpoint = source.path().join("model.safetensors");
    let (told, passed) = import(&ImportOptions { output: Some(checkpoint.clone()), ..options(source.path()) }).unwrap();
    assert!(passed && told.contains("UNet2DModel") && told.contains("8 x 8 x 1, -1 to 1"), "{told}");

    let model = Model::open(&checkpoint.display().to_string(), &Device::flex()).unwrap();
    assert_eq!(model.schedule.levels(), Some(40));
    for name in ["ddim", "heun", "dpm_solver_pp", "ancestral", "ode_heun"] {
        let config = model.sample.with(Some(name), None, Some(4), None, &[]).unwrap();
        let drawn = draw(&model, 3, 0, &Classes::Default, &config, false, &|| Ok(())).unwrap();
        assert!(drawn.values.len() == 3 * 64 && drawn.values.iter().all(|x| x.is_finite()), "{name}");
    }

    let again = source.path().join("again");
    export(&checkpoint, &again).unwrap();
    assert_eq!(read_tensors(&again.join("diffusion_pytorch_model.safetensors")).unwrap(), weights());
    let config = fs::read_to_string(again.join("config.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&config).unwrap(), unet());
    // What was written is a source too.
    import(&options(&again)).unwrap();
}

#[test]
fn buffers_go_through_a_checkpoint() {
    let config = json!({
        "training": { "continuous": true, "sde": "vesde" },
        "data": { "image_size": 8, "num_channels": 1, "centered": false },
        "model": {
            "name": "ncsnpp", "sigma_min": 0.01, "sigma_max": 5.0, "num_scales": 7, "beta_min": 0.1, "beta_max": 20.0,
            "dropout": 0.0, "nonlinearity": "swish", "normalization": "GroupNorm", "resamp_with_conv": true,
            "conditional": true, "scale_by_sigma": true, "fir": true, "fir_kernel": [1, 3, 3, 1], "skip_rescale": true,
            "resblock_type": "biggan", "progressive": "none", "progressive_input": "residual",
            "progressive_combine": "sum", "attention_type": "ddpm", "init_scale": 0.0, "embedding_type": "fourier",
            "fourier_scale": 16, "conv_size": 3, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]
        }
    });
    let ours: NcsnppConfig = import::score_sde::ncsnpp_config(&config).unwrap();
    let network = NetworkConfig::Ncsnpp(ours).build(&[8, 8, 1], 0, 1, &Device::flex()).unwrap();
    let mut theirs = import::theirs(Kind::ScoreSde, &config, &state::tensors(&network)).unwrap();
    let sigmas: Vec<f32> = (0..7).map(|i| (5.0 * (0.002f64).powf(f64::from(i) / 6.0)) as f32).collect();
    theirs.insert("sigmas".to_owned(), TensorData::new(sigmas, [7]));
    let folder = folder(&config, &theirs);
    let (checkpoint, again) = (folder.path().join("model.safetensors"), folder.path().join("again.safetensors"));
    import(&ImportOptions { output: Some(checkpoint.clone()), ..options(folder.path()) }).unwrap();
    export(&checkpoint, &again).unwrap();
    assert_eq!(read_tensors(&again).unwrap(), theirs);
    let model = Model::open(&checkpoint.display().to_string(), &Device::flex()).unwrap();
    assert_eq!(model.schedule.kind(), "ve");
    let config = model.sample.with(None, None, Some(3), None, &[]).unwrap();
    let drawn = draw(&model, 2, 0, &Classes::Default, &config, false, &|| Ok(())).unwrap();
    assert!(drawn.values.iter().all(|x| x.is_finite()));
}

#[test]
fn bad_sources_are_one_table_or_one_sentence() {
    let whole = weights();
    let name = "conv_in.weight";
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = whole.clone();
        change(&mut tensors);
        refusal(folder(&unet(), &tensors).path())
    };
    let missing = changed(&|tensors| drop(tensors.remove(name)));
    assert!(missing.contains("missing") && missing.contains(name), "{missing}");
    let unexpected = changed(&|tensors| drop(tensors.insert("one.more".into(), TensorData::new(vec![1f32], [1]))));
    assert!(unexpected.contains("unexpected  one.more"), "{unexpected}");
    let rank = changed(&|tensors| drop(tensors.insert(name.into(), TensorData::new(vec![0f32; 72], [72]))));
    assert!(rank.contains("misshapen") && rank.contains(name), "{rank}");
    let kind = changed(&|tensors| drop(tensors.insert(name.into(), TensorData::new(vec![0i64; 72], [8, 1, 3, 3]))));
    assert!(kind.contains("misshapen") && kind.contains("I64"), "{kind}");
    let several = changed(&|tensors| {
        tensors.remove(name);
        tensors.insert("one.more".into(), TensorData::new(vec![1f32], [1]));
    });
    assert!(several.contains(name) && several.contains("one.more"), "all faults in one table: {several}");

    let mut config = unet();
    config["down_block_types"] = json!(["DownBlock2D", "StrangeBlock2D"]);
    let block = refusal(folder(&config, &whole).path());
    assert!(block.contains("StrangeBlock2D"), "{block}");
    config["_class_name"] = json!("StrangeModel");
    let model = refusal(folder(&config, &whole).path());
    assert!(model.contains("StrangeModel") && model.contains("UNet2DModel"), "{model}");

    // Sizes of anyone's making: nothing is made of that size.
    for (key, value) in [
        ("block_out_channels", json!([60_000, 60_000])),
        ("block_out_channels", json!([1_000_000_000_000u64, 8])),
        ("layers_per_block", json!(1_000_000_000)),
        ("in_channels", json!(-3)),
        ("norm_num_groups", json!(0)),
        ("block_out_channels", json!([])),
        ("sample_size", json!("large")),
    ] {
        let mut config = unet();
        config[key] = value;
        let refused = refusal(folder(&config, &whole).path());
        assert!(!refused.is_empty(), "{key}");
    }

    let source = folder(&unet(), &whole);
    let file = source.path().join("diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let cut = refusal(source.path());
    assert!(cut.contains("diffusion_pytorch_model.safetensors") && cut.contains("cut short"), "{cut}");
    fs::remove_file(source.path().join("config.json")).unwrap();
    let config = refusal(source.path());
    assert!(config.contains("config.json") && config.contains("--config"), "{config}");
    let nowhere = refusal(Path::new("/nowhere/at/all"));
    assert!(nowhere.contains("/nowhere/at/all"), "{nowhere}");

    let default = Unet2dConfig::default();
    let built = NetworkConfig::Unet2d(default).build(&[8, 8, 2], 0, 0, &Device::flex()).map(|_| ());
    assert!(built.unwrap_err().to_string().contains("channels"));
}
