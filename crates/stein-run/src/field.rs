//! Pictures of the score itself: arrows over the density for models of the plane, a curve for those of the line, learned beside exact
//! where it is known, at one level or on the way from noise to data.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;
use serde_json::json;
use stein::{
    AnySchedule, Condition, Denoiser, Kernel, Keys, Result, denoiser, ensure,
    exact::{Empirical, Exact, GaussianMixture},
    rows,
};
use stein_data::Split;

use crate::{
    DataChoice, Model, Observed,
    draw::class_of,
    picture::{Chart, Frame, Series, arrows, line_chart, to_gif, to_png},
    replacing::{Recorded, beside, said},
};

/// Which field.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FieldOptions {
    /// The noise σ/α of the level; default a third of the data's standard deviation. An animation goes through many.
    pub level: Option<f64>,
    /// The class, for a conditional model.
    pub class: Option<String>,
    /// Directory with data sets.
    pub folder: Option<PathBuf>,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

/// What a picture of a field shows in numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FieldReport {
    /// σ/α of the level, the last one of an animation.
    pub level: f64,
    /// E‖s − ∇ log p‖²/E‖∇ log p‖² at that level, where the score is known and learned.
    pub relative_divergence: Option<f64>,
}

/// Arrows to a side, places along a line, points of data that stand for their density, levels of an animation.
const ARROWS: usize = 21;
const PLACES: usize = 400;
const POINTS: usize = 1000;
const LEVELS: usize = 40;

/// Points that a relative divergence is measured at.
const MEASURED: usize = 4000;

/// A model whose states are points of the line or the plane.
struct Field<'a> {
    model: &'a Model,
    denoiser: Arc<dyn Denoiser>,
    schedule: AnySchedule,
    class: Option<u32>,
    /// The law of the states, where it is known.
    truth: Option<GaussianMixture>,
    /// Points that stand for it where it is not.
    points: Option<Empirical>,
    dim: usize,
    bounds: Vec<(f64, f64)>,
}

/// Draws the score of a model with states of one or two numbers: a `.png` or `.svg` at one level, or a `.gif` from noise to data.
///
/// # Errors
/// A model of more numbers or without a score, a level it does not know, and a file that may not be replaced or cannot be written.
pub fn draw_field(path: &Path, model: &Model, options: &FieldOptions) -> Result<FieldReport> {
    let field = Field::of(model, options)?;
    let kinds = ["png", "svg", "gif"];
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !kinds.contains(&ending.as_str()) {
        return Err(stein::names::unknown("file ending", &ending, &kinds).at(path.display()));
    }
    let recorded = Recorded::new(&beside(path, ".json"), model.file.iter().cloned().collect(), options.force)?;
    let file = recorded.start(path)?;
    let (bytes, last) = if ending == "gif" {
        ensure!(options.level.is_none(), "a .gif goes through all levels: leave out --level, or write a .png file");
        let levels = field.way();
        let frames = levels.par_iter().map(|at| field.chart(at, 2)?.picture()).collect::<Result<Vec<_>>>()?;
        (to_gif(&frames, 80, 1500)?, levels[levels.len() - 1])
    } else {
        let at = field.level(options.level)?;
        let chart = field.chart(&at, 1)?;
        (if ending == "svg" { chart.svg().into() } else { to_png(&chart.picture()?)? }, at)
    };
    let report = FieldReport { level: last.noise_to_signal(), relative_divergence: field.relative_divergence(&last)? };
    file.commit_with(&bytes)?;
    let told = json!({
        "model": model.name,
        "noise": report.level,
        "relative_fisher_divergence": report.relative_divergence,
    });
    recorded.write(&[path], said(&told))?;
    Ok(report)
}

impl<'a> Field<'a> {
    fn of(model: &'a Model, options: &FieldOptions) -> Result<Self> {
        let (denoiser, schedule) = model.score(None, "stein show --field")?;
        let state = model.subject.state_shape()?;
        let dim: usize = state.iter().product();
        ensure!(
            Kind::Unsupported,
            dim <= 2 && state.len() == 1,
            "a field is drawn of one or two numbers, and the states of {} have the shape {state:?}",
            model.name
        );
        let known = &model.subject.classes;
        let class = options.class.as_deref().map(|name| class_of(name, model)).transpose()?;
        let conditional = model.trained && !known.is_empty();
        ensure!(
            class.is_some() || !conditional || model.learned.knows_no_class,
            "{} is told the class of a sample: give --class, one of {}",
            model.name,
            stein::names::first_of(known)
        );
        let truth = model.truth.as_ref().and_then(|law| model.subject.law_of_states(law));
        let points = if truth.is_none() { points(model, class, options) } else { None };
        let bounds = bounds(model, truth.as_ref(), points.as_ref(), dim);
        Ok(Self { model, denoiser, schedule, class, truth, points, dim, bounds })
    }

    fn level(&self, noise: Option<f64>) -> Result<Kernel> {
        let (first, last) = self.schedule.span();
        let (least, most) =
            (self.schedule.kernel(first).noise_to_signal(), self.schedule.kernel(last).noise_to_signal());
        let noise = noise.unwrap_or((self.model.subject.variance.sqrt() / 3.0).clamp(least, most));
        ensure!(
            noise > 0.0 && noise >= least * (1.0 - 1e-9) && noise <= most * (1.0 + 1e-9),
            "--level {noise} is not among those {} knows, from {least:.4} to {most:.4} (sigma/alpha)",
            self.model.name
        );
        Ok(self.at(noise))
    }

    fn at(&self, noise: f64) -> Kernel {
        let (first, last) = self.schedule.span();
        self.schedule.kernel(self.schedule.time_at(-2.0 * noise.ln()).clamp(first, last))
    }

    /// Levels from much more noise than data to much less, those the model knows.
    fn way(&self) -> Vec<Kernel> {
        let (first, last) = self.schedule.span();
        let std = self.model.subject.variance.sqrt().max(1e-6);
        let most = self.schedule.kernel(last).noise_to_signal().min(4.0 * std);
        let least = self.schedule.kernel(first).noise_to_signal().max(0.02 * std);
        let place = |k: usize| most * (least / most).powf(k as f64 / (LEVELS - 1) as f64);
        (0..LEVELS).map(|k| self.at(place(k))).collect()
    }

    fn given(&self, count: usize) -> Condition {
        self.class.map_or_else(Condition::none, |class| Condition::classes(vec![class; count]))
    }

    /// The score of x/α at places in row order, in its units: a field whose arrows can be compared between schedules.
    fn score(&self, of: &dyn Denoiser, places: &[f64], at: &Kernel) -> Result<Vec<f64>> {
        let level = at.of_scaled();
        let x = rows::matrix(places.to_vec(), self.dim, &rows::exact());
        let x = x.to_device(&self.model.device).cast(self.model.dtype);
        let denoised = denoiser::denoise(of, x.clone(), (&level).into(), &self.given(places.len() / self.dim))?;
        Ok(rows::host(&denoiser::score(x.into(), denoised.into(), (&level).into()).value))
    }

    fn density(&self, at: &Kernel) -> Option<(&dyn Exact, Kernel)> {
        let level = at.of_scaled();
        let points = || self.points.as_ref().map(|points| points as &dyn Exact);
        let truth = self.truth.as_ref().map(|truth| truth as &dyn Exact);
        truth.or_else(points).map(|exact| (exact, level))
    }

    /// A lattice of places.
    fn lattice(&self) -> Vec<f64> {
        let place = |(low, high): (f64, f64), k: usize, of: usize| low + (high - low) * (k as f64 + 0.5) / of as f64;
        match self.bounds[..] {
            [x] => (0..PLACES).map(|k| place(x, k, PLACES)).collect(),
            [x, y] => {
                let row = |j: usize| (0..ARROWS).flat_map(move |i| [place(x, i, ARROWS), place(y, j, ARROWS)]);
                (0..ARROWS).flat_map(row).collect()
            }
            _ => unreachable!("states of more than two numbers were refused"),
        }
    }

    /// What makes the longer arrows about as long as they are apart.
    fn scale(&self, at: &Kernel) -> Result<f64> {
        if self.dim == 1 {
            return Ok(1.0);
        }
        let score = self.score(
            self.truth.as_ref().map_or(&*self.denoiser, |truth| truth as &dyn Denoiser),
            &self.lattice(),
            at,
        )?;
        let mut lengths: Vec<f64> = score.chunks_exact(2).map(|s| s[0].hypot(s[1])).collect();
        lengths.sort_by(f64::total_cmp);
        let long = lengths[lengths.len() * 9 / 10].max(f64::MIN_POSITIVE);
        Ok((self.bounds[0].1 - self.bounds[0].0) / ARROWS as f64 / long)
    }

    /// The learned field and, beside it, the exact one; an exact model has one only.
    fn chart(&self, at: &Kernel, shrink: u32) -> Result<Chart> {
        let noise = at.noise_to_signal();
        let name = format!("{} at noise {noise:.3}", self.model.subject.name);
        let truth = self.truth.as_ref().filter(|_| self.model.trained);
        if self.dim == 1 {
            return self.curves(at, truth, &name, shrink);
        }
        let (lattice, scale) = (self.lattice(), self.scale(at)?);
        let density = self.density(at);
        let height = |x: f64, y: f64| density.map_or(0.0, |(exact, level)| exact.log_density(&[x, y], &level)[0].exp());
        let height: Option<&dyn Fn(f64, f64) -> f64> = if density.is_some() { Some(&height) } else { None };
        let draw = |of: &dyn Denoiser, title: &str| {
            let score = self.score(of, &lattice, at)?;
            let pair = |(a, b): (&[f64], &[f64])| ([a[0], a[1]], [b[0], b[1]]);
            let field: Vec<_> = lattice.chunks_exact(2).zip(score.chunks_exact(2)).map(pair).collect();
            let column = |k: usize| self.model.subject.columns.get(k).map(String::as_str).unwrap_or_default();
            let size = (800 / shrink, 800 / shrink);
            let frame = Frame { title, x: column(0), y: column(1), size };
            arrows(&field, scale, height, &frame, [self.bounds[0], self.bounds[1]])
        };
        let Some(truth) = truth else { return draw(&*self.denoiser, &format!("score of {name}")) };
        let pair = [Some(draw(&*self.denoiser, "learned")?), Some(draw(truth, "exact")?)];
        Ok(Chart::beside(&pair, 2, &format!("score of {name}")))
    }

    fn curves(&self, at: &Kernel, truth: Option<&GaussianMixture>, name: &str, shrink: u32) -> Result<Chart> {
        let places = self.lattice();
        let curve = |name: &str, faint: bool, values: Vec<f64>| Series {
            name: name.to_owned(),
            points: places.iter().copied().zip(values).collect(),
            faint,
        };
        let learned = self.score(&*self.denoiser, &places, at)?;
        let most = learned.iter().fold(0.0, |most: f64, s| most.max(s.abs()));
        let mut series = Vec::new();
        if let Some((exact, level)) = self.density(at) {
            // The density in the score's units, so that both are seen.
            let density: Vec<f64> = exact.log_density(&places, &level).into_iter().map(f64::exp).collect();
            let top = density.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            series.push(curve("density", true, density.into_iter().map(|value| value / top * most).collect()));
        }
        series.push(curve(if self.model.trained { "learned score" } else { "score" }, false, learned));
        if let Some(truth) = truth {
            series.push(curve("exact score", false, self.score(truth, &places, at)?));
        }
        let title = format!("score of {name}");
        let x = self.model.subject.columns.first().map(String::as_str).unwrap_or_default();
        line_chart(&series, &Frame { title: &title, x, y: "score", size: (960 / shrink, 600 / shrink) }, false, None)
    }

    fn relative_divergence(&self, at: &Kernel) -> Result<Option<f64>> {
        let Some(truth) = self.truth.as_ref().filter(|_| self.model.trained) else { return Ok(None) };
        let level = at.of_scaled();
        let x = truth.draw(&Keys::range(0, 0, MEASURED), &level);
        let (learned, exact) = (self.score(&*self.denoiser, &x, at)?, self.score(truth, &x, at)?);
        let apart: f64 = learned.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
        Ok(Some(apart / exact.iter().map(|b| b * b).sum::<f64>()))
    }
}

/// States of some of the model's data, where they can be had.
fn points(model: &Model, class: Option<u32>, options: &FieldOptions) -> Option<Empirical> {
    let choice = DataChoice { split: Some(Split::Train), folder: options.folder.clone(), ..DataChoice::default() };
    let observed = Observed::of(model, &choice).ok()?;
    let places = observed.data.spaced(observed.count);
    let labels = observed.labels(&places);
    let of_class = |k: &usize| class.is_none() || labels.as_ref().is_some_and(|labels| Some(labels[*k]) == class);
    let places: Vec<usize> = (0..places.len()).filter(of_class).map(|k| places[k]).collect();
    let every = places.len().div_ceil(POINTS).max(1);
    let places: Vec<usize> = places.into_iter().step_by(every).collect();
    let states = observed.plain_states(&places).ok()?;
    let dim = states.dims()[1];
    Empirical::new(rows::host(&states), dim).ok()
}

/// What the picture shows: the bulk of the data and some room.
fn bounds(model: &Model, truth: Option<&GaussianMixture>, points: Option<&Empirical>, dim: usize) -> Vec<(f64, f64)> {
    let around = |exact: &dyn Exact| -> Vec<(f64, f64)> {
        let x = exact.draw_clean(&Keys::range(0, 0, POINTS));
        let column = |k: usize| x.iter().skip(k).step_by(dim).copied();
        let range = |k| column(k).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        (0..dim).map(range).collect()
    };
    let std = model.subject.variance.sqrt().max(1e-6);
    let found = truth.map(|truth| around(truth)).or_else(|| points.map(|points| around(points)));
    let found = found.unwrap_or_else(|| vec![(-3.0 * std, 3.0 * std); dim]);
    found.into_iter().map(|(low, high)| (low - 0.4 * std, high + 0.4 * std)).collect()
}
