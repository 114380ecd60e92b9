//! A family of one's own, from outside: two learners with optimizers of their own, in some sixty lines. It is trained, stopped,
//! resumed, sampled, and refused by what it does not serve, by the loop and the commands that all families go through.

use std::{path::Path, sync::Arc, sync::atomic::AtomicBool};

use serde::{Deserialize, Serialize};
use stein::{Context, Kind, Network, Request, Result, Tensor, random::Purpose, rows};
use stein_nn::{AdamWConfig, AnyNetwork, Checkpoint, MlpConfig, NetworkConfig};
use stein_run::{
    AnyFamily, Capability, Changes, Classes, Experiment, Family, Generator, Learned, Learner, Model, RunDir, Silent,
    draw,
    family::{Batch, Learners, Loss, Make, Networks},
    prepare, train,
};

/// A least-squares GAN (Mao et al. 2017) of two perceptrons.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ToyGan {
    hidden: usize,
}

impl ToyGan {
    fn network(&self, make: &Make) -> Result<AnyNetwork> {
        let config = MlpConfig { hidden: self.hidden, blocks: 1, embedding_dim: 8, ..MlpConfig::default() };
        NetworkConfig::Mlp(config).build(make.shape, 0, make.seed, make.device)
    }
}

/// A perceptron without a noise level: x plus its output.
fn apply(network: &AnyNetwork, x: Tensor<2>) -> Result<Tensor<2>> {
    let noise = rows::vector(vec![0.0; x.dims()[0]], &x);
    let given = stein::Condition::none();
    Ok(x.clone() + network.forward(x.into(), &Context::new(noise, &given))?.value)
}

impl Family for ToyGan {
    fn check(&self) -> Result<()> {
        stein::ensure!(self.hidden > 0, "family.hidden is 0: give the width of the perceptrons");
        Ok(())
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        let critic = Learner {
            optimizer: Some(AdamWConfig { beta1: 0.5, ..AdamWConfig::default() }),
            averaged: false,
            ..Learner::new("critic", self.network(make)?)
        };
        Ok(vec![critic, Learner::new("generator", self.network(make)?)])
    }

    fn loss(&self, turn: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let z = stein::noise::normal_like(&batch.keys, Purpose::Own(1), 0, &batch.x);
        let fake = apply(learners.network("generator")?, z)?;
        let judge = |x| apply(learners.network("critic")?, x);
        Ok(Loss::some(match turn {
            "critic" => (judge(batch.x.clone())? - 1.0).square().mean() + judge(fake)?.square().mean(),
            _ => (judge(fake)? - 1.0).square().mean(),
        }))
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let generator = Arc::new(Maker(networks.take("generator")?));
        Ok(Learned { generator: Some(generator), ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Generator]
    }
}

struct Maker(AnyNetwork);

impl Generator for Maker {
    fn generate(&self, request: &Request) -> Result<Tensor<2>> {
        let z = request.keys().normal(Purpose::Prior, 0, request.dim);
        let like = Tensor::<2>::empty([0, 1], (&request.device, request.dtype));
        apply(&self.0, rows::matrix(z, request.dim, &like))
    }
}

fn experiment(settings: &[&str]) -> Experiment {
    AnyFamily::register::<ToyGan>("toy_gan");
    let text = r#"
        [data]
        source = { kind = "points2d", shape = "moons", count = 200 }
        [family]
        kind = "toy_gan"
        hidden = 8
        [train]
        steps = 6
        batch = 10
        accumulate = 2
        log_every = 1
        checkpoint_every = 2
        [sample]
        sampler = { kind = "generate" }
        batch = 7
    "#;
    Experiment::parse(text, &settings.iter().map(|setting| setting.to_string()).collect::<Vec<_>>()).unwrap()
}

fn run(settings: &[&str], out: &Path, resume: bool) -> stein_run::Trained {
    train(prepare(&experiment(settings), &crate::options(out.to_owned(), resume)).unwrap(), &mut Silent).unwrap()
}

#[test]
fn a_family_of_two_learners_trains_stops_resumes_and_samples() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let trained = run(&[], &whole, false);
    run(&["train.steps=3"], &parts, false);
    let stopped = prepare(&experiment(&[]), &crate::options(parts.clone(), true)).unwrap();
    assert!(train(stopped, &mut &AtomicBool::new(true)).unwrap().stopped);
    run(&[], &parts, true);
    let last = |run: &Path| Checkpoint::read(&RunDir::open(run).unwrap().latest().unwrap()).unwrap();
    let (whole_state, parts_state) = (last(&whole), last(&parts));
    assert_eq!(whole_state.learners.keys().collect::<Vec<_>>(), ["critic", "generator"]);
    assert!(whole_state.learners == parts_state.learners, "the resumed run is another one");
    assert!(whole_state.learners["critic"].average.is_none() && whole_state.learners["generator"].average.is_some());
    let line = trained.run.metrics().unwrap().pop().unwrap();
    assert!(line["loss/critic"].is_f64() && line["loss/generator"].is_f64(), "{line}");
    // Both moved.
    let first = Checkpoint::read(&RunDir::open(&whole).unwrap().checkpoint_path(4)).unwrap();
    for name in ["critic", "generator"] {
        assert!(first.learners[name].weights != whole_state.learners[name].weights, "{name} did not learn");
    }

    let model = Model::open(whole.to_str().unwrap(), &stein_run::device("cpu").unwrap()).unwrap();
    let drawn = |batch| {
        let config = stein_run::SampleConfig { batch, ..model.sample.clone() };
        draw(&model, 20, 1, &Classes::Default, &config, &mut Silent).unwrap()
    };
    assert_eq!(drawn(20).values, drawn(3).values);
    assert_eq!(drawn(7).summary.evaluations, 1);
}

#[test]
fn a_family_is_refused_by_what_it_does_not_serve() {
    let folder = tempfile::tempdir().unwrap();
    let model = run(&["train.steps=1"], folder.path(), false).model;
    let heun = model.sample.with(&Changes { sampler: Some("heun".into()), ..Changes::default() }).unwrap();
    let refused = draw(&model, 4, 0, &Classes::Default, &heun, &mut Silent).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    let sentence = refused.to_string();
    assert!(sentence.contains("sampler heun needs a denoiser") && sentence.contains("toy_gan"), "{sentence}");
    // And in the experiment, before anything is made.
    let text = experiment(&[]).to_toml().replace("\"generate\"", "\"heun\"");
    let sentence = Experiment::parse(&text, &[]).unwrap_err().to_string();
    assert!(sentence.contains("needs a denoiser"), "{sentence}");
    let unknown = Experiment::parse(&text.replace("toy_gan", "toy_gam"), &[]).unwrap_err().to_string();
    assert!(unknown.contains("nearest first: toy_gan"), "{unknown}");
}

#[test]
fn every_objective_trains_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let discrete = r#"family.schedule={kind="discrete", levels={kind="linear", first=1e-3, last=0.1, count=50}}"#;
    let plain = r#"family.prediction={kind="eps"}"#;
    let mixture = "data.source.shape=two_gaussians";
    let single = r#"levels={kind="single", noise=0.5}"#;
    for (name, objective, more) in [
        ("explicit", format!(r#"{{kind="explicit", {single}}}"#), vec![mixture]),
        ("implicit", format!(r#"{{kind="ism", {single}}}"#), vec![]),
        ("sliced", format!(r#"{{kind="sliced", {single}, projection="gaussian", projections=2}}"#), vec![]),
        ("plain", r#"{levels={kind="log_normal"}, weighting={kind="unit"}}"#.into(), vec![]),
        ("variational", r#"{kind="vlb", bound={variance="posterior"}}"#.into(), vec![discrete, plain]),
        ("hybrid", r#"{kind="hybrid", bound={variance="forward"}}"#.into(), vec![discrete, plain]),
    ] {
        let objective = format!("family.objective={objective}");
        let experiment = crate::tiny(&[&[objective.as_str(), "train.log_every=1"][..], &more].concat());
        let trained = crate::run(&experiment, &folder.path().join(name), false).unwrap();
        let losses: Vec<f64> = trained.run.metrics().unwrap().iter().filter_map(|line| line["loss"].as_f64()).collect();
        assert!(losses.len() == 12 && losses.iter().all(|loss| loss.is_finite()), "{name}: {losses:?}");
    }
    // The resolved file says the kind.
    let text = std::fs::read_to_string(folder.path().join("plain/config.toml")).unwrap();
    assert!(text.contains("kind = \"denoising\""), "{text}");
    let refuse = |settings: &[&str], part: &str| {
        let options = crate::options(folder.path().join("refused"), false);
        let error = prepare(&crate::tiny(settings), &options).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    };
    // The moons have no score that is known, and a perceptron no variances.
    refuse(&[r#"family.objective={kind="explicit"}"#], "not known");
    let on_edm = Experiment::parse(crate::TINY, &[r#"family.objective={kind="variational"}"#.to_owned()]);
    assert!(on_edm.err().unwrap().to_string().contains("discrete schedule"));
    let learned = crate::tiny(&[r#"family.objective={kind="variational"}"#, discrete, plain]);
    let error = crate::run(&learned, &folder.path().join("learned"), false).err().unwrap().to_string();
    assert!(error.contains("not learned variances"), "{error}");
}

#[test]
fn the_uncertainty_of_levels_is_learned_beside() {
    let folder = tempfile::tempdir().unwrap();
    let single = r#"family.objective={levels={kind="single", noise=0.02}, weighting={kind="eps"}}"#;
    let more = ["train.steps=400", "train.log_every=400", "train.checkpoint_every=200", "train.rate={rate=0.01}"];
    let settings = [&["family.uncertainty=true", single][..], &more].concat();
    let trained = crate::run(&crate::tiny(&settings), &folder.path().join("run"), false).unwrap();
    let line = trained.run.metrics().unwrap().pop().unwrap();
    // e^-u L + u is least at u = ln L, where it is 1 + u. With so little noise hardly any ε is seen in x, so L is near 1 and u near 0; both
    // parts measure the same.
    let (of_denoiser, own) = (line["loss/denoiser"].as_f64().unwrap(), line["loss/uncertainty"].as_f64().unwrap());
    assert!((of_denoiser - own).abs() < 0.1 && (0.5..1.2).contains(&own), "{of_denoiser} and {own}");
    // Stopped in the middle it is the same run, and what is drawn is the denoiser's.
    let halves = folder.path().join("halves");
    crate::run(&crate::tiny(&[&settings[..], &["train.steps=200"]].concat()), &halves, false).unwrap();
    let resumed = crate::run(&crate::tiny(&settings), &halves, true).unwrap();
    let bytes = |run: &RunDir| std::fs::read(run.checkpoint_path(400)).unwrap();
    assert!(bytes(&trained.run) == bytes(&resumed.run), "the checkpoints differ");
    let drawn = draw(&resumed.model, 8, 0, &Classes::All, &resumed.model.sample, &mut Silent).unwrap();
    assert_eq!(drawn.values.len(), 16);
    let error = Experiment::parse(
        crate::TINY,
        &["family.uncertainty=true", r#"family.objective={kind="sliced"}"#].map(str::to_owned),
    );
    assert!(error.err().unwrap().to_string().contains("family.uncertainty"));
}
