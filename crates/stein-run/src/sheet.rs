//! Pictures of samples: a sheet of images, series as lines, and rows as a histogram, a scatter plot or several of them, over the
//! true density where it is known.

use std::borrow::Cow;

use image::RgbImage;
use rayon::prelude::*;
use stein::{Kernel, Result, exact::Exact};

use crate::{
    Model, Subject,
    draw::blocks,
    picture::{Bins, Chart, Frame, Series, auto_scale, bulk, from_unit, grid, histogram, line_chart, scatter},
};
use stein_data::Shape;

/// Most rows with a class each.
pub(crate) const CLASSES: usize = 16;
/// Most rows and most columns of images.
const CELLS: usize = 64;
/// Most columns of rows, and most channels of series, with a chart each.
const CHARTS: usize = 16;
/// Most columns of rows that are shown in pairs.
const PAIRED: usize = 4;
/// Most series drawn over each other.
pub(crate) const SERIES: usize = 24;

/// How many samples a picture of a run in progress is made of.
pub(crate) fn enough(subject: &Subject) -> usize {
    match subject.shape {
        Shape::Image { .. } if subject.classes.is_empty() => 64,
        Shape::Image { .. } => 8 * subject.classes.len().min(CLASSES),
        Shape::Series { .. } => SERIES,
        Shape::Row { .. } => 2000,
    }
}

/// One picture of a batch in the data's units.
pub(crate) fn picture(model: &Model, values: &[f32], labels: Option<&[u32]>) -> Result<RgbImage> {
    match model.subject.image() {
        Some((height, width, channels)) if values.len() == model.subject.dim() => {
            let (values, channels) = visible(values, (width, channels));
            from_unit(&values, height, values.len() / height / channels, channels)
        }
        Some(_) => images(model, values, labels, 1),
        None => chart(model, values, &Axes::of(model, values), 1)?.picture(),
    }
}

/// The picture of a batch that is not of images as a chart, which is also an SVG file.
pub(crate) fn vectors(model: &Model, values: &[f32]) -> Result<Chart> {
    chart(model, values, &Axes::of(model, values), 1)
}

/// The pictures of an animation: smaller than a still, and with the axes of the samples in all of them.
pub(crate) fn pictures(
    model: &Model,
    values: &[f32],
    labels: Option<&[u32]>,
    frames: &[Vec<f32>],
) -> Result<Vec<RgbImage>> {
    let axes = Axes::of(model, values);
    let picture = |frame: &Vec<f32>| match model.subject.image() {
        Some(_) => images(model, frame, labels, 2),
        None => chart(model, frame, &axes, 2)?.picture(),
    };
    frames.par_iter().map(picture).collect()
}

/// Values of images that can be drawn, and their channels: one or three; any others stand side by side in gray.
pub(crate) fn visible(values: &[f32], (width, channels): (usize, usize)) -> (Cow<'_, [f32]>, usize) {
    if matches!(channels, 1 | 3) {
        return (Cow::Borrowed(values), channels);
    }
    let row = |row: &[f32]| (0..width * channels).map(|i| row[i % width * channels + i / width]).collect::<Vec<_>>();
    (Cow::Owned(values.chunks_exact(width * channels).flat_map(row).collect()), 1)
}

/// A sheet of images, enlarged a `shrink`-th as much as a still: one class per row where the classes come in equal blocks,
/// otherwise about a square.
fn images(model: &Model, values: &[f32], labels: Option<&[u32]>, shrink: u32) -> Result<RgbImage> {
    let Shape::Image { height, width, channels } = model.subject.shape else {
        unreachable!("only images come here");
    };
    let dim = model.subject.dim();
    let n = values.len() / dim;
    let rows = |(classes, each): &(Vec<u32>, usize)| classes.len() > 1 && (*each > 1 || classes.len() <= CLASSES);
    let blocks = labels.and_then(blocks).filter(rows);
    let drawn_width = if matches!(channels, 1 | 3) { width } else { width * channels };
    let (shown, columns, names, note) = if let Some((classes, each)) = blocks {
        // Classes from first to last, and the first samples of each.
        let (known, rows) = (classes.len(), classes.len().min(CLASSES));
        let columns = each.min(CELLS);
        let rows_shown: Vec<usize> = (0..rows).map(|row| row * known / rows).collect();
        let shown: Vec<usize> = rows_shown.iter().flat_map(|row| row * each..row * each + columns).collect();
        let name = |&row: &usize| model.subject.classes[classes[row] as usize].clone();
        let names: Vec<String> = rows_shown.iter().map(name).collect();
        let of = |part: usize, whole: usize, what| (part < whole).then(|| format!("{part} of {whole} {what}"));
        let notes = [of(rows, known, "classes"), of(columns, each, "samples of each class")];
        (shown, columns, Some(names), notes.into_iter().flatten().collect::<Vec<_>>().join(", "))
    } else {
        let square = (n as f64 * height as f64 / drawn_width as f64).sqrt().ceil() as usize;
        let columns = square.clamp(1, n.clamp(1, CELLS));
        let shown = n.min(columns * CELLS);
        let note = if shown < n { format!("{shown} of {n} samples") } else { String::new() };
        ((0..shown).collect(), columns, None, note)
    };
    let values: Vec<f32> = shown.into_iter().flat_map(|i| &values[i * dim..(i + 1) * dim]).copied().collect();
    let (values, channels) = visible(&values, (width, channels));
    let scale = (auto_scale(drawn_width, columns) / shrink).max(1);
    grid(&values, (height, drawn_width, channels), columns, scale, names.as_deref(), &note)
}

/// The axes of pictures of the same samples.
#[derive(Default)]
struct Axes {
    /// Of each column that is shown, or of each channel of series: the bulk of its values.
    ranges: Vec<Option<(f64, f64)>>,
    /// The bars over each column that is shown.
    bins: Vec<Option<Bins>>,
}

impl Axes {
    fn of(model: &Model, values: &[f32]) -> Self {
        match model.subject.shape {
            Shape::Image { .. } => Self::default(),
            Shape::Series { channels, .. } => {
                let channel = |k| bulk(values.iter().skip(k).step_by(channels).map(|&value| f64::from(value)));
                Self { ranges: (0..channels.min(CHARTS)).map(channel).collect(), bins: Vec::new() }
            }
            Shape::Row { dim } => {
                let columns: Vec<_> = (0..dim.min(CHARTS)).map(|k| column(values, dim, k)).collect();
                Self {
                    ranges: columns.iter().map(|column| bulk(column.iter().copied())).collect(),
                    bins: columns.iter().map(|column| Bins::of(column)).collect(),
                }
            }
        }
    }
}

/// One column of rows.
fn column(values: &[f32], dim: usize, k: usize) -> Vec<f64> {
    values.iter().skip(k).step_by(dim).map(|&value| f64::from(value)).collect()
}

/// The chart of rows or series, a `shrink`-th as large as a still.
fn chart(model: &Model, values: &[f32], axes: &Axes, shrink: u32) -> Result<Chart> {
    let subject = &model.subject;
    let dim = subject.dim();
    let title = format!("{} samples of {}", values.len() / dim, subject.name);
    if let Shape::Series { length, channels } = subject.shape {
        return lines(values, (length, channels), axes, &subject.name, shrink);
    }
    let name = |k: usize| subject.columns.get(k).map(String::as_str).unwrap_or_default();
    let density = |point: &[f64]| match &model.truth {
        Some(truth) => truth.log_density(point, &Kernel::CLEAN)[0].exp(),
        None => 0.0,
    };
    let bars = |k: usize, density: Option<&dyn Fn(f64) -> f64>, frame: &Frame| {
        let values = column(values, dim, k);
        // Without a finite value there are no bars, and any axis will do.
        let bins = match axes.bins[k] {
            Some(bins) => bins,
            None => Bins::within(&values, (0.0, 1.0))?,
        };
        histogram(&values, &bins, density, frame)
    };
    let points = |i: usize, k: usize, density: Option<&dyn Fn(f64, f64) -> f64>, frame: &Frame| {
        let points: Vec<[f64; 2]> =
            column(values, dim, i).into_iter().zip(column(values, dim, k)).map(Into::into).collect();
        let whole = (0.0, 1.0);
        scatter(&points, density, frame, Some([axes.ranges[i].unwrap_or(whole), axes.ranges[k].unwrap_or(whole)]))
    };
    match dim {
        1 => {
            let curve = |x: f64| density(&[x]);
            let known: Option<&dyn Fn(f64) -> f64> = if model.truth.is_some() { Some(&curve) } else { None };
            let size = (960 / shrink, 600 / shrink);
            bars(0, known, &Frame { title: &title, x: name(0), y: "density", size })
        }
        2 => {
            let field = |x: f64, y: f64| density(&[x, y]);
            let known: Option<&dyn Fn(f64, f64) -> f64> = if model.truth.is_some() { Some(&field) } else { None };
            points(0, 1, known, &Frame { title: &title, x: name(0), y: name(1), size: (800 / shrink, 800 / shrink) })
        }
        _ if dim <= PAIRED => {
            // Every pair of columns below the diagonal, and each by itself on it.
            let size = (400 / shrink, 400 / shrink);
            let cell = |i: usize| match (i / dim, i % dim) {
                (row, place) if row == place => {
                    bars(row, None, &Frame { title: "", x: name(row), y: "density", size }).map(Some)
                }
                (row, place) if row > place => {
                    points(place, row, None, &Frame { title: "", x: name(place), y: name(row), size }).map(Some)
                }
                _ => Ok(None),
            };
            Ok(Chart::beside(&(0..dim * dim).map(cell).collect::<Result<Vec<_>>>()?, dim, &title))
        }
        _ => {
            let size = (400 / shrink, 300 / shrink);
            let shown = dim.min(CHARTS);
            let cell = |k: usize| bars(k, None, &Frame { title: "", x: name(k), y: "density", size }).map(Some);
            let title = if shown < dim { format!("{title}, {shown} of {dim} columns") } else { title };
            Ok(Chart::beside(&(0..shown).map(cell).collect::<Result<Vec<_>>>()?, 4, &title))
        }
    }
}

/// Series drawn over each other, the first few of them, in a chart for each channel.
fn lines(values: &[f32], (length, channels): (usize, usize), axes: &Axes, name: &str, shrink: u32) -> Result<Chart> {
    let samples = values.len() / (length * channels);
    let drawn = &values[..samples.min(SERIES) * length * channels];
    let title = match samples.min(SERIES) {
        shown if shown < samples => format!("{shown} of {samples} samples of {name}"),
        _ => format!("{samples} samples of {name}"),
    };
    let panel = |k: usize, frame: &Frame| {
        let series = drawn.chunks_exact(length * channels).map(|sample| {
            let points = sample.iter().skip(k).step_by(channels).enumerate();
            let points = points.map(|(step, &value)| (step as f64, f64::from(value))).collect();
            Series { name: String::new(), points, faint: true }
        });
        line_chart(&series.collect::<Vec<_>>(), frame, false, axes.ranges[k])
    };
    if channels == 1 {
        return panel(0, &Frame { title: &title, x: "step", y: "value", size: (960 / shrink, 600 / shrink) });
    }
    let shown = channels.min(CHARTS);
    let title = if shown < channels { format!("{title}, {shown} of {channels} channels") } else { title };
    let size = (640 / shrink, 320 / shrink);
    let cell = |k| panel(k, &Frame { title: "", x: "step", y: &format!("channel {k}"), size }).map(Some);
    let columns = if shown > 4 { 2 } else { 1 };
    Ok(Chart::beside(&(0..shown).map(cell).collect::<Result<Vec<_>>>()?, columns, &title))
}

#[cfg(test)]
mod tests {
    use stein::Device;

    use super::*;

    /// A model of samples of a shape, which are not its own.
    fn model(shape: Shape, classes: usize) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mixture.json");
        std::fs::write(&path, r#"{"weights": [1], "means": [[0, 0]], "stds": [1]}"#).unwrap();
        let mut model = Model::open(format!("exact:{}", path.display()), &Device::flex()).unwrap();
        model.truth = None;
        model.subject.shape = shape;
        model.subject.columns = (0..shape.len()).map(|k| format!("column {k}")).collect();
        model.subject.classes = (0..classes).map(|k| format!("class {k}")).collect();
        model
    }

    fn shapes() -> Vec<Shape> {
        let image = |height, width, channels| Shape::Image { height, width, channels };
        let series = |length, channels| Shape::Series { length, channels };
        let mut shapes = vec![image(1, 1, 1), image(10_000, 1, 1), image(1, 10_000, 1), image(4, 4200, 3)];
        shapes.extend((1..=5).map(|channels| image(6, 5, channels)));
        shapes.extend([series(1, 1), series(50, 1), series(50, 3), series(5, 40)]);
        shapes.extend([1, 2, 3, 4, 5, 40].map(|dim| Shape::Row { dim }));
        shapes
    }

    #[test]
    fn samples_of_every_shape_have_a_picture() {
        for shape in shapes() {
            let model = model(shape, 0);
            for n in [1, 2, 30] {
                let ramp = |i: usize| (i as f32 * 0.37).sin();
                let values: Vec<f32> = (0..n * shape.len()).map(ramp).collect();
                let drawn = picture(&model, &values, None).unwrap();
                let most = if n == 1 { 10_000 } else { 4096 };
                assert!(drawn.width() <= most && drawn.height() <= most, "{shape}: {:?}", drawn.dimensions());
                assert!(drawn.pixels().any(|pixel| pixel.0 != [255; 3]), "{shape}");
            }
        }
    }

    #[test]
    fn no_numbers_make_a_panic() {
        for shape in shapes().into_iter().filter(|shape| shape.len() < 100) {
            let model = model(shape, 0);
            let dim = shape.len();
            picture(&model, &[], None).ok();
            for special in [0.0, f32::NAN, f32::INFINITY, -1e30, f32::MAX, 1e-45] {
                let constant = vec![special; 12 * dim];
                picture(&model, &constant, None).ok();
                let mut mixed: Vec<f32> = (0..12 * dim).map(|i| i as f32).collect();
                mixed[dim / 2] = special;
                picture(&model, &mixed, None).unwrap();
                let frames = pictures(&model, &mixed, None, &[constant, mixed.clone()]).unwrap();
                assert_eq!(frames[0].dimensions(), frames[1].dimensions(), "{shape}");
            }
        }
    }

    #[test]
    fn a_sheet_of_a_thousand_classes_shows_some_from_first_to_last() {
        let model = model(Shape::Image { height: 4, width: 4, channels: 1 }, 1000);
        let labels: Vec<u32> = (0..8000).map(|i| i / 8).collect();
        let values: Vec<f32> = labels.iter().flat_map(|&label| [label as f32 / 1000.0; 16]).collect();
        let sheet = picture(&model, &values, Some(&labels)).unwrap();
        assert!(sheet.width() <= 4096 && sheet.height() <= 4096 && sheet.height() > 100);
        // From top to bottom through the last column, which has no words: the gray of the classes shown.
        let mut grays: Vec<u8> = (0..sheet.height()).map(|y| sheet.get_pixel(sheet.width() - 10, y)[0]).collect();
        grays.dedup();
        grays.retain(|&gray| gray != 255);
        let expected = (0..16).map(|row| ((row * 1000 / 16) as f32 / 1000.0 * 255.0).round() as u8);
        assert_eq!(grays, expected.collect::<Vec<_>>());
    }

    #[test]
    fn other_numbers_of_channels_stand_side_by_side() {
        let model = model(Shape::Image { height: 1, width: 2, channels: 2 }, 0);
        // Pixels (0, 0.2) and (0.4, 0.6): the first channel is 0 and 0.4, the second 0.2 and 0.6.
        let drawn = picture(&model, &[0.0, 0.2, 0.4, 0.6], None).unwrap();
        assert_eq!(drawn.pixels().map(|pixel| pixel[0]).collect::<Vec<_>>(), [0, 102, 51, 153]);
    }

    #[test]
    fn animations_keep_their_axes() {
        for dim in [1, 2, 3, 6] {
            let model = model(Shape::Row { dim }, 0);
            let last: Vec<f32> = (0..500 * dim).map(|i| (i as f32 * 0.7).sin()).collect();
            let wide: Vec<f32> = last.iter().map(|value| 1000.0 * value).collect();
            let frames = pictures(&model, &last, None, &[wide, last.clone()]).unwrap();
            // The labels of the vertical axis, left of it, are the same.
            let margin = |frame: &RgbImage| -> Vec<u8> {
                (0..frame.height() / 2).rev().flat_map(|y| (0..24).map(move |x| frame.get_pixel(x, y)[0])).collect()
            };
            assert_eq!(frames[0].dimensions(), frames[1].dimensions());
            if dim <= 2 {
                let below = |frame: &RgbImage| -> Vec<u8> {
                    let rows = frame.height() - 14..frame.height();
                    rows.flat_map(|y| (0..frame.width()).map(move |x| frame.get_pixel(x, y)[0])).collect()
                };
                assert_eq!(margin(&frames[0]), margin(&frames[1]), "{dim}");
                assert_eq!(below(&frames[0]), below(&frames[1]), "{dim}");
            }
        }
    }
}
