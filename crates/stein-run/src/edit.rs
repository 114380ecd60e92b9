//! Editing pictures, points and series of one's own with a model: changed as far as is said, and where.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use serde_json::json;
use stein::{
    AnySampler, Condition, Denoiser, FlowMap, Kind, Request, Result, ensure,
    inverse::{Edit, edit as edit_rows, edit_by_map},
    rows,
};
use stein_base::memory::ensure_fits;
use stein_data::Shape;

use crate::{
    Capability, Changes, DataChoice, Method, Model, Observed, SampleConfig, Watch,
    arrays::NpyFile,
    draw::{Asking, in_batches},
    family::lacks,
    picture::{auto_scale, from_unit, grid, to_png},
    replacing::{Recorded, beside, said},
    restore::gray_picture,
    sheet,
};

/// What is edited, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct EditOptions {
    /// What is edited: a picture, a folder, an array, a table, a data set.
    pub input: String,
    /// A picture of where it may change, white freely and black not at all; default everywhere.
    pub mask: Option<PathBuf>,
    /// How much, above 0 and at most 1: the part of the sampler's grid that is taken.
    pub strength: f64,
    /// Results for each input.
    pub n: usize,
    /// How many inputs are taken of many; default all.
    pub inputs: Option<usize>,
    /// The class to become, for a model that is told one; default that of the labels.
    pub class: Option<String>,
    /// What the results are told, of a model that reads texts; default nothing.
    pub prompt: Option<String>,
    /// Seed of the noise.
    pub seed: u64,
    /// How the model is sampled otherwise.
    pub sampling: Changes,
    /// `path=value` settings of how the input is read.
    pub reading: Vec<String>,
    /// Directory with data sets.
    pub folder: Option<PathBuf>,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

impl EditOptions {
    /// One result of each input, with a strength of 0.6.
    pub fn new(input: impl Into<String>) -> Self {
        Self {
            input: input.into(),
            mask: None,
            strength: 0.6,
            n: 1,
            inputs: None,
            class: None,
            prompt: None,
            seed: 0,
            sampling: Changes::default(),
            reading: Vec::new(),
            folder: None,
            force: false,
        }
    }
}

/// What was edited.
#[derive(Debug, Clone)]
pub struct Edited {
    /// `[inputs, n, dim]` in row order, in the data's own units; pictures clipped to \[0, 1\].
    pub values: Vec<f32>,
    /// The inputs as the model took them, `[inputs, dim]`.
    pub before: Vec<f32>,
    /// How many.
    pub inputs: usize,
    /// Calls of the model for each batch; the largest.
    pub evaluations: usize,
    /// Seconds it took.
    pub seconds: f64,
}

/// What edits, of what the model can do.
enum By {
    Denoiser(Arc<dyn Denoiser>, AnySampler),
    FlowMap(Arc<dyn FlowMap>),
}

impl By {
    fn of(model: &Model, config: &SampleConfig) -> Result<Self> {
        match &config.sampler {
            Method::Sampler(sampler) => {
                let denoiser = model.denoiser(config)?;
                ensure!(
                    !sampler.adaptive(),
                    "sampler {} chooses its own steps, and editing takes a part of a grid: use another, such as heun or ddim",
                    sampler.kind()
                );
                Ok(Self::Denoiser(denoiser, sampler.clone()))
            }
            Method::Multistep => model.flow_map(config).map(Self::FlowMap),
            Method::Interpolant(_) | Method::Generate => {
                Err(lacks(&model.name, &model.family, model.serves, Capability::Denoiser, "stein edit"))
            }
        }
    }
}

/// Changes the inputs (Meng et al. 2022, "SDEdit"), as [`stein::inverse::edit`] does it by a denoiser, and
/// [`stein::inverse::edit_by_map`] by a flow map.
///
/// # Errors
/// Inputs and masks that do not fit the model, a strength out of range, a model that is neither; all before work starts.
pub fn edit(model: &Model, options: &EditOptions, watch: &mut dyn Watch) -> Result<Edited> {
    ensure!(options.n >= 1, "0 results were asked for: give -n at least 1");
    let subject = &model.subject;
    ensure!(
        Kind::Unsupported,
        subject.shown.is_none(),
        "{} is shown what was measured of a picture, which an edit does not say: use stein restore, or a model without data.shown",
        model.name
    );
    let config = model.sample.with(&options.sampling)?;
    let (schedule, config) = config.resolve(model.schedule.as_ref(), model.trained)?;
    let by = By::of(model, &config)?;
    let Some(schedule) = schedule else { return Err(model.lacks(&config)) };
    let kernels = config.grid.kernels(&*schedule)?;
    ensure!(
        kernels.len() > 2 || options.strength == 1.0,
        "the grid has one step, of which a strength of {} is all, and nothing of the input would be left: give --steps, or the levels \
         with --set 'sample.grid.spacing={{kind=\"given\", noise=[...]}}' and --strength 1",
        options.strength
    );
    let choice = DataChoice {
        name: Some(options.input.clone()),
        settings: options.reading.clone(),
        split: None,
        folder: options.folder.clone(),
        n: options.inputs,
        class: options.class.clone(),
    };
    let observed = Observed::of(model, &choice)?;
    let mask = options.mask.as_deref().map(|mask| masked(mask, subject.shape)).transpose()?;
    if mask.is_some() {
        ensure!(
            Kind::Unsupported,
            subject.state_shape()? == subject.shape.dims(),
            "the states of {} have another shape than its pictures: leave out --mask",
            model.name
        );
    }
    let text = options.prompt.as_deref().map(|prompt| model.tokens(prompt)).transpose()?;
    let all = observed.count * options.n;
    let batch = config.batch.min(all);
    let networks = model.sizes.iter().map(|size| size.sampling(batch)).fold(0, u128::saturating_add);
    ensure_fits(
        &format!("editing {batch} at a time (sample.batch)"),
        networks.saturating_add((all as u128).saturating_mul(8 * subject.dim() as u128)),
    )?;
    // A strength out of range is found out before anything is drawn.
    let probe = Edit { rows: rows::exact(), mask: None, strength: options.strength };
    let steps = probe.levels(&kernels)?.len() - 1;
    let started = Instant::now();
    let (mut values, evaluations) = in_batches(model, [all, batch, steps], watch, |range, going, observe| {
        let places: Vec<usize> = range.clone().map(|i| i / options.n).collect();
        let states = observed.plain_states(&places)?;
        let [count, dim] = states.dims();
        let request = Request {
            first: range.start as u64,
            given: Condition { text: text.clone().map(|text| vec![Some(text); count]), ..observed.given(&places) },
            data_variance: subject.variance,
            device: model.device.clone(),
            dtype: model.dtype,
            ..Request::new(count, dim, options.seed)
        };
        let mask = mask.as_ref().map(|mask| rows::matrix(mask.clone(), dim, &states));
        let what = Edit { rows: states, mask, strength: options.strength };
        match &by {
            By::Denoiser(denoiser, sampler) => {
                let asking = Asking { inner: &**denoiser, going };
                edit_rows(&what, &asking, &*schedule, &kernels, &**sampler, &request, observe)
            }
            By::FlowMap(map) => edit_by_map(&what, map, &kernels, &request, observe),
        }
    })?;
    ensure!(
        Kind::NotFinite,
        values.iter().all(|value| value.is_finite()),
        "editing gave numbers that are not finite: try other steps or another sampler"
    );
    if subject.levels.is_some() {
        values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
    }
    let before = observed.values(&(0..observed.count).collect::<Vec<_>>())?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Edited { values, before, inputs: observed.count, evaluations, seconds })
}

/// How freely each number of a state may change, by a gray picture.
fn masked(path: &Path, shape: Shape) -> Result<Vec<f64>> {
    let Shape::Image { height, width, channels } = shape else {
        return Err(stein::Error::of(
            Kind::Unsupported,
            format!("a mask is a picture, and samples here have the shape {shape}: leave out --mask"),
        ));
    };
    let (values, size) = gray_picture(path)?;
    ensure!(
        Kind::Mismatch,
        size == [height, width],
        "the mask {} has {}x{}x1 pixels, and pictures here have {height}x{width}: give one of that size",
        path.display(),
        size[0],
        size[1]
    );
    Ok(values.into_iter().flat_map(|value| vec![value; channels]).collect())
}

/// Writes what [`edit`] makes: a `.npy` array `[inputs, n, …]`; or a `.png`, of one result the picture itself, of several a sheet with each
/// input and its results in a row. `FILE.json` says how they were made.
///
/// # Errors
/// As [`edit`], and files that may not be replaced or cannot be written.
pub fn edit_to(path: &Path, model: &Model, options: &EditOptions, watch: &mut dyn Watch) -> Result<Edited> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    ensure!(
        ["png", "npy"].contains(&ending.as_str()),
        "{} is no name of a picture or an array: end it with .png or .npy",
        path.display()
    );
    let read = model.file.iter().cloned().chain([PathBuf::from(&options.input)]).chain(options.mask.clone());
    let recorded = Recorded::new(&beside(path, ".json"), read.collect(), options.force)?;
    let file = recorded.start(path)?;
    let edited = edit(model, options, watch)?;
    if ending == "npy" {
        let shape: Vec<usize> = [edited.inputs, options.n].into_iter().chain(model.subject.shape.dims()).collect();
        let mut array = NpyFile::<f32>::within(file, &shape)?;
        array.write(&edited.values)?;
        array.finish()?;
    } else {
        file.commit_with(&to_png(&picture(model, &edited, options.n)?)?)?;
    }
    let about = said(&json!({
        "model": model.name,
        "input": options.input,
        "mask": options.mask.as_ref().map(|mask| mask.to_string_lossy()),
        "strength": options.strength,
        "class": options.class,
        "prompt": options.prompt,
        "inputs": edited.inputs,
        "n": options.n,
        "seed": options.seed,
        "evaluations": edited.evaluations,
        "seconds": edited.seconds,
    }));
    recorded.write(&[path], about)?;
    Ok(edited)
}

fn picture(model: &Model, edited: &Edited, n: usize) -> Result<image::RgbImage> {
    let dim = model.subject.dim();
    let Some((height, width, channels)) = model.subject.image().filter(|size| matches!(size.2, 1 | 3)) else {
        return sheet::picture(model, &edited.values, None);
    };
    if edited.values.len() == dim {
        return from_unit(&edited.values, height, width, channels);
    }
    let rows = edited.before.chunks(dim).zip(edited.values.chunks(n * dim));
    let cells: Vec<f32> = rows.flat_map(|(before, after)| [before, after].concat()).collect();
    grid(
        &cells,
        (height, width, channels),
        1 + n,
        auto_scale(width, 1 + n),
        None,
        "From the left: the picture, and what it became",
    )
}
