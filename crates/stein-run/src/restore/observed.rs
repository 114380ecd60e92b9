//! What was measured, as the states of a model see it: files read, sizes compared, units brought together, before any work.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use stein::{
    Error, Keys, Kind, Result,
    codec::Codec,
    ensure,
    inverse::{InState, Noise, Operator, Problem, measurement::Files},
    rows,
};
use stein_data::{DataSet, Images, Shape, Split, read_array};

use super::{MeasurementConfig, Range, RestoreOptions};
use crate::{DataChoice, Model, Observed, Subject, draw::class_of};

/// Files beside a task, or at a path that is whole.
pub(super) struct Beside<'a>(pub(super) &'a Path);

impl Beside<'_> {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

impl Files for Beside<'_> {
    fn array(&self, path: &str) -> Result<(Vec<f64>, Vec<usize>)> {
        let (shape, values) = read_array(&self.path(path))?;
        Ok((values, shape))
    }

    fn picture(&self, path: &str) -> Result<(Vec<f64>, [usize; 2])> {
        gray_picture(&self.path(path))
    }
}

/// A gray picture `[height, width]` in \[0, 1\], with height and width.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn gray_picture(path: &Path) -> Result<(Vec<f64>, [usize; 2])> {
    let images = Images { path: path.into(), channels: Some(1), test_fraction: 0.0, ..Images::default() };
    let data = images.load(Split::Train, None)?;
    let Shape::Image { height, width, .. } = data.shape else { unreachable!("a picture is an image") };
    let mut values = vec![0.0; height * width];
    data.row(0, &mut values)?;
    Ok((values.into_iter().map(f64::from).collect(), [height, width]))
}

/// Measurements of samples, and, where it is known, what they were measured of.
pub(super) struct Measurements {
    /// The operator of states, for what is one of data is moved along.
    pub(super) operator: Arc<InState>,
    pub(super) noise: Noise,
    /// `[inputs, m]`, as they were measured.
    pub(super) y: Vec<f64>,
    /// The shape of one.
    pub(super) shape: Vec<usize>,
    /// How many.
    pub(super) count: usize,
    /// `[inputs, dim]`, in the data's own units.
    pub(super) truth: Option<Vec<f32>>,
    /// The class of each, where the model is told one.
    pub(super) classes: Option<Vec<u32>>,
    /// x ↦ a x + b from the data's own range to that of the measurement.
    units: (f64, f64),
}

impl Measurements {
    /// Reads what was measured, or measures what is given.
    pub(super) fn of(model: &Model, config: &MeasurementConfig, options: &RestoreOptions) -> Result<Self> {
        let subject = &model.subject;
        config.noise.check()?;
        let units = units(config.range, subject)?;
        let files = Beside(options.task_folder.as_deref().unwrap_or(Path::new("")));
        let dims = subject.shape.dims();
        let measurement = &config.operator;
        let of_data = measurement.operator(&dims, &files)?;
        let shape = measurement.shape(&dims, &files)?;
        let operator = of_states(subject, Arc::clone(&of_data), units)?;
        let clean = |values: &[f32]| -> Vec<f64> {
            let measured = |row: &[f32]| {
                let row: Vec<f64> = row.iter().map(|x| units.0 * f64::from(*x) + units.1).collect();
                of_data.apply(&row)
            };
            values.chunks(subject.dim()).flat_map(measured).collect()
        };
        let m = of_data.outputs();
        let mut truth = options.truth.as_ref().map(|name| samples(model, name, options, None)).transpose()?;
        let mut classes = truth.as_mut().and_then(|(_, classes)| classes.take());
        let mut truth = truth.map(|(values, _)| values);
        let y = if options.simulate {
            ensure!(truth.is_none(), "with --simulate the input is the truth: leave out --truth");
            let values;
            (values, classes) = samples(model, &options.input, options, options.inputs)?;
            let keys = Keys::range(options.seed, 0, values.len() / subject.dim());
            let y = config.noise.add(&clean(&values), &keys)?;
            truth = Some(values);
            y
        } else {
            match measured(&options.input, &shape, m)? {
                Some(y) => y,
                // A damaged sample holds what was measured of it.
                None if measurement.reads_samples() => {
                    let values;
                    (values, classes) = samples(model, &options.input, options, options.inputs)?;
                    clean(&values)
                }
                None => {
                    return Err(Error::of(
                        Kind::Mismatch,
                        format!(
                            "{} is no array, and a measurement here has the shape {shape:?}: give a .npy file of it, or what is to \
                             be measured with --simulate",
                            options.input
                        ),
                    ));
                }
            }
        };
        ensure!(y.iter().all(|y| y.is_finite()), "{} has values that are not finite numbers", options.input);
        let count = y.len() / m;
        if measurement.keeps_range() && subject.levels.is_some() {
            check_range(&y, config, &options.input)?;
        }
        if let Some(truth) = &truth {
            let truths = truth.len() / subject.dim();
            ensure!(
                truths == count,
                "there are {count} measurements in {} and {truths} samples of the truth: give one for each",
                options.input
            );
        }
        if classes.is_none() && !subject.classes.is_empty() && model.trained {
            classes = match &options.class {
                Some(name) => Some(vec![class_of(name, model)?; count]),
                None => {
                    ensure!(
                        Kind::Unsupported,
                        model.learned.knows_no_class,
                        "{} is told the class of a sample, and the measurement has none: give --class",
                        model.name
                    );
                    None
                }
            };
        }
        Ok(Self { operator, noise: config.noise, y, shape, count, truth, classes, units })
    }

    /// The problem of some rows: the numbers of the measurements they belong to.
    pub(super) fn problem(&self, of: impl Iterator<Item = usize>) -> Result<Problem> {
        let m = self.y.len() / self.count;
        let y = of.flat_map(|i| self.operator.measurement(&self.y[i * m..(i + 1) * m])).collect();
        Problem::new(Arc::clone(&self.operator) as Arc<_>, self.noise, y)
    }

    /// What was measured of an input, in the range of the data, to be looked at, with height and width: as it is where it is a picture of
    /// the channels that samples have, or else A⁺y, where there is one; `None` where neither is a picture.
    pub(super) fn visible(&self, input: usize, subject: &Subject) -> Option<(Vec<f32>, [usize; 2])> {
        let (height, width, channels) = subject.image()?;
        let m = self.y.len() / self.count;
        let values = &self.y[input * m..(input + 1) * m];
        if let Some([own_height, own_width]) = self.picture(channels) {
            let unit = |y: &f64| ((y - self.units.1) / self.units.0) as f32;
            return Some((values.iter().map(unit).collect(), [own_height, own_width]));
        }
        let spectrum = self.operator.linear()?.spectrum().ok()?;
        let state = spectrum.back(&self.operator.measurement(values), &|s| 1.0 / s);
        let data = self.operator.whole(&state);
        Some((data.into_iter().map(|x| ((x - self.units.1) / self.units.0) as f32).collect(), [height, width]))
    }

    /// Height and width of a measurement that is a picture of these channels.
    fn picture(&self, channels: usize) -> Option<[usize; 2]> {
        match self.shape[..] {
            [height, width, own] if own == channels && self.y.len() == self.count * height * width * own => {
                Some([height, width])
            }
            _ => None,
        }
    }

    /// What [`visible`](Self::visible) shows, in words.
    pub(super) fn shows(&self, subject: &Subject) -> &'static str {
        match subject.image().and_then(|(.., channels)| self.picture(channels)) {
            Some(_) => "what was measured",
            None => "the pseudo-inverse of what was measured",
        }
    }
}

/// The operator of a measurement, of states.
///
/// # Errors
/// Data the measurement does not fit, and codecs that are no factor and shift.
pub(crate) fn in_state(subject: &Subject, config: &MeasurementConfig, files: &dyn Files) -> Result<Arc<InState>> {
    config.noise.check()?;
    let operator = config.operator.operator(&subject.shape.dims(), files)?;
    of_states(subject, operator, units(config.range, subject)?)
}

fn of_states(subject: &Subject, of_data: Arc<dyn Operator>, units: (f64, f64)) -> Result<Arc<InState>> {
    let (scale, shift) = affine(subject)?;
    let scale = scale.into_iter().map(|a| units.0 * a).collect();
    let shift = shift.into_iter().map(|b| units.0 * b + units.1).collect();
    Ok(Arc::new(InState::new(of_data, scale, shift)?))
}

/// x ↦ a x + b from the data's own range to the one that is spoken of.
fn units(range: Range, subject: &Subject) -> Result<(f64, f64)> {
    match range {
        Range::Unit => Ok((1.0, 0.0)),
        Range::Symmetric => {
            ensure!(
                subject.levels.is_some(),
                "measurement.range = \"symmetric\" is for pictures, and {} are none: leave it out",
                subject.name
            );
            Ok((2.0, -1.0))
        }
    }
}

/// Fails if numbers that are of pictures in one range are plainly of another.
fn check_range(y: &[f64], config: &MeasurementConfig, input: &str) -> Result<()> {
    let (low, high) = match config.range {
        Range::Unit => (0.0, 1.0),
        Range::Symmetric => (-1.0, 1.0),
    };
    // Six standard deviations of the noise beyond, or a tenth of the range.
    let room = match config.noise {
        Noise::Gaussian { std } => 6.0 * std + 0.1 * (high - low),
        Noise::Poisson { rate } => 6.0 / rate.sqrt() + 0.1 * (high - low),
    };
    let (least, most) = y.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), y| (a.min(*y), b.max(*y)));
    ensure!(
        least >= low - room && most <= high + room,
        "{input} has values from {least:.3} to {most:.3}, and measurement.range says pictures from {low} to {high}: set range to \
         \"{}\", and the noise to the same units",
        if low == 0.0 { "symmetric" } else { "unit" }
    );
    ensure!(
        config.range == Range::Unit || least < -0.02 || most - least < 0.5,
        "{input} has values from {least:.3} to {most:.3}, which is no picture from -1 to 1: set measurement.range to \"unit\", and \
         halve the noise"
    );
    Ok(())
}

/// Data are `scale` z + `shift` of states z, number by number.
fn affine(subject: &Subject) -> Result<(Vec<f64>, Vec<f64>)> {
    if let Some(codec) = subject.curved() {
        return Err(Error::of(
            Kind::Unsupported,
            format!(
                "{} were encoded by `{}`, which is no factor and shift: a measurement of such data is not known",
                subject.name,
                codec.kind()
            ),
        ));
    }
    let dim = subject.dim();
    let ends = rows::matrix([vec![0.0; dim], vec![1.0; dim]].concat(), dim, &rows::exact());
    let ends = rows::host(&subject.codec.decode(ends)?);
    let (shift, top) = ends.split_at(dim);
    Ok((top.iter().zip(shift).map(|(one, zero)| one - zero).collect(), shift.to_vec()))
}

/// Whole samples of a data set, a file, or a folder, in the data's own units, and their classes as the model numbers them.
fn samples(
    model: &Model,
    name: &str,
    options: &RestoreOptions,
    most: Option<usize>,
) -> Result<(Vec<f32>, Option<Vec<u32>>)> {
    let choice = DataChoice {
        name: Some(name.to_owned()),
        settings: options.reading.clone(),
        split: options.split,
        folder: options.folder.clone(),
        n: most,
        class: options.class.clone(),
    };
    let observed = Observed::of(model, &choice)?;
    let places: Vec<usize> = (0..observed.count).collect();
    Ok((observed.values(&places)?, observed.labels(&places)))
}

/// The numbers of an array of one measurement or of several; `None` for what is no array of that.
fn measured(input: &str, shape: &[usize], m: usize) -> Result<Option<Vec<f64>>> {
    let path = Path::new(input);
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npy")) {
        return Ok(None);
    }
    let (found, values) = read_array(path)?;
    let one: &[usize] = if found.len() > shape.len() { &found[1..] } else { &found };
    let fits = one == shape || one == [m] || found == [m];
    Ok(fits.then_some(values).filter(|values| values.len().is_multiple_of(m)))
}
