//! Diffusion: a denoiser learned by denoising score matching on one schedule. NCSN, DDPM, Score-SDE, EDM and flow matching are its
//! settings.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{
    AnyObjective, AnySchedule, Denoising, Edm, Error, Examples, InputScale, Keys, LevelDistribution, NoiseInput,
    Objective, Precondition, Preconditioned, Prediction, Result, Weighting, ensure, exact::Exact,
};
use stein_base::Explain;
use stein_nn::{AnyNetwork, Beside, MlpConfig, NetworkConfig, NetworkSize, TextConfig, Told, Wording};

use super::{
    AnyFamily, Batch, Capability, Family, Learned, Learner, Learners, Loss, Make, Networks, check_hides,
    check_label_dropout, hide_labels, uncertainty,
};

/// The name of the learner whose network is used in the end.
pub(crate) const NETWORK: &str = "denoiser";

/// A denoiser and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Diffusion {
    /// How noise grows with time.
    pub schedule: AnySchedule,
    /// What the raw output stands for.
    pub prediction: Prediction,
    /// How the input is scaled before the network.
    pub input_scale: InputScale,
    /// Which number tells the network how noisy its input is.
    pub noise_input: NoiseInput,
    /// The network, and how large.
    pub network: NetworkConfig,
    /// What reads the texts that the network is told, a transformer that learns with it, for a network that attends to tokens of its width,
    /// such as unet2d_condition; default nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig>,
    /// What is minimized, `denoising` where no kind is said; absent from a model that was imported, which is sampled and not trained.
    #[serde(default, deserialize_with = "objective", skip_serializing_if = "Option::is_none")]
    pub objective: Option<AnyObjective>,
    /// The probability of hiding the class and the text of a training example, for classifier-free guidance; in [0, 1], default 0.
    #[serde(default)]
    pub label_dropout: f64,
    /// Whether ln of the loss at a level, u(σ), is learned beside, and the loss is L/e^u + u, so that all levels count alike (Karras et al.
    /// 2024, "EDM2", eq. 14 and 15); for the objective `denoising`, default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncertainty: bool,
}

/// EDM (Karras et al. 2022) with a perceptron.
impl Default for Diffusion {
    fn default() -> Self {
        let Precondition { prediction, input_scale, noise_input } = Precondition::edm(0.5);
        let levels = LevelDistribution::LogNormal { mean: -1.2, std: 1.2 };
        Self {
            schedule: Edm::default().into(),
            prediction,
            input_scale,
            noise_input,
            network: NetworkConfig::Mlp(MlpConfig::default()),
            text: None,
            objective: Some(Denoising { levels, weighting: Weighting::Unit {} }.into()),
            label_dropout: 0.0,
            uncertainty: false,
        }
    }
}

impl Diffusion {
    /// What reads the texts, and what they are of.
    fn told<'a>(&'a self, make: &Make<'a>) -> Result<Option<(&'a TextConfig, &'a Wording)>> {
        match (&self.text, make.text) {
            (Some(text), Some(wording)) => {
                ensure!(
                    make.beside == 0,
                    "a network that is told texts is shown nothing beside its input: leave out data.shown or family.text"
                );
                Ok(Some((text, wording)))
            }
            (None, None) => Ok(None),
            (Some(_), None) => Err(Error::new(
                "family.text reads texts, and the data have none: set data.captions = true, or leave it out",
            )),
            (None, Some(_)) => Err(Error::new(
                "the data have captions (data.captions), and nothing reads them: add [family.text], or leave them out",
            )),
        }
    }

    /// What surrounds the network.
    pub fn precondition(&self) -> Precondition {
        Precondition { prediction: self.prediction, input_scale: self.input_scale, noise_input: self.noise_input }
    }
}

/// Fails unless a model is a denoiser with these surroundings, so that its weights mean the same in another with them.
pub(super) fn same_surroundings(other: &AnyFamily, own: &Precondition) -> Result<()> {
    let fits = match other {
        AnyFamily::Diffusion(theirs) => theirs.precondition() == *own,
        AnyFamily::ProgressiveDistillation(theirs) => theirs.precondition() == *own,
        _ => false,
    };
    ensure!(
        Kind::Mismatch,
        fits,
        "the weights of this model, of the family {}, mean something else here: begin with those of a denoiser with the same prediction, \
         input scale, noise input and sigma_data",
        other.kind()
    );
    Ok(())
}

/// Levels at which the held-out loss is told.
const MIDDLES: usize = 5;

/// The σ/α in the middle of equal parts of the levels that are trained on; fewer where several are the same.
fn middles(levels: &LevelDistribution, schedule: &AnySchedule) -> Vec<f64> {
    let drawn = levels.draw(&**schedule, &Keys::range(0, 0, 1000));
    let mut noise: Vec<f64> = drawn.iter().map(|(at, _)| at.noise_to_signal()).collect();
    noise.sort_by(f64::total_cmp);
    let mut middles: Vec<f64> = (0..MIDDLES).map(|part| noise[(2 * part + 1) * noise.len() / (2 * MIDDLES)]).collect();
    middles.dedup();
    middles
}

/// An objective in a file: without a kind it is denoising score matching.
fn objective<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<AnyObjective>, D::Error> {
    let mut value = toml::Value::deserialize(from)?;
    if let Some(table) = value.as_table_mut() {
        table.entry("kind").or_insert_with(|| AnyObjective::from(Denoising::default()).kind().into());
    }
    stein::settings::read(value).map(Some).map_err(serde::de::Error::custom)
}

impl Family for Diffusion {
    fn check(&self) -> Result<()> {
        self.schedule.check()?;
        self.precondition().check(&self.schedule)?;
        check_label_dropout(self.label_dropout)?;
        ensure!(
            !self.uncertainty || matches!(self.objective, Some(AnyObjective::Denoising(_))),
            "family.uncertainty is of the loss of denoising: leave it out, or set family.objective.kind = \"denoising\""
        );
        self.objective.as_ref().map_or(Ok(()), |objective| objective.check(&self.schedule))
    }

    fn check_training(&self) -> Result<()> {
        ensure!(self.objective.is_some(), "family.objective is missing: give levels and weighting to train this model");
        Ok(())
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        check_hides(self.label_dropout, make)?;
        let Make { shape, classes, beside, seed, device, .. } = *make;
        let network = match (self.told(make)?, beside) {
            (Some((text, wording)), _) => {
                AnyNetwork::own(Told::build(text, wording, &self.network, shape, classes, seed, device)?)
            }
            (None, 0) => self.network.build(shape, classes, seed, device)?,
            (None, beside) => AnyNetwork::own(Beside::build(&self.network, shape, beside, classes, seed, device)?),
        };
        let mut learners = vec![Learner::new(NETWORK, network)];
        if self.uncertainty {
            learners.push(uncertainty::learner(make)?);
        }
        Ok(learners)
    }

    fn needs_truth(&self) -> bool {
        self.objective.as_ref().is_some_and(|objective| objective.needs_truth())
    }

    fn sizes(&self, make: &Make) -> Result<Vec<NetworkSize>> {
        let Make { shape, classes, beside, .. } = *make;
        Ok(vec![match (self.told(make)?, beside) {
            (Some((text, wording)), _) => Told::size(text, wording, &self.network, shape, classes)?,
            (None, 0) => self.network.size(shape, classes)?,
            (None, beside) => Beside::size(&self.network, shape, beside, classes)?,
        }])
    }

    fn takes_pictures(&self) -> bool {
        true
    }

    fn reads_texts(&self) -> bool {
        self.text.is_some()
    }

    fn loss(&self, turn: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let Some(objective) = &self.objective else {
            return Err(Error::new("family.objective is missing: this model is not trained"));
        };
        let network = learners.network(NETWORK)?;
        let model = Preconditioned::new(network, self.precondition(), self.schedule.clone())?;
        let given = hide_labels(&batch.given, &batch.keys, self.label_dropout);
        let truth = batch.truth.as_deref().map(|truth| truth as &dyn Exact);
        let examples = Examples { x0: &batch.x, given: &given, keys: &batch.keys, truth };
        match objective {
            AnyObjective::Denoising(denoising) if self.uncertainty => {
                let losses = |examples: &Examples| {
                    let (errors, levels) = denoising.errors(&model.view(), examples)?;
                    Ok((errors.mean_dim(1), levels))
                };
                uncertainty::weighted(turn, learners, &examples, losses).map(Loss::some)
            }
            _ => objective.loss(&model.view(), &examples).map(Loss::some),
        }
    }

    /// The loss at five fixed levels, those in the middle of five equal parts of what is trained on, on a fifth of the rows each: where
    /// the noise is small a network over-fits first, which the mean over all levels hides.
    fn held_out(&self, learners: &Learners, batch: &Batch) -> Result<Vec<(String, f64)>> {
        let Some(AnyObjective::Denoising(denoising)) = &self.objective else { return Ok(Vec::new()) };
        let model = Preconditioned::new(learners.network(NETWORK)?, self.precondition(), self.schedule.clone())?;
        let rows: Vec<usize> = (0..batch.x.dims()[0].div_ceil(MIDDLES)).collect();
        let x0 = batch.x.clone().narrow(0, 0, rows.len());
        let (given, keys) = (batch.given.select(&rows), batch.keys.select(&rows));
        let examples = Examples { x0: &x0, given: &given, keys: &keys, truth: None };
        let loss = |noise: f64| {
            let at = Denoising { levels: LevelDistribution::Single { noise }, ..*denoising };
            let loss = at.loss(&model.view(), &examples)?.into_scalar::<f64>();
            Ok((format!("level/{noise:.3}"), loss))
        };
        middles(&denoising.levels, &self.schedule).into_iter().map(loss).collect()
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let network = networks.take(NETWORK)?;
        let model = Preconditioned::new(network, self.precondition(), self.schedule.clone())?;
        Ok(Learned { denoiser: Some(Arc::new(model)), knows_no_class: self.label_dropout > 0.0, ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Denoiser]
    }

    fn schedule(&self) -> Option<&AnySchedule> {
        Some(&self.schedule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_without_signal_is_held_out_like_any_other() {
        let rectified = AnySchedule::named("rectified").unwrap();
        assert_eq!(middles(&LevelDistribution::Single { noise: f64::INFINITY }, &rectified), [f64::INFINITY]);
    }
}
