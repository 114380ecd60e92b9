//! Animations that repeat for ever: GIF for everywhere, WebP for exact colors in a smaller file.

use std::path::Path;

use gif::{Encoder, EncodingError, Frame, Repeat};
use image::RgbImage;
use image_webp::{ColorType, WebPEncoder};

use crate::{Error, Result};
use stein_base::files::write_atomically;

/// The frames as the bytes of an animated GIF; every frame has a palette of its own.
///
/// A frame of at most 256 colors, such as any gray one, is kept exactly. The delays are rounded to hundredths of a
/// second and are two hundredths at the least, below which viewers slow down.
pub fn to_gif(frames: &[RgbImage], delay_ms: u32, last_delay_ms: u32) -> Result<Vec<u8>> {
    let (width, height) = common_size(frames, u32::from(u16::MAX))?;
    let (width, height) = (width as u16, height as u16);
    // Pillow takes a frame whose own palette is the gray ramp for one without a palette, and falls back on the global one.
    let grays: Vec<u8> = (0..=255).flat_map(|gray| [gray; 3]).collect();
    let failed = |error: EncodingError| Error::new(format!("a frame cannot be encoded as GIF: {error}"));
    let mut encoder = Encoder::new(Vec::new(), width, height, &grays).map_err(failed)?;
    encoder.set_repeat(Repeat::Infinite).map_err(failed)?;
    for (picture, delay) in with_delays(frames, delay_ms, last_delay_ms) {
        let mut frame = Frame::from_rgb_speed(width, height, picture, 5);
        frame.delay = delay.div_ceil(10).clamp(2, u32::from(u16::MAX)) as u16;
        encoder.write_frame(&frame).map_err(failed)?;
    }
    encoder.into_inner().map_err(|error| Error::new(format!("a GIF cannot be ended: {error}")))
}

/// Writes the frames as an animated GIF: see [`to_gif`].
pub fn write_gif(path: impl AsRef<Path>, frames: &[RgbImage], delay_ms: u32, last_delay_ms: u32) -> Result<()> {
    let bytes = to_gif(frames, delay_ms, last_delay_ms).map_err(|error| error.at(path.as_ref().display()))?;
    write_atomically(path, |file| file.write_all(&bytes))
}

/// The frames as the bytes of an animated WebP without loss.
pub fn to_webp(frames: &[RgbImage], delay_ms: u32, last_delay_ms: u32) -> Result<Vec<u8>> {
    let (width, height) = common_size(frames, 16_384)?;
    let size = [u24(width - 1), u24(height - 1)].concat();
    // One byte of flags, of which 2 says "animated", and three reserved bytes precede the size.
    let mut body = chunk(b"VP8X", &[&[2, 0, 0, 0], &size[..]].concat());
    // A transparent background, and zero repetitions: for ever.
    body.extend(chunk(b"ANIM", &[0; 6]));
    for (picture, delay) in with_delays(frames, delay_ms, last_delay_ms) {
        let mut still = Vec::new();
        let encoded = WebPEncoder::new(&mut still).encode(picture, width, height, ColorType::Rgb8);
        encoded.map_err(|error| Error::new(format!("a frame cannot be encoded as WebP: {error}")))?;
        // The frame's corner is at zero; the flag 2 replaces what was there. A still WebP is a RIFF header of twelve
        // bytes and then the chunk of the pixels.
        let frame = [&[0; 6], &size[..], &u24(delay.min(0xFF_FFFF)), &[2], &still[12..]].concat();
        body.extend(chunk(b"ANMF", &frame));
    }
    Ok(chunk(b"RIFF", &[b"WEBP", &body[..]].concat()))
}

/// Writes the frames as an animated WebP: see [`to_webp`].
pub fn write_webp(path: impl AsRef<Path>, frames: &[RgbImage], delay_ms: u32, last_delay_ms: u32) -> Result<()> {
    let bytes = to_webp(frames, delay_ms, last_delay_ms).map_err(|error| error.at(path.as_ref().display()))?;
    write_atomically(path, |file| file.write_all(&bytes))
}

/// A RIFF chunk: name, length, content, and a byte to make it even.
fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let padding = &[0][..content.len() % 2];
    [name, &(content.len() as u32).to_le_bytes()[..], content, padding].concat()
}

fn u24(value: u32) -> [u8; 3] {
    let [low, middle, high, _] = value.to_le_bytes();
    [low, middle, high]
}

/// Every frame with the time it stays.
fn with_delays(frames: &[RgbImage], delay: u32, last: u32) -> impl Iterator<Item = (&RgbImage, u32)> {
    frames.iter().enumerate().map(move |(i, frame)| (frame, if i + 1 == frames.len() { last } else { delay }))
}

/// The width and height all frames have.
fn common_size(frames: &[RgbImage], limit: u32) -> Result<(u32, u32)> {
    let wrong = |what: String| Err(Error::new(what));
    let Some(first) = frames.first() else {
        return wrong("an animation needs at least one frame".into());
    };
    let (width, height) = first.dimensions();
    if let Some(other) = frames.iter().find(|frame| frame.dimensions() != (width, height)) {
        return wrong(format!(
            "all frames must be of one size, but there are {width}x{height} and {}x{}",
            other.width(),
            other.height()
        ));
    }
    if width == 0 || height == 0 || width > limit || height > limit {
        return wrong(format!(
            "frames of {width}x{height} pixels cannot be written; make the sides 1 to {limit} pixels"
        ));
    }
    Ok((width, height))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::gif::GifDecoder;
    use image::{AnimationDecoder, Rgb};
    use image_webp::{LoopCount, WebPDecoder};

    use super::*;

    fn gray_frames() -> Vec<RgbImage> {
        (0..3).map(|i| RgbImage::from_fn(33, 17, |x, y| Rgb([(x * 7 + y * 3 + i * 40) as u8; 3]))).collect()
    }

    #[test]
    fn a_gray_gif_is_exact() {
        let path = tempfile::tempdir().unwrap();
        let path = path.path().join("a.gif");
        write_gif(&path, &gray_frames(), 50, 1000).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.windows(11).any(|w| w == b"NETSCAPE2.0"));
        let frames = GifDecoder::new(Cursor::new(bytes)).unwrap().into_frames().collect_frames().unwrap();
        assert_eq!(frames.iter().map(|f| f.delay().numer_denom_ms().0).collect::<Vec<_>>(), [50, 50, 1000]);
        for (read, written) in frames.iter().zip(gray_frames()) {
            assert_eq!(image::DynamicImage::from(read.buffer().clone()).to_rgb8(), written);
        }
    }

    #[test]
    fn a_webp_is_exact_and_animated() {
        let path = tempfile::tempdir().unwrap();
        let path = path.path().join("a.webp");
        let mut frames = gray_frames();
        frames[1] = RgbImage::from_fn(33, 17, |x, y| Rgb([(x * x * 31) as u8, (y * x * 17) as u8, (x ^ y) as u8]));
        write_webp(&path, &frames, 50, 1000).unwrap();
        let mut decoder = WebPDecoder::new(Cursor::new(std::fs::read(&path).unwrap())).unwrap();
        assert!(decoder.is_animated() && decoder.num_frames() == 3);
        assert_eq!(decoder.loop_count(), LoopCount::Forever);
        assert_eq!(decoder.dimensions(), (33, 17));
        let mut buffer = vec![0; decoder.output_buffer_size().unwrap()];
        for (frame, delay) in frames.iter().zip([50, 50, 1000]) {
            assert_eq!(decoder.read_frame(&mut buffer).unwrap(), delay);
            let colors = buffer.chunks_exact(buffer.len() / (33 * 17)).flat_map(|p| &p[..3]);
            assert!(colors.eq(frame.as_raw()));
        }
    }

    #[test]
    fn no_frames_and_unequal_frames_are_sentences() {
        assert!(write_gif("x.gif", &[], 50, 50).unwrap_err().to_string().starts_with("x.gif: "));
        let frames = [RgbImage::new(2, 2), RgbImage::new(3, 2)];
        assert!(write_webp("x.webp", &frames, 50, 50).unwrap_err().to_string().contains("2x2 and 3x2"));
    }
}
