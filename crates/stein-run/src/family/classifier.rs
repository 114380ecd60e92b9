//! Classifiers of pictures: without noise, whose features metrics compare; or at every level of it, the p(y | x_t) of classifier
//! guidance (Dhariwal & Nichol 2021, section 4).
//!
//! The loss is the cross-entropy −Σ_k q_k ln p(k | x_t), where q is 1 − s + s/K for the class of the example and s/K for the others:
//! s is the smoothing of labels (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7), K the number of classes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{
    AnySchedule, Edm, Error, Factors, InputScale, Kernel, LevelDistribution, Levels, Network, NetworkClassifier,
    NoiseInput, NoisyInput, Purpose, Result, Tensor, ensure, noise::normal_like, numbers::ensure_within, rows,
};
use stein_base::Explain;
use stein_nn::{Build, ClassifierConfig, NetworkSize, layers::Init};

use super::{Batch, Capability, Family, Learned, Learner, Learners, Loss, Make, Networks};

/// The name of the one learner.
const NETWORK: &str = "classifier";

/// What to do where examples have no class.
const NEEDS_CLASSES: &str = "a classifier learns from the class of every example: set data.conditional = true";

/// A classifier and how it is trained: on the labels that `data.conditional = true` gives.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierModel {
    /// How large the network is; with `noise` it needs an embedding of the noise number.
    pub network: ClassifierConfig,
    /// The part of the probability that is asked for of all classes alike; from 0 to below 1, default 0.
    pub label_smoothing: f64,
    /// The noise of the examples; default none, for a classifier of clean pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<NoisyExamples>,
}

/// How noisy the examples of a classifier are, and how it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct NoisyExamples {
    /// How noise grows with time.
    pub schedule: AnySchedule,
    /// How levels are drawn.
    pub levels: LevelDistribution,
    /// How the input is scaled before the network.
    pub input_scale: InputScale,
    /// Which number tells the network how noisy its input is.
    pub noise_input: NoiseInput,
}

/// EDM's noise.
impl Default for NoisyExamples {
    fn default() -> Self {
        Self {
            schedule: Edm::default().into(),
            levels: LevelDistribution::default(),
            input_scale: InputScale::UnitVariance { sigma_data: 0.5 },
            noise_input: NoiseInput::QuarterLogNoise {},
        }
    }
}

impl NoisyExamples {
    fn input(&self) -> NoisyInput {
        NoisyInput { schedule: self.schedule.clone(), scale: self.input_scale, number: self.noise_input }
    }
}

impl ClassifierModel {
    /// The classifier of a network.
    fn around<N: Network>(&self, network: N) -> NetworkClassifier<N> {
        let noise = self.noise.as_ref().map(NoisyExamples::input);
        NetworkClassifier { network, features: self.network.features, noise }
    }

    /// The logits of a batch, noisy where that is learned, and what undoes how its levels were drawn.
    fn logits(&self, learners: &Learners, batch: &Batch) -> Result<(Tensor<2>, Vec<f64>)> {
        let classifier = self.around(learners.network(NETWORK)?);
        let Some(noise) = &self.noise else {
            let said = classifier.raw(batch.x.clone().into(), (&Kernel::CLEAN).into())?;
            return Ok((said.logits.value, vec![1.0; batch.keys.len()]));
        };
        let (at, ratios): (Vec<Kernel>, Vec<f64>) =
            noise.levels.draw(&*noise.schedule, &batch.keys).into_iter().unzip();
        let eps = normal_like(&batch.keys, Purpose::Perturbation, 0, &batch.x);
        let at = Levels::Each(&at);
        let x = rows::scale(batch.x.clone(), &at.factors(|at| at.alpha)) + rows::scale(eps, &at.factors(|at| at.sigma));
        Ok((classifier.raw(x.into(), at)?.logits.value, ratios))
    }
}

/// The class of every example of a batch.
fn classes(batch: &Batch) -> Result<Vec<u32>> {
    let known = batch.given.class.as_ref().and_then(|class| class.iter().copied().collect::<Option<Vec<u32>>>());
    known.ok_or_else(|| Error::new(NEEDS_CLASSES))
}

impl Family for ClassifierModel {
    fn check(&self) -> Result<()> {
        ensure_within("family.label_smoothing", self.label_smoothing, 0.0..1.0)?;
        let Some(noise) = &self.noise else {
            ensure!(
                self.network.embedding.is_none(),
                "family.network.embedding is of the noise number, and these examples have no noise: leave it out, or set family.noise"
            );
            return Ok(());
        };
        ensure!(
            self.network.embedding.is_some(),
            "family.noise makes noisy examples, of which the network has to be told the level: set family.network.embedding, such as \
             {{ kind = \"fourier\" }}"
        );
        noise.input().check()?;
        noise.levels.check(&*noise.schedule)
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        self.sizes(make)?;
        let network = self.network.build_any(make.shape, make.classes, &mut Init::new(make.seed, make.device))?;
        Ok(vec![Learner::new(NETWORK, network)])
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        ensure!(classes > 0, "{NEEDS_CLASSES}");
        Ok(vec![self.network.size(shape, classes)?])
    }

    fn loss(&self, _: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let (logits, ratios) = self.logits(learners, batch)?;
        let [count, known] = logits.dims();
        let rest = self.label_smoothing / known as f64;
        let of = |class: u32| {
            (0..known).map(move |k| rest + if k == class as usize { 1.0 - self.label_smoothing } else { 0.0 })
        };
        let wanted: Vec<f64> = classes(batch)?.into_iter().flat_map(of).collect();
        let wanted = rows::scale(rows::matrix(wanted, known, &logits), &Factors::Each(ratios));
        let said = stein::Dual::from(logits).log_softmax().value;
        Ok(Loss::some((wanted * said).sum().mul_scalar(-1.0 / count as f64)))
    }

    /// The part of the examples whose class has the largest logit, at the levels of the loss.
    fn held_out(&self, learners: &Learners, batch: &Batch) -> Result<Vec<(String, f64)>> {
        let (logits, _) = self.logits(learners, batch)?;
        let classes = classes(batch)?;
        Ok(vec![("accuracy".into(), right(&logits, &classes) as f64 / classes.len() as f64)])
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let classifier = self.around(networks.take(NETWORK)?);
        Ok(Learned { classifier: Some(Arc::new(classifier)), ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Classifier]
    }

    fn schedule(&self) -> Option<&AnySchedule> {
        self.noise.as_ref().map(|noise| &noise.schedule)
    }
}

/// How many rows of logits `[rows, classes]` are largest at their class; of equal ones the first counts.
pub(crate) fn right(logits: &Tensor<2>, classes: &[u32]) -> usize {
    let said = rows::host(logits);
    let largest = |row: &[f64]| (1..row.len()).fold(0, |best, k| if row[k] > row[best] { k } else { best });
    said.chunks_exact(logits.dims()[1]).zip(classes).filter(|(row, class)| largest(row) == **class as usize).count()
}
