//! The idx files of MNIST and its successors.
//!
//! Big-endian words, then bytes. Images: 2051, count, height, width, `[count, height, width]`. Labels: 2049, count,
//! `[count]`.

use crate::{Data, Published, Split};
use std::{io::Read, path::Path};
use stein_base::{Error, Kind, Result, ensure};

/// Loads a set published as four gzipped files in the order train images, train labels, test images, test labels.
pub(crate) fn load(set: &Published, split: Split, dir: Option<&Path>, class_names: &[&str]) -> Result<Data> {
    let first = if split == Split::Train { 0 } else { 2 };
    let (image_size, pixels) = read::<4>(set, first, 2051, dir)?;
    let (_, labels) = read::<2>(set, first + 1, 2049, dir)?;
    let [_, _, height, width] = image_size;
    let labels = labels.into_iter().map(usize::from).collect();
    let class_names = class_names.iter().map(|&name| name.into()).collect();
    Data::from_pixels(set.name, [height, width, 1], 256, pixels, Some(labels), class_names)
}

/// The `HEAD` words and the bytes of one file.
fn read<const HEAD: usize>(
    set: &Published,
    file: usize,
    magic: usize,
    dir: Option<&Path>,
) -> Result<([usize; HEAD], Vec<u8>)> {
    let (path, packed) = set.find(&set.files[file], dir)?;
    let mut bytes = Vec::new();
    let read = flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes);
    read.map_err(|e| Error::of(Kind::File, format!("{} cannot be unpacked ({e}): fetch it again", path.display())))?;
    let mut head = [0; HEAD];
    for (word, bytes) in head.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    }
    ensure!(
        Kind::File,
        head[0] == magic
            && head[1..]
                .iter()
                .try_fold(1, |bytes: usize, &n| bytes.checked_mul(n))
                .and_then(|n| n.checked_add(4 * HEAD))
                == Some(bytes.len()),
        "{} is not an idx file with the header {magic}: fetch it again",
        path.display()
    );
    bytes.drain(..4 * HEAD);
    Ok((head, bytes))
}
