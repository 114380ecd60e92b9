//! Event files that TensorBoard reads: scalars and images by tag and step.
//!
//! A file is a row of TFRecords, each a length and a message with their checksums; a message is a protocol buffer of
//! the type `tensorflow.Event`, of which only the fields needed here are written.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use stein::{Error, Kind, Result};

/// How the names of event files begin, by which TensorBoard knows them.
const NAME: &str = "events.out.tfevents.";
/// Between the time and the number in the names of ours.
const OURS: &str = ".stein.";

/// Whether a path is called as the event files written here are.
pub fn is_event_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(NAME) && name.contains(OURS)
}

/// Cuts the event files of a directory behind the last step that counts, and at a record that is not whole, so that a run that goes
/// on from there writes every point once. Of the last step the numbers are kept, and where `images` count, those too. Files without a
/// point are deleted.
///
/// # Errors
/// A file that cannot be read, cut or deleted.
pub fn cut(directory: impl AsRef<Path>, last: u64, images: bool) -> Result<()> {
    let directory = directory.as_ref();
    let entries = fs::read_dir(directory)
        .map_err(|e| Error::new(format!("the directory cannot be read: {e}")).at(directory.display()))?;
    let counts = |event: &[u8]| match place_of(event) {
        Some((step, image)) => step < last || (step == last && (images || !image)),
        // The first event of a file has no place.
        None => true,
    };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_event_file(path)) {
        let shorten = || {
            let file = File::options().read(true).write(true).open(&path)?;
            match kept(BufReader::new(&file), &counts)? {
                (0 | 1, _) => fs::remove_file(&path),
                (_, length) if length < file.metadata()?.len() => file.set_len(length),
                _ => Ok(()),
            }
        };
        shorten().map_err(|e| Error::of(Kind::File, format!("it cannot be cut: {e}")).at(path.display()))?;
    }
    Ok(())
}

/// The number of whole records before the first that does not count, and their length in bytes.
fn kept(mut file: impl Read, counts: &dyn Fn(&[u8]) -> bool) -> io::Result<(u64, u64)> {
    let (mut records, mut end) = (0, 0);
    loop {
        let mut head = Vec::new();
        file.by_ref().take(12).read_to_end(&mut head)?;
        let Some((length, sum)) = head.split_first_chunk::<8>() else { break };
        let size = u64::from_le_bytes(*length);
        if sum != masked_crc(length) {
            break;
        }
        let mut rest = Vec::new();
        file.by_ref().take(size.saturating_add(4)).read_to_end(&mut rest)?;
        if rest.len() as u64 != size.saturating_add(4) || !counts(&rest) {
            break;
        }
        (records, end) = (records + 1, end + 16 + size);
    }
    Ok((records, end))
}

/// The step of an event as they are written here, and whether it is of an image.
fn place_of(event: &[u8]) -> Option<(u64, bool)> {
    // Nine bytes of time before the step; then the lengths of summary, value and tag, each behind a key of one byte.
    let mut rest = event.get(9..)?;
    let mut number = |key: u64| {
        rest.split_off_first().filter(|found| u64::from(**found) == key).and_then(|_| take_varint(&mut rest))
    };
    let step = number(2 << 3)?;
    let [_summary, _value, tag] = [number(5 << 3 | 2)?, number(1 << 3 | 2)?, number(1 << 3 | 2)?];
    let key = rest.get(usize::try_from(tag).ok()?)?;
    Some((step, u64::from(*key) == 4 << 3 | 2))
}

/// Takes a number off the front, as [`varint`] writes it.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Writes one event file.
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Starts a new event file in an existing directory; TensorBoard joins it with those already there.
    pub fn create(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        if !directory.is_dir() {
            let sentence = "the directory for event files does not exist; create it first";
            return Err(Error::new(sentence).at(directory.display()));
        }
        let start = now();
        // A second writer within one second takes the next free number.
        let names = (0..1000).map(|n| directory.join(format!("{NAME}{:010}{OURS}{n}", start as u64)));
        let (path, file) = names
            .map(|path| (File::create_new(&path), path))
            .find(|(file, _)| !matches!(file, Err(e) if e.kind() == io::ErrorKind::AlreadyExists))
            .map(|(file, path)| (path, file))
            .ok_or_else(|| Error::new("it holds too many event files of this second").at(directory.display()))?;
        let file = file.map_err(|e| Error::of(Kind::File, format!("it cannot be created: {e}")).at(path.display()))?;
        let mut writer = Self { path, file: BufWriter::new(file) };
        let mut version = wall_time();
        bytes_field(&mut version, 3, b"brain.Event:2");
        writer.record(&version)?;
        Ok(writer)
    }

    /// The file being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a point to the curve of this tag.
    pub fn scalar(&mut self, tag: &str, step: i64, value: f32) -> Result<()> {
        let mut content = Vec::new();
        key(&mut content, 2, 5);
        content.extend(value.to_le_bytes());
        self.summary(tag, step, &content)
    }

    /// Adds an image, given as a PNG file, to the row of this tag.
    pub fn image_png(
        &mut self,
        tag: &str,
        step: i64,
        height: usize,
        width: usize,
        channels: usize,
        png: &[u8],
    ) -> Result<()> {
        let mut image = Vec::new();
        for (number, value) in (1..).zip([height, width, channels]) {
            varint_field(&mut image, number, value as u64);
        }
        bytes_field(&mut image, 4, png);
        let mut content = Vec::new();
        bytes_field(&mut content, 4, &image);
        self.summary(tag, step, &content)
    }

    /// Hands everything written so far to the operating system, and with it to a running TensorBoard.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| self.failed(e))
    }

    /// Writes an event with a summary of one tagged value.
    fn summary(&mut self, tag: &str, step: i64, content: &[u8]) -> Result<()> {
        let mut value = Vec::new();
        bytes_field(&mut value, 1, tag.as_bytes());
        value.extend(content);
        let mut summary = Vec::new();
        bytes_field(&mut summary, 1, &value);
        let mut event = wall_time();
        varint_field(&mut event, 2, step as u64);
        bytes_field(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, message: &[u8]) -> Result<()> {
        let length = (message.len() as u64).to_le_bytes();
        let parts = [&length[..], &masked_crc(&length), message, &masked_crc(message)];
        parts.iter().try_for_each(|part| self.file.write_all(part)).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::of(Kind::File, format!("it cannot be written: {error}")).at(self.path.display())
    }
}

/// The checksum of TFRecord: CRC-32C, turned by fifteen bits and shifted by a constant.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The start of an event: its first field, the time.
fn wall_time() -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, 1);
    event.extend(now().to_le_bytes());
    event
}

/// The key of a field: its number and the wire type (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes).
fn key(message: &mut Vec<u8>, number: u64, wire_type: u64) {
    varint(message, number << 3 | wire_type);
}

fn varint_field(message: &mut Vec<u8>, number: u64, value: u64) {
    key(message, number, 0);
    varint(message, value);
}

fn bytes_field(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    key(message, number, 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Seven bits a byte, low ones first; the eighth bit says that more follow.
fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c::crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c::crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(masked_crc(&[0; 32]), 0x0fd7_fffa_u32.to_le_bytes());
    }

    #[test]
    fn varints_are_those_of_protocol_buffers() {
        let mut message = Vec::new();
        varint_field(&mut message, 1, 150);
        assert_eq!(message, [0x08, 0x96, 0x01]);
        varint(&mut message, -1_i64 as u64);
        assert_eq!(message[3..], [255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }

    #[test]
    fn records_are_framed_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(directory.path()).unwrap();
        let other = EventWriter::create(directory.path()).unwrap();
        assert_ne!(writer.path(), other.path());
        writer.scalar("loss", 3, 0.5).unwrap();
        writer.flush().unwrap();
        let bytes = std::fs::read(writer.path()).unwrap();
        let (mut rest, mut messages) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked_crc(&rest[..8]));
            let (message, tail) = rest[12..].split_at(length);
            assert_eq!(tail[..4], masked_crc(message));
            messages.push(message);
            rest = &tail[4..];
        }
        assert_eq!(messages.len(), 2);
        assert!(messages[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        assert_eq!(&messages[1][9..], b"\x10\x03\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f");
    }

    /// The records of a file: each message.
    fn messages(path: &Path) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(path).unwrap();
        let (mut rest, mut messages) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            messages.push(rest[12..12 + length].to_vec());
            rest = &rest[16 + length..];
        }
        messages
    }

    #[test]
    fn what_lies_behind_a_step_is_cut_and_halves_of_records_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(directory.path()).unwrap();
        for step in [1, 100, 128, 129, 70_000] {
            writer.scalar("loss", step, 0.5).unwrap();
        }
        writer.image_png("samples", 70_000, 1, 1, 3, &[0; 500]).unwrap();
        writer.flush().unwrap();
        let path = writer.path().to_owned();
        let whole = std::fs::read(&path).unwrap();
        let all = messages(&path);
        let cuts =
            [(1, true, 2), (127, true, 3), (128, false, 4), (69_999, true, 5), (70_000, false, 6), (70_000, true, 7)];
        for (last, images, left) in cuts {
            std::fs::write(&path, &whole).unwrap();
            cut(directory.path(), last, images).unwrap();
            assert_eq!(messages(&path), all[..left], "up to {last}");
        }
        for missing in 1..20 {
            std::fs::write(&path, &whole[..whole.len() - missing]).unwrap();
            cut(directory.path(), u64::MAX, true).unwrap();
            assert_eq!(messages(&path), all[..6], "{missing} bytes are missing");
        }
        // A file without a point is no use; one of another program is none of ours.
        let foreign = directory.path().join("events.out.tfevents.1.host");
        std::fs::write(&foreign, &whole).unwrap();
        cut(directory.path(), 0, true).unwrap();
        assert!(!path.exists() && std::fs::read(&foreign).unwrap() == whole);
    }

    #[test]
    fn a_missing_directory_is_a_sentence() {
        let error = EventWriter::create("/nowhere/at/all").map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/at/all: "), "{error}");
    }
}
