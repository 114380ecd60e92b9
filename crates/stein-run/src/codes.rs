//! Latent codes: where data stand at the noisiest level of the probability-flow ODE, or where a map of the model's own takes them; the data
//! of codes, and what lies between two.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Map, Value, json};
use stein::{Result, denoiser::Converted, ensure, flow::Flow, noise::Mixed, numbers::ensure_within, rows};

use crate::{
    Classes, CodeOptions, DataChoice, Event, Model, Observed, Output, Plan, Summary, Watch,
    arrays::NpyFile,
    code_flow::{CodeFlow, ToCodes},
    draw::{Asking, Kept, class_of},
    model::ModelFlow,
    output::{decode_to_file, record},
    picture::{Frame, auto_scale, grid, scatter, to_gif, to_png},
    replacing::{Recorded, beside, said},
    sheet,
};

/// Codes with what is known of them.
#[derive(Debug, Clone)]
pub struct Codes {
    /// `[n, ...shape]` in row order.
    pub values: Vec<f64>,
    /// The shape of one.
    pub shape: Vec<usize>,
    /// The class of each, where the model is told one.
    pub labels: Option<Vec<u32>>,
    /// How many.
    pub n: usize,
    /// Calls of the model for a sample, the most of any.
    pub evaluations: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// What they are codes of.
    pub data: String,
}

/// The codes of data: the ends of their paths at the noisiest level (Song et al. 2021, section 4.3), or what the model's own map gives.
///
/// # Errors
/// A model without a velocity or such a map, data that it does not know, and a tolerance that cannot be met.
pub fn encode(model: &Model, data: &DataChoice, options: &CodeOptions, watch: &mut dyn Watch) -> Result<Codes> {
    let coder = ToCodes::of(model, options, "stein encode")?;
    let observed = Observed::of(model, data)?;
    encoded(model, &coder, &observed, &(0..observed.count).collect::<Vec<_>>(), watch)
}

/// The codes of some of the data.
fn encoded(
    model: &Model,
    coder: &ToCodes,
    observed: &Observed,
    places: &[usize],
    watch: &mut dyn Watch,
) -> Result<Codes> {
    let started = Instant::now();
    let watch = Mutex::new(watch);
    let watch = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    let going = || watch().going();
    let (mut values, mut evaluations) = (Vec::new(), 0);
    let batch = observed.at_once()?;
    for (k, part) in places.chunks(batch).enumerate() {
        let (x, given) = (observed.plain_states(part)?, observed.given(part));
        let (found, calls) = match coder {
            ToCodes::Flow(flow @ CodeFlow { flow: ModelFlow { velocity, schedule, start, .. }, .. }) => {
                let velocity = Asking { inner: &**velocity, going: &going };
                let velocity = Converted { inner: velocity, device: model.device.clone(), dtype: model.dtype };
                let paths = Flow { velocity: &velocity, schedule: &**schedule, given: &given };
                let x = x.to_device(&rows::exact().device()).cast(rows::exact().dtype());
                let end = paths.encode(x, Some(*start), flow.steps())?;
                (end.x, end.evaluations)
            }
            ToCodes::Map(map) => {
                going()?;
                (map.encode(x, &given)?, 1)
            }
        };
        evaluations = evaluations.max(calls);
        values.extend(rows::host(&found));
        let done = (k * batch + part.len()) as u64;
        watch().event(Event::Measured { done, of: places.len() as u64 });
    }
    Ok(Codes {
        values,
        shape: coder.shape(model)?,
        labels: observed.labels(places),
        n: places.len(),
        evaluations,
        seconds: started.elapsed().as_secs_f64(),
        data: observed.data.name.clone(),
    })
}

/// Writes [`encode`]'s codes as a `.npy` file of float64, `[n, ...state]`, with the numbers of their classes in `FILE.labels.npy`.
///
/// # Errors
/// As [`encode`], and files that may not be replaced or cannot be written.
pub fn encode_to_file(
    path: &Path,
    model: &Model,
    data: &DataChoice,
    options: &CodeOptions,
    watch: &mut dyn Watch,
) -> Result<Codes> {
    ensure!(has_ending(path, "npy"), "codes are written as an array: end {} with .npy", path.display());
    let inputs = model.file.iter().cloned().chain(data.name.as_ref().map(PathBuf::from)).collect();
    let recorded = Recorded::new(&beside(path, ".json"), inputs, options.force)?;
    let file = recorded.start(path)?;
    let labels_path = beside(path, ".labels.npy");
    let labels_file = (!model.subject.classes.is_empty()).then(|| recorded.start(&labels_path)).transpose()?;
    let codes = encode(model, data, options, watch)?;
    let shape: Vec<usize> = std::iter::once(codes.n).chain(codes.shape.iter().copied()).collect();
    let mut array = NpyFile::<f64>::within(file, &shape)?;
    array.write(&codes.values)?;
    array.finish()?;
    let mut written = vec![path];
    if let (Some(file), Some(labels)) = (labels_file, &codes.labels) {
        let mut array = NpyFile::<i64>::within(file, &[codes.n])?;
        array.write(&labels.iter().map(|&label| i64::from(label)).collect::<Vec<_>>())?;
        array.finish()?;
        written.push(&labels_path);
    }
    recorded.write(&written, of_codes(model, &codes))?;
    Ok(codes)
}

fn of_codes(model: &Model, codes: &Codes) -> Map<String, Value> {
    said(&json!({
        "model": model.name,
        "data": codes.data,
        "n": codes.n,
        "evaluations": codes.evaluations,
        "seconds": codes.seconds,
    }))
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// Writes the data of the codes in a `.npy` file as `stein sample` writes samples. Their classes are those in `FILE.labels.npy`, or the one
/// that is named; `temperature` multiplies the codes.
///
/// # Errors
/// A file that holds something else, a class that is not known or missing, and those of drawing.
pub fn decode_to(
    output: &Output,
    model: &Model,
    codes: &Path,
    class: Option<&str>,
    temperature: f64,
    options: &CodeOptions,
    watch: &mut dyn Watch,
) -> Result<Summary> {
    let coder = ToCodes::of(model, options, "stein decode")?;
    ensure_within("--temperature", temperature, 0.0..=1e6)?;
    let (shape, mut values) = stein_data::read_array(codes)?;
    let each = coder.shape(model)?;
    let width: usize = each.iter().product();
    let n = shape.first().copied().unwrap_or(0);
    ensure!(
        n > 0 && values.len() == n * width,
        "{} has the shape {shape:?}, and codes of {} have [n, {}]",
        codes.display(),
        model.name,
        each.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
    );
    ensure!(values.iter().all(|value| value.is_finite()), "{} has numbers that are not finite", codes.display());
    values.iter_mut().for_each(|value| *value *= temperature);
    let labels = classes_for(model, codes, class, n)?;
    let inputs = model.file.iter().cloned().chain([codes.to_owned(), beside(codes, ".labels.npy")]).collect();
    decode_to_file(output, model, |frames| Plan::decoding(model, values, labels, &coder, frames), inputs, watch)
}

/// The class of every code.
fn classes_for(model: &Model, codes: &Path, class: Option<&str>, n: usize) -> Result<Option<Vec<u32>>> {
    let known = &model.subject.classes;
    if known.is_empty() || !model.trained {
        ensure!(class.is_none(), "{} is unconditional, it has no classes: leave out --class", model.name);
        return Ok(None);
    }
    if let Some(name) = class {
        return Ok(Some(vec![class_of(name, model)?; n]));
    }
    let beside = beside(codes, ".labels.npy");
    if beside.is_file() {
        let (_, labels) = stein_data::read_array(&beside)?;
        let fits = labels.len() == n && labels.iter().all(|&label| label >= 0.0 && label < known.len() as f64);
        ensure!(fits, "{} has no class of {} for each of {n} codes: give --class", beside.display(), model.name);
        return Ok(Some(labels.into_iter().map(|label| label as u32).collect()));
    }
    ensure!(
        Kind::Unsupported,
        model.learned.knows_no_class,
        "{} is told the class of a sample, and there is no {}: give --class",
        model.name,
        beside.display()
    );
    Ok(None)
}

/// Between which samples, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Interpolation {
    /// Pairs of samples of the data, counted from 0.
    pub pairs: Vec<(usize, usize)>,
    /// Places from one to the other, both included; at least 2.
    pub steps: usize,
    /// Along the straight line between codes instead of the arc.
    pub linear: bool,
    /// Multiplies the codes.
    pub temperature: f64,
    /// Between samples that are drawn instead of data: see [`Streams`].
    pub streams: Option<Streams>,
}

/// Pairs are numbers of samples as the model's own sampler draws them. What lies between has their noise mixed, cos and sin of an angle, at
/// the start and at every move of the sampler (Song & Ermon 2020, appendix B).
#[derive(Debug, Clone, PartialEq)]
pub struct Streams {
    /// The seed they are drawn with.
    pub seed: u64,
    /// The class, for a model that is told one.
    pub class: Option<String>,
}

impl Interpolation {
    /// The pairs of a text such as `0:1,5:9`.
    ///
    /// # Errors
    /// Any other text.
    pub fn pairs(text: &str) -> Result<Vec<(usize, usize)>> {
        let pair = |pair: &str| {
            let (i, j) = pair.split_once(':')?;
            Some((i.trim().parse().ok()?, j.trim().parse().ok()?))
        };
        let pairs: Option<Vec<_>> = text.split(',').map(pair).collect();
        pairs.ok_or_else(|| {
            let text = stein::names::short(text);
            stein::Error::new(format!(
                "--pairs {text}: give numbers of samples as i:j, several with commas between them"
            ))
        })
    }
}

/// Between two codes at a fraction of the way: along the arc (Shoemake 1985), whose points have the norms of codes, or the line.
fn between(a: &[f64], b: &[f64], fraction: f64, linear: bool) -> Vec<f64> {
    let mix = |on_a: f64, on_b: f64| a.iter().zip(b).map(|(a, b)| on_a * a + on_b * b).collect();
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let cosine = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (norm(a) * norm(b));
    let angle = cosine.clamp(-1.0, 1.0).acos();
    // Codes in nearly one direction, or in opposite ones, have no arc.
    if linear || !angle.is_finite() || angle.sin() < 1e-6 {
        return mix(1.0 - fraction, fraction);
    }
    mix(((1.0 - fraction) * angle).sin() / angle.sin(), (fraction * angle).sin() / angle.sin())
}

/// Draws what lies between samples of the data: a `.png` with a row for each pair, a `.gif` that goes there and back, or a `.npy` of
/// `[pairs, steps, ...data]`. Where the model is told the class, it is that of the nearer end.
///
/// # Errors
/// Samples that are not there, and those of [`encode`] and of drawing.
pub fn interpolate(
    path: &Path,
    model: &Model,
    data: &DataChoice,
    interpolation: &Interpolation,
    options: &CodeOptions,
    watch: &mut dyn Watch,
) -> Result<()> {
    let Interpolation { pairs, steps, temperature, streams, .. } = interpolation;
    ensure_within("--steps", *steps, 2..=1000)?;
    ensure_within("--temperature", *temperature, 0.0..=1e6)?;
    let kinds = ["png", "gif", "npy"];
    let kind = kinds.into_iter().find(|kind| has_ending(path, kind));
    let Some(kind) = kind else {
        let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        return Err(stein::names::unknown("file ending", &ending, &kinds).at(path.display()));
    };
    let inputs = model.file.iter().cloned().chain(data.name.as_ref().map(PathBuf::from)).collect();
    let recorded = Recorded::new(&beside(path, ".json"), inputs, options.force)?;
    let file = recorded.start(path)?;
    let (kept, mut said) = match streams {
        Some(streams) => between_streams(model, interpolation, streams, watch)?,
        None => between_codes(model, data, interpolation, options, watch)?,
    };
    let drawn = Strip { model, values: &kept.values, pairs: pairs.len(), steps: *steps };
    match kind {
        "npy" => {
            let shape: Vec<usize> = [pairs.len(), *steps].into_iter().chain(model.subject.shape.dims()).collect();
            let mut array = NpyFile::within(file, &shape)?;
            array.write(drawn.values)?;
            array.finish()?;
        }
        "gif" => file.commit_with(&to_gif(&drawn.frames()?, 80, 600)?)?,
        _ => file.commit_with(&to_png(&drawn.picture()?)?)?,
    }
    said.insert("pairs".to_owned(), json!(pairs));
    said.insert("steps".to_owned(), json!(steps));
    recorded.write(&[path], said)
}

/// What lies between the codes of samples of the data, `[pairs, steps, dim]`, and how it was found.
fn between_codes(
    model: &Model,
    data: &DataChoice,
    interpolation: &Interpolation,
    options: &CodeOptions,
    watch: &mut dyn Watch,
) -> Result<(Kept, Map<String, Value>)> {
    let Interpolation { pairs, steps, linear, temperature, .. } = interpolation;
    let coder = ToCodes::of(model, options, "stein interpolate")?;
    let observed = Observed::of(model, data)?;
    let largest = pairs.iter().map(|&(i, j)| i.max(j)).max().unwrap_or(0);
    ensure!(
        largest < observed.count,
        "there is no sample {largest} among {} of {}: they are counted from 0",
        observed.count,
        observed.data.name
    );
    let ends: Vec<usize> = pairs.iter().flat_map(|&(i, j)| [i, j]).collect();
    let codes = encoded(model, &coder, &observed, &ends, watch)?;
    let width = codes.values.len() / codes.n;
    // Arcs are for codes that are normal.
    let straight = *linear || model.source.is_some();
    let code = |k: usize| &codes.values[k * width..(k + 1) * width];
    let (mut values, mut labels) = (Vec::new(), codes.labels.as_ref().map(|_| Vec::new()));
    for pair in 0..pairs.len() {
        for step in 0..*steps {
            let fraction = step as f64 / (steps - 1) as f64;
            let here = between(code(2 * pair), code(2 * pair + 1), fraction, straight);
            values.extend(here.into_iter().map(|value| temperature * value));
            if let (Some(labels), Some(ends)) = (&mut labels, &codes.labels) {
                labels.push(ends[2 * pair + usize::from(fraction > 0.5)]);
            }
        }
    }
    let mut kept = Kept::default();
    let summary = Plan::decoding(model, values, labels, &coder, false)?.draw(&mut kept, watch)?;
    let mut said = of_codes(model, &codes);
    said.insert("path".to_owned(), json!(if straight { "linear" } else { "spherical" }));
    said.insert("temperature".to_owned(), json!(temperature));
    said.insert("evaluations_back".to_owned(), json!(summary.evaluations));
    Ok((kept, said))
}

/// What lies between samples of the model's own sampler.
fn between_streams(
    model: &Model,
    interpolation: &Interpolation,
    streams: &Streams,
    watch: &mut dyn Watch,
) -> Result<(Kept, Map<String, Value>)> {
    let Interpolation { pairs, steps, linear, temperature, .. } = interpolation;
    ensure!(
        !linear && *temperature == 1.0,
        "noise is mixed by an angle and is that of the sampler: leave out --linear and --temperature, or --streams"
    );
    ensure!(
        Kind::Unsupported,
        model.source.is_none(),
        "{} begins from other data, and there is no noise to mix: leave out --streams",
        model.name
    );
    let place = |&(i, j): &(usize, usize)| {
        let at = |step: usize| std::f64::consts::FRAC_PI_2 * step as f64 / (steps - 1) as f64;
        (0..*steps).map(move |step| Mixed { samples: [i as u64, j as u64], angle: at(step) })
    };
    let mixed: Vec<Mixed> = pairs.iter().flat_map(place).collect();
    let conditional = model.trained && !model.subject.classes.is_empty();
    let classes = match &streams.class {
        Some(class) => Classes::Named(class.clone()),
        None if conditional && model.learned.knows_no_class => Classes::None,
        None => {
            ensure!(!conditional, "{} is told the class of a sample: give --class", model.name);
            Classes::Default
        }
    };
    let mut kept = Kept::default();
    let summary = Plan::mixing(model, mixed, streams.seed, &classes, &model.sample)?.draw(&mut kept, watch)?;
    let mut said = record(model, &summary);
    said.insert("path".to_owned(), json!("streams"));
    Ok((kept, said))
}

/// Interpolations, `[pairs, steps, dim]`.
struct Strip<'a> {
    model: &'a Model,
    values: &'a [f32],
    pairs: usize,
    steps: usize,
}

impl Strip<'_> {
    /// A row for each pair of images; of anything else the usual picture of all.
    fn picture(&self) -> Result<image::RgbImage> {
        match self.model.subject.image() {
            Some((height, width, channels)) if matches!(channels, 1 | 3) => {
                let scale = auto_scale(width, self.steps);
                grid(self.values, (height, width, channels), self.steps, scale, None, "")
            }
            _ => sheet::picture(self.model, self.values, None),
        }
    }

    /// All pairs at each place, there and back.
    fn frames(&self) -> Result<Vec<image::RgbImage>> {
        let dim = self.model.subject.dim();
        let at = |step: usize| -> Vec<f32> {
            let places = (0..self.pairs).map(|pair| (pair * self.steps + step) * dim);
            places.flat_map(|from| &self.values[from..from + dim]).copied().collect()
        };
        let there = 0..self.steps;
        let back = (1..self.steps - 1).rev();
        let frames: Vec<Vec<f32>> = there.chain(back).map(at).collect();
        sheet::pictures(self.model, self.values, None, &frames)
    }
}

/// How alike the codes are that two models give the same data.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Comparison {
    /// Samples.
    pub n: usize,
    /// The mean over samples of the correlation of a sample's two codes.
    pub correlation: f64,
    /// Its standard deviation over samples.
    pub spread: f64,
    /// The same of one model's code of a sample and the other's of the next one.
    pub others: f64,
}

/// Compares the codes that two models give the same data: the uniquely identifiable encoding of Song et al. 2021, section D.5. Two
/// networks that were trained apart on the same data agree as far as both know the score. The picture shows the numbers of one's codes
/// over those of the other's.
///
/// # Errors
/// Models of different states, and those of [`encode`].
pub fn compare(
    models: [&Model; 2],
    data: &DataChoice,
    options: &CodeOptions,
    output: Option<&Path>,
    watch: &mut dyn Watch,
) -> Result<Comparison> {
    let [a, b] = models;
    let (shape, other) = (a.subject.state_shape()?, b.subject.state_shape()?);
    ensure!(
        shape == other,
        "{} has states of shape {shape:?} and {} of {other:?}: their codes cannot be compared",
        a.name,
        b.name
    );
    // Each learned what its own data say, so the data are those of the first for both.
    let choice = DataChoice { n: Some(data.n.unwrap_or(64)), ..data.clone() };
    let file = output
        .map(|path| {
            ensure!(has_ending(path, "png"), "{} is no name of a picture: end it with .png", path.display());
            let inputs = models.iter().filter_map(|model| model.file.clone()).collect();
            let recorded = Recorded::new(&beside(path, ".json"), inputs, options.force)?;
            let file = recorded.start(path)?;
            Ok((path, recorded, file))
        })
        .transpose()?;
    let mut codes = Vec::new();
    for model in models {
        let coder = ToCodes::of(model, options, "stein compare")?;
        let observed = Observed::with(model, a, &choice)?;
        let found = encoded(model, &coder, &observed, &(0..observed.count).collect::<Vec<_>>(), watch)?;
        codes.push((found.values.iter().map(|value| value / coder.std()).collect::<Vec<f64>>(), found.n));
    }
    let (n, width) = (codes[0].1, codes[0].0.len() / codes[0].1);
    ensure!(
        n >= 2 && width >= 2,
        "codes of {n} samples of {width} numbers have no correlation: give at least two of two"
    );
    let row = |which: usize, i: usize| &codes[which].0[i * width..(i + 1) * width];
    let own: Vec<f64> = (0..n).map(|i| correlation(row(0, i), row(1, i))).collect();
    let mean = own.iter().sum::<f64>() / n as f64;
    let squares: f64 = own.iter().map(|value| (value - mean).powi(2)).sum();
    let comparison = Comparison {
        n,
        correlation: mean,
        spread: (squares / n as f64).sqrt(),
        others: (0..n).map(|i| correlation(row(0, i), row(1, (i + 1) % n))).sum::<f64>() / n as f64,
    };
    if let Some((path, recorded, file)) = file {
        const SHOWN: usize = 4000;
        let every = codes[0].0.len().div_ceil(SHOWN);
        let points: Vec<[f64; 2]> = codes[0].0.iter().zip(&codes[1].0).step_by(every).map(|(&a, &b)| [a, b]).collect();
        let title = format!("codes of {n} samples, correlation {mean:.3}");
        let frame = Frame { title: &title, x: &a.name, y: &b.name, size: (800, 800) };
        file.commit_with(&to_png(&scatter(&points, None, &frame, None)?.picture()?)?)?;
        recorded.write(&[path], said(&comparison))?;
    }
    Ok(comparison)
}

/// Pearson's correlation.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - mean_a, b - mean_b)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arc_keeps_norms_and_ends() {
        let (a, b) = ([3.0, 0.0], [0.0, 3.0]);
        let close = |found: Vec<f64>, wanted: [f64; 2]| {
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} for {wanted:?}");
        };
        close(between(&a, &b, 0.0, false), a);
        close(between(&a, &b, 1.0, false), b);
        close(between(&a, &b, 0.5, false), [4.5f64.sqrt(); 2]);
        close(between(&a, &b, 0.5, true), [1.5; 2]);
        close(between(&a, &a, 0.3, false), a);
        close(between(&a, &[-3.0, 0.0], 0.5, false), [0.0, 0.0]);
    }

    #[test]
    fn pairs_are_read() {
        assert_eq!(Interpolation::pairs("0:1, 5:9").unwrap(), [(0, 1), (5, 9)]);
        for wrong in ["", "1", "1:", "1:2:3", "a:b", "1;2"] {
            assert!(Interpolation::pairs(wrong).unwrap_err().to_string().contains("i:j"), "{wrong}");
        }
    }

    #[test]
    fn correlations_are_pearsons() {
        assert!((correlation(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]) - 1.0).abs() < 1e-12);
        assert!((correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        assert!(correlation(&[1.0, -1.0, 1.0, -1.0], &[1.0, 1.0, -1.0, -1.0]).abs() < 1e-12);
    }
}
