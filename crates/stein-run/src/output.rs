//! Samples into files: a file's ending says how, and numbers are written while they are drawn.

use std::path::Path;

use stein::{Error, Kind, Result, ensure, names};
use stein_base::files::write_atomically;

use crate::{
    Classes, Drawing, Model, Plan, SampleConfig, Sink, Summary, Watch,
    arrays::{CsvFile, NpyFile, write_npy_i64},
    draw::Kept,
    picture::{write_gif, write_png, write_webp},
    sheet::{picture, pictures, vectors},
};

/// The endings of files that samples go into.
const ENDINGS: &[&str] = &["png", "gif", "webp", "npy", "csv", "svg"];

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Fails unless samples of the model can be written to `path`.
///
/// # Errors
/// An ending nobody knows, a directory that does not exist, pictures of what cannot be drawn.
pub fn check_output(path: &Path, model: &Model) -> Result<()> {
    let ending = ending(path);
    ensure!(!path.is_dir(), "{} is a directory: give the name of a file in it, such as samples.png", path.display());
    ensure!(
        !ending.is_empty(),
        "{} has no ending, which says what to write: give .{}",
        path.display(),
        ENDINGS.join(", .")
    );
    if !ENDINGS.contains(&ending.as_str()) {
        return Err(names::unknown("file ending", &ending, ENDINGS).at(path.display()));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let there = folder.is_dir();
        ensure!(
            Kind::File,
            there,
            "cannot write {}: the directory {} does not exist",
            path.display(),
            folder.display()
        );
    }
    ensure!(
        model.subject.image().is_none() || ending != "svg",
        "only charts are written as .svg, and samples of {} are images: write a .png file",
        model.subject.name
    );
    ensure!(
        model.subject.shape.dims().len() == 1 || ending != "csv",
        "only rows go into a table, and samples of {} have the shape {}: write a .npy file",
        model.subject.name,
        model.subject.shape
    );
    let record = path.with_extension("json");
    let same = |file: &str| match (record.canonicalize(), Path::new(file).canonicalize()) {
        (Ok(record), Ok(file)) => record == file,
        _ => false,
    };
    ensure!(
        !model.name.strip_prefix("exact:").is_some_and(same),
        "{} would replace the mixture by the record of its samples, {}: give -o another name",
        path.display(),
        record.display()
    );
    Ok(())
}

/// Draws samples into a file by its ending: `.png` a picture; `.svg` a chart; `.gif` and `.webp` the way from noise; `.npy` float32 (`[n, height,
/// width, channels]` in \[0, 1\], `[n, length, channels]` or `[n, dim]` in the data's units) with the classes in `.labels.npy`
/// beside it; `.csv` a table. Beside it a `.json` says how they were drawn. Numbers are written as they come, so that their
/// number is bounded by the disk.
///
/// ```no_run
/// use std::path::Path;
/// use stein_run::{Classes, Model, Silent, draw_to_file};
///
/// let model = Model::open("runs/moons", &stein::Device::flex())?;
/// let path = Path::new("moons.npy");
/// draw_to_file(path, &model, 1_000_000, 0, &Classes::Default, &model.sample, &mut Silent)?;
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// Those of [`check_output`] and [`Plan`], and files that cannot be written; then the file that was there before stays.
pub fn draw_to_file(
    path: &Path,
    model: &Model,
    n: usize,
    seed: u64,
    classes: &Classes,
    config: &SampleConfig,
    watch: &mut dyn Watch,
) -> Result<Summary> {
    check_output(path, model)?;
    let ending = ending(path);
    let streams = matches!(ending.as_str(), "npy" | "csv");
    // Beyond that a file has no place, or a picture's samples no memory.
    let most = if streams { 1 << 48 } else { 1 << 31 };
    ensure!(
        n.checked_mul(model.subject.dim()).is_some_and(|numbers| numbers <= most),
        "{n} samples of {} numbers do not fit in {}: draw fewer{}",
        model.subject.dim(),
        path.display(),
        if streams { "" } else { ", or write a .npy file" }
    );
    let plan = Plan::new(model, n, seed, classes, config, matches!(ending.as_str(), "gif" | "webp"))?;
    let shape = || std::iter::once(n).chain(model.subject.shape.dims()).collect::<Vec<_>>();
    let summary = match ending.as_str() {
        "npy" => {
            let mut sink = NpySink { file: NpyFile::new(path, &shape())?, labels: Vec::new() };
            let summary = plan.draw(&mut sink, watch)?;
            sink.file.finish()?;
            write_labels(&path.with_extension("labels.npy"), &sink.labels)?;
            summary
        }
        "csv" => {
            let mut sink = CsvSink { file: None, path, columns: &model.subject.columns };
            let summary = plan.draw(&mut sink, watch)?;
            if let Some(file) = sink.file {
                file.finish()?;
            }
            summary
        }
        _ => {
            let mut kept = Kept::default();
            let summary = plan.draw(&mut kept, watch)?;
            match ending.as_str() {
                "png" => write_png(path, &picture(model, &kept.values, kept.labels.as_deref())?)?,
                "svg" => {
                    let chart = vectors(model, &kept.values)?;
                    write_atomically(path, |file| file.write_all(chart.svg().as_bytes()))?;
                }
                "gif" => write_gif(path, &frames(model, &kept)?, 60, 2000)?,
                _ => write_webp(path, &frames(model, &kept)?, 60, 2000)?,
            }
            summary
        }
    };
    write_record(&path.with_extension("json"), model, &summary)?;
    Ok(summary)
}

fn frames(model: &Model, kept: &Kept) -> Result<Vec<image::RgbImage>> {
    pictures(model, &kept.values, kept.labels.as_deref(), &kept.frames)
}

/// Numbers go to the file as they come, classes when all are there.
struct NpySink {
    file: NpyFile,
    labels: Vec<i64>,
}

impl Sink for NpySink {
    fn take(&mut self, drawing: &Drawing) -> Result<()> {
        self.labels.extend(drawing.labels.into_iter().flatten().map(|&label| i64::from(label)));
        self.file.write(drawing.values)
    }
}

/// The table is begun with the first rows, which say whether there are classes.
struct CsvSink<'a> {
    file: Option<CsvFile>,
    path: &'a Path,
    columns: &'a [String],
}

impl Sink for CsvSink<'_> {
    fn take(&mut self, drawing: &Drawing) -> Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => CsvFile::new(self.path, self.columns, drawing.labels.is_some())?,
        };
        self.file.insert(file).write(drawing.values, drawing.labels)
    }
}

fn write_labels(path: &Path, labels: &[i64]) -> Result<()> {
    if !labels.is_empty() {
        return write_npy_i64(path, labels);
    }
    if path.exists() {
        // Classes of what stood here before are not those of these samples.
        std::fs::remove_file(path)
            .map_err(|error| Error::of(Kind::File, format!("cannot delete the old {}: {error}", path.display())))?;
    }
    Ok(())
}

fn write_record(path: &Path, model: &Model, summary: &Summary) -> Result<()> {
    let classes: Vec<&String> = summary.classes.iter().map(|&label| &model.subject.classes[label as usize]).collect();
    let record = serde_json::json!({
        "model": model.name,
        "family": model.family,
        "checkpoint": model.checkpoint,
        "data": model.subject.name,
        "n": summary.n,
        "seed": summary.seed,
        "classes": if classes.is_empty() { None } else { Some(classes) },
        "schedule": summary.schedule,
        "sampler": summary.config.sampler,
        "grid": summary.config.grid,
        "wrap": summary.config.wrap,
        "batch": summary.config.batch,
        "evaluations": summary.evaluations,
        "seconds": summary.seconds,
        "version": crate::VERSION,
        "commit": crate::COMMIT,
    });
    write_atomically(path, |file| writeln!(file, "{record:#}"))
}
