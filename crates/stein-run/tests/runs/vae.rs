//! Variational autoencoders: that their bound is one, tighter with more draws, and that codes, samples and refusals are as everywhere.

use std::path::Path;

use stein::Kind;
use stein_run::{
    Bounded, Classes, CodeOptions, DataChoice, Experiment, LikelihoodOptions, Silent, Trained, draw, encode, likelihood,
};

/// Two Gaussians of known density, in a few seconds.
const POINTS: &str = r#"
    [data]
    source = { kind = "points2d", shape = "two_gaussians", count = 4000 }
    codec = [{ kind = "standardize" }]
    [family]
    kind = "vae"
    network = { latents = [2], hidden = 32, blocks = 1 }
    [train]
    steps = 400
    batch = 64
    rate = { rate = 3e-3, warmup = 20 }
    optimizer = { clip = 10.0 }
    ema = { kind = "half_life", images = 2000 }
    checkpoint_every = 200
    [sample]
    sampler = { kind = "generate" }
"#;

fn trained(settings: &[&str], out: &Path) -> Trained {
    let settings: Vec<String> = settings.iter().map(|setting| setting.to_string()).collect();
    crate::run(&Experiment::parse(POINTS, &settings).unwrap(), out, false).unwrap()
}

fn asked(draws: usize) -> LikelihoodOptions {
    let data = DataChoice { n: Some(500), ..DataChoice::default() };
    LikelihoodOptions { data, draws, closed_form: true, ..LikelihoodOptions::default() }
}

/// One layer, two of them, and one that was trained on the tighter bound.
#[test]
fn the_bound_stays_below_the_density_and_tightens() {
    for settings in [&[][..], &["family.network.latents=[2, 2]"], &["family.importance=4"]] {
        let folder = tempfile::tempdir().unwrap();
        let model = trained(settings, folder.path()).model;
        let loose = likelihood(&model, &asked(1), &mut Silent).unwrap();
        let tight = likelihood(&model, &asked(200), &mut Silent).unwrap();
        let known = tight.closed_form.unwrap();
        // The model is no better than the truth by more than chance: 500 samples, whose differences in ln p have a deviation of about 0.3
        // here, so that 0.06 is four standard errors. The bound itself cannot lie above the model's density, but for its own draws.
        assert!(tight.mean < known + 0.06, "{settings:?}: {} above {known}", tight.mean);
        assert!(tight.mean > loose.mean, "{settings:?}: {} with 200 draws, {} with one", tight.mean, loose.mean);
        // One Gaussian fitted to the data has 4.6 nats, the truth 3.3: what is learned lies between, near the truth.
        assert!(tight.mean > known - 0.35, "{settings:?}: {} for {known}", tight.mean);
        assert!(tight.to_string().contains("a bound"), "{tight}");
        let drawn = draw(&model, 2000, 0, &Classes::Default, &model.sample, &mut Silent).unwrap().values;
        // A fifth of the points lie at (−5, −5), four fifths at (5, 5): of 2000, four standard errors are 3.6 %.
        let low = drawn.chunks(2).filter(|x| x[0] + x[1] < 0.0).count() as f64 / 2000.0;
        assert!((low - 0.2).abs() < 0.08, "{settings:?}: {low} of the samples at (-5, -5)");
    }
}

#[test]
fn codes_lead_back_and_have_the_width_of_the_latent_variables() {
    let folder = tempfile::tempdir().unwrap();
    let whole = trained(&["family.network.latents=[3, 2]"], &folder.path().join("whole"));
    let choice = DataChoice { n: Some(50), ..DataChoice::default() };
    let found = encode(&whole.model, &choice, &CodeOptions::default(), &mut Silent).unwrap();
    assert_eq!((found.shape, found.values.len()), (vec![5], 250));
    let error = encode(&whole.model, &choice, &CodeOptions { tolerance: 1e-3, ..CodeOptions::default() }, &mut Silent);
    assert_eq!(error.unwrap_err().kind(), Kind::Unsupported);
    for options in [
        LikelihoodOptions { bound: Bounded::ScoreFlow, ..asked(1) },
        LikelihoodOptions { divergence: Some("exact".into()), ..asked(1) },
        LikelihoodOptions { schedule: Some("vp".into()), ..asked(1) },
    ] {
        let error = likelihood(&whole.model, &options, &mut Silent).map(drop).unwrap_err();
        assert!(error.to_string().contains("tells its density itself"), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_said_before_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |settings: &[&str]| {
        let settings: Vec<String> = settings.iter().map(|setting| setting.to_string()).collect();
        let experiment = Experiment::parse(POINTS, &settings);
        let run =
            experiment.and_then(|experiment| crate::run(&experiment, &folder.path().join("run"), false).map(drop));
        run.unwrap_err().to_string()
    };
    assert!(fails(&["family.network.latents=[]"]).contains("network.latents is []"));
    assert!(fails(&["family.beta=-1"]).contains("family.beta"));
    assert!(fails(&["family.importance=4", "family.beta=2"]).contains("leave out family.beta"));
    assert!(fails(&["family.label_dropout=0.1"]).contains("label_dropout hides classes"));
    assert!(fails(&["family.decoder.kind=bernoulli"]).contains("states in [0, 1]"));
}
