//! Generative adversarial networks, trained: eight modes found by every game, runs that go on, spread that is told, and what does not fit.

use std::path::Path;

use stein::TensorData;
use stein_nn::Checkpoint;
use stein_run::{
    Classes, EvaluateOptions, Experiment, LikelihoodOptions, Model, Of, RunDir, Silent, draw, evaluate, likelihood,
};

use crate::run;

/// Eight Gaussians by a game, with these settings of the family.
fn parsed(family: &str, steps: u32, settings: &[&str]) -> stein::Result<Experiment> {
    let text = format!(
        r#"
        [data]
        source = {{ kind = "points2d", shape = "eight_gaussians", count = 4000 }}
        codec = [{{ kind = "standardize", std = 1.0 }}]
        [family]
        kind = "gan"
        latent = 8
        {family}
        generator = {{ network = {{ kind = "mlp", hidden = 64, layers = 3 }} }}
        discriminator = {{ network = {{ kind = "mlp", hidden = 64, layers = 3 }} }}
        [train]
        steps = {steps}
        batch = 128
        rate = {{ rate = 2e-3, decay = {{ kind = "cosine", steps = {steps} }} }}
        optimizer = {{ beta1 = 0.0, beta2 = 0.99 }}
        ema = {{ kind = "decay", decay = 0.99 }}
        log_every = 500
        checkpoint_every = 1000
        [sample]
        sampler = {{ kind = "generate" }}
        "#
    );
    Experiment::parse(&text, &settings.iter().map(|s| s.to_string()).collect::<Vec<_>>())
}

const R1: &str = "penalty = { kind = \"r1\", gamma = 0.2, every = 2 }";
const WASSERSTEIN: &str = "game = \"wasserstein\"\npenalty = { kind = \"gradient\", lambda = 1.0 }\nupdates = 2";

/// The sliced Wasserstein distance of samples to fresh data.
fn distance(model: Model) -> f64 {
    let asked =
        EvaluateOptions { metrics: vec!["sliced_wasserstein".into()], n: Some(2000), ..EvaluateOptions::default() };
    evaluate(&Of::Model(Box::new(model)), &asked, &mut Silent).unwrap().metric("sliced_wasserstein").unwrap().value
}

#[test]
fn every_game_finds_eight_gaussians() {
    let hinge = format!("game = \"hinge\"\n{R1}");
    for (name, family) in [("non_saturating", R1), ("hinge", &hinge), ("wasserstein", WASSERSTEIN)] {
        let folder = tempfile::tempdir().unwrap();
        let trained = run(&parsed(family, 2000, &[]).unwrap(), folder.path(), false).unwrap();
        let last = trained.run.metrics().unwrap();
        let spread = last.iter().rev().find_map(|line| line["held_out_spread"].as_f64()).unwrap();
        let distance = distance(trained.model);
        println!("{name}: distance {distance:.3}, spread {spread:.3}");
        // The data have a spread of about 5, and all samples in one mode would be 3 away.
        assert!(distance < 0.5, "{name}: {distance}");
        assert!((0.8..1.2).contains(&spread), "{name}: {spread}");
    }
}

#[test]
fn a_game_goes_on_bit_for_bit() {
    let last = |run: &Path| Checkpoint::read(&RunDir::open(run).unwrap().latest().unwrap()).unwrap();
    for family in [R1, WASSERSTEIN] {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        // A decay that ends with the training would end earlier in the first part.
        let constant = "train.rate.decay=constant";
        run(&parsed(family, 12, &[constant]).unwrap(), &whole, false).unwrap();
        run(&parsed(family, 12, &[constant, "train.steps=5"]).unwrap(), &parts, false).unwrap();
        run(&parsed(family, 12, &[constant]).unwrap(), &parts, true).unwrap();
        let (whole, parts) = (last(&whole), last(&parts));
        assert!(whole.learners == parts.learners, "{family}");
        assert!(whole.learners["generator"].average.is_some() && whole.learners["discriminator"].average.is_none());
    }
}

#[test]
fn players_learn_by_optimizers_of_their_own_and_samples_have_the_class_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
        [data]
        source = { kind = "digits" }
        codec = [{ kind = "symmetric" }]
        conditional = true
        [family]
        kind = "gan"
        latent = 4
        [family.generator]
        network = { kind = "residual", channels = [4, 8] }
        rate = { rate = 1e-30 }
        [family.discriminator]
        network = { kind = "convolutional", channels = [4, 8] }
        optimizer = { beta1 = 0.5 }
        rate = { rate = 1e-2 }
        [train]
        steps = 2
        batch = 8
        checkpoint_every = 1
        rate = { rate = 1e-3 }
        [sample]
        sampler = { kind = "generate" }
    "#;
    let trained = run(&Experiment::parse(text, &[]).unwrap(), folder.path(), false).unwrap();
    let at = |step| Checkpoint::read(&trained.run.checkpoint_path(step)).unwrap().learners;
    let (first, second) = (at(1), at(2));
    let moved = |name: &str| {
        let [before, after] = [&first, &second].map(|learners| &learners[name].weights);
        let of = |(key, before): (&String, &TensorData)| -> Vec<f64> {
            before.iter::<f64>().zip(after[key].iter::<f64>()).map(|(a, b)| (a - b).abs()).collect()
        };
        before.iter().flat_map(of).fold(0.0, f64::max)
    };
    // Adam moves by about the rate.
    assert!(moved("generator") < 1e-20 && moved("discriminator") > 1e-3);
    let of = |class: &str| {
        let class = Classes::Named(class.to_owned());
        draw(&trained.model, 2, 0, &class, &trained.model.sample, &mut Silent).unwrap().values
    };
    assert!(of("1") != of("7"));
}

#[test]
fn what_does_not_fit_a_game_is_said() {
    let refused = |family: &str| parsed(family, 1, &[]).unwrap_err().to_string();
    assert!(refused("game = \"wasserstein\"\npenalty = { kind = \"none\" }").contains("without a penalty"));
    assert!(refused("updates = 0").contains("family.updates"));
    assert!(refused("penalty = { kind = \"r1\", gamma = -1.0 }").contains("penalty.gamma"));
    assert!(refused("penalty = { kind = \"gradient\", lambda = 0.0 }").contains("penalty.lambda"));
    let family = parsed(R1, 1, &[]).unwrap().family;
    let concern = |spread| family.concern(&[("held_out_spread".to_owned(), spread)]);
    assert!(concern(0.05).unwrap().contains("has collapsed: its samples are 0.050 times as far apart"));
    assert!(concern(0.9).is_none());
    let pictures =
        ["family.generator.network={kind=\"convolutional\"}", "family.discriminator.network={kind=\"convolutional\"}"];
    let folder = tempfile::tempdir().unwrap();
    let refused = run(&parsed(R1, 1, &pictures).unwrap(), &folder.path().join("pictures"), false).err().unwrap();
    assert!(refused.to_string().contains("family.discriminator"), "{refused}");
    let trained = run(&parsed(R1, 1, &[]).unwrap(), &folder.path().join("run"), false).unwrap();
    let refused =
        likelihood(&trained.model, &LikelihoodOptions::default(), &mut Silent).map(drop).unwrap_err().to_string();
    assert!(refused.contains("of the family gan, is a generator"), "{refused}");
}
