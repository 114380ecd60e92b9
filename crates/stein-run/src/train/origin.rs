//! What the paths of training examples begin from, where that is not fresh noise: items of another data set, or the noise whose samples a
//! model made.

use std::{collections::BTreeMap, path::Path};

use stein::{
    Condition, Device, Error, Keys, Purpose, Result, Tensor, TensorData, denoiser::Converted, ensure, flow::Flow, rows,
};
use stein_base::memory::ensure_fits;
use stein_data::{Data, Split};

use crate::{
    CodeOptions, Event, Experiment, Model, RunDir, Subject, Watch,
    arrays::NpyFile,
    begin::{by_classes, encoded, ensure_such, places, places_of_classes},
    code_flow::CodeFlow,
    draw::Asking,
    family::{Origin, Reflow},
};

/// Where paths begin.
pub(super) enum Beginnings {
    Data {
        trained: Box<Items>,
        /// What examples that are held out go with, where items of the source are held out too.
        held_out: Option<Box<Items>>,
    },
    Pairs {
        reflow: Reflow,
        /// What makes them, until they are made.
        model: Option<Box<Model>>,
        made: Option<Pairs>,
    },
}

/// Items of a source.
pub(super) struct Items {
    data: Data,
    /// The places of each class, where an example goes with an item of its own class.
    of_class: Option<BTreeMap<u32, Vec<usize>>>,
}

/// Noise and where a model's flow leads it, `[count, state]` each, and the classes it was led by.
pub(super) struct Pairs {
    x1: Vec<f32>,
    x0: Vec<f32>,
    class: Option<Vec<u32>>,
    count: usize,
}

/// The states of a batch.
pub(super) struct States {
    /// What takes the place of the data.
    pub(super) x0: Option<Tensor<2>>,
    pub(super) x1: Tensor<2>,
    /// The classes that take the place of those of the data.
    pub(super) class: Option<Vec<u32>>,
}

impl Beginnings {
    /// Reads the source, or opens the model, unless the run has its pairs already; all that does not fit fails here.
    pub(super) fn of(
        origin: &Origin,
        data: &Data,
        subject: &Subject,
        run: &RunDir,
        folder: Option<&Path>,
        device: &Device,
    ) -> Result<Self> {
        match origin {
            Origin::Model(reflow) => {
                let width = subject.state_shape()?.iter().product::<usize>();
                ensure_fits(&format!("keeping {} pairs", reflow.pairs), 8 * (reflow.pairs as u128) * width as u128)?;
                let model =
                    if run.pairs_path().exists() { None } else { Some(Box::new(teacher(reflow, subject, device)?)) };
                Ok(Self::Pairs { reflow: (*reflow).clone(), model, made: None })
            }
            Origin::Data { data: source, by_class } => {
                let items = |split| -> Result<Items> {
                    let found = source.load(split, folder).map_err(|error| error.at("family.source"))?;
                    ensure_such(&found, subject)?;
                    let of_class = if *by_class { Some(classes_of(&found, data)?) } else { None };
                    Ok(Items { data: found, of_class })
                };
                // A source may hold nothing out, or not every class.
                let held_out = items(Split::Test).ok().map(Box::new);
                Ok(Self::Data { trained: Box::new(items(Split::Train)?), held_out })
            }
        }
    }

    /// The states that go with some examples, whose classes these are.
    pub(super) fn states(
        &self,
        subject: &Subject,
        keys: &Keys,
        class: Option<&[Option<u32>]>,
        device: &Device,
    ) -> Result<States> {
        match self {
            Self::Data { trained, held_out } => {
                let is_held_out = keys.rows.first().is_some_and(|&position| position >= FIRST_HELD_OUT);
                let Items { data, of_class } = &**held_out.as_ref().filter(|_| is_held_out).unwrap_or(trained);
                let at = match (of_class, class) {
                    (Some(of_class), Some(class)) => places_of_classes(keys, class, of_class)?,
                    _ => places(keys, data.len()),
                };
                Ok(States { x0: None, x1: encoded(data, &at, subject, keys, device)?, class: None })
            }
            Self::Pairs { made, .. } => {
                let Some(pairs) = made else {
                    return Err(Error::new("the pairs of family.reflow were not made yet: train begins with them"));
                };
                Ok(pairs.states(keys, device))
            }
        }
    }

    /// Makes the pairs, or reads those that the run has made before.
    pub(super) fn make(
        &mut self,
        run: &RunDir,
        experiment: &Experiment,
        subject: &Subject,
        data: &Data,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let Self::Pairs { reflow, model, made } = self else { return Ok(()) };
        let (path, width) = (run.pairs_path(), subject.state_shape()?.iter().product::<usize>());
        let class = data.labels.as_ref().filter(|_| !subject.classes.is_empty());
        // As often as in the data, whatever order they are in.
        let place = |i: usize, of: usize| (i as u128 * of as u128 / reflow.pairs as u128) as usize;
        let class = class.map(|labels| (0..reflow.pairs).map(|i| labels[place(i, labels.len())] as u32).collect());
        let fresh = Pairs { x1: Vec::new(), x0: Vec::new(), class, count: reflow.pairs };
        *made = Some(match model.take() {
            None => fresh.read(&path, width)?,
            Some(model) => {
                let pairs = fresh.drawn(experiment, &model, reflow, watch)?;
                pairs.write(&path, width)?;
                pairs
            }
        });
        Ok(())
    }
}

/// The model that makes pairs, if it is one of such data.
fn teacher(reflow: &Reflow, subject: &Subject, device: &Device) -> Result<Model> {
    let model = Model::open(&reflow.model, device)?;
    CodeFlow::of(&model, &CodeOptions { tolerance: reflow.tolerance, ..CodeOptions::default() }, "reflow")?;
    let theirs = &model.subject;
    ensure!(
        Kind::Mismatch,
        (theirs.shape, &theirs.codec, &theirs.classes) == (subject.shape, &subject.codec, &subject.classes)
            && model.source.is_none(),
        "{} does not lead from noise to states as these are: give family.reflow a model of the same data, with the same codecs and classes",
        reflow.model
    );
    Ok(model)
}

/// The places of the samples of a source of each class of the data, if it has them all.
fn classes_of(source: &Data, data: &Data) -> Result<BTreeMap<u32, Vec<usize>>> {
    let found = by_classes(source, &data.class_names);
    let counts = data.class_counts();
    let without = (0..counts.len()).find(|&class| counts[class] > 0 && !found.contains_key(&(class as u32)));
    match without {
        None => Ok(found),
        Some(class) => Err(Error::new(format!(
            "the classes of {} and {} do not pair: the source has no sample of the class {}; leave out family.coupling.within_class",
            source.name, data.name, data.class_names[class]
        ))),
    }
}

/// The part of the pairs that is held out.
const HELD_OUT: usize = 20;

/// Where the positions of held-out examples begin.
pub(super) const FIRST_HELD_OUT: u64 = 1 << 63;

/// Pairs worked on at a time.
const PART: usize = 256;

impl Pairs {
    /// Draws them: noise by the seed of the experiment, and its samples by the flow of the model.
    fn drawn(self, experiment: &Experiment, model: &Model, reflow: &Reflow, watch: &mut dyn Watch) -> Result<Self> {
        let options = CodeOptions { tolerance: reflow.tolerance, ..CodeOptions::default() };
        let flow = CodeFlow::of(model, &options, "reflow")?;
        let (steps, schedule) = (flow.steps(), &flow.flow.schedule);
        let (std, start) = (flow.flow.far_std, flow.flow.start);
        let width: usize = model.subject.state_shape()?.iter().product();
        watch.event(Event::Note(&format!("making {} pairs of noise and sample by {}", self.count, model.name)));
        let (mut x1, mut x0) = (Vec::new(), Vec::new());
        let watch = std::sync::Mutex::new(watch);
        let watch = || watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let going = || watch().going();
        let velocity = Asking { inner: &*flow.flow.velocity, going: &going };
        let velocity = Converted { inner: velocity, device: model.device.clone(), dtype: model.dtype };
        for first in (0..self.count).step_by(PART) {
            let count = PART.min(self.count - first);
            let noise = Keys::range(experiment.seed, first as u64, count).normal(Purpose::Pair, 0, width);
            let class = self.class.as_ref().map(|class| class[first..first + count].to_vec());
            let given = class.map_or_else(Condition::none, Condition::classes);
            let paths = Flow { velocity: &velocity, schedule: &**schedule, given: &given };
            let z = rows::matrix(noise.iter().map(|z| z * std).collect(), width, &rows::exact());
            let end = paths.decode(z, Some(start), steps)?;
            x1.extend(noise.iter().map(|z| *z as f32));
            x0.extend(rows::host(&end.x).into_iter().map(|x| x as f32));
            watch().event(Event::Sampled { done: (first + count) as u64, of: self.count as u64 });
        }
        Ok(Self { x1, x0, ..self })
    }

    /// Writes them as a `.npy` file of `[2, count, state]`, the noise first.
    fn write(&self, path: &Path, width: usize) -> Result<()> {
        let mut file = NpyFile::<f32>::new(path, &[2, self.count, width])?;
        file.write(&self.x1)?;
        file.write(&self.x0)?;
        file.finish()
    }

    fn read(self, path: &Path, width: usize) -> Result<Self> {
        let (shape, values) = stein_data::read_array(path)?;
        ensure!(
            Kind::Mismatch,
            shape == [2, self.count, width],
            "{} has the shape {shape:?}, and {} pairs of {width} numbers are [2, {}, {width}]: remove it to make them anew",
            path.display(),
            self.count,
            self.count
        );
        let (x1, x0) = values.split_at(self.count * width);
        let single = |values: &[f64]| values.iter().map(|x| *x as f32).collect();
        Ok(Self { x1: single(x1), x0: single(x0), ..self })
    }

    fn states(&self, keys: &Keys, device: &Device) -> States {
        let held_out = self.count / HELD_OUT;
        let trained = self.count - held_out;
        let drawn = keys.uniform(Purpose::Source, 0).into_iter().zip(&keys.rows);
        let place = |(u, &position): (f64, &u64)| {
            let (first, count) = if position < FIRST_HELD_OUT { (0, trained) } else { (trained, held_out) };
            first + ((u * count as f64) as usize).min(count - 1)
        };
        let places: Vec<usize> = drawn.map(place).collect();
        let width = self.x0.len() / self.count;
        let rows = |values: &[f32]| {
            let rows: Vec<f32> = places.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect();
            Tensor::from_data(TensorData::new(rows, [places.len(), width]), device)
        };
        let class = self.class.as_ref().map(|class| places.iter().map(|&i| class[i]).collect());
        States { x0: Some(rows(&self.x0)), x1: rows(&self.x1), class }
    }
}
