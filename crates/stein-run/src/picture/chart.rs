//! Charts: curves, points in the plane over their density, and histograms, as SVG or in pixels.
//!
//! Sizes are in pixels, and text and lines grow with the smaller side. Numbers that are not finite, and those not
//! positive on a logarithmic axis, are left out.

use std::sync::Arc;

use image::RgbImage;
use kuva::{
    backend::svg::SvgBackend,
    prelude::{
        ColorMap, ContourPlot, Histogram, Layout, LegendPosition, LinePlot, Plot, QuiverPlot, ScatterPlot, Theme,
    },
    render::{layout::ComputedLayout, render::render_multiple},
};

use super::{
    axis::{Axis, bulk, drawable, extent, padded},
    vector::{FONT, clean, document, rasterize, shortened, text, text_width},
};
use crate::{Error, Result};

/// A finished chart.
#[derive(Debug, Clone)]
pub struct Chart {
    svg: String,
    width: f64,
    height: f64,
}

impl Chart {
    /// The chart as an SVG file.
    pub fn svg(&self) -> &str {
        &self.svg
    }

    /// The chart in pixels.
    ///
    /// # Errors
    /// A chart too large to be held.
    pub fn picture(&self) -> Result<RgbImage> {
        rasterize(&self.svg)
    }

    /// Charts of one size side by side, row by row, under a common title; places without one stay empty.
    pub fn beside(charts: &[Option<Self>], columns: usize, title: &str) -> Self {
        let (columns, given) = (columns.max(1), || charts.iter().flatten());
        let width = given().map(|chart| chart.width).fold(1.0, f64::max);
        let height = given().map(|chart| chart.height).fold(1.0, f64::max);
        let top = if title.is_empty() { 0.0 } else { 48.0 };
        let mut body = text(title, (20.0, 34.0), 26.0, "start");
        for (i, chart) in charts.iter().enumerate() {
            if let Some(chart) = chart {
                let (x, y) = ((i % columns) as f64 * width, top + (i / columns) as f64 * height);
                body += &format!("<g transform=\"translate({x} {y})\">{}</g>", chart.svg);
            }
        }
        let columns = columns.min(charts.len().max(1));
        let (width, height) = (width * columns as f64, top + height * charts.len().div_ceil(columns) as f64);
        Self { svg: document(width, height, &body), width, height }
    }
}

/// The words around a chart, which may be empty, and its size.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The words over it.
    pub title: &'a str,
    /// What the horizontal axis shows.
    pub x: &'a str,
    /// What the vertical axis shows.
    pub y: &'a str,
    /// Width and height.
    pub size: (u32, u32),
}

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

/// Most points that are drawn of a scatter plot: more cannot be told apart.
const MOST_POINTS: usize = 50_000;

/// Draws curves over a common horizontal axis, with a legend if they have names; short ones also show their points.
///
/// A logarithmic vertical axis is used where the heights differ tenfold. Without a range of heights all are shown.
///
/// # Errors
/// Nothing that could be drawn, and a size that is too small.
pub fn line_chart(series: &[Series], frame: &Frame, log_y: bool, heights: Option<(f64, f64)>) -> Result<Chart> {
    let usable = |&&(x, y): &&(f64, f64)| drawable(x) && drawable(y) && (!log_y || y > 0.0);
    let points = || series.iter().flat_map(|series| series.points.iter().filter(usable));
    let across = extent(points().map(|point| point.0));
    let y = match (heights, extent(points().map(|point| point.1))) {
        (Some(heights), _) => Axis::even(heights)?,
        (None, Some(up)) if log_y && up.1 >= 10.0 * up.0 => Axis::log(up),
        (None, Some(up)) => Axis::even(padded(up, 0.04))?,
        (None, None) => {
            let kind = if log_y { "finite point with a positive height" } else { "finite point" };
            return Err(Error::new(format!("the chart \"{}\" has no {kind} to draw", frame.title)));
        }
    };
    let x = Axis::even(padded(across.unwrap_or((0.0, 1.0)), 0.0))?;
    let unit = unit(frame);
    let color = |index: usize| COLORS[series[..index].iter().filter(|s| !s.faint).count() % COLORS.len()];
    let mut plots: Vec<Plot> = Vec::new();
    // Faint curves go below the others.
    for faint in [true, false] {
        for (index, series) in series.iter().enumerate().filter(|(_, s)| s.faint == faint) {
            let (ink, width) = if faint { (tint(color(index), 0.35), 1.2) } else { (tint(color(index), 1.0), 1.9) };
            let place = |&(a, b): &(f64, f64)| (x.units(a), y.units(b).max(if y.log { y.low } else { f64::MIN }));
            let points = thinned(series.points.iter().filter(usable).map(place).collect(), x, frame.size.0);
            if points.len() <= 30 {
                let dots = ScatterPlot::new().with_data(points.iter().copied()).with_color(ink.as_str());
                plots.push(dots.with_size(1.3 * width * unit).into());
            }
            let line = LinePlot::new().with_data(points).with_color(ink).with_stroke_width(width * unit);
            let named = !faint && !series.name.is_empty();
            plots.push(if named { line.with_legend(clean(&shortened(&series.name, 60))) } else { line }.into());
        }
    }
    finish(plots, frame, "", (x, y), true)
}

/// Draws points in the plane over the density they should follow, both axes to one scale where their spans are alike.
///
/// The density need not be normalized; its bands hold 99.5, 95, 80, 60, 40 and 20 percent of what lies in the picture. Without
/// bounds, which are the ranges of x and y, the axes follow the bulk of the points; with a density and bounds there may be no
/// points. How many points are not shown is said under the title.
///
/// # Errors
/// No bounds and nothing that could be drawn; bounds that are none.
pub fn scatter(
    points: &[[f64; 2]],
    density: Option<&dyn Fn(f64, f64) -> f64>,
    frame: &Frame,
    bounds: Option<[(f64, f64); 2]>,
) -> Result<Chart> {
    let whole = || points.iter().filter(|point| drawable(point[0]) && drawable(point[1]));
    let found = || Some([bulk(whole().map(|point| point[0]))?, bulk(whole().map(|point| point[1]))?]);
    let [x, y] = bounds.or_else(found).ok_or_else(|| {
        Error::new(format!("the picture \"{}\" has no bounds and no finite point to draw", frame.title))
    })?;
    let axes = (Axis::even(x)?, Axis::even(y)?);
    let drawn = &points[..points.len().min(MOST_POINTS)];
    let (x, y) = to_one_scale(axes, frame)?;
    let shown = drawn.iter().filter(|point| x.holds(point[0]) && y.holds(point[1]));
    let shown: Vec<(f64, f64)> = shown.map(|point| (x.units(point[0]), y.units(point[1]))).collect();
    let note = hidden_note(points.len() - shown.len(), points.len());
    let mut plots: Vec<Plot> = Vec::new();
    plots.extend(density.and_then(|density| bands(density, (x, y), frame)));
    let count = drawn.len().max(1) as f64;
    let size = (2.6 * (500.0 / count).powf(0.3)).clamp(1.0, 2.6) * unit(frame);
    let opacity = (0.92 * (1000.0 / count).powf(0.4)).clamp(0.27, 0.78);
    let color = tint(COLORS[usize::from(density.is_some())], 1.0);
    let dots = ScatterPlot::new().with_data(shown).with_color(color);
    plots.push(dots.with_size(size).with_marker_opacity(opacity).into());
    finish(plots, frame, &note, (x, y), false)
}

/// Draws a field in the plane as arrows over a density: each is a place and what the field is there, times `scale`. The axes are kept.
///
/// # Errors
/// Bounds that are none, and a size that is too small.
pub fn arrows(
    field: &[([f64; 2], [f64; 2])],
    scale: f64,
    density: Option<&dyn Fn(f64, f64) -> f64>,
    frame: &Frame,
    bounds: [(f64, f64); 2],
) -> Result<Chart> {
    let (x, y) = to_one_scale((Axis::even(bounds[0])?, Axis::even(bounds[1])?), frame)?;
    let mut plots: Vec<Plot> = Vec::new();
    plots.extend(density.and_then(|density| bands(density, (x, y), frame)));
    let arrow = |&(at, by): &([f64; 2], [f64; 2])| {
        let (tail, tip) = ((x.units(at[0]), y.units(at[1])), [0, 1].map(|axis| at[axis] + scale * by[axis]));
        let along = (x.units(tip[0]) - tail.0, y.units(tip[1]) - tail.1);
        let shown = x.holds(at[0]) && y.holds(at[1]) && drawable(along.0) && drawable(along.1);
        shown.then_some((tail.0, tail.1, along.0, along.1))
    };
    let field: Vec<_> = field.iter().filter_map(arrow).collect();
    let color = tint(COLORS[usize::from(density.is_some())], 1.0);
    let quiver = QuiverPlot::new().with_arrows(field).with_scale(1.0).with_color(color);
    plots.push(Plot::Quiver(quiver.with_shaft_width(1.1 * unit(frame)).with_tight_bounds().with_clip_to_plot_area()));
    finish(plots, frame, "", (x, y), false)
}

/// Draws paths in the plane, each from where it begins, lightly, to where it has come, a dot. The axes are kept.
///
/// # Errors
/// Bounds that are none, and a size that is too small.
pub fn trails(paths: &[Vec<[f64; 2]>], frame: &Frame, bounds: [(f64, f64); 2]) -> Result<Chart> {
    let (x, y) = to_one_scale((Axis::even(bounds[0])?, Axis::even(bounds[1])?), frame)?;
    let place = |point: &[f64; 2]| (x.units(point[0]), y.units(point[1]));
    let lines = paths.iter().filter(|path| path.len() > 1).map(|path| {
        let line = LinePlot::new().with_data(path.iter().map(place)).with_color(tint(COLORS[0], 0.45));
        line.with_stroke_width(0.8 * unit(frame)).into()
    });
    let mut plots: Vec<Plot> = lines.collect();
    let dots = |of: fn(&Vec<[f64; 2]>) -> Option<&[f64; 2]>, color, size: f64| {
        let dots = ScatterPlot::new().with_data(paths.iter().filter_map(of).map(place)).with_color(tint(color, 1.0));
        dots.with_size(size * unit(frame)).with_marker_opacity(0.8).into()
    };
    plots.push(dots(|path| path.first(), COLORS[6], 1.3));
    plots.push(dots(|path| path.last(), COLORS[1], 2.2));
    finish(plots, frame, "", (x, y), false)
}

/// The words on what is not shown; without any their line stays free, so that frames of an animation agree.
fn hidden_note(hidden: usize, total: usize) -> String {
    if hidden == 0 { " ".to_owned() } else { format!("{hidden} of {total} not shown") }
}

/// The axes to one scale where their spans are alike: the one with more room shows more.
fn to_one_scale((x, y): (Axis, Axis), frame: &Frame) -> Result<(Axis, Axis)> {
    let (across, up) = (x.value(x.high) - x.value(x.low), y.value(y.high) - y.value(y.low));
    let mut fitted = (x, y);
    if across.max(up) <= 4.0 * across.min(up) {
        // The room depends on the labels, and these on the axes: the second time they are nearly those of the chart.
        for _ in 0..2 {
            let area = ComputedLayout::from_layout(&layout(&[], frame, &hidden_note(0, 0), fitted, false)?);
            let scale = (across / area.plot_width()).max(up / area.plot_height());
            fitted = (widened(x, scale * area.plot_width())?, widened(y, scale * area.plot_height())?);
        }
    }
    Ok(fitted)
}

/// The axis with this span around the same middle.
fn widened(axis: Axis, span: f64) -> Result<Axis> {
    let (low, high) = (axis.value(axis.low), axis.value(axis.high));
    let more = (span - (high - low)) / 2.0;
    Axis::even((low - more, high + more))
}

/// The parts of a density's whole that its bands leave out.
const BANDS: [f64; 6] = [0.005, 0.05, 0.2, 0.4, 0.6, 0.8];

/// The bands of a density between the axes; none where there is no density.
fn bands(density: &dyn Fn(f64, f64) -> f64, (x, y): (Axis, Axis), frame: &Frame) -> Option<Plot> {
    let places = |axis: Axis, pixels: u32| -> Vec<f64> {
        let steps = (pixels / 4).clamp(2, 300);
        (0..=steps).map(|i| axis.low + (axis.high - axis.low) * f64::from(i) / f64::from(steps)).collect()
    };
    let (xs, ys) = (places(x, frame.size.0), places(y, frame.size.1));
    let at = |x_units: f64, y_units: f64| {
        let value = density(x.value(x_units), y.value(y_units));
        if drawable(value) { value.max(0.0) } else { 0.0 }
    };
    let values: Vec<f64> = ys.iter().flat_map(|&v| xs.iter().map(move |&u| (u, v))).map(|(u, v)| at(u, v)).collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let total: f64 = values.iter().sum();
    if !(total > 0.0 && drawable(total)) {
        return None;
    }
    // Every place gets the part of the whole that lies where the density is lower; bands of that are those of the density.
    let (mut sum, mut below) = (0.0, vec![0.0; values.len()]);
    for index in order {
        below[index] = sum / total;
        sum += values[index];
    }
    let highest = below.iter().copied().fold(0.0, f64::max);
    let levels: Vec<f64> = BANDS.into_iter().filter(|&band| band < highest).collect();
    let color = move |part: f64| {
        let inside = BANDS.iter().filter(|&&band| band <= part * highest + 1e-9).count();
        tint(COLORS[0], 0.62 * inside as f64 / BANDS.len() as f64)
    };
    let rows = below.chunks(xs.len()).map(<[f64]>::to_vec).collect();
    let plot = ContourPlot::new().with_grid(rows, xs, ys).with_levels(&levels).with_filled();
    Some(plot.with_colormap(ColorMap::Custom(Arc::new(color))).with_line_width(0.0).into())
}

/// The bars of a [`histogram`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bins {
    range: (f64, f64),
    count: usize,
    /// The highest bar.
    top: f64,
}

impl Bins {
    /// Bars over the bulk of the values; none without a finite value.
    pub fn of(values: &[f64]) -> Option<Self> {
        Self::within(values, bulk(values.iter().copied())?).ok()
    }

    /// Bars over a range.
    ///
    /// # Errors
    /// A range that is none.
    pub fn within(values: &[f64], range: (f64, f64)) -> Result<Self> {
        let axis = Axis::even(range)?;
        let mut shown: Vec<f64> = values.iter().copied().filter(|&value| axis.holds(value)).collect();
        shown.sort_by(f64::total_cmp);
        // The rule of Freedman and Diaconis, within reason.
        let quartile = |part: usize| shown.get(shown.len() * part / 4).copied().unwrap_or_default();
        let width = 2.0 * (quartile(3) - quartile(1)) / (shown.len() as f64).cbrt();
        let count = ((axis.value(axis.high) - axis.value(axis.low)) / width).clamp(10.0, 80.0).ceil();
        let count = if count.is_nan() { 10 } else { count as usize };
        let bins = Self { range, count, top: 0.0 };
        Ok(Self { top: bins.heights(values)?.into_iter().fold(0.0, f64::max), ..bins })
    }

    /// How many of the values lie in each bar, as a density over the axis in its units.
    fn heights(&self, values: &[f64]) -> Result<Vec<f64>> {
        let axis = Axis::even(self.range)?;
        let width = (axis.high - axis.low) / self.count as f64;
        let total = values.iter().filter(|&&value| drawable(value)).count().max(1);
        let mut heights = vec![0.0; self.count];
        for &value in values.iter().filter(|&&value| axis.holds(value)) {
            let bin = ((axis.units(value) - axis.low) / width) as usize;
            heights[bin.min(self.count - 1)] += 1.0 / (total as f64 * width);
        }
        Ok(heights)
    }
}

/// Draws the histogram of numbers as a density, under the curve of the density they should follow.
///
/// The bars are parts of all finite values. How many values are not shown is said under the title.
///
/// # Errors
/// A size that is too small.
pub fn histogram(values: &[f64], bins: &Bins, density: Option<&dyn Fn(f64) -> f64>, frame: &Frame) -> Result<Chart> {
    let x = Axis::even(bins.range)?;
    let heights = bins.heights(values)?;
    let steps = frame.size.0.min(2000);
    let places = (0..=steps).map(|i| x.low + (x.high - x.low) * f64::from(i) / f64::from(steps.max(1)));
    // A density is one over the numbers it is of, so it grows as these are counted in a larger unit.
    let per_unit = x.value(1.0);
    let curve: Vec<(f64, f64)> = density.map_or_else(Vec::new, |density| {
        let heights = places.map(|place| (place, density(x.value(place)) * per_unit));
        heights.filter(|&(_, height)| drawable(height)).collect()
    });
    let top = curve.iter().map(|point| point.1).fold(bins.top, f64::max);
    let top = if top > 0.0 { 1.05 * top / per_unit } else { 1.0 };
    let y = Axis::even((0.0, if drawable(top) { top } else { 1.0 }))?;
    let place = |height: f64| y.units(height / per_unit).clamp(0.0, y.high);
    let edges = (0..=bins.count).map(|i| x.low + (x.high - x.low) * i as f64 / bins.count as f64).collect();
    let bars = Histogram::from_bins(edges, heights.into_iter().map(place).collect()).with_color(tint(COLORS[0], 0.45));
    let mut plots: Vec<Plot> = vec![if density.is_some() { bars.with_legend("samples") } else { bars }.into()];
    if density.is_some() {
        let curve = LinePlot::new().with_data(curve.into_iter().map(|(x, height)| (x, place(height))));
        let curve = curve.with_color(tint(COLORS[1], 1.0)).with_stroke_width(2.0 * unit(frame));
        plots.push(curve.with_legend("true density").into());
    }
    let shown = values.iter().filter(|&&value| x.holds(value)).count();
    finish(plots, frame, &hidden_note(values.len() - shown, values.len()), (x, y), true)
}

/// Of many points in one column of pixels only the first, the last, the highest and the lowest, which look the same.
fn thinned(points: Vec<(f64, f64)>, x: Axis, pixels: u32) -> Vec<(f64, f64)> {
    let pixel = |point: &(f64, f64)| ((point.0 - x.low) / (x.high - x.low) * f64::from(pixels)).floor();
    let columns = points.chunk_by(|a, b| pixel(a) == pixel(b));
    let kept = columns.flat_map(|column| {
        let by_height = |&a: &usize, &b: &usize| column[a].1.total_cmp(&column[b].1);
        let (low, high) = ((0..column.len()).min_by(by_height), (0..column.len()).max_by(by_height));
        let mut kept: Vec<usize> = [Some(0), low, high, Some(column.len() - 1)].into_iter().flatten().collect();
        kept.sort_unstable();
        kept.dedup();
        kept.into_iter().map(|index| column[index])
    });
    kept.collect()
}

/// A color thinned with white; 0 is white.
fn tint(color: [u8; 3], strength: f64) -> String {
    let [red, green, blue] = color.map(|part| (255.0 - (255.0 - f64::from(part)) * strength).round() as u8);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// The pixel as it were: what sizes are multiples of.
fn unit(frame: &Frame) -> f64 {
    (f64::from(frame.size.0.min(frame.size.1)) / 450.0).max(0.7)
}

fn layout(plots: &[Plot], frame: &Frame, note: &str, (x, y): (Axis, Axis), lines: bool) -> Result<Layout> {
    let (width, height) = frame.size;
    if width < 120 || height < 120 {
        return Err(Error::new(format!("a chart of {width}x{height} pixels is too small; make it 120x120 at least")));
    }
    let theme = Theme {
        axis_color: "#969696".into(),
        tick_color: "#969696".into(),
        grid_color: "#e6e6e6".into(),
        text_color: "#333333".into(),
        ..Theme::light()
    };
    let mut layout = Layout::auto_from_plots(plots)
        .with_width(width.into())
        .with_height(height.into())
        .with_theme(theme)
        .with_scale(unit(frame))
        .with_font_family(FONT)
        .with_show_grid(lines)
        .with_ticks(6)
        .with_x_tick_format(x.labels())
        .with_y_tick_format(y.labels())
        .with_legend_position(LegendPosition::InsideTopRight)
        .with_legend_box(false);
    (layout.x_range, layout.y_range) = ((x.low, x.high), (y.low, y.high));
    // Bands need no scale of their colors, and labels stand at round numbers, not at the edges of bars.
    (layout.show_colorbar, layout.x_bin_width) = (false, None);
    layout = layout.with_x_axis_min(x.low).with_x_axis_max(x.high).with_y_axis_min(y.low).with_y_axis_max(y.high);
    if y.log {
        layout = layout.with_log_y();
    }
    // What is between dollars would be read as a formula.
    let words = |words: &str| clean(words).replace('$', "\\$");
    if !frame.title.is_empty() {
        let title = shortened(frame.title, 100);
        let room = f64::from(width) / unit(frame) - 24.0;
        let size = (18.0 * room / text_width(&title, 18.0)?).clamp(9.0, 18.0);
        layout = layout.with_title(words(&title)).with_title_size(size as u32);
    }
    if !note.is_empty() {
        layout = layout.with_subtitle(words(note)).with_subtitle_size(12);
    }
    if !frame.x.is_empty() {
        layout = layout.with_x_label(words(&shortened(frame.x, 40)));
    }
    if !frame.y.is_empty() {
        layout = layout.with_y_label(words(&shortened(frame.y, 40)));
    }
    Ok(layout)
}

fn finish(plots: Vec<Plot>, frame: &Frame, note: &str, axes: (Axis, Axis), lines: bool) -> Result<Chart> {
    let layout = layout(&plots, frame, note, axes, lines)?;
    let scene = render_multiple(plots, layout);
    Ok(Chart { svg: SvgBackend.render_scene(&scene), width: scene.width, height: scene.height })
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    const FRAME: Frame = Frame { title: "t", x: "x", y: "y", size: (400, 300) };

    fn series(points: &[(f64, f64)]) -> Series {
        Series { name: "loss".into(), points: points.to_vec(), faint: false }
    }

    /// The middle of the pixels that look like a color.
    fn place(picture: &RgbImage, color: [u8; 3]) -> Option<(f64, f64)> {
        let near = |pixel: &Rgb<u8>| pixel.0.iter().zip(color).all(|(a, b)| a.abs_diff(b) < 24);
        let found: Vec<_> = picture.enumerate_pixels().filter(|(_, _, pixel)| near(pixel)).collect();
        let mean = |sum: u32| f64::from(sum) / found.len() as f64;
        (!found.is_empty()).then(|| (mean(found.iter().map(|p| p.0).sum()), mean(found.iter().map(|p| p.1).sum())))
    }

    #[test]
    fn a_point_is_drawn_where_it_belongs() {
        let bounds = Some([(0.0, 100.0), (0.0, 1.0)]);
        let at = |point: [f64; 2]| {
            let picture = scatter(&[point], None, &FRAME, bounds).unwrap().picture().unwrap();
            assert_eq!(picture.dimensions(), FRAME.size);
            place(&picture, [96, 145, 199]).expect("the point is drawn")
        };
        let (low, high, middle) = (at([10.0, 0.1]), at([90.0, 0.9]), at([50.0, 0.5]));
        assert!(high.0 - low.0 > 200.0 && low.1 - high.1 > 130.0, "{low:?} {high:?}");
        assert!(((low.0 + high.0) / 2.0 - middle.0).abs() < 1.5 && ((low.1 + high.1) / 2.0 - middle.1).abs() < 1.5);
    }

    #[test]
    fn axes_of_like_span_are_to_one_scale() {
        let corners = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
        let at = |point: [f64; 2]| {
            let bounds = Some([(-1.0, 2.0), (-1.0, 2.0)]);
            let picture = scatter(&[point], None, &FRAME, bounds).unwrap().picture().unwrap();
            place(&picture, [96, 145, 199]).unwrap()
        };
        let [origin, right, up] = corners.map(at);
        assert!(((right.0 - origin.0) - (origin.1 - up.1)).abs() < 3.0, "{origin:?} {right:?} {up:?}");
    }

    #[test]
    fn strays_are_counted_under_the_title() {
        let mut points: Vec<[f64; 2]> = (0..1000).map(|i| [f64::from(i % 30), f64::from(i / 30)]).collect();
        points.push([1e6, -1e7]);
        points.push([f64::NAN, 0.0]);
        let svg = scatter(&points, None, &FRAME, None).unwrap().svg;
        assert!(svg.contains("2 of 1002 not shown"), "{svg}");
        assert!(!scatter(&points[..1000], None, &FRAME, None).unwrap().svg.contains("not shown"));
        let values: Vec<f64> = points.iter().map(|point| point[0]).collect();
        let svg = histogram(&values, &Bins::of(&values).unwrap(), None, &FRAME).unwrap().svg;
        assert!(svg.contains("2 of 1002 not shown"), "{svg}");
    }

    #[test]
    fn a_logarithmic_axis_spaces_powers_of_ten_evenly() {
        let svg = line_chart(&[series(&[(20.0, 1.0), (90.0, 1e-4)])], &FRAME, true, None).unwrap().svg;
        let tree = roxmltree::Document::parse(&svg).unwrap();
        let height = |label: &str| -> f64 {
            let node = tree.descendants().find(|node| node.text() == Some(label)).expect("the label is there");
            node.attribute("y").unwrap().parse().unwrap()
        };
        let heights = ["1", "0.1", "0.01", "0.001", "0.0001"].map(height);
        let steps: Vec<f64> = heights.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| (step - steps[0]).abs() < 0.1) && steps[0] > 20.0, "{heights:?}");
        // Within a power of ten an even axis serves better.
        let svg = line_chart(&[series(&[(20.0, 0.31), (90.0, 0.41)])], &FRAME, true, None).unwrap().svg;
        assert!(svg.contains(">0.34<") && svg.contains(">0.4<"), "{svg}");
    }

    #[test]
    fn the_bars_of_a_histogram_have_the_area_of_their_values() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i) / 100.0).collect();
        for scale in [1.0, 1e-6, 1e7] {
            let values: Vec<f64> = values.iter().map(|value| value * scale).collect();
            let bins = Bins::within(&values, (0.0, 20.0 * scale)).unwrap();
            let heights = bins.heights(&values).unwrap();
            let axis = Axis::even(bins.range).unwrap();
            let area: f64 = heights.iter().map(|height| height * (axis.high - axis.low) / bins.count as f64).sum();
            assert!((area - 1.0).abs() < 1e-9, "{area}");
            // The density is 1/10 over the numbers from 0 to 10.
            assert!((bins.top / axis.value(1.0) - 0.1 / scale).abs() < 0.01 / scale, "{scale}: {}", bins.top);
        }
    }

    #[test]
    fn bands_of_a_density_hold_their_part() {
        let normal = |x: f64, y: f64| (-0.5 * (x * x + y * y)).exp();
        let frame = Frame { title: "", size: (800, 800), ..FRAME };
        let picture = scatter(&[], Some(&normal), &frame, Some([(-6.0, 6.0); 2])).unwrap().picture().unwrap();
        // A disc of radius r holds 1 − exp(−r²/2) of a normal distribution in the plane: the bands begin at these radii.
        let colored = picture.pixels().filter(|pixel| pixel[2] > pixel[0].saturating_add(6)).count() as f64;
        let scale = {
            let near = |x| {
                let bounds = Some([(-6.0, 6.0); 2]);
                place(&scatter(&[[x, 0.0]], None, &frame, bounds).unwrap().picture().unwrap(), [96, 145, 199])
                    .unwrap()
                    .0
            };
            (near(3.0) - near(-3.0)) / 6.0
        };
        let radius = (colored / std::f64::consts::PI).sqrt() / scale;
        let expected = (-2.0 * 0.005_f64.ln()).sqrt();
        assert!((radius - expected).abs() < 0.06 * expected, "{radius} where {expected} is right");
    }

    #[test]
    fn hardly_drawable_data_are_drawn() {
        let gaps = series(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 0.5), (4.0, -1.0)]);
        let draw = |chart: Result<Chart>| assert_eq!(chart.unwrap().picture().unwrap().dimensions(), FRAME.size);
        for log in [false, true] {
            draw(line_chart(std::slice::from_ref(&gaps), &FRAME, log, None));
            let constant = series(&[(0.0, 2.0), (1.0, 2.0)]);
            draw(line_chart(&[constant, series(&[])], &FRAME, log, None));
            for points in [
                vec![(5.0, 1e-8)],
                vec![(0.0, 1e-300), (1.0, 1e299)],
                vec![(0.0, 5e-324), (1.0, 1e-320)],
                vec![(1e30, 1e30), (2e30, 3e30)],
                vec![(0.0, 1e9), (1.0, 1e9 + 1e-4)],
                (0..100_000).map(|i| (f64::from(i), 1.0 + f64::from(i % 7))).collect(),
            ] {
                draw(line_chart(&[series(&points)], &FRAME, log, None));
            }
        }
        draw(scatter(&[[1.0, 1.0]], None, &FRAME, None));
        draw(scatter(&[], Some(&|_, _| 1.0), &FRAME, Some([(0.0, 1.0), (0.0, 1.0)])));
        draw(scatter(&[[0.0, f64::NAN], [9.0, 9.0], [0.0, 0.0]], Some(&|_, _| f64::NAN), &FRAME, None));
        draw(scatter(&[[1e30, 1e-30], [-1e30, 0.0], [0.0, 5e-324]], None, &FRAME, None));
        draw(scatter(&[[9e299, -9e299], [0.0, 0.0]], Some(&|x, _| x.abs()), &FRAME, None));
        let wide = "W".repeat(10_000);
        draw(scatter(&[[0.0, 0.0]], None, &Frame { title: &wide, x: &wide, y: "$a$ <&>\u{0}", ..FRAME }, None));
        for values in [vec![3.0; 10], vec![1e30, -1e30], vec![5e-324, 0.0], vec![f64::NAN, 1.0, 2.0], vec![7.0]] {
            let bins = Bins::of(&values).unwrap();
            draw(histogram(&values, &bins, Some(&|_| f64::NAN), &FRAME));
            draw(histogram(&values, &bins, Some(&|_| 1e305), &FRAME));
            draw(histogram(&[], &bins, None, &FRAME));
        }
    }

    #[test]
    fn nothing_and_wrong_bounds_are_sentences() {
        assert!(line_chart(&[], &FRAME, false, None).is_err());
        let negative = line_chart(&[series(&[(0.0, -1.0)])], &FRAME, true, None).unwrap_err();
        assert_eq!(negative.to_string(), "the chart \"t\" has no finite point with a positive height to draw");
        assert!(line_chart(&[series(&[(0.0, 1.0)])], &Frame { size: (10, 10), ..FRAME }, true, None).is_err());
        assert!(scatter(&[], None, &FRAME, None).is_err());
        assert!(scatter(&[[0.0, 0.0]], None, &FRAME, Some([(1.0, 1.0), (0.0, 1.0)])).is_err());
        assert!(Bins::of(&[f64::NAN]).is_none());
        assert!(Bins::within(&[1.0], (f64::NAN, 1.0)).is_err());
    }

    #[test]
    fn thinning_keeps_the_extremes() {
        let points = (0..100).map(|i| (f64::from(i) / 50.0, if i == 30 { 9.0 } else { f64::from(i % 3) })).collect();
        let kept = thinned(points, Axis::even((0.0, 2.0)).unwrap(), 2);
        assert!(kept.len() <= 12 && kept.contains(&(0.6, 9.0)) && kept.is_sorted_by_key(|point| point.0));
    }

    #[test]
    fn charts_stand_side_by_side_in_one_file() {
        let chart = scatter(&[[0.0, 0.0]], None, &FRAME, None).unwrap();
        let sheet = Chart::beside(&[Some(chart.clone()), None, Some(chart)], 2, "a & b");
        roxmltree::Document::parse(sheet.svg()).unwrap();
        let picture = sheet.picture().unwrap();
        assert_eq!(picture.dimensions(), (800, 648));
        let colored = |x: std::ops::Range<u32>, y: std::ops::Range<u32>| {
            y.flat_map(|y| x.clone().map(move |x| (x, y))).any(|(x, y)| picture.get_pixel(x, y) != &Rgb([255; 3]))
        };
        assert!(colored(0..400, 48..348) && colored(0..400, 348..648) && !colored(400..800, 48..348));
    }
}
