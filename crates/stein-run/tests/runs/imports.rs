//! Weights of other libraries: into a checkpoint that samples, out again, and every way a source can be bad.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use stein::{AnySchedule, Device, Spacing, TensorData};
use stein_nn::{
    AdmConfig, NcsnppConfig, NetworkConfig, Tensors, Unet2dConfig, UnetConfig,
    import::{self, Kind, Published, Role, Setting, Source},
    read_tensors, state, write_tensors,
};
use stein_run::{
    Changes, Classes, CodeOptions, DataChoice, EditOptions, EvaluateOptions, ImportOptions, Interpolation, Model, Of,
    RestoreOptions, SampleConfig, Silent, Streams, SweepOptions, Task, draw, edit, export, import, interpolate,
    prepare, restore, sweep,
};

/// A `UNet2DModel` of eight channels.
pub fn unet() -> Value {
    json!({
        "_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "act_fn": "silu", "attention_head_dim": null,
        "block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "downsample_padding": 0,
        "flip_sin_to_cos": false, "freq_shift": 1, "in_channels": 1, "layers_per_block": 1, "norm_eps": 1e-6,
        "norm_num_groups": 4, "out_channels": 1, "sample_size": 8, "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]
    })
}

/// Its weights under the library's names, drawn at random.
pub fn weights() -> Tensors {
    let config = import::diffusers::unet_2d_config(&unet()).unwrap();
    let network = NetworkConfig::Unet2d(config).build(&[8, 8, 1], 0, 3, &Device::flex()).unwrap();
    import::theirs(Kind::Diffusers, &unet(), &state::tensors(&network)).unwrap()
}

pub fn folder(config: &Value, weights: &Tensors) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    write_tensors(weights, &folder.path().join("diffusion_pytorch_model.safetensors")).unwrap();
    folder
}

pub fn options(source: &Path) -> ImportOptions {
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

    let model = Model::open(checkpoint.display().to_string(), &Device::flex()).unwrap();
    assert_eq!(model.schedule.as_ref().unwrap().levels(), Some(40));
    for name in ["ddim", "heun", "dpm_solver_pp", "ancestral", "ode_heun"] {
        let config = model
            .sample
            .with(&Changes { sampler: Some(String::from(name)), steps: Some(4), ..Changes::default() })
            .unwrap();
        let drawn = draw(&model, 3, 0, &Classes::Default, &config, &mut Silent).unwrap();
        assert!(drawn.values.len() == 3 * 64 && drawn.values.iter().all(|x| x.is_finite()), "{name}");
    }

    let again = source.path().join("again");
    export(&checkpoint, &again, false).unwrap();
    assert_eq!(read_tensors(&again.join("diffusion_pytorch_model.safetensors")).unwrap(), weights());
    let config = fs::read_to_string(again.join("config.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&config).unwrap(), unet());
    // What was written is a source too.
    import(&options(&again)).unwrap();
}

/// A network of the library's form on the built-in digits.
const TRAINED: &[&str] = &[
    "data.source={kind=\"digits\"}",
    "data.codec=[{kind=\"symmetric\"}]",
    "data.conditional=false",
    "family.network={kind=\"unet2d\", inputs=1, outputs=1, channels=[8, 16], blocks=1, attention=[1], groups=4, pad_after=false, \
     embedding={kind=\"positional\"}}",
    "train.steps=2",
    "train.checkpoint_every=2",
];

/// DDPM's form of what surrounds a network.
const DDPM: &[&str] = &[
    "family.schedule={kind=\"discrete\", levels={kind=\"cosine\", count=30}}",
    "family.prediction={kind=\"v\"}",
    "family.input_scale={kind=\"none\"}",
    "family.noise_input={kind=\"level\"}",
    "family.objective={levels={kind=\"discrete_uniform\"}, weighting={kind=\"unit\"}}",
    "sample={sampler={kind=\"ddim\"}, grid={spacing={kind=\"uniform\"}, steps=5}, wrap=[{kind=\"clamp\"}]}",
];

#[test]
fn a_trained_network_goes_to_diffusers_and_comes_back_the_same() {
    for (settings, scheduler) in [(&[][..], "EDMEulerScheduler"), (DDPM, "DDPMScheduler")] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        crate::run(&crate::tiny(&[TRAINED, settings].concat()), &at("run"), false).unwrap();
        export(&at("run"), &at("there"), false).unwrap();
        let text = fs::read_to_string(at("there/scheduler_config.json")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["_class_name"], scheduler);
        import(&ImportOptions { output: Some(at("back.safetensors")), ..options(&at("there")) }).unwrap();
        let drawn = ["run", "back.safetensors"].map(|name| {
            let model = Model::open(at(name), &Device::flex()).unwrap();
            // How it is sampled unless asked otherwise, neither file of the library says.
            let grid = "sample.grid={spacing={kind=\"uniform\"}, steps=4}".to_owned();
            let changes = Changes { sampler: Some("ddim".into()), settings: vec![grid], ..Changes::default() };
            let config = model.sample.with(&changes).unwrap();
            draw(&model, 2, 0, &Classes::Default, &config, &mut Silent).unwrap().values
        });
        // The betas are worked out of ᾱ and ᾱ of them again.
        for (ours, back) in drawn[0].iter().zip(&drawn[1]) {
            assert!((ours - back).abs() < 1e-5, "{scheduler}: {ours} came back as {back}");
        }
    }
}

#[test]
fn what_diffusers_cannot_say_is_not_exported() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, settings: &[&str]| {
        let run = folder.path().join(name);
        prepare(&crate::tiny(settings), &crate::options(run.clone(), false)).unwrap();
        export(&run, &folder.path().join(format!("{name}-there")), false).unwrap_err().to_string()
    };
    let other = refused("mlp", &[]);
    assert!(other.contains("only a trained network unet2d"), "{other}");
    let groups = refused(
        "groups",
        &[&TRAINED[..3], &["family.network={kind=\"unet2d\", inputs=1, outputs=1, channels=[8, 64]}"]].concat(),
    );
    assert!(groups.contains("groups"), "{groups}");
    let period = refused("period", &[TRAINED, &["family.network.embedding.max_period=500"]].concat());
    assert!(period.contains("max_period of 10000"), "{period}");
}

/// The file of a consistency function of pictures of 8 x 8, with random weights.
fn consistency_function(source: &Path) -> PathBuf {
    let scheduler = json!({
        "_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 40, "sigma_min": 0.002,
        "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0, "clip_denoised": true
    });
    fs::write(source.join("scheduler_config.json"), scheduler.to_string()).unwrap();
    let checkpoint = source.join("model.safetensors");
    let (told, _) = import(&ImportOptions { output: Some(checkpoint.clone()), ..options(source) }).unwrap();
    assert!(told.contains("end of the trajectory"), "{told}");
    checkpoint
}

#[test]
fn consistency_functions_are_sampled_by_multistep_alone() {
    let source = folder(&unet(), &weights());
    let checkpoint = consistency_function(source.path());
    let model = Model::open(checkpoint.display().to_string(), &Device::flex()).unwrap();
    let two = "sample.grid.spacing={kind=\"given\", noise=[80.0, 1.38, 0.002]}".to_owned();
    for (config, evaluations) in [
        (model.sample.clone(), 1),
        (model.sample.with(&Changes { steps: Some(3), ..Changes::default() }).unwrap(), 3),
        (
            model
                .sample
                .with(&Changes { sampler: Some(String::from("multistep")), settings: vec![two], ..Changes::default() })
                .unwrap(),
            2,
        ),
    ] {
        let drawn = draw(&model, 3, 0, &Classes::Default, &config, &mut Silent).unwrap();
        assert_eq!((drawn.summary.evaluations, drawn.summary.config.grid.steps), (evaluations, evaluations));
        assert!(drawn.values.iter().all(|x| x.is_finite()));
    }
    let heun = model.sample.with(&Changes { sampler: Some(String::from("heun")), ..Changes::default() }).unwrap();
    let refused = draw(&model, 1, 0, &Classes::Default, &heun, &mut Silent).unwrap_err().to_string();
    assert!(refused.contains("sampler heun needs a denoiser") && refused.contains("is a flow map"), "{refused}");

    fs::remove_file(source.path().join("scheduler_config.json")).unwrap();
    import(&ImportOptions { output: Some(checkpoint.clone()), ..options(source.path()) }).unwrap();
    let denoiser = Model::open(checkpoint.display().to_string(), &Device::flex()).unwrap();
    let multistep =
        denoiser.sample.with(&Changes { sampler: Some(String::from("multistep")), ..Changes::default() }).unwrap();
    let refused = draw(&denoiser, 1, 0, &Classes::Default, &multistep, &mut Silent).unwrap_err().to_string();
    assert!(refused.contains("is a denoiser"), "{refused}");
}

/// How far apart two lists of numbers are anywhere.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn consistency_functions_restore_and_edit_with_known_pixels_kept() {
    let source = folder(&unet(), &weights());
    let model = Model::open(consistency_function(source.path()).display().to_string(), &Device::flex()).unwrap();
    let photos = source.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for i in 0..3u32 {
        let pixel = |x: u32, y: u32| image::Luma([(37 * x + 91 * y + 53 * i + x * y * y) as u8]);
        image::GrayImage::from_fn(8, 8, pixel).save(photos.join(format!("{i}.png"))).unwrap();
    }
    let photos = photos.display().to_string();
    let inpaint =
        "measurement = { kind = \"inpaint\", mask = { kind = \"rows\" } }\nmethod = { kind = \"consistency\" }";
    let asked = |task: &str, steps: usize| RestoreOptions {
        simulate: true,
        inputs: Some(3),
        n: 2,
        sampling: Changes { steps: Some(steps), ..Changes::default() },
        ..RestoreOptions::new(Task::parse(task, &[]).unwrap(), photos.clone())
    };
    let found = restore(&model, &asked(inpaint, 3), &mut Silent).unwrap();
    assert_eq!((found.values.len(), found.evaluations), (3 * 2 * 64, 3));
    let truth = found.truth.unwrap();
    let known = |picture: &[f32]| picture.chunks(16).flat_map(|rows| rows[..8].to_vec()).collect::<Vec<f32>>();
    for (i, sample) in found.values.chunks(64).enumerate() {
        let truth = &truth[i / 2 * 64..][..64];
        // From pictures to states from −1 to 1 and back, in f32.
        assert!(apart(&known(sample), &known(truth)) < 1e-6 && apart(sample, truth) > 0.1);
    }
    // All pixels with noise: one evaluation takes it away.
    let noisy = "measurement = { kind = \"identity\", noise = 0.1 }\nmethod = { kind = \"consistency\" }";
    assert_eq!(restore(&model, &asked(noisy, 1), &mut Silent).unwrap().evaluations, 1);

    let edited = |steps: usize, strength: f64| {
        let sampling = Changes { steps: Some(steps), ..Changes::default() };
        edit(
            &model,
            &EditOptions { strength, inputs: Some(2), sampling, ..EditOptions::new(photos.clone()) },
            &mut Silent,
        )
    };
    let little = edited(8, 0.25).unwrap();
    assert_eq!((little.values.len(), little.evaluations), (2 * 64, 2));
    assert!(edited(1, 0.5).unwrap_err().to_string().contains("--strength 1"));
    let mask = source.path().join("mask.png");
    let upper = image::GrayImage::from_fn(8, 8, |_, y| image::Luma([if y < 4 { 0 } else { 255 }]));
    upper.save(&mask).unwrap();
    let sampling = Changes { steps: Some(2), ..Changes::default() };
    let masked = EditOptions { mask: Some(mask), strength: 1.0, sampling, ..EditOptions::new(photos.clone()) };
    let half = edit(&model, &EditOptions { inputs: Some(1), ..masked }, &mut Silent).unwrap();
    assert!(apart(&half.values[..32], &half.before[..32]) < 1e-6 && apart(&half.values, &half.before) > 0.1);

    let denoiser = inpaint.replace("consistency", "ddnm");
    let refused = restore(&model, &asked(&denoiser, 3), &mut Silent).unwrap_err().to_string();
    assert!(refused.contains("method ddnm needs a denoiser") && refused.contains("is a flow map"), "{refused}");
    let noise = inpaint.replace("} }", "}, noise = 0.1 }");
    let refused = restore(&model, &asked(&noise, 3), &mut Silent).unwrap_err().to_string();
    assert!(refused.contains("noise included"), "{refused}");
    fs::remove_file(source.path().join("scheduler_config.json")).unwrap();
    let checkpoint = source.path().join("denoiser.safetensors");
    import(&ImportOptions { output: Some(checkpoint.clone()), ..options(source.path()) }).unwrap();
    let model = Model::open(checkpoint.display().to_string(), &Device::flex()).unwrap();
    let refused = restore(&model, &asked(inpaint, 3), &mut Silent).unwrap_err().to_string();
    assert!(refused.contains("method consistency needs a flow map") && refused.contains("is a denoiser"), "{refused}");
}

#[test]
fn a_sweep_finds_levels_of_a_consistency_function_and_keeps_them() {
    let source = folder(&unet(), &weights());
    let checkpoint = consistency_function(source.path());
    let model = || Model::open(checkpoint.display().to_string(), &Device::flex()).unwrap();
    let asked = SweepOptions {
        samplers: vec!["multistep".into()],
        steps: vec![1, 2, 3],
        grids: vec!["karras".into(), "optimized".into()],
        sampling: Changes::default(),
        evaluate: EvaluateOptions {
            against: Some("digits".into()),
            n: Some(20),
            metrics: vec!["sliced_wasserstein".into()],
            ..EvaluateOptions::default()
        },
        output: None,
        force: false,
    };
    let found = sweep(&Of::Model(Box::new(model())), &asked, &mut Silent).unwrap();
    let counts: Vec<usize> = found.tried.iter().map(|tried| tried.evaluations).collect();
    assert_eq!(counts, [1, 2, 3, 1, 2, 3]);
    let [one, two, three] = [3, 4, 5].map(|i| found.tried[i].levels.clone().unwrap());
    // Greedy: the more levels begin with the fewer, and all end where the trajectories do.
    assert!(one == [80.0, 0.002] && two.len() == 3 && three.len() == 4, "{one:?} {two:?} {three:?}");
    assert!(three[..2] == two[..2] && two[2] == 0.002 && three[3] == 0.002, "{two:?} {three:?}");
    // One step leaves nothing to find, and is measured on the same samples, up to the rounding of listed levels.
    let [named, listed] = [0, 3].map(|i| found.tried[i].measured[0].value);
    assert!((named - listed).abs() < 1e-4 * named, "{named} {listed}");
    let model = model();
    let optimized = Changes { grid: Some("optimized".into()), steps: Some(2), ..Changes::default() };
    let config = model.sample.with(&optimized).unwrap();
    let drawn = draw(&model, 2, 0, &Classes::Default, &config, &mut Silent).unwrap();
    assert_eq!(drawn.summary.config.grid.spacing, Spacing::Given { noise: two });
    let four = Changes { steps: Some(4), ..optimized };
    let unknown = draw(&model, 2, 0, &Classes::Default, &model.sample.with(&four).unwrap(), &mut Silent);
    let unknown = unknown.unwrap_err().to_string();
    assert!(unknown.contains("--samplers 'multistep' --steps 4 --grids optimized"), "{unknown}");
    for (method, says) in [("generate", "nothing to sweep"), ("heun", "needs a denoiser")] {
        let asked = SweepOptions { samplers: vec![method.into()], ..asked.clone() };
        let refused = sweep(&Of::Model(Box::new(model.clone())), &asked, &mut Silent).unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
}

#[test]
fn between_samples_of_a_consistency_function_lie_those_of_mixed_noise() {
    let source = folder(&unet(), &weights());
    let model = Model::open(consistency_function(source.path()).display().to_string(), &Device::flex()).unwrap();
    let output = source.path().join("between.npy");
    let between = Interpolation {
        pairs: vec![(0, 2)],
        steps: 3,
        linear: false,
        temperature: 1.0,
        streams: Some(Streams { seed: 4, class: None }),
    };
    interpolate(&output, &model, &DataChoice::default(), &between, &CodeOptions::default(), &mut Silent).unwrap();
    let (shape, values) = stein_data::read_array(&output).unwrap();
    assert_eq!(shape, [1, 3, 8, 8, 1]);
    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    let ends = draw(&model, 3, 4, &Classes::Default, &model.sample, &mut Silent).unwrap().values;
    // The cosine of π/2 is a rounding from 0, which the noise of the start, 80, enlarges.
    assert!(apart(&values[..64], &ends[..64]) < 1e-6 && apart(&values[128..], &ends[128..]) < 1e-4);
    assert!(apart(&values[64..128], &ends[..64]) > 1e-3);
}

/// What a `UNet2DModel` beside a scheduler's file is sampled on.
pub fn trained_on(scheduler: Value) -> stein::Result<Setting> {
    let source = Source {
        kind: Kind::Diffusers,
        config: unet(),
        scheduler: Some(scheduler),
        latent: false,
        weights: weights(),
        origin: "a test".to_owned(),
        which: String::new(),
    };
    Published::open(&source)?.setting().cloned()
}

#[test]
fn schedulers_say_what_a_network_was_trained_on() {
    let bars = |scheduler: Value| match trained_on(scheduler).unwrap().schedule {
        AnySchedule::Discrete(discrete) => discrete.alpha_bar(),
        other => panic!("{} has no levels", other.kind()),
    };
    let listed = bars(json!({ "trained_betas": [0.1, 0.2, 0.5] }));
    for (bar, wanted) in listed.iter().zip([0.9, 0.72, 0.36]) {
        assert!((bar - wanted).abs() < 1e-12, "{bar} for {wanted}");
    }
    assert_eq!(listed.len(), 3);

    // Lin et al., arXiv:2305.08891, algorithm 1: the first level is kept, the last loses its signal, √ᾱ is moved in between.
    for (kind, start, end) in
        [("scaled_linear", 0.00085, 0.012), ("linear", 1e-4, 0.02), ("scaled_linear", 0.0015, 0.0195)]
    {
        let mut betas = json!({
            "beta_schedule": kind, "beta_start": start, "beta_end": end, "prediction_type": "v_prediction"
        });
        let plain = bars(betas.clone());
        betas["rescale_betas_zero_snr"] = json!(true);
        let rescaled = bars(betas);
        let (first, last) = (plain[0].sqrt(), plain[999].sqrt());
        for i in [0, 1, 500, 990] {
            let wanted = ((plain[i].sqrt() - last) * first / (first - last)).powi(2);
            assert!((rescaled[i] - wanted).abs() <= 1e-9 * wanted, "{kind} level {i}: {} for {wanted}", rescaled[i]);
        }
        assert!(rescaled[999] < 1e-7 && rescaled.windows(2).all(|pair| pair[0] > pair[1]), "{kind}");
    }

    let setting =
        trained_on(json!({ "_class_name": "EDMEulerScheduler", "sigma_max": 70.0, "sigma_data": 0.4 })).unwrap();
    assert_eq!(setting.schedule.span(), (0.002, 70.0));
    let Role::Denoiser { precondition, .. } = setting.role else { panic!("it is a denoiser") };
    assert_eq!(precondition, stein::Precondition::edm(0.4));
    let setting =
        trained_on(json!({ "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000 })).unwrap();
    assert_eq!(setting.schedule.kind(), "rectified");
    let setting =
        trained_on(json!({ "_class_name": "DDIMScheduler", "beta_start": 1e-4, "clip_sample": false })).unwrap();
    assert!(!setting.clamp);
    // A sampler that never clips.
    assert!(!trained_on(json!({ "_class_name": "PNDMScheduler" })).unwrap().clamp);
    for name in ["KarrasVeScheduler", "ScoreSdeVpScheduler", "ScoreSdeVeScheduler", "IPNDMScheduler", "LCMScheduler"] {
        let refused = trained_on(json!({ "_class_name": name, "trained_betas": null })).unwrap_err().to_string();
        assert!(refused.contains(name), "{refused}");
    }
    for (key, value) in
        [("clip_sample_range", json!(2.0)), ("thresholding", json!(true)), ("clip_sample", json!("yes"))]
    {
        let mut scheduler = json!({ "_class_name": "DDIMScheduler" });
        scheduler[key] = value;
        assert!(trained_on(scheduler).unwrap_err().to_string().contains(key), "{key}");
    }
    let refused = trained_on(json!({ "_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous" }));
    assert!(refused.unwrap_err().to_string().contains("timestep_type is continuous"));
    let refused = trained_on(json!({ "beta_schedule": 3 })).unwrap_err().to_string();
    assert!(refused.contains("scheduler_config.json") && refused.contains("beta_schedule is 3"), "{refused}");
    let flow = json!({ "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 0 });
    assert!(trained_on(flow).unwrap_err().to_string().contains("num_train_timesteps is 0"));
    let edm = json!({ "_class_name": "EDMEulerScheduler", "sigma_min": 90.0 });
    assert!(trained_on(edm).unwrap_err().to_string().contains("sigma_max"));
}

#[test]
fn sampling_starts_at_the_noisiest_level_where_signal_does_not_fade() {
    let schedule = AnySchedule::from(stein::Ve { sigma_min: 0.01, sigma_max: 1348.0 });
    let sampler = stein::AnySampler::named("heun").unwrap().into();
    let config = SampleConfig { sampler, grid: stein::Grid::karras(5), schedule: None, wrap: Vec::new(), batch: 1 };
    let (schedule, resolved) = config.resolve(Some(&schedule), true).unwrap();
    let start = resolved.grid.kernels(&*schedule.unwrap()).unwrap()[0].sigma;
    assert!((start - 1348.0).abs() < 1e-9, "{start}");
}

#[test]
fn a_teacher_keeps_its_own_levels_and_is_no_consistency_function() {
    let unet = json!({
        "image_size": 8, "in_channels": 1, "out_channels": 1, "model_channels": 32, "num_res_blocks": 1,
        "attention_resolutions": [2], "channel_mult": [1]
    });
    let setting = |denoiser: Value| {
        let config = json!({ "unet": unet, "karras_denoiser": denoiser });
        let (kind, weights, origin) = (Kind::Consistency, Tensors::new(), "a test".to_owned());
        Setting::of(&Source { kind, config, scheduler: None, latent: false, weights, origin, which: String::new() })
    };
    let teacher = setting(json!({ "distillation": false, "sigma_min": 0.02, "sigma_max": 20.0, "rho": 5.0 })).unwrap();
    assert_eq!(teacher.schedule.span(), (0.02, 20.0));
    assert!(matches!(teacher.role, Role::Denoiser { .. }));
    assert_eq!(teacher.grid.spacing, stein::Spacing::Karras { rho: 5.0 });
    assert!(matches!(setting(json!({})).unwrap().role, Role::FlowMap(_)));
    let refused = setting(json!({ "distillation": "False" })).unwrap_err().to_string();
    assert!(refused.contains("distillation is \"False\""), "{refused}");
}

#[test]
fn a_pipeline_is_told_by_its_index_wherever_one_enters() {
    let pipeline = tempfile::tempdir().unwrap();
    let (unet_folder, scheduler_folder) = (pipeline.path().join("unet"), pipeline.path().join("scheduler"));
    fs::create_dir(&unet_folder).unwrap();
    fs::create_dir(&scheduler_folder).unwrap();
    let weights_file = unet_folder.join("diffusion_pytorch_model.safetensors");
    fs::write(unet_folder.join("config.json"), unet().to_string()).unwrap();
    write_tensors(&weights(), &weights_file).unwrap();
    // Python writes infinities, which no JSON reader knows.
    let scheduler = r#"{"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "squaredcos_cap_v2",
        "lambda_min_clipped": -Infinity, "prediction_type": "v_prediction", "note": "5\" from -Infinity", "one": NaN}"#;
    fs::write(scheduler_folder.join("scheduler_config.json"), scheduler).unwrap();
    fs::write(pipeline.path().join("model_index.json"), r#"{"_class_name": "DDPMPipeline"}"#).unwrap();
    for entrance in [pipeline.path(), &unet_folder, &weights_file] {
        let source = Source::open(entrance, None, None).unwrap();
        assert!(!source.latent);
        let setting = Published::open(&source).unwrap().setting().unwrap().clone();
        assert_eq!(setting.role.prediction(), "v", "{}", entrance.display());
    }
    // They go out as they came in.
    let (checkpoint, exported) = (pipeline.path().join("model.safetensors"), pipeline.path().join("exported"));
    import(&ImportOptions { output: Some(checkpoint.clone()), ..options(pipeline.path()) }).unwrap();
    export(&checkpoint, &exported, false).unwrap();
    let text = fs::read_to_string(exported.join("scheduler_config.json")).unwrap();
    assert!(text.contains(r#""lambda_min_clipped": -Infinity"#) && text.contains(r#""one": NaN"#), "{text}");
    assert!(text.contains(r#"5\" from -Infinity"#), "{text}");
    let index = r#"{"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}"#;
    fs::write(pipeline.path().join("model_index.json"), index).unwrap();
    let output = Some(pipeline.path().join("model.safetensors"));
    let refused = import(&ImportOptions { output, ..options(&unet_folder) }).unwrap_err().to_string();
    assert!(refused.contains("latents"), "{refused}");
    import(&options(&unet_folder)).unwrap();
}

/// A recipe is TOML, which has no null: what is none there has to be what is none here.
#[test]
fn recipes_keep_what_is_none() {
    let configs = [
        NetworkConfig::Unet2d(Unet2dConfig { groups: None, head_channels: None, ..Unet2dConfig::default() }),
        NetworkConfig::Adm(AdmConfig { head_channels: None, heads_up: None, ..AdmConfig::default() }),
        NetworkConfig::Unet(UnetConfig { groups: None, ..UnetConfig::default() }),
    ];
    for config in configs {
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<NetworkConfig>(&written).unwrap(), config, "{written}");
    }
}

#[test]
fn networks_that_make_another_number_of_channels_are_only_checked() {
    for (inputs, outputs) in [(2, 1), (1, 3)] {
        let mut config = unet();
        (config["in_channels"], config["out_channels"]) = (json!(inputs), json!(outputs));
        let ours = import::diffusers::unet_2d_config(&config).unwrap();
        let built = NetworkConfig::Unet2d(ours).build(&[8, 8, inputs], 0, 0, &Device::flex()).map(|_| ());
        assert!(built.unwrap_err().to_string().contains("channels"), "{inputs} to {outputs}");
        let resized = |mut tensors: Tensors| {
            let tensor = |shape: [usize; 4]| TensorData::new(vec![0.1f32; shape.iter().product()], shape);
            tensors.insert("conv_in.weight".to_owned(), tensor([8, inputs, 3, 3]));
            tensors.insert("conv_out.weight".to_owned(), tensor([outputs, 8, 3, 3]));
            tensors.insert("conv_out.bias".to_owned(), TensorData::new(vec![0f32; outputs], [outputs]));
            tensors
        };
        let source = folder(&config, &resized(weights()));
        let (told, _) = import(&options(source.path())).unwrap();
        assert!(told.contains("sampling       no"), "{told}");
        let output = Some(source.path().join("model.safetensors"));
        let refused = import(&ImportOptions { output, ..options(source.path()) }).unwrap_err().to_string();
        assert!(refused.contains("leave out --output"), "{refused}");
    }
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
    export(&checkpoint, &again, false).unwrap();
    assert_eq!(read_tensors(&again).unwrap(), theirs);
    let model = Model::open(checkpoint.display().to_string(), &Device::flex()).unwrap();
    assert_eq!(model.schedule.as_ref().unwrap().kind(), "ve");
    let config = model.sample.with(&Changes { steps: Some(3), ..Changes::default() }).unwrap();
    let drawn = draw(&model, 2, 0, &Classes::Default, &config, &mut Silent).unwrap();
    assert!(drawn.values.iter().all(|x| x.is_finite()));
}

/// The places of a config's values, as JSON pointers.
fn places(json: &Value, at: &str, found: &mut Vec<String>) {
    match json {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found)),
        Value::Array(items) => {
            found.push(at.to_owned());
            items.iter().enumerate().for_each(|(i, value)| places(value, &format!("{at}/{i}"), found));
        }
        _ => found.push(at.to_owned()),
    }
}

/// Whatever is in the files, an import is a model or a sentence: it neither panics nor hangs nor asks for much memory. Runs for
/// a second, or as many as the environment variable `STEIN_FUZZ_SECONDS` says, on the folders made here and on those of the
/// references where they are at hand.
#[test]
fn mutated_sources_are_models_or_sentences() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    let mut sources = vec![(unet(), weights())];
    for entry in fs::read_dir(shared).into_iter().flatten() {
        let folder = entry.unwrap().path();
        let file = ["weights.safetensors", "diffusion_pytorch_model.safetensors"].map(|name| folder.join(name));
        let Some(file) = file.iter().find(|file| file.exists()) else { continue };
        let config = fs::read_to_string(folder.join("config.json")).unwrap();
        sources.push((serde_json::from_str(&config).unwrap(), read_tensors(file).unwrap()));
    }
    let values = [
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(-1),
        json!(7.5),
        json!(64),
        json!(65536),
        json!(1_000_000_000_000u64),
        json!(null),
        json!(true),
        json!(false),
        json!("x"),
        json!(""),
        json!([]),
        json!([1]),
        json!([0, 0]),
        json!({}),
    ];
    let seconds = std::env::var("STEIN_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let started = std::time::Instant::now();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut tried = 0;
    let folders: Vec<_> = sources.iter().map(|(config, weights)| folder(config, weights)).collect();
    while started.elapsed().as_secs_f64() < seconds {
        let which = rng.random_range(0..sources.len());
        let (config, path) = (&sources[which].0, folders[which].path());
        let (json, file) = (path.join("config.json"), path.join("diffusion_pytorch_model.safetensors"));
        let whole = fs::read(&file).unwrap();
        if rng.random_bool(0.7) {
            let mut config = config.clone();
            for _ in 0..rng.random_range(1..4) {
                let mut all = Vec::new();
                places(&config, "", &mut all);
                let place = &all[rng.random_range(0..all.len())];
                *config.pointer_mut(place).unwrap() = values[rng.random_range(0..values.len())].clone();
            }
            fs::write(&json, config.to_string()).unwrap();
        } else {
            let mut damaged = whole.clone();
            // Mostly in the header, where there is something to get wrong.
            let most = if rng.random_bool(0.8) { damaged.len().min(20_000) } else { damaged.len() };
            for _ in 0..rng.random_range(1..6) {
                damaged[rng.random_range(0..most)] = rng.random();
            }
            fs::write(&file, damaged).unwrap();
        }
        if let Err(error) = import(&options(path)) {
            assert!(!error.to_string().is_empty());
        }
        fs::write(&json, config.to_string()).unwrap();
        fs::write(&file, whole).unwrap();
        tried += 1;
    }
    println!("{tried} sources tried");
    assert!(tried > 0);
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

#[cfg(unix)]
#[test]
fn neither_way_replaces_what_it_reads_or_what_is_not_its_own() {
    let source = folder(&unet(), &weights());
    let at = |name: &str| source.path().join(name);
    let import_to =
        |name: &str, force| import(&ImportOptions { output: Some(at(name)), force, ..options(source.path()) });
    let refused = |result: stein_run::Result<_>, part: &str| {
        let sentence = result.map(|_: (String, bool)| ()).unwrap_err().to_string();
        assert!(sentence.contains(part), "{sentence}");
    };
    let export_to = |name: &str, force| export(&at("ours"), &at(name), force).map(|told| (told, true));
    let before: Vec<_> =
        ["config.json", "diffusion_pytorch_model.safetensors"].map(|name| fs::read(at(name)).unwrap()).into();
    fs::hard_link(at("config.json"), at("hard")).unwrap();
    std::os::unix::fs::symlink("config.json", at("soft")).unwrap();
    for name in ["config.json", "diffusion_pytorch_model.safetensors", "hard", "soft"] {
        refused(import_to(name, false), name);
        refused(import_to(name, true), "which this command reads");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = elsewhere.path().join("mine");
    fs::write(&foreign, "mine").unwrap();
    let into_foreign =
        |force| import(&ImportOptions { output: Some(foreign.clone()), force, ..options(source.path()) });
    refused(into_foreign(false), "--force");
    assert_eq!(fs::read(&foreign).unwrap(), b"mine");
    into_foreign(true).unwrap();
    into_foreign(false).unwrap();
    import_to("ours", false).unwrap();
    import_to("ours", false).unwrap();

    let ours = fs::read(at("ours")).unwrap();
    std::os::unix::fs::symlink("ours", at("link.safetensors")).unwrap();
    refused(export_to("link.safetensors", false), "link.safetensors");
    refused(export_to("link.safetensors", true), "which this command reads");
    export_to("out", false).unwrap();
    export_to("out", false).unwrap();
    fs::write(at("out/config.json"), "mine").unwrap();
    refused(export_to("out", false), "config.json");
    assert_eq!(fs::read(at("out/config.json")).unwrap(), b"mine");
    export_to("out", true).unwrap();
    fs::write(at("single.safetensors"), "mine").unwrap();
    refused(export_to("single.safetensors", false), "--force");
    export_to("single.safetensors", true).unwrap();
    export_to("single.safetensors", false).unwrap();
    assert_eq!(fs::read(at("ours")).unwrap(), ours);
    for (name, bytes) in ["config.json", "diffusion_pytorch_model.safetensors"].iter().zip(before) {
        assert_eq!(fs::read(at(name)).unwrap(), bytes);
    }
}
