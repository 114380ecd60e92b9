//! Data as a model is given them, as a picture: after what their source does to them, and through the codecs and back.

use std::path::Path;

use image::RgbImage;
use serde_json::json;
use stein::{Device, Keys, Result, ensure};
use stein_data::{Data, Shape};

use crate::{
    DataConfig, Model, Subject,
    picture::to_png,
    replacing::{Recorded, beside},
    sheet::{self, CLASSES, SERIES},
};

/// Pictures of a class.
const EACH: usize = 8;

/// A picture of `count` samples, evenly spaced, by default as many as are well seen: pictures in rows by class, points, series.
///
/// # Errors
/// Codecs that are none for such data, data that cannot be read, and samples that make no picture.
pub fn preview(data: &Data, config: &DataConfig, count: Option<usize>) -> Result<RgbImage> {
    ensure!(count != Some(0), "a picture of 0 samples shows nothing: give at least 1");
    let config = DataConfig { conditional: data.labels.is_some(), ..config.clone() };
    let subject = Subject::of(data, &config)?;
    let usual = match data.shape {
        Shape::Image { .. } => 64,
        Shape::Series { .. } => SERIES,
        Shape::Row { .. } => 2000,
    };
    let counts = data.class_counts();
    let by_class = data.is_image() && (1..=CLASSES).contains(&counts.len()) && !counts.contains(&0);
    let places: Vec<usize> = match (&data.labels, count) {
        (Some(labels), None) if by_class => {
            let each = counts.iter().copied().fold(EACH, usize::min);
            let of = |class: usize| labels.iter().enumerate().filter(move |(_, label)| **label == class);
            (0..counts.len()).flat_map(|class| of(class).map(|(i, _)| i).take(each).collect::<Vec<_>>()).collect()
        }
        _ => data.spaced(count.unwrap_or(usual)),
    };
    let labels: Option<Vec<u32>> =
        data.labels.as_ref().map(|labels| places.iter().map(|&i| labels[i] as u32).collect());
    let states = subject.encode(&data.rows(&places)?, &Keys::range(0, 0, places.len()), &Device::flex())?;
    let values = subject.decode(states)?;
    sheet::picture(&Model::untrained(subject), &values, labels.as_deref())
}

/// Writes [`preview`] into a `.png` file, and beside it in `FILE.json` what was drawn. A file is replaced if it is as an earlier call
/// left it, or if `force` is set.
///
/// # Errors
/// As [`preview`], and files that may not be replaced or cannot be written.
pub fn preview_to_file(path: &Path, data: &Data, config: &DataConfig, count: Option<usize>, force: bool) -> Result<()> {
    let is_png = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
    ensure!(is_png, "{} is no name of a picture: end it with .png", path.display());
    let recorded = Recorded::new(&beside(path, ".json"), Vec::new(), force)?;
    let file = recorded.start(path)?;
    file.commit_with(&to_png(&preview(data, config, count)?)?)?;
    let said = [("data".to_owned(), json!(data.name)), ("settings".to_owned(), json!(config))];
    recorded.write(&[path], said.into_iter().collect())
}
