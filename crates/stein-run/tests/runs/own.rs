//! A schedule, a sampler and a network of one's own, by name in an experiment file: trained, kept in a checkpoint, opened again and
//! sampled.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{
    AnySampler, AnySchedule, Context, Dual, Edm, Eval, Kernel, Network, Past, Result, Sampler, Schedule, Tensor,
};
use stein_nn::{
    BuildNetwork, NetworkConfig,
    layers::{Init, Linear},
};
use stein_run::{Changes, Classes, Experiment, Model, Silent, draw, prepare, train};

/// EDM's schedule on another clock: σ = t².
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Squared {}

impl Schedule for Squared {
    fn kernel(&self, t: f64) -> Kernel {
        Kernel { t, d_sigma: 2.0 * t, ..Edm::default().kernel(t * t) }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        Edm::default().time_at(log_snr).sqrt()
    }

    fn span(&self) -> (f64, f64) {
        let (first, last) = Edm::default().span();
        (first.sqrt(), last.sqrt())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Goes part of the way to the estimate and keeps the rest of the noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Halfway {
    part: f64,
}

impl Default for Halfway {
    fn default() -> Self {
        Self { part: 0.5 }
    }
}

impl Sampler for Halfway {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        Ok(if to.is_clean() { denoised } else { x.mul_scalar(1.0 - self.part) + denoised.mul_scalar(self.part) })
    }

    fn order(&self) -> Option<u32> {
        None
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PlainConfig {
    hidden: usize,
}

#[derive(Module, Debug)]
struct Plain {
    first: Linear,
    last: Linear,
}

impl BuildNetwork for PlainConfig {
    type Net = Plain;

    fn build(&self, shape: &[usize], _: usize, init: &mut Init) -> Result<Plain> {
        stein::ensure!(self.hidden > 0, "network.hidden is 0: give a width");
        let dim = shape.iter().product();
        Ok(Plain { first: Linear::new(dim, self.hidden, init), last: Linear::zero(self.hidden, dim, init) })
    }
}

impl Network for Plain {
    fn forward(&self, x: Dual<2>, _: &Context) -> Result<Dual<2>> {
        Ok(self.last.forward(stein_nn::ops::silu(self.first.forward(x))))
    }
}

#[test]
fn what_a_program_adds_stands_in_experiments_and_checkpoints() {
    AnySchedule::register::<Squared>("squared");
    AnySampler::register::<Halfway>("halfway");
    NetworkConfig::register::<PlainConfig>("plain");
    let settings = [
        "family.schedule={kind=\"squared\"}",
        "family.network={kind=\"plain\", hidden=12}",
        "sample.sampler={kind=\"halfway\", part=0.25}",
        "data.conditional=false",
        "train.steps=4",
    ];
    let settings = settings.map(String::from);
    let experiment = Experiment::parse(crate::TINY, &settings).unwrap();
    assert_eq!(Experiment::parse(&experiment.to_toml(), &[]).unwrap(), experiment);
    let folder = tempfile::tempdir().unwrap();
    let options = crate::options(folder.path().join("run"), false);
    let trained = train(prepare(&experiment, &options).unwrap(), &mut Silent).unwrap();
    let model = Model::open(options.out.to_str().unwrap(), &stein::Device::flex()).unwrap();
    assert_eq!(model.schedule.as_ref().unwrap().kind(), "squared");
    assert_eq!(model.sample.sampler.kind(), "halfway");
    let values = |model: &Model| draw(model, 5, 0, &Classes::Default, &model.sample, &mut Silent).unwrap().values;
    assert_eq!(values(&model), values(&trained.model));
    // On a schedule that is built in as well: only the ratio of noise to signal matters to a model.
    let changes = Changes { sampler: Some("heun".into()), schedule: Some("vp".into()), ..Changes::default() };
    let config = model.sample.with(&changes).unwrap();
    assert!(draw(&model, 5, 0, &Classes::Default, &config, &mut Silent).unwrap().values.iter().all(|v| v.is_finite()));
    let wrong = Experiment::parse(crate::TINY, &["family.network={kind=\"plian\"}".into()]).unwrap_err().to_string();
    assert!(wrong.contains("nearest first: plain"), "{wrong}");
}
