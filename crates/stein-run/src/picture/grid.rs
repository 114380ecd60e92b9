//! Sheets: many small images in rows and columns.

use image::RgbImage;
use image::imageops::{self, FilterType};

use super::from_unit;
use super::vector::{document, rasterize, shortened, text, text_width};
use crate::{Error, Result};

/// The longest side of a sheet: images too large for it are drawn smaller.
const LONGEST: usize = 4096;

/// The enlargement that makes a row of this many images of this width some 800 pixels wide.
pub fn auto_scale(width: usize, columns: usize) -> u32 {
    let row = width.saturating_mul(columns).max(1);
    ((800 + row / 2) / row).clamp(1, 16) as u32
}

/// A sheet of images on white, row by row, every pixel enlarged to `scale` by `scale`, as far as the sheet then has sides of at
/// most 4096 pixels; larger images are made smaller.
///
/// `images` holds whole images of the shape (height, width, channels) in [0, 1], channels last, one after another.
/// Row labels, one for every row, stand to the left of their rows; a note stands under them all.
///
/// # Errors
/// Images or labels that are not whole, and so many rows or columns that no pixel is left for an image.
pub fn grid(
    images: &[f32],
    (height, width, channels): (usize, usize, usize),
    columns: usize,
    scale: u32,
    row_labels: Option<&[String]>,
    note: &str,
) -> Result<RgbImage> {
    let values = height.saturating_mul(width).saturating_mul(channels);
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
    let labels: Vec<String> = row_labels.unwrap_or_default().iter().map(|label| shortened(label, 24)).collect();
    const GAPS: std::ops::RangeInclusive<usize> = 2..=6;
    const WORDS: f64 = 22.0;
    let widths = labels.iter().map(|label| text_width(label, WORDS));
    let widest = widths.collect::<Result<Vec<f64>>>()?.into_iter().fold(0.0, f64::max);
    let room = |cells: usize, taken: usize| {
        LONGEST.saturating_sub(taken + (cells + 1) * GAPS.end()).checked_div(cells).unwrap_or_default()
    };
    let (most_width, most_height) = (room(columns, (widest + WORDS) as usize), room(rows, 2 * WORDS as usize));
    if most_width == 0 || most_height == 0 {
        return Err(Error::new(format!("{rows} rows of {columns} images are too many for one sheet")));
    }
    let fits = (most_width as f64 / width as f64).min(most_height as f64 / height as f64);
    let scale = f64::from(scale).min(if fits >= 1.0 { fits.floor() } else { fits });
    let scaled = |pixels: usize| ((pixels as f64 * scale).round() as usize).max(1);
    let (cell_width, cell_height) = (scaled(width), scaled(height));
    let gap = (cell_width.min(cell_height) / 16).clamp(*GAPS.start(), *GAPS.end());
    let size = (cell_height as f64 * 0.5).clamp(12.0, WORDS);
    // Rows of flat images stand as far apart as their labels need.
    let row_height = if labels.is_empty() { cell_height } else { cell_height.max(size as usize) };
    let left = gap + if widest > 0.0 { (widest * size / WORDS).ceil() as usize + size as usize } else { 0 };
    let sheet = |margin: usize, cells: usize, cell: usize| margin + cells * (cell + gap);
    let bottom = sheet(gap, rows, row_height);
    let noted = if note.is_empty() { 0.0 } else { 16.0 };
    let mut words = String::new();
    for (row, label) in labels.iter().enumerate() {
        let middle = (sheet(gap, row, row_height) + row_height / 2) as f64;
        words += &text(label, (left as f64 - size * 0.6, middle + size * 0.35), size, "end");
    }
    words += &text(note, (gap as f64, bottom as f64 + noted), noted, "start");
    let note_width = if note.is_empty() { 0.0 } else { text_width(note, noted)? + 2.0 * gap as f64 };
    let sheet_width = (sheet(left, columns, cell_width) as f64).max(note_width.ceil());
    let mut picture = rasterize(&document(sheet_width, bottom as f64 + (1.5 * noted).ceil(), &words))?;
    for (index, image) in images.chunks_exact(values).enumerate() {
        let image = from_unit(image, height, width, channels)?;
        let filter = if scale >= 1.0 { FilterType::Nearest } else { FilterType::Triangle };
        let image = imageops::resize(&image, cell_width as u32, cell_height as u32, filter);
        let (x, y) = (sheet(left, index % columns, cell_width), sheet(gap, index / columns, row_height));
        imageops::replace(&mut picture, &image, x as i64, y as i64);
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn images_stand_row_by_row_and_pixels_become_squares() {
        let images: Vec<f32> = (0..3).flat_map(|i| [i as f32 / 2.0; 4]).collect();
        let sheet = grid(&images, (2, 2, 1), 2, 3, None, "").unwrap();
        assert_eq!(sheet.dimensions(), (2 + 2 * 8, 2 + 2 * 8));
        assert_eq!(sheet.get_pixel(2, 2)[0], 0);
        assert_eq!(sheet.get_pixel(10, 7)[0], 128);
        assert_eq!(sheet.get_pixel(0, 0)[0], 255);
    }

    #[test]
    fn labels_widen_the_sheet_and_must_match_the_rows() {
        let images = [0.5; 4 * 16];
        let labels = ["cat".to_string(), "a longer name".to_string()];
        let plain = grid(&images, (4, 4, 1), 2, 8, None, "").unwrap();
        let labeled = grid(&images, (4, 4, 1), 2, 8, Some(&labels), "").unwrap();
        assert!(labeled.width() > plain.width() + 60);
        assert_eq!(labeled.height(), plain.height());
        assert!(grid(&images, (4, 4, 1), 2, 8, Some(&labels[..1]), "").unwrap_err().to_string().contains("2 rows"));
    }

    #[test]
    fn a_note_stands_under_the_images() {
        let (plain, noted) =
            (grid(&[0.5; 9], (3, 3, 1), 1, 2, None, ""), grid(&[0.5; 9], (3, 3, 1), 1, 2, None, "1 of 9"));
        let (plain, noted) = (plain.unwrap(), noted.unwrap());
        assert!(noted.height() > plain.height() && noted.width() > plain.width());
        let dark = noted.enumerate_pixels().filter(|(_, y, pixel)| *y >= plain.height() && pixel[0] < 128).count();
        assert!(dark > 10, "{dark}");
    }

    #[test]
    fn a_sheet_of_any_images_has_sides_that_can_be_looked_at() {
        for (height, width, count, columns) in [
            (1, 1, 1, 1),
            (1, 10_000, 3, 3),
            (10_000, 1, 5, 2),
            (4, 4200, 64, 8),
            (4200, 4, 64, 8),
            (3000, 2000, 4, 2),
            (64, 64, 800, 8),
            (2, 2, 10_000, 100),
        ] {
            let images = vec![0.25; height * width * count];
            let labels = vec!["a label".to_owned(); count.div_ceil(columns)];
            let labels = (labels.len() <= 16).then_some(&labels[..]);
            let sheet =
                grid(&images, (height, width, 1), columns, auto_scale(width, columns), labels, "a note").unwrap();
            assert!(sheet.width() <= 4096 && sheet.height() <= 4096, "{height}x{width}: {:?}", sheet.dimensions());
            assert!(sheet.pixels().any(|pixel| pixel[0] == 64), "{height}x{width}");
        }
        let name = ["W".repeat(100_000)];
        assert!(grid(&[0.0; 4], (2, 2, 1), 1, 1, Some(&name), "").unwrap().width() < 1000);
    }

    #[test]
    fn large_images_are_made_smaller_as_they_look() {
        // Left half black, right half white.
        let image: Vec<f32> = (0..6000 * 100).map(|i| if i % 6000 < 3000 { 0.0 } else { 1.0 }).collect();
        let sheet = grid(&image, (100, 6000, 1), 1, 1, None, "").unwrap();
        let (middle, row) = (sheet.width() / 2, sheet.height() / 2);
        assert_eq!([sheet.get_pixel(middle / 2, row)[0], sheet.get_pixel(middle * 3 / 2, row)[0]], [0, 255]);
        assert_eq!(sheet.get_pixel(middle, 0), &Rgb([255; 3]));
    }

    #[test]
    fn nothing_is_a_sentence() {
        assert!(grid(&[], (2, 2, 1), 2, 3, None, "").is_err());
        assert!(grid(&[0.0; 5], (2, 2, 1), 2, 3, None, "").is_err());
        assert!(grid(&[0.0; 4], (2, 2, 1), 0, 3, None, "").is_err());
        assert!(grid(&[0.0; 9000], (1, 1, 1), 1, 1, None, "").is_err());
    }

    #[test]
    fn sheets_are_some_800_pixels_wide() {
        assert_eq!(auto_scale(28, 10), 3);
        assert_eq!(auto_scale(28, 8), 4);
        assert_eq!(auto_scale(32, 64), 1);
        assert_eq!(auto_scale(8, 1), 16);
    }
}
