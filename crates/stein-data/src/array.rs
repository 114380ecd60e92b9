//! Arrays of numpy: `.npy` and `.npz` files, for the tables, series and images stored in them.

use crate::{
    positioned::Positioned,
    samples::{Depth, Samples},
};
use npyz::{Endianness, NpyFile, NpyHeader, Order, TypeChar};
use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::Path,
};
use stein_base::{Error, Kind, Result, ensure, names};

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
        let mut from = BufReader::new(File::open(path).ok()?);
        let header = NpyHeader::from_reader(&mut from).ok()?;
        let npyz::DType::Plain(kind) = header.dtype() else { return None };
        let depth = match (kind.type_char(), kind.size_field()) {
            (TypeChar::Uint, 1) => Depth::U8,
            (TypeChar::Uint, 2) => Depth::U16,
            (TypeChar::Float, 4) => Depth::F32,
            _ => return None,
        };
        let shape: Vec<usize> = header.shape().iter().map(|&n| n as usize).collect();
        let start = from.stream_position().ok()?;
        let bytes = shape.iter().try_fold(depth.bytes(), |bytes, &n| bytes.checked_mul(n))?;
        let whole = from.get_ref().metadata().ok()?.len() >= start.checked_add(bytes as u64)?;
        let usable = whole && header.order() == Order::C && kind.endianness() != Endianness::Big;
        usable.then(|| Self { shape, depth, file: Positioned::new(from.into_inner()), start })
    }

    /// The numbers of the first index `i`.
    pub fn read(&self, i: usize) -> io::Result<Samples> {
        let size = self.shape[1..].iter().product::<usize>() * self.depth.bytes();
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, self.start + i as u64 * size as u64)?;
        Ok(Samples::from_bytes(self.depth, bytes))
    }
}

/// Whether a file's name ends as that of numpy's arrays.
pub(crate) fn is_array(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npy") || ending.eq_ignore_ascii_case("npz"))
}

/// The array of a `.npy` file, or of a `.npz` file the array called `array` (by default `x`, or the only one beside the
/// labels) and the labels in the one called `label` (by default `y` or `labels` where there is one), as text, one for
/// each first index. In a `.npy` file `label` means nothing.
pub(crate) fn read(path: &Path, array: Option<&str>, label: Option<&str>) -> Result<(Array, Option<Vec<String>>)> {
    let at = path.display();
    let broken = |e: &dyn std::fmt::Display| Error::of(Kind::File, format!("{at} cannot be read as npz: {e}"));
    let file = File::open(path).map_err(|e| Error::of(Kind::File, format!("{at} cannot be read: {e}")))?;
    let file = BufReader::new(file);
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz")) {
        return Ok((npy(file, &at.to_string())?, None));
    }
    let mut archive = zip::ZipArchive::new(file).map_err(|e| broken(&e))?;
    let files: zip::result::ZipResult<Vec<String>> = archive.file_names().map(|name| Ok(name?.into_owned())).collect();
    let files = files.map_err(|e| broken(&e))?;
    let known: Vec<&str> = files.iter().filter_map(|file| npyz::npz::array_name_from_file_name(file)).collect();
    let label = label.or_else(|| ["y", "labels"].into_iter().find(|name| known.contains(name)));
    let others: Vec<&str> = known.iter().copied().filter(|&name| Some(name) != label).collect();
    let array = match (array, &others[..]) {
        (Some(array), _) => array,
        (None, [only]) => only,
        (None, _) if known.contains(&"x") => "x",
        _ => return Err(Error::new(format!("{at} holds the arrays {}: name one by `array`", known.join(", ")))),
    };
    let mut read = |name: &str| {
        let Ok(file) = archive.by_name(&npyz::npz::file_name_from_array_name(name)) else {
            let known = names::nearest_first(name, &known);
            return Err(Error::new(format!("{at} has no array `{name}` that can be read: choose from {known}")));
        };
        npy(file, &format!("{at} (array `{name}`)"))
    };
    let labels = match label {
        Some(name) => {
            let labels = read(name)?;
            ensure!(
                Kind::File,
                labels.shape.len() == 1,
                "{at} has labels of the shape {:?}: store one a sample, [N]",
                labels.shape
            );
            Some(labels.numbers.into_f64().iter().map(f64::to_string).collect::<Vec<_>>())
        }
        None => None,
    };
    let array = read(array)?;
    if let Some(labels) = &labels {
        let (given, rows) = (labels.len(), array.shape.first().copied().unwrap_or_default());
        ensure!(Kind::File, given == rows, "{at} has {given} labels for {rows} rows: give each row one label");
    }
    Ok((array, labels))
}

fn npy(source: impl Read, at: &str) -> Result<Array> {
    let broken = |e: io::Error| Error::of(Kind::File, format!("{at} cannot be read as npy: {e}"));
    let file = NpyFile::new(source).map_err(broken)?;
    let shape: Vec<usize> = file.shape().iter().map(|&n| n as usize).collect();
    let fortran = file.order() == Order::Fortran;
    let dtype = file.dtype();
    let kind = match &dtype {
        npyz::DType::Plain(kind) => Some((kind.type_char(), kind.size_field())),
        _ => None,
    };
    macro_rules! read {
        ($t:ty) => {{
            let values = file.into_vec::<$t>().map_err(broken)?;
            if fortran { row_major(&values, &shape) } else { values }
        }};
        ($t:ty as f64) => {
            Numbers::Whole(read!($t).into_iter().map(|value| value as f64).collect())
        };
    }
    let numbers = match kind {
        Some((TypeChar::Float, 4)) => Numbers::F32(read!(f32)),
        Some((TypeChar::Float, 8)) => Numbers::F64(read!(f64)),
        Some((TypeChar::Uint, 1)) => Numbers::U8(read!(u8)),
        Some((TypeChar::Uint, 2)) => Numbers::U16(read!(u16)),
        Some((TypeChar::Uint, 4)) => read!(u32 as f64),
        Some((TypeChar::Uint, 8)) => read!(u64 as f64),
        Some((TypeChar::Int, 1)) => read!(i8 as f64),
        Some((TypeChar::Int, 2)) => read!(i16 as f64),
        Some((TypeChar::Int, 4)) => read!(i32 as f64),
        Some((TypeChar::Int, 8)) => read!(i64 as f64),
        _ => {
            let dtype = dtype.descr();
            return Err(Error::of(Kind::File, format!("{at} holds {dtype}: store it as f32, f64 or integers")));
        }
    };
    Ok(Array { shape, numbers })
}

/// Values whose first index runs fastest, with the last one running fastest.
fn row_major<T: Copy>(values: &[T], shape: &[usize]) -> Vec<T> {
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
        assert_eq!(row_major(&fortran, &[2, 3, 2]), c);
        assert!(row_major::<u8>(&[], &[0, 3]).is_empty());
    }
}
