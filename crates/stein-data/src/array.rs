//! Arrays of numpy: `.npy` and `.npz` files, for the tables, series and images stored in them.
//!
//! A `.npy` file is 6 bytes of magic, a version, the length of a header, the header `{'descr': '<f4', 'fortran_order': False,
//! 'shape': (3, 2), }`, and the numbers. What a shape needs is compared with the file and with memory before it is read.

use crate::{
    listing::open,
    positioned::Positioned,
    samples::{Depth, Samples},
    source::{first_ten, nearest, short},
};
use std::{
    io::{self, BufReader, Read, Seek},
    path::Path,
};
use stein_base::{Error, Kind, Result, ensure, memory};

/// An array in row-major order.
#[derive(Debug)]
pub(crate) struct Array {
    pub shape: Vec<usize>,
    pub numbers: Numbers,
}

/// The numbers of an array.
#[derive(Debug)]
pub(crate) enum Numbers {
    U8(Vec<u8>),
    U16(Vec<u16>),
    F32(Vec<f32>),
    /// 64-bit floats.
    F64(Vec<f64>),
    /// All other integers.
    Whole(Vec<f64>),
}

impl Numbers {
    pub fn into_f64(self) -> Vec<f64> {
        match self {
            Self::U8(values) => values.into_iter().map(f64::from).collect(),
            Self::U16(values) => values.into_iter().map(f64::from).collect(),
            Self::F32(values) => values.into_iter().map(f64::from).collect(),
            Self::F64(values) | Self::Whole(values) => values,
        }
    }

    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::U8(values) => values.into_iter().map(f32::from).collect(),
            Self::U16(values) => values.into_iter().map(f32::from).collect(),
            Self::F32(values) => values,
            Self::F64(values) | Self::Whole(values) => values.into_iter().map(|value| value as f32).collect(),
        }
    }
}

/// An array whose numbers stay in their file.
#[derive(Debug)]
pub(crate) struct Stored {
    pub shape: Vec<usize>,
    pub depth: Depth,
    file: Positioned,
    /// Where the numbers begin.
    start: u64,
}

impl Stored {
    /// The array of a `.npy` file, if its numbers lie there as they are used: in row-major order and little-endian,
    /// bytes, words or 32-bit floats. Of anything else, and of what is damaged, [`read`] is the judge.
    pub fn open(path: &Path) -> Option<Self> {
        let mut from = BufReader::new(open(path).ok()?);
        let header = Header::read(&mut from).ok()?;
        let depth = match header.code.as_str() {
            "u1" => Depth::U8,
            "u2" => Depth::U16,
            "f4" => Depth::F32,
            _ => return None,
        };
        let start = from.stream_position().ok()?;
        let (_, bytes) = header.fits(from.get_ref().metadata().ok()?.len().checked_sub(start)?).ok()?;
        let usable = bytes > 0 && !header.fortran && !header.big;
        usable.then(|| Self { shape: header.shape, depth, file: Positioned::new(from.into_inner()), start })
    }

    /// The numbers of the first index `i`.
    pub fn read(&self, i: usize) -> io::Result<Samples> {
        let size = self.shape[1..].iter().product::<usize>() * self.depth.bytes();
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, self.start + i as u64 * size as u64)?;
        Ok(Samples::from_bytes(self.depth, bytes))
    }
}

/// The shape and the numbers, in row-major order, of the array in a `.npy` file, or of the only one in an `.npz` file.
///
/// # Errors
/// A file that cannot be read or holds something else.
pub fn read_array(path: &Path) -> Result<(Vec<usize>, Vec<f64>)> {
    let (Array { shape, numbers }, _) = read(path, None, None)?;
    Ok((shape, numbers.into_f64()))
}

/// Whether a file's name ends as that of numpy's arrays.
pub(crate) fn is_array(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npy") || ending.eq_ignore_ascii_case("npz"))
}

/// The number of dimensions of the array in a `.npy` file.
pub(crate) fn dimensions(path: &Path) -> Option<usize> {
    Some(Header::read(&mut BufReader::new(open(path).ok()?)).ok()?.shape.len())
}

/// The array of a `.npy` file, or of a `.npz` file the array called `array` (by default `x`, or the only one beside the
/// labels) and the labels in the one called `label` (by default `y` or `labels` where there is one), as text, one for
/// each first index. A `.npy` file has those that [lie beside it](labels_beside).
pub(crate) fn read(path: &Path, array: Option<&str>, label: Option<&str>) -> Result<(Array, Option<Vec<String>>)> {
    let at = path.display();
    let broken = |e: &dyn std::fmt::Display| Error::of(Kind::File, format!("{at} cannot be read as npz: {e}"));
    let unreadable = |e| Error::of(Kind::File, format!("{at} cannot be read: {e}"));
    let file = open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let file = BufReader::new(file);
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz")) {
        let array = npy(file, size, &at.to_string())?;
        let labels = labels_beside(path)?;
        if let Some(labels) = &labels {
            one_each(labels, &array, &at)?;
        }
        return Ok((array, labels));
    }
    let mut archive = zip::ZipArchive::new(file).map_err(|e| broken(&e))?;
    let files: zip::result::ZipResult<Vec<String>> = archive.file_names().map(|name| Ok(name?.into_owned())).collect();
    let files = files.map_err(|e| broken(&e))?;
    let known: Vec<&str> = files.iter().filter_map(|file| file.strip_suffix(".npy")).collect();
    let label = label.or_else(|| ["y", "labels"].into_iter().find(|name| known.contains(name)));
    let others: Vec<&str> = known.iter().copied().filter(|&name| Some(name) != label).collect();
    let array = match (array, &others[..]) {
        (Some(array), _) => array,
        (None, [only]) => only,
        (None, _) if known.contains(&"x") => "x",
        _ => return Err(Error::new(format!("{at} holds the arrays {}: name one by `array`", first_ten(&known)))),
    };
    let mut read = |name: &str| {
        let Ok(file) = archive.by_name(&format!("{name}.npy")) else {
            let (name, known) = (short(name), nearest(name, &known));
            return Err(Error::new(format!("{at} has no array `{name}` that can be read: choose from {known}")));
        };
        let size = file.size();
        npy(file, size, &format!("{at} (array `{}`)", short(name)))
    };
    let labels = match label {
        Some(name) => Some(as_text(read(name)?, &at)?),
        None => None,
    };
    let array = read(array)?;
    if let Some(labels) = &labels {
        one_each(labels, &array, &at)?;
    }
    Ok((array, labels))
}

/// The labels that lie beside a `.npy` file, in one called as it with `.labels.npy` behind: where samples that were drawn by class have
/// theirs.
pub(crate) fn labels_beside(path: &Path) -> Result<Option<Vec<String>>> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".labels.npy");
    let beside = Path::new(&beside);
    if !beside.is_file() {
        return Ok(None);
    }
    let (array, _) = read(beside, None, None)?;
    as_text(array, beside.display()).map(Some)
}

/// Labels as text.
fn as_text(labels: Array, at: impl std::fmt::Display) -> Result<Vec<String>> {
    ensure!(
        Kind::File,
        labels.shape.len() == 1,
        "{at} has labels of the shape {:?}: store one a sample, [N]",
        labels.shape
    );
    Ok(labels.numbers.into_f64().iter().map(f64::to_string).collect())
}

/// Fails unless there is a label for each row.
fn one_each(labels: &[String], array: &Array, at: impl std::fmt::Display) -> Result<()> {
    let (given, rows) = (labels.len(), array.shape.first().copied().unwrap_or_default());
    ensure!(Kind::File, given == rows, "{at} has {given} labels for {rows} rows: give each row one label");
    Ok(())
}

/// What stands before the numbers.
struct Header {
    /// Kind and size of a number, as in `f4`.
    code: String,
    /// Whether the largest byte comes first.
    big: bool,
    /// Whether the first index runs fastest.
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    /// The longest header that numpy reads without being asked to is 10,000 bytes.
    const LONGEST: usize = 1 << 16;

    fn read(source: &mut impl Read) -> std::result::Result<Self, String> {
        let ends = |_| "it ends within its header".to_owned();
        let mut start = [0; 10];
        source.read_exact(&mut start).map_err(ends)?;
        let [magic @ .., version, _, a, b] = start;
        if magic != *b"\x93NUMPY" {
            return Err("it does not begin as npy files do".into());
        }
        let length = match version {
            1 => u16::from_le_bytes([a, b]).into(),
            _ => {
                let mut more = [0; 2];
                source.read_exact(&mut more).map_err(ends)?;
                u32::from_le_bytes([a, b, more[0], more[1]]) as usize
            }
        };
        if length > Self::LONGEST {
            return Err(format!("its header would have {length} bytes"));
        }
        let mut text = vec![0; length];
        source.read_exact(&mut text).map_err(ends)?;
        let text = String::from_utf8_lossy(&text);
        Self::parse(&text).ok_or_else(|| format!("its header is not understood: {}", short(&text)))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| Some(text.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start());
        let descr = value("'descr'")?;
        // Records are described by a list, which no code is.
        let code = descr.strip_prefix('\'').and_then(|rest| Some(rest.split_once('\'')?.0)).unwrap_or(descr);
        let shape = value("'shape'")?.strip_prefix('(')?.split_once(')')?.0;
        let shape = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
        Some(Self {
            code: code.trim_start_matches(['<', '>', '|', '=']).to_owned(),
            big: code.starts_with('>'),
            fortran: value("'fortran_order'")?.starts_with("True"),
            shape: shape.map(|size| size.parse().ok()).collect::<Option<_>>()?,
        })
    }

    /// How many numbers there are and how many bytes they take, if a source of `size` bytes can have them.
    fn fits(&self, size: u64) -> std::result::Result<(usize, usize), String> {
        let width: usize = self.code.get(1..).and_then(|width| width.parse().ok()).unwrap_or(1);
        let count = self.shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n));
        let both = count.and_then(|count| Some((count, count.checked_mul(width)?)));
        match both.filter(|&(_, bytes)| bytes as u64 <= size) {
            Some((0, _)) => Err(format!("it is empty, with the shape {:?}", self.shape)),
            Some(both) => Ok(both),
            None => {
                Err(format!("it ends before its numbers do: the shape {:?} needs more than {size} bytes", self.shape))
            }
        }
    }
}

/// The array of a npy file of `size` bytes.
fn npy(mut source: impl Read, size: u64, at: &str) -> Result<Array> {
    let broken = |e: String| Error::of(Kind::File, format!("{at} cannot be read as npy: {e}"));
    let header = Header::read(&mut source).map_err(broken)?;
    let (count, size) = header.fits(size).map_err(broken)?;
    // As they are stored, and as double precision.
    memory::ensure_fits(at, size as u128 + 8 * count as u128)?;
    let mut bytes = Vec::new();
    source.take(size as u64).read_to_end(&mut bytes).map_err(|e| broken(e.to_string()))?;
    ensure!(Kind::File, bytes.len() == size, "{at} cannot be read as npy: it ends before its numbers do");
    let Header { code, big, fortran, shape } = header;
    macro_rules! read {
        ($t:ty) => {{
            let chunks = bytes.as_chunks().0.iter();
            let values =
                chunks.map(|&it| if big { <$t>::from_be_bytes(it) } else { <$t>::from_le_bytes(it) }).collect();
            if fortran { row_major(values, &shape) } else { values }
        }};
        ($t:ty as f64) => {
            Numbers::Whole(read!($t).into_iter().map(|value| value as f64).collect())
        };
    }
    let numbers = match code.as_str() {
        "f4" => Numbers::F32(read!(f32)),
        "f8" => Numbers::F64(read!(f64)),
        "u1" => Numbers::U8(read!(u8)),
        "u2" => Numbers::U16(read!(u16)),
        "u4" => read!(u32 as f64),
        "u8" => read!(u64 as f64),
        "i1" => read!(i8 as f64),
        "i2" => read!(i16 as f64),
        "i4" => read!(i32 as f64),
        "i8" => read!(i64 as f64),
        "b1" => read!(u8 as f64),
        other => {
            let sentence = format!("{at} holds `{}`: store it as f32, f64 or integers", short(other));
            return Err(Error::of(Kind::File, sentence));
        }
    };
    Ok(Array { shape, numbers })
}

/// Values whose first index runs fastest, with the last one running fastest.
fn row_major<T: Copy>(values: Vec<T>, shape: &[usize]) -> Vec<T> {
    let place = |mut k: usize| {
        // The indices of the k-th value, the last first, on their way to its place in the other order.
        let (mut at, mut step) = (0, values.len());
        for &n in shape.iter().rev() {
            step /= n;
            at += k % n * step;
            k /= n;
        }
        at
    };
    (0..values.len()).map(|k| values[place(k)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fortran_order_is_turned() {
        // [2, 3, 2] of 100 i + 10 j + k, the first index fastest.
        let value = |i, j, k| 100 * i + 10 * j + k;
        let fortran: Vec<i32> =
            (0..2).flat_map(|k| (0..3).flat_map(move |j| (0..2).map(move |i| value(i, j, k)))).collect();
        let c: Vec<i32> = (0..2).flat_map(|i| (0..3).flat_map(move |j| (0..2).map(move |k| value(i, j, k)))).collect();
        assert_eq!(row_major(fortran, &[2, 3, 2]), c);
    }
}
