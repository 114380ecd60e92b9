//! Pictures of the paths that samples follow, from noise or another data set to the data, beside the straight lines between their ends; and
//! how straight they are.
//!
//! On every schedule paths are seen as x/(α + σ) over τ = σ/(α + σ), which are those of straight lines where the schedule is of
//! straight lines, and the same paths where it is another. Of x_τ at its ends x_0 and x_1 two numbers are told:
//!
//! > transport cost E‖x_1 − x_0‖²,   curvature ∫ E‖(x_1 − x_0) − dx_τ/dτ‖² dτ ,
//!
//! the second of Liu et al. 2023, "Flow Straight and Fast", eq. 6 (0 where all paths are straight), which is told as a part of the first.

use std::path::Path;

use serde_json::json;
use stein::{Kernel, Keys, Request, Result, denoiser::Converted, ensure, flow::Flow, ode::DORMAND_PRINCE, rows};

use crate::{
    Classes, CodeOptions, Model, Plan,
    begin::Begin,
    code_flow::CodeFlow,
    model::ModelFlow,
    picture::{Chart, Frame, Series, auto_scale, grid, line_chart, to_gif, to_png, trails},
    replacing::{Recorded, beside, said},
};

/// Which paths.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PathsOptions {
    /// How many are measured; default 500. A picture shows some of them.
    pub n: Option<usize>,
    /// The class, for a conditional model.
    pub class: Option<String>,
    /// The seed of the noise.
    pub seed: u64,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

/// What was measured of paths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathsReport {
    /// Paths.
    pub n: usize,
    /// E‖x_1 − x_0‖².
    pub transport_cost: f64,
    /// ∫ E‖(x_1 − x_0) − dx_τ/dτ‖² dτ as a part of the transport cost.
    pub curvature: f64,
}

/// Paths that are measured, intervals of one, paths in a picture of rows and of images, places in a row of images.
const MEASURED: usize = 500;
const INTERVALS: usize = 64;
const SHOWN: usize = 150;
const SHOWN_IMAGES: usize = 8;
const PLACES: usize = 9;

/// Places of all paths, from τ = 1 to 0, `[n, dim]` each.
struct Followed {
    places: Vec<Vec<f64>>,
    dim: usize,
    n: usize,
}

/// Draws the paths of samples: of states of one or two numbers a `.png` or `.svg` of paths beside straight lines, or a `.gif` of both on
/// their way; of images a `.png` with a row for each.
///
/// # Errors
/// A model without a velocity, or of what cannot be drawn; a file that may not be replaced or cannot be written.
pub fn draw_paths(path: &Path, model: &Model, options: &PathsOptions) -> Result<PathsReport> {
    let image = model.subject.image();
    let dim: usize = model.subject.state_shape()?.iter().product();
    let kinds: &[&str] = if image.is_some() { &["png"] } else { &["png", "svg", "gif"] };
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !kinds.contains(&ending.as_str()) {
        return Err(stein::names::unknown("file ending", &ending, kinds).at(path.display()));
    }
    ensure!(
        Kind::Unsupported,
        image.is_some() || dim <= 2,
        "paths are drawn of images and of one or two numbers, and the states of {} have {dim}",
        model.name
    );
    let inputs = model.file.iter().cloned().chain(model.beginning_files()).collect();
    let recorded = Recorded::new(&beside(path, ".json"), inputs, options.force)?;
    let file = recorded.start(path)?;
    let followed = Followed::of(model, options)?;
    let report = followed.report();
    let bytes = match (image, ending.as_str()) {
        (Some(size), _) => to_png(&followed.sheet(model, size)?)?,
        (None, "svg") => followed.chart(model, INTERVALS, 1)?.svg().into(),
        (None, "png") => to_png(&followed.chart(model, INTERVALS, 1)?.picture()?)?,
        (None, _) => {
            let frames = (0..=INTERVALS).step_by(2).map(|until| followed.chart(model, until, 2)?.picture());
            to_gif(&frames.collect::<Result<Vec<_>>>()?, 80, 1500)?
        }
    };
    file.commit_with(&bytes)?;
    let told = json!({
        "model": model.name,
        "paths": report.n,
        "seed": options.seed,
        "class": options.class,
        "source": model.named_beginning().map(Begin::name),
        "transport_cost": report.transport_cost,
        "curvature": report.curvature,
    });
    recorded.write(&[path], said(&told))?;
    Ok(report)
}

impl Followed {
    fn of(model: &Model, options: &PathsOptions) -> Result<Self> {
        let dim: usize = model.subject.state_shape()?.iter().product();
        let items = model.named_beginning().and_then(Begin::count).unwrap_or(usize::MAX);
        let n = options.n.unwrap_or(MEASURED.min(items));
        ensure!(n >= 1, "0 paths were asked for: give -n at least 1");
        let class = options.class.clone().map_or(Classes::Default, Classes::Named);
        let (given, begin) = Plan::beginnings(model, n, options.seed, &class)?;
        let flow = CodeFlow::of(model, &CodeOptions::default(), "stein show --paths")?;
        let ModelFlow { velocity, schedule, start, far_std } = &flow.flow;
        let noisiest = schedule.kernel(schedule.span().1);
        let keys = Keys::range(options.seed, 0, n);
        let mut x = match &begin {
            Some(begin) => {
                let items = begin.rows(model, &keys, given.class.as_deref())?;
                items.to_device(&rows::exact().device()).cast(rows::exact().dtype())
            }
            None => Request::exact(n, dim, options.seed).noise_of(*far_std),
        };
        let velocity = Converted { inner: &**velocity, device: model.device.clone(), dtype: model.dtype };
        let paths = Flow { velocity: &velocity, schedule: &**schedule, given: &given };
        let seen = |x: &stein::Tensor<2>, at: &Kernel| rows::host(&x.clone().div_scalar(at.alpha + at.sigma));
        let (mut from, mut places) = (noisiest.t, vec![seen(&x, &noisiest)]);
        for k in (0..INTERVALS).rev() {
            // From τ = σ/(α + σ) to the time of that log-SNR.
            let tau = k as f64 / INTERVALS as f64;
            let t = if k == 0 { *start } else { schedule.time_at(2.0 * ((1.0 - tau) / tau).ln()).clamp(*start, from) };
            if t < from {
                x = paths.carry(x, from, t, &DORMAND_PRINCE, flow.steps())?.x;
                from = t;
            }
            places.push(seen(&x, &schedule.kernel(t)));
        }
        Ok(Self { places, dim, n })
    }

    fn report(&self) -> PathsReport {
        let (first, last) = (&self.places[0], &self.places[INTERVALS]);
        let apart = |a: f64, b: f64| (a - b).powi(2);
        let cost: f64 = first.iter().zip(last).map(|(a, b)| apart(*a, *b)).sum::<f64>() / self.n as f64;
        let bent: f64 = (self.places.windows(2))
            .map(|pair| {
                let whole = first.iter().zip(last).map(|(a, b)| a - b);
                let now = pair[0].iter().zip(&pair[1]).map(|(a, b)| (a - b) * INTERVALS as f64);
                whole.zip(now).map(|(whole, now)| apart(whole, now)).sum::<f64>() / INTERVALS as f64
            })
            .sum::<f64>()
            / self.n as f64;
        PathsReport { n: self.n, transport_cost: cost, curvature: bent / cost.max(f64::MIN_POSITIVE) }
    }

    /// A path up to an interval, or the straight line of the same ends.
    fn trail(&self, i: usize, until: usize, straight: bool) -> Vec<Vec<f64>> {
        let place = |k: usize| self.places[k][i * self.dim..(i + 1) * self.dim].to_vec();
        let between = |k: usize| {
            let part = k as f64 / INTERVALS as f64;
            place(0).iter().zip(place(INTERVALS)).map(|(a, b)| a + part * (b - a)).collect()
        };
        (0..=until).map(|k| if straight { between(k) } else { place(k) }).collect()
    }

    /// The paths beside the straight lines.
    fn chart(&self, model: &Model, until: usize, shrink: u32) -> Result<Chart> {
        let column = |k: usize| model.subject.columns.get(k).map(String::as_str).unwrap_or_default();
        let shown = self.n.min(SHOWN);
        let draw = |straight: bool| {
            let title = if straight { "straight lines of the same ends" } else { "paths" };
            let trail = |i| self.trail(i, until, straight);
            if self.dim == 1 {
                let time = |k: usize| 1.0 - k as f64 / INTERVALS as f64;
                let curve = |i| {
                    let points = trail(i).iter().enumerate().map(|(k, x)| (time(k), x[0])).collect();
                    Series { name: String::new(), points, faint: true }
                };
                let series: Vec<Series> = (0..shown).map(curve).collect();
                let frame = Frame {
                    title,
                    x: "from the data (0) to the source (1)",
                    y: column(0),
                    size: (640 / shrink, 480 / shrink),
                };
                return line_chart(&series, &frame, false, None);
            }
            let pairs = |trail: Vec<Vec<f64>>| trail.into_iter().map(|x| [x[0], x[1]]).collect();
            let paths: Vec<Vec<[f64; 2]>> = (0..shown).map(|i| pairs(trail(i))).collect();
            let bounds = [0, 1].map(|axis| {
                let all = self.places.iter().flat_map(|x| x.iter().skip(axis).step_by(2));
                let (low, high) =
                    all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
                (low - 0.05 * (high - low), high + 0.05 * (high - low))
            });
            let frame = Frame { title, x: column(0), y: column(1), size: (800 / shrink, 800 / shrink) };
            trails(&paths, &frame, bounds)
        };
        let name = format!("{}: curvature {:.4} of the cost", model.subject.name, self.report().curvature);
        Ok(Chart::beside(&[Some(draw(false)?), Some(draw(true)?)], 2, &name))
    }

    /// A row for each path, from the source to the data.
    fn sheet(&self, model: &Model, (height, width, channels): (usize, usize, usize)) -> Result<image::RgbImage> {
        let shown = self.n.min(SHOWN_IMAGES);
        let mut states = Vec::new();
        for i in 0..shown {
            let trail = self.trail(i, INTERVALS, false);
            (0..PLACES).for_each(|place| states.extend_from_slice(&trail[place * INTERVALS / (PLACES - 1)]));
        }
        let states = rows::matrix(states, self.dim, &rows::exact()).to_device(&model.device).cast(model.dtype);
        let values = model.subject.decode(states)?;
        grid(&values, (height, width, channels), PLACES, auto_scale(width, PLACES), None, "")
    }
}
