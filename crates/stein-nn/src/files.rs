//! Files that are there whole or not at all, and safetensors (<https://huggingface.co/docs/safetensors>).

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::Path,
};

use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use stein::{Error, Result};

use crate::state::Tensors;

/// Writes a file through a temporary one beside it, so that the path holds the old content or the whole new one.
///
/// The directory must exist.
pub fn write_atomically(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        return Err(Error::new("the directory to write it in does not exist; create it first").at(path.display()));
    }
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let replace = || {
        let mut file = builder.tempfile_in(directory)?;
        let mut buffered = BufWriter::new(file.as_file_mut());
        write(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        file.as_file().sync_all()?;
        file.persist(path)?;
        io::Result::Ok(())
    };
    replace().map_err(|e| Error::new(format!("it cannot be written: {e}")).at(path.display()))
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

/// A tensor of a file.
pub(crate) fn data(name: &str, view: &TensorView) -> Result<TensorData> {
    let kind = KINDS.iter().find(|(theirs, _)| *theirs == view.dtype());
    let (_, kind) =
        kind.ok_or_else(|| Error::new(format!("{name} is of type {:?}, which is no weight's", view.dtype())))?;
    Ok(TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), *kind))
}

/// A tensor for a file.
pub(crate) fn view<'a>(name: &str, data: &'a TensorData) -> Result<TensorView<'a>> {
    let kind = KINDS.iter().find(|(_, ours)| *ours == data.dtype());
    let (kind, _) =
        kind.ok_or_else(|| Error::new(format!("{name} is of type {:?}, which cannot be saved", data.dtype())))?;
    TensorView::new(*kind, data.shape().to_vec(), data.as_bytes()).map_err(|error| Error::new(error.to_string()))
}

/// The tensors of a safetensors file.
///
/// # Errors
/// When it cannot be read, is no such file, or has a type of numbers no weights have.
pub fn read_tensors(path: &Path) -> Result<Tensors> {
    let bytes = fs::read(path).map_err(|error| Error::new(format!("cannot read {}: {error}", path.display())))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        Error::new(format!("{} is cut short, damaged or no safetensors file ({error})", path.display()))
    })?;
    let pair = |(name, view): (&str, TensorView)| Ok((name.to_owned(), data(name, &view)?));
    file.iter().map(pair).collect::<Result<_>>().map_err(|error: Error| error.at(path.display()))
}

/// Writes tensors to a safetensors file that libraries of the field read.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors(tensors: &Tensors, path: &Path) -> Result<()> {
    let views = tensors.iter().map(|(name, data)| Ok((name, view(name, data)?))).collect::<Result<Vec<_>>>()?;
    // PyTorch's libraries refuse a file that does not say it is theirs.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| Error::new(error.to_string()))?;
    write_atomically(path, |file| file.write_all(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();
        let broken = write_atomically(&path, |file| {
            file.write_all(b"new")?;
            Err(io::Error::other("full"))
        });
        assert!(broken.unwrap_err().to_string().ends_with("full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
