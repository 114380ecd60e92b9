//! Samples of posteriors into files: arrays, tables, pictures, or a folder of all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use image::RgbImage;
use serde_json::{Map, json};
use stein::{Error, Kind, Result, ensure};

use super::{Prepared, RestoreOptions, Restored, scores::mean_and_std};
use crate::{
    Model, Watch,
    arrays::{CsvFile, NpyFile},
    picture::{auto_scale, from_unit, grid, to_png},
    replacing::{Recorded, beside, said},
    sheet,
};

/// What an output is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `[inputs, n, …]`, or `[n, …]` of one input.
    Npy,
    /// Rows of numbers.
    Csv,
    /// A picture.
    Png,
    /// A folder with the array and a picture for each input.
    Folder,
}

/// Samples of single inputs in a picture.
const SHOWN: usize = 8;
/// Inputs in a picture.
const INPUTS: usize = 16;

/// What a path is written as, by its ending; a folder where it has none.
///
/// # Errors
/// An ending nobody knows.
fn written_as(path: &Path) -> Result<Form> {
    match path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).as_deref() {
        Some("npy") => Ok(Form::Npy),
        Some("csv") => Ok(Form::Csv),
        Some("png") => Ok(Form::Png),
        None => Ok(Form::Folder),
        Some(other) => Err(stein::names::unknown("file ending", other, &["npy", "csv", "png"]).at(path.display())),
    }
}

/// Draws samples of the posterior of every measurement into a file, by its ending: `.npy` `[inputs, n, …]` (`[n, …]` of one input), `.csv`
/// rows, `.png` a picture, of images with what was measured, samples, their mean and standard deviation, and the truth in a row for each
/// input; or into a folder, with the array and a picture for each input. `FILE.json` says how they were drawn and how good they are.
///
/// # Errors
/// As [`restore`](super::restore), and files that may not be replaced or cannot be written.
pub fn restore_to(path: &Path, model: &Model, options: &RestoreOptions, watch: &mut dyn Watch) -> Result<Restored> {
    let form = written_as(path)?;
    ensure!(
        form != Form::Csv || model.subject.shape.dims().len() == 1,
        "only rows go into a table, and samples of {} have the shape {}: write a .npy file",
        model.subject.name,
        model.subject.shape
    );
    let prepared = Prepared::of(model, options)?;
    let inputs = prepared.measurements.count;
    let files: Vec<PathBuf> = match form {
        Form::Folder => {
            fs::create_dir_all(path).map_err(|error| {
                Error::of(Kind::File, format!("cannot make the directory {}: {error}", path.display()))
            })?;
            let pictures = (0..inputs).map(|i| path.join(format!("{i:04}.png")));
            std::iter::once(path.join("samples.npy")).chain(pictures).collect()
        }
        _ => vec![path.to_owned()],
    };
    let record = if form == Form::Folder { path.join("restored.json") } else { beside(path, ".json") };
    let read = model.file.iter().cloned().chain([&options.input].into_iter().chain(&options.truth).map(PathBuf::from));
    let recorded = Recorded::new(&record, read.collect(), options.force)?;
    let mut started = files.iter().map(|file| recorded.start(file)).collect::<Result<Vec<_>>>()?.into_iter();
    let restored = prepared.draw(watch)?;
    let first = started.next().expect("there is a file");
    match form {
        Form::Npy | Form::Folder => {
            let counts = if inputs == 1 { vec![restored.n] } else { vec![inputs, restored.n] };
            let shape: Vec<usize> = counts.into_iter().chain(model.subject.shape.dims()).collect();
            let mut array = NpyFile::<f32>::within(first, &shape)?;
            array.write(&restored.values)?;
            array.finish()?;
            for (input, file) in started.enumerate() {
                file.commit_with(&to_png(&picture(model, &restored, input..input + 1)?)?)?;
            }
        }
        Form::Csv => {
            let mut table = CsvFile::within(first, &model.subject.columns, None)?;
            table.write(&restored.values, None)?;
            table.finish()?;
        }
        Form::Png => first.commit_with(&to_png(&picture(model, &restored, 0..inputs.min(INPUTS))?)?)?,
    }
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    recorded.write(&files, said_of(model, options, &restored))?;
    Ok(restored)
}

fn said_of(model: &Model, options: &RestoreOptions, restored: &Restored) -> Map<String, serde_json::Value> {
    said(&json!({
        "model": model.name,
        "data": model.subject.name,
        "input": options.input,
        "simulated": options.simulate,
        "inputs": restored.inputs,
        "n": restored.n,
        "seed": options.seed,
        "measurement": options.task.measurement,
        "method": options.task.method,
        "schedule": restored.schedule,
        "grid": restored.config.grid,
        "wrap": restored.config.wrap,
        "evaluations": restored.evaluations,
        "seconds": restored.seconds,
        "scores": restored.scores.json(),
    }))
}

/// A picture of some inputs.
fn picture(model: &Model, restored: &Restored, inputs: std::ops::Range<usize>) -> Result<RgbImage> {
    let dim = model.subject.dim();
    let Some(size) = model.subject.image() else {
        let values = &restored.values[inputs.start * restored.n * dim..inputs.end * restored.n * dim];
        return sheet::picture(model, values, None);
    };
    let (mut cells, mut columns) = (Vec::new(), 0);
    for input in inputs {
        let samples = &restored.values[input * restored.n * dim..(input + 1) * restored.n * dim];
        let before = cells.len();
        if let Some((measured, [height, width], _)) = &restored.measured {
            let one = height * width * size.2;
            cells.extend(enlarged(&measured[input * one..(input + 1) * one], (*height, *width), size));
        }
        cells.extend_from_slice(&samples[..restored.n.min(SHOWN) * dim]);
        if restored.n > 1 {
            let (mean, std) = mean_and_std(samples, dim);
            let largest = std.iter().copied().fold(1e-6, f32::max);
            cells.extend(mean);
            cells.extend(std.into_iter().map(|std| std / largest));
        }
        if let Some(truth) = &restored.truth {
            cells.extend_from_slice(&truth[input * dim..(input + 1) * dim]);
        }
        columns = (cells.len() - before) / dim;
    }
    let mut words: Vec<String> = Vec::new();
    words.extend(restored.measured.as_ref().map(|(.., shows)| (*shows).to_owned()));
    words.push(format!("{} of {} samples", restored.n.min(SHOWN), restored.n));
    words.extend((restored.n > 1).then(|| "their mean, their standard deviation (white is the largest)".to_owned()));
    words.extend(restored.truth.is_some().then(|| "the truth".to_owned()));
    if matches!(size.2, 1 | 3) {
        return grid(
            &cells,
            size,
            columns,
            auto_scale(size.1, columns),
            None,
            &format!("From the left: {}", words.join(", ")),
        );
    }
    // Other numbers of channels are drawn by their first.
    from_unit(&cells, cells.len() / size.1 / size.2, size.1, size.2)
}

/// A picture of another size in the cell of one, each pixel as large as it fits; the sample's own size stays.
fn enlarged(
    values: &[f32],
    (height, width): (usize, usize),
    (to_height, to_width, channels): (usize, usize, usize),
) -> Vec<f32> {
    let mut cell = vec![0.0; to_height * to_width * channels];
    for (i, pixel) in cell.chunks_exact_mut(channels).enumerate() {
        let (row, column) = (i / to_width * height / to_height, i % to_width * width / to_width);
        pixel.copy_from_slice(&values[(row * width + column) * channels..][..channels]);
    }
    cell
}
