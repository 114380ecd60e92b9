//! Charts: curves, points in the plane over their density, and histograms.
//!
//! Sizes are in pixels, and text and lines grow with the smaller side. Numbers that are not finite, and those not
//! positive on a logarithmic axis, are left out.

use std::cmp::Ordering;

use image::RgbImage;

use super::canvas::{Align, BLACK, Canvas, GRAY, Ink, text_width};
use crate::{Error, Result};

/// A curve of a [`line_chart`].
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// The points it joins, in this order.
    pub points: Vec<(f64, f64)>,
    /// Whether it is only drawn lightly, in the color of the next series that is not, and stays out of the legend:
    /// the raw values under a smoothed curve.
    pub faint: bool,
}

/// The colors of series, told apart by people who see few colors too; the first is also that of bars and densities.
const COLORS: [[u8; 3]; 10] = [
    [45, 110, 180],
    [213, 94, 15],
    [20, 140, 100],
    [190, 80, 145],
    [120, 90, 190],
    [185, 140, 20],
    [90, 95, 105],
    [70, 175, 215],
    [130, 70, 40],
    [135, 180, 60],
];

/// Draws curves over a common horizontal axis, with a legend if they have names; short ones also show their points.
pub fn line_chart(
    series: &[Series],
    title: &str,
    x_label: &str,
    y_label: &str,
    log_y: bool,
    size: (u32, u32),
) -> Result<RgbImage> {
    let usable = |&(x, y): &(f64, f64)| finite(x) && finite(y) && (!log_y || y > 0.0);
    let points = || series.iter().flat_map(|s| &s.points).filter(|point| usable(point));
    let (Some(x), Some(y)) =
        (Range::around(points().map(|p| p.0), false, 0.0), Range::around(points().map(|p| p.1), log_y, 0.04))
    else {
        let kind = if log_y { "finite point with a positive height" } else { "finite point" };
        return Err(Error::new(format!("the chart \"{title}\" has no {kind} to draw")));
    };
    let color = |index: usize| COLORS[series[..index].iter().filter(|s| !s.faint).count() % COLORS.len()];
    let legend = series.iter().enumerate().filter(|(_, s)| !s.faint && !s.name.is_empty());
    let legend: Vec<_> = legend.map(|(index, s)| (s.name.as_str(), color(index))).collect();
    let mut plot = Plot::new(size, (title, ""), (x_label, y_label), &legend, (x, y), false)?;
    plot.grid_lines();
    plot.axes();
    // Faint curves go below the others.
    for pass in [true, false] {
        for (index, series) in series.iter().enumerate().filter(|(_, s)| s.faint == pass) {
            let points = series.points.iter().filter(|point| usable(point)).map(|&(x, y)| plot.at(x, y));
            let points = thinned(points.collect());
            let (ink, width) = if pass { (ink(color(index), 80), 1.2) } else { (ink(color(index), 255), 1.9) };
            if points.len() <= 30 {
                points.iter().for_each(|&point| plot.canvas.disc(point, 1.5 * width * plot.unit, ink));
            }
            plot.canvas.line(points, width * plot.unit, ink);
        }
    }
    Ok(plot.canvas.finish())
}

/// Draws points in the plane, both axes to one scale, over the density they should follow.
///
/// The density is asked for once for every pixel and need not be normalized; its bands hold 99.5, 95, 80, 60, 40 and
/// 20 percent of what lies in the picture. Without bounds, which are the ranges of x and y, all finite points are
/// shown; with a density and bounds there may be no points. How many points are not shown is said beside the title.
pub fn scatter(
    points: &[[f64; 2]],
    density: Option<&dyn Fn(f64, f64) -> f64>,
    title: &str,
    size: (u32, u32),
    bounds: Option<[(f64, f64); 2]>,
) -> Result<RgbImage> {
    let range = |axis: usize| match bounds {
        Some(bounds) => Range::of(bounds[axis]),
        None => {
            let whole = points.iter().filter(|p| finite(p[0]) && finite(p[1]));
            let range = Range::around(whole.map(|p| p[axis]), false, 0.05);
            range
                .ok_or_else(|| Error::new(format!("the picture \"{title}\" has no bounds and no finite point to draw")))
        }
    };
    let (mut x, mut y) = (range(0)?, range(1)?);
    if bounds.is_none() {
        let span = x.span().max(y.span());
        (x, y) = (x.widened(span), y.widened(span));
    }
    let shown = |point: &&[f64; 2]| x.holds(point[0]) && y.holds(point[1]);
    let note = hidden_note(points.len() - points.iter().filter(shown).count(), points.len());
    let mut plot = Plot::new(size, (title, &note), ("", ""), &[], (x, y), true)?;
    if let Some(density) = density {
        plot.density(density);
    }
    plot.axes();
    let count = points.len().max(1) as f32;
    let radius = (2.6 * (500.0 / count).powf(0.3)).clamp(1.0, 2.6) * plot.unit;
    let dot =
        ink(COLORS[usize::from(density.is_some())], (235.0 * (1000.0 / count).powf(0.4)).clamp(70.0, 200.0) as u8);
    for &[x, y] in points.iter().filter(shown) {
        let place = plot.at(x, y);
        plot.canvas.disc(place, radius, dot);
    }
    Ok(plot.canvas.finish())
}

/// Draws the histogram of numbers as a density, under the curve of the density they should follow.
///
/// Without bounds all finite values are shown; with them, the bars are still parts of all finite values. How many
/// values are not shown is said beside the title.
pub fn histogram(
    values: &[f64],
    density: Option<&dyn Fn(f64) -> f64>,
    title: &str,
    x_label: &str,
    size: (u32, u32),
    bounds: Option<(f64, f64)>,
) -> Result<RgbImage> {
    let mut finite: Vec<f64> = values.iter().copied().filter(|&value| finite(value)).collect();
    finite.sort_by(f64::total_cmp);
    let range = bounds.map(Range::of).unwrap_or_else(|| {
        let range = Range::around(finite.iter().copied(), false, 0.0);
        range.ok_or_else(|| Error::new(format!("the histogram \"{title}\" has no bounds and no finite value to draw")))
    })?;
    let total = finite.len().max(1);
    let shown: Vec<f64> = finite.into_iter().filter(|&value| range.holds(value)).collect();
    // The rule of Freedman and Diaconis, within reason.
    let quartile = |part: usize| shown.get(shown.len() * part / 4).copied().unwrap_or_default();
    let width = 2.0 * (quartile(3) - quartile(1)) / (shown.len() as f64).cbrt();
    let bins = (range.span() / width).clamp(10.0, 80.0).ceil();
    let bins = if bins.is_nan() { 10 } else { bins as usize };
    let mut heights = vec![0.0; bins];
    for value in &shown {
        let bin = ((value - range.low) / range.span() * bins as f64) as usize;
        heights[bin.min(bins - 1)] += bins as f64 / (total as f64 * range.span());
    }
    let note = hidden_note(values.len() - shown.len(), values.len());
    let curve: Vec<(f64, f64)> = density.map_or_else(Vec::new, |density| {
        let positions = (0..=size.0).map(|i| range.low + range.span() * f64::from(i) / f64::from(size.0.max(1)));
        positions.map(|x| (x, density(x))).filter(|&(_, height)| self::finite(height)).collect()
    });
    let highest = heights.iter().copied().chain(curve.iter().map(|p| p.1)).fold(0.0, f64::max);
    let y = Range { low: 0.0, high: if highest > 0.0 { highest * 1.05 } else { 1.0 }, log: false };
    let legend = [("samples", tint(0.45)), ("true density", COLORS[1])];
    let legend = if density.is_some() { &legend[..] } else { &[] };
    let mut plot = Plot::new(size, (title, &note), (x_label, "density"), legend, (range, y), false)?;
    plot.grid_lines();
    let gap = (plot.x.end - plot.x.start) / bins as f32 * 0.04;
    for (bin, &height) in heights.iter().enumerate() {
        let edge = |bin: usize| range.low + range.span() * bin as f64 / bins as f64;
        let ([left, top], [right, bottom]) = (plot.at(edge(bin), height), plot.at(edge(bin + 1), 0.0));
        plot.canvas.rectangle([left + gap, top, right - gap, bottom], ink(tint(0.45), 255));
    }
    plot.axes();
    let curve: Vec<_> = curve.into_iter().map(|(x, height)| plot.at(x, height)).collect();
    plot.canvas.line(curve, 2.0 * plot.unit, ink(COLORS[1], 255));
    Ok(plot.canvas.finish())
}

/// The words on points that are not shown.
fn hidden_note(hidden: usize, total: usize) -> String {
    if hidden == 0 { String::new() } else { format!("{hidden} of {total} not shown") }
}

/// Whether a number can be placed on an axis, even after sums and differences.
fn finite(value: f64) -> bool {
    value.abs() < 1e300
}

fn ink([red, green, blue]: [u8; 3], opacity: u8) -> Ink {
    [red, green, blue, opacity]
}

/// The first color thinned with white; 0 is white.
fn tint(strength: f32) -> [u8; 3] {
    COLORS[0].map(|part| (255.0 - (255.0 - f32::from(part)) * strength).round() as u8)
}

/// Of many points in one column of pixels only the first, the last, the highest and the lowest, which look the same.
fn thinned(points: Vec<[f32; 2]>) -> Vec<[f32; 2]> {
    let columns = points.chunk_by(|a, b| a[0].floor() == b[0].floor());
    let kept = columns.flat_map(|column| {
        let by_height = |&a: &usize, &b: &usize| column[a][1].total_cmp(&column[b][1]);
        let (low, high) = ((0..column.len()).min_by(by_height), (0..column.len()).max_by(by_height));
        let mut kept: Vec<usize> = [Some(0), low, high, Some(column.len() - 1)].into_iter().flatten().collect();
        kept.sort_unstable();
        kept.dedup();
        kept.into_iter().map(|index| column[index])
    });
    kept.collect()
}

/// The positions of labels with the labels, and the positions of finer lines.
type Ticks = (Vec<(f64, String)>, Vec<f64>);

/// The part of the numbers an axis shows; of their decimal logarithms, if it is logarithmic.
#[derive(Clone, Copy)]
struct Range {
    low: f64,
    high: f64,
    log: bool,
}

impl Range {
    /// The range given by a caller.
    fn of((low, high): (f64, f64)) -> Result<Self> {
        if finite(low) && finite(high) && low < high {
            return Ok(Self { low, high, log: false });
        }
        Err(Error::new(format!(
            "a picture cannot have the bounds {low} to {high}; give a lower and a higher finite one"
        )))
    }

    /// The range of the values and a bit more on both sides; a single value gets room around it.
    fn around(values: impl Iterator<Item = f64>, log: bool, padding: f64) -> Option<Self> {
        let values = values.map(|value| if log { value.log10() } else { value });
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let size = low.abs().max(high.abs());
        let widening = match high - low {
            span if span < 0.0 => return None,
            span if span > size * 1e-9 => span * padding,
            _ if log => 0.5,
            _ if size == 0.0 => 1.0,
            _ => size * 0.5,
        };
        Some(Self { low: low - widening, high: high + widening, log })
    }

    /// The range of this span around the same middle.
    fn widened(&self, span: f64) -> Self {
        let more = (span - self.span()) / 2.0;
        Self { low: self.low - more, high: self.high + more, ..*self }
    }

    fn span(&self) -> f64 {
        self.high - self.low
    }

    fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Round positions, with about as many labels as wanted.
    fn ticks(&self, wanted: f64) -> Ticks {
        if !self.log {
            return (even_ticks(self.low, self.high, wanted), Vec::new());
        }
        let powers = self.low.floor() as i32..=self.high.ceil() as i32;
        let inside = |value: &f64| (self.low - 1e-9..=self.high + 1e-9).contains(&value.log10());
        let multiples = |digits: &[f64]| -> Vec<f64> {
            powers.clone().flat_map(|k| digits.iter().map(move |d| d * 10_f64.powi(k))).filter(&inside).collect()
        };
        let fine = multiples(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        if multiples(&[1.0]).len() >= 3 {
            let stride = (self.span() / wanted).ceil().max(1.0) as i32;
            let plain = powers.clone().all(|k| (-4..=4).contains(&k));
            let label = |k: i32| {
                if plain {
                    number(10_f64.powi(k), 10_f64.powi(k), 0.0)
                } else {
                    format!("1e{k}").replace('-', "\u{2212}")
                }
            };
            let ticks = powers.filter(|k| k % stride == 0).map(|k| (10_f64.powi(k), label(k)));
            return (ticks.filter(|(value, _)| inside(value)).collect(), if stride == 1 { fine } else { Vec::new() });
        }
        let coarse = multiples(&[1.0, 2.0, 5.0]);
        if coarse.len() >= 3 {
            let step = |value: f64| 10_f64.powf((value.log10() + 1e-9).floor());
            return (coarse.into_iter().map(|value| (value, number(value, step(value), 0.0))).collect(), fine);
        }
        (even_ticks(10_f64.powf(self.low), 10_f64.powf(self.high), wanted), Vec::new())
    }
}

/// Multiples of 1, 2 or 5 times a power of ten, with their labels.
fn even_ticks(low: f64, high: f64, wanted: f64) -> Vec<(f64, String)> {
    let rough = (high - low) / wanted.max(1.0);
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|&step| step >= rough).unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
    let largest = low.abs().max(high.abs());
    (first..=last).map(|k| k as f64 * step).map(|value| (value, number(value, step, largest))).collect()
}

/// A label with the digits that tell it from a neighbor one step away; thousands and more are shortened if the
/// largest number of the axis calls for it.
fn number(value: f64, step: f64, largest: f64) -> String {
    let digits = |step: f64| (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    let label = if value == 0.0 {
        "0".to_string()
    } else if largest >= 1e12 || step < 1e-5 {
        format!("{value:.0$e}", digits(step / 10_f64.powf((value.abs().log10() + 1e-9).floor())))
    } else if largest >= 1e9 && step >= 1e8 {
        format!("{:.*}G", digits(step / 1e9), value / 1e9)
    } else if largest >= 1e6 && step >= 1e5 {
        format!("{:.*}M", digits(step / 1e6), value / 1e6)
    } else if largest >= 1e4 && step >= 1e3 {
        format!("{:.0}k", value / 1e3)
    } else {
        format!("{value:.0$}", digits(step))
    };
    label.replace('-', "\u{2212}")
}

/// A range laid along pixels.
#[derive(Clone, Copy)]
struct Axis {
    range: Range,
    start: f32,
    end: f32,
}

impl Axis {
    fn at(&self, value: f64) -> f32 {
        let value = if self.range.log { value.log10() } else { value };
        self.start + ((value - self.range.low) / self.range.span()) as f32 * (self.end - self.start)
    }

    fn pixels_per_one(&self) -> f64 {
        f64::from((self.end - self.start).abs()) / self.range.span()
    }

    /// The axis with fewer pixels around the same middle.
    fn shortened(&self, pixels_per_one: f64) -> Self {
        let cut = (1.0 - pixels_per_one / self.pixels_per_one()) as f32 * (self.end - self.start) / 2.0;
        Self { start: (self.start + cut).round(), end: (self.end - cut).round(), ..*self }
    }
}

/// A sheet with title, legend and labels, and the two axes within which to draw.
struct Plot {
    canvas: Canvas,
    /// The pixel as it were: what sizes are multiples of.
    unit: f32,
    /// The pixels between the labels of the horizontal axis at the least.
    apart: f32,
    x: Axis,
    y: Axis,
}

impl Plot {
    fn new(
        (width, height): (u32, u32),
        (title, note): (&str, &str),
        (x_label, y_label): (&str, &str),
        legend: &[(&str, [u8; 3])],
        (x, y): (Range, Range),
        equal: bool,
    ) -> Result<Self> {
        if width < 160 || height < 160 {
            return Err(Error::new(format!(
                "a chart of {width}x{height} pixels is too small; make it 160x160 at least"
            )));
        }
        let mut canvas = Canvas::new(width as usize, height as usize)?;
        let (width, height) = (width as f32, height as f32);
        let unit = (width.min(height) / 400.0).max(0.75);
        let (margin, label) = (12.0 * unit, 13.5 * unit);
        let mut top = margin;
        if !(title.is_empty() && note.is_empty()) {
            let right = width - margin;
            canvas.text(note, [right, top + 14.0 * unit], label, Align::Right, 0.6, GRAY);
            let (size, room) = (17.0 * unit, right - margin - text_width(note, label) - 10.0 * unit);
            let size = size.min(size * room.max(margin) / text_width(title, size));
            canvas.text(title, [margin, top + 14.0 * unit], size, Align::Left, 1.3, BLACK);
            top += 24.0 * unit;
        }
        let mut right = margin;
        for &(name, color) in legend {
            let needed = text_width(name, label) + 24.0 * unit;
            if right > margin && right + needed > width - margin {
                (right, top) = (margin, top + 19.0 * unit);
            }
            let middle = top + 9.0 * unit;
            canvas.line([[right + unit, middle], [right + 15.0 * unit, middle]], 3.0 * unit, ink(color, 255));
            canvas.text(name, [right + 21.0 * unit, top + 13.5 * unit], label, Align::Left, 0.6, BLACK);
            right += needed + 14.0 * unit;
        }
        top += if legend.is_empty() { 0.0 } else { 22.0 * unit };
        if !y_label.is_empty() {
            canvas.text(y_label, [margin, top + 13.5 * unit], label, Align::Left, 0.6, GRAY);
            top += 20.0 * unit;
        }
        let mut bottom = height - margin - 18.0 * unit;
        if !x_label.is_empty() {
            canvas.text(x_label, [width - margin, height - margin], label, Align::Right, 0.6, GRAY);
            bottom -= 18.0 * unit;
        }
        let (top, bottom) = ((top + 6.0 * unit).round(), bottom.round());
        if bottom - top < 40.0 * unit {
            return Err(Error::new(format!("the chart \"{title}\" has no room left for its legend; make it higher")));
        }
        let (labels, _) = y.ticks(f64::from((bottom - top) / (50.0 * unit)));
        let widest = labels.iter().map(|(_, words)| text_width(words, label)).fold(0.0, f32::max);
        let left = (margin + widest + 8.0 * unit).round();
        let (mut x, mut y) = (
            Axis { range: x, start: left, end: (width - 1.5 * margin).round() },
            Axis { range: y, start: bottom, end: top },
        );
        if equal {
            let scale = x.pixels_per_one().min(y.pixels_per_one());
            (x, y) = (x.shortened(scale), y.shortened(scale));
        }
        // Equal axes have equal steps, unless the labels are too long for that.
        let apart = if equal && widest < 36.0 * unit { 50.0 } else { 80.0 } * unit;
        Ok(Self { canvas, unit, apart, x, y })
    }

    fn at(&self, x: f64, y: f64) -> [f32; 2] {
        [self.x.at(x), self.y.at(y)]
    }

    /// The labels and fine positions of both axes.
    fn ticks(&self) -> [Ticks; 2] {
        let ticks = |axis: &Axis, apart: f32| axis.range.ticks(f64::from((axis.end - axis.start).abs() / apart));
        [ticks(&self.x, self.apart), ticks(&self.y, 50.0 * self.unit)]
    }

    /// A line one or two whole pixels wide, so that it is crisp.
    fn rule(&mut self, from: [f32; 2], to: [f32; 2], gray: u8) {
        let width = self.unit.round().max(1.0);
        let [left, top] = [from[0].min(to[0]), from[1].min(to[1])].map(f32::round);
        let [right, bottom] = [from[0].max(to[0]), from[1].max(to[1])].map(|edge| edge.round() + width);
        self.canvas.rectangle([left, top, right, bottom], [gray, gray, gray, 255]);
    }

    /// Light lines across at the ticks, to be drawn before the data.
    fn grid_lines(&mut self) {
        let (x, y) = (self.x, self.y);
        let [(across, _), (up, fine)] = self.ticks();
        for place in fine.into_iter().map(|value| y.at(value)) {
            self.rule([x.start, place], [x.end, place], 246);
        }
        for place in across.into_iter().map(|(value, _)| x.at(value)) {
            self.rule([place, y.start], [place, y.end], 236);
        }
        for place in up.into_iter().map(|(value, _)| y.at(value)) {
            self.rule([x.start, place], [x.end, place], 230);
        }
    }

    /// The axes with their ticks and labels.
    fn axes(&mut self) {
        let (left, bottom, unit) = (self.x.start, self.y.start, self.unit);
        let (label, tick) = (13.5 * unit, 4.0 * unit);
        let [(across, _), (up, _)] = self.ticks();
        self.rule([left, bottom], [self.x.end, bottom], 150);
        self.rule([left, bottom], [left, self.y.end], 150);
        for (value, words) in across {
            let (place, half) = (self.x.at(value), text_width(&words, label) / 2.0);
            self.rule([place, bottom], [place, bottom + tick], 150);
            let center = place.min(self.x.end + 17.0 * unit - half);
            self.canvas.text(&words, [center, bottom + 18.0 * unit], label, Align::Center, 0.6, GRAY);
        }
        for (value, words) in up {
            let place = self.y.at(value);
            self.rule([left - tick, place], [left, place], 150);
            self.canvas.text(&words, [left - 7.0 * unit, place + 4.8 * unit], label, Align::Right, 0.6, GRAY);
        }
    }

    /// Fills the area between the axes with bands of the density.
    fn density(&mut self, density: &dyn Fn(f64, f64) -> f64) {
        let [left, right, top, bottom] = [self.x.start, self.x.end, self.y.end, self.y.start].map(|edge| edge as usize);
        let (width, height) = (right - left, bottom - top);
        let place =
            |axis: &Range, step: usize, steps: usize| axis.low + axis.span() * (step as f64 + 0.5) / steps as f64;
        let at = |index: usize| {
            let (x, y) = (index % width, height - 1 - index / width);
            let value = density(place(&self.x.range, x, width), place(&self.y.range, y, height));
            if finite(value) { value.max(0.0) } else { 0.0 }
        };
        let values: Vec<f64> = (0..width * height).map(at).collect();
        let mut sorted = values.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let total: f64 = sorted.iter().sum();
        if total <= 0.0 {
            return;
        }
        // The least density of the smallest region that holds each part of the whole.
        let mut sum = 0.0;
        let sums: Vec<f64> = sorted.iter().map(|value| (sum += value, sum / total).1).collect();
        let parts = [0.995, 0.95, 0.8, 0.6, 0.4, 0.2];
        let levels = parts.map(|part| sorted[sums.partition_point(|&sum| sum < part).min(sorted.len() - 1)]);
        for (index, &value) in values.iter().enumerate() {
            let (x, y) = (index % width, index / width);
            // How much the density changes over a pixel smooths the edge of a band.
            let slope = |low: usize, high: usize| (values[high] - values[low]) / 2.0;
            let across = slope(index - usize::from(x > 0), index + usize::from(x + 1 < width));
            let down = slope(index - width * usize::from(y > 0), index + width * usize::from(y + 1 < height));
            let change = across.hypot(down);
            let inside = |level: f64| match value.total_cmp(&level) {
                Ordering::Equal => 1.0,
                _ => (0.5 + (value - level) / change).clamp(0.0, 1.0),
            };
            let strength = levels.map(inside).iter().sum::<f64>() / levels.len() as f64;
            self.canvas.pixel(left + x, top + y, tint(0.62 * strength as f32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(ticks: Vec<(f64, String)>) -> Vec<String> {
        ticks.into_iter().map(|(_, words)| words.replace('\u{2212}', "-")).collect()
    }

    fn logarithmic(low: f64, high: f64) -> Vec<String> {
        words(Range { low: low.log10(), high: high.log10(), log: true }.ticks(6.0).0)
    }

    fn series(points: &[(f64, f64)]) -> Series {
        Series { name: "loss".into(), points: points.to_vec(), faint: false }
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(words(even_ticks(0.0, 1.0, 5.0)), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(words(even_ticks(-3.1, 2.9, 6.0)), ["-3", "-2", "-1", "0", "1", "2"]);
        assert_eq!(words(even_ticks(0.0, 100_000.0, 5.0)), ["0", "20k", "40k", "60k", "80k", "100k"]);
        assert_eq!(words(even_ticks(0.0, 2.1e6, 5.0)), ["0", "0.5M", "1.0M", "1.5M", "2.0M"]);
        assert_eq!(words(even_ticks(9.99e-7, 2.01e-6, 3.0)), ["1.0e-6", "1.5e-6", "2.0e-6"]);
        assert_eq!(words(even_ticks(0.0, 3.0e12, 3.0)), ["0", "1e12", "2e12", "3e12"]);
    }

    #[test]
    fn logarithmic_ticks_suit_their_range() {
        assert_eq!(logarithmic(0.0009, 1.1), ["0.001", "0.01", "0.1", "1"]);
        assert_eq!(logarithmic(9e-7, 1.1e-3), ["1e-6", "1e-5", "1e-4", "1e-3"]);
        assert_eq!(logarithmic(0.09, 0.6), ["0.1", "0.2", "0.5"]);
        assert_eq!(logarithmic(0.31, 0.41), ["0.32", "0.34", "0.36", "0.38", "0.40"]);
        assert_eq!(logarithmic(1e-12, 1.0).len(), 7);
    }

    #[test]
    fn hardly_drawable_data_are_drawn() {
        let size = (400, 300);
        let gaps = series(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 0.5), (4.0, -1.0)]);
        for log in [false, true] {
            assert_eq!(line_chart(std::slice::from_ref(&gaps), "", "", "", log, size).unwrap().dimensions(), size);
            let constant = series(&[(0.0, 2.0), (1.0, 2.0)]);
            line_chart(&[constant, series(&[])], "t", "x", "y", log, size).unwrap();
            line_chart(&[series(&[(5.0, 1e-8)])], "t", "x", "y", log, size).unwrap();
            line_chart(&[series(&[(0.0, 1e-300), (1.0, 1e299)])], "t", "x", "y", log, size).unwrap();
        }
        scatter(&[[1.0, 1.0]], None, "one", size, None).unwrap();
        scatter(&[], Some(&|_, _| 1.0), "none", size, Some([(0.0, 1.0), (0.0, 1.0)])).unwrap();
        scatter(&[[0.0, f64::NAN], [9.0, 9.0], [0.0, 0.0]], Some(&|_, _| f64::NAN), "nan", size, None).unwrap();
        histogram(&[3.0; 10], Some(&|_| f64::NAN), "constant", "", size, None).unwrap();
        histogram(&[f64::NAN, 1.0, 2.0], None, "", "", size, Some((5.0, 6.0))).unwrap();
    }

    #[test]
    fn nothing_and_wrong_bounds_are_sentences() {
        let size = (400, 300);
        assert!(line_chart(&[], "t", "", "", false, size).is_err());
        let negative = line_chart(&[series(&[(0.0, -1.0)])], "t", "", "", true, size).unwrap_err();
        assert_eq!(negative.to_string(), "the chart \"t\" has no finite point with a positive height to draw");
        assert!(line_chart(&[series(&[(0.0, 1.0)])], "t", "", "", true, (10, 10)).is_err());
        assert!(scatter(&[], None, "t", size, None).is_err());
        assert!(scatter(&[[0.0, 0.0]], None, "t", size, Some([(1.0, 1.0), (0.0, 1.0)])).is_err());
        assert!(histogram(&[f64::NAN], None, "t", "", size, None).is_err());
        assert!(histogram(&[1.0], None, "t", "", size, Some((f64::NAN, 1.0))).is_err());
    }

    #[test]
    fn thinning_keeps_the_extremes() {
        let points = (0..100).map(|i| [i as f32 / 50.0, if i == 30 { 9.0 } else { (i % 3) as f32 }]).collect();
        let kept = thinned(points);
        assert!(kept.len() <= 8 && kept.contains(&[0.6, 9.0]) && kept.is_sorted_by_key(|p| p[0]));
    }
}
