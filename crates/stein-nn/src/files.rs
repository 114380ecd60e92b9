//! Files of tensors: safetensors (<https://huggingface.co/docs/safetensors>).

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use burn::tensor::{DType, TensorData};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde::Serialize;
use stein::{Error, Kind, Result, ensure, names::short};
use stein_base::files::write_atomically;

use crate::state::Tensors;

/// An error of a file.
pub(crate) fn fault(sentence: impl Display) -> Error {
    Error::of(Kind::File, sentence.to_string())
}

/// The types of numbers safetensors and the engine both have.
const KINDS: [(Dtype, DType); 12] = [
    (Dtype::F64, DType::F64),
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::I16, DType::I16),
    (Dtype::I8, DType::I8),
    (Dtype::U64, DType::U64),
    (Dtype::U32, DType::U32),
    (Dtype::U16, DType::U16),
    (Dtype::U8, DType::U8),
];

/// What a file is read from.
trait Place: Read + Seek {}

impl<P: Read + Seek> Place for P {}

/// A safetensors file of which nothing but the header has been read.
pub(crate) struct Opened {
    file: Box<dyn Place>,
    /// Where the tensors begin.
    start: u64,
    header: Metadata,
}

impl Opened {
    /// Fails unless the file is whole and a safetensors file.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let open = || {
            let file = File::open(path).map_err(fault)?;
            let length = file.metadata().map_err(fault)?.len();
            Self::open(Box::new(file), length)
        };
        open().map_err(|error: Error| error.at(path.display()))
    }

    /// One that is in memory as a whole.
    pub(crate) fn of_bytes(bytes: &'static [u8]) -> Result<Self> {
        Self::open(Box::new(io::Cursor::new(bytes)), bytes.len() as u64)
    }

    fn open(mut file: Box<dyn Place>, length: u64) -> Result<Self> {
        let mut size = [0; 8];
        let mut header = Vec::new();
        let mut read = || {
            file.read_exact(&mut size)?;
            let size = u64::from_le_bytes(size);
            if size > length {
                return Err(io::Error::other("its header is longer than the file"));
            }
            header.resize(size as usize, 0);
            file.read_exact(&mut header)?;
            Ok(8 + size)
        };
        let start = read().map_err(unreadable)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(unreadable)?;
        ensure!(
            Kind::File,
            start + header.data_len() as u64 == length,
            "it is cut short, damaged or not a safetensors file (its header is not of a file of {length} bytes)"
        );
        // The crate has compared sizes with bytes; a shape of no values has no bytes to be compared with.
        for (name, info) in header.tensors() {
            let extent = info.shape.iter().try_fold(1usize, |extent, size| extent.checked_mul(*size.max(&1)));
            ensure!(
                Kind::File,
                extent.is_some_and(|extent| extent as u64 <= length),
                "{} is of shape {:?}, and the file has {length} bytes: it is damaged",
                short(&name),
                info.shape
            );
        }
        Ok(Self { file, start, header })
    }

    /// The strings of the file.
    pub(crate) fn metadata(&self) -> BTreeMap<String, String> {
        self.header.metadata().clone().unwrap_or_default().into_iter().collect()
    }

    /// The names of the tensors, in the order they lie in the file.
    pub(crate) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Reads a tensor.
    ///
    /// # Panics
    /// If there is none of this name.
    pub(crate) fn read(&mut self, name: &str) -> Result<TensorData> {
        let info = self.header.info(name).expect("only names of the file are asked for");
        let kind = KINDS.iter().find(|(theirs, _)| *theirs == info.dtype);
        let (_, kind) =
            kind.ok_or_else(|| fault(format!("{name} is of type {:?}, which is no weight's", info.dtype)))?;
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        self.file.seek(SeekFrom::Start(self.start + from as u64)).map_err(unreadable)?;
        self.file.read_exact(&mut bytes).map_err(unreadable)?;
        Ok(TensorData::from_bytes_vec(bytes, info.shape.clone(), *kind))
    }
}

fn unreadable(error: impl Display) -> Error {
    fault(format!("it is cut short, damaged or not a safetensors file ({error})"))
}

/// Writes tensors and strings to a safetensors file. Equal ones make equal files: unlike that of the safetensors crate, the header
/// is in the order of names.
pub(crate) fn write(path: &Path, tensors: &[(String, &TensorData)], metadata: &BTreeMap<String, String>) -> Result<()> {
    let parts = prepared(tensors).and_then(|mut tensors| {
        // The widest numbers first, so that all are aligned.
        tensors.sort_by(|(a, a_kind, _), (b, b_kind, _)| b_kind.cmp(a_kind).then(a.cmp(b)));
        Ok((header(&tensors, metadata)?, tensors))
    });
    let (header, tensors) = parts.map_err(|error| error.at(path.display()))?;
    write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        tensors.iter().try_for_each(|(_, _, data)| file.write_all(data.as_bytes()))
    })
}

type Prepared<'a> = (&'a str, Dtype, &'a TensorData);

fn prepared<'a>(tensors: &'a [(String, &TensorData)]) -> Result<Vec<Prepared<'a>>> {
    let one = |(name, data): &'a (String, &TensorData)| {
        let kind = KINDS.iter().find(|(_, ours)| *ours == data.dtype());
        let (kind, _) =
            kind.ok_or_else(|| Error::new(format!("{name} is of type {:?}, which cannot be saved", data.dtype())))?;
        Ok((name.as_str(), *kind, *data))
    };
    tensors.iter().map(one).collect()
}

fn header(tensors: &[Prepared], metadata: &BTreeMap<String, String>) -> Result<String> {
    fn json(value: &impl Serialize) -> Result<String> {
        serde_json::to_string(value).map_err(fault)
    }
    let mut header = format!("{{\"__metadata__\":{}", json(metadata)?);
    let mut end = 0;
    for (name, dtype, data) in tensors {
        let start = end;
        end += data.as_bytes().len();
        let info = TensorInfo { dtype: *dtype, shape: data.shape().to_vec(), data_offsets: (start, end) };
        header += &format!(",{}:{}", json(name)?, json(&info)?);
    }
    header.push('}');
    // Numbers begin at a multiple of eight bytes.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    Ok(header)
}

/// The tensors of a safetensors file.
///
/// # Errors
/// When it cannot be read, is no such file, or has a type of numbers no weights have.
pub fn read_tensors(path: &Path) -> Result<Tensors> {
    let mut file = Opened::new(path)?;
    let names = file.names();
    let pair = |name: String| file.read(&name).map(|data| (name, data));
    names.into_iter().map(pair).collect::<Result<_>>().map_err(|error| error.at(path.display()))
}

/// The strings of a safetensors file; nothing else of it is read.
///
/// # Errors
/// When it cannot be read or is no such file.
pub fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    Ok(Opened::new(path)?.metadata())
}

/// What [`write_tensors`] leaves in the metadata: the key, and who wrote the file.
pub const WRITTEN_BY: (&str, &str) = ("written_by", "stein");

/// Writes tensors to a safetensors file that libraries of the field read.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors(tensors: &Tensors, path: &Path) -> Result<()> {
    let tensors: Vec<_> = tensors.iter().map(|(name, data)| (name.clone(), data)).collect();
    // PyTorch's libraries refuse a file that does not say it is theirs.
    let metadata = [("format", "pt"), WRITTEN_BY].map(|(key, value)| (key.to_owned(), value.to_owned()));
    write(path, &tensors, &metadata.into())
}
