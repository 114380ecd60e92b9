//! Samples into files: a file's ending says how, and numbers are written while they are drawn.

use std::{
    ffi::OsStr,
    io::IsTerminal,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use stein::{Error, Kind, Result, ensure, names};
use stein_base::files::{PendingFile, remove_abandoned};

use crate::{
    Classes, Drawing, Model, Plan, RunDir, SampleConfig, Sink, Summary, Watch,
    arrays::{CsvFile, NpyFile},
    draw::Kept,
    model::Found,
    picture::{to_gif, to_png, to_webp},
    replacing::{Recorded, beside, said},
    sheet::{picture, pictures, vectors},
};

/// What samples are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A picture of them.
    Png,
    /// The same as a drawing, of what is a chart.
    Svg,
    /// The way from noise to samples, as an animation.
    Gif,
    /// The same without loss.
    Webp,
    /// A NumPy array of 32-bit floats.
    Npy,
    /// A table, of rows.
    Csv,
}

impl Format {
    const ALL: [(&str, Self); 6] = [
        ("png", Self::Png),
        ("svg", Self::Svg),
        ("gif", Self::Gif),
        ("webp", Self::Webp),
        ("npy", Self::Npy),
        ("csv", Self::Csv),
    ];

    /// The names, which are the endings of files.
    pub fn names() -> [&'static str; 6] {
        Self::ALL.map(|(name, _)| name)
    }

    /// The format of that name.
    ///
    /// # Errors
    /// An unknown name, answered with the known ones, nearest first.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name.to_lowercase());
        found.map(|(_, format)| *format).ok_or_else(|| names::unknown("format", name, &Self::names()))
    }

    /// Its name.
    fn ending(self) -> &'static str {
        Self::ALL.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// Whether it shows the way.
    fn moves(self) -> bool {
        matches!(self, Self::Gif | Self::Webp)
    }

    /// Whether numbers go to the file as they are drawn.
    fn streams(self) -> bool {
        matches!(self, Self::Npy | Self::Csv)
    }
}

/// Where samples go, and as what. A path is one that is written to by its ending, and may be the string `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The file, or `-`, the standard output. A pipe or a device is written through.
    pub path: PathBuf,
    /// The format; default what the ending says and, where there is none, a table of rows or an array.
    pub format: Option<Format>,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

impl<P: AsRef<OsStr> + ?Sized> From<&P> for Output {
    fn from(path: &P) -> Self {
        Self { path: path.as_ref().into(), format: None, force: false }
    }
}

impl From<&Self> for Output {
    fn from(output: &Self) -> Self {
        output.clone()
    }
}

impl Output {
    /// Also by the names the system has for it, which lead to a file that others may be writing to.
    fn is_stdout(&self) -> bool {
        ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| self.path == Path::new(name))
    }

    /// Whether it is written through, and nothing lies beside it.
    fn is_stream(&self) -> bool {
        self.is_stdout() || self.path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir())
    }

    fn format(&self, model: &Model) -> Result<Format> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let path = self.path.display();
        match self.path.extension() {
            Some(ending) => {
                let ending = ending.to_string_lossy();
                Format::named(&ending).map_err(|_| names::unknown("file ending", &ending, &Format::names()).at(path))
            }
            None if self.is_stream() => {
                let rows = model.subject.shape.dims().len() == 1;
                Ok(if rows { Format::Csv } else { Format::Npy })
            }
            None => Err(Error::new(format!(
                "{path} has no ending, which says what to write: give .{} or --format",
                Format::names().join(", .")
            ))),
        }
    }
}

/// Fails unless samples of the model can be written there as it is sampled by this configuration.
///
/// # Errors
/// An ending nobody knows, a directory that does not exist, pictures of what cannot be drawn, a file that may not be replaced.
pub fn check_output(output: impl Into<Output>, model: &Model, config: &SampleConfig) -> Result<()> {
    let output = output.into();
    let format = check_format(&output, model)?;
    Files::new(&output, format, false, inputs(model, config)).map(drop)
}

fn check_format(output: &Output, model: &Model) -> Result<Format> {
    let (path, subject) = (&output.path, &model.subject);
    ensure!(!path.is_dir(), "{} is a directory: give the name of a file in it, such as samples.png", path.display());
    let format = output.format(model)?;
    ensure!(
        subject.image().is_none() || format != Format::Svg,
        "only charts are drawn as .svg, and samples of {} are images: write a .png file",
        subject.name
    );
    ensure!(
        subject.shape.dims().len() == 1 || format != Format::Csv,
        "only rows go into a table, and samples of {} have the shape {}: write a .npy file",
        subject.name,
        subject.shape
    );
    ensure!(
        !output.is_stdout() || format == Format::Csv || !std::io::stdout().is_terminal(),
        "the standard output is a terminal, which shows no such bytes: send it to a file or another program, or give --format csv"
    );
    Ok(format)
}

/// The files of samples, begun: all that can fail because of them has failed, or will only when they are full.
struct Files {
    samples: PendingFile,
    /// Beside samples in an array, where they have classes.
    labels: Option<PendingFile>,
    /// None where nothing can lie beside the samples.
    recorded: Option<Recorded>,
    path: PathBuf,
}

impl Files {
    fn new(output: &Output, format: Format, labeled: bool, inputs: Vec<PathBuf>) -> Result<Self> {
        let path = output.path.clone();
        if output.is_stream() {
            let samples = if output.is_stdout() { PendingFile::stdout() } else { PendingFile::new(&path)? };
            return Ok(Self { samples, labels: None, recorded: None, path });
        }
        // What a killed call left behind.
        remove_abandoned(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")));
        let recorded = Recorded::new(&beside(&path, ".json"), inputs, output.force)?;
        let samples = recorded.start(&path)?;
        let labeled = labeled && format == Format::Npy;
        let labels = labeled.then(|| recorded.start(&labels_of(&path))).transpose()?;
        Ok(Self { samples, labels, recorded: Some(recorded), path })
    }
}

fn labels_of(path: &Path) -> PathBuf {
    beside(path, ".labels.npy")
}

/// The files that sampling reads, and those of the runs they are of.
fn inputs(model: &Model, config: &SampleConfig) -> Vec<PathBuf> {
    let others = config.wrap.iter().flat_map(|wrapper| wrapper.models());
    let others = others.filter_map(|model| Found::at(model.as_ref()).map(Found::path).ok());
    let read = model.file.iter().cloned().chain(others).chain(model.beginning_files());
    read.flat_map(|path| RunDir::files_with(&path).into_iter().chain([path])).collect()
}

/// Draws samples into a file by its ending or the given format: `.png` a picture; `.svg` a chart; `.gif` and `.webp` the way from noise; `.npy`
/// float32 (`[n, height, width, channels]` in \[0, 1\], `[n, length, channels]` or `[n, dim]` in the data's units) with the numbers
/// of the classes in `FILE.labels.npy`; `.csv` a table with the names of the classes. `FILE.json` says how they were drawn and
/// which class has which number. Numbers are written as they come, so that their number is bounded by the disk.
///
/// A file is replaced if it is as an earlier call left it, which `FILE.json` tells, or if the output says so; one that is read never.
///
/// ```no_run
/// use stein_run::{Classes, Model, Silent, draw_to_file};
///
/// let model = Model::open("runs/moons", &stein::Device::flex())?;
/// draw_to_file("moons.npy", &model, 1_000_000, 0, &Classes::Default, &model.sample, &mut Silent)?;
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// Those of [`check_output`] and [`Plan`], and files that cannot be written; then the file that was there before stays. A reader of
/// a pipe that goes away stops it.
pub fn draw_to_file(
    output: impl Into<Output>,
    model: &Model,
    n: usize,
    seed: u64,
    classes: &Classes,
    config: &SampleConfig,
    watch: &mut dyn Watch,
) -> Result<Summary> {
    let output = output.into();
    let model = &*model.with_classes_of(config)?;
    let format = check_format(&output, model)?;
    // Beyond that a file has no place, or a picture's samples no memory.
    let most = if format.streams() { 1 << 48 } else { 1 << 31 };
    ensure!(
        n.checked_mul(model.subject.dim()).is_some_and(|numbers| numbers <= most),
        "{n} samples of {} numbers do not fit in {}: draw fewer{}",
        model.subject.dim(),
        output.path.display(),
        if format.streams() { "" } else { ", or write a .npy file" }
    );
    let plan = Plan::new(model, n, seed, classes, config, format.moves())?;
    if !format.streams() && model.subject.image().is_some() {
        // What cannot be drawn of the samples cannot be drawn of zeros, and is known before they are there.
        picture(model, &vec![0.0; n * model.subject.dim()], plan.labels().as_deref())?;
    }
    write_drawing(&output, format, model, plan, inputs(model, config), watch)
}

/// Draws `n` samples of each text of a file, one in every line, into a folder: `0001.png` for the first, or what the format says, as
/// [`draw_to_file`] does it. Each has the noise of the others. Returns how many files there are.
///
/// # Errors
/// A file that cannot be read or has no text, and as [`draw_to_file`].
pub fn draw_prompts(
    prompts: &Path,
    output: &Output,
    model: &Model,
    n: usize,
    seed: u64,
    config: &SampleConfig,
    watch: &mut dyn Watch,
) -> Result<usize> {
    let cannot = |what: &str, error: std::io::Error| Error::of(Kind::File, format!("cannot {what}: {error}"));
    let text = std::fs::read_to_string(prompts)
        .map_err(|error| cannot(&format!("read the texts {}", prompts.display()), error))?;
    let texts: Vec<&str> = text.lines().map(str::trim).filter(|text| !text.is_empty()).collect();
    ensure!(!texts.is_empty(), "{} has no text: write one in every line", prompts.display());
    // What is wrong with one text or with the model is found out before the first is drawn.
    texts.iter().try_for_each(|text| model.tokens(text).map(drop))?;
    let folder = &output.path;
    std::fs::create_dir_all(folder).map_err(|error| cannot(&format!("make the folder {}", folder.display()), error))?;
    let format = output.format.unwrap_or(Format::Png);
    for (place, text) in texts.iter().enumerate() {
        let path = folder.join(format!("{:04}.{}", place + 1, format.ending()));
        let output = Output { path, format: Some(format), force: output.force };
        draw_to_file(output, model, n, seed, &Classes::Texts(vec![(*text).to_owned()]), config, watch)?;
    }
    Ok(texts.len())
}

/// Data of codes into a file, as [`draw_to_file`] does it; `inputs` are the files that they were read from.
pub(crate) fn decode_to_file<'a>(
    output: &Output,
    model: &'a Model,
    decoding: impl FnOnce(bool) -> Result<Plan<'a>>,
    inputs: Vec<PathBuf>,
    watch: &mut dyn Watch,
) -> Result<Summary> {
    let format = check_format(output, model)?;
    write_drawing(output, format, model, decoding(format.moves())?, inputs, watch)
}

fn write_drawing(
    output: &Output,
    format: Format,
    model: &Model,
    plan: Plan,
    inputs: Vec<PathBuf>,
    watch: &mut dyn Watch,
) -> Result<Summary> {
    let n = plan.count();
    let files = Files::new(output, format, plan.by_class(), inputs)?;
    let summary = match format {
        Format::Npy => {
            let shape: Vec<usize> = std::iter::once(n).chain(model.subject.shape.dims()).collect();
            let labels = files.labels.map(|file| NpyFile::within(file, &[n])).transpose()?;
            let mut sink = NpySink { file: NpyFile::within(files.samples, &shape)?, labels };
            let summary = plan.draw(&mut sink, watch)?;
            sink.file.finish()?;
            sink.labels.map_or(Ok(()), NpyFile::finish)?;
            summary
        }
        Format::Csv => {
            let subject = &model.subject;
            let label = plan.by_class().then_some(subject.label.as_str());
            let file = CsvFile::within(files.samples, &subject.columns, label)?;
            let mut sink = CsvSink { file, classes: &subject.classes };
            let summary = plan.draw(&mut sink, watch)?;
            sink.file.finish()?;
            summary
        }
        Format::Png | Format::Svg | Format::Gif | Format::Webp => {
            let mut kept = Kept::default();
            let summary = plan.draw(&mut kept, watch)?;
            let labels = kept.labels.as_deref();
            let frames = || pictures(model, &kept.values, labels, &kept.frames);
            let bytes = match format {
                Format::Svg => vectors(model, &kept.values)?.svg().into(),
                Format::Gif => to_gif(&frames()?, 60, 2000)?,
                Format::Webp => to_webp(&frames()?, 60, 2000)?,
                _ => to_png(&picture(model, &kept.values, labels)?)?,
            };
            files.samples.commit_with(&bytes)?;
            summary
        }
    };
    let Some(recorded) = files.recorded else { return Ok(summary) };
    let labels = labels_of(&files.path);
    let labeled = format == Format::Npy && !summary.classes.is_empty();
    if !labeled && recorded.is_ours(&labels) {
        // Classes of what stood here before are not those of these samples.
        std::fs::remove_file(&labels)
            .map_err(|error| Error::of(Kind::File, format!("cannot delete the old {}: {error}", labels.display())))?;
    }
    let written = [files.path.as_path(), &labels];
    recorded.write(&written[..1 + usize::from(labeled)], record(model, &summary))?;
    Ok(summary)
}

/// Numbers go to the files as they come.
struct NpySink {
    file: NpyFile,
    labels: Option<NpyFile<i64>>,
}

impl Sink for NpySink {
    fn take(&mut self, drawing: &Drawing) -> Result<()> {
        if let (Some(file), Some(labels)) = (&mut self.labels, drawing.labels) {
            file.write(&labels.iter().map(|&label| i64::from(label)).collect::<Vec<_>>())?;
        }
        self.file.write(drawing.values)
    }
}

/// Rows go to the table as they come, with the names of their classes.
struct CsvSink<'a> {
    file: CsvFile,
    classes: &'a [String],
}

impl Sink for CsvSink<'_> {
    fn take(&mut self, drawing: &Drawing) -> Result<()> {
        let name = |&label: &u32| self.classes[label as usize].as_str();
        let classes: Option<Vec<&str>> = drawing.labels.map(|labels| labels.iter().map(name).collect());
        self.file.write(drawing.values, classes.as_deref())
    }
}

/// How samples were drawn; the classes with their numbers, as they stand in labels.
pub(crate) fn record(model: &Model, summary: &Summary) -> Map<String, Value> {
    let class = |&label: &u32| json!({ "number": label, "name": model.subject.classes[label as usize] });
    let classes: Vec<Value> = summary.classes.iter().map(class).collect();
    said(&json!({
        "model": model.name,
        "family": model.family,
        "weights": model.weights,
        "model_file": model.file.as_ref().map(|file| file.to_string_lossy()),
        "data": model.subject.name,
        "source": summary.source,
        "texts": if summary.texts.is_empty() { None } else { Some(&summary.texts) },
        "start": summary.start,
        "n": summary.n,
        "seed": summary.seed,
        "label": if classes.is_empty() { None } else { Some(&model.subject.label) },
        "classes": if classes.is_empty() { None } else { Some(classes) },
        "schedule": summary.schedule,
        "sampler": summary.config.sampler,
        "grid": summary.config.grid,
        "wrap": summary.config.wrap,
        "batch": summary.config.batch,
        "evaluations": summary.evaluations,
        "seconds": summary.seconds,
    }))
}
