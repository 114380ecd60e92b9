//! Pictures of samples and of numbers: sheets of images, charts, and animations, all drawn without a system library.
//!
//! Sheets are [`image::RgbImage`]s on white until they are written, and charts are SVG that becomes one; text is set in the
//! embedded Ubuntu Light.

mod animation;
mod axis;
mod chart;
mod grid;
mod vector;

pub use animation::{to_gif, to_webp, write_gif, write_webp};
pub use axis::bulk;
pub use chart::{Bins, Chart, Frame, Series, arrows, histogram, line_chart, scatter, trails};
pub use grid::{auto_scale, grid};

use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};

use crate::{Error, Result};
use stein_base::files::write_atomically;

/// A picture of `height * width * channels` values in [0, 1], channels last.
///
/// Three channels are red, green and blue; with any other number the first channel is drawn in gray. Values outside
/// [0, 1] are clipped and NaN is black.
pub fn from_unit(values: &[f32], height: usize, width: usize, channels: usize) -> Result<RgbImage> {
    if values.is_empty() || height.checked_mul(width).and_then(|n| n.checked_mul(channels)) != Some(values.len()) {
        return Err(Error::new(format!(
            "a picture of {height}x{width} pixels with {channels} channels cannot be made of {} values",
            values.len()
        )));
    }
    let mut pixels = values.chunks_exact(channels).map(|pixel| {
        let byte = |channel: usize| (pixel[channel] * 255.0).round() as u8;
        if channels == 3 { Rgb([byte(0), byte(1), byte(2)]) } else { Rgb([byte(0); 3]) }
    });
    let pixel = |_, _| pixels.next().expect("as many pixels as values, checked above");
    let side = |pixels: usize| {
        u32::try_from(pixels).map_err(|_| Error::new(format!("a picture {pixels} pixels wide or high cannot be drawn")))
    };
    Ok(RgbImage::from_fn(side(width)?, side(height)?, pixel))
}

/// The picture as the bytes of a PNG file.
pub fn to_png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let written = picture.write_to(&mut bytes, ImageFormat::Png);
    written.map_err(|e| Error::new(format!("the picture cannot be written as PNG: {e}")))?;
    Ok(bytes.into_inner())
}

/// Writes the picture as a PNG file.
pub fn write_png(path: impl AsRef<Path>, picture: &RgbImage) -> Result<()> {
    let bytes = to_png(picture).map_err(|e| e.at(path.as_ref().display()))?;
    write_atomically(path, |file| file.write_all(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_values_are_clipped_and_rounded() {
        let picture = from_unit(&[-1.0, 0.5, 2.0, f32::NAN], 2, 2, 1).unwrap();
        assert_eq!(picture.pixels().map(|p| p[0]).collect::<Vec<_>>(), [0, 128, 255, 0]);
        let picture = from_unit(&[1.0, 0.0, 0.2], 1, 1, 3).unwrap();
        assert_eq!(picture.get_pixel(0, 0), &Rgb([255, 0, 51]));
        let picture = from_unit(&[1.0, 0.0], 1, 1, 2).unwrap();
        assert_eq!(picture.get_pixel(0, 0), &Rgb([255; 3]));
    }

    #[test]
    fn wrong_counts_and_nothing_are_sentences() {
        assert!(from_unit(&[0.0; 5], 2, 2, 1).unwrap_err().to_string().contains("5 values"));
        assert!(from_unit(&[], 0, 2, 1).is_err());
    }

    #[test]
    fn a_png_decodes_to_the_same_picture() {
        let picture = from_unit(&[0.0, 0.25, 0.5, 1.0, 0.1, 0.9], 1, 2, 3).unwrap();
        let path = tempfile::tempdir().unwrap();
        let path = path.path().join("a.png");
        write_png(&path, &picture).unwrap();
        assert_eq!(image::open(&path).unwrap().to_rgb8(), picture);
    }
}
