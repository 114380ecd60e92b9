//! Weights of other libraries as models of ours, and ours as theirs.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use stein::{
    AnyWrapper, DType, Error, Kind as ErrorKind, Result, TensorData,
    codec::{Chain, Latents, Symmetric},
    ensure,
    guidance::{Clamp, ClassifierFree},
};
use stein_base::files::{check_place, write_atomically};
use stein_data::Shape;
use stein_nn::{
    Checkpoint, LearnerState, NetworkConfig, SavedWeights, Tensors, WRITTEN_BY, Weights,
    import::{self, Checked, Kind, Pipeline, Published, Reading, Role, Setting, Source, Which},
    read_metadata, write_tensors,
};

use crate::{
    AnyFamily, Coding, ConsistencyModel, Description, Diffusion, Method, SampleConfig, Subject,
    description::{SOURCE, described, metadata},
    family::{AUTOENCODER, CONSISTENCY_NETWORK, DIFFUSION_NETWORK},
    hub::from_hub,
    model::checkpoint_of,
    replacing::may_replace,
    subject::{Texts, label, pictures},
};

/// What to import, and what to do with it.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// A file of weights, a folder, or `hf:owner/name` on the hub.
    pub source: PathBuf,
    /// Where the weights come from, if names do not tell.
    pub from: Option<String>,
    /// The implementation's config, if it does not lie beside the weights.
    pub config: Option<PathBuf>,
    /// `ema` or `raw`, where there are both; the average unless asked otherwise.
    pub weights: Option<String>,
    /// How a network of diffusers was trained, if no file says it: see [`Reading::schedule`].
    pub schedule: Option<String>,
    /// The checkpoint to write.
    pub output: Option<PathBuf>,
    /// A folder of stored inputs and outputs to compare with.
    pub check: Option<PathBuf>,
    /// Whether the checkpoint may replace a file that is none of an earlier import.
    pub force: bool,
}

/// Imports weights. Returns a report on them, and whether every comparison was within its bound.
///
/// # Errors
/// When the source cannot be read, is not one of a network known here, or does not fit its config; when it is to be written and
/// is no network that can be sampled.
pub fn import(options: &ImportOptions) -> Result<(String, bool)> {
    let kind = options.from.as_deref().map(Kind::named).transpose()?;
    let name = options.source.to_string_lossy();
    let which = options.weights.as_deref().map(Which::named).transpose()?;
    check_output(options, &options.source)?;
    let place = from_hub(&name, which)?.unwrap_or_else(|| options.source.clone());
    check_output(options, &place)?;
    let (config, schedule) = (options.config.as_deref(), options.schedule.as_deref());
    if let Some(class) = import::latent_pipeline(&place)? {
        ensure!(
            config.is_none(),
            "--config is for a network alone, and {name} is a pipeline, whose parts have configs of their own: leave it out"
        );
        let reading = Reading { which, schedule, ..Reading::default() };
        return import_pipeline(options, Pipeline::read(&place, &class, &reading)?);
    }
    let mut source = Source::read(&place, &Reading { kind, config, which, schedule })?;
    if place != options.source {
        source.origin =
            format!("{name}, {}", Path::new(&source.origin).file_name().unwrap_or_default().to_string_lossy());
    }
    if source.kind == Kind::LatentDiffusion {
        return import_pipeline(options, Pipeline::of_checkpoint(&source)?);
    }
    let published = Published::open(&source)?;
    let mut report = describe(&source, &published);
    let mut passed = true;
    if let Some(folder) = &options.check {
        let all = import::check(published.reference(), folder, DType::F32)?;
        passed = all.iter().all(Checked::passed);
        report += &table(&all);
    }
    if let Some(output) = &options.output {
        let stem = options.source.file_stem().unwrap_or_default().to_string_lossy();
        write(&source, &published, &stem, output)?;
        report += &format!("written        {}\n", output.display());
    }
    Ok((report, passed))
}

/// The same of a pipeline in the latents of an autoencoder.
fn import_pipeline(options: &ImportOptions, pipeline: Pipeline) -> Result<(String, bool)> {
    let name = options.source.file_name().unwrap_or_default().to_string_lossy();
    let description = description_of(&name, &pipeline)?;
    let mut report = describe_pipeline(&options.source, &pipeline, &description);
    let mut passed = true;
    if let Some(folder) = &options.check {
        let all = import::check_pipeline(&pipeline, folder, DType::F32)?;
        passed = all.iter().all(Checked::passed);
        report += &table(&all);
    }
    if let Some(output) = &options.output {
        let mut metadata = metadata(&description);
        let origin = json!({ "kind": pipeline.kind.name(), "pipeline": pipeline.name });
        metadata.insert(SOURCE.to_owned(), origin.to_string());
        let learner = |weights| LearnerState { weights, average: None, optimizer: Tensors::new() };
        let learners = [
            (DIFFUSION_NETWORK.to_owned(), learner(pipeline.weights)),
            (AUTOENCODER.to_owned(), learner(pipeline.autoencoder_weights)),
        ];
        Checkpoint { learners: learners.into(), step: 0, metadata }.write(output)?;
        report += &format!("written        {}\n", output.display());
    }
    Ok((report, passed))
}

fn describe_pipeline(source: &Path, pipeline: &Pipeline, description: &Description) -> String {
    let count = |weights: &Tensors| weights.values().map(TensorData::num_elements).sum::<usize>();
    let Setting { shape: [height, width, channels], schedule, role, notes, classes, .. } = &pipeline.setting;
    let mut lines = vec![
        ("source", source.display().to_string()),
        ("weights", pipeline.which.clone()),
        ("pipeline", pipeline.name.clone()),
        ("network", pipeline.setting.network.kind().to_owned()),
        (
            "parameters",
            format!("{}, and {} of the autoencoder", count(&pipeline.weights), count(&pipeline.autoencoder_weights)),
        ),
        ("images", format!("{}, of latents of {height} x {width} x {channels}", description.subject.shape)),
        (
            "texts",
            match &pipeline.text {
                Some(text) => format!("{} tokens of {}", text.tokenizer.length(), text.tokenizer.vocabulary()),
                None => "none".to_owned(),
            },
        ),
        ("classes", if *classes == 0 { "none".to_owned() } else { classes.to_string() }),
        ("schedule", schedule.kind().to_owned()),
        ("prediction", role.prediction().to_owned()),
    ];
    lines.extend(notes.iter().map(|note| ("note", note.clone())));
    lines.into_iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
}

/// The model of a pipeline.
fn description_of(name: &str, pipeline: &Pipeline) -> Result<Description> {
    /// Bytes that a batch may take unless asked otherwise.
    const ROOM: u128 = 2 << 30;
    let Pipeline { setting, autoencoder, text, .. } = pipeline;
    let Role::Denoiser { precondition, sampler } = &setting.role else {
        unreachable!("a pipeline in latents was read as another one");
    };
    let factor = autoencoder.factor();
    let [height, width, channels] = setting.shape;
    let pictures = [height * factor, width * factor, autoencoder.pictures()];
    let (scale, shift) = autoencoder.scaling();
    let latents = Latents { pictures, latents: [height, width, channels], shift, scale, ..Latents::default() };
    let subject = Subject {
        codec: Chain(vec![Symmetric {}.into(), latents.into()]),
        autoencoder: Some(Coding::published(autoencoder.clone())),
        text: text.as_ref().map(|text| Texts { tokenizer: text.tokenizer.clone(), examples: Vec::new() }),
        // What the scale is there for.
        variance: 1.0,
        ..subject(name, pictures, setting)
    };
    let family = Diffusion {
        schedule: setting.schedule.clone(),
        prediction: precondition.prediction,
        input_scale: precondition.input_scale,
        noise_input: precondition.noise_input,
        network: setting.network.clone(),
        text: text.as_ref().map(|text| text.config.clone()),
        objective: None,
        // Labels were hidden, with a probability that no file says.
        label_dropout: 0.1,
        uncertainty: false,
    };
    let wrap = vec![AnyWrapper::from(ClassifierFree { scale: pipeline.guidance.into() })];
    let size = family.network.size(&setting.shape, setting.classes)?;
    let batch = (1..=64).rev().find(|&rows| size.sampling(2 * rows) <= ROOM).unwrap_or(1);
    let sample =
        SampleConfig { sampler: sampler.clone().into(), grid: setting.grid.clone(), schedule: None, wrap, batch };
    let description = Description { family: family.into(), sample: Some(sample), subject };
    description.check()?;
    Ok(description)
}

/// Fails unless the checkpoint can be written without loss.
fn check_output(options: &ImportOptions, source: &Path) -> Result<()> {
    let Some(output) = &options.output else { return Ok(()) };
    // The config of a file lies beside it. An import is never read by another.
    let folder = source.parent().filter(|_| source.is_file()).unwrap_or(source);
    let others = options.config.iter().chain(&options.check).flat_map(|path| files(path, 1));
    let inputs = others.chain(files(folder, 3)).filter(|path| !is_import(path));
    may_replace(output, &inputs.collect::<Vec<_>>(), options.force, || is_import(output))?;
    check_place(output)
}

fn is_import(path: &Path) -> bool {
    read_metadata(path).is_ok_and(|metadata| metadata.contains_key(SOURCE))
}

/// A file, or the files of a folder down to a depth.
fn files(path: &Path, depth: usize) -> Vec<PathBuf> {
    match std::fs::read_dir(path) {
        Ok(entries) if depth > 0 => entries.flatten().flat_map(|entry| files(&entry.path(), depth - 1)).collect(),
        _ => vec![path.to_owned()],
    }
}

fn describe(source: &Source, published: &Published) -> String {
    let mut lines = vec![
        ("source", source.origin.clone()),
        ("weights", source.which.clone()),
        ("network", published.name().to_owned()),
        ("parameters", published.reference().parameters().to_string()),
    ];
    match published.setting() {
        Err(reason) => lines.push(("sampling", format!("no: {reason}"))),
        Ok(setting) => {
            let [height, width, channels] = setting.shape;
            let classes = if setting.classes == 0 { "none".to_owned() } else { setting.classes.to_string() };
            let range = if setting.symmetric { "-1 to 1" } else { "0 to 1" };
            lines.push(("images", format!("{height} x {width} x {channels}, {range}")));
            lines.push(("classes", classes));
            lines.push(("schedule", setting.schedule.kind().to_owned()));
            lines.push(("prediction", setting.role.prediction().to_owned()));
            lines.extend(setting.notes.iter().map(|note| ("note", note.clone())));
        }
    }
    lines.into_iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
}

fn table(all: &[Checked]) -> String {
    let wide = all.iter().map(|checked| checked.name.len()).max().unwrap_or(0);
    let mut table = format!("\n{:<wide$}  largest   absolute  relative  allowed\n", "tensor");
    for checked in all {
        let verdict = if checked.passed() { "" } else { "  TOO FAR" };
        table += &format!(
            "{:<wide$}  {:<8.2e}  {:<8.1e}  {:<8.1e}  {:<8.1e}{verdict}\n",
            checked.name,
            checked.largest,
            checked.absolute,
            checked.relative(),
            checked.bound
        );
    }
    table
}

/// Writes a checkpoint that can be sampled, and exported again.
fn write(source: &Source, published: &Published, name: &str, output: &Path) -> Result<()> {
    let setting = published.setting().map_err(|reason| {
        Error::new(format!("{}: {reason}; leave out --output, which is for models that can be sampled", source.origin))
    })?;
    let weights = published.weights();
    let description = description(name, setting);
    description.check()?;
    let mut metadata = metadata(&description);
    let keys = published.reference().keys();
    let buffers = source.weights.iter().filter(|(name, _)| !keys.contains(*name));
    let buffers: Map<String, Value> = buffers.map(|(name, data)| (name.clone(), buffer(data))).collect();
    let origin = json!({
        "kind": published.kind().name(),
        "config": source.config,
        "scheduler": source.scheduler,
        "buffers": buffers,
    });
    metadata.insert(SOURCE.to_owned(), origin.to_string());
    let learner = match &setting.role {
        Role::Denoiser { .. } => DIFFUSION_NETWORK,
        Role::FlowMap(_) => CONSISTENCY_NETWORK,
    };
    let learners = [(learner.to_owned(), LearnerState { weights, average: None, optimizer: Tensors::new() })].into();
    Checkpoint { learners, step: 0, metadata }.write(output)
}

/// A tensor that is no parameter, such as the table of noise levels: it goes back into an export.
fn buffer(data: &TensorData) -> Value {
    json!({ "shape": data.shape().to_vec(), "values": data.iter::<f32>().collect::<Vec<_>>() })
}

/// What [`buffer`] wrote.
fn unbuffered(json: &Value) -> Option<TensorData> {
    let whole = |size: &Value| size.as_u64().map(|size| size as usize);
    let shape: Vec<usize> = json.get("shape")?.as_array()?.iter().map(whole).collect::<Option<_>>()?;
    let number = |value: &Value| value.as_f64().map(|value| value as f32);
    let values: Vec<f32> = json.get("values")?.as_array()?.iter().map(number).collect::<Option<_>>()?;
    (values.len() == shape.iter().product::<usize>()).then(|| TensorData::new(values, shape))
}

/// What a published network of pictures `[height, width, channels]` is a model of.
fn subject(name: &str, [height, width, channels]: [usize; 3], setting: &Setting) -> Subject {
    Subject {
        name: name.to_owned(),
        shape: Shape::Image { height, width, channels },
        classes: (0..setting.classes).map(|class| format!("class {class}")).collect(),
        shares: Vec::new(),
        label: label(),
        columns: Vec::new(),
        levels: Some(256),
        codec: pictures(setting.symmetric),
        autoencoder: None,
        text: None,
        variance: setting.variance(),
        shown: None,
        bounds: Vec::new(),
    }
}

/// The model of a published network: what it is, how it is sampled by default, and of what.
fn description(name: &str, setting: &Setting) -> Description {
    let subject = subject(name, setting.shape, setting);
    let (schedule, network) = (setting.schedule.clone(), setting.network.clone());
    let (sampler, family): (Method, AnyFamily) = match &setting.role {
        Role::Denoiser { precondition, sampler } => {
            let diffusion = Diffusion {
                schedule,
                prediction: precondition.prediction,
                input_scale: precondition.input_scale,
                noise_input: precondition.noise_input,
                network,
                text: None,
                objective: None,
                label_dropout: 0.0,
                uncertainty: false,
            };
            (sampler.clone().into(), diffusion.into())
        }
        Role::FlowMap(map) => {
            let (form, noise_input) = (map.form, map.noise_input);
            let model = ConsistencyModel { schedule, form, noise_input, network, ..ConsistencyModel::default() };
            (Method::Multistep, model.into())
        }
    };
    let wrap = if setting.clamp { vec![AnyWrapper::from(Clamp::default())] } else { Vec::new() };
    let sample = SampleConfig { sampler, grid: setting.grid.clone(), schedule: None, wrap, batch: 64 };
    Description { family, sample: Some(sample), subject }
}

/// Writes the weights of a model that was imported under the names and in the layouts they came in, and those of a trained `unet2d` as
/// diffusers has them: a safetensors file, or, for weights of diffusers where the output has no ending, a folder with their config that
/// the library opens. `force` lets files be replaced that are none of an earlier export.
///
/// # Errors
/// When the model is neither, is damaged, or the output cannot be written or would replace the checkpoint.
pub fn export(model: &Path, output: &Path, force: bool) -> Result<String> {
    let checkpoint = checkpoint_of(model.as_ref())?;
    let inputs = [checkpoint.clone()];
    let check = |path: &Path| {
        let ours = || {
            read_metadata(path).is_ok_and(|metadata| metadata.get(WRITTEN_BY.0).is_some_and(|by| by == WRITTEN_BY.1))
        };
        may_replace(path, &inputs, force, ours)?;
        check_place(path)
    };
    let single = output.extension().is_some_and(|ending| ending == "safetensors");
    if single {
        check(output)?;
    }
    let SavedWeights { mut learners, metadata, .. } = Checkpoint::read_weights(&checkpoint, Weights::Ema)?;
    let (origin, weights) = match metadata.get(SOURCE) {
        Some(text) => {
            let origin: Value = serde_json::from_str(text).map_err(|error| {
                Error::of(ErrorKind::File, format!("{}: its source cannot be read: {error}", checkpoint.display()))
            })?;
            (origin, learners.pop_first().map(|(_, weights)| weights))
        }
        None => {
            let origin = trained(&described(&metadata)?).map_err(|error| error.at(model.display()))?;
            (origin, learners.remove(DIFFUSION_NETWORK))
        }
    };
    if let Some(pipeline) = origin["pipeline"].as_str() {
        return Err(Error::of(
            ErrorKind::Unsupported,
            format!(
                "{} is the pipeline {pipeline}, whose parts are not written back: its checkpoint is a safetensors file itself",
                model.display()
            ),
        ));
    }
    let kind = Kind::named(origin["kind"].as_str().unwrap_or_default())?;
    let weights = weights.unwrap_or_default();
    let mut theirs =
        import::theirs(kind, &origin["config"], &weights).map_err(|error| error.at(checkpoint.display()))?;
    for (name, json) in origin["buffers"].as_object().into_iter().flatten() {
        let data = unbuffered(json).ok_or_else(|| {
            Error::of(ErrorKind::File, format!("{}: the buffer {name} is damaged", checkpoint.display()))
        })?;
        theirs.insert(name.clone(), data);
    }
    if single {
        write_tensors(&theirs, output)?;
        return Ok(format!("{} tensors in {}\n", theirs.len(), output.display()));
    }
    ensure!(
        kind == Kind::Diffusers && output.extension().is_none(),
        "{} is neither a .safetensors file nor, as only diffusers have them, a folder",
        output.display()
    );
    let unmade = |error| Error::of(ErrorKind::File, format!("cannot make the folder {}: {error}", output.display()));
    std::fs::create_dir_all(output).map_err(unmade)?;
    let weights = output.join("diffusion_pytorch_model.safetensors");
    let configs: Vec<_> = configs(&origin).into_iter().map(|(name, text)| (output.join(name), text)).collect();
    check(&weights)?;
    for (path, text) in &configs {
        may_replace(path, &inputs, force, || std::fs::read_to_string(path).is_ok_and(|there| there == *text))?;
        check_place(path)?;
    }
    write_tensors(&theirs, &weights)?;
    for (path, text) in &configs {
        write_atomically(path, |file| file.write_all(text.as_bytes()))?;
    }
    let unsaid = if origin["scheduler"].is_null() { " (no scheduler of diffusers has such noise)" } else { "" };
    Ok(format!("{} tensors and their config{unsaid} in {}\n", theirs.len(), output.display()))
}

/// Where a trained model would come from if it had been imported.
fn trained(description: &Description) -> Result<Value> {
    let Description { family, sample, subject } = description;
    let AnyFamily::Diffusion(diffusion @ Diffusion { schedule, network: NetworkConfig::Unet2d(network), .. }) = family
    else {
        return Err(Error::of(
            ErrorKind::Unsupported,
            "it was not imported, and only a trained network unet2d is one of another library, diffusers: its checkpoint is a \
             safetensors file itself",
        ));
    };
    ensure!(
        Kind::Unsupported,
        subject.shown.is_none(),
        "it is shown a measurement beside its input, which pipelines of diffusers do not give: its checkpoint is a safetensors file itself"
    );
    let &[height, width, _] = &subject.state_shape()?[..] else {
        unreachable!("a network of pictures was trained on states of another kind");
    };
    let clamps = |wrapper: &AnyWrapper| matches!(wrapper, AnyWrapper::Clamp(_));
    let clamp = sample.iter().flat_map(|sample| &sample.wrap).any(clamps);
    let symmetric = subject.range() == Some((-1.0, 1.0));
    Ok(json!({
        "kind": Kind::Diffusers.name(),
        "config": import::diffusers::unet_2d_json(network, [height, width])?,
        "scheduler": symmetric.then(|| import::scheduler_of(schedule, &diffusion.precondition(), clamp)).flatten(),
    }))
}

/// The files of a folder of diffusers beside the weights, as Python writes them.
fn configs(origin: &Value) -> Vec<(&'static str, String)> {
    let named = [("config.json", &origin["config"]), ("scheduler_config.json", &origin["scheduler"])];
    let given = named.into_iter().filter(|(_, json)| !json.is_null());
    // What is no number has words of its own there.
    let unquoted = |text: String, word: &&str| text.replace(&format!("\"{word}\""), word);
    given.map(|(name, json)| (name, import::NOT_NUMBERS.iter().fold(format!("{json:#}\n"), unquoted))).collect()
}
