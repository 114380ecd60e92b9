//! One picture: what its first bytes say of it, its pixels, and these cut and resized.
//!
//! JPEG is read by `zune-jpeg`, PNG and WebP by `image`, TIFF by `tiff`, which also has floating-point values and any
//! number of bands. A picture is turned as its Exif data say. One that is cut short is refused: decoders fill what is
//! missing with gray.

use crate::samples::{Depth, Samples, each};
use fast_image_resize as fir;
use image::{ColorType, DynamicImage, ImageBuffer, ImageDecoder, ImageReader, metadata::Orientation};
use std::{
    io::{BufRead, Cursor, Read, Seek, SeekFrom},
    sync::{Condvar, Mutex},
};
use tiff::{
    decoder::{Decoder, DecodingResult, DecodingSampleType, Limits},
    tags::Tag,
};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

/// What a picture is, before its pixels are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// As it is shown.
    pub height: usize,
    /// As it is shown.
    pub width: usize,
    /// Without transparency.
    pub channels: usize,
    pub depth: Depth,
    /// How what is stored is turned to be shown.
    turn: Orientation,
}

/// Pixels, `[height, width, channels]`.
#[derive(Debug)]
pub(crate) struct Picture {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub samples: Samples,
    /// What it takes of the room for decoded pictures, until it has become small; none of what was in memory before.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub room: Option<Taken>,
}

/// Why a picture cannot be read, for the middle of a sentence.
type Result<T> = std::result::Result<T, String>;

/// The most bytes of a decoded picture, and of all that are decoded at a time.
pub(crate) const LARGEST: u64 = 512 << 20;

/// The bytes of a JPEG file that are read first: enough unless a preview or a profile stands before its size.
const JPEG_HEAD: u64 = 1 << 12;

/// Reads the head of a picture, and not much more of the file.
pub(crate) fn head(mut from: impl BufRead + Seek) -> Result<Head> {
    let start = from.fill_buf().map_err(text)?;
    if is_tiff(start) {
        return tiff_head(&mut Decoder::new(from).map_err(text)?);
    }
    if is_jpeg(start) {
        // The decoder reads all that it is given, so it is given more and more.
        let (mut bytes, mut more) = (Vec::new(), JPEG_HEAD);
        loop {
            let read = from.by_ref().take(more).read_to_end(&mut bytes).map_err(text)?;
            let head = open_jpeg(&bytes).map(|(_, head)| head);
            if head.is_ok() || read == 0 {
                return head;
            }
            more *= 16;
        }
    }
    open_other(from).map(|(_, head)| head)
}

/// Decodes a picture from all bytes of its file.
pub(crate) fn decode(bytes: &[u8]) -> Result<Picture> {
    if is_tiff(bytes) {
        return decode_tiff(bytes);
    }
    if is_jpeg(bytes) {
        return decode_jpeg(bytes);
    }
    let (decoder, head) = open_other(Cursor::new(bytes))?;
    let room = ROOM.take(head.bytes());
    let image = DynamicImage::from_decoder(decoder).map_err(text)?;
    let samples = match (head.depth, head.channels) {
        (Depth::U8, 1) => Samples::U8(image.into_luma8().into_raw()),
        (Depth::U8, _) => Samples::U8(image.into_rgb8().into_raw()),
        (Depth::U16, 1) => Samples::U16(image.into_luma16().into_raw()),
        (Depth::U16, _) => Samples::U16(image.into_rgb16().into_raw()),
        (Depth::F32, _) => Samples::F32(image.into_rgb32f().into_raw()),
    };
    Ok(head.shown(samples, room))
}

fn text(error: impl std::fmt::Display) -> String {
    // Of one line, whatever a decoder puts into it.
    error.to_string().replace('\n', " ")
}

impl Head {
    /// Of a picture stored with this height and width, where a decoded picture of that size may be held.
    fn of([height, width]: [usize; 2], channels: usize, depth: Depth, turn: Orientation) -> Result<Self> {
        let (height, width) = if turned(turn) { (width, height) } else { (height, width) };
        let head = Self { height, width, channels, depth, turn };
        match head.bytes() {
            0 => Err("it has no pixels".into()),
            bytes if bytes > LARGEST => Err(format!(
                "its {width}x{height} pixels (width x height) take {} MiB, above the {} of the largest that is read",
                bytes >> 20,
                LARGEST >> 20
            )),
            _ => Ok(head),
        }
    }

    /// Bytes of the decoded picture.
    fn bytes(&self) -> u64 {
        let sizes = [self.width, self.channels, self.depth.bytes()];
        sizes.into_iter().fold(self.height as u64, |bytes, size| bytes.saturating_mul(size as u64))
    }

    /// The picture of what is stored, turned as it is shown.
    fn shown(&self, stored: Samples, room: Taken) -> Picture {
        use Orientation as O;
        let Self { height, width, channels, turn, .. } = *self;
        let place = |y: usize, x: usize| {
            // Of the stored picture, whose rows may be the columns here.
            let (row, column, rows, columns) = if turned(turn) { (x, y, width, height) } else { (y, x, height, width) };
            let up = matches!(turn, O::Rotate180 | O::FlipVertical | O::Rotate90 | O::Rotate270FlipH);
            let left = matches!(turn, O::Rotate180 | O::FlipHorizontal | O::Rotate270 | O::Rotate270FlipH);
            let row = if up { rows - 1 - row } else { row };
            let column = if left { columns - 1 - column } else { column };
            (row * columns + column) * channels
        };
        let places = || (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        let samples = match turn {
            O::NoTransforms => stored,
            _ => each!(stored, values => {
                places().flat_map(|(y, x)| &values[place(y, x)..][..channels]).copied().collect()
            }),
        };
        Picture { height, width, channels, samples, room: Some(room) }
    }
}

/// Whether rows become columns.
fn turned(turn: Orientation) -> bool {
    use Orientation as O;
    matches!(turn, O::Rotate90 | O::Rotate270 | O::Rotate90FlipH | O::Rotate270FlipH)
}

/// How Exif data say that a picture is turned.
fn turn_of(exif: Option<&[u8]>) -> Orientation {
    let exif = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
    exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

/// Room for pictures that are decoded at the same time, in bytes.
struct Room {
    left: Mutex<u64>,
    freed: Condvar,
}

static ROOM: Room = Room { left: Mutex::new(LARGEST), freed: Condvar::new() };

/// A part of the room; it is given back when dropped.
#[derive(Debug)]
pub(crate) struct Taken(u64);

impl Room {
    /// Waits until there is room for `bytes`, at most [`LARGEST`]. Whoever holds some is decoding and waits for nobody.
    fn take(&self, bytes: u64) -> Taken {
        let left = self.left.lock().unwrap_or_else(|poison| poison.into_inner());
        let enough = self.freed.wait_while(left, |left| *left < bytes);
        *enough.unwrap_or_else(|poison| poison.into_inner()) -= bytes;
        Taken(bytes)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *ROOM.left.lock().unwrap_or_else(|poison| poison.into_inner()) += self.0;
        ROOM.freed.notify_all();
    }
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8])
}

fn open_jpeg(bytes: &[u8]) -> Result<(JpegDecoder<ZCursor<&[u8]>>, Head)> {
    // Of what stands before the pixels, much is harmless; among the pixels nothing is.
    let [lenient, strict] = [false, true].map(|strict| {
        DecoderOptions::default().set_strict_mode(strict).set_max_width(usize::MAX).set_max_height(usize::MAX)
    });
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), lenient);
    decoder.decode_headers().map_err(text)?;
    let (width, height) = decoder.dimensions().ok_or("it has no size")?;
    let (colors, channels) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (ColorSpace::Luma, 1),
        _ => (ColorSpace::RGB, 3),
    };
    decoder.set_options(strict.jpeg_set_out_colorspace(colors));
    let turn = turn_of(decoder.exif().map(Vec::as_slice));
    Ok((decoder, Head::of([height, width], channels, Depth::U8, turn)?))
}

fn decode_jpeg(bytes: &[u8]) -> Result<Picture> {
    let (mut decoder, head) = open_jpeg(bytes)?;
    if !jpeg_ends(bytes) {
        return Err("it is cut short: its end marker is missing".into());
    }
    let room = ROOM.take(head.bytes());
    let values = decoder.decode().map_err(text)?;
    if values.len() as u64 != head.bytes() {
        return Err(format!("it holds {} values for {} pixels", values.len(), head.width * head.height));
    }
    Ok(head.shown(Samples::U8(values), room))
}

/// Whether a JPEG goes on to its end marker.
///
/// It is segments with their lengths, and coded data in which a byte of ones is followed by 0 or the number of a restart.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut rest = &bytes[2..];
    loop {
        let marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 1 | 0xd0..=0xd7 | 0xff);
        let Some(at) = rest.windows(2).position(marker) else { return false };
        if rest[at + 1] == 0xd9 {
            return true;
        }
        rest = &rest[at + 2..];
        let Some(length) = rest.first_chunk() else { return false };
        let Some(behind) = rest.get(usize::from(u16::from_be_bytes(*length))..) else { return false };
        rest = behind;
    }
}

/// PNG and WebP; what else `image` knows, it may read too.
fn open_other<'a, R: BufRead + Seek + 'a>(mut from: R) -> Result<(impl ImageDecoder + 'a, Head)> {
    let mut start = Vec::new();
    from.by_ref().take(12).read_to_end(&mut start).map_err(text)?;
    let late = match start.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => png_exif(&mut from)?,
        [b'R', b'I', b'F', b'F', a, b, c, d, b'W', b'E', b'B', b'P'] => {
            let (size, whole) = (from.seek(SeekFrom::End(0)).map_err(text)?, u32::from_le_bytes([*a, *b, *c, *d]));
            if size < u64::from(whole) + 8 {
                return Err(format!("it is cut short: it has {size} bytes of {}", u64::from(whole) + 8));
            }
            None
        }
        _ => None,
    };
    from.rewind().map_err(text)?;
    let mut reader = ImageReader::new(from).with_guessed_format().map_err(text)?;
    reader.no_limits(); // there is one on the decoded picture, which names its size
    let mut decoder = reader.into_decoder().map_err(text)?;
    let exif = match late {
        Some(exif) => Some(exif),
        None => decoder.exif_metadata().map_err(text)?,
    };
    let ((width, height), color) = (decoder.dimensions(), decoder.color_type());
    let channels = if color.has_color() { 3 } else { 1 };
    let size = [height as usize, width as usize];
    let head = Head::of(size, channels, depth_of(color), turn_of(exif.as_deref()))?;
    Ok((decoder, head))
}

/// The Exif data of a PNG, which may stand before or behind its pixels.
fn png_exif(from: &mut (impl BufRead + Seek)) -> Result<Option<Vec<u8>>> {
    let cut = |_| "it is cut short: its end chunk is missing".to_owned();
    let (size, mut exif, mut at) = (from.seek(SeekFrom::End(0)).map_err(text)?, None, 8);
    from.seek(SeekFrom::Start(at)).map_err(text)?;
    loop {
        let mut chunk = [0; 8];
        from.read_exact(&mut chunk).map_err(cut)?;
        let [a, b, c, d, kind @ ..] = chunk;
        let length = u32::from_be_bytes([a, b, c, d]);
        at += 12 + u64::from(length);
        match &kind {
            b"IEND" => return Ok(exif),
            b"eXIf" if at <= size => {
                let mut bytes = vec![0; length as usize];
                from.read_exact(&mut bytes).map_err(cut)?;
                exif = Some(bytes);
                from.seek_relative(4).map_err(text)?;
            }
            _ => from.seek_relative(i64::from(length) + 4).map_err(text)?,
        }
    }
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
    let turn = decoder.find_tag(Tag::Orientation).map_err(text)?.and_then(|tag| tag.into_u16().ok());
    let turn = turn.and_then(|tag| Orientation::from_exif(tag.try_into().ok()?)).unwrap_or(Orientation::NoTransforms);
    Head::of([height as usize, width as usize], channels, depth, turn)
}

fn decode_tiff(bytes: &[u8]) -> Result<Picture> {
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(text)?;
    let head = tiff_head(&mut decoder)?;
    let mut limits = Limits::default();
    // Doubles become floats, and transparency is left out.
    limits.decoding_buffer_size = 4 * LARGEST as usize;
    let mut decoder = decoder.with_limits(limits);
    let room = ROOM.take(head.bytes());
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
    let Head { height, width, channels, .. } = head;
    let pixels = height * width;
    let planar = layout.planes > 1;
    // Stored with transparency, which is left out.
    let stored = samples.len() / pixels;
    if samples.len() != stored * pixels || stored < channels {
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
    Ok(head.shown(samples, room))
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
        let picture = Picture { height: 8, width: 8, channels: 2, samples, room: None };
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
        let expected = Head::of([40, 60], 3, Depth::U8, Orientation::NoTransforms).unwrap();
        for bytes in [bytes, long] {
            assert_eq!(head(Cursor::new(&bytes)), Ok(expected));
            assert!(head(Cursor::new(&bytes[..bytes.len().min(100)])).is_err(), "without its size");
        }
    }
}
