//! What the library's schedulers say of training, and what is said of what is not taken.
//!
//! Numbers were computed by diffusers 0.42.1.

use std::fs;

use serde_json::{Value, json};
use stein::{AnySchedule, Device, Grid, Spacing};
use stein_nn::{
    NetworkConfig,
    import::{self, Kind, Setting},
    state,
};
use stein_run::{ImportOptions, Model, import};

use crate::imports::{folder, options, trained_on, unet, weights};

fn setting(scheduler: Value) -> Setting {
    trained_on(scheduler).unwrap()
}

fn refused(scheduler: Value) -> String {
    trained_on(scheduler).unwrap_err().to_string()
}

fn sigmas(setting: &Setting, steps: usize) -> Vec<f64> {
    let grid = Grid { steps, ..setting.grid.clone() };
    grid.kernels(&*setting.schedule).unwrap().iter().map(|kernel| kernel.sigma).collect()
}

fn close(found: &[f64], wanted: &[f64], bound: f64) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= bound * wanted.abs(), "{found} for {wanted}");
    }
}

#[test]
fn the_shift_of_flow_matching_moves_the_grid() {
    let flow = |more: Value| {
        let mut json = json!({ "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000 });
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json
    };
    let shifted = setting(flow(json!({ "shift": 3.0 })));
    let wanted = [1.0, 0.900_359_094, 0.751_121_104, 0.502_985_060, 0.008_928_572, 0.0];
    close(&sigmas(&shifted, 5), &wanted, 1e-6);
    assert_eq!(setting(flow(json!({ "shift": 1.0 }))).grid, Grid::uniform(50));
    assert!(refused(flow(json!({ "use_dynamic_shifting": true }))).contains("use_dynamic_shifting"));
    assert!(refused(flow(json!({ "shift_terminal": 0.1 }))).contains("shift_terminal"));
    assert!(refused(flow(json!({ "shift": 0.0 }))).contains("the shift is 0"));

    let solver = json!({
        "_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": true, "flow_shift": 5.0,
        "prediction_type": "flow_prediction", "beta_start": 1e-4
    });
    let solver = setting(solver);
    assert_eq!((solver.schedule.kind(), &solver.grid.spacing), ("rectified", &Spacing::Shifted { shift: 5.0 }));
    assert_eq!(solver.role.prediction(), "velocity");
}

#[test]
fn levels_without_signal_are_left_to_predictions_that_say_something_there() {
    let rescaled = |prediction: &str| {
        setting(json!({
            "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
            "rescale_betas_zero_snr": true, "prediction_type": prediction
        }))
    };
    let v = rescaled("v_prediction");
    assert_eq!(v.schedule.levels(), Some(1000));
    assert!(!v.notes.iter().any(|note| note.contains("signal")), "{:?}", v.notes);
    let eps = rescaled("epsilon");
    let count = eps.schedule.levels().unwrap();
    assert!((990..1000).contains(&count), "{count}");
    assert!(eps.notes.iter().any(|note| note.contains(&format!("level {count} of 1000"))), "{:?}", eps.notes);
    // The levels that are left are those of the whole list, and have a thousandth of signal or more.
    let noise = |setting: &Setting, level: usize| setting.schedule.kernel(level as f64).noise_to_signal();
    for level in [0, 500, count - 1] {
        close(&[noise(&eps, level)], &[noise(&v, level)], 1e-9);
    }
    assert!(noise(&eps, count - 1) < 1000.0 && noise(&v, count) > 1000.0);
}

#[test]
fn every_list_of_betas_and_the_defaults_of_every_class() {
    let bars = |scheduler: Value| match setting(scheduler).schedule {
        AnySchedule::Discrete(discrete) => discrete.alpha_bar(),
        other => panic!("{} has no levels", other.kind()),
    };
    let laplace = bars(json!({ "beta_schedule": "laplace", "num_train_timesteps": 1000 }));
    let picked = [0, 1, 500, 998, 999].map(|level| laplace[level]);
    close(&picked, &[0.978_846_252, 0.970_283_508, 0.707_283_437, 0.207_026_601, 0.031_622_775], 2e-5);
    // Some of the library's samplers have Stable Diffusion's betas where a file has none.
    for (name, first) in
        [("HeunDiscreteScheduler", 0.00085), ("DDIMScheduler", 1e-4), ("KDPM2DiscreteScheduler", 0.00085)]
    {
        close(&bars(json!({ "_class_name": name }))[..1], &[1.0 - first], 1e-12);
    }
    let edm = setting(json!({ "_class_name": "EDMEulerScheduler", "rho": 5.0 }));
    close(&sigmas(&edm, 4), &[80.0, 14.101_918_2, 0.966_019_571, 0.002, 0.0], 1e-6);
    let edm = setting(json!({ "_class_name": "EDMEulerScheduler", "sigma_schedule": "exponential" }));
    close(&sigmas(&edm, 4), &[80.0, 2.339_214_32, 0.068_399_027, 0.002, 0.0], 1e-6);
}

#[test]
fn what_is_not_taken_is_said() {
    let notes = setting(json!({
        "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.42.1", "beta_start": 1e-4, "clip_sample": false,
        "timestep_spacing": "leading", "steps_offset": 1, "use_karras_sigmas": false, "sample_max_value": 1.0,
        "interpolation_type": "linear", "trained_betas": null
    }))
    .notes;
    let wanted =
        "of the scheduler, which samples in its own way, not taken: interpolation_type, steps_offset, timestep_spacing";
    assert_eq!(notes, [wanted]);
    let source = folder(&unet(), &weights());
    let (told, _) = import(&options(source.path())).unwrap();
    assert!(told.contains("note           there is no scheduler_config.json: DDPM's noise is assumed"), "{told}");
    assert!(told.contains("weights        the only ones of the file, which does not say"), "{told}");
}

#[test]
fn a_network_without_a_scheduler_is_told_its_noise() {
    let mut config = unet();
    config["time_embedding_type"] = json!("fourier");
    let network = NetworkConfig::Unet2d(import::diffusers::unet_2d_config(&config).unwrap());
    let network = network.build(&[8, 8, 1], 0, 3, &Device::flex()).unwrap();
    let weights = import::theirs(Kind::Diffusers, &config, &state::tensors(&network)).unwrap();
    let source = folder(&config, &weights);
    let output = source.path().join("model.safetensors");
    let stated = |schedule: Option<&str>| {
        let schedule = schedule.map(str::to_owned);
        import(&ImportOptions { output: Some(output.clone()), schedule, ..options(source.path()) })
    };
    let sentence = |schedule| stated(schedule).unwrap_err().to_string();
    assert!(sentence(None).contains("state it with --schedule, such as --schedule ScoreSdeVe"));
    assert!(sentence(Some("ScoreSdeVp")).contains("ScoreSdeVe"));
    assert!(sentence(Some("{")).contains("is no JSON"));
    assert!(sentence(Some("absent.json")).contains("absent.json"));
    assert!(sentence(Some("DDPM")).contains("DDPMScheduler with this network is not known"));
    let file = source.path().join("stated.json");
    fs::write(&file, r#"{"_class_name": "ScoreSdeVeScheduler", "sigma_max": 90.0}"#).unwrap();
    for (schedule, largest) in [
        ("ScoreSdeVe", 1348.0),
        (r#"{"_class_name": "ScoreSdeVeScheduler", "sigma_max": 50.0}"#, 50.0),
        (&*file.display().to_string(), 90.0),
    ] {
        stated(Some(schedule)).unwrap();
        let model = Model::open(output.display().to_string(), &Device::flex()).unwrap();
        let schedule = model.schedule.unwrap();
        close(&[schedule.kernel(schedule.span().1).sigma], &[largest], 1e-9);
    }
}
