//! Energies, trained: what is learned at many levels and at one, fields without rotation, samplers of both kinds, runs that go on.

use std::path::Path;

use stein::{Condition, Denoiser, Edm, Kernel, Keys, Purpose, Schedule, Tensor, jvp, rows};
use stein_nn::Checkpoint;
use stein_run::{Changes, EvaluateOptions, Experiment, FieldOptions, Model, Of, RunDir, Silent, draw_field, evaluate};

use crate::run;

/// Two moons by an energy, with these settings of the whole.
fn moons(kind: &str, steps: u32, settings: &[&str]) -> Experiment {
    let text = format!(
        r#"
        [data]
        source = {{ kind = "points2d", shape = "moons", count = 4000 }}
        codec = [{{ kind = "standardize", std = 0.5 }}]
        [family]
        kind = "{kind}"
        schedule = {{ kind = "edm", sigma_min = 0.01, sigma_max = 10.0 }}
        prediction = {{ kind = "edm", sigma_data = 0.5 }}
        input_scale = {{ kind = "unit_variance", sigma_data = 0.5 }}
        noise_input = {{ kind = "quarter_log_noise" }}
        network = {{ kind = "mlp", hidden = 64, blocks = 2, embedding_dim = 32 }}
        objective = {{ levels = {{ kind = "log_normal", mean = -2.0, std = 1.4 }}, weighting = {{ kind = "unit" }} }}
        [train]
        steps = {steps}
        batch = 256
        rate = {{ rate = 3e-3, warmup = 50, decay = {{ kind = "cosine" }} }}
        optimizer = {{ clip = 1.0 }}
        ema = {{ kind = "decay", decay = 0.99 }}
        log_every = 500
        checkpoint_every = 1000
        [sample]
        sampler = {{ kind = "heun" }}
        grid = {{ spacing = {{ kind = "karras" }}, steps = 20 }}
        batch = 2000
        "#
    );
    Experiment::parse(&text, &settings.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
}

/// The sliced Wasserstein distance of samples to fresh data, by the sampler of these settings.
fn distance(model: &Model, settings: &[&str]) -> f64 {
    let settings = settings.iter().map(|s| s.to_string()).collect();
    let sampling = Changes { settings, ..Changes::default() };
    let asked = EvaluateOptions {
        metrics: vec!["sliced_wasserstein".into()],
        n: Some(2000),
        sampling,
        ..EvaluateOptions::default()
    };
    let found = evaluate(&Of::Model(Box::new(model.clone())), &asked, &mut Silent).unwrap();
    found.metric("sliced_wasserstein").unwrap().value
}

/// How much of the Jacobian of a denoiser is not symmetric, at a level: |J₁₂ − J₂₁| over |J|, the mean over points.
fn rotation(model: &dyn Denoiser, at: &Kernel) -> f64 {
    let n = 200;
    let like = Tensor::<2>::empty([0, 2], &stein::Device::flex());
    let x = rows::matrix(Keys::range(1, 0, n).normal(Purpose::Model, 0, 2), 2, &like);
    let column = |unit: [f64; 2]| {
        let direction = rows::matrix(unit.repeat(n), 2, &like);
        rows::host(&jvp(model, x.clone(), direction, at.into(), &Condition::none()).unwrap().1)
    };
    let (first, second) = (column([1.0, 0.0]), column([0.0, 1.0]));
    let of = |(a, b): (&[f64], &[f64])| (a[1] - b[0]).abs() / (a[0].hypot(a[1]).hypot(b[0]).hypot(b[1]));
    first.chunks(2).zip(second.chunks(2)).map(of).sum::<f64>() / n as f64
}

#[test]
fn an_energy_learns_two_moons_and_its_field_has_no_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let trained = |kind| run(&moons(kind, 1500, &[]), &folder.path().join(kind), false).unwrap().model;
    let (energy, diffusion) = (trained("energy"), trained("diffusion"));
    let at = Edm::default().kernel(0.2);
    let of = |model: &Model| rotation(&**model.learned.denoiser.as_ref().unwrap(), &at);
    let (none, some) = (of(&energy), of(&diffusion));
    let [plain, other] = [&energy, &diffusion].map(|model| distance(model, &[]));
    let corrected = "sample.sampler={kind=\"langevin\", metropolis=true, steps=10}";
    let walked = distance(&energy, &[corrected]);
    println!(
        "rotation {none:.1e} and {some:.1e}; distance {plain:.3}, by walking {walked:.3}, of diffusion {other:.3}"
    );
    // Rounding in single precision, of a Jacobian that is a difference of larger numbers; a network of diffusion has what it was left with.
    assert!(none < 1e-4 && some > 100.0 * none, "{none:e} {some:e}");
    // Two sets of data are about 0.04 apart.
    assert!(plain < 0.15 && walked < 0.15, "{plain} {walked}");
    let picture = folder.path().join("field.png");
    draw_field(&picture, &energy, &FieldOptions::default()).unwrap();
    assert!(picture.metadata().unwrap().len() > 1000);
}

/// The classical form (Vincent 2011): one level, and plain Langevin dynamics there.
#[test]
fn one_level_is_enough_for_what_it_can_reach() {
    let folder = tempfile::tempdir().unwrap();
    let single = "family.objective.levels={kind=\"single\", noise=0.2}";
    let model = run(&moons("energy", 600, &[single]), folder.path(), false).unwrap().model;
    let walk = [
        "sample.sampler={kind=\"langevin\", metropolis=true, steps=300, epsilon=0.01, denoise=false}",
        "sample.grid={spacing={kind=\"given\", noise=[0.2]}, steps=1}",
    ];
    let found = distance(&model, &walk);
    println!("distance {found:.3}");
    // The level's noise of 0.2 of data of 0.5 is in the samples.
    assert!(found < 0.3, "{found}");
}

#[test]
fn an_energy_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    run(&moons("energy", 12, &[]), &whole, false).unwrap();
    run(&moons("energy", 12, &["train.steps=5"]), &parts, false).unwrap();
    run(&moons("energy", 12, &[]), &parts, true).unwrap();
    let last = |run: &Path| Checkpoint::read(&RunDir::open(run).unwrap().latest().unwrap()).unwrap();
    assert!(last(&whole).learners == last(&parts).learners);
}
