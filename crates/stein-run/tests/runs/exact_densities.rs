//! Families with exact densities: normalizing flows and PixelCNN. Their densities are densities, their codes lead back, and their runs go
//! through the loop and the commands like all others.

use std::path::Path;

use stein::{Condition, Keys, Tensor, rows};
use stein_run::{
    Classes, CodeOptions, DataChoice, Experiment, LikelihoodOptions, Model, Observed, Silent, Trained, draw, encode,
    likelihood,
};

/// Two Gaussians of known density, in a few seconds.
const FLOW: &str = r#"
    [data]
    source = { kind = "points2d", shape = "two_gaussians", count = 4000 }
    codec = [{ kind = "standardize" }]
    [family]
    kind = "normalizing_flow"
    network = { kind = "flow", steps = 2, hidden = 32, blocks = 1 }
    [train]
    steps = 400
    batch = 64
    rate = { rate = 3e-3, warmup = 20 }
    optimizer = { clip = 5.0 }
    ema = { kind = "half_life", images = 2000 }
    checkpoint_every = 200
    [sample]
    sampler = { kind = "generate" }
"#;

/// Digits, whose 17 gray levels are told.
const PIXELS: &str = r#"
    [data]
    source = { kind = "digits" }
    codec = [{ kind = "symmetric" }]
    conditional = true
    [family]
    kind = "pixel_cnn"
    likelihood = { kind = "categorical" }
    pixels = { levels = 17 }
    network = { channels = 8, blocks = 1, levels = 1, dropout = 0.0 }
    [train]
    steps = 60
    batch = 32
    rate = { rate = 3e-3, warmup = 10 }
    ema = { kind = "half_life", images = 500 }
    checkpoint_every = 30
    [sample]
    sampler = { kind = "generate" }
"#;

fn experiment(text: &str, settings: &[&str]) -> stein::Result<Experiment> {
    Experiment::parse(text, &settings.iter().map(|setting| setting.to_string()).collect::<Vec<_>>())
}

fn trained(text: &str, settings: &[&str], out: &Path) -> Trained {
    crate::run(&experiment(text, settings).unwrap(), out, false).unwrap()
}

fn asked(n: usize, closed_form: bool) -> LikelihoodOptions {
    let data = DataChoice { n: Some(n), ..DataChoice::default() };
    LikelihoodOptions { data, closed_form, ..LikelihoodOptions::default() }
}

/// ∫ p dx over a square of states, by the midpoint rule.
fn integral(model: &Model, side: f64, cells: usize) -> f64 {
    let at = |i: usize| side * (2.0 * (i as f64 + 0.5) / cells as f64 - 1.0);
    let points: Vec<f64> = (0..cells * cells).flat_map(|k| [at(k % cells), at(k / cells)]).collect();
    let like = Tensor::<2>::empty([0, 1], (&model.device, model.dtype));
    let (count, x) = (points.len() / 2, rows::matrix(points, 2, &like));
    let keys = Keys::range(0, 0, count);
    let found = model.learned.density.as_ref().unwrap().log_density(x, &Condition::none(), &keys, 1).unwrap();
    found.nats.iter().map(|nats| nats.exp()).sum::<f64>() * (2.0 * side / cells as f64).powi(2)
}

/// Couplings of splines, autoregressive affine layers, and RealNVP's affine couplings.
#[test]
fn flows_learn_densities_that_integrate_to_one() {
    let maf = ["family.network.structure=autoregressive", "family.network.transform=affine"];
    for settings in [&[][..], &maf, &["family.network.transform=affine", "family.network.permutation=reverse"]] {
        let folder = tempfile::tempdir().unwrap();
        let model = trained(FLOW, settings, folder.path()).model;
        let found = likelihood(&model, &asked(2000, true), &mut Silent).unwrap();
        let known = found.closed_form.unwrap();
        // No density has a larger mean of its logarithm than the truth, but for the chance of 2000 samples: four standard errors of a
        // difference whose deviation is about 0.5.
        assert!(found.mean < known + 0.05, "{settings:?}: {} above {known}", found.mean);
        // One Gaussian has 1.3 nats less; affine couplings leave a bridge between the two.
        assert!(found.mean > known - 0.5, "{settings:?}: {} for {known}", found.mean);
        assert!(found.to_string().contains("the change of variables, exactly"), "{found}");
        // Standardized states lie within 4 of the middle; a cell is a hundredth of their deviation wide.
        let whole = integral(&model, 6.0, 400);
        assert!((whole - 1.0).abs() < 1e-3, "{settings:?}: the density integrates to {whole}");

        let choice = DataChoice { n: Some(50), ..DataChoice::default() };
        let codes = encode(&model, &choice, &CodeOptions::default(), &mut Silent).unwrap();
        let like = Tensor::<2>::empty([0, 1], (&model.device, model.dtype));
        let codes = rows::matrix(codes.values, 2, &like);
        let back = model.learned.codes.as_ref().unwrap().decode(codes, &Condition::none()).unwrap();
        let states = Observed::of(&model, &choice).unwrap().plain_states(&(0..50).collect::<Vec<_>>()).unwrap();
        let off = (back - states).abs().max().into_scalar::<f32>();
        assert!(off < 1e-4, "{settings:?}: codes lead back to {off} from where they came");
    }
}

/// A run that stops and goes on ends where one does that never stopped, the first batch's initialization included.
#[test]
fn runs_of_flows_go_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let drawn = |trained: &Trained| {
        let model = &trained.model;
        draw(model, 20, 0, &Classes::Default, &model.sample, &mut Silent).unwrap().values
    };
    let whole = trained(FLOW, &["train.steps=40", "train.checkpoint_every=20"], &whole);
    trained(FLOW, &["train.steps=20", "train.checkpoint_every=20"], &parts);
    let longer = experiment(FLOW, &["train.steps=40", "train.checkpoint_every=20"]).unwrap();
    let parts = crate::run(&longer, &parts, true).unwrap();
    assert_eq!(drawn(&whole), drawn(&parts));
}

#[test]
fn pixels_have_probabilities_and_samples_that_are_gray_levels() {
    let folder = tempfile::tempdir().unwrap();
    let model = trained(PIXELS, &[], folder.path()).model;
    let found = likelihood(&model, &asked(100, false), &mut Silent).unwrap();
    // 17 levels alike take 4.09 bits; digits are mostly dark.
    assert_eq!(found.unit, "bits/dim");
    assert!((1.0..3.5).contains(&found.mean), "{found}");
    let drawn = draw(&model, 20, 0, &Classes::All, &model.sample, &mut Silent).unwrap();
    assert!(drawn.values.iter().all(|value| (16.0 * value - (16.0 * value).round()).abs() < 1e-4));
    let fewer = draw(&model, 10, 0, &Classes::Named("3".into()), &model.sample, &mut Silent).unwrap();
    assert_eq!(fewer.values.len(), 640);
    let error = encode(&model, &DataChoice::default(), &CodeOptions::default(), &mut Silent).map(drop).unwrap_err();
    assert!(error.to_string().contains("needs a velocity"), "{error}");
}

#[test]
fn what_does_not_fit_is_said_before_a_step() {
    let fails = |text: &str, settings: &[&str], wanted: &str| {
        let folder = tempfile::tempdir().unwrap();
        let run = experiment(text, settings)
            .and_then(|experiment| crate::run(&experiment, &folder.path().join("run"), false).map(drop));
        let error = run.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    fails(PIXELS, &["family.pixels.levels=16"], "codecs that keep them");
    fails(PIXELS, &["family.likelihood={kind=\"bernoulli\"}"], "a Bernoulli law is of 2 levels");
    fails(PIXELS, &["family.network.levels=5"], "cannot be halved");
    fails(FLOW, &["family.label_dropout=0.5"], "label_dropout hides classes");
    fails(FLOW, &["family.network={kind=\"glow\"}"], "[height, width, channels]");
}
