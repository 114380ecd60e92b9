//! A white sheet to draw antialiased lines, shapes and words on.

use std::sync::LazyLock;

use image::{Rgb, RgbImage};
use tiny_skia::{FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, Transform};
use ttf_parser::{Face, OutlineBuilder};

use super::side;
use crate::{Error, Result};

/// Red, green, blue, opacity.
pub(super) type Ink = [u8; 4];

/// The ink of titles.
pub(super) const BLACK: Ink = [33, 33, 33, 255];
/// The ink of labels.
pub(super) const GRAY: Ink = [99, 99, 99, 255];

static FONT: LazyLock<Face<'static>> =
    LazyLock::new(|| Face::parse(epaint_default_fonts::UBUNTU_LIGHT, 0).expect("the embedded font is a valid one"));

/// Which end of the words stands at the given place.
#[derive(Clone, Copy)]
pub(super) enum Align {
    Left,
    Center,
    Right,
}

/// The sheet; coordinates are pixels from its upper left corner.
pub(super) struct Canvas(Pixmap);

impl Canvas {
    /// A white sheet.
    pub(super) fn new(width: usize, height: usize) -> Result<Self> {
        let mut pixmap = Pixmap::new(side(width)?, side(height)?)
            .ok_or_else(|| Error::new(format!("a picture of {width}x{height} pixels is too large to draw")))?;
        pixmap.fill(tiny_skia::Color::WHITE);
        Ok(Self(pixmap))
    }

    /// Fills a rectangle from its left, upper, right and lower edge; an empty one is left out.
    pub(super) fn rectangle(&mut self, [left, top, right, bottom]: [f32; 4], ink: Ink) {
        if let Some(rectangle) = Rect::from_ltrb(left, top, right, bottom) {
            self.0.fill_rect(rectangle, &paint(ink), Transform::identity(), None);
        }
    }

    /// Fills a disc.
    pub(super) fn disc(&mut self, [x, y]: [f32; 2], radius: f32, ink: Ink) {
        if let Some(disc) = PathBuilder::from_circle(x, y, radius) {
            self.fill(&disc, ink);
        }
    }

    /// Draws a line through the points.
    pub(super) fn line(&mut self, points: impl IntoIterator<Item = [f32; 2]>, width: f32, ink: Ink) {
        let mut path = PathBuilder::new();
        for [x, y] in points {
            if path.is_empty() {
                path.move_to(x, y);
            } else {
                path.line_to(x, y);
            }
        }
        if let Some(path) = path.finish() {
            let stroke = Stroke { width, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() };
            self.0.stroke_path(&path, &paint(ink), &stroke, Transform::identity(), None);
        }
    }

    /// Sets words with their baseline at the given place, as bold as asked: 0 is the light face itself.
    pub(super) fn text(&mut self, words: &str, [x, y]: [f32; 2], size: f32, align: Align, bold: f32, ink: Ink) {
        let shift = match align {
            Align::Left => 0.0,
            Align::Center => text_width(words, size) / 2.0,
            Align::Right => text_width(words, size),
        };
        let mut outline =
            Outline { path: PathBuilder::new(), scale: scale(size), x: (x - shift).round(), y: y.round() };
        for glyph in words.chars().map(|c| FONT.glyph_index(c).unwrap_or_default()) {
            FONT.outline_glyph(glyph, &mut outline);
            outline.x += f32::from(FONT.glyph_hor_advance(glyph).unwrap_or_default()) * outline.scale;
        }
        if let Some(path) = outline.path.finish() {
            self.fill(&path, ink);
            if bold > 0.0 {
                let stroke = Stroke { width: bold * size * 0.03, ..Stroke::default() };
                self.0.stroke_path(&path, &paint(ink), &stroke, Transform::identity(), None);
            }
        }
    }

    /// Colors one pixel.
    pub(super) fn pixel(&mut self, x: usize, y: usize, [red, green, blue]: [u8; 3]) {
        let at = (y * self.0.width() as usize + x) * 4;
        self.0.data_mut()[at..at + 4].copy_from_slice(&[red, green, blue, 255]);
    }

    /// The finished picture.
    pub(super) fn finish(self) -> RgbImage {
        let (width, pixels) = (self.0.width(), self.0.pixels());
        RgbImage::from_fn(width, self.0.height(), |x, y| {
            let pixel = pixels[(y * width + x) as usize];
            Rgb([pixel.red(), pixel.green(), pixel.blue()])
        })
    }

    fn fill(&mut self, path: &Path, ink: Ink) {
        self.0.fill_path(path, &paint(ink), FillRule::Winding, Transform::identity(), None);
    }
}

/// How wide the words are when set in this size.
pub(super) fn text_width(words: &str, size: f32) -> f32 {
    let advance = |c| FONT.glyph_hor_advance(FONT.glyph_index(c).unwrap_or_default()).unwrap_or_default();
    words.chars().map(|c| f32::from(advance(c))).sum::<f32>() * scale(size)
}

fn scale(size: f32) -> f32 {
    size / f32::from(FONT.units_per_em())
}

fn paint([red, green, blue, opacity]: Ink) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(red, green, blue, opacity);
    paint
}

/// Appends the outline of a glyph to a path; the font's y grows upwards.
struct Outline {
    path: PathBuilder,
    scale: f32,
    x: f32,
    y: f32,
}

impl Outline {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + x * self.scale, self.y - y * self.scale)
    }
}

impl OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.at(x1, y1), self.at(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.at(x1, y1), self.at(x2, y2), self.at(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}
