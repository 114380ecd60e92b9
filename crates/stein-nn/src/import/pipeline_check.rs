//! A pipeline against stored runs of the library it comes from: tokens, what texts say, the network, the autoencoder, and latents after
//! every step.
//!
//! The files are those of `DIR/io.safetensors` and `DIR/runs.json`, which says the prompts and the settings of every run; those of latent
//! diffusion are in its `config.json`. `CASE.NAME_f64` is an output computed in f64.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use stein::{
    AnySampler, AnyWrapper, Condition, Context, Ddim, Denoiser, Dual, Estimate, Kernel, Levels, Network, NoiseInput,
    Precondition, Preconditioned, Prediction, Request, Result, Tokens, ensure,
    guidance::{ClassifierFree, Negative, Output, Rescale, Scale, Surroundings, wrap},
    noise::Source as NoiseSource,
    sample_from,
};

use super::{
    Checked, Kind,
    check::compare,
    diffusers_sampling::{Walk, walk},
    json, mismatch,
    pipeline::{Pipeline, PipelineText},
    setting::Role,
    unsupported,
};
use crate::{
    AnyNetwork, ClipText, FirstStage,
    files::read_tensors,
    networks::{images_of_rows, rows_of_images},
    state::{self, Tensors},
};

/// What `runs.json` says.
#[derive(Debug, Deserialize)]
struct Runs {
    #[serde(default)]
    prompts: Vec<String>,
    #[serde(default)]
    embedding_prompts: Vec<usize>,
    runs: Vec<Run>,
}

/// The settings of a run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    name: String,
    #[serde(default)]
    prompts: Vec<usize>,
    #[serde(default)]
    labels: Vec<u32>,
    negative: Option<Vec<usize>>,
    guidance: f64,
    steps: usize,
    /// That of the pipeline unless said otherwise.
    scheduler: Option<String>,
    #[serde(default)]
    overrides: Map<String, Json>,
    /// That of DDIM.
    #[serde(default)]
    eta: f64,
    clip_skip: Option<usize>,
    #[serde(default)]
    guidance_rescale: f64,
    /// That of the stored latents.
    #[serde(rename = "size")]
    _size: Option<[usize; 2]>,
}

/// What is given to cases and not compared.
const INPUTS: [&str; 7] =
    ["latents_init", ".noise", "encode.image", "decode.latents", "unet.x", "unet.timesteps", "unet.labels"];

/// Compares all that is stored in a folder with what a pipeline gives, computing in `kind`.
///
/// # Errors
/// When the files cannot be read, or the pipeline cannot be run on them.
pub fn check_pipeline(pipeline: &Pipeline, folder: &Path, kind: DType) -> Result<Vec<Checked>> {
    let stored = read_tensors(&folder.join("io.safetensors"))?;
    let file = folder.join(if pipeline.kind == Kind::LatentDiffusion { "config.json" } else { "runs.json" });
    let runs: Runs =
        serde_json::from_value(json(&file)?).map_err(|error| mismatch(format!("{}: {error}", file.display())))?;
    let first_stage = pipeline.first_stage(kind)?;
    let reader = pipeline.text.as_ref().map(|text| (text, state::cast(text.network.clone(), kind)));
    let (all, seen) = (Vec::new(), BTreeSet::new());
    let mut check =
        Check { pipeline, runs: &runs, stored: &stored, kind, first_stage, reader: reader.clone(), all, seen };
    if let Some((text, network)) = reader {
        check.texts(text, &network)?;
    }
    check.network()?;
    check.autoencoder()?;
    for run in &runs.runs {
        check.run(run)?;
    }
    let input = |key: &str| INPUTS.iter().any(|name| key.ends_with(name));
    let left = stored.keys().find(|key| !check.seen.contains(key.trim_end_matches("_f64")) && !input(key));
    if let Some(left) = left {
        return Err(unsupported(format!("the reference stored {left}, which is not compared here")));
    }
    Ok(check.all)
}

struct Check<'a> {
    pipeline: &'a Pipeline,
    runs: &'a Runs,
    stored: &'a Tensors,
    kind: DType,
    first_stage: FirstStage,
    /// What reads texts, with its network in the float type of the check.
    reader: Option<(&'a PipelineText, ClipText)>,
    all: Vec<Checked>,
    /// What was compared.
    seen: BTreeSet<String>,
}

impl Check<'_> {
    /// Compares what is stored under a name with numbers in its order.
    fn compare<const D: usize>(&mut self, name: &str, found: Tensor<D>) {
        let (single, double) = (self.stored.get(name), self.stored.get(&format!("{name}_f64")));
        self.all.extend(compare(shown(name), &found.into_data(), single, double));
        self.seen.insert(name.to_owned());
    }

    /// Whether something is stored under a name, in any of both types.
    fn has(&self, name: &str) -> bool {
        self.stored.contains_key(name) || self.stored.contains_key(&format!("{name}_f64"))
    }

    /// The same, where every number has to be the same.
    fn same(&mut self, name: &str, found: Vec<f64>) {
        let Some(wanted) = self.stored.get(name) else { return };
        let wanted: Vec<f64> = wanted.iter::<f64>().collect();
        let apart = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        self.all.push(Checked {
            name: shown(name),
            largest: wanted.iter().copied().fold(0.0, f64::max),
            absolute: if found.len() == wanted.len() { apart } else { f64::INFINITY },
            bound: 0.0,
            double: true,
        });
        self.seen.insert(name.to_owned());
    }

    fn numbers(&mut self, name: &str, found: &[f64]) {
        let data = TensorData::new(found.to_vec(), [found.len()]);
        self.compare(name, Tensor::<1>::from_data(data, (&Device::flex(), DType::F64)));
    }

    /// Stored pictures `[N, C, H, W]` as ours.
    fn pictures(&self, name: &str) -> Result<Tensor<4>> {
        let data = self.stored.get(name).ok_or_else(|| mismatch(format!("the stored inputs lack {name}")))?;
        let shape = data.shape();
        ensure!(Kind::Mismatch, shape.len() == 4, "the stored {name} has shape {shape:?}: expected pictures");
        let data = data.clone().convert_dtype(self.kind);
        Ok(Tensor::<4>::from_data(data, (&Device::flex(), self.kind)).permute([0, 2, 3, 1]))
    }

    fn texts(&mut self, text: &PipelineText, network: &ClipText) -> Result<()> {
        let all = |tokens: &dyn Fn(&str) -> Result<Vec<u32>>| {
            self.runs.prompts.iter().map(|prompt| tokens(prompt)).collect::<Result<Vec<_>>>()
        };
        let lengths = all(&|prompt| text.tokenizer.tokens(prompt))?.iter().map(|tokens| tokens.len() as f64).collect();
        let ids = all(&|prompt| text.tokenizer.padded(prompt))?;
        self.same("tokens.ids", ids.iter().flatten().map(|id| f64::from(*id)).collect());
        self.same("tokens.lengths", lengths);
        let chosen: Vec<Vec<u32>> = self.runs.embedding_prompts.iter().filter_map(|i| ids.get(*i).cloned()).collect();
        if chosen.is_empty() {
            return Ok(());
        }
        let said = network.said(&chosen, 0)?;
        self.compare("text.pooled", network.pooled(&said, &chosen)?);
        self.compare("text.last_hidden_state", said);
        self.compare("text.clip_skip_1", network.said(&chosen, 1)?);
        Ok(())
    }

    /// One evaluation of a network that is told classes.
    fn network(&mut self) -> Result<()> {
        if !self.has("unet.out") {
            return Ok(());
        }
        let x = self.pictures("unet.x")?;
        let [rows, height, width, channels] = x.dims();
        let numbers = |name: &str| {
            let data = self.stored.get(name).filter(|data| data.num_elements() == rows);
            data.ok_or_else(|| mismatch(format!("the stored inputs lack {name}, one number for each of {rows} rows")))
        };
        let times = numbers("unet.timesteps")?.clone().convert_dtype(self.kind);
        let given = self.told(numbers("unet.labels")?.iter::<u32>());
        let noise = Tensor::<1>::from_data(times, (&Device::flex(), self.kind));
        let network = self.pipeline.network([height, width, channels], self.kind)?;
        let found = network.forward(rows_of_images(x).into(), &Context::new(noise, &given))?.value;
        let found = images_of_rows(found, [height, width, channels]);
        self.compare("unet.out", found.permute([0, 3, 1, 2]));
        Ok(())
    }

    fn autoencoder(&mut self) -> Result<()> {
        let (scale, _) = self.pipeline.autoencoder.scaling();
        if let (FirstStage::Kl(network), true) = (&self.first_stage, self.has("encode.image")) {
            let (mean, std) = network.mean_and_std(network.encode(self.pictures("encode.image")?.into())?);
            let noise = self.pictures("encode.noise")?;
            let (mean, std) = (mean.value, std.value);
            let latents = mean.clone() + std.clone() * noise;
            let found =
                [("mean", mean), ("logvar", std.log() * 2.0), ("scaled", latents.clone() * scale), ("sample", latents)];
            for (name, found) in found {
                self.compare(&format!("encode.{name}"), found.permute([0, 3, 1, 2]));
            }
        }
        if let (FirstStage::Vq(network), true) = (&self.first_stage, self.has("encode.image")) {
            let z = network.encode(self.pictures("encode.image")?.into())?;
            let indices = network.quantize(z.clone())?.indices.into_data().iter::<f64>().collect();
            let margin = smallest_margin(z.value.clone(), network.codes());
            self.compare("encode.z", z.value.permute([0, 3, 1, 2]));
            self.same("encode.indices", indices);
            self.numbers("encode.smallest_margin", &[margin]);
        }
        if self.has("decode.latents") {
            self.decoded("decode", self.pictures("decode.latents")?)?;
        }
        Ok(())
    }

    /// The pictures of latents as the network has them.
    fn decoded(&mut self, case: &str, latents: Tensor<4>) -> Result<()> {
        let (scale, shift) = self.pipeline.autoencoder.scaling();
        let decoded = self.first_stage.decode(latents / scale + shift)?.permute([0, 3, 1, 2]);
        let image = (decoded.clone() / 2.0 + 0.5).clamp(0.0, 1.0);
        self.compare(&format!("{case}.decoded"), decoded);
        if self.has(&format!("{case}.image")) {
            self.compare(&format!("{case}.image"), image);
        }
        Ok(())
    }

    fn run(&mut self, run: &Run) -> Result<()> {
        let name = |part: &str| format!("{}.{part}", run.name);
        let scheduler = self.pipeline.scheduler.as_object().into_iter().flatten();
        let mut scheduler: Map<String, Json> = scheduler.map(|(key, value)| (key.clone(), value.clone())).collect();
        scheduler.extend(run.scheduler.clone().map(|name| ("_class_name".to_owned(), name.into())));
        scheduler.extend(run.overrides.clone());
        let mut walk = walk(&Json::Object(scheduler), run.steps).map_err(|error| error.at(&run.name))?;
        if run.eta > 0.0 {
            ensure!(
                Kind::Unsupported,
                matches!(walk.sampler, AnySampler::Ddim(_)),
                "{}: eta is {}, and its sampler is not DDIM",
                run.name,
                run.eta
            );
            walk.sampler = Ddim { eta: run.eta }.into();
        }
        let noise = self.pictures(&name("latents_init"))?;
        let [rows, height, width, channels] = noise.dims();
        let network = self.pipeline.network([height, width, channels], self.kind)?;
        let Role::Denoiser { precondition, .. } = self.pipeline.setting.role else {
            return Err(unsupported("a consistency function has no such runs"));
        };
        // Between two steps the library asks about a number between.
        let precondition = Precondition { noise_input: NoiseInput::Time { factor: 1.0 }, ..precondition };
        let denoiser = Preconditioned::new(network, precondition, self.pipeline.setting.schedule.clone())?;
        // A row each, as a text that is not wanted is that of all rows.
        let each = (0..rows).map(|row| {
            let x = noise.clone().narrow(0, row, 1).reshape([1, height * width * channels]);
            self.walked(run, row, &denoiser, &walk, x)
        });
        let each: Vec<Vec<Tensor<2>>> = each.collect::<Result<_>>()?;
        let states: Vec<Tensor<4>> = (0..each[0].len())
            .map(|step| Tensor::cat(each.iter().map(|states| states[step].clone()).collect(), 0))
            .map(|state: Tensor<2>| state.reshape([rows, height, width, channels]))
            .collect();
        let last = states.last().cloned().expect("a run has a step");
        let theirs = |state: &Tensor<4>| state.clone().permute([0, 3, 1, 2]).unsqueeze::<5>();
        let found: Tensor<5> = Tensor::cat(states.iter().map(theirs).collect(), 0);
        self.latents(&name("latents"), found, walk.provisional);
        self.decoded(&run.name, last)?;
        if self.pipeline.kind == Kind::LatentDiffusion {
            self.levels(run, &walk);
            return Ok(());
        }
        let levels: Vec<&Kernel> = walk.evaluated();
        let mut times: Vec<f64> = levels.iter().map(|level| level.t).collect();
        if walk.provisional > 0 {
            times.insert(1, times[1]);
        }
        self.numbers(&name("timesteps"), &times);
        if self.has(&name("sigmas")) {
            let noise = levels.iter().map(|level| level.noise_to_signal()).chain([0.0]);
            self.numbers(&name("sigmas"), &noise.collect::<Vec<_>>());
        }
        if self.has(&name("init_noise_sigma")) {
            let alpha = if walk.unscaled { levels[0].alpha } else { 1.0 };
            self.numbers(&name("init_noise_sigma"), &[walk.start / alpha]);
        }
        Ok(())
    }

    /// Compares the levels of a run of latent diffusion, which lists ᾱ and the deviation of the noise from the cleanest step on.
    fn levels(&mut self, run: &Run, walk: &Walk) {
        let times: Vec<f64> = walk.evaluated().iter().map(|level| level.t).collect();
        self.numbers(&format!("{}.timesteps", run.name), &times);
        let steps = || walk.parts.iter().flat_map(|part| part.windows(2)).rev();
        let bar = |level: &Kernel| level.alpha * level.alpha;
        let listed: [(&str, Vec<f64>); 3] = [
            ("alphas", steps().map(|step| bar(&step[0])).collect()),
            ("alphas_prev", steps().map(|step| bar(&step[1])).collect()),
            ("sigmas", steps().map(|step| run.eta * step[0].posterior_variance(&step[1]).sqrt()).collect()),
        ];
        for (name, found) in listed {
            self.numbers(&format!("{}.{name}", run.name), &found);
        }
    }

    /// The classes of labels, of which the one after the last class stands for none.
    fn told(&self, labels: impl IntoIterator<Item = u32>) -> Condition {
        let class = |label: u32| (label as usize != self.pipeline.setting.classes).then_some(label);
        Condition { class: Some(labels.into_iter().map(class).collect()), ..Condition::none() }
    }

    /// The noise a run adds to a row, in every step.
    fn noise(&self, run: &Run, row: usize, steps: usize) -> Result<Vec<Vec<f64>>> {
        let name = format!("{}.noise", run.name);
        let lacks = || mismatch(format!("the stored inputs lack {name}, pictures for each of {steps} steps"));
        let stored = self.stored.get(&name).ok_or_else(lacks)?.clone().convert_dtype(DType::F64);
        ensure!(Kind::Mismatch, stored.shape().len() == 5 && stored.shape()[0] == steps, "{}", lacks());
        let stored = Tensor::<5>::from_data(stored, (&Device::flex(), DType::F64));
        let ours = stored.narrow(1, row, 1).permute([0, 1, 3, 4, 2]);
        Ok((0..steps).map(|step| ours.clone().narrow(0, step, 1).into_data().iter::<f64>().collect()).collect())
    }

    /// Compares states after every step, of which the library stored a first one that it took back.
    fn latents(&mut self, name: &str, found: Tensor<5>, provisional: usize) {
        let shape = found.dims();
        let steps = |data: &TensorData| {
            let all: Vec<f64> = data.iter::<f64>().collect();
            let each = shape[1..].iter().product::<usize>();
            let kept = all.get(provisional * each..).unwrap_or_default().to_vec();
            let count = kept.len();
            TensorData::new(kept, [count])
        };
        let of = |name: &str| self.stored.get(name).map(steps);
        let (single, double) = (of(name), of(&format!("{name}_f64")));
        let found = found.into_data();
        self.all.extend(compare(shown(name), &found, single.as_ref(), double.as_ref()));
        self.seen.insert(name.to_owned());
    }

    /// The states of one row after every step, as the library has them.
    fn walked(
        &self,
        run: &Run,
        row: usize,
        network: &Preconditioned<AnyNetwork>,
        walk: &Walk,
        noise: Tensor<2>,
    ) -> Result<Vec<Tensor<2>>> {
        let prompt = |i: Option<&usize>| {
            let prompt = i.and_then(|i| self.runs.prompts.get(*i));
            prompt.ok_or_else(|| mismatch(format!("the run {} has no prompt for its row {row}", run.name)))
        };
        let (given, reader) = match &self.reader {
            Some((text, network)) => {
                let reader = Reader {
                    network: network.clone(),
                    prompt: text.tokenizer.padded(prompt(run.prompts.get(row))?)?.into(),
                    skipped: run.clip_skip.unwrap_or(0),
                    empty: text.tokenizer.padded("")?,
                };
                let text = Some(vec![Some(Arc::clone(&reader.prompt))]);
                (Condition { text, ..Condition::none() }, Some(reader))
            }
            None => (self.told(run.labels.get(row).copied()), None),
        };
        let denoiser: Arc<dyn Denoiser> = Arc::new(AsAsked { network: network.clone(), reader });
        let mut wrappers: Vec<AnyWrapper> = Vec::new();
        if run.guidance > 1.0 {
            let scale = Scale::Same(run.guidance);
            wrappers.push(match &run.negative {
                Some(negative) => {
                    let text = Some(prompt(negative.get(row))?.clone());
                    Negative { text, scale, ..Negative::default() }.into()
                }
                None => ClassifierFree { scale }.into(),
            });
            if run.guidance_rescale > 0.0 {
                let of = match self.pipeline.setting.role.prediction() {
                    kind if kind == (Prediction::V {}).kind() => Output::V,
                    kind if kind == (Prediction::X0 {}).kind() => Output::X0,
                    _ => Output::Eps,
                };
                wrappers.push(Rescale { part: run.guidance_rescale, of }.into());
            }
        }
        let denoiser = wrap(denoiser, &wrappers, &Words(self.pipeline.text.as_ref()))?;
        let mut x = noise * walk.start;
        let mut request = Request { given, dtype: self.kind, ..Request::new(1, x.dims()[1], 0) };
        let added = if run.eta > 0.0 { self.noise(run, row, walk.parts.len())? } else { Vec::new() };
        let mut states = Vec::new();
        for (step, part) in walk.parts.iter().enumerate() {
            if let Some(noise) = added.get(step) {
                request.noise = NoiseSource::Given(vec![noise.clone()]);
            }
            let drawn = sample_from(
                x,
                &*denoiser,
                &*self.pipeline.setting.schedule,
                part,
                &*walk.sampler,
                &request,
                &mut |progress| {
                    if progress.step > 0 {
                        let alpha = if walk.unscaled { progress.at.alpha } else { 1.0 };
                        states.push(progress.x.clone() / alpha);
                    }
                    Ok(())
                },
            )?;
            x = drawn.x;
        }
        Ok(states)
    }
}

/// How much nearer, in squared distance, latents `[N, h, w, width]` are to the nearest row of a codebook than to the second, at least.
fn smallest_margin(latents: Tensor<4>, codes: Tensor<2>) -> f64 {
    let width = codes.dims()[1];
    let [latents, codes]: [Vec<f64>; 2] =
        [latents.into_data(), codes.into_data()].map(|data| data.iter::<f64>().collect());
    let margin = |z: &[f64]| {
        let square = |code: &[f64]| z.iter().zip(code).map(|(z, e)| (z - e).powi(2)).sum();
        let mut distances: Vec<f64> = codes.chunks(width).map(square).collect();
        distances.sort_unstable_by(f64::total_cmp);
        distances.get(1).map_or(f64::INFINITY, |second| second - distances[0])
    };
    latents.chunks(width).map(margin).fold(f64::INFINITY, f64::min)
}

/// The name of what is stored, with its case before it.
fn shown(name: &str) -> String {
    name.rsplit_once('.').map_or_else(|| name.to_owned(), |(case, part)| format!("{case}: {part}"))
}

impl Walk {
    /// The levels at which the network is asked.
    fn evaluated(&self) -> Vec<&Kernel> {
        self.parts.iter().flat_map(|part| &part[..part.len() - 1]).collect()
    }
}

/// A denoiser that is asked about levels as they are, where its own would look for the level of its schedule with the same noise: a scheduler
/// may ask about another.
struct AsAsked {
    network: Preconditioned<AnyNetwork>,
    reader: Option<Reader>,
}

/// What reads the texts of a run. The library leaves blocks out ("clip skip") for the prompt alone, not for what guidance leads away from.
struct Reader {
    network: ClipText,
    prompt: Arc<[u32]>,
    skipped: usize,
    empty: Vec<u32>,
}

impl Reader {
    fn said(&self, texts: &[Option<Arc<[u32]>>]) -> Result<Tensor<3>> {
        let said = |text: &Option<Arc<[u32]>>| match text {
            Some(text) if Arc::ptr_eq(text, &self.prompt) => self.network.said(&[text.to_vec()], self.skipped),
            Some(text) => self.network.said(&[text.to_vec()], 0),
            None => self.network.said(std::slice::from_ref(&self.empty), 0),
        };
        Ok(Tensor::cat(texts.iter().map(said).collect::<Result<_>>()?, 0))
    }
}

impl Denoiser for AsAsked {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let (Some(reader), Some(texts)) = (&self.reader, &given.text) else {
            return self.network.estimate_at(x, at, given, None);
        };
        let tokens = Some(Tokens { values: reader.said(texts)?, mask: None });
        self.network.estimate_at(x, at, &Condition { text: None, tokens, ..given.clone() }, None)
    }
}

/// What wrappers ask about texts.
struct Words<'a>(Option<&'a PipelineText>);

impl Surroundings for Words<'_> {
    fn range(&self) -> Option<(f64, f64)> {
        None
    }

    fn knows_no_class(&self) -> bool {
        true
    }

    fn text(&self, text: &str) -> Result<Arc<[u32]>> {
        let reader = self.0.ok_or_else(|| unsupported("the network reads no texts"))?;
        Ok(reader.tokenizer.padded(text)?.into())
    }

    fn denoiser(&self, model: &str) -> Result<Arc<dyn Denoiser>> {
        Err(unsupported(format!("there is no model {model} here")))
    }
}
