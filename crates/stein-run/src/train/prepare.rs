//! From an experiment to a run before its first step, or where it stopped: all that can fail because of the experiment, the data or the
//! directory fails here.

use std::{collections::BTreeMap, sync::Arc};

use stein::{Device, Error, Kind, Result, Spacing, coupling::LARGEST, ensure};
use stein_base::memory::ensure_fits;
use stein_data::{Loader, LoaderConfig, Split};
use stein_nn::{AdamW, Checkpoint, Ema, SavedWeights, Weights, state};

use super::{Part, Prepared, RESUMABLE, Start, TrainOptions, held_out::HeldOut, metrics::Window, origin::Beginnings};
use crate::{
    Classes, Description, Experiment, Plan, RunDir, Subject,
    description::{FROM, WINDOW, described},
    device,
    evaluate::check_evaluation,
    experiment::Difference,
    family::{Learner, Origin},
    model::{checkpoint_of, known_density},
};

/// Opens or makes the run: all that can fail because of the experiment, the data or the directory fails here.
///
/// # Errors
/// See above; each sentence says what to change.
pub fn prepare(experiment: &Experiment, options: &TrainOptions) -> Result<Prepared> {
    experiment.check()?;
    let device = device(&options.device)?;
    let (run, claim) = match options.start {
        Start::New | Start::From(_) => (RunDir::vacant(&options.out)?, None),
        Start::Resume | Start::ResumeFrom(_) => {
            let run = RunDir::open(&options.out)?;
            let claim = run.claim()?;
            (run, Some(claim))
        }
    };
    let load = |split| experiment.data.load(split, options.data_dir.as_deref());
    let data = Arc::new(load(Split::Train)?);
    let mut notes = data.notes.clone();
    let held_out = match load(Split::Test).and_then(|held_out| HeldOut::of(&held_out, &data, experiment)) {
        Ok(held_out) => Some(held_out),
        Err(error) => {
            notes.push(format!("no data are held out, so no loss is measured on them ({error})"));
            None
        }
    };
    let settings =
        LoaderConfig { seed: experiment.seed, flip: experiment.data.flip, shift: experiment.data.shift as usize };
    let loader = Loader::new(Arc::clone(&data), settings)?;
    let subject = Subject::of(&data, &experiment.data)?;
    let truth = known_density(&experiment.data).and_then(|law| subject.law_of_states(&law)).map(Arc::new);
    ensure!(
        Kind::Unsupported,
        truth.is_some() || !experiment.family.needs_truth(),
        "family.objective needs the score of the data, which is not known of {}: use implicit, sliced or denoising, or points2d/two_gaussians \
         or eight_gaussians with no codec but standardize, affine or symmetric",
        data.name
    );
    ensure!(
        subject.shown.is_none() || experiment.family.takes_pictures(),
        "data.shown is for families whose networks can be shown pictures, and {} is none: leave it out",
        experiment.family.kind()
    );
    ensure!(
        subject.text.is_none() || experiment.family.reads_texts(),
        "data.captions gives texts, and family {} has nothing that reads them: add [family.text] to family diffusion, or leave them out",
        experiment.family.kind()
    );
    ensure!(
        subject.autoencoder.is_none() || !experiment.data.flip && experiment.data.shift == 0,
        "data.flip and data.shift change examples at every step, and their latents are encoded once: leave both out"
    );
    let pictures = subject.shown.as_ref().map(|shown| shown.pictures(&subject)).transpose()?;
    let at_once = experiment.train.batch / experiment.train.accumulate;
    ensure!(
        experiment.family.coupling().is_none() || at_once >= 2,
        "family.coupling pairs the examples of a batch, and train.batch / train.accumulate is 1: there is nothing to pair; give at least 2"
    );
    ensure!(
        experiment.family.coupling().is_none() || at_once.saturating_mul(at_once) <= LARGEST,
        "family.coupling pairs all examples of a batch, and {at_once} are too many: give train.batch / train.accumulate at most {}",
        LARGEST.isqrt()
    );
    let (parts, averages) = parts(experiment, &subject, &device)?;
    let teacher = experiment.family.teacher();
    let of_teacher = teacher.filter(|teacher| teacher.start).map(|teacher| (&teacher.model, "family.teacher"));
    let of_reflow = match experiment.family.origin() {
        Some(Origin::Model(reflow)) if reflow.start => Some((&reflow.model, "family.reflow")),
        _ => None,
    };
    let opened = teacher.map(|teacher| teacher.open(&subject, experiment.family.schedule(), &device)).transpose()?;
    let perceptual = experiment.family.perceptual().map(|it| it.open(&subject, &device)).transpose()?;
    let folder = options.data_dir.as_deref();
    let origin = experiment.family.origin();
    let origin = origin.map(|origin| Beginnings::of(&origin, &data, &subject, &run, folder, &device)).transpose()?;
    let description = Description::of(experiment, subject);
    let experiment = experiment.clone();
    let window = Window::new(parts.len());
    let mut fresh = Prepared {
        experiment,
        run,
        claim,
        loader,
        held_out,
        description,
        device,
        parts,
        averages,
        step: 0,
        window,
        from: None,
        notes,
        truth,
        teacher: opened,
        perceptual,
        origin,
        encoded: None,
        pictures,
        data_dir: options.data_dir.clone(),
    };
    // How the model will be sampled in the end is tried before the first step.
    let model = fresh.model()?;
    if fresh.experiment.sample.is_some() && fresh.pictures.is_none() {
        Plan::new(&model, 1, 0, &Classes::Default, &model.sample, false).map_err(|error| error.at("sample"))?;
    }
    let asked = fresh.experiment.sample.as_ref().map(|sample| &sample.grid.spacing);
    if asked == Some(&Spacing::Optimized {}) && !matches!(model.sample.grid.spacing, Spacing::Given { .. }) {
        fresh.notes.push(
            "until `stein sweep --grids optimized` has found the levels of the optimized grid for this run, samples are drawn on the grid of \
             Karras et al."
                .to_owned(),
        );
    }
    if fresh.experiment.train.evaluate.every > 0 {
        check_evaluation(model, &fresh.evaluation()).map_err(|error| error.at("train.evaluate"))?;
    }
    match &options.start {
        Start::Resume => return fresh.resumed(None),
        Start::ResumeFrom(step) => return fresh.resumed(Some(*step)),
        Start::From(model) => fresh.take_weights(model)?,
        Start::New => {
            if let Some((model, key)) = of_teacher.or(of_reflow) {
                fresh.take_weights(model).map_err(|error| {
                    let advice = format!("; set {key}.start = false to begin with fresh weights");
                    Error::of(error.kind(), format!("{error}{advice}")).at(key)
                })?;
            }
        }
    }
    fresh.claim = Some(fresh.run.begin()?);
    fresh.write_checkpoint()?;
    fresh.run.set_experiment(&fresh.experiment)?;
    Ok(fresh)
}

/// The learners of a family with their optimizers and averages.
fn parts(experiment: &Experiment, subject: &Subject, device: &Device) -> Result<(Vec<Part>, BTreeMap<String, Ema>)> {
    let shape = subject.state_shape()?;
    let rows = experiment.train.batch / experiment.train.accumulate;
    // As they are read, as states and noisy.
    let mut bytes = 12 * (experiment.train.batch as u128) * shape.iter().product::<usize>() as u128;
    let device = device.clone().autodiff();
    for size in subject.made_for(experiment.seed, &device, |make| experiment.family.sizes(make))? {
        bytes = bytes.saturating_add(size.training(rows));
    }
    ensure_fits(&format!("training with {rows} examples at a time (train.batch / train.accumulate)"), bytes)?;
    let learners = subject.made_for(experiment.seed, &device, |make| experiment.family.learners(make))?;
    let config = &experiment.train;
    let mut averages = BTreeMap::new();
    let mut parts = Vec::new();
    for Learner { name, network, optimizer, rate, averaged, follows } in learners {
        if averaged {
            averages.insert(name.clone(), Ema::new(config.ema.clone(), &network)?);
        }
        let optimizer = AdamW::new(optimizer.unwrap_or_else(|| config.optimizer.clone()))?;
        parts.push(Part { name, network, optimizer, rate: rate.unwrap_or_else(|| config.rate.clone()), follows });
    }
    ensure!(!parts.is_empty(), "family {} has nothing that learns", experiment.family.kind());
    Ok((parts, averages))
}

impl Prepared {
    /// Brings a fresh state to where the run stopped, or to an earlier checkpoint.
    fn resumed(mut self, step: Option<u64>) -> Result<Self> {
        let root = self.run.root().display().to_string();
        self.check_resumable(&root)?;
        let known = self.run.checkpoints()?;
        let path = match step {
            None => self.run.latest()?,
            Some(step) if known.contains(&step) => self.run.checkpoint_path(step),
            Some(step) => {
                return Err(Error::new(format!(
                    "{root} has no checkpoint of step {step}: it has those of {}",
                    list(&known)
                )));
            }
        };
        let checkpoint = Checkpoint::read(&path).map_err(|error| {
            let others: Vec<u64> =
                known.iter().copied().filter(|&other| self.run.checkpoint_path(other) != path).collect();
            let advice = match others.as_slice() {
                [] => "start anew with another --out".to_owned(),
                others => format!("go on from an earlier one with --resume-from STEP ({})", list(others)),
            };
            Error::of(error.kind(), format!("{error}; {advice}"))
        })?;
        let at = |error: Error| error.at(path.display());
        ensure!(
            self.experiment.train.steps >= checkpoint.step,
            "{root} is at step {} already: give train.steps of at least that",
            checkpoint.step
        );
        let described = described(&checkpoint.metadata).map_err(at)?;
        ensure!(
            Kind::Mismatch,
            described.subject == self.description.subject,
            "the data of {root} are not those it was started with: bring them back, or start anew with another --out"
        );
        for part in &mut self.parts {
            let saved = checkpoint.learners.get(&part.name).ok_or_else(|| at(lacks_learner(&part.name)))?;
            part.network = state::load(part.network.clone(), &saved.weights).map_err(at)?;
            part.optimizer =
                AdamW::restore(part.optimizer.config().clone(), &part.network, &saved.optimizer).map_err(at)?;
            if let (Some(average), Some(saved)) = (self.averages.get_mut(&part.name), &saved.average) {
                average.load(saved).map_err(at)?;
            }
        }
        self.step = checkpoint.step;
        self.from = checkpoint.metadata.get(FROM).cloned();
        if let Some(window) = checkpoint.metadata.get(WINDOW) {
            self.window.restore(window).map_err(at)?;
        }
        if step.is_some()
            && let Some(aside) = self.run.set_aside_after(self.step)?
        {
            self.notes.push(format!("what came after step {} is in {} now", self.step, aside.display()));
        }
        self.run.set_experiment(&self.experiment)?;
        self.notes.extend(self.run.cut_metrics(self.step)?);
        Ok(self)
    }

    /// Fails if the experiment differs from the run's in more than [`RESUMABLE`] keys.
    fn check_resumable(&self, root: &str) -> Result<()> {
        let may = |key: &str| {
            RESUMABLE
                .iter()
                .any(|known| key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        };
        let differences = self.run.experiment()?.differences(&self.experiment).into_iter();
        let others: Vec<String> = differences.filter(|it| !may(&it.key)).map(|it| it.to_string()).collect();
        ensure!(
            Kind::Mismatch,
            others.is_empty(),
            "the experiment differs from the one {root} was started with: {}; only {} may change: give the same settings, or start \
             anew with another --out",
            others.join(", "),
            RESUMABLE.join(", ")
        );
        Ok(())
    }

    /// Starts from the weights of a model instead of fresh ones.
    fn take_weights(&mut self, model: &str) -> Result<()> {
        let path = checkpoint_of(model.as_ref())?;
        let at = |error: Error| error.at(path.display());
        let SavedWeights { learners, metadata, .. } = Checkpoint::read_weights(&path, Weights::Ema)?;
        let theirs = described(&metadata).map_err(at)?.family;
        let other = theirs.kind() != self.experiment.family.kind();
        let pairs = self.experiment.family.starts_from(&theirs).map_err(at)?;
        for part in &mut self.parts {
            // What follows a learner begins where that does.
            let own = part.follows.as_ref().map_or(part.name.as_str(), |follows| follows.learner);
            let name = match pairs.iter().find(|(name, _)| *name == own) {
                Some((_, theirs)) => theirs,
                None if pairs.is_empty() => own,
                None => continue,
            };
            let weights = learners.get(name).ok_or_else(|| at(lacks_learner(name)))?;
            part.network = state::load(part.network.clone(), weights).map_err(at)?;
            if let Some(average) = self.averages.get_mut(&part.name) {
                average.load(weights).map_err(at)?;
            }
        }
        self.from = Some(path.display().to_string());
        if other {
            return Ok(());
        }
        // Weights mean something else where what surrounds the network differs.
        let own = ["family.network", "family.objective", "family.label_dropout", "family.label_smoothing"];
        let differences = Difference::between_families(&theirs, &self.experiment.family).into_iter();
        let differences = differences.filter(|it| !own.iter().any(|key| it.key.starts_with(key)));
        self.notes.extend(differences.map(|it| format!("{model} was trained otherwise: {it}")));
        Ok(())
    }
}

/// A learner that the family has and a checkpoint has not.
fn lacks_learner(name: &str) -> Error {
    Error::of(Kind::Mismatch, format!("there is no learner `{name}`: it is a model of another family, or damaged"))
}

fn list(steps: &[u64]) -> String {
    steps.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}
