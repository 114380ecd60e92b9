//! Autoencoders: that small ones train against a discriminator or with a codebook, resume bit for bit, and what they are refused for.

use std::path::Path;

use stein::{Autoencoder, Device, Keys, Kind, rows};
use stein_data::{Source, Split};
use stein_metrics::{Psnr, Side, measure};
use stein_nn::{Checkpoint, Weights};
use stein_run::{Classes, Experiment, Model, Silent, Trained, draw};

/// Digits of 8 x 8, whose latents are of 4 x 4, in a few seconds.
const KL: &str = r#"
    [data]
    source = { kind = "digits" }
    codec = [{ kind = "symmetric" }]
    [family]
    kind = "autoencoder"
    latents = { kind = "kl", channels = 2, weight = 1e-3 }
    network = { channels = [16, 16], blocks = 1, middle_attention = false, groups = 4 }
    discriminator = { network = { channels = 8, layers = 1 }, balance = { start = 60 } }
    [train]
    steps = 150
    batch = 32
    optimizer = { beta1 = 0.5, beta2 = 0.9 }
    rate = { rate = 2e-3, warmup = 10 }
    ema = { kind = "half_life", images = 500 }
    log_every = 10
    checkpoint_every = 50
"#;

/// With a codebook in its place, which learns by gradients or by averages.
const VQ: [&str; 2] = [
    "family.latents={kind=\"vq\", codes=64, channels=2, commitment={legacy=true}}",
    "family.latents={kind=\"vq\", codes=64, channels=2, decay=0.9}",
];

fn experiment(settings: &[&str]) -> Experiment {
    Experiment::parse(KL, &settings.iter().map(|setting| setting.to_string()).collect::<Vec<_>>()).unwrap()
}

fn digits(split: Split) -> Vec<f32> {
    let data = Source::named("digits").unwrap().load(split, None).unwrap();
    data.rows(&data.spaced(200)).unwrap()
}

/// The mean over pictures in dB.
fn psnr(pictures: &[f32], others: &[f32]) -> f64 {
    let sides = [(Side::Reference, pictures.into()), (Side::Samples, others.into())];
    measure(Psnr::default(), 64, sides).unwrap().value
}

/// Reconstructions of pictures, through the mode of their latents, or through latents that are drawn.
fn reconstructed(model: &Model, pictures: &[f32], drawn: bool) -> Vec<f32> {
    let coder = model.learned.autoencoder.as_deref().unwrap();
    let keys = Keys::range(0, 0, pictures.len() / 64);
    let x = model.subject.encode(pictures, &keys, &Device::flex()).unwrap();
    let latents = coder.encode(x, drawn.then_some(&keys)).unwrap();
    model.subject.decode(coder.decode(latents).unwrap()).unwrap()
}

fn numbers(trained: &Trained, name: &str) -> Vec<f64> {
    trained.run.metrics().unwrap().iter().filter_map(|line| line[name].as_f64()).collect()
}

#[test]
fn autoencoders_learn_to_bring_pictures_back() {
    let test = digits(Split::Test);
    let train = digits(Split::Train);
    let mean: Vec<f32> =
        (0..64).map(|k| train.iter().skip(k).step_by(64).sum::<f32>() / (train.len() / 64) as f32).collect();
    let without = psnr(&test, &mean.repeat(test.len() / 64));
    for settings in [&[][..], &VQ[..1], &VQ[1..]] {
        let folder = tempfile::tempdir().unwrap();
        let trained = crate::run(&experiment(settings), folder.path(), false).unwrap();
        let losses = numbers(&trained, "held_out_loss/autoencoder");
        // The first is of step 50, when the least of it is left; that it falls on is what is asked here, how far is asked below.
        assert!(losses[losses.len() - 1] < 0.9 * losses[0], "{settings:?}: {losses:?}");
        let found = psnr(&test, &reconstructed(&trained.model, &test, false));
        // A picture that is nothing but the mean explains nothing of the differences; 3 dB are half of their squares.
        assert!(found > without + 3.0, "{settings:?}: {found} dB, and {without} of the mean picture");
        let measured = *numbers(&trained, "held_out_psnr").last().unwrap();
        // Of all pictures that are held out, and of the first 200 of them.
        assert!((measured - found).abs() < 1.0, "{measured} dB, and {found}");
        // The discriminator rests until its start, and learns then.
        assert_eq!(numbers(&trained, "loss/discriminator").len(), 9);
        let used = numbers(&trained, "held_out_codes_used");
        assert_eq!(used.is_empty(), settings.is_empty());
        let perplexities = numbers(&trained, "held_out_perplexity");
        for (used, perplexity) in used.iter().zip(perplexities) {
            assert!((1.0..=64.0).contains(used) && perplexity >= 1.0 && perplexity <= *used + 1e-9);
        }
        // A picture above what is made of it, and the numbers, are in the report.
        assert!(trained.run.sample_path(150).exists());
        let report = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
        assert!(report.contains("psnr") && report.contains("Pictures above what is made of them"));
    }
}

#[test]
fn latents_have_their_shape_and_their_spread() {
    let folder = tempfile::tempdir().unwrap();
    crate::run(&experiment(&["train.steps=5"]), folder.path(), false).unwrap();
    let model = Model::open(folder.path(), &Device::flex()).unwrap();
    let coder: &dyn Autoencoder = model.learned.autoencoder.as_deref().unwrap();
    assert_eq!(coder.latent_shape(), [4, 4, 2]);
    let pictures = &digits(Split::Test)[..3 * 64];
    let (keys, other) = (Keys::range(1, 0, 3), Keys::range(2, 0, 3));
    let x = model.subject.encode(pictures, &keys, &Device::flex()).unwrap();
    let host = |keys: Option<&Keys>| rows::host(&coder.encode(x.clone(), keys).unwrap());
    assert_eq!(host(Some(&keys)), host(Some(&keys)));
    assert!(host(Some(&keys)) != host(Some(&other)) && host(Some(&keys)) != host(None));
    assert!(coder.codes(coder.encode(x.clone(), None).unwrap()).unwrap().is_none());
    // A row is itself whatever stands beside it.
    let alone = rows::host(&coder.encode(x.clone().narrow(0, 1, 1), None).unwrap());
    let beside = host(None);
    assert!(alone.iter().zip(&beside[32..64]).all(|(a, b)| (a - b).abs() < 1e-5));
    let wrong = coder.decode(x).unwrap_err().to_string();
    assert!(wrong.contains("latents of 64 numbers") && wrong.contains("of 32"), "{wrong}");
    let refused = draw(&model, 1, 0, &Classes::All, &model.sample, &mut Silent).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.to_string().contains("is an autoencoder"), "{refused}");
}

#[test]
fn an_autoencoder_resumes_bit_for_bit() {
    let start = "family.discriminator.balance.start=3";
    for more in [&[start][..], &[start, "family.latents.learn_scale=true"], &[start, VQ[0]], &[start, VQ[1]]] {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let short = |steps: &'static str| experiment(&[more, &[steps, "train.accumulate=2"]].concat());
        let last = |trained: Trained| Checkpoint::read(&trained.run.latest().unwrap()).unwrap();
        let whole = last(crate::run(&short("train.steps=6"), &whole, false).unwrap());
        crate::run(&short("train.steps=2"), &parts, false).unwrap();
        let parts = last(crate::run(&short("train.steps=6"), &parts, true).unwrap());
        assert_eq!(whole.learners.keys().collect::<Vec<_>>(), ["autoencoder", "discriminator"]);
        assert!(whole.learners == parts.learners, "{more:?}: the resumed run is another one");
    }
}

#[test]
fn the_scale_of_misfits_learns_to_be_their_mean() {
    let settings = [
        "family.latents.learn_scale=true",
        // The optimizer moves a number by at most its rate at a step.
        "family.latents.log_scale=-2.0",
        "train.steps=400",
        "train.rate.rate=5e-3",
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut experiment = experiment(&settings);
    let stein_run::AnyFamily::AutoencoderModel(family) = &mut experiment.family else { unreachable!() };
    family.discriminator = None;
    let trained = crate::run(&experiment, folder.path(), false).unwrap();
    let learned = Checkpoint::read(&trained.run.latest().unwrap()).unwrap().learners["autoencoder"].weights.clone();
    let scale = learned["parts.log_scale"].iter::<f64>().next().unwrap();
    let pictures = digits(Split::Train);
    // The weights that learned it, not their average, which reconstructs better.
    let raw = Model::open_with(folder.path(), Weights::Raw, &Device::flex()).unwrap();
    let back = reconstructed(&raw, &pictures, true);
    // Of states, which are twice as far apart as pictures.
    let misfit: f64 = pictures.iter().zip(&back).map(|(a, b)| 2.0 * f64::from((a - b).abs())).sum();
    let wanted = (misfit / pictures.len() as f64).ln();
    // It follows the misfit of some steps ago.
    assert!((scale - wanted).abs() < 0.3, "{scale}, and the logarithm of the mean misfit is {wanted}");
}

#[test]
fn what_is_no_autoencoder_is_refused_in_a_sentence() {
    let parse = |setting: &str| Experiment::parse(KL, &[setting.to_owned()]).unwrap_err().to_string();
    for (setting, said) in [
        ("family.latents.channels=0", "family.latents.channels is 0"),
        ("family.latents.weight=-1", "family.latents.weight"),
        ("family.latents={kind=\"vq\", decay=1.0}", "family.latents.decay"),
        ("family.latents={kind=\"vae\"}", "kl"),
        ("family.discriminator.balance.factor=0", "factor"),
        ("family.discriminator.loss=\"wasserstein\"", "hinge"),
        ("train.evaluate.every=10", "draws none"),
    ] {
        let sentence = parse(setting);
        assert!(sentence.contains(said), "{setting}: {sentence}");
    }
    let begin = |settings: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let out: &Path = &folder.path().join("run");
        crate::run(&experiment(settings), out, false).err().unwrap().to_string()
    };
    for (settings, said) in [
        (&["family.network.channels=[16,16,16,16,16]"][..], "cannot be halved 4 times"),
        (&["family.discriminator.network.layers=3"], "too small for a discriminator of 3 layers"),
        (&["data.conditional=true"], "told no classes"),
        (&["data.source={kind=\"points2d\", shape=\"moons\"}", "data.codec=[]"], "this family is of pictures"),
        (&["family.perceptual={weights=\"a\", heads=\"b\"}"], "a"),
        (&["family.perceptual={weights=\"a\", heads=\"b\"}", "data.codec=[]"], "from -1 to 1"),
    ] {
        let sentence = begin(settings);
        assert!(sentence.contains(said), "{settings:?}: {sentence}");
    }
}
