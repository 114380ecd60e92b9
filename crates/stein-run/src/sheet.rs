//! Pictures of samples: a sheet of images, series as lines, a scatter plot or a histogram, over the true density where it is known.

use image::RgbImage;
use stein::{Kernel, Result, exact::Exact};

use crate::{
    Model, Subject,
    draw::blocks,
    picture::{Series, auto_scale, from_unit, grid, histogram, line_chart, scatter},
};
use stein_data::Shape;

/// Whether samples of this subject make pictures: images of one or three channels, series, and rows of one or two numbers.
pub(crate) fn has_pictures(subject: &Subject) -> bool {
    match subject.shape {
        Shape::Image { channels, .. } => matches!(channels, 1 | 3),
        Shape::Series { .. } => true,
        Shape::Row { dim } => dim <= 2,
    }
}

/// One picture of a batch in the data's units.
pub(crate) fn picture(model: &Model, values: &[f32], labels: Option<&[u32]>) -> Result<RgbImage> {
    sheet(model, values, labels, None, 1)
}

/// The pictures of an animation: smaller than a still, and with the same axes in all of them.
pub(crate) fn pictures(
    model: &Model,
    values: &[f32],
    labels: Option<&[u32]>,
    frames: &[Vec<f32>],
) -> Result<Vec<RgbImage>> {
    let bounds = (model.subject.dim() == 2).then(|| square(values));
    frames.iter().map(|frame| sheet(model, frame, labels, bounds, 2)).collect()
}

/// A picture a `shrink`-th as large as a still.
fn sheet(
    model: &Model,
    values: &[f32],
    labels: Option<&[u32]>,
    bounds: Option<[(f64, f64); 2]>,
    shrink: u32,
) -> Result<RgbImage> {
    let dim = model.subject.dim();
    let n = values.len() / dim;
    if let Some(shape) = model.subject.image() {
        // One class per row where the classes come in equal blocks; otherwise a square.
        let rows = |(classes, each): &(Vec<u32>, usize)| match each {
            1 => (2..=20).contains(&classes.len()),
            _ => classes.len() > 1 && *each <= 100,
        };
        let blocks = labels.and_then(blocks).filter(rows);
        let columns = blocks.as_ref().map_or((n as f64).sqrt().ceil() as usize, |(_, each)| *each);
        let names: Option<Vec<String>> = blocks
            .map(|(classes, _)| classes.iter().map(|&class| model.subject.classes[class as usize].clone()).collect());
        return if n == 1 {
            from_unit(values, shape.0, shape.1, shape.2)
        } else {
            grid(values, shape, columns, (auto_scale(shape.1, columns) / shrink).max(1), names.as_deref())
        };
    }
    if let Shape::Series { length, channels } = model.subject.shape {
        return lines(values, length, channels, &model.subject.name, shrink);
    }
    let numbers: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
    let density = |point: &[f64]| match &model.truth {
        Some(truth) => truth.log_density(point, &Kernel::CLEAN)[0].exp(),
        None => 0.0,
    };
    let title = format!("{n} samples of {}", model.subject.name);
    if dim == 1 {
        let curve = |x: f64| density(&[x]);
        let known: Option<&dyn Fn(f64) -> f64> = if model.truth.is_some() { Some(&curve) } else { None };
        return histogram(&numbers, known, &title, &model.subject.columns[0], (960 / shrink, 600 / shrink), None);
    }
    let points: Vec<[f64; 2]> = numbers.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
    let field = |x: f64, y: f64| density(&[x, y]);
    let known: Option<&dyn Fn(f64, f64) -> f64> = if model.truth.is_some() { Some(&field) } else { None };
    scatter(&points, known, &title, (800 / shrink, 800 / shrink), bounds)
}

/// A square around points with a margin, so that the frames of an animation share their axes.
fn square(values: &[f32]) -> [(f64, f64); 2] {
    let range = |axis: usize| {
        let column = values.iter().skip(axis).step_by(2).map(|&v| f64::from(v));
        column.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let (x, y) = (range(0), range(1));
    let half = 0.6 * (x.1 - x.0).max(y.1 - y.0).max(f64::MIN_POSITIVE);
    [x, y].map(|(low, high)| (0.5 * (low + high) - half, 0.5 * (low + high) + half))
}

/// Series drawn over each other, the first few of them, a color per channel.
fn lines(values: &[f32], length: usize, channels: usize, name: &str, shrink: u32) -> Result<RgbImage> {
    const SHOWN: usize = 24;
    let mut series = Vec::new();
    for sample in values.chunks_exact(length * channels).take(SHOWN) {
        for channel in 0..channels {
            let points = (0..length).map(|t| (t as f64, f64::from(sample[t * channels + channel]))).collect();
            series.push(Series { name: String::new(), points, faint: true });
        }
    }
    let title = format!("{} samples of {name}", series.len() / channels);
    line_chart(&series, &title, "step", "value", false, (960 / shrink, 600 / shrink))
}
