//! One picture: what its first bytes say of it, its pixels, and these cut and resized.
//!
//! PNG, JPEG and WebP are read by `image`, TIFF by `tiff`, which also has floating-point values and any number of
//! bands.

use crate::samples::{Depth, Samples, each};
use fast_image_resize as fir;
use image::{ColorType, DynamicImage, ImageBuffer, ImageDecoder, ImageReader};
use std::io::{BufRead, Cursor, Read, Seek};
use tiff::decoder::{Decoder, DecodingResult, DecodingSampleType};

/// What a picture is, before its pixels are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub height: usize,
    pub width: usize,
    /// Without transparency.
    pub channels: usize,
    pub depth: Depth,
}

/// Pixels, `[height, width, channels]`.
#[derive(Debug)]
pub(crate) struct Picture {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub samples: Samples,
}

/// Why a picture cannot be read, for the middle of a sentence.
type Result<T> = std::result::Result<T, String>;

/// The bytes of a JPEG file that are read first: enough unless a preview or a profile stands before its size.
const JPEG_HEAD: u64 = 1 << 12;

/// Reads the head of a picture, and not much more of the file.
pub(crate) fn head(mut from: impl BufRead + Seek) -> Result<Head> {
    let start = from.fill_buf().map_err(text)?;
    if is_tiff(start) {
        return tiff_head(&mut Decoder::new(from).map_err(text)?);
    }
    if start.starts_with(&[0xff, 0xd8]) {
        // The decoder reads all that it is given, so it is given more and more.
        let (mut bytes, mut more) = (Vec::new(), JPEG_HEAD);
        loop {
            let read = from.by_ref().take(more).read_to_end(&mut bytes).map_err(text)?;
            let head = other_head(Cursor::new(&bytes));
            if head.is_ok() || read == 0 {
                return head;
            }
            more *= 16;
        }
    }
    other_head(from)
}

/// Decodes a picture from all bytes of its file.
pub(crate) fn decode(bytes: &[u8]) -> Result<Picture> {
    if is_tiff(bytes) {
        return decode_tiff(bytes);
    }
    let image = image::load_from_memory(bytes).map_err(text)?;
    let (height, width, color) = (image.height() as usize, image.width() as usize, image.color());
    let channels = if color.has_color() { 3 } else { 1 };
    let samples = match (depth_of(color), channels) {
        (Depth::U8, 1) => Samples::U8(image.into_luma8().into_raw()),
        (Depth::U8, _) => Samples::U8(image.into_rgb8().into_raw()),
        (Depth::U16, 1) => Samples::U16(image.into_luma16().into_raw()),
        (Depth::U16, _) => Samples::U16(image.into_rgb16().into_raw()),
        (Depth::F32, _) => Samples::F32(image.into_rgb32f().into_raw()),
    };
    Ok(Picture { height, width, channels, samples })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn other_head(from: impl BufRead + Seek) -> Result<Head> {
    let decoder = ImageReader::new(from).with_guessed_format().map_err(text)?.into_decoder().map_err(text)?;
    let ((width, height), color) = (decoder.dimensions(), decoder.color_type());
    let channels = if color.has_color() { 3 } else { 1 };
    Ok(Head { height: height as usize, width: width as usize, channels, depth: depth_of(color) })
}

fn depth_of(color: ColorType) -> Depth {
    match color.bytes_per_pixel() / color.channel_count() {
        1 => Depth::U8,
        2 => Depth::U16,
        _ => Depth::F32,
    }
}

/// Both byte orders, with small and large offsets.
fn is_tiff(bytes: &[u8]) -> bool {
    [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| bytes.starts_with(*magic))
}

fn tiff_head<R: Read + Seek>(decoder: &mut Decoder<R>) -> Result<Head> {
    use tiff::ColorType as Color;
    let (width, height) = decoder.dimensions().map_err(text)?;
    let color = decoder.colortype().map_err(text)?;
    let channels = match color {
        Color::Gray(_) => 1,
        Color::RGB(_) | Color::RGBA(_) => 3,
        Color::Multiband { num_samples, .. } => usize::from(num_samples),
        _ => return Err(format!("its colors are {color:?}; gray, RGB and bands are read")),
    };
    let kind = decoder.image_buffer_layout().map_err(text)?.sample_type;
    let depth = match kind {
        Some(DecodingSampleType::U8) if color.bit_depth() == 8 => Depth::U8,
        Some(DecodingSampleType::U16) if color.bit_depth() == 16 => Depth::U16,
        Some(DecodingSampleType::F16 | DecodingSampleType::F32 | DecodingSampleType::F64) => Depth::F32,
        _ => {
            let (bits, kind) = (color.bit_depth(), kind.map_or("unknown".into(), |kind| format!("{kind:?}")));
            return Err(format!(
                "its values have {bits} bits ({kind}); 8 and 16 bits without sign and floats are read"
            ));
        }
    };
    Ok(Head { height: height as usize, width: width as usize, channels, depth })
}

fn decode_tiff(bytes: &[u8]) -> Result<Picture> {
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(text)?;
    let Head { height, width, channels, .. } = tiff_head(&mut decoder)?;
    let mut values = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut values).map_err(text)?;
    let samples = match values {
        DecodingResult::U8(values) => Samples::U8(values),
        DecodingResult::U16(values) => Samples::U16(values),
        DecodingResult::F16(values) => Samples::F32(values.into_iter().map(f32::from).collect()),
        DecodingResult::F32(values) => Samples::F32(values),
        DecodingResult::F64(values) => Samples::F32(values.into_iter().map(|value| value as f32).collect()),
        _ => return Err("its values are neither unsigned nor floats".into()),
    };
    let pixels = height * width;
    let planar = layout.planes > 1;
    // Stored with transparency, which is left out.
    let stored = samples.len() / pixels.max(1);
    if samples.len() != stored * pixels || stored < channels || pixels == 0 {
        return Err(format!("it holds {} values for {height}x{width} pixels of {channels} channels", samples.len()));
    }
    let place = |k: usize| match planar {
        true => k % channels * pixels + k / channels,
        false => k / channels * stored + k % channels,
    };
    let samples = match planar || stored > channels {
        true => each!(samples, values => (0..pixels * channels).map(|k| values[place(k)]).collect()),
        false => samples,
    };
    Ok(Picture { height, width, channels, samples })
}

impl Picture {
    /// With this many channels: gray is repeated in three, and three of integers become gray.
    pub fn with_channels(self, channels: usize) -> Result<Self> {
        let samples = match (self.channels, channels) {
            (own, wanted) if own == wanted => self.samples,
            (1, 3) => each!(self.samples, values => values.into_iter().flat_map(|value| [value; 3]).collect()),
            (3, 1) => {
                let (width, height) = (self.width as u32, self.height as u32);
                let whole = "a picture has as many values as pixels";
                match self.samples {
                    Samples::U8(values) => {
                        let image = ImageBuffer::from_raw(width, height, values).expect(whole);
                        Samples::U8(DynamicImage::ImageRgb8(image).into_luma8().into_raw())
                    }
                    Samples::U16(values) => {
                        let image = ImageBuffer::from_raw(width, height, values).expect(whole);
                        Samples::U16(DynamicImage::ImageRgb16(image).into_luma16().into_raw())
                    }
                    Samples::F32(_) => return Err("its floating-point colors have no one gray: use 3 channels".into()),
                }
            }
            (own, wanted) => return Err(format!("it has {own} channels, which cannot become {wanted}")),
        };
        Ok(Self { channels, samples, ..self })
    }

    /// The center of the picture cut to the aspect and resized (Lanczos), `[height, width, channels]`.
    pub fn fit(self, height: usize, width: usize) -> Samples {
        let (h, w) = (self.height, self.width);
        if (h, w) == (height, width) {
            return self.samples;
        }
        let cut_w = w.min((h * width + height / 2) / height).max(1);
        let cut_h = h.min((w * height + width / 2) / width).max(1);
        let cut = Cut { left: (w - cut_w) / 2, top: (h - cut_h) / 2, width: cut_w, height: cut_h };
        let to = [height, width];
        match &self.samples {
            Samples::U8(values) => Samples::U8(self.resize(values, &cut, to, fir::pixels::U8::new, |p| p.0)),
            Samples::U16(values) => Samples::U16(self.resize(values, &cut, to, fir::pixels::U16::new, |p| p.0)),
            Samples::F32(values) => Samples::F32(self.resize(values, &cut, to, fir::pixels::F32::new, |p| p.0)),
        }
    }

    /// Resizes a part channel by channel, so that any number of them will do, and the part alone, so that nothing
    /// beside it is mixed in.
    fn resize<T: Copy + Default, P: fir::PixelTrait>(
        &self,
        values: &[T],
        cut: &Cut,
        [height, width]: [usize; 2],
        pixel: fn(T) -> P,
        value: fn(P) -> T,
    ) -> Vec<T> {
        let channels = self.channels;
        let how = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Lanczos3));
        let mut resizer = fir::Resizer::new();
        let mut out = vec![T::default(); height * width * channels];
        for channel in 0..channels {
            let rows = values.chunks_exact(self.width * channels).skip(cut.top).take(cut.height);
            let rows = rows.map(|row| &row[cut.left * channels..(cut.left + cut.width) * channels]);
            let plane = rows.flat_map(|row| row[channel..].iter().step_by(channels).map(|&v| pixel(v))).collect();
            let from = fir::images::TypedImage::from_pixels(cut.width as u32, cut.height as u32, plane);
            let mut to = fir::images::TypedImage::new(width as u32, height as u32);
            let done = resizer.resize_typed(&from.expect("the cut lies inside the picture"), &mut to, &how);
            done.expect("neither picture is empty");
            out[channel..].iter_mut().step_by(channels).zip(to.pixels()).for_each(|(out, &p)| *out = value(p));
        }
        out
    }
}

/// A part of a picture.
struct Cut {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_beyond_one_survive_resizing() {
        let samples = Samples::F32([-3.0, 250.0].repeat(64));
        let picture = Picture { height: 8, width: 8, channels: 2, samples };
        let Samples::F32(small) = picture.fit(3, 5) else { panic!("floats stay floats") };
        assert_eq!(small.len(), 3 * 5 * 2);
        // A constant stays one, up to the rounding of the weights.
        assert!(small.chunks(2).all(|p| (p[0] + 3.0).abs() < 1e-5 && (p[1] - 250.0).abs() < 1e-3), "{small:?}");
    }

    #[test]
    fn the_head_of_a_jpeg_is_found_behind_a_profile() {
        let mut bytes = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new(&mut bytes);
        image::RgbImage::new(60, 40).write_with_encoder(encoder).unwrap();
        // Five application segments of 60000 bytes, right behind the first marker.
        let segment = [&[0xff, 0xe5, (60_000u16 >> 8) as u8, 60_000u16 as u8][..], &[7; 59_998]].concat();
        let long = [&bytes[..2], &segment.repeat(5), &bytes[2..]].concat();
        let expected = Head { height: 40, width: 60, channels: 3, depth: Depth::U8 };
        for bytes in [bytes, long] {
            assert_eq!(head(Cursor::new(&bytes)), Ok(expected));
            assert!(head(Cursor::new(&bytes[..bytes.len().min(100)])).is_err(), "without its size");
        }
    }
}
