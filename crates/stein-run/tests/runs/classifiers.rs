//! Classifiers: what they learn, what they are refused for, and those that come with the program.

use std::path::Path;

use stein::{Device, Dual, Kernel, Keys, Kind, Purpose, classify, gradient, log_probability, noise::normal_like};
use stein_data::{Source, Split};
use stein_nn::Checkpoint;
use stein_run::{
    Changes, Classes, EvaluateOptions, Experiment, Model, Of, Shipped, Silent, accuracy, draw, evaluate, prepare,
};

/// Digits without noise, in a few seconds.
const CLEAN: &str = r#"
    [data]
    source = { kind = "digits" }
    codec = [{ kind = "symmetric" }]
    conditional = true
    shift = 1
    [family]
    kind = "classifier"
    network = { channels = 16, multipliers = [1, 2], features = 32 }
    label_smoothing = 0.05
    [train]
    steps = 400
    batch = 64
    rate = { rate = 1e-2, warmup = 20, decay = { kind = "cosine" } }
    ema = { kind = "half_life", images = 1000 }
    checkpoint_every = 200
"#;

/// With it.
const NOISY: &[&str] = &[
    "data.shift=0",
    "train.steps=1000",
    "family.network.embedding={kind=\"fourier\"}",
    "family.noise={schedule={kind=\"edm\"}, levels={kind=\"log_normal\", mean=-1.0, std=2.0}, \
     input_scale={kind=\"unit_variance\", sigma_data=0.75}, noise_input={kind=\"quarter_log_noise\"}}",
];

fn experiment(settings: &[&str]) -> Experiment {
    Experiment::parse(CLEAN, &settings.iter().map(|setting| setting.to_string()).collect::<Vec<_>>()).unwrap()
}

fn sentence(settings: &[&str]) -> String {
    let settings: Vec<String> = settings.iter().map(|setting| setting.to_string()).collect();
    Experiment::parse(CLEAN, &settings).unwrap_err().to_string()
}

fn digits(split: Split) -> stein_data::Data {
    Source::named("digits").unwrap().load(split, None).unwrap()
}

#[test]
fn a_classifier_learns_the_digits_and_draws_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let trained = crate::run(&experiment(&[]), folder.path(), false).unwrap();
    let found = accuracy(&trained.model, &digits(Split::Test), 0.0).unwrap();
    // Chance is 0.1.
    assert!(found > 0.9, "{found} of the test digits are told");
    let line = trained.run.metrics().unwrap().pop().unwrap();
    let measured = line["held_out_accuracy"].as_f64().unwrap();
    assert!((measured - found).abs() < 0.05 && line["held_out_loss"].is_f64(), "{line}");
    // Neither pictures of samples nor samples, in a sentence.
    assert!(!trained.run.sample_path(400).exists() && folder.path().join("report.html").exists());
    let model = Model::open(folder.path(), &Device::flex()).unwrap();
    let refused = draw(&model, 1, 0, &Classes::All, &model.sample, &mut Silent).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.to_string().contains("needs a denoiser") && refused.to_string().contains("is a classifier"));
    // It knows no noise, and says so.
    let refused = accuracy(&model, &digits(Split::Test), 0.5).unwrap_err().to_string();
    assert!(refused.contains("without noise"), "{refused}");
    let others = Source::named("points2d").unwrap().load(Split::Test, None).unwrap();
    assert!(accuracy(&model, &others, 0.0).unwrap_err().to_string().contains("give data of the same"));
}

#[test]
fn a_classifier_resumes_bit_for_bit() {
    for more in [&[][..], NOISY] {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let short = |steps: &'static str| experiment(&[more, &[steps, "train.log_every=1"]].concat());
        let last = |trained: stein_run::Trained| Checkpoint::read(&trained.run.latest().unwrap()).unwrap();
        let whole = last(crate::run(&short("train.steps=6"), &whole, false).unwrap());
        crate::run(&short("train.steps=2"), &parts, false).unwrap();
        let parts = last(crate::run(&short("train.steps=6"), &parts, true).unwrap());
        assert!(whole.learners == parts.learners, "the resumed run is another one");
    }
}

#[test]
fn a_noisy_classifier_tells_less_with_more_noise_and_has_its_derivatives() {
    let folder = tempfile::tempdir().unwrap();
    let model = crate::run(&experiment(NOISY), folder.path(), false).unwrap().model;
    let test = digits(Split::Test);
    let found = [0.0, 0.3, 2.0, 50.0].map(|noise| accuracy(&model, &test, noise).unwrap());
    assert!(found[0] > 0.85 && found.is_sorted_by(|a, b| a + 0.02 > *b), "{found:?}");
    // At a σ of 50 hardly anything is to be seen; chance is 0.1, whose standard deviation on 1797 digits is 0.007.
    assert!(found[3] < 0.2, "{found:?}");

    let classifier = model.learned.classifier.as_deref().unwrap();
    let keys = Keys::range(0, 0, 4);
    let x = model.subject.encode(&test.rows(&[0, 1, 2, 3]).unwrap(), &keys, &Device::flex()).unwrap();
    let direction = normal_like(&keys, Purpose::Probe, 0, &x);
    let classes = [0, 1, 2, 3];
    for noise in [0.1, 1.0, 5.0] {
        let at = Kernel { sigma: noise, ..Kernel::CLEAN };
        let x = x.clone() + normal_like(&keys, Purpose::Perturbation, 0, &x).mul_scalar(noise);
        let said = |x: Dual<2>| log_probability(classifier, x, (&at).into(), &classes).unwrap();
        let host = |x: stein::Tensor<2>| stein::rows::host(&x);
        let (_, slope) = gradient(x.clone(), |x| {
            let said = said(x.into()).value;
            Ok((said.clone(), said.sum()))
        })
        .unwrap();
        let along = host((slope * direction.clone()).sum_dim(1));
        let tangent = host(said(Dual::new(x.clone(), direction.clone())).tangent.unwrap());
        let step = 1e-2;
        let moved = |by: f64| host(said((x.clone() + direction.clone().mul_scalar(by)).into()).value);
        for (row, (up, down)) in moved(step).into_iter().zip(moved(-step)).enumerate() {
            let difference = (up - down) / (2.0 * step);
            // Single precision over the step: 1e-6/1e-2, and the third derivative times its square.
            let bound = 5e-3 * (1.0 + difference.abs());
            assert!((along[row] - tangent[row]).abs() < 1e-4 * (1.0 + tangent[row].abs()), "row {row} at {noise}");
            assert!((along[row] - difference).abs() < bound, "{} and {difference} at {noise}", along[row]);
        }
    }
    let unknown = log_probability(classifier, x.into(), (&Kernel::CLEAN).into(), &[0, 1, 2, 10]).unwrap_err();
    assert!(unknown.to_string().contains("class 10 is out of range"), "{unknown}");
}

#[test]
fn settings_that_are_none_of_a_classifier_are_refused() {
    let sampled = sentence(&["sample={sampler={kind=\"heun\"}}"]);
    assert!(sampled.contains("needs a denoiser") && sampled.contains("is a classifier"), "{sampled}");
    assert!(sentence(&["train.sample_every=5"]).contains("draws none"));
    assert!(sentence(&[NOISY[2]]).contains("have no noise"));
    assert!(sentence(&[NOISY[3]]).contains("family.network.embedding"));
    assert!(sentence(&["family.label_smoothing=1"]).contains("below 1"));
    let begun = |setting: &str| {
        let folder = tempfile::tempdir().unwrap();
        let options = crate::options(folder.path().join("run"), false);
        prepare(&experiment(&[setting]), &options).err().unwrap().to_string()
    };
    assert!(begun("data.conditional=false").contains("set data.conditional = true"));
    assert!(begun("family.network.channels=7").contains("classifier.channels"));
    assert!(begun("data.source={kind=\"points2d\", shape=\"moons\"}").contains("images"));
    // And what draws has to say how.
    let missing = Experiment::parse(crate::TINY.split("[sample]").next().unwrap(), &[]).unwrap_err().to_string();
    assert!(missing.contains("[sample] is missing"), "{missing}");
}

#[test]
fn the_classifiers_of_the_program_are_as_good_as_they_say() {
    let shared = crate::root().join("../shared/data");
    let folder = std::env::var_os("STEIN_DATA").map_or(shared, Into::into);
    for (name, source, bound) in
        [("digits", "digits", 0.97), ("fashion", "fashion_mnist", 0.91), ("cifar", "cifar10", 0.75)]
    {
        let Shipped { model, accuracy: said, .. } = Shipped::named(name, &Device::flex()).unwrap();
        assert!(said >= bound, "{name} says {said}");
        let test = match Source::named(source).unwrap().load(Split::Test, Some(&folder)) {
            Ok(test) => test,
            Err(error) if name != "digits" => {
                println!("skipped {name}: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let found = accuracy(&model, &test, 0.0).unwrap();
        // Another processor sums in another order, which may move an example or two that lie between classes.
        assert!((found - said).abs() <= 2.5 / test.len() as f64 + 5e-5, "{name} is right on {found} and says {said}");
        let (keys, at) = (Keys::range(0, 0, 2), Kernel::CLEAN);
        let x = model.subject.encode(&test.rows(&[0, 1]).unwrap(), &keys, &model.device).unwrap();
        let seen = classify(model.learned.classifier.as_deref().unwrap(), x.into(), (&at).into()).unwrap();
        assert_eq!((seen.logits.dims(), seen.features.dims()), ([2, 10], [2, 64]));
    }
}

#[test]
fn what_a_classifier_sees_is_compared_with_pictures_of_its_shape() {
    let options = |features: &str| EvaluateOptions {
        against: Some("digits".into()),
        features: features.into(),
        metrics: vec!["frechet".into(), "inception_score".into()],
        ..EvaluateOptions::default()
    };
    let found = evaluate(&Of::Data("digits".into()), &options("digits"), &mut Silent).unwrap();
    let text = found.to_string();
    assert!(text.contains("right on 9"), "{text}");
    let refused = evaluate(&Of::Data("digits".into()), &options("cifar"), &mut Silent).err().unwrap().to_string();
    assert!(refused.contains("--features cifar is for pictures of"), "{refused}");
    let weights = EvaluateOptions { weights: Some(Path::new("x.pth").into()), ..options("digits") };
    let refused = evaluate(&Of::Data("digits".into()), &weights, &mut Silent).err().unwrap().to_string();
    assert!(refused.contains("part of the program"), "{refused}");
}

#[test]
fn the_classes_a_classifier_steers_to_are_those_that_agreement_is_measured_by() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // What they have learned does not matter to which class a sample was asked to be of.
    prepare(&experiment(NOISY), &crate::options(at("classifier"), false)).unwrap();
    let digits = ["data.source={kind=\"digits\"}", "data.codec=[{kind=\"symmetric\"}]", "data.conditional=false"];
    prepare(&crate::tiny(&digits), &crate::options(at("model"), false)).unwrap();
    let of = Of::Model(Box::new(Model::open(at("model"), &Device::flex()).unwrap()));
    let steered = format!("sample.wrap=[{{kind=\"classifier\", model=\"{}\"}}]", at("classifier").display());
    let options = |settings| EvaluateOptions {
        n: Some(40),
        metrics: vec!["agreement".into()],
        by_class: true,
        sampling: Changes { settings, ..Changes::default() },
        ..EvaluateOptions::default()
    };
    let found = evaluate(&of, &options(vec![steered]), &mut Silent).unwrap();
    let value = found.measured[0].1.value;
    assert!((0.0..=1.0).contains(&value), "{value}");
    let counts: Vec<usize> = found.by_class.unwrap().classes.iter().map(|class| class.samples).collect();
    assert_eq!(counts, [4; 10]);
    let refused = evaluate(&of, &options(Vec::new()), &mut Silent).err().unwrap().to_string();
    assert!(refused.contains("needs the class of every sample"), "{refused}");
}
