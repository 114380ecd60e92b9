//! Sheets: many small images in rows and columns, or a few pictures side by side.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::canvas::{Align, BLACK, Canvas, text_width};
use super::{from_unit, side};
use crate::{Error, Result};

/// The enlargement that makes a row of this many images of this width some 800 pixels wide.
pub fn auto_scale(width: usize, columns: usize) -> u32 {
    let row = (width * columns).max(1);
    ((800 + row / 2) / row).clamp(1, 16) as u32
}

/// A sheet of images on white, row by row, every pixel enlarged to `scale` by `scale`.
///
/// `images` holds whole images of the shape (height, width, channels) in [0, 1], channels last, one after another.
/// Row labels, one for every row, stand to the left of their rows.
pub fn grid(
    images: &[f32],
    (height, width, channels): (usize, usize, usize),
    columns: usize,
    scale: u32,
    row_labels: Option<&[String]>,
) -> Result<RgbImage> {
    let values = height * width * channels;
    if images.is_empty() || values == 0 || !images.len().is_multiple_of(values) || columns == 0 || scale == 0 {
        return Err(Error::new(format!(
            "a sheet needs at least one whole image of {height}x{width} pixels with {channels} channels, a column and \
             a scale of one or more; there are {} values for {columns} columns at scale {scale}",
            images.len()
        )));
    }
    let count = images.len() / values;
    let (columns, rows) = (columns.min(count), count.div_ceil(columns));
    if let Some(labels) = row_labels.filter(|labels| labels.len() != rows) {
        return Err(Error::new(format!("{} row labels were given for a sheet of {rows} rows", labels.len())));
    }
    let labels = row_labels.unwrap_or_default();
    let (cell_width, cell_height) = (width * scale as usize, height * scale as usize);
    let gap = (cell_width.min(cell_height) / 16).clamp(2, 6);
    let size = (cell_height as f32 * 0.5).clamp(12.0, 22.0);
    let widest = labels.iter().map(|label| text_width(label, size)).fold(0.0, f32::max);
    let left = gap + if widest > 0.0 { widest.ceil() as usize + size as usize } else { 0 };
    let sheet = |margin: usize, cells: usize, cell: usize| margin + cells * (cell + gap);
    let mut canvas = Canvas::new(sheet(left, columns, cell_width), sheet(gap, rows, cell_height))?;
    for (row, label) in labels.iter().enumerate() {
        let middle = sheet(gap, row, cell_height) as f32 + cell_height as f32 / 2.0;
        canvas.text(label, [left as f32 - size * 0.6, middle + size * 0.35], size, Align::Right, 0.7, BLACK);
    }
    let mut picture = canvas.finish();
    for (index, image) in images.chunks_exact(values).enumerate() {
        let image = from_unit(image, height, width, channels)?;
        let image = imageops::resize(&image, side(cell_width)?, side(cell_height)?, FilterType::Nearest);
        let (x, y) = (sheet(left, index % columns, cell_width), sheet(gap, index / columns, cell_height));
        imageops::replace(&mut picture, &image, x as i64, y as i64);
    }
    Ok(picture)
}

/// Places pictures side by side on white, row by row.
pub fn panels(pictures: &[RgbImage], columns: usize) -> Result<RgbImage> {
    if pictures.is_empty() || columns == 0 {
        return Err(Error::new("panels need at least one picture and one column"));
    }
    let columns = columns.min(pictures.len());
    let width = pictures.iter().map(|p| p.width() as usize).max().unwrap_or_default();
    let height = pictures.iter().map(|p| p.height() as usize).max().unwrap_or_default();
    let (sheet_width, sheet_height) = (width * columns, height * pictures.len().div_ceil(columns));
    let mut sheet = RgbImage::from_pixel(side(sheet_width)?, side(sheet_height)?, Rgb([255; 3]));
    for (index, picture) in pictures.iter().enumerate() {
        let (x, y) = (index % columns * width, index / columns * height);
        imageops::replace(&mut sheet, picture, x as i64, y as i64);
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_row_by_row_and_pixels_become_squares() {
        let images: Vec<f32> = (0..3).flat_map(|i| [i as f32 / 2.0; 4]).collect();
        let sheet = grid(&images, (2, 2, 1), 2, 3, None).unwrap();
        assert_eq!(sheet.dimensions(), (2 + 2 * 8, 2 + 2 * 8));
        assert_eq!(sheet.get_pixel(2, 2)[0], 0);
        assert_eq!(sheet.get_pixel(10, 7)[0], 128);
        assert_eq!(sheet.get_pixel(0, 0)[0], 255);
    }

    #[test]
    fn labels_widen_the_sheet_and_must_match_the_rows() {
        let images = [0.5; 4 * 16];
        let labels = ["cat".to_string(), "a longer name".to_string()];
        let plain = grid(&images, (4, 4, 1), 2, 8, None).unwrap();
        let labeled = grid(&images, (4, 4, 1), 2, 8, Some(&labels)).unwrap();
        assert!(labeled.width() > plain.width() + 60);
        assert_eq!(labeled.height(), plain.height());
        assert!(grid(&images, (4, 4, 1), 2, 8, Some(&labels[..1])).unwrap_err().to_string().contains("2 rows"));
    }

    #[test]
    fn nothing_is_a_sentence() {
        assert!(grid(&[], (2, 2, 1), 2, 3, None).is_err());
        assert!(grid(&[0.0; 5], (2, 2, 1), 2, 3, None).is_err());
        assert!(grid(&[0.0; 4], (2, 2, 1), 0, 3, None).is_err());
        assert!(panels(&[], 2).is_err());
    }

    #[test]
    fn sheets_are_some_800_pixels_wide() {
        assert_eq!(auto_scale(28, 10), 3);
        assert_eq!(auto_scale(28, 8), 4);
        assert_eq!(auto_scale(32, 64), 1);
        assert_eq!(auto_scale(8, 1), 16);
    }

    #[test]
    fn panels_fill_rows_first() {
        let panel = |gray| RgbImage::from_pixel(3, 2, Rgb([gray; 3]));
        let sheet = panels(&[panel(10), panel(20), panel(30)], 2).unwrap();
        assert_eq!(sheet.dimensions(), (6, 4));
        assert_eq!([sheet[(0, 0)][0], sheet[(3, 0)][0], sheet[(0, 2)][0], sheet[(3, 2)][0]], [10, 20, 30, 255]);
    }
}
